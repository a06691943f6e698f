"""Variance-exploding noise schedules: x_t = x_0 + sigma(t) eps, t in [0, 1] (Eq. 2 with S = 1).

A schedule is sigma(t), its derivative, its inverse and SNR(t) = 1 / sigma(t)^2. Every method takes
a float or a tensor of any shape and answers with a tensor of that shape; floats become float64.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

import torch
from torch import Tensor

from diffusion.checks import check_number

SIGMA_MIN = math.exp(-5)
SIGMA_MAX = 1.0


def _tensor(value: float | Tensor) -> Tensor:
    return value if torch.is_tensor(value) else torch.tensor(value, dtype=torch.float64)


@dataclass(frozen=True)
class Schedule(ABC):
    """Noise level between sigma_min = sigma(0) and sigma_max = sigma(1), strictly increasing."""

    sigma_min: float = SIGMA_MIN
    sigma_max: float = SIGMA_MAX

    def __post_init__(self) -> None:
        for name in (field.name for field in fields(self)):
            # NumPy's numbers would not go into a file.
            object.__setattr__(self, name, check_number(name, getattr(self, name)))
        if not 0 < self.sigma_min < self.sigma_max < math.inf:
            raise ValueError(
                "a schedule needs 0 < sigma_min < sigma_max < infinity, "
                f"not sigma_min={self.sigma_min}, sigma_max={self.sigma_max}"
            )

    @abstractmethod
    def sigma(self, t: float | Tensor) -> Tensor:
        """Standard deviation of the noise at time t."""

    @abstractmethod
    def sigma_dot(self, t: float | Tensor) -> Tensor:
        """d sigma / dt, per unit of time."""

    @abstractmethod
    def t(self, sigma: float | Tensor) -> Tensor:
        """The time at which the noise has standard deviation sigma (inverse of `sigma`)."""

    def snr(self, t: float | Tensor) -> Tensor:
        """Signal-to-noise ratio 1 / sigma(t)^2, as in Eq. 9."""
        return self.sigma(t) ** -2


@dataclass(frozen=True)
class Exponential(Schedule):
    """sigma(t) = sigma_min^(1-t) sigma_max^t; with the defaults the exercise's e^{5(t-1)}."""

    @property
    def _rate(self) -> float:
        return math.log(self.sigma_max / self.sigma_min)

    def sigma(self, t: float | Tensor) -> Tensor:
        return self.sigma_max * torch.exp(self._rate * (_tensor(t) - 1))

    def sigma_dot(self, t: float | Tensor) -> Tensor:
        return self._rate * self.sigma(t)

    def t(self, sigma: float | Tensor) -> Tensor:
        return 1 + torch.log(_tensor(sigma) / self.sigma_max) / self._rate


@dataclass(frozen=True)
class Quadratic(Schedule):
    """sigma(t) = sigma_min + (sigma_max - sigma_min) t^2: t^2 lifted to a floor."""

    @property
    def _range(self) -> float:
        return self.sigma_max - self.sigma_min

    def sigma(self, t: float | Tensor) -> Tensor:
        return self.sigma_min + self._range * _tensor(t) ** 2

    def sigma_dot(self, t: float | Tensor) -> Tensor:
        return 2 * self._range * _tensor(t)

    def t(self, sigma: float | Tensor) -> Tensor:
        return torch.sqrt((_tensor(sigma) - self.sigma_min) / self._range)


@dataclass(frozen=True)
class Power(Schedule):
    """sigma^(1/rho) linear in t (Karras et al. 2022, Eq. 5).

    rho = 1 is the linear schedule, rho = 7 the one Karras et al. recommend, and rho -> infinity
    tends to `Exponential`.
    """

    rho: float = 7.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.rho < math.inf:
            raise ValueError(f"rho must be positive and finite, not {self.rho}")

    @property
    def _ends(self) -> tuple[float, float]:
        return self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)

    def sigma(self, t: float | Tensor) -> Tensor:
        low, high = self._ends
        return (low + (high - low) * _tensor(t)) ** self.rho

    def sigma_dot(self, t: float | Tensor) -> Tensor:
        low, high = self._ends
        return self.rho * (high - low) * (low + (high - low) * _tensor(t)) ** (self.rho - 1)

    def t(self, sigma: float | Tensor) -> Tensor:
        low, high = self._ends
        return (_tensor(sigma) ** (1 / self.rho) - low) / (high - low)


class Tabulated:
    """A schedule at known times: `sigma` and `sigma_dot` as floats that are only looked up."""

    def __init__(self, schedule: Schedule, times: Sequence[float]) -> None:
        t = torch.tensor(times, dtype=torch.float64)
        self.sigma_max = schedule.sigma_max
        self.sigma = dict(zip(times, schedule.sigma(t).tolist(), strict=True)).__getitem__
        self.sigma_dot = dict(zip(times, schedule.sigma_dot(t).tolist(), strict=True)).__getitem__


def tabulated(schedule: Schedule, times: Sequence[float]) -> Schedule | Tabulated:
    """A table of the schedule at these times; a schedule of other making stays itself."""
    ours = type(schedule) in (Exponential, Quadratic, Power)
    return Tabulated(schedule, times) if ours else schedule


# --- Data of any scale --------------------------------------------------------------------------

# The narrowest coordinate may be so many times narrower than the widest.
_MOST_STRETCH = 1000.0


def spread(mean: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance (2,) per coordinate over all of K classes, each counted alike.

    mean: (K, 2); covariance: (K, 2, 2).
    """
    centre = mean.mean(dim=0)
    variances = covariance.diagonal(dim1=1, dim2=2) + (mean - centre) ** 2
    return centre, variances.mean(dim=0)


def units(variance: Tensor) -> Tensor:
    """Half the width of a uniform distribution of each variance, to the nearest power of two.

    1 for the exercise's square; data scaled by a power of two have units, noise levels and
    predictions scaled exactly.

    Raises:
        ValueError: a variance that is not positive and finite, or the widest coordinate is over
            1000 times the narrowest.
    """
    deviations = variance.detach().double().sqrt()
    low, high = deviations.min().item(), deviations.max().item()
    if not (low > 0 and high < math.inf and high <= _MOST_STRETCH * low):
        raise ValueError(
            f"the coordinates have standard deviations {', '.join(f'{d:.4g}' for d in deviations)};"
            f" both must vary, one at most {_MOST_STRETCH:g} times as much as the other"
        )
    return 2.0 ** torch.log2(deviations * math.sqrt(3)).round()


def fitted(units: Tensor) -> Exponential:
    """The exercise's schedule for data of these units (2,), and itself where both are 1.

    It starts at the width of the widest coordinate and resolves the narrowest as the square.
    """
    return Exponential(SIGMA_MIN * units.min().item(), SIGMA_MAX * units.max().item())


def check_suits(schedule: Schedule, units: Tensor) -> Schedule:
    """The schedule, if its noise covers data of these units (2,) at t = 1 and resolves them at 0.

    Raises:
        ValueError: it does not; with the numbers.
    """
    low, high = units.min().item(), units.max().item()
    if schedule.sigma_max < high / 2 or schedule.sigma_min > low / 4:
        raise ValueError(
            f"noise from {schedule.sigma_min:.4g} to {schedule.sigma_max:.4g} does not suit data "
            f"of half-widths near {units.tolist()}: sigma_max must be at least {high / 2:.4g}, "
            f"sigma_min at most {low / 4:.4g}; without a schedule, one that suits is chosen"
        )
    return schedule


# --- In files -----------------------------------------------------------------------------------

# Schedules that weights files may name; one of your own is added before training and loading.
KINDS: dict[str, type[Schedule]] = {
    "exponential": Exponential,
    "quadratic": Quadratic,
    "power": Power,
}


def to_config(schedule: Schedule) -> dict[str, str | float]:
    """Plain dictionary from which `from_config` rebuilds the schedule; goes into weights files.

    Raises:
        ValueError: a class that is not in `KINDS`, or its parameters are no numbers.
    """
    kind = next((name for name, cls in KINDS.items() if type(schedule) is cls), None)
    if kind is None:
        raise ValueError(
            f"no weights file can hold a schedule of class {type(schedule).__name__}; add the "
            "class, a dataclass, to diffusion.schedule.KINDS under a name, before training"
        )
    return {"kind": kind, **asdict(schedule)}


def from_config(config: dict[str, str | float]) -> Schedule:
    """Inverse of `to_config`.

    Raises:
        ValueError: unknown kind, or parameters that the kind does not have.
    """
    parameters = dict(config)
    cls = KINDS.get(parameters.pop("kind", None))
    if cls is None or set(parameters) != {field.name for field in fields(cls)}:
        raise ValueError(f"not a schedule: {config}; kinds are {', '.join(KINDS)}")
    return cls(**parameters)
