"""The shortcuts are for models that nobody has changed: what counts as a change."""

import copy
import types

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.func import vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.modules import module as global_hooks
from torch.nn.utils import parametrize

from mingpt.model import GPT, Block, CausalSelfAttention
from mingpt.pristine import nobody_transforms, pristine
from tests.mingpt.helpers import small_model, tokens


class OwnForward(GPT):
    def forward(self, idx, targets=None):
        return super().forward(idx, targets)


class Named(GPT):
    """A subclass that changes nothing of the computation."""


def as_class(cls):
    def change(model):
        model.__class__ = cls

    return change


def set_part(path, value):
    def change(model):
        holder, _, name = path.rpartition(".")
        setattr(model.get_submodule(holder), name, value)

    return change


def own_forward(path):
    def change(model):
        module = model.get_submodule(path)
        module.forward = types.MethodType(type(module).forward, module)

    return change


def doubled(model):
    class Double(nn.Module):
        def forward(self, weight):
            return 2 * weight

    parametrize.register_parametrization(model.transformer.h[0].attn.c_attn, "weight", Double())


def test_a_model_as_built_is_pristine_and_so_is_a_subclass_that_changes_nothing():
    model = small_model()
    assert pristine(model)
    assert pristine(model.train())
    assert pristine(copy.deepcopy(model))
    assert pristine(model.to(torch.bfloat16))
    as_class(Named)(model)
    assert pristine(model)


@pytest.mark.parametrize(
    "change",
    [
        as_class(OwnForward), own_forward(""), own_forward("transformer.h.1"),
        own_forward("transformer.h.1.attn.attn_dropout"), own_forward("transformer.ln_f"),
        own_forward("lm_head"), doubled, set_part("lm_head", nn.Linear(24, 97)),
        set_part("transformer.h.1", nn.Identity()), set_part("transformer.h.1.attn", nn.Identity()),
        set_part("transformer.h.2.mlp.act", nn.GELU()), set_part("transformer.wpe", nn.Identity()),
        set_part("transformer.h.0.attn.attn_dropout", nn.Identity()),
        set_part("transformer.h.0.ln_1", nn.Linear(24, 24)),
    ],
)  # fmt: skip
def test_a_changed_part_is_noticed(change):
    model = small_model()
    assert pristine(model)
    change(model)
    assert not pristine(model)


def test_what_is_no_gpt_is_not_pristine():
    assert not pristine(nn.Identity())


@pytest.mark.parametrize("cls", [GPT, Block, CausalSelfAttention, nn.Linear, nn.Dropout])
def test_a_forward_replaced_on_a_class_is_noticed_and_so_is_its_return(cls, monkeypatch):
    model = small_model()
    original = cls.forward
    monkeypatch.setattr(cls, "forward", lambda self, *inputs: original(self, *inputs))
    assert not pristine(model)
    monkeypatch.undo()
    assert pristine(model)


@pytest.mark.parametrize(
    "kind", ["register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook",
             "register_full_backward_pre_hook"]
)  # fmt: skip
def test_a_hook_on_any_module_is_noticed_and_so_is_its_removal(kind):
    model = small_model()
    for module in model.modules():
        if isinstance(module, nn.ModuleDict | nn.ModuleList):
            continue  # never called
        handle = getattr(module, kind)(lambda *inputs: None)
        assert not pristine(model), type(module)
        handle.remove()
        assert pristine(model)


@pytest.mark.parametrize(
    "register", [global_hooks.register_module_forward_hook,
                 global_hooks.register_module_forward_pre_hook,
                 global_hooks.register_module_full_backward_hook]
)  # fmt: skip
def test_a_global_hook_is_noticed(register):
    model, handle = small_model(), register(lambda *inputs: None)
    try:
        assert not pristine(model)
    finally:
        handle.remove()
    assert pristine(model)


def test_a_mask_that_is_not_causal_is_noticed_however_it_was_written():
    for write in (
        lambda mask: mask.fill_(1), lambda mask: mask.data.fill_(1),
        lambda mask: mask.numpy().fill(1), lambda mask: mask[..., 9, 2].zero_(),
    ):  # fmt: skip
        model = small_model()
        assert pristine(model)
        write(model.transformer.h[1].attn.bias)
        assert not pristine(model)
    del model.transformer.h[1].attn.bias
    assert not pristine(model)


def test_where_looking_stalls_a_mask_is_compared_when_it_was_written_to(monkeypatch):
    """As on a GPU."""
    monkeypatch.setattr("mingpt.pristine.COMPARED_EACH_TIME", set())
    model = small_model()
    mask = model.transformer.h[1].attn.bias
    for _ in range(2):
        assert pristine(model)
        mask.fill_(1)
        assert not pristine(model)
        mask.tril_()
    assert pristine(model)
    causal = mask.data
    for other in (torch.ones_like(mask), causal[..., :8, :8].flip(-1)):
        mask.data = other
        assert not pristine(model)
    mask.data = causal
    assert pristine(model)
    model.transformer.h[1].attn.bias = torch.ones_like(mask)
    assert not pristine(model)
    with torch.inference_mode():
        model.transformer.h[1].attn.bias = mask.clone()
        assert pristine(model)
        model.transformer.h[1].attn.bias.fill_(1)
        assert not pristine(model)


def test_a_mask_is_looked_at_as_far_as_it_is_used():
    model = small_model()
    model.transformer.h[1].attn.bias[..., 9, 2] = 0
    assert pristine(model, 9)
    assert not pristine(model, 10)


def test_blocks_may_come_and_go():
    model = small_model()
    model.transformer.h.append(copy.deepcopy(model.transformer.h[0]))
    assert pristine(model)
    del model.transformer.h[1]
    assert pristine(model)


def test_whoever_transforms_is_noticed():
    assert nobody_transforms()
    seen = []

    def look(x):
        seen.append(nobody_transforms())
        return x + 1

    vmap(look)(torch.zeros(2))
    make_fx(look)(torch.zeros(2))
    torch.func.jvp(look, (torch.zeros(2),), (torch.ones(2),))
    with forward_ad.dual_level():
        look(torch.zeros(2))
    with torch.overrides.BaseTorchFunctionMode():
        look(torch.zeros(2))
    assert seen == [False] * 5


def test_a_default_device_transforms_nothing():
    with torch.device("cpu"):
        assert nobody_transforms()


def test_the_question_decides_whether_tokens_are_checked():
    """The parts of a changed model say themselves what they take."""
    model, idx = small_model(), tokens(1, 4)
    idx[0, 1] = 97
    with pytest.raises(ValueError, match="token out of range"):
        model(idx)
    model.transformer.wte.register_forward_pre_hook(lambda m, x: (x[0] % 97,))
    assert model(idx)[0].shape == (1, 4, 97)
