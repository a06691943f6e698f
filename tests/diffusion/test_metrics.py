"""Every measure against a hand-made case, a closed form, or another implementation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffusion import exact, metrics
from diffusion.data import RECTANGLES, SQUARE, uniform
from diffusion.exact import ExactDenoiser

N = 20_000
# One point in each cell.
CENTRES = torch.cartesian_prod(*[torch.linspace(-0.9, 0.9, 10)] * 2)


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        (CENTRES, 0.0),
        (torch.full((7, 2), 0.05), 0.99),
        (torch.full((7, 2), 1.001), 1.0),
        (torch.tensor([[0.05, 0.05], [3.0, 0.0]]), 0.99),
        (torch.cat([CENTRES, CENTRES + 2]), 0.5),
        (CENTRES[:50], 0.5),
        # The upper border belongs to the last cell: these are the four corner cells.
        (torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]]), 0.96),
    ],
)
def test_tv10_of_hand_made_points(points, expected):
    assert metrics.tv10(points) == pytest.approx(expected, abs=1e-12)


@given(st.integers(0, 2**32), st.floats(0.2, 2))
def test_tv10_agrees_with_a_histogram(seed, scale):
    points = scale * np.random.default_rng(seed).standard_normal((500, 2))
    share = np.histogram2d(*points.T, bins=10, range=[[-1, 1], [-1, 1]])[0] / 500
    expected = (np.abs(share - 0.01).sum() + 1 - share.sum()) / 2
    assert metrics.tv10(torch.from_numpy(points)) == pytest.approx(expected, abs=1e-12)


def test_tv10_of_uniform_points_is_its_expectation(generator):
    # n_cell is binomial, so the expectation is 100/2 times the mean deviation of n_cell / n.
    count = np.arange(N + 1)
    share, probability = count / N, scipy.stats.binom(N, 0.01).pmf(count)
    expected = 50 * (np.abs(share - 0.01) * probability).sum()
    assert expected == pytest.approx(0.0281, abs=5e-5)
    values = [metrics.tv10(uniform(N, generator=generator)) for _ in range(20)]
    assert abs(np.mean(values) - expected) < 4 * np.std(values, ddof=1) / math.sqrt(20)


@given(st.integers(0, 2**32), st.floats(0.2, 2))
def test_ks_agrees_with_scipy(seed, scale):
    points = scale * np.random.default_rng(seed).standard_normal((300, 2))
    uniform_law = scipy.stats.uniform(-1, 2).cdf
    expected = max(scipy.stats.kstest(column, uniform_law).statistic for column in points.T)
    assert metrics.ks(torch.from_numpy(points)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("point", "expected"),
    [
        ((0.0, 0.0), 1.0),
        ((0.9, -0.3), 0.1),
        ((1.0, 0.5), 0.0),
        ((1.0, 1.0), 0.0),
        ((3.0, 0.5), -2.0),
        ((-4.0, 5.0), -5.0),
    ],
)
def test_border_distance_of_known_points(point, expected):
    distance = metrics.border_distance(torch.tensor([point], dtype=torch.float64))
    assert distance.dtype == torch.float64
    assert distance.item() == pytest.approx(expected, abs=1e-15)


@given(st.integers(0, 4), st.floats(-3, 3), st.floats(-3, 3))
def test_border_distance_is_the_distance_to_the_nearest_side(label, x, y):
    (left, bottom), (right, top) = RECTANGLES[label].tolist()
    beside = [math.hypot(x - side, y - min(max(y, bottom), top)) for side in (left, right)]
    above = [math.hypot(x - min(max(x, left), right), y - side) for side in (bottom, top)]
    sign = 1 if left <= x <= right and bottom <= y <= top else -1
    point = torch.tensor([[x, y]], dtype=torch.float64)
    distance = metrics.border_distance(point, RECTANGLES[label]).item()
    assert distance == pytest.approx(sign * min(beside + above), abs=1e-14)


def test_outside_share():
    points = torch.tensor([[0.0, 0.0], [1.0, -1.0], [1.0001, 0.0], [0.0, -7.0]])
    assert metrics.outside_share(points) == 0.5
    assert metrics.outside_share(points, RECTANGLES[0]) == 0.75


@pytest.mark.parametrize("label", range(5))
def test_measures_of_a_class_are_those_of_the_square_stretched(label, generator):
    points = 1.1 * uniform(1000, generator=generator, dtype=torch.float64)
    low, high = RECTANGLES[label]
    stretched = low + (high - low) * (points + 1) / 2
    for measure in (metrics.tv10, metrics.ks, metrics.outside_share):
        expected = pytest.approx(measure(points, SQUARE), abs=1e-12)
        assert measure(stretched, RECTANGLES[label]) == expected


class ZeroPredictor(ExactDenoiser):
    def noise(self, x, sigma, labels=None):
        return torch.zeros_like(x)


def test_excess_risk_of_the_ideal_and_of_the_zero_prediction():
    model = ExactDenoiser()
    assert metrics.excess_risk(model, num_samples=N) < 1e-12
    # Zero is wrong by eps* itself, and E[eps*^2] = 1 - (Bayes loss) <= 1; eps*^2 varies by less
    # than eps^2, whose variance is 2.
    excess = metrics.excess_risk(ZeroPredictor(), num_samples=N)
    error = math.sqrt(2 / (2 * N))
    assert excess == pytest.approx(1 - exact.bayes_loss(model.schedule), abs=4 * error)
    assert excess == metrics.excess_risk(ZeroPredictor(), num_samples=N, seed=0)
    assert excess != metrics.excess_risk(ZeroPredictor(), num_samples=N, seed=1)


def test_excess_risk_within_a_class():
    model = ExactDenoiser(rectangles=RECTANGLES)
    right = {"rectangle": RECTANGLES[2], "num_samples": N}
    assert metrics.excess_risk(model, label=2, **right) < 1e-12
    assert metrics.excess_risk(model, label=4, **right) > 0.1


def test_floor_of_tv10_is_that_of_repeated_uniform_points():
    n = 1000
    # E|n_cell/n - 1/100| = sqrt(2 p (1 - p) / (pi n)) for a binomial count that is nearly normal.
    expected = 0.5 * 100 * math.sqrt(2 * 0.01 * 0.99 / (math.pi * n))
    assert metrics.uniform_tv10(n, repeats=50) == pytest.approx(expected, rel=0.03)
    assert metrics.uniform_tv10(n, repeats=3) == metrics.uniform_tv10(n, repeats=3)


@pytest.mark.parametrize("label", range(5))
def test_border_profile_of_uniform_points_is_one_and_of_an_inner_part_zero_at_the_border(
    label, generator
):
    rectangle, n = RECTANGLES[label], 200_000
    bins = torch.tensor([0.0, 0.05, 0.1, 0.2], dtype=torch.float64)
    points = uniform(n, rectangle, generator=generator)
    profile = metrics.border_profile(points, rectangle, bins)
    width, height = rectangle[1] - rectangle[0]
    nearer = 1 - (width - 2 * bins) * (height - 2 * bins) / (width * height)
    share = torch.diff(nearer)
    assert ((profile - 1).abs() < 4 * ((1 - share) / (n * share)).sqrt()).all()
    centre = rectangle.mean(dim=0)
    inner = centre + (points - centre) * (1 - 0.1 / torch.stack([width, height]))  # 0.05 inside
    assert metrics.border_profile(inner, rectangle, bins)[0] < 1e-3
