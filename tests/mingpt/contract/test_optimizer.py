"""configure_optimizers: two groups in minGPT's order."""

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from mingpt.trainer import Trainer
from tests.mingpt.contract import plain


def train_config(**changes):
    """The three settings that minGPT's method reads."""
    return SimpleNamespace(
        **{"learning_rate": 1e-2, "betas": (0.8, 0.9), "weight_decay": 0.3, **changes}
    )


def names(model, group):
    of = {id(p): name for name, p in model.named_parameters()}
    return [of[id(p)] for p in group["params"]]


def test_there_are_two_groups_sorted_by_name(model, config):
    """Weights of linear layers decay; embeddings, norms and biases do not."""
    decay, no_decay = model.configure_optimizers(train_config()).param_groups
    assert names(model, decay) == plain.decayed_names(config)
    assert names(model, no_decay) == plain.undecayed_names(config)
    assert (decay["weight_decay"], no_decay["weight_decay"]) == (0.3, 0.0)


def test_it_is_adamw_with_the_settings_given(model):
    """torch.optim.AdamW with learning_rate and betas in both groups."""
    optimizer = model.configure_optimizers(train_config())
    assert isinstance(optimizer, torch.optim.AdamW)
    for group in optimizer.param_groups:
        assert (group["lr"], tuple(group["betas"])) == (1e-2, (0.8, 0.9))


def test_the_trainers_default_settings_give_two_groups(model):
    """Where our own setting for embeddings is not used."""
    optimizer = model.configure_optimizers(Trainer.get_default_config())
    assert len(optimizer.param_groups) == 2


def test_embeddings_that_decay_are_a_group_of_their_own(model):
    """Ours alone: embedding_weight_decay above 0."""
    optimizer = model.configure_optimizers(train_config(embedding_weight_decay=0.2))
    decays = {
        name: group["weight_decay"]
        for group in optimizer.param_groups for name in names(model, group)
    }
    assert decays["transformer.wte.weight"] == decays["transformer.wpe.weight"] == 0.2
    assert decays["lm_head.weight"] == 0.3
    assert decays["transformer.ln_f.weight"] == 0.0


def test_a_schedule_with_a_function_a_group(model):
    """LambdaLR takes one function a group: two."""
    optimizer = model.configure_optimizers(train_config())
    schedule = LambdaLR(optimizer, [lambda step: 0.5**step, lambda step: 1.0])
    optimizer.step()
    schedule.step()
    assert [group["lr"] for group in optimizer.param_groups] == [5e-3, 1e-2]


def test_steps_are_mingpts(model, config, state, idx, targets):
    """Weights after three steps, from the plain computation and torch's own AdamW."""
    leaves = plain.trainable(state)
    theirs = plain.optimizer(leaves, config, 1e-2, (0.8, 0.9), 0.3)
    ours = model.configure_optimizers(train_config())
    for _ in range(3):
        theirs.zero_grad()
        plain.loss(leaves, idx, targets).backward()
        theirs.step()
        ours.zero_grad()
        model(idx, targets)[1].backward()
        ours.step()
    for name, parameter in model.named_parameters():
        found, expected = parameter.detach(), leaves[name].detach()
        if name.endswith("c_attn.bias"):  # a key's bias has no effect: Adam steps on rounding
            found, expected = (torch.stack(t.chunk(3))[[0, 2]] for t in (found, expected))
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_a_state_of_mingpts_optimiser_loads(model, config, state, idx, targets):
    """Moments are numbered by group and place: they reach the parameters they belong to."""
    leaves = plain.trainable(state)
    theirs = plain.optimizer(leaves, config, 1e-2, (0.8, 0.9), 0.3)
    plain.loss(leaves, idx, targets).backward()
    theirs.step()
    ours = model.configure_optimizers(train_config())
    ours.load_state_dict(copy.deepcopy(theirs.state_dict()))
    for name, parameter in model.named_parameters():
        expected = theirs.state[leaves[name]]["exp_avg"]
        assert torch.equal(ours.state[parameter]["exp_avg"], expected), name


def test_frozen_parameters_are_in_the_groups_too(model, config):
    """minGPT sorts by name, not by what requires gradients: unfreezing later trains them."""
    model.transformer.requires_grad_(False)
    decay, no_decay = model.configure_optimizers(train_config()).param_groups
    assert len(decay["params"]) + len(no_decay["params"]) == len(list(model.parameters()))


@pytest.mark.parametrize("towards", ["head", "embedding"])
def test_weights_tied_by_hand_are_stepped_once(model, towards):
    """minGPT stops with a KeyError here; ours holds the shared tensor once, undecayed."""
    if towards == "head":
        model.lm_head.weight = model.transformer.wte.weight
    else:
        model.transformer.wte.weight = model.lm_head.weight
    decay, no_decay = model.configure_optimizers(train_config()).param_groups
    shared = model.lm_head.weight
    assert [sum(p is shared for p in group["params"]) for group in (decay, no_decay)] == [0, 1]


def test_layers_added_by_a_user_are_sorted_by_kind(model):
    """Weights of every nn.Linear decay, all biases and norms do not."""
    model.value = nn.Linear(plain.WIDTH, 1)
    model.norm = nn.LayerNorm(plain.WIDTH)
    decay, no_decay = model.configure_optimizers(train_config()).param_groups
    assert "value.weight" in names(model, decay)
    assert {"value.bias", "norm.weight", "norm.bias"} <= set(names(model, no_decay))


def test_parameters_of_no_known_kind_do_not_decay(model):
    """minGPT stops with an assertion; ours trains them without decay."""
    model.scale = nn.Parameter(torch.ones(3))
    _, no_decay = model.configure_optimizers(train_config()).param_groups
    assert "scale" in names(model, no_decay)


def test_rates_may_be_tensors_and_betas_a_list(model, idx, targets):
    """A 0-d tensor as rate, two numbers in any sequence."""
    config = train_config(learning_rate=torch.tensor(1e-2), betas=[0.8, 0.9])
    optimizer = model.configure_optimizers(config)
    before = model.lm_head.weight.detach().clone()
    model(idx, targets)[1].backward()
    optimizer.step()
    assert (model.lm_head.weight - before).abs().max().item() == pytest.approx(1e-2, rel=0.3)


def test_a_step_by_a_gradient_scaler_is_possible(model, idx, targets):
    """torch.amp.GradScaler, disabled on the CPU: the usual lines of a loop of one's own."""
    optimizer = model.configure_optimizers(train_config())
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    before = model.lm_head.weight.detach().clone()
    scaler.scale(model(idx, targets)[1]).backward()
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    scaler.update()
    assert not torch.equal(model.lm_head.weight, before)
