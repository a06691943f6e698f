"""Parts subclassed, replaced, resized, patched or shared: the model computes with what is there."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrize, prune
from torch.utils.data import TensorDataset

import mingpt.model
from mingpt.model import GPT, Block, CausalSelfAttention, NewGELU
from mingpt.trainer import Trainer
from tests.mingpt.contract import plain
from tests.mingpt.contract.conftest import build, training_config


def close(found, expected, tolerance=2e-5):
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def assert_computes(model, state, n_head=plain.HEADS):
    """Logits, loss, gradients' existence and greedy tokens are those of the state."""
    idx, targets = plain.tokens(2, plain.BLOCK), plain.tokens(2, plain.BLOCK, seed=1)
    model.eval()
    logits, loss = model(idx, targets)
    close(logits, plain.logits(state, idx, n_head=n_head))
    close(loss, plain.loss(state, idx, targets, n_head=n_head))
    greedy = idx[:, :3]
    for _ in range(plain.BLOCK):
        last = plain.logits(state, greedy[:, -plain.BLOCK :], n_head=n_head)[:, -1]
        greedy = torch.cat([greedy, last.argmax(-1, keepdim=True)], dim=1)
    assert torch.equal(model.generate(idx[:, :3], plain.BLOCK), greedy)


def data(vocab_size=plain.VOCAB):
    return TensorDataset(
        plain.tokens(20, plain.BLOCK, vocab_size=vocab_size),
        plain.tokens(20, plain.BLOCK, seed=1, vocab_size=vocab_size),
    )


def trained(model, iterations=2, **settings):
    run, losses = Trainer(training_config(max_iters=iterations, **settings), model, data()), []
    run.set_callback("on_batch_end", lambda trainer: losses.append(trainer.loss.item()))
    run.run()
    return losses


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


def unmasked(self, x):
    """A forward of the attention without the causal mask, as a course's exercise writes it."""
    B, T, C = x.size()
    q, k, v = (
        part.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)
        for part in self.c_attn(x).split(self.n_embd, dim=2)
    )
    weights = F.softmax(q @ k.transpose(-2, -1) / math.sqrt(k.size(-1)), dim=-1)
    y = (self.attn_dropout(weights) @ v).transpose(1, 2).contiguous().view(B, T, C)
    return self.resid_dropout(self.c_proj(y))


def everywhere(state):
    """The state whose mask lets every position see every other."""
    return {
        name: torch.ones_like(value) if name.endswith(".attn.bias") else value
        for name, value in state.items()
    }


def test_forward_replaced_on_the_attentions_class_is_used(model, state, monkeypatch):
    """CausalSelfAttention.forward = mine, after import and after building."""
    assert_computes(model, state)
    monkeypatch.setattr(CausalSelfAttention, "forward", unmasked)
    assert_computes(model, everywhere(state))
    monkeypatch.undo()
    assert_computes(model, state)


def test_forward_replaced_on_an_attention_instance_is_used(model, state):
    """attn.forward = ..., for each attention."""
    assert_computes(model, state)
    for block in model.transformer.h:
        block.attn.forward = unmasked.__get__(block.attn)
    assert_computes(model, everywhere(state))
    for block in model.transformer.h:
        del block.attn.forward
    assert_computes(model, state)


def test_forward_replaced_on_the_class_is_used_in_training(model, monkeypatch):
    """Trainer.run too."""
    calls = []

    def counted(self, x):
        calls.append(x.shape)
        return unmasked(self, x)

    monkeypatch.setattr(CausalSelfAttention, "forward", counted)
    trained(model, iterations=3)
    assert calls == [(4, plain.BLOCK, plain.WIDTH)] * 3 * plain.LAYERS


@pytest.mark.parametrize("cls", [nn.LayerNorm, nn.Dropout, nn.Embedding, nn.Linear, NewGELU, Block])
def test_forward_replaced_on_any_class_is_used(model, idx, targets, monkeypatch, cls):
    """Also on PyTorch's own: a counter around the original forward."""
    original, seen = cls.forward, []

    def counted(self, x):
        seen.append(1)
        return original(self, x)

    expected = model(idx, targets)[1]
    count = sum(type(module) is cls for module in model.modules())
    monkeypatch.setattr(cls, "forward", counted)
    close(model(idx, targets)[1], expected)
    assert len(seen) == count
    model.generate(idx[:, :2], 3)
    assert len(seen) == 4 * count
    trained(model, iterations=1)
    assert len(seen) == 5 * count


@pytest.mark.parametrize(
    "part", ["transformer.wte", "transformer.wpe", "transformer.drop", "transformer.ln_f",
             "lm_head", "transformer.h.0", "transformer.h.0.attn.attn_dropout",
             "transformer.h.1.mlp.act", "transformer.h.1.mlp.c_fc", "transformer.h.0.ln_2"]
)  # fmt: skip
def test_forward_replaced_on_one_instance_is_used(model, idx, targets, part):
    """module.forward = ... on any module: called wherever minGPT calls the module."""
    module, calls = model.get_submodule(part), []
    original = module.forward

    def counted(x):
        calls.append(1)
        return original(x)

    module.forward = counted
    model(idx, targets)
    assert len(calls) == 1
    model.generate(idx[:, :2], 3)
    assert len(calls) == 4
    trained(model, iterations=1)
    assert len(calls) == 5


def test_the_perceptron_function_of_a_block_may_be_replaced(model, state, idx):
    """In minGPT mlpf is an attribute of the block, a function of x."""
    for block in model.transformer.h:
        block.mlpf = torch.zeros_like
    silent = {
        name: torch.zeros_like(value) if ".mlp.c_proj." in name else value
        for name, value in state.items()
    }
    assert_computes(model, silent)


def test_forward_replaced_on_the_model_is_what_is_trained_and_generated_from(model, idx):
    """model.forward = own: generate and the Trainer call the model, whatever it is."""
    original, calls = model.forward, []

    def louder(idx, targets=None):
        logits, loss = original(idx, targets)
        calls.append(tuple(idx.shape))
        return logits.roll(1, dims=-1), None if loss is None else 7 * loss

    expected = model(idx, idx)[1].item()
    model.forward = louder
    assert model(idx, idx)[1].item() == pytest.approx(7 * expected)
    greedy = model.generate(idx[:, :2], 3)
    assert calls[1:] == [(3, 2), (3, 3), (3, 4)]
    assert torch.equal(greedy[:, 2], (original(idx[:, :2])[0][:, -1].argmax(-1) + 1) % plain.VOCAB)
    assert min(trained(model)) > 7  # seven times what a few nats are


class WithPenalty(GPT):
    """A loss of one's own on the parent's logits, and nothing of the model's in it."""

    def forward(self, idx, targets=None):
        logits, loss = super().forward(idx, targets)
        if targets is not None:
            loss = self.lm_head.weight.square().sum()
        return logits, loss


def test_a_subclass_is_trained_on_the_loss_it_returns(config, idx, targets):
    """The Trainer minimises what forward gives: here the head's squares and nothing else."""
    torch.manual_seed(0)
    model = WithPenalty(config)
    before = copy.deepcopy(model.state_dict())
    losses = trained(model, weight_decay=0.0)
    assert losses[0] == pytest.approx(before["lm_head.weight"].square().sum().item(), rel=1e-5)
    assert losses[1] < losses[0]
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]) == (name != "lm_head.weight"), name


def test_logits_from_super_are_logits(config, idx, targets):
    """A subclass computes its own loss from the logits its parent returned with a loss."""

    class Smoothed(GPT):
        def forward(self, idx, targets=None):
            logits, loss = super().forward(idx, targets)
            if targets is not None:
                loss = F.cross_entropy(
                    logits.view(-1, logits.size(-1)), targets.view(-1), label_smoothing=0.1
                )
            return logits, loss

    torch.manual_seed(0)
    model = Smoothed(config)
    logits, loss = model(idx, targets)
    close(loss, F.cross_entropy(logits.flatten(0, 1), targets.flatten(), label_smoothing=0.1))
    assert trained(model, iterations=1)


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


def test_a_head_with_a_bias_has_a_bias(model, state, idx, targets):
    model.lm_head = nn.Linear(plain.WIDTH, plain.VOCAB)
    with torch.no_grad():
        model.lm_head.weight.copy_(state["lm_head.weight"])
        model.lm_head.bias.copy_(torch.linspace(-4, 4, plain.VOCAB))
    expected = plain.logits(state, idx) + torch.linspace(-4, 4, plain.VOCAB)
    logits, loss = model(idx, targets)
    close(logits, expected)
    close(loss, F.cross_entropy(expected.flatten(0, 1), targets.flatten()))
    assert torch.equal(model.generate(idx, 1)[:, -1], expected[:, -1].argmax(-1))


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


def test_a_cache_of_ones_own_through_attributes(model, state, monkeypatch):
    """KV-cache exercises: an attention with a memory, fed one token at a time by own code."""

    def remembering(self, x):
        B, T, C = x.size()
        q, k, v = (
            part.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)
            for part in self.c_attn(x).split(self.n_embd, dim=2)
        )
        if getattr(self, "past", None) is not None:
            k, v = (torch.cat([old, new], 2) for old, new in zip(self.past, (k, v), strict=True))
        self.past = (k, v)
        weights = F.softmax(q @ k.transpose(-2, -1) / math.sqrt(k.size(-1)), dim=-1)
        return self.c_proj((weights @ v).transpose(1, 2).contiguous().view(B, T, C))

    monkeypatch.setattr(CausalSelfAttention, "forward", remembering)
    idx, found = plain.tokens(2, 6), []
    for position in range(6):
        x = model.transformer.wte(idx[:, position, None])
        x = x + model.transformer.wpe(torch.tensor([[position]]))
        for block in model.transformer.h:
            x = block(x)
        found.append(model.lm_head(model.transformer.ln_f(x)))
    close(torch.cat(found, dim=1), plain.logits(state, idx))


def test_parts_of_the_model_can_be_frozen(config, state):
    """requires_grad_(False) on the trunk: only the head is trained."""
    model = build(config, state)
    model.transformer.requires_grad_(False)
    trained(model)
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]) == (name != "lm_head.weight"), name


def test_a_loss_function_replaced_in_pytorch_is_what_is_trained(model, idx, targets, monkeypatch):
    """minGPT looks F.cross_entropy up at every pass: label smoothing by a patch acts."""
    model.eval()
    logits, plainly = model(idx, targets)
    cross_entropy = F.cross_entropy
    smoothed = cross_entropy(
        logits.flatten(0, 1), targets.flatten(), ignore_index=-1, label_smoothing=0.5
    )

    def smoothing(*args, **kwargs):
        return cross_entropy(*args, **kwargs, label_smoothing=0.5)

    monkeypatch.setattr(F, "cross_entropy", smoothing)
    assert abs(smoothed - plainly) > 1e-3
    close(model(idx, targets)[1], smoothed)
    close(model(idx, targets, loss_only=True)[1], smoothed)
    same = TensorDataset(idx[:1].repeat(4, 1), targets[:1].repeat(4, 1))
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    expected = model(*(t[:1] for t in (idx, targets)))[1].detach()
    trainer = Trainer(training_config(max_iters=1), model, same)
    trainer.run()
    close(trainer.loss, expected)


def test_a_softmax_replaced_in_pytorch_sees_the_attention(model, idx, monkeypatch):
    seen, softmax = [], F.softmax

    def watching(x, *args, **kwargs):
        seen.append(softmax(x, *args, **kwargs))
        return seen[-1]

    monkeypatch.setattr(F, "softmax", watching)
    model.eval()
    model(idx)
    B, T = idx.shape
    assert [weights.shape for weights in seen] == [(B, plain.HEADS, T, T)] * len(
        model.transformer.h
    )


def test_a_call_replaced_on_all_modules_is_made_for_each(model, idx, monkeypatch):
    called, call = [], nn.Module._call_impl
    monkeypatch.setattr(
        nn.Module, "_call_impl", lambda self, *a, **k: (called.append(self), call(self, *a, **k))[1]
    )
    model.eval()
    model(idx)
    leaves = {m for m in model.modules() if not [*m.children()]}
    assert leaves <= set(called)
