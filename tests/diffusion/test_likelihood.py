"""Eq. 9, the complete bound, and the exact density."""

from __future__ import annotations

import copy
import functools
import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from diffusion import ToleranceError, complete_bound, elbo, exact, likelihood, log_likelihood
from diffusion.data import RECTANGLES, SQUARE, uniform
from diffusion.exact import ExactDenoiser
from diffusion.sampling import matched_prior
from diffusion.schedule import SIGMA_MIN, Exponential, Power

LOG_QUARTER = math.log(0.25)
CENTRES = RECTANGLES.mean(dim=1)

finite = st.floats(allow_nan=False, allow_infinity=False, width=32)
FLOAT32_MAX = torch.finfo(torch.float32).max


@pytest.fixture(scope="module")
def denoiser64(denoiser):
    return copy.deepcopy(denoiser).double()


@pytest.fixture
def inner_points(generator) -> torch.Tensor:
    """At least 0.1 inside the square."""
    return uniform(50, 0.9 * SQUARE, generator=generator, dtype=torch.float64)


POINTS = torch.tensor([[0.2, -0.3], [0.95, 0.0], [1.3, 1.2]])


# --- Eq. 9 --------------------------------------------------------------------------------------


@torch.no_grad()
def test_plain_elbo_agrees_with_a_loop_over_the_text_of_the_exercise(denoiser):
    steps, draws, generator = 20, 3000, torch.Generator().manual_seed(8)
    schedule = denoiser.schedule
    for x in POINTS[:2]:
        terms = []
        for _ in range(draws):
            t = torch.randint(1, steps + 1, (), generator=generator).item() / steps
            eps = torch.randn(2, generator=generator)
            z = x + schedule.sigma(t).float() * eps  # Eq. 4
            x_hat = z - schedule.sigma(t) * denoiser(z[None], t)[0]  # Eq. 8
            snr_difference = schedule.snr(t - 1 / steps) - schedule.snr(t)
            terms.append((snr_difference * (x - x_hat).square().sum()).item())
        expected, error = -steps / 2 * np.mean(terms), steps / 2 * np.std(terms) / math.sqrt(draws)
        options = {"steps": steps, "low_variance": False, "seed": 0, "return_error": True}
        value, own_error = elbo(denoiser, x[None], **options)
        assert abs(value.item() - expected) < 4 * math.hypot(error, own_error.item())


def with_schedule(model, schedule):
    model = copy.deepcopy(model)
    model.schedule = schedule
    return model


@pytest.fixture(scope="module")
def quadrature(denoiser64):
    """-L_T at POINTS for T = 10 and a schedule, by Gauss-Hermite quadrature over eps."""

    @functools.cache
    @torch.no_grad()
    def value(schedule) -> torch.Tensor:
        steps = 10
        nodes, weights = map(torch.from_numpy, np.polynomial.hermite_e.hermegauss(40))
        eps = torch.cartesian_prod(nodes, nodes)
        weights = torch.outer(weights, weights).flatten() / (2 * math.pi)
        total = torch.zeros(len(POINTS), dtype=torch.float64)
        for k in range(1, steps + 1):
            sigma = schedule.sigma(k / steps)
            weight = schedule.snr((k - 1) / steps) / schedule.snr(k / steps) - 1
            for i, x in enumerate(POINTS.double()):
                miss = (denoiser64.noise(x + sigma * eps, sigma) - eps).square().sum(dim=1)
                total[i] -= 0.5 * weight * weights @ miss
        return total

    return value


@pytest.mark.parametrize("low_variance", [True, False])
@pytest.mark.parametrize("num_samples", [1000, 100_000])
# With the exponential schedule every time has the same weight, with the other one far from it.
@pytest.mark.parametrize("schedule", [Exponential(), Power(rho=2.0)], ids=repr)
def test_estimators_agree_with_quadrature(
    denoiser, quadrature, schedule, low_variance, num_samples
):
    model = with_schedule(denoiser, schedule)
    options = {"steps": 10, "num_samples": num_samples, "return_error": True}
    value, error = elbo(model, POINTS, low_variance=low_variance, **options)
    assert value.dtype == error.dtype == torch.float64
    # Eight replicates give Student's t with 7 degrees of freedom, as wide at 7 as a normal at 3.7.
    bound = 7 if low_variance else 4
    assert ((value - quadrature(schedule)).abs() < bound * error).all()
    if low_variance:
        _, plain_error = elbo(model, POINTS, low_variance=False, **options)
        assert (error < plain_error / 2).all()


@pytest.mark.parametrize("low_variance", [True, False])
def test_standard_error_is_honest(denoiser, quadrature, low_variance):
    deviations = []
    for seed in range(60):
        options = {"steps": 10, "num_samples": 640, "seed": seed, "return_error": True}
        value, error = elbo(denoiser, POINTS[:1], low_variance=low_variance, **options)
        deviations.append(((value - quadrature(denoiser.schedule)[0]) / error).item())
    # Eight replicates make this Student's t with 7 degrees of freedom, of standard deviation 1.18;
    # many independent draws make it normal. Sixty values give either within a tenth.
    assert np.std(deviations) == pytest.approx(1.1, abs=0.4)
    assert abs(np.mean(deviations)) < 4 * 1.18 / math.sqrt(60)


def test_every_point_meets_the_same_noises(denoiser):
    options = {"steps": 100, "num_samples": 320}
    together = elbo(denoiser, POINTS[[0, 1, 0]], seed=1, **options)
    assert together[0] == together[2]
    torch.testing.assert_close(together[1:2], elbo(denoiser, POINTS[1:2], seed=1, **options))
    assert not torch.isclose(together, elbo(denoiser, POINTS[[0, 1, 0]], seed=2, **options)).any()


# --- The complete bound -------------------------------------------------------------------------


def test_complete_bound_of_the_truth_is_tight_inside_the_square(inner_points):
    model, x = ExactDenoiser(), inner_points[:20]
    bound = complete_bound(model, x, num_samples=20_000)
    assert (bound.total - 4 * bound.error < LOG_QUARTER).all()
    assert (bound.total > LOG_QUARTER - 0.1).all()
    # More steps only tighten it.
    coarse = complete_bound(model, x, steps=100, num_samples=20_000)
    assert (coarse.total + 4 * coarse.error < bound.total).all()


def test_complete_bound_adds_three_known_terms(conditional):
    x, labels = POINTS.double(), torch.tensor([0, 2, 1])
    bound = complete_bound(conditional, x, labels, steps=50, num_samples=320, seed=3)
    torch.testing.assert_close(bound.total, bound.diffusion + bound.prior + bound.reconstruction)
    value, error = elbo(
        conditional, x, labels, steps=50, num_samples=320, seed=3, return_error=True
    )
    assert torch.equal(bound.diffusion, value)
    assert torch.equal(bound.error, error)
    identity = torch.eye(2, dtype=torch.float64)
    prior = torch.distributions.MultivariateNormal(
        conditional.mean[labels].double(), conditional.covariance[labels].double() + identity
    )
    end = torch.distributions.MultivariateNormal(x, identity)
    torch.testing.assert_close(bound.prior, -torch.distributions.kl_divergence(end, prior))
    # E log N(x; z_0, s^2 I) for z_0 = x + s eps.
    expected = -math.log(2 * math.pi * SIGMA_MIN**2) - 1
    assert bound.reconstruction.tolist() == pytest.approx([expected] * 3)


def test_estimates_are_those_of_their_functions(conditional):
    x, labels = CENTRES.float(), torch.arange(5)
    found = likelihood.estimates(conditional, x, labels, RECTANGLES.transpose(0, 1), seed=3)
    bound = complete_bound(conditional, x, labels, seed=3)
    density = log_likelihood(conditional, x, labels)
    for k, row in enumerate(found):
        assert row["eq9_nats"] == bound.diffusion[k].item()
        assert row["eq9_standard_error_nats"] == bound.error[k].item()
        terms = row["eq9_nats"] + row["bound_prior_term_nats"]
        total = terms + row["bound_reconstruction_term_nats"]
        assert row["bound_nats"] == pytest.approx(total)
        assert row["log_density_nats"] == density[k].item()
        area = (RECTANGLES[k][1] - RECTANGLES[k][0]).prod().item()
        assert row["true_log_density_nats"] == pytest.approx(-math.log(area), abs=1e-9)


@pytest.mark.parametrize("label", [None, 1])
def test_density_map_of_the_exact_score_is_the_rectangle_and_integrates_to_one(label):
    model = ExactDenoiser(rectangles=None if label is None else RECTANGLES)
    density, integral = likelihood.density_map(model, label, cells=40)
    assert density.shape == (40, 40)
    assert integral == pytest.approx(1, abs=0.02)
    axis = (torch.arange(40) + 0.5) * 0.1 - 2
    y, x = torch.meshgrid(axis, axis, indexing="ij")  # rows along y
    (left, low), (right, high) = SQUARE if label is None else RECTANGLES[label]
    inner = (x > left + 0.05) & (x < right - 0.05) & (y > low + 0.05) & (y < high - 0.05)
    area = (right - left) * (high - low)
    assert (density[inner] * area - 1).abs().max() < 0.1
    outer = (x < left - 0.1) | (x > right + 0.1) | (y < low - 0.1) | (y > high + 0.1)
    assert density[outer].max() < 1e-6


# --- The exact density --------------------------------------------------------------------------


def test_density_of_the_exact_score_is_the_true_one(inner_points):
    # From sigma = 10 the square is all but Gaussian, so the prior is right.
    schedule = Exponential(SIGMA_MIN, 10.0)
    truth = exact.log_density(inner_points, SIGMA_MIN)
    value = log_likelihood(ExactDenoiser(schedule), inner_points, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(value, truth, rtol=0, atol=1e-4)
    # At sigma = 1 the Gaussian prior itself is off by a few hundredths of a nat.
    value = log_likelihood(ExactDenoiser(), inner_points)
    torch.testing.assert_close(value, truth, rtol=0, atol=0.05)
    assert (value - truth).abs().mean() < 0.03


@pytest.mark.parametrize("schedule", [Exponential(), Power(0.05, 2.0)], ids=repr)
def test_density_of_the_exact_score_differs_by_the_prior_alone(schedule):
    model, x = ExactDenoiser(schedule), 1.1 * POINTS.double()
    end, _ = runge_kutta(model, x, steps=400)
    mean, factor = matched_prior(model, None)
    prior = torch.distributions.MultivariateNormal(mean, scale_tril=factor).log_prob(end)
    error_of_the_prior = prior - exact.log_density(end, schedule.sigma_max)
    expected = exact.log_density(x, schedule.sigma_min) + error_of_the_prior
    value = log_likelihood(model, x, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-5)


def runge_kutta(model, x: torch.Tensor, steps: int, label=None) -> tuple[torch.Tensor, ...]:
    """x_1 and the integral of the divergence, with fixed steps and central differences."""
    low, high = math.log(model.schedule.sigma_min), math.log(model.schedule.sigma_max)
    h, delta = (high - low) / steps, 1e-5
    shifts = delta * torch.eye(2, dtype=torch.float64)

    def slope(log_sigma: float, x: torch.Tensor) -> torch.Tensor:
        sigma = math.exp(log_sigma)
        divergence = sum(
            model.noise(x + s, sigma, label)[:, i] - model.noise(x - s, sigma, label)[:, i]
            for i, s in enumerate(shifts)
        ) / (2 * delta)
        return sigma * torch.cat([model.noise(x, sigma, label), divergence[:, None]], dim=1)

    y = torch.cat([x, torch.zeros(len(x), 1, dtype=torch.float64)], dim=1)
    with torch.no_grad():
        for i in range(steps):
            u = low + i * h
            k_1 = slope(u, y[:, :2])
            k_2 = slope(u + h / 2, (y + h / 2 * k_1)[:, :2])
            k_3 = slope(u + h / 2, (y + h / 2 * k_2)[:, :2])
            k_4 = slope(u + h, (y + h * k_3)[:, :2])
            y = y + h / 6 * (k_1 + 2 * k_2 + 2 * k_3 + k_4)
    return y[:, :2], y[:, 2]


def test_density_of_a_network_agrees_with_a_plain_integral(conditional):
    model, labels = copy.deepcopy(conditional).double(), torch.tensor([0, 2, 1])
    x = POINTS.double()
    end, log_volume = runge_kutta(model, x, steps=150, label=labels)
    covariance = model.covariance[labels] + torch.eye(2, dtype=torch.float64)
    prior = torch.distributions.MultivariateNormal(model.mean[labels], covariance)
    expected = prior.log_prob(end) + log_volume
    value = log_likelihood(conditional, x, labels, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(log_likelihood(conditional, x, labels), value, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("label", [None, 1])
def test_density_of_a_network_integrates_to_one(denoiser, conditional, label):
    model, n = (denoiser, 64) if label is None else (conditional, 40)
    # Cells aligned with the sides of the rectangles, where the density jumps.
    middles = -2 + 4 / n * (torch.arange(n) + 0.5)
    density = log_likelihood(model, torch.cartesian_prod(middles, middles), label).exp()
    assert density.sum().item() * (4 / n) ** 2 == pytest.approx(1, abs=0.005)


@pytest.mark.parametrize("right", range(5))
def test_wrong_class_is_far_less_probable(right):
    model, labels = ExactDenoiser(rectangles=RECTANGLES), torch.arange(5)
    x = CENTRES[right].expand(5, 2)
    area = (RECTANGLES[right, 1] - RECTANGLES[right, 0]).prod()
    bound = complete_bound(model, x, labels)
    for value in (log_likelihood(model, x, labels), bound.total):
        assert value[right].item() == pytest.approx(-math.log(area), abs=0.1)
        assert (value[labels != right] < value[right] - 3).all()


def test_labels_shapes_and_dtypes(conditional):
    labels = torch.full((3,), 4)
    few = {"steps": 10, "num_samples": 32}
    for function, options in ((elbo, few), (log_likelihood, {})):
        one = function(conditional, POINTS, 4, **options)
        torch.testing.assert_close(one, function(conditional, POINTS, labels, **options))
        assert (one.shape, one.dtype) == ((3,), torch.float64)
        assert not one.requires_grad
        assert function(conditional, POINTS[:0], 4, **options).shape == (0,)
    assert complete_bound(conditional, POINTS[:0], 4, **few).total.shape == (0,)


@settings(max_examples=6)
@given(st.lists(st.tuples(finite, finite), min_size=6, max_size=6))
@example([(1e30, -1e30), (FLOAT32_MAX, FLOAT32_MAX), (0.0, 1e10), (1.0, 1.0), (-1e3, 0), (0, 0)])
def test_density_is_finite_for_every_finite_point(denoiser, x):
    value = log_likelihood(denoiser, torch.tensor(x))
    assert value.isfinite().all()
    far = torch.tensor(x).abs().amax(dim=1) > 100
    assert (value[far] < -1000).all()


@settings(max_examples=20)
@given(finite, finite)
@example(1e30, -1e30)
@example(FLOAT32_MAX, FLOAT32_MAX)
@pytest.mark.parametrize("truth", [False, True])
def test_elbo_is_finite_for_every_finite_point(denoiser, truth, x, y):
    model = ExactDenoiser() if truth else denoiser
    value = elbo(model, torch.tensor([[x, y]]), steps=10, num_samples=32)
    assert value.isfinite().all()


@pytest.mark.parametrize("function", [elbo, complete_bound, log_likelihood])
@pytest.mark.parametrize(
    ("x", "labels", "message"),
    [
        (torch.zeros(3), 0, "shape"),
        (torch.zeros(3, 3), 0, "shape"),
        ("points", 0, "must be a tensor"),
        (torch.tensor([[0.0, torch.nan]]), 0, "NaN or infinite"),
        (torch.tensor([[0.0, torch.inf]]), 0, "NaN or infinite"),
        (torch.zeros(3, 2), None, "labels"),
        (torch.zeros(3, 2), 5, "labels"),
        (torch.zeros(3, 2), torch.zeros(2, dtype=torch.int64), "labels"),
    ],
)
def test_bad_points_and_labels_are_refused(conditional, function, x, labels, message):
    with pytest.raises(ValueError, match=message):
        function(conditional, x, labels)


@pytest.mark.parametrize("function", [elbo, complete_bound])
@pytest.mark.parametrize("options", [{"steps": 0}, {"steps": 1.5}, {"num_samples": 1}])
def test_bad_sizes_are_refused(denoiser, function, options):
    with pytest.raises(ValueError, match=rf"{next(iter(options))} must be .*at least"):
        function(denoiser, POINTS, **options)


@pytest.mark.parametrize("options", [{"rtol": 0.0}, {"atol": -1.0}, {"rtol": math.nan}])
def test_bad_tolerances_are_refused(denoiser, options):
    with pytest.raises(ValueError, match="tolerances must be positive"):
        log_likelihood(denoiser, POINTS, **options)


class Broken(ExactDenoiser):
    def noise(self, x, sigma, labels=None):
        return x * math.nan


def test_unreachable_tolerance_is_a_clear_error():
    with pytest.raises(ToleranceError, match="leaves the range of numbers"):
        log_likelihood(Broken(), POINTS)


@given(st.floats(allow_nan=False, allow_infinity=False), st.floats(-1, 1))
@example(1e153, 0.0)
@example(1.7e308, 1.0)
@settings(max_examples=25, deadline=None)
def test_the_complete_bound_is_finite_wherever_the_point_is(far, near):
    x = torch.tensor([[far, near]], dtype=torch.float64)
    bound = complete_bound(ExactDenoiser(), x, steps=10, num_samples=16)
    for term in bound:
        assert term.isfinite().all()
    assert bound.total.item() <= 0 or abs(far) <= 1.1


@pytest.mark.parametrize("tolerances", [{"rtol": math.inf}, {"atol": math.inf}])
def test_an_infinite_tolerance_is_refused(tolerances):
    with pytest.raises(ValueError, match="positive and finite"):
        log_likelihood(ExactDenoiser(), torch.zeros(1, 2), **tolerances)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_samples": 100.5}, "num_samples must be a whole number of at least 2"),
        ({"num_samples": math.nan}, "num_samples must be a whole number"),
        ({"seed": 1.5}, "seed must be a whole number"),
        ({"seed": 2**62}, "seed must be below"),
        ({"steps": True}, "steps must be a whole number"),
    ],
)
def test_counts_and_seeds_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        elbo(ExactDenoiser(), torch.zeros(1, 2), **options)
