import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from mingpt import loss as losses
from mingpt.loss import (
    cross_entropy,
    linear_cross_entropy,
    linear_cross_entropy_reference,
    ready_cross_entropy,
    ready_logits,
)


def problem(rows, width, classes, seed=0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(rows, width, generator=generator) * scale
    weight = torch.randn(classes, width, generator=generator)
    targets = torch.randint(classes, (rows,), generator=generator)
    return hidden.requires_grad_(), weight.requires_grad_(), targets


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 30),
    chunk_rows=st.one_of(st.none(), st.integers(1, 40)),
    ignored=st.integers(0, 29),
    seed=st.integers(0, 99),
)
def test_equals_the_reference_in_value_and_gradient(rows, chunk_rows, ignored, seed):
    hidden, weight, targets = problem(rows, 8, 50, seed)
    targets[: min(ignored, rows - 1)] = -1
    expected = linear_cross_entropy_reference(hidden, weight, targets)
    found = linear_cross_entropy(hidden, weight, targets, chunk_rows=chunk_rows)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    for a, b in zip(
        torch.autograd.grad(3 * found, (hidden, weight)),
        torch.autograd.grad(3 * expected, (hidden, weight)),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_gpt2s_vocabulary_to_float32_rounding():
    hidden, weight, targets = problem(300, 16, 50257)
    expected = linear_cross_entropy_reference(hidden.double(), weight.double(), targets)
    found = linear_cross_entropy(hidden, weight, targets)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    a = torch.autograd.grad(found, (hidden, weight))
    b = torch.autograd.grad(expected, (hidden, weight))
    for x, y in zip(a, b, strict=True):
        assert (x - y).norm() < 1e-5 * y.norm()


def test_extreme_logits_stay_finite():
    hidden, weight, targets = problem(12, 8, 50, scale=300.0)
    found = linear_cross_entropy(hidden, weight, targets)
    expected = linear_cross_entropy_reference(hidden, weight, targets)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert all(g.isfinite().all() for g in torch.autograd.grad(found, (hidden, weight)))


def test_bfloat16_products_change_the_loss_by_less_than_half_a_percent():
    hidden, weight, targets = problem(512, 64, 5000, scale=0.3)
    with torch.autocast("cpu", torch.bfloat16):
        found = linear_cross_entropy(hidden, weight, targets)
    expected = linear_cross_entropy_reference(hidden, weight, targets)
    assert found.item() == pytest.approx(expected.item(), rel=5e-3)
    for x, y in zip(
        torch.autograd.grad(found, (hidden, weight)),
        torch.autograd.grad(expected, (hidden, weight)),
        strict=True,
    ):
        assert x.dtype == torch.float32
        assert (x - y).norm() < 0.02 * y.norm()


def test_frozen_weight_gets_no_gradient_work():
    hidden, weight, targets = problem(6, 8, 50)
    loss = linear_cross_entropy(hidden, weight.detach(), targets)
    (found,) = torch.autograd.grad(loss, [hidden])
    expected = linear_cross_entropy_reference(hidden, weight, targets)
    torch.testing.assert_close(found, torch.autograd.grad(expected, [hidden])[0])


def test_all_rows_ignored_is_nan_as_in_pytorch():
    hidden, weight, targets = problem(3, 8, 50)
    assert linear_cross_entropy(hidden, weight, torch.full_like(targets, -1)).isnan()


def test_evaluation_prepares_no_gradient(monkeypatch):
    hidden, weight = torch.randn(5, 4), torch.randn(9, 4, requires_grad=True)
    targets = torch.arange(5)
    expected = linear_cross_entropy(hidden, weight, targets).item()
    monkeypatch.setattr(torch, "zeros_like", lambda *_: pytest.fail("a gradient was prepared"))
    with torch.no_grad():
        assert linear_cross_entropy(hidden, weight, targets).item() == expected


@pytest.mark.parametrize("of", ["both", "hidden", "weight"])
def test_a_derivative_of_the_gradient_is_right(of):
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (
        torch.randn(n, 4, dtype=torch.double, generator=generator) for n in (3, 5)
    )
    hidden.requires_grad_(of != "weight")
    weight.requires_grad_(of != "hidden")
    targets = torch.tensor([4, -1, 0])
    assert torch.autograd.gradcheck(linear_cross_entropy, (hidden, weight, targets))
    assert torch.autograd.gradgradcheck(linear_cross_entropy, (hidden, weight, targets))


@pytest.fixture
def ready(monkeypatch):
    """Every loss that can be is computed with its gradient, three rows at a time."""
    monkeypatch.setattr(losses, "READY_ROWS", 3)
    monkeypatch.setattr(losses, "READY_NUMBERS", 1)


def some_logits(scale=1.0, dtype=torch.float32):
    """Logits (2, 4, 11), and targets of which two are ignored."""
    generator = torch.Generator().manual_seed(0)
    logits = scale * torch.randn(2, 4, 11, generator=generator, dtype=dtype)
    targets = torch.randint(11, (2, 4), generator=generator)
    targets[0, 1] = targets[1, 3] = -1
    return logits.requires_grad_(), targets


@pytest.mark.parametrize("scale", [1.0, 60.0])
def test_a_loss_with_its_gradient_ready_is_the_usual_one(ready, scale):
    logits, targets = some_logits(scale)
    found, expected = ready_cross_entropy(logits, targets), cross_entropy(logits, targets)
    assert "Ready" in found.grad_fn.name()
    torch.testing.assert_close(found, expected)
    for factor in (1.0, 3.0):
        a, b = (
            torch.autograd.grad(factor * loss, logits, retain_graph=True)[0]
            for loss in (found, expected)
        )
        torch.testing.assert_close(a, b)
        assert not a[0, 1].any()


def test_its_derivatives_are_right(ready):
    logits, targets = some_logits(dtype=torch.float64)
    assert torch.autograd.gradcheck(ready_cross_entropy, (logits, targets), nondet_tol=1e-12)
    assert torch.autograd.gradgradcheck(ready_cross_entropy, (logits, targets))


def test_its_logits_may_be_written_to_before_the_gradient_is_taken(ready):
    """As F.cross_entropy's; a second gradient, which would need them, is PyTorch's error."""
    leaf, targets = some_logits()
    (expected,) = torch.autograd.grad(cross_entropy(leaf, targets), leaf)
    logits = leaf * 1
    loss = ready_cross_entropy(logits, targets)
    with torch.no_grad():
        logits.zero_()
    (found,) = torch.autograd.grad(loss, leaf, retain_graph=True)
    torch.testing.assert_close(found, expected)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(loss, leaf)


def test_its_graph_is_spent_by_a_backward_pass(ready):
    logits, targets = some_logits()
    loss = ready_cross_entropy(logits, targets)
    loss.backward()
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


def test_all_rows_ignored_is_nan_with_a_gradient_of_zero(ready):
    logits, targets = some_logits()
    loss = ready_cross_entropy(logits, torch.full_like(targets, -1))
    assert loss.isnan()
    assert not torch.autograd.grad(loss, logits)[0].any()


def test_small_logits_half_precision_and_evaluation_take_the_usual_loss(ready, monkeypatch):
    logits, targets = some_logits()
    assert "Ready" not in ready_cross_entropy(logits.bfloat16(), targets).grad_fn.name()
    with torch.no_grad():
        assert ready_cross_entropy(logits, targets).grad_fn is None
    monkeypatch.setattr(losses, "READY_NUMBERS", 89)
    assert "Ready" not in ready_cross_entropy(logits, targets).grad_fn.name()


@pytest.fixture
def blocks(monkeypatch):
    """Every product that can be is computed by blocks of 3 rows and 4 columns."""
    monkeypatch.setattr(losses, "CHUNK_BYTES", 3 * 4 * 11)
    monkeypatch.setattr(losses, "BLOCK_COLUMNS", 4)
    monkeypatch.setattr(losses, "READY_NUMBERS", 1)


@pytest.mark.parametrize("shape", [(2, 4, 5), (8, 5), (1, 1, 5)])
@pytest.mark.parametrize("frozen", [None, 0, 1])
def test_logits_by_blocks_are_the_product(blocks, shape, frozen):
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(size, generator=generator) for size in (shape, (11, 5))]
    wanted = [t.requires_grad_() for number, t in enumerate(inputs) if number != frozen]
    found, expected = ready_logits(*inputs), F.linear(*inputs)
    assert "Ready" in found.grad_fn.name()
    torch.testing.assert_close(found, expected)
    factor = torch.randn(expected.shape, generator=generator)
    for a, b in zip(*(torch.autograd.grad(t, wanted, factor) for t in (found, expected)),
                    strict=True):  # fmt: skip
        torch.testing.assert_close(a, b)


def test_their_derivatives_are_right_and_they_may_be_written_to(blocks):
    generator = torch.Generator().manual_seed(0)
    inputs = [
        torch.randn(size, generator=generator, dtype=torch.float64, requires_grad=True)
        for size in ((2, 4, 5), (11, 5))
    ]
    assert torch.autograd.gradcheck(ready_logits, inputs)
    assert torch.autograd.gradgradcheck(ready_logits, inputs)
    hidden = torch.zeros(2, 4, 11).bool()
    hidden[..., 3] = True
    results = [torch.autograd.grad(product(*inputs).masked_fill_(hidden, 0).square().sum(), inputs)
               for product in (ready_logits, F.linear)]  # fmt: skip
    torch.testing.assert_close(*results)


def test_their_gradients_are_taken_in_batches_as_of_pytorchs_product(blocks):
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(size, generator=generator, requires_grad=True)
              for size in ((2, 4, 5), (11, 5))]  # fmt: skip
    rows = torch.randn(3, 2, 4, 11, generator=generator)
    torch.testing.assert_close(*(
        torch.autograd.grad(product(*inputs), inputs, rows, is_grads_batched=True)
        for product in (ready_logits, F.linear)
    ))  # fmt: skip


def test_small_logits_half_precision_and_evaluation_take_the_usual_product(blocks, monkeypatch):
    hidden, weight, _ = problem(8, 5, 11)
    assert "Ready" not in ready_logits(hidden.bfloat16(), weight.bfloat16()).grad_fn.name()
    with torch.autocast("cpu", torch.bfloat16):
        assert ready_logits(hidden, weight).dtype == torch.bfloat16
    with torch.no_grad():
        assert ready_logits(hidden, weight).grad_fn is None
    monkeypatch.setattr(losses, "READY_NUMBERS", 89)
    assert "Ready" not in ready_logits(hidden, weight).grad_fn.name()


def one_by_one(losses, inputs, rows):
    """The gradients that a backward pass of all rows (n, losses) at once should give."""
    found = [torch.autograd.grad(losses, inputs, row, retain_graph=True) for row in rows]
    return tuple(torch.stack(gradients) for gradients in zip(*found, strict=True))


@pytest.mark.parametrize("kind", ["ready", "linear"])
def test_gradients_are_taken_in_batches_as_of_pytorchs_loss(ready, kind):
    """torch.autograd.grad(is_grads_batched=True) and jacobian(vectorize=True)."""
    factors = torch.tensor([1.0, 3.0])
    if kind == "ready":
        logits, targets = some_logits()
        inputs, own, usual = (logits,), ready_cross_entropy, cross_entropy
    else:
        *inputs, targets = problem(6, 8, 50)
        inputs, own, usual = tuple(inputs), linear_cross_entropy, linear_cross_entropy_reference
    rows = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, -1.0]])
    expected = one_by_one(factors * usual(*inputs, targets), inputs, rows)
    losses = factors * own(*inputs, targets)
    for _ in range(2):  # the second takes what the first left
        found = torch.autograd.grad(losses, inputs, rows, retain_graph=True, is_grads_batched=True)
        torch.testing.assert_close(found, expected)
    torch.testing.assert_close(one_by_one(losses, inputs, rows), expected)
    for strategy in ({}, {"create_graph": True}):
        jacobian = torch.autograd.functional.jacobian(
            lambda *given: factors * own(*given, targets), inputs, vectorize=True, **strategy
        )
        torch.testing.assert_close(
            tuple(part.detach() for part in jacobian), tuple(part[:2] for part in expected)
        )
