"""What may be asked of a model: the checks that every public function shares."""

from __future__ import annotations

from numbers import Integral

import torch
from torch import Tensor


def check_points(x: Tensor, name: str = "x", n: int | None = None) -> Tensor:
    """x itself, if it is a tensor of shape (n, 2) and finite.

    Raises:
        ValueError: otherwise.
    """
    if not torch.is_tensor(x):
        raise ValueError(f"{name} must be a tensor, not {type(x).__name__}")
    if x.is_complex():
        raise ValueError(f"{name} must be real, not {x.dtype}")
    if x.ndim != 2 or x.shape[1] != 2 or (n is not None and len(x) != n):
        expected = "n" if n is None else n
        raise ValueError(f"{name} must have shape ({expected}, 2), not {tuple(x.shape)}")
    if not x.isfinite().all():
        raise ValueError(f"{name} contains a value that is NaN or infinite")
    return x


def check_count(name: str, value: int, least: int = 1) -> None:
    """Refuse a number that is not whole, or too small.

    Raises:
        ValueError: then.
    """
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, not {value}")


def check_seed(seed: int) -> None:
    """Refuse a seed that is not whole, or outside 0..2^60 - 1.

    Raises:
        ValueError: then.
    """
    check_count("seed", seed, least=0)
    if seed >= 2**60:
        raise ValueError(f"seed must be below 2^60, not {seed}")


def check_stage(t: int | Tensor, least: int, most: int) -> Tensor:
    """Stages of a process as an int64 tensor, () or (n,).

    Raises:
        ValueError: t is not whole, or outside least..most.
    """
    t = torch.as_tensor(t)
    if t.dtype != torch.int64 or t.ndim > 1:
        raise ValueError(f"t must be a whole number or (n,) of them, not {t.dtype} {t.tolist()}")
    if not ((t >= least) & (t <= most)).all():
        raise ValueError(f"t must be in {least}..{most}")
    return t


def check_labels(
    labels: int | Tensor | None, n: int, num_classes: int, device: torch.device
) -> Tensor | None:
    """Labels as (n,) int64 on the device, or None for an unconditional model.

    Raises:
        ValueError: missing, out of range, of the wrong shape, or given where there are none.
    """
    if not num_classes:
        if labels is not None:
            raise ValueError("an unconditional model takes no labels")
        return None
    if labels is None:
        raise ValueError(f"this model needs labels in 0..{num_classes - 1}")
    labels = torch.as_tensor(labels, device=device)
    if labels.dtype != torch.int64 or labels.shape not in {(), (n,)}:
        raise ValueError(
            f"labels must be one int or {n} int64 numbers, "
            f"not {labels.dtype} of shape {tuple(labels.shape)}"
        )
    if not ((labels >= 0) & (labels < num_classes)).all():
        raise ValueError(f"labels must be in 0..{num_classes - 1}")
    return labels.expand(n)
