"""95 % intervals of measured shares and correlations."""

import math
from typing import NamedTuple

Z = 1.959964  # standard normal quantile of 0.975


class Correlation(NamedTuple):
    """A Pearson correlation of n pairs with its interval by Fisher's z transformation."""

    r: float
    n: int
    low: float
    high: float


def correlation_interval(r, n):
    """Correlation of r in [-1, 1] from n > 3 independent pairs (Fisher 1921): z = atanh(r) is
    about normal with standard deviation 1/sqrt(n - 3)."""
    z = math.atanh(max(-1 + 1e-15, min(1 - 1e-15, r)))
    half = Z / math.sqrt(n - 3)
    return Correlation(r, n, math.tanh(z - half), math.tanh(z + half))


def share_interval(successes, trials):
    """(low, high) of a probability by Wilson's score interval (1927), for trials >= 1."""
    share, spread = successes / trials, Z**2 / trials
    middle = (share + spread / 2) / (1 + spread)
    half = math.sqrt(share * (1 - share) * spread + spread**2 / 4) / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)
