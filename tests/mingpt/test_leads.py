"""mingpt/leads.py: a head's losses and leads without a table of logits for each step of the way."""

import pytest
import torch
from torch.nn import functional as F

from mingpt import leads
from mingpt.inversion import invert
from tests.mingpt.helpers import small_model, tokens


def drawn(rows, dtype=torch.float32, scale=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    hidden = scale * torch.randn(rows, 12, generator=generator, dtype=dtype)
    weight = torch.randn(1100, 12, generator=generator, dtype=dtype)  # several blocks
    return hidden, weight, torch.randint(1100, (rows,), generator=generator)


@pytest.mark.parametrize("rows", [1, 7, 8, 19])
@pytest.mark.parametrize("scale", [0.1, 3.0, 60.0])  # the last one's losses pass float32's smallest
def test_leads_of_hidden_states_are_those_of_their_logits(rows, scale):
    hidden, weight, targets = drawn(rows, scale=scale)
    hidden.requires_grad_()
    logits = hidden @ weight.T
    expected = leads.of_logits(logits, targets)
    found = leads.of_hidden(hidden, weight.requires_grad_(), targets)
    torch.testing.assert_close(found.nats, expected.nats, rtol=1e-5, atol=1e-5 * scale)
    torch.testing.assert_close(found.margins, expected.margins, rtol=1e-5, atol=1e-5 * scale)
    assert torch.equal(found.said, expected.said)
    assert not found.margins.requires_grad
    share = torch.linspace(0, 1, rows)
    (gradient,) = torch.autograd.grad((found.nats * share).sum(), hidden)
    (usual,) = torch.autograd.grad((expected.nats * share).sum(), hidden)
    torch.testing.assert_close(gradient, usual, rtol=1e-4, atol=1e-5)


def test_leads_of_logits_by_hand():
    logits = torch.tensor([[1.0, 3.0, 2.5], [4.0, 0.0, 4.0]])
    found = leads.of_logits(logits, torch.tensor([1, 2]))
    assert found.margins.tolist() == [0.5, 0.0]
    assert found.said.tolist() == [1, 0]
    of_targets = F.log_softmax(logits, dim=1)[[0, 1], [1, 2]]
    torch.testing.assert_close(found.nats, -of_targets)
    assert leads.of_logits(logits, torch.tensor([1, 2]), say=False).said is None


def test_the_gradient_is_that_of_finite_differences():
    hidden, weight, targets = drawn(9, torch.float64)
    assert torch.autograd.gradcheck(
        lambda h: leads.of_hidden(h, weight, targets).nats, hidden.requires_grad_()
    )


def test_a_model_that_somebody_looks_into_is_inverted_by_its_logits():
    model, target = small_model(scale=6), tokens(5, seed=3)
    alone = invert(model, target, margin=0.5)
    seen = []
    with model.lm_head.register_forward_hook(lambda *found: seen.append(found[2].shape)):
        watched = invert(model, target, margin=0.5)
    assert seen == [(1, 5, 97)] * (watched.steps + 1)
    assert watched.steps == alone.steps
    assert watched.losses == pytest.approx(alone.losses, rel=1e-4, abs=1e-5)
    assert all(torch.equal(a[1], b[1]) for a, b in zip(watched.history, alone.history, strict=True))
