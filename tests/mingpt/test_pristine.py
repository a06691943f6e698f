"""Shortcuts are for models that nobody has changed: what counts as a change."""

import types

import pytest
from torch import nn

from mingpt import pristine
from mingpt.model import GPT, Block
from mingpt.pristine import has_original_forward, may_cache, may_skip_logits
from tests.mingpt.helpers import small_model


class OwnForward(GPT):
    def forward(self, idx, targets=None):
        return super().forward(idx, targets)


class Named(GPT):
    """A subclass that changes nothing of the computation."""


def test_a_model_as_built_may_take_every_shortcut():
    model = small_model()
    assert has_original_forward(model)
    assert may_cache(model)
    assert may_skip_logits(model)
    model.__class__ = Named
    assert may_cache(model)
    assert may_skip_logits(model)


def replace_instance_forward(model):
    model.forward = types.MethodType(OwnForward.forward, model)


def subclass(model):
    model.__class__ = OwnForward


@pytest.mark.parametrize("change", [replace_instance_forward, subclass])
def test_a_forward_of_ones_own_takes_none(change):
    model = small_model()
    change(model)
    assert not has_original_forward(model)
    assert not may_cache(model)
    assert not may_skip_logits(model)


def test_a_forward_replaced_in_the_class_is_noticed(monkeypatch):
    model = small_model()
    monkeypatch.setattr(Block, "forward", lambda self, x: x)
    assert not may_cache(model)
    monkeypatch.setattr(GPT, "forward", OwnForward.forward)
    assert not may_skip_logits(model)


def test_a_replaced_block_or_attention_takes_no_cache():
    model = small_model()
    model.transformer.h[1] = nn.Identity()
    assert not may_cache(model)
    model = small_model()
    model.transformer.h[1].attn = nn.Identity()
    assert not may_cache(model)
    assert not has_original_forward(nn.Identity())


def test_another_head_or_a_hook_needs_the_logits():
    model = small_model()
    model.lm_head = nn.Linear(24, 97, bias=True)
    assert not may_skip_logits(model)
    for module in ("lm_head", None):
        model = small_model()
        hooked = model if module is None else getattr(model, module)
        handle = hooked.register_forward_hook(lambda *arguments: None)
        assert not may_skip_logits(model)
        handle.remove()
        assert may_skip_logits(model)
        assert not pristine.has_hooks(hooked)
