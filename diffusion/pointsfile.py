"""Points of one's own: an .npy file of points in the plane, with or without classes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diffusion.checks import check_seed

LEAST, MOST = 100, 1_000_000  # points in a file
LEAST_OF_A_CLASS = 10  # so that a tenth is one, and a covariance is left


@dataclass(frozen=True)
class Points:
    """Points with a tenth of them held out.

    training, held_out: (n, 2) and (m, 2) float32. labels, held_out_labels: (n,) and (m,) int64 in
    0..K-1, None without classes. names: the K numbers that the classes have in the file, as text.
    """

    training: Tensor
    held_out: Tensor
    labels: Tensor | None
    held_out_labels: Tensor | None
    names: tuple[str, ...]


def read(path: str | Path, *, seed: int = 0) -> Points:
    """Read an array (n, 2), or (n, 3) with classes in the third column, and hold a tenth out.

    A tenth of every class is held out, chosen at random by the seed. The numbers of the classes may
    have gaps; they are renumbered in rising order.

    Raises:
        ValueError: saying in one line what the file holds, and what it has to hold.
    """
    array = _array(Path(path))
    points = _points(array[:, :2], path)
    if array.shape[1] == 2:
        labels, names = torch.zeros(len(points), dtype=torch.int64), ()
    else:
        labels, names = _classes(array[:, 2], path)
    generator = torch.Generator().manual_seed(check_seed(seed))
    kept, held_out = [], []
    for k in range(max(1, len(names))):
        rows = torch.nonzero(labels == k).flatten()
        rows = rows[torch.randperm(len(rows), generator=generator)]
        held_out.append(rows[: len(rows) // 10])
        kept.append(rows[len(rows) // 10 :])
    a, b = torch.cat(kept).sort().values, torch.cat(held_out).sort().values
    if not names:
        return Points(points[a], points[b], None, None, ())
    return Points(points[a], points[b], labels[a], labels[b], names)


def _array(path: Path) -> np.ndarray:
    """The file's array of numbers, (n, 2) or (n, 3)."""
    if path.is_dir():
        raise ValueError(f"{path} is a folder, not a .npy file of points")
    try:
        with path.open("rb") as file:
            if file.read(6) != b"\x93NUMPY":
                raise ValueError(f"{path} is not a .npy file; numpy.save writes one")
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise ValueError(f"there is no file {path}") from None
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror or error}") from None
    except ValueError as error:
        if "not a .npy" in str(error):
            raise
        why = "it holds Python objects" if "object" in str(error).lower() else "it is damaged"
        raise ValueError(f"{path} is no array of numbers: {why}") from None
    if array.dtype.kind not in "iuf":
        raise ValueError(f"{path} must hold real numbers, not {array.dtype}")
    if array.ndim != 2 or array.shape[1] not in (2, 3):
        raise ValueError(
            f"{path} must have shape (n, 2), or (n, 3) with classes, not {array.shape}"
        )
    if not LEAST <= len(array) <= MOST:
        raise ValueError(f"{path} must hold {LEAST} to {MOST:,} points, not {len(array):,}")
    return array


def _points(columns: np.ndarray, path) -> Tensor:
    """Coordinates (n, 2) as float32, which has to tell them apart."""
    values = np.asarray(columns, dtype=np.float64)
    if not np.isfinite(values).all():
        row = int(np.nonzero(~np.isfinite(values).all(axis=1))[0][0])
        raise ValueError(f"{path} has a coordinate that is NaN or infinite, in row {row}")
    largest, spread = np.abs(values).max(), values.std(axis=0)
    if not 1e-15 <= largest <= 1e15:
        raise ValueError(f"{path} has coordinates of up to {largest:g}; scale them to 1e-15..1e15")
    if not (spread > 1e-4 * np.abs(values.mean(axis=0))).all():
        raise ValueError(
            f"{path} has coordinates that hardly vary: their standard deviations are "
            f"{spread[0]:g} and {spread[1]:g}; subtract their mean, and no column may be constant"
        )
    return torch.from_numpy(values.astype(np.float32))


def _classes(column: np.ndarray, path) -> tuple[Tensor, tuple[str, ...]]:
    """Labels (n,) in 0..K-1, and the K numbers of the file."""
    if not (np.isfinite(column).all() and (column == np.round(column)).all()):
        raise ValueError(f"{path} has classes (third column) that are not whole numbers")
    if column.min() < 0:
        raise ValueError(f"{path} has a negative class, {column.min():g}; classes start at 0")
    found, labels, counts = np.unique(column, return_inverse=True, return_counts=True)
    if len(found) < 2:
        raise ValueError(
            f"{path} has one class only; classes need at least 2, without them leave the third "
            "column out"
        )
    if counts.min() < LEAST_OF_A_CLASS:
        few = counts.argmin()
        raise ValueError(
            f"{path} has {counts[few]} points of class {found[few]:g} (there are {len(found)} "
            f"classes); every class needs at least {LEAST_OF_A_CLASS}"
        )
    return torch.from_numpy(labels.reshape(-1)), tuple(str(int(value)) for value in found)
