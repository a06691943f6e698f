"""Distances between two sets of points whose law is not known: energy distance and W2.

A model of points that came from a file has no closed-form truth beside it. What is left is to ask
whether its samples could be told from points of the same file that it has never seen.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from diffusion.checks import as_tensor, check_count, check_points, check_seed

_ROWS = 2048  # rows of a matrix of distances that are held at once


def subsample(points: Tensor, most: int, *, seed: int = 0) -> Tensor:
    """The points (n, 2) in random order, `most` of them if there are more."""
    points = as_tensor(points, "points")
    generator = torch.Generator().manual_seed(check_seed(seed))
    return points[torch.randperm(len(points), generator=generator)[:most]]


def _lengths(a: Tensor, b: Tensor) -> Tensor:
    """Distances (n, m) between a (n, 2) and b (m, 2), without cancellation."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def _check(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    for name, points in (("a", a), ("b", b)):
        if not len(points):
            raise ValueError(f"{name} has no points")
    return check_points(a, "a").detach().double(), check_points(b, "b").detach().double()


def energy_distance(a: Tensor, b: Tensor) -> float:
    """2 E|A - B| - E|A - A'| - E|B - B'| (Szekely and Rizzo 2004, 2013), in units of length.

    Each mean is over all pairs, a point with itself included, so the value is never negative, and
    zero for equal sets only. Under equal laws its expectation is (1/n + 1/m) E|A - A'|. Memory is
    that of 2048 (n + m) distances.

    Args:
        a, b: (n, 2) and (m, 2).

    Raises:
        ValueError: other shapes, no points, or a value that is NaN or infinite.
    """
    a, b = _check(a, b)

    def mean(x: Tensor, y: Tensor) -> float:
        return sum(_lengths(rows, y).sum().item() for rows in x.split(_ROWS)) / (len(x) * len(y))

    return max(0.0, 2 * mean(a, b) - mean(a, a) - mean(b, b))


def permutation_test(
    a: Tensor, b: Tensor, *, permutations: int = 999, seed: int = 0
) -> tuple[float, float]:
    """The energy distance, and the p-value of the hypothesis that a and b have the same law.

    The p-value is the share, the observed split counted in, of random splits of all points into
    sets of these sizes that are at least as far apart: under the hypothesis it is at most alpha
    with probability at most alpha, for any n and m (Szekely and Rizzo 2013, section 6).

    Args:
        a, b: (n, 2) and (m, 2); all (n + m)^2 distances are held in memory.
        permutations: number of random splits.
        seed: of the splits.

    Raises:
        ValueError: as `energy_distance`, or permutations or seed out of range.
    """
    permutations, seed = check_count("permutations", permutations), check_seed(seed)
    a, b = _check(a, b)
    together = torch.cat([a, b])
    # With weights w = 1/n on one set and -1/m on the other the energy distance is -w^T D w.
    weights = torch.cat([a.new_full((len(a),), 1 / len(a)), b.new_full((len(b),), -1 / len(b))])
    generator = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(len(weights), generator=generator) for _ in range(permutations)]
    # (n + m, 1 + permutations)
    w = torch.stack([weights, *(weights[order] for order in orders)], dim=1)
    values = -(w * (_lengths(together, together) @ w)).sum(dim=0)
    observed = values[0].item()
    # Splits that are equal but for rounding count as equally far apart.
    as_far = (values[1:] >= observed - 1e-12 * abs(observed)).sum().item()
    return max(0.0, observed), (1 + as_far) / (1 + permutations)


def w2(a: Tensor, b: Tensor) -> float:
    """Wasserstein-2 distance of two sets of n points, by optimal assignment; units of length.

    Args:
        a, b: (n, 2) each; the time grows like n^3 (tenths of a second for 500 points).

    Raises:
        ValueError: as `energy_distance`, or sets of different sizes.
    """
    a, b = _check(a, b)
    if len(a) != len(b):
        raise ValueError(f"both sets need the same number of points, not {len(a)} and {len(b)}")
    cost = _lengths(a, b).square().numpy()
    return math.sqrt(cost[np.arange(len(a)), assignment(cost)].mean())


def assignment(cost: np.ndarray) -> np.ndarray:
    """The column of each row (n,) that minimise the sum of a finite cost matrix (n, n).

    Shortest augmenting paths with dual prices of rows and columns (Kuhn 1955; Jonker and Volgenant
    1987): row by row, the cheapest path to a free column is flipped.
    """
    n = len(cost)
    row_price, column_price = np.zeros(n), np.zeros(n)
    row_of = np.full(n, -1)
    for start in range(n):
        length, previous = np.full(n, np.inf), np.full(n, -1)
        done = np.zeros(n, dtype=bool)
        row, column, reached = start, -1, 0.0
        scanned = []
        while row >= 0:
            scanned.append((row, reached))
            through = reached + cost[row] - row_price[row] - column_price
            shorter = ~done & (through < length)
            length[shorter], previous[shorter] = through[shorter], column
            column = int(np.where(done, np.inf, length).argmin())
            reached = length[column]
            done[column] = True
            row = row_of[column]
        for scanned_row, at in scanned:
            row_price[scanned_row] += reached - at
        column_price[done] += length[done] - reached
        while column >= 0:
            before = previous[column]
            row_of[column] = row_of[before] if before >= 0 else start
            column = before
    return np.argsort(row_of)


def mean_w2(a: Tensor, b: Tensor, size: int, *, pairs: int = 10) -> float:
    """The mean W2 of so many random pairs of sets of `size` of the points (n, 2) and (m, 2)."""
    seeds = range(0, 2 * pairs, 2)
    drawn = [(subsample(a, size, seed=i), subsample(b, size, seed=i + 1)) for i in seeds]
    return float(np.mean([w2(*pair) for pair in drawn]))


def w2_ratio(
    samples: Tensor, held_out: Tensor, training: Tensor, *, pairs: int = 10, most: int = 500
) -> tuple[float | None, int]:
    """W2 of samples to held-out points over that of training points to held-out points.

    1 says that samples lie as near to the held-out points as true points do. Both distances are
    means over so many random pairs of equal sets.

    Args:
        samples, held_out, training: (n, 2), (m, 2) and (k, 2).
        pairs: number of pairs.
        most: largest size of a set; it is that of the smallest of the three if that is less.

    Returns:
        the ratio (None where true points coincide), and the size of the sets.
    """
    size = min(most, len(samples), len(held_out), len(training))
    true = mean_w2(training, held_out, size, pairs=pairs)
    return (mean_w2(samples, held_out, size, pairs=pairs) / true if true else None), size


def nearest(points: Tensor, reference: Tensor) -> Tensor:
    """The row of reference (m, 2) that is nearest to each of the points (n, 2) -> (n,) int64."""
    points, reference = _check(points, reference)
    return torch.cat([_lengths(p, reference).argmin(dim=1) for p in points.split(256)])
