"""Distances between sets of points: closed forms, brute force, and what their test promises."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion import distances


def normal(n: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    points = torch.from_numpy(np.random.default_rng(seed).standard_normal((n, 2)))
    return points + torch.tensor([shift, 0.0], dtype=torch.float64)


def test_energy_distance_of_two_points_is_twice_their_distance():
    a, b = torch.tensor([[1.0, 2.0]]), torch.tensor([[4.0, 6.0]])
    assert distances.energy_distance(a, b) == 10
    assert distances.energy_distance(a, a) == 0


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**32))
@settings(max_examples=20)
def test_energy_distance_is_the_sum_over_pairs(n, m, seed):
    a, b = normal(n, seed), normal(m, seed + 1, shift=1.0)

    def mean(x, y):
        return np.mean([math.dist(p, q) for p, q in itertools.product(x.tolist(), y.tolist())])

    expected = 2 * mean(a, b) - mean(a, a) - mean(b, b)
    assert distances.energy_distance(a, b) == pytest.approx(expected, abs=1e-12)
    assert distances.permutation_test(a, b, permutations=1)[0] == pytest.approx(expected, abs=1e-12)


def test_energy_distance_agrees_with_scipy_on_a_line():
    a, b = normal(300, 0), normal(200, 1, shift=0.5)
    a[:, 1] = b[:, 1] = 0
    # On a line 2 E|A-B| - E|A-A'| - E|B-B'| = 2 int (F - G)^2, the square of scipy's distance.
    expected = scipy.stats.energy_distance(a[:, 0], b[:, 0]) ** 2
    assert distances.energy_distance(a, b) == pytest.approx(expected, rel=1e-10)


def test_energy_distance_is_held_in_parts_and_keeps_its_units(monkeypatch):
    a, b = normal(70, 0), normal(50, 1)
    whole = distances.energy_distance(a, b)
    monkeypatch.setattr(distances, "_ROWS", 16)
    assert distances.energy_distance(a, b) == pytest.approx(whole, rel=1e-12)
    moved = distances.energy_distance(50 * a + 1000, 50 * b + 1000)
    assert moved == pytest.approx(50 * whole, rel=1e-9)


def test_p_value_is_the_share_of_all_splits():
    """Six points have 20 splits into threes: many random ones come near the exact share."""
    a, b = normal(3, 5), normal(3, 6, shift=1.5)
    together = torch.cat([a, b])
    observed = distances.energy_distance(a, b)
    values = []
    for chosen in itertools.combinations(range(6), 3):
        rest = [i for i in range(6) if i not in chosen]
        values.append(distances.energy_distance(together[list(chosen)], together[rest]))
    exact = np.mean(np.array(values) >= observed - 1e-9)
    _, found = distances.permutation_test(a, b, permutations=4000)
    assert abs(found - exact) < 4 * math.sqrt(exact * (1 - exact) / 4000) + 1 / 4000


def test_level_of_the_permutation_test():
    """Of 400 tests of equal laws at the level 0.1, no more are rejected than chance allows."""
    p_values = [
        distances.permutation_test(normal(25, 2 * i), normal(15, 2 * i + 1), permutations=99)[1]
        for i in range(400)
    ]
    rejected = sum(p <= 0.1 for p in p_values)
    low, high = scipy.stats.binom(400, 0.1).ppf([0.0005, 0.9995])
    assert low <= rejected <= high
    assert min(p_values) >= 0.01  # 1 / (1 + permutations)


def test_power_against_a_shift():
    for seed in range(10):
        _, p_value = distances.permutation_test(
            normal(100, seed), normal(80, seed + 100, shift=1.0), permutations=199
        )
        assert p_value == 1 / 200


def test_the_seed_fixes_the_splits_and_equal_sets_are_never_told_apart():
    a, b = normal(40, 0), normal(30, 1)
    assert distances.permutation_test(a, b, seed=3) == distances.permutation_test(a, b, seed=3)
    assert distances.permutation_test(a, a)[1] == 1.0


@given(st.integers(1, 40), st.integers(0, 2**32), st.booleans())
@settings(max_examples=40)
def test_assignment_costs_no_more_than_scipys(n, seed, ties):
    random = np.random.default_rng(seed)
    cost = random.integers(0, 4, (n, n)).astype(float) if ties else random.random((n, n))
    columns = distances.assignment(cost)
    assert sorted(columns) == list(range(n))
    rows, expected = scipy.optimize.linear_sum_assignment(cost)
    assert cost[np.arange(n), columns].sum() == pytest.approx(cost[rows, expected].sum())


def test_w2_of_a_shift_is_its_length():
    a = normal(60, 0)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    shifted = (a + torch.tensor([3.0, 4.0]))[order]
    assert distances.w2(a, shifted) == pytest.approx(5.0, rel=1e-12)


def test_w2_ratio_of_true_points_is_about_one_and_of_others_larger():
    training, held_out, fresh = normal(900, 0), normal(100, 1), normal(900, 2)
    ratio, size = distances.w2_ratio(fresh, held_out, training)
    assert size == 100
    assert ratio == pytest.approx(1, abs=0.15)
    assert distances.w2_ratio(2 * fresh, held_out, training)[0] > 1.5


def test_nearest_is_found_in_parts():
    points, reference = normal(600, 0), normal(50, 1)
    expected = np.linalg.norm(points[:, None] - reference[None], axis=2).argmin(axis=1)
    assert distances.nearest(points, reference).tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("a", "b", "complaint"),
    [
        (torch.zeros(3, 3), torch.zeros(3, 2), "shape"),
        (torch.zeros(0, 2), torch.zeros(3, 2), "a has no points"),
        (torch.zeros(3, 2), torch.full((3, 2), torch.nan), "NaN"),
    ],
)
def test_what_is_not_points_is_refused(a, b, complaint):
    for measure in (distances.energy_distance, distances.permutation_test, distances.w2):
        with pytest.raises(ValueError, match=complaint):
            measure(a, b)
    with pytest.raises(ValueError, match="same number"):
        distances.w2(torch.zeros(3, 2), torch.zeros(4, 2))
    with pytest.raises(ValueError, match="permutations"):
        distances.permutation_test(torch.zeros(3, 2), torch.zeros(4, 2), permutations=0)


def test_w2_ratio_of_points_that_coincide_is_not_a_number():
    same = torch.ones(20, 2)
    assert distances.w2_ratio(normal(20, 0), same, same) == (None, 20)
