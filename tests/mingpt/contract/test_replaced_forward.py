"""Methods and functions replaced or overridden: what stands there now is called, everywhere."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from mingpt.model import GPT, Block, CausalSelfAttention, NewGELU
from mingpt.trainer import Trainer
from tests.mingpt.contract import plain
from tests.mingpt.contract.computed import assert_computes, close, everywhere, trained
from tests.mingpt.contract.conftest import training_config


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
    """minGPT looks F.softmax up at every block, once a pass."""
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
    """Profilers replace nn.Module._call_impl: minGPT calls every leaf through it."""
    called, call = [], nn.Module._call_impl
    monkeypatch.setattr(
        nn.Module, "_call_impl", lambda self, *a, **k: (called.append(self), call(self, *a, **k))[1]
    )
    model.eval()
    model(idx)
    leaves = {m for m in model.modules() if not [*m.children()]}
    assert leaves <= set(called)
