"""The data: points uniform on the square [-1, 1]^2, and its five classes.

The classes are a pinwheel of axis-aligned rectangles that tile the square exactly, so the truth is
known in closed form within each class as well (see `diffusion.exact`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from diffusion.checks import as_real, check_seed

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
    return uniform(int(n), generator=torch.Generator().manual_seed(check_seed(seed)))


def inside(points: Tensor, rectangle: Tensor = SQUARE) -> Tensor:
    """Which of the points (n, 2) lie in the closed rectangle -> (n,) bool.

    rectangle: (2, 2) rows (low, high), or (2, n, 2), one rectangle for each point.
    """
    points = as_real(points, "points")
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


# _ROTATED[r][k]: the class whose rectangle r rotations by 90 degrees make of class k's.
_ROTATED = torch.tensor([[0, 1, 2, 3, 4], [0, 4, 1, 2, 3], [0, 3, 4, 1, 2], [0, 2, 3, 4, 1]])


def rotate(points: Tensor, labels: Tensor | None, quarters: Tensor) -> tuple[Tensor, Tensor | None]:
    """Rotate points (n, 2) by `quarters` (n,) int64 times 90 degrees, with their classes (n,)."""
    cos, sin = torch.tensor([[1, 0, -1, 0], [0, 1, 0, -1]]).to(points)[:, quarters]
    x, y = points.T
    rotated = torch.stack([cos * x - sin * y, sin * x + cos * y], dim=1)
    return rotated, None if labels is None else _ROTATED.to(labels)[quarters, labels]


def random_rotations(
    points: Tensor, labels: Tensor | None, generator: torch.Generator
) -> tuple[Tensor, Tensor | None]:
    """Rotate each point (n, 2) by 0, 90, 180 or 270 degrees at random, with its class (n,).

    For training under the assumption that the data look the same from all four sides.
    """
    quarters = torch.randint(4, (len(points),), generator=generator)
    return rotate(points, labels, quarters.to(points.device))


def all_rotations(points: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """All four rotations of all points (n, 2) -> (4 n, 2), with their classes (4 n,)."""
    quarters = torch.arange(4, device=points.device).repeat_interleave(len(points))
    labels = None if labels is None else labels.repeat(4)
    return rotate(points.repeat(4, 1), labels, quarters)
