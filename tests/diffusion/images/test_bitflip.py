"""Bit-flip diffusion: closed forms against enumeration, the bound, and the truth by listing."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from diffusion.images import bitflip, bitflip_exact
from diffusion.images.bitflip import BitFlip
from diffusion.images.bitflip_exact import Enumerated

N = 200_000


def close_to_share(values: torch.Tensor, p: float) -> None:
    """The share of true values is p, within four standard errors."""
    share = values.double().mean().item()
    assert abs(share - p) <= 4 * math.sqrt(p * (1 - p) / values.numel())


# --- The forward process ------------------------------------------------------------------------


@pytest.mark.parametrize("delta", [0.01, 0.2, 0.5])
def test_replacement_and_flips_by_recursion(delta):
    process = BitFlip(delta, 60)
    kept, flipped = 1.0, 0.0
    for t in range(61):
        assert process.replaced(t).item() == pytest.approx(1 - kept, abs=1e-12)
        assert process.flipped(t).item() == pytest.approx(flipped, abs=1e-12)
        kept *= 1 - 2 * delta
        flipped = flipped * (1 - delta) + (1 - flipped) * delta


def test_every_pixel_is_replaced_in_the_end():
    replaced = BitFlip(0.02, 500).replaced(torch.arange(501))
    assert (replaced.diff() > 0).all()
    assert replaced[0] == 0
    assert replaced[-1] > 1 - 1e-8


def test_a_stage_flips_with_probability_delta_and_so_does_a_replacement(generator):
    y = torch.ones(N // 10, 10)
    close_to_share(BitFlip(0.1, 5).stage(y, generator) == -1, 0.1)
    fresh = bitflip.coins(y.shape, generator)
    replaced = torch.rand(y.shape, generator=generator) < 2 * 0.1
    close_to_share(torch.where(replaced, fresh, y) == -1, 0.1)


@pytest.mark.parametrize("t", [0, 1, 4, 9])
def test_one_shot_sampling_is_stage_after_stage(generator, t):
    process = BitFlip(0.07, 9)
    y_0 = bitflip.coins((N // 10, 10), generator)
    y_t = y_0
    for _ in range(t):
        y_t = process.stage(y_t, generator)
    p = process.flipped(t).item()
    for y in (y_t, process.forward(y_0, t, generator)):
        assert y.unique().tolist() == [-1, 1]
        close_to_share(y != y_0, p)


def test_each_image_has_its_own_stage(generator):
    process = BitFlip(0.1, 20)
    y_t = process.forward(torch.ones(3, N), torch.tensor([0, 2, 20]), generator)
    for row, t in zip(y_t, (0, 2, 20), strict=True):
        close_to_share(row == -1, process.flipped(t).item())


def paths(process: BitFlip, x: int, t: int):
    """All (Y_0 = x, ..., Y_t) of one pixel with their probabilities."""
    for flips in itertools.product((False, True), repeat=t):
        path = [x]
        for flip in flips:
            path.append(-path[-1] if flip else path[-1])
        yield path, process.delta ** sum(flips) * (1 - process.delta) ** (t - sum(flips))


@pytest.mark.parametrize("delta", [0.03, 0.3, 0.5])
@pytest.mark.parametrize("t", [1, 2, 3, 6])
def test_posterior_against_all_paths(delta, t):
    process = BitFlip(delta, 6)
    for x, y in itertools.product((-1, 1), repeat=2):
        ends = [(path[t - 1], p) for path, p in paths(process, x, t) if path[t] == y]
        truth = sum(p for value, p in ends if value == 1) / sum(p for _, p in ends)
        pixel = torch.tensor([[1.0]], dtype=torch.float64)
        assert process.posterior(y * pixel, x * pixel, t).item() == pytest.approx(truth, abs=1e-12)


@pytest.mark.parametrize(("t", "s"), [(6, 0), (6, 2), (5, 4), (3, 1)])
def test_posterior_over_several_stages_against_all_paths(t, s):
    process = BitFlip(0.2, 6)
    for x, y in itertools.product((-1, 1), repeat=2):
        ends = [(path[s], p) for path, p in paths(process, x, t) if path[t] == y]
        truth = sum(p for value, p in ends if value == 1) / sum(p for _, p in ends)
        sure = torch.full((1, 1), 60.0 * x, dtype=torch.float64)  # that Y_0 = x
        found = process.reverse_probability(sure, y * torch.ones_like(sure), t, s).item()
        assert found == pytest.approx(truth, abs=1e-12)


def test_evidence_is_the_log_odds_of_a_pixel_between_two_coins():
    process = BitFlip(0.05, 30)
    for t in (1, 7, 30):
        p = process.flipped(t).item()
        assert process.evidence(t).item() == pytest.approx(math.log((1 - p) / p), rel=1e-9)


# --- The loss -----------------------------------------------------------------------------------


@pytest.fixture
def pixels(generator):
    y_0, y_t = (bitflip.coins((5, 7), generator, torch.float64) for _ in range(2))
    return torch.randn(5, 7, generator=generator, dtype=torch.float64), y_0, y_t


def test_the_reverse_stage_averages_the_posterior_over_the_start(pixels):
    logits, _, y_t = pixels
    process, p = BitFlip(0.1, 8), torch.sigmoid(logits)
    one = torch.ones_like(y_t)
    expected = p * process.posterior(y_t, one, 5) + (1 - p) * process.posterior(y_t, -one, 5)
    torch.testing.assert_close(process.reverse_probability(logits, y_t, 5), expected)


@pytest.mark.parametrize("t", [2, 5, 8])
def test_kl_is_that_of_the_two_coins(pixels, t):
    logits, y_0, y_t = pixels
    process = BitFlip(0.1, 8)
    p, q = process.posterior(y_t, y_0, t), process.reverse_probability(logits, y_t, t)
    coin = torch.distributions.Bernoulli
    expected = torch.distributions.kl_divergence(coin(p), coin(q)).sum(dim=1)
    torch.testing.assert_close(process.kl(logits, y_0, y_t, t), expected, rtol=1e-9, atol=1e-12)


def test_at_stage_1_the_target_is_certain_and_the_loss_is_minus_log_q(pixels):
    logits, y_0, y_t = pixels
    process = BitFlip(0.1, 8)
    target = process.posterior(y_t, y_0, 1)
    torch.testing.assert_close(target, (y_0 + 1) / 2)
    q = process.reverse_probability(logits, y_t, 1)
    log_q = torch.where(y_0 > 0, q, 1 - q).log().sum(dim=1)
    torch.testing.assert_close(process.kl(logits, y_0, y_t, 1), -log_q)


@pytest.mark.parametrize("t", [1, 2, 200])
def test_loss_and_gradient_stay_finite_for_a_network_that_is_sure(t):
    process = BitFlip()
    y_0, y_t = torch.tensor([[1.0, -1.0, 1.0, -1.0]]), torch.tensor([[1.0, 1.0, -1.0, -1.0]])
    logits = torch.tensor([[80.0, 80.0, -80.0, -80.0]], requires_grad=True)
    loss = process.kl(logits, y_0, y_t, t).sum()
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()


def test_kl_in_single_precision_agrees_with_double(pixels):
    logits, y_0, y_t = pixels
    process, t = BitFlip(0.001, 300), torch.tensor([1, 2, 3, 50, 300])
    double = process.kl(8 * logits, y_0, y_t, t)
    single = process.kl(8 * logits.float(), y_0.float(), y_t.float(), t)
    torch.testing.assert_close(single.double(), double, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("delta", "stages"), [(0.02, 5), (0.3, 2), (0.5, 1)])
def test_prior_kl_is_that_of_a_coin_from_a_fair_one_in_nats(delta, stages):
    process, coin = BitFlip(delta, stages), torch.distributions.Bernoulli
    p, half = process.flipped(stages), torch.tensor(0.5, dtype=torch.float64)
    expected = torch.distributions.kl_divergence(coin(p), coin(half)).item()
    assert process.prior_kl() == pytest.approx(expected, rel=1e-9, abs=1e-15)


# --- Truth by enumeration -----------------------------------------------------------------------


def test_ideal_network_is_bayes_over_all_images(generator):
    process, images, p = (
        BitFlip(0.1, 8),
        bitflip_exact.all_images(4),
        torch.rand(16, generator=generator),
    )
    p = p.double() / p.sum()
    ideal = Enumerated(process, images, p)
    flip = process.flipped(5).item()
    for y in images:
        different = (y != images).sum(dim=1)
        weight = p * flip**different * (1 - flip) ** (4 - different)
        on = (weight[:, None] * (images > 0)).sum(dim=0) / weight.sum()
        torch.testing.assert_close(torch.sigmoid(ideal.logits(y[None], 5))[0], on)


def test_distribution_of_one_pixel_is_exact():
    p = torch.tensor([0.2, 0.8], dtype=torch.float64)
    ideal = Enumerated(BitFlip(0.05, 100), bitflip_exact.all_images(1), p)
    torch.testing.assert_close(bitflip_exact.distribution(ideal), p, rtol=0, atol=1e-5)


def test_distribution_is_that_of_the_samples():
    ideal = Enumerated(BitFlip(0.1, 12), bitflip_exact.all_images(3), torch.arange(1, 9) / 36)
    exact = bitflip_exact.distribution(ideal)
    samples = bitflip.sample(ideal, 40_000, seed=0)
    number = ((samples > 0).long() * torch.tensor([4, 2, 1])).sum(dim=1)
    share = torch.bincount(number, minlength=8) / len(samples)
    assert ((share - exact).abs() < 4 * (exact * (1 - exact) / len(samples)).sqrt()).all()


# --- The bound ----------------------------------------------------------------------------------


def test_bound_against_all_paths_of_one_pixel():
    """E over paths of log2 q(Y_1..Y_T | Y_0) / p(Y_0..Y_T), summed over all 2^T paths."""
    process, x = BitFlip(0.2, 5), torch.ones(1, 1, dtype=torch.float64)
    ideal = Enumerated(process, bitflip_exact.all_images(1), torch.tensor([0.3, 0.7]))
    expected = 0.0
    for path, p in paths(process, 1, 5):
        model = 0.5
        for t in range(5, 0, -1):
            y_t = path[t] * x
            q = process.reverse_probability(ideal.logits(y_t, t), y_t, t).item()
            model *= q if path[t - 1] == 1 else 1 - q
        expected += p * math.log2(p / model)
    bound = bitflip.bound(ideal, x.repeat(40_000, 1))
    assert abs(bound.total.mean().item() - expected) < 4 * bound.error.norm().item() / 40_000
    total = bound.prior + bound.stages.sum(dim=1)
    torch.testing.assert_close(total, bound.total)


def test_stated_error_is_the_spread_of_repetitions():
    ideal = Enumerated(BitFlip(0.05, 20), bitflip_exact.all_images(4), torch.arange(1, 17) / 136)
    bound = bitflip.bound(ideal, ideal.images[:1].repeat(1000, 1), noise_samples=10)
    stated = bound.error.square().mean().sqrt().item()
    # A deviation of 1000 values is known to 1 / sqrt(2000) of itself, for normal ones.
    assert bound.total.std().item() == pytest.approx(stated, rel=6 / math.sqrt(2000))


# --- Bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize("delta", [0, -0.1, 0.51, 1, math.nan, math.inf, "a", None])
def test_delta_outside_0_to_a_half_is_refused(delta):
    with pytest.raises(ValueError, match=r"delta must be in \(0, 1/2\]"):
        BitFlip(delta, 10)


@pytest.mark.parametrize("stages", [0, -1, 1.5, True])
def test_stages_are_whole_and_positive(stages):
    with pytest.raises(ValueError, match="stages must be a whole number"):
        BitFlip(0.1, stages)
