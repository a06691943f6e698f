"""Statistics against closed forms, slow counts and sampling theory."""

import math

import pytest
import torch

from mingpt import statistics

GENERATOR = torch.Generator


def test_share_and_wilsons_interval():
    none = statistics.share([False] * 10)
    assert (none.value, none.standard_error, none.low, none.count) == (0, 0, 0, 10)
    assert none.high == pytest.approx(1.96**2 / (10 + 1.96**2))  # the interval's closed form at 0
    half = statistics.share([True, False] * 50)
    assert half.value == 0.5
    assert half.standard_error == pytest.approx(0.05)
    width = 1.96 / 2 * math.sqrt(1 / (100 + 1.96**2))  # and at one half
    assert (half.low, half.high) == pytest.approx((0.5 - width, 0.5 + width))
    with pytest.raises(ValueError, match="trials"):
        statistics.share([])


def test_auroc_is_the_share_of_ordered_pairs():
    generator = GENERATOR().manual_seed(0)
    scores = torch.randint(6, (60,), generator=generator).double()  # with ties
    right = torch.rand(60, generator=generator) < 0.4
    pairs = [(a > b) + (a == b) / 2 for a in scores[right] for b in scores[~right]]
    assert statistics.auroc(scores, right) == pytest.approx(float(sum(pairs)) / len(pairs))
    assert statistics.auroc([0.1, 0.9], [False, True]) == 1
    assert statistics.auroc([0.1, 0.9], [True, True]) is None


def test_uniformity_by_hand():
    test = statistics.uniformity([0, 0, 0, 1, 1, 2], kinds=3)  # counts 3, 2, 1 for 2, 2, 2
    assert test.statistic == pytest.approx(1.0)
    assert test.degrees == 2
    assert test.p_value == pytest.approx(math.exp(-0.5))  # the tail with two degrees of freedom


def test_independence_by_hand():
    # (0, 0) three times, (0, 1), (1, 0) and (1, 1) once each: expected 8/3, 4/3, 4/3, 2/3
    pairs = [(0, 0)] * 3 + [(0, 1), (1, 0), (1, 1)]
    test = statistics.independence(pairs, kinds=2)
    expected = (1 / 9) * (3 / 8 + 3 / 4 + 3 / 4 + 3 / 2)
    assert test.statistic == pytest.approx(expected)
    assert test.degrees == 1
    assert test.p_value == pytest.approx(math.erfc(math.sqrt(expected / 2)))


def test_independence_of_what_never_varies():
    assert statistics.independence([(0, 0), (0, 1)]).p_value == 1


@pytest.mark.parametrize("test", ["uniformity", "independence"])
def test_five_per_cent_of_fair_sequences_fail(test):
    n, shape = 400, {"uniformity": (500,), "independence": (4000, 2)}[test]
    generator = GENERATOR().manual_seed(1)
    failed = sum(
        getattr(statistics, test)(torch.randint(10, shape, generator=generator)).p_value < 0.05
        for _ in range(n)
    )
    assert abs(failed - 0.05 * n) < 4 * math.sqrt(n * 0.05 * 0.95)


def test_sequences_that_are_not_fair_fail():
    repeated = torch.arange(1000) % 10
    assert statistics.uniformity(repeated).p_value == pytest.approx(1)
    pairs = torch.stack([repeated[:-1], repeated[1:]], dim=1)
    assert statistics.independence(pairs).p_value < 1e-12
    assert statistics.uniformity(repeated // 2).p_value < 1e-12
