"""Every shortcut is held to the computation it takes the place of."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from mingpt import fast
from mingpt.model import GPT
from mingpt.pristine import pristine
from tests.mingpt.helpers import small_model, tokens


def looked_at(model):
    """The same model with a hook that does nothing: it takes the plain path."""
    model.transformer.drop.register_forward_hook(lambda *_: None)
    assert not pristine(model)
    return model


def pair(**settings):
    return small_model(scale=4, **settings), looked_at(small_model(scale=4, **settings))


def assert_close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_logits_loss_and_gradients_are_the_plain_paths(dropout):
    rates = dict.fromkeys(("embd_pdrop", "resid_pdrop", "attn_pdrop"), dropout)
    idx, targets, results = tokens(3, 16), tokens(3, 16, seed=1), []
    for model in pair(**rates):
        torch.manual_seed(0)
        logits, loss = model.train()(idx, targets)
        loss.backward()
        results.append((logits, loss, [p.grad for p in model.parameters()]))
    (logits, loss, gradients), (expected_logits, expected_loss, expected_gradients) = results
    assert_close(logits, expected_logits)
    assert_close(loss, expected_loss)
    for found, expected in zip(gradients, expected_gradients, strict=True):
        assert_close(found, expected)


def test_the_form_for_other_devices_has_the_same_gradients(monkeypatch):
    model, idx = small_model(scale=4), tokens(3, 16)
    parameters = list(model.parameters())
    expected = torch.autograd.grad(model(idx, idx)[1], parameters)
    monkeypatch.setattr(fast, "HAS_BACKWARD", set())
    for found, wanted in zip(
        torch.autograd.grad(model(idx, idx)[1], parameters), expected, strict=True
    ):
        assert_close(found, wanted)


@pytest.mark.parametrize("options", [{"loss_only": True}, {}])
def test_second_derivatives_are_the_plain_paths(options):
    idx, results = tokens(2, 8), []
    for model in pair():
        _, loss = model(idx, idx, **options)
        weights = list(model.parameters())
        first = torch.autograd.grad(loss, weights, create_graph=True)
        norm = sum(g.square().sum() for g in first)
        results.append(torch.autograd.grad(norm, weights, allow_unused=True))
    for found, expected in zip(*results, strict=True):
        if expected is not None:
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_attention_is_differentiable_twice():
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(1, 2, 5, 4, dtype=torch.double, generator=generator).requires_grad_()
        for _ in range(3)
    )
    assert gradcheck(fast.causal_attention, (q, k, v))
    assert gradgradcheck(fast.causal_attention, (q, k, v))


def test_a_graph_kept_is_gone_through_twice():
    model, idx = small_model(scale=4), tokens(2, 8)
    _, loss = model(idx, idx, loss_only=True)
    first, second = (
        torch.autograd.grad(loss, list(model.parameters()), retain_graph=True) for _ in range(2)
    )
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)


def test_a_subclass_that_calls_its_parent_agrees():
    class Own(GPT):
        def forward(self, idx, targets=None):
            return super().forward(idx, targets)

    model, idx = small_model(scale=4), tokens(2, 16)
    expected = model(idx, idx)
    model.__class__ = Own
    for found, wanted in zip(model(idx, idx), expected, strict=True):
        assert_close(found, wanted)


def test_hidden_states_and_last_logits_are_the_plain_paths():
    idx = tokens(2, 16)
    model, plain = pair()
    assert_close(model.hidden_states(idx), plain.hidden_states(idx))
    assert_close(model.lm_head(model.hidden_states(idx)), plain(idx)[0])
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            assert_close(fast.last_logits(model, idx), plain(idx)[0][:, -1:])
            assert_close(fast.last_logits(plain, idx), plain(idx)[0][:, -1:])


def test_a_continuation_gives_the_logits_of_the_window_at_every_length():
    model, plain = pair()
    idx, continuation = tokens(2, 3), fast.Continuation(model)
    for step in range(20):  # beyond the block of 16
        expected = plain(idx[:, -16:])[0][:, -1].detach()
        assert_close(continuation.logits(idx), expected)
        idx = torch.cat([idx, tokens(2, 1, seed=step)], dim=1)


def test_generation_with_dropout_draws_for_the_whole_window():
    tokens_of = []
    for model in pair(embd_pdrop=0.3):
        torch.manual_seed(0)
        tokens_of.append(model.train().generate(tokens(2, 3), 20))
    assert torch.equal(*tokens_of)


def test_what_is_changed_while_generating_counts_from_the_next_token_on():
    model, prompt = small_model(scale=4), tokens(1, 3)
    expected = model.generate(prompt, 3)

    def hook_late(column):
        if not model.lm_head._forward_hooks:
            model.lm_head.register_forward_hook(lambda m, x, out: torch.zeros_like(out))

    out = model.generate(prompt, 3, on_token=hook_late)
    assert out[0, 3] == expected[0, 3]
    assert out[0, 4:].tolist() == [0, 0]
