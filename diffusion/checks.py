"""What may be asked of a model: the checks that every public function shares."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from numbers import Integral

import numpy as np
import torch
from torch import Tensor

# Types of whole numbers that stand for int64 wherever one is asked for.
_WHOLE = {
    torch.int8, torch.int16, torch.int32,
    torch.uint8, torch.uint16, torch.uint32, torch.uint64,
}  # fmt: skip
_AUTOCAST = ("cpu", "cuda", "mps", "xpu")  # devices that have it


@contextmanager
def own_mode(*, gradients: bool) -> Iterator[None]:
    """Decorates what must not depend on the caller's modes: no_grad, enable_grad, inference_mode,
    autocast, and the type that new tensors have by default."""
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with ExitStack() as modes:
            modes.enter_context(torch.inference_mode(False))
            modes.enter_context(torch.set_grad_enabled(gradients))
            for device in filter(torch.is_autocast_enabled, _AUTOCAST):
                # The cache would outlast an update of the weights, where a model lowers its own.
                modes.enter_context(torch.autocast(device, enabled=False, cache_enabled=False))
            yield
    finally:
        torch.set_default_dtype(dtype)


def as_tensor(values, name: str = "x") -> Tensor:
    """Numbers as a tensor: a tensor itself, or what a NumPy array or nested lists hold.

    Raises:
        ValueError: anything else, or complex numbers.
    """
    try:
        if not torch.is_tensor(values):
            array = np.array(values)  # a copy, owned by the tensor alone
            dtype = array.dtype.newbyteorder("=")
            dtype = np.float64 if dtype == np.longdouble else dtype  # which PyTorch does not have
            values = torch.from_numpy(array.astype(dtype, copy=False))
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(
            f"{name} must be a tensor, an array or lists of numbers, not {type(values).__name__}"
        ) from None
    if values.is_complex():
        raise ValueError(f"{name} must be real, not {values.dtype}")
    return values.clone() if values.is_inference() else values


def as_real(values, name: str = "x") -> Tensor:
    """As `as_tensor`, whole numbers and booleans as float64.

    Raises:
        ValueError: as `as_tensor`.
    """
    values = as_tensor(values, name)
    return values if values.is_floating_point() else values.double()


def check_points(x, name: str = "x", n: int | None = None) -> Tensor:
    """Points as a floating-point tensor (n, 2), finite; see `as_real` for what x may be.

    Raises:
        ValueError: x is not so.
    """
    x = as_real(x, name)
    if x.ndim != 2 or x.shape[1] != 2 or (n is not None and len(x) != n):
        expected = "n" if n is None else n
        raise ValueError(f"{name} must have shape ({expected}, 2), not {tuple(x.shape)}")
    if not x.isfinite().all():
        raise ValueError(f"{name} contains a value that is NaN or infinite")
    return x


def check_range(x: Tensor, name: str = "x") -> Tensor:
    """Points that were brought to the model's type, if they are finite still.

    Raises:
        ValueError: they are not.
    """
    if not x.isfinite().all():
        raise ValueError(f"{name} is too large for the model, whose numbers are {x.dtype}")
    return x


def check_count(name: str, value: int, least: int = 1) -> int:
    """The number as an int, if it is whole and not too small.

    Raises:
        ValueError: then.
    """
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, not {value}")
    return int(value)


def check_counts(name: str, values: Iterable[int], least: int = 1) -> tuple[int, ...]:
    """Several such numbers, or none.

    Raises:
        ValueError: one of them is not, or it is a single number.
    """
    if not isinstance(values, Iterable):
        raise ValueError(f"{name} must be several whole numbers, as ({values},), not {values}")
    return tuple(check_count(name, value, least) for value in values)


def check_number(name: str, value: float) -> float:
    """The number as a float.

    Raises:
        ValueError: it is none.
    """
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{name} must be a number, not {value!r}") from None


def check_seed(seed: int) -> int:
    """The seed as an int, if it is whole and in 0..2^60 - 1.

    Raises:
        ValueError: then.
    """
    seed = check_count("seed", seed, least=0)
    if seed >= 2**60:
        raise ValueError(f"seed must be below 2^60, not {seed}")
    return seed


def _as_whole(values: Tensor) -> Tensor:
    """Whole numbers as int64, whatever type holds them; others as they are."""
    whole = values.is_floating_point() and bool((values == values.round()).all())
    return values.long() if whole or values.dtype in _WHOLE else values


def check_stage(t: int | Tensor, least: int, most: int) -> Tensor:
    """Stages of a process as an int64 tensor, () or (n,).

    Raises:
        ValueError: t is not whole, or outside least..most.
    """
    t = as_tensor(t, "t")
    t = t.long() if t.dtype in _WHOLE else t
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
    labels = as_tensor(labels, "labels").to(device)
    labels = _as_whole(labels)
    if labels.dtype != torch.int64 or labels.shape not in {(), (n,)}:
        raise ValueError(
            f"labels must be one whole number or {n} of them, "
            f"not {labels.dtype} of shape {tuple(labels.shape)}"
        )
    if not ((labels >= 0) & (labels < num_classes)).all():
        raise ValueError(f"labels must be in 0..{num_classes - 1}")
    return labels.expand(n)
