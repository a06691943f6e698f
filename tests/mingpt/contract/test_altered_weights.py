"""Weights, masks and sizes changed in a built model: they are read at every pass."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune

from tests.mingpt.contract import plain
from tests.mingpt.contract.computed import assert_computes, close, everywhere, trained
from tests.mingpt.contract.conftest import build


def test_parameters_may_be_replaced_by_larger_ones(model, state):
    """wte.weight = nn.Parameter(...): the module is the same, its weight is not."""
    wider = {
        name: torch.cat([state[name], state[name][:3].flip(1)])
        for name in ("transformer.wte.weight", "lm_head.weight")
    }
    model(plain.tokens(1, 2))
    model.transformer.wte.weight = nn.Parameter(wider["transformer.wte.weight"])
    model.lm_head.weight = nn.Parameter(wider["lm_head.weight"])
    assert_computes(model, {**state, **wider})


@pytest.mark.parametrize("how", ["fill", "load", "assign"])
def test_a_mask_of_ones_is_bidirectional(model, state, how):
    """The buffer `bias` is the mask: filled, loaded from a checkpoint, or another tensor."""
    assert_computes(model, state)
    if how == "load":
        model.load_state_dict(everywhere(state))
    for block in model.transformer.h:
        if how == "fill":
            block.attn.bias.fill_(1)
        elif how == "assign":
            block.attn.bias = torch.ones_like(block.attn.bias)
    assert_computes(model, everywhere(state))


def test_the_mask_is_read_at_every_pass(model, state):
    """Changed in place after passes and generation, in one block, and changed back."""
    mask = model.transformer.h[1].attn.bias
    for _ in range(2):
        mask[..., 4:, 0] = 0  # a window
        assert_computes(model, {**state, "transformer.h.1.attn.bias": mask.clone()})
        mask[..., 4:, 0] = 1
        assert_computes(model, state)


def test_the_mask_may_be_boolean(model, state):
    """Whatever equals 0 is hidden."""
    for block in model.transformer.h:
        block.attn.bias = block.attn.bias.bool()
    assert_computes(model, state)


def test_the_number_of_heads_is_read_at_every_pass(model, state):
    """attn.n_head = 4 on a built model."""
    model(plain.tokens(1, 2))
    for block in model.transformer.h:
        block.attn.n_head = 4
    assert_computes(model, state, n_head=4)


def test_the_block_size_may_be_cut(model, state):
    """Model surgery: fewer positions, a smaller mask, a smaller block_size."""
    model.block_size = 4
    model.transformer.wpe.weight = nn.Parameter(model.transformer.wpe.weight[:4])
    for block in model.transformer.h:
        block.attn.bias = block.attn.bias[:, :, :4, :4]
    prompt = plain.tokens(2, 3)
    assert torch.equal(
        model.generate(prompt, 7), plain.generate(state, prompt, 7, block_size=4)
    )


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


@pytest.mark.parametrize("name", ["lm_head", "transformer.wte", "transformer.wpe",
                                  "transformer.h.0.attn.c_attn", "transformer.h.1.mlp.c_fc"])
def test_parametrized_weights_are_what_is_computed_with(model, state, name):
    """torch.nn.utils.parametrize: the weight is a function of the parameter. Training them takes
    an optimiser of one's own in minGPT, which asserts on their names; ours takes them."""
    model(plain.tokens(1, 2))
    parametrize.register_parametrization(model.get_submodule(name), "weight", Doubled())
    assert_computes(model, {**state, f"{name}.weight": 2 * state[f"{name}.weight"]})
    assert trained(model, iterations=1)


def test_pruned_weights_are_what_is_computed_with(model, state):
    """torch.nn.utils.prune computes the weight in a pre-hook."""
    name = "transformer.h.0.attn.c_attn"
    layer = model.get_submodule(name)
    prune.l1_unstructured(layer, "weight", amount=0.5)
    assert_computes(model, {**state, f"{name}.weight": layer.weight.detach()})


@pytest.mark.parametrize("towards", ["head", "embedding"])
def test_weights_tied_by_hand_are_one_parameter(model, state, idx, targets, towards):
    """lm_head.weight = wte.weight or the other way: one tensor, the sum of both gradients.

    (Training it takes an optimiser of one's own in minGPT.)
    """
    wte, head = model.transformer.wte, model.lm_head
    if towards == "head":
        head.weight = wte.weight
    else:
        wte.weight = head.weight
    shared = wte.weight.detach().clone()
    tied = {**state, "transformer.wte.weight": shared, "lm_head.weight": shared}
    assert_computes(model, tied)
    leaves = plain.trainable(tied)
    plain.loss(leaves, idx, targets).backward()
    model(idx, targets)[1].backward()
    both = leaves["transformer.wte.weight"].grad + leaves["lm_head.weight"].grad
    close(wte.weight.grad, both)
    trained(model)
    assert wte.weight is head.weight


def test_a_deep_copy_is_independent(model, state):
    """copy.deepcopy before and after passes: its own weights, masks and hooks."""
    model(plain.tokens(1, 2))
    other = copy.deepcopy(model)
    for block in other.transformer.h:
        block.attn.bias.fill_(1)
    with torch.no_grad():
        other.lm_head.weight.mul_(2)
    changed = everywhere(state)
    changed["lm_head.weight"] = 2 * state["lm_head.weight"]
    assert_computes(other, changed)
    assert_computes(model, state)


def test_parts_of_the_model_can_be_frozen(config, state):
    """requires_grad_(False) on the trunk: only the head is trained."""
    model = build(config, state)
    model.transformer.requires_grad_(False)
    trained(model)
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]) == (name != "lm_head.weight"), name
