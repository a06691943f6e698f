"""The data: points uniform on the square [-1, 1]^2, and its five classes.

The classes are a pinwheel of axis-aligned rectangles that tile the square exactly, so the truth is
known in closed form within each class as well (see `diffusion.exact`).
"""

from __future__ import annotations

import torch
from torch import Tensor

MIN_POINTS, MAX_POINTS = 1000, 3000

CLASS_NAMES = ("centre", "top", "right", "bottom", "left")
NUM_CLASSES = len(CLASS_NAMES)

# Lower-left and upper-right corners, (low, high), of the square and of each class's rectangle.
SQUARE = torch.tensor([[-1.0, -1.0], [1.0, 1.0]], dtype=torch.float64)
RECTANGLES = torch.tensor(
    [
        [[-0.5, -0.5], [0.5, 0.5]],
        [[-1.0, 0.5], [0.5, 1.0]],
        [[0.5, -0.5], [1.0, 1.0]],
        [[-0.5, -1.0], [1.0, -0.5]],
        [[-1.0, -1.0], [-0.5, 0.5]],
    ],
    dtype=torch.float64,
)


def uniform(
    n: int, rectangle: Tensor = SQUARE, *, generator: torch.Generator, dtype=torch.float32
) -> Tensor:
    """n points uniform on a rectangle given as (2, 2) rows (low, high) -> (n, 2)."""
    low, high = rectangle.to(dtype)
    return low + (high - low) * torch.rand(n, 2, generator=generator, dtype=dtype)


def training_points(n: int = MAX_POINTS, *, seed: int = 0) -> Tensor:
    """The training data: n points uniform on the square, (n, 2) float32.

    Raises:
        ValueError: n outside 1000..3000, the range the exercise allows.
    """
    if not MIN_POINTS <= n <= MAX_POINTS:
        raise ValueError(f"the number of points must be in {MIN_POINTS}..{MAX_POINTS}, not {n}")
    return uniform(n, generator=torch.Generator().manual_seed(seed))


def inside(points: Tensor, rectangle: Tensor = SQUARE) -> Tensor:
    """Which of the points (n, 2) lie in the closed rectangle (2, 2) -> (n,) bool."""
    low, high = rectangle.to(points)
    return ((points >= low) & (points <= high)).all(dim=1)


def class_of(points: Tensor) -> Tensor:
    """The class of each point (n, 2) -> (n,) int64; on a shared border the lower number wins.

    Raises:
        ValueError: a point outside the square, which belongs to no class.
    """
    membership = torch.stack([inside(points, rectangle) for rectangle in RECTANGLES])
    if not membership.any(dim=0).all():
        raise ValueError("only points in the square [-1, 1]^2 have a class")
    return membership.to(torch.int8).argmax(dim=0)


# _TURNED[r][k]: the class whose rectangle r quarter turns, (x, y) -> (-y, x), make of class k's.
_TURNED = torch.tensor([[0, 1, 2, 3, 4], [0, 4, 1, 2, 3], [0, 3, 4, 1, 2], [0, 2, 3, 4, 1]])


def turn(points: Tensor, labels: Tensor | None, turns: Tensor) -> tuple[Tensor, Tensor | None]:
    """Turn points (n, 2) by `turns` (n,) int64 times 90 degrees, with their classes (n,)."""
    cos, sin = torch.tensor([[1, 0, -1, 0], [0, 1, 0, -1]]).to(points)[:, turns]
    x, y = points.T
    turned = torch.stack([cos * x - sin * y, sin * x + cos * y], dim=1)
    return turned, None if labels is None else _TURNED.to(labels)[turns, labels]


def random_turns(
    points: Tensor, labels: Tensor | None, generator: torch.Generator
) -> tuple[Tensor, Tensor | None]:
    """Turn each point (n, 2) by 0, 90, 180 or 270 degrees at random, with its class (n,).

    For training under the assumption that the data look the same from all four sides.
    """
    return turn(
        points, labels, torch.randint(4, (len(points),), generator=generator).to(points.device)
    )


def all_turns(points: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """All four turns of all points (n, 2) -> (4 n, 2), with their classes (4 n,)."""
    turns = torch.arange(4, device=points.device).repeat_interleave(len(points))
    return turn(points.repeat(4, 1), None if labels is None else labels.repeat(4), turns)
