"""The closed-form truth against arithmetic with 60 digits, autograd, quadrature and Monte Carlo."""

from __future__ import annotations

import math

import mpmath
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffusion import exact
from diffusion.data import RECTANGLES, SQUARE, uniform
from diffusion.schedule import SIGMA_MIN, Exponential, Power, Quadratic

SIGMAS = [SIGMA_MIN, 0.1, 1.0, 80.0]
INTERVALS = [(-1.0, 1.0), (-0.5, 1.0), (0.5, 1.0)]  # the sides of the rectangles, up to a mirror


def reference(x: float, sigma: float, low: float, high: float) -> tuple[float, float]:
    """E[eps | x_t = x] and log p(x_t = x) in one coordinate, with 60 digits."""
    with mpmath.workdps(60):
        x, sigma, low, high = map(mpmath.mpf, (x, sigma, low, high))
        a, b = (low - x) / sigma, (high - x) / sigma
        # The difference of two upper tails is that of two lower tails of the mirror image.
        lower, upper = (-b, -a) if a > 0 else (a, b)
        mass = mpmath.ncdf(upper) - mpmath.ncdf(lower)
        noise = (mpmath.npdf(b) - mpmath.npdf(a)) / mass
        return float(noise), float(mpmath.log(mass / (high - low)))


def rectangle(low: float, high: float) -> torch.Tensor:
    """The interval in the first coordinate, [-1, 1] in the second."""
    return torch.tensor([[low, -1.0], [high, 1.0]], dtype=torch.float64)


def check(x: float, sigma: float, low: float, high: float) -> None:
    point = torch.tensor([[x, 0.0]], dtype=torch.float64)
    noise = exact.ideal_noise(point, sigma, rectangle(low, high))[0, 0].item()
    log_p = exact.log_density(point, sigma, rectangle(low, high)).item()
    expected_noise, expected_log_p = reference(x, sigma, low, high)
    expected_log_p += reference(0.0, sigma, -1.0, 1.0)[1]
    # Rounding of x, of size |x| 2^-53, moves the standardised x by up to |x| 2^-53 / sigma.
    rounding = 1e-14 * (1 + abs(x) / sigma)
    assert noise == pytest.approx(expected_noise, rel=1e-11, abs=rounding)
    assert log_p == pytest.approx(expected_log_p, rel=1e-11, abs=rounding * (1 + abs(x) / sigma))


@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize(("low", "high"), INTERVALS)
@pytest.mark.parametrize("distance", [0.0, 1e-9, 0.3, 3.0, 10.0, 1e3, 1e6])
def test_noise_and_density_around_the_border(sigma, low, high, distance):
    for x in (low, high):
        for sign in (-1, 1):
            check(x + sign * distance * sigma, sigma, low, high)


@given(
    st.sampled_from(INTERVALS),
    st.floats(-1e3, 1e3) | st.floats(-1.5, 1.5),
    st.floats(math.log(SIGMA_MIN), math.log(80)),
)
def test_noise_and_density_anywhere(interval, x, log_sigma):
    check(x, math.exp(log_sigma), *interval)


@given(
    x=st.floats(-1e38, 1e38),
    y=st.floats(-1e38, 1e38),
    log_sigma=st.floats(math.log(SIGMA_MIN), math.log(80)),
)
def test_truth_is_finite_far_away(x, y, log_sigma):
    point = torch.tensor([[x, y]], dtype=torch.float64)
    assert exact.ideal_noise(point, math.exp(log_sigma)).isfinite().all()
    assert exact.log_density(point, math.exp(log_sigma)).isfinite().all()


@pytest.fixture
def points(generator) -> torch.Tensor:
    """Half of them outside the square."""
    return uniform(400, 1.5 * SQUARE, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("sigma", SIGMAS)
def test_score_is_the_gradient_of_the_log_density(sigma, points):
    x = points.clone().requires_grad_(True)
    (score,) = torch.autograd.grad(exact.log_density(x, sigma).sum(), x)
    torch.testing.assert_close(
        -exact.ideal_noise(points, sigma) / sigma, score, rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("sigma", SIGMAS)
def test_mixture_of_the_classes_is_the_square(sigma, points):
    torch.testing.assert_close(
        exact.mixture_noise(points, sigma), exact.ideal_noise(points, sigma), rtol=1e-9, atol=1e-9
    )
    areas = (RECTANGLES[:, 1] - RECTANGLES[:, 0]).prod(dim=1)
    parts = [
        exact.log_density(points, sigma, r) + torch.log(area / 4)
        for r, area in zip(RECTANGLES, areas, strict=True)
    ]
    total = torch.logsumexp(torch.stack(parts), dim=0)
    torch.testing.assert_close(total, exact.log_density(points, sigma), rtol=1e-9, atol=1e-9)


def test_density_tends_to_the_uniform_one(points):
    away = (points.abs() - 1).abs().min(dim=1).values > 0.05
    density = exact.log_density(points[away], SIGMA_MIN).exp()
    truth = exact.uniform_log_density(points[away]).exp()
    torch.testing.assert_close(density, truth, rtol=1e-9, atol=1e-9)
    assert set(truth.tolist()) == {0.0, 0.25}


@pytest.mark.parametrize("label", range(5))
def test_uniform_density_of_a_class(label):
    low, high = RECTANGLES[label]
    corners_and_centre = torch.stack([low, high, (low + high) / 2, high + 1e-9])
    log_p = exact.uniform_log_density(corners_and_centre, RECTANGLES[label])
    area = 1.0 if label == 0 else 0.75
    assert log_p.tolist() == pytest.approx([-math.log(area)] * 3 + [-math.inf])


def test_one_rectangle_and_one_sigma_for_each_point(points, generator):
    labels = torch.randint(5, (len(points),), generator=generator)
    sigma = torch.rand(len(points), generator=generator, dtype=torch.float64) + 0.01
    together = exact.ideal_noise(points, sigma, RECTANGLES[labels].transpose(0, 1))
    singly = [
        exact.ideal_noise(point[None], s, RECTANGLES[k])[0]
        for point, s, k in zip(points, sigma.tolist(), labels, strict=True)
    ]
    assert torch.equal(together, torch.stack(singly))


@pytest.mark.parametrize("schedule", [Exponential(), Quadratic(), Power(0.01, 10.0)], ids=repr)
@pytest.mark.parametrize("corners", [SQUARE, RECTANGLES[1]], ids=["square", "top"])
def test_bayes_loss_is_the_loss_of_the_ideal_noise(schedule, corners, generator):
    n = 200_000
    x_0 = uniform(n, corners, generator=generator, dtype=torch.float64)
    sigma = schedule.sigma(torch.rand(n, generator=generator, dtype=torch.float64))
    eps = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    x_t = x_0 + sigma[:, None] * eps
    loss = (eps - exact.ideal_noise(x_t, sigma, corners)).square().mean(dim=1)
    error = loss.std().item() / math.sqrt(n)
    assert abs(loss.mean().item() - exact.bayes_loss(schedule, corners)) < 4 * error


def test_bayes_loss_of_the_exercise():
    assert exact.bayes_loss(Exponential()) == pytest.approx(0.8273, abs=5e-5)


def test_exact_denoiser_without_classes(points):
    model = exact.ExactDenoiser()
    assert torch.equal(model(points, 0.7), exact.ideal_noise(points, model.schedule.sigma(0.7)))
    assert torch.allclose(model.covariance, torch.eye(2, dtype=torch.float64) / 3)
    assert not model.mean.any()
    with pytest.raises(ValueError, match="unconditional"):
        model(points, 0.7, 0)


def test_exact_denoiser_with_classes(points):
    model = exact.ExactDenoiser(rectangles=RECTANGLES)
    labels = torch.arange(len(points)) % 5
    answer = model(points, 0.5, labels)
    for k in range(5):
        alone = exact.ideal_noise(points, model.schedule.sigma(0.5), RECTANGLES[k])
        assert torch.equal(model(points, 0.5, k), alone)
        assert torch.equal(answer[labels == k], alone[labels == k])
        low, high = RECTANGLES[k]
        assert torch.equal(model.mean[k], (low + high) / 2)
        assert torch.allclose(model.covariance[k], torch.diag((high - low) ** 2 / 12))
    for bad in (None, 5, -1, torch.zeros(3, dtype=torch.int64)):
        with pytest.raises(ValueError, match="labels"):
            model(points, 0.5, bad)


def test_bayes_loss_of_classes_weighs_them_by_area():
    schedule = Exponential()
    losses = [exact.bayes_loss(schedule, rectangle) for rectangle in RECTANGLES]
    expected = (losses[0] * 1.0 + sum(losses[1:]) * 0.75) / 4
    assert exact.bayes_loss_of_classes(schedule) == pytest.approx(expected, abs=1e-12)
    # Knowing more can only help.
    assert exact.bayes_loss_of_classes(schedule) < exact.bayes_loss(schedule)
