"""The intervals hold what they promise: coverage over repeated draws, and known values."""

import math

import pytest
import torch

from mingpt.intervals import correlation_interval, share_interval


def test_known_values():
    assert share_interval(20, 20) == pytest.approx((0.83887, 1.0), abs=1e-5)
    assert share_interval(0, 10) == pytest.approx((0.0, 0.27753), abs=1e-5)
    found = correlation_interval(0.5, 28)  # atanh(0.5) -+ 1.96 / 5
    assert found[2:] == pytest.approx(
        (math.tanh(math.atanh(0.5) - 0.391993), math.tanh(math.atanh(0.5) + 0.391993)), abs=1e-5
    )
    assert correlation_interval(1.0, 9).high == pytest.approx(1)


def test_nineteen_of_twenty_intervals_hold_the_truth():
    """Of 1,000 repeats the share that holds it scatters by 0.007 about 0.95; four are allowed."""
    generator = torch.Generator().manual_seed(0)
    held = 0
    for _ in range(1000):
        a, noise = torch.randn(2, 20, generator=generator)
        r = torch.corrcoef(torch.stack([a, 0.6 * a + 0.8 * noise]))[0, 1].item()
        found = correlation_interval(r, 20)
        held += found.low < 0.6 < found.high
    assert held / 1000 == pytest.approx(0.95, abs=0.028)
    heads = torch.binomial(torch.full((1000,), 40.0), torch.tensor(0.3), generator=generator)
    held = sum(low < 0.3 < high for low, high in (share_interval(int(k), 40) for k in heads))
    assert held / 1000 == pytest.approx(0.95, abs=0.028)
