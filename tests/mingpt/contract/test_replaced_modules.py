"""Modules wrapped, replaced, resized, removed or shared: the model computes with what is there."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import mingpt.model
from mingpt.model import GPT
from mingpt.trainer import Trainer
from tests.mingpt.contract import plain
from tests.mingpt.contract.computed import assert_computes, close, data, trained
from tests.mingpt.contract.conftest import training_config


class LoRA(nn.Module):
    """A frozen layer and a low-rank addition; nothing of nn.Linear's attributes."""

    def __init__(self, base, rank=2):
        super().__init__()
        self.base = base
        self.down = nn.Linear(base.in_features, rank, bias=False)
        self.up = nn.Linear(rank, base.out_features, bias=False)
        for parameter in base.parameters():
            parameter.requires_grad_(False)

    def forward(self, x):
        return self.base(x) + self.up(self.down(x))


@pytest.mark.parametrize("layer", ["c_attn", "c_proj"])
def test_a_wrapped_projection_of_the_attention_is_used(model, state, layer):
    """LoRA: c_attn becomes a module of another class; the sum of both matrices is what acts."""
    torch.manual_seed(0)
    adapted = dict(state)
    for number, block in enumerate(model.transformer.h):
        wrapped = LoRA(getattr(block.attn, layer))
        setattr(block.attn, layer, wrapped)
        name = f"transformer.h.{number}.attn.{layer}.weight"
        adapted[name] = state[name] + (wrapped.up.weight @ wrapped.down.weight).detach()
    assert_computes(model, adapted)


def test_training_a_wrapped_projection_moves_the_addition_alone(model):
    """minGPT's optimiser takes frozen parameters too; they have no gradient and stay."""
    model.requires_grad_(False)
    for block in model.transformer.h:
        block.attn.c_attn = LoRA(block.attn.c_attn)
    before = copy.deepcopy(model.state_dict())
    trained(model)
    for name, value in model.state_dict().items():
        moved = ".down." in name or ".up." in name
        assert torch.equal(value, before[name]) != moved, name


def test_the_perceptron_and_the_head_may_be_wrapped(model, state):
    """The same for mlp.c_fc, mlp.c_proj and lm_head."""
    torch.manual_seed(0)
    adapted = dict(state)

    def wrap(holder, layer, name):
        wrapped = LoRA(getattr(holder, layer))
        setattr(holder, layer, wrapped)
        adapted[name] = state[name] + (wrapped.up.weight @ wrapped.down.weight).detach()

    for number, block in enumerate(model.transformer.h):
        for layer in ("c_fc", "c_proj"):
            wrap(block.mlp, layer, f"transformer.h.{number}.mlp.{layer}.weight")
    wrap(model, "lm_head", "lm_head.weight")
    assert_computes(model, adapted)


class OwnAttention(nn.Module):
    """A single head over the mean of everything seen: minGPT's constructor and forward(x)."""

    def __init__(self, config):
        super().__init__()
        self.mix = nn.Linear(config.n_embd, config.n_embd)

    def forward(self, x):
        counts = torch.arange(1, x.shape[1] + 1)[:, None]
        return self.mix(x.cumsum(1) / counts)


def test_an_attention_of_ones_own_assigned_before_building_is_built_and_used(monkeypatch, idx):
    """mingpt.model.CausalSelfAttention = Own: the name is looked up when a Block is built."""
    monkeypatch.setattr(mingpt.model, "CausalSelfAttention", OwnAttention)
    torch.manual_seed(0)
    model = GPT(plain.settings()).eval()
    assert all(type(block.attn) is OwnAttention for block in model.transformer.h)
    logits = model(idx)[0]
    close(model(idx[:, :5])[0], logits[:, :5])  # causal
    out = model.generate(idx[:, :3], 6)
    for end in range(3, 9):
        assert torch.equal(out[:, end], model(out[:, :end])[0][:, -1].argmax(-1))
    before = model.transformer.h[0].attn.mix.weight.clone()
    assert len(trained(model)) == 2
    assert not torch.equal(model.transformer.h[0].attn.mix.weight, before)


def test_an_attention_of_ones_own_put_in_place_is_used(model, config, idx):
    """block.attn = Own(config) in a model that has run already."""
    before = model(idx)[0]
    for block in model.transformer.h:
        block.attn = OwnAttention(config)
    logits = model(idx)[0]
    assert not torch.allclose(logits, before, atol=1e-3)
    close(model(idx[:, :5])[0], logits[:, :5])
    assert model.generate(idx[:, :3], 6).shape == (3, 9)


def extended(model, state, extra=3):
    """The same model with a vocabulary larger by `extra`, wte and lm_head new modules."""
    wider = dict(state)
    generator = torch.Generator().manual_seed(5)
    for name in ("transformer.wte.weight", "lm_head.weight"):
        rows = torch.empty(extra, plain.WIDTH).normal_(generator=generator)
        wider[name] = torch.cat([state[name], 2 * rows])
    V = plain.VOCAB + extra
    model.transformer.wte = nn.Embedding(V, plain.WIDTH)
    model.lm_head = nn.Linear(plain.WIDTH, V, bias=False)
    with torch.no_grad():
        model.transformer.wte.weight.copy_(wider["transformer.wte.weight"])
        model.lm_head.weight.copy_(wider["lm_head.weight"])
    return wider


def test_an_extended_vocabulary_takes_and_gives_the_new_tokens(model, state):
    """New wte and lm_head: their sizes are what counts, not those of the config."""
    wider = extended(model, state)
    assert_computes(model, wider)
    idx = plain.tokens(2, plain.BLOCK, vocab_size=plain.VOCAB + 3)
    idx[0, 0] = plain.VOCAB + 2
    logits, loss = model(idx, idx)
    close(logits, plain.logits(wider, idx))
    close(loss, plain.loss(wider, idx, idx))


def test_an_extended_vocabulary_is_trained(model, state):
    """The Trainer asks for no more than what the model computes."""
    extended(model, state)
    run = Trainer(training_config(), model, data(plain.VOCAB + 3))
    run.run()
    assert run.loss.isfinite()


def test_an_embedding_of_sparse_gradients_gets_them_from_the_trainer(model, idx, targets):
    """nn.Embedding(V, C, sparse=True) in the place of wte: minGPT calls the module.

    PyTorch cannot clip such gradients, so that nothing is clipped here.
    """
    wte = nn.Embedding(plain.VOCAB, plain.WIDTH, sparse=True)
    model.transformer.wte = wte
    model(idx, targets)[1].backward()
    layouts = [wte.weight.grad.layout]
    model.configure_optimizers = lambda _: torch.optim.SGD(model.parameters(), lr=1e-2)
    Trainer(training_config(max_iters=1, grad_norm_clip=None), model, data()).run()
    layouts.append(wte.weight.grad.layout)
    assert layouts == [torch.sparse_coo] * 2


def test_a_head_with_a_bias_has_a_bias(model, state, idx, targets):
    """minGPT calls whatever stands at lm_head, in forward and in generate."""
    model.lm_head = nn.Linear(plain.WIDTH, plain.VOCAB)
    with torch.no_grad():
        model.lm_head.weight.copy_(state["lm_head.weight"])
        model.lm_head.bias.copy_(torch.linspace(-4, 4, plain.VOCAB))
    expected = plain.logits(state, idx) + torch.linspace(-4, 4, plain.VOCAB)
    logits, loss = model(idx, targets)
    close(logits, expected)
    close(loss, F.cross_entropy(expected.flatten(0, 1), targets.flatten()))
    assert torch.equal(model.generate(idx, 1)[:, -1], expected[:, -1].argmax(-1))


class Sinusoidal(nn.Module):
    """Fixed position vectors, from the positions (1, T) that minGPT gives wpe."""

    def table(self, positions):
        rates = 10 ** -torch.linspace(0, 2, plain.WIDTH // 2)
        angles = positions[..., None] * rates
        return torch.cat([angles.sin(), angles.cos()], dim=-1)

    def forward(self, positions):
        assert positions.dtype == torch.long
        return self.table(positions)


def test_position_embeddings_of_ones_own_are_called_with_positions(model, state):
    """transformer.wpe may be any module of the positions."""
    model.transformer.wpe = Sinusoidal()
    table = model.transformer.wpe.table(torch.arange(plain.BLOCK))
    assert_computes(model, {**state, "transformer.wpe.weight": table})


@pytest.mark.parametrize("part", ["transformer.drop", "transformer.ln_f", "transformer.h.0.ln_1",
                                  "transformer.h.1.attn.attn_dropout"])
def test_parts_may_be_replaced_by_the_identity(model, state, idx, part):
    """Ablations: nn.Identity in place of a norm or a dropout; generation follows the logits."""
    before = model(idx)[0]
    holder, _, name = part.rpartition(".")
    setattr(model.get_submodule(holder), name, nn.Identity())
    logits = model(idx)[0]
    assert torch.allclose(logits, before, atol=1e-5) == ("drop" in part)
    out = model.generate(idx[:, :3], 5)
    for end in range(3, 8):
        assert torch.equal(out[:, end], model(out[:, :end])[0][:, -1].argmax(-1))
    assert trained(model, iterations=1)


def test_a_dropout_of_ones_own_in_the_attention_is_called(model, state):
    """A module that is no nn.Dropout and has no rate."""

    class Halved(nn.Module):
        def forward(self, weights):
            return weights / 2

    model.transformer.h[0].attn.attn_dropout = Halved()
    name = "transformer.h.0.attn.c_attn"
    halved = {**state, f"{name}.weight": state[f"{name}.weight"].clone(),
              f"{name}.bias": state[f"{name}.bias"].clone()}
    halved[f"{name}.weight"][2 * plain.WIDTH :] /= 2  # half the weights is half the values
    halved[f"{name}.bias"][2 * plain.WIDTH :] /= 2
    assert_computes(model, halved)


def renumbered(state, order):
    """The state with the blocks `order` of it, in that order."""
    result = {name: value for name, value in state.items() if ".h." not in name}
    for new, old in enumerate(order):
        prefix = f"transformer.h.{old}."
        result |= {
            f"transformer.h.{new}.{name.removeprefix(prefix)}": value
            for name, value in state.items() if name.startswith(prefix)
        }
    return result


@pytest.mark.parametrize("order", [[0], [1, 0], [0, 1, 1], [0, 0]], ids=str)
def test_blocks_may_be_removed_reordered_and_shared(model, state, order):
    """transformer.h is a list of modules: what it holds is called in turn, twice if it is there
    twice."""
    model(plain.tokens(1, 2))
    blocks = list(model.transformer.h)
    model.transformer.h = nn.ModuleList([blocks[number] for number in order])
    assert_computes(model, renumbered(state, order))


def test_a_block_may_be_appended_in_place(model, config, state):
    """h.append(copy) on a model that has run."""
    model(plain.tokens(1, 2))
    model.transformer.h.append(copy.deepcopy(model.transformer.h[0]))
    assert_computes(model, renumbered(state, [0, 1, 0]))


def test_the_perceptron_function_goes_with_its_block(model, state, idx):
    """On purpose unlike minGPT, whose mlpf keeps the modules it was built with: they are shared by
    copies of a block, used where mlp is replaced, and cannot be pickled."""
    block = model.transformer.h[0]
    copied, pickled = copy.deepcopy(block), pickle.loads(pickle.dumps(model))
    x = torch.randn(2, 4, plain.WIDTH, generator=torch.Generator().manual_seed(0))
    expected = block.mlpf(x)
    with torch.no_grad():
        block.mlp.c_proj.weight.zero_()
        block.mlp.c_proj.bias.zero_()
    assert not block.mlpf(x).any()
    assert torch.equal(copied.mlpf(x), expected)
    assert_computes(pickled, state)
    block.mlp = copied.mlp
    assert torch.equal(block.mlpf(x), expected)
    assert_computes(model, state)
