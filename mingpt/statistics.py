"""What counts say: intervals of shares, ranks of right over wrong, tests of randomness."""

import math
from typing import NamedTuple

import torch


class Share(NamedTuple):
    """A share of `count` independent trials."""

    value: float
    standard_error: float  # of the value, sqrt(p (1 - p) / n)
    low: float  # Wilson's interval of 95 % (1927), which holds at 0 and 1 too
    high: float
    count: int


def share(hits, z=1.96):
    """The Share of trials hits (n,), bools, that are True. Raises ValueError for none."""
    hits = torch.as_tensor(hits, dtype=torch.float64)
    n = len(hits)
    if n == 0:
        raise ValueError("there should be trials to count, not none")
    p = hits.mean().item()
    middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return Share(p, math.sqrt(p * (1 - p) / n), max(0.0, middle - half), min(1.0, middle + half), n)


def percent(shares):
    """The values of shares, dicts, in per cent, as text."""
    return " ".join(f"{100 * each['value']:5.1f}" for each in shares)


def auroc(scores, positive):
    """Area under the ROC curve: P(score of a positive > of a negative), ties counted half.

    scores (n,) floats, positive (n,) bools. None where one of the two kinds is missing.
    """
    scores = torch.as_tensor(scores, dtype=torch.float64)
    positive = torch.as_tensor(positive, dtype=torch.bool)
    above, below = scores[positive], scores[~positive]
    if not (len(above) and len(below)):
        return None
    order = below.sort().values
    smaller = torch.searchsorted(order, above, right=False)
    not_larger = torch.searchsorted(order, above, right=True)
    return ((smaller + not_larger).double().mean() / (2 * len(below))).item()


class Test(NamedTuple):
    """A chi-square test."""

    statistic: float
    degrees: int  # of freedom
    p_value: float  # of the chi-square distribution, right where all expected counts are large


def uniformity(digits, kinds=10):
    """Test that digits (n,) int64 in 0 to kinds - 1 are equally frequent (Pearson 1900)."""
    counts = torch.bincount(torch.as_tensor(digits), minlength=kinds).double()
    expected = counts.sum() / kinds
    return _test(((counts - expected) ** 2 / expected).sum(), kinds - 1)


def independence(pairs, kinds=10):
    """Test that the two members of pairs (n, 2) int64 are independent, in the table of both.

    Rows and columns that never occur are left out.
    """
    pairs = torch.as_tensor(pairs)
    table = torch.bincount(pairs[:, 0] * kinds + pairs[:, 1], minlength=kinds**2).double()
    table = table.view(kinds, kinds)
    table = table[table.sum(1) > 0][:, table.sum(0) > 0]
    expected = table.sum(1, keepdim=True) * table.sum(0, keepdim=True) / table.sum()
    degrees = (table.shape[0] - 1) * (table.shape[1] - 1)
    return _test(((table - expected) ** 2 / expected).sum(), degrees)


def _test(statistic, degrees):
    if degrees == 0:
        return Test(0.0, 0, 1.0)
    half = torch.tensor(degrees / 2, dtype=torch.float64)
    return Test(float(statistic), degrees, torch.special.gammaincc(half, statistic / 2).item())
