"""Ground truth in closed form for data uniform on rectangles.

If x_0 is uniform on a rectangle and x_t = x_0 + sigma eps, everything factorises over coordinates.
With a = (low - x_t)/sigma, b = (high - x_t)/sigma, phi and Phi the normal density and distribution,

    p(x_t)      = (Phi(b) - Phi(a)) / (high - low)
    E[eps|x_t]  = (phi(b) - phi(a)) / (Phi(b) - Phi(a)),

the second being minus the mean of a standard normal truncated to [a, b]. Far outside the rectangle
both differences underflow, so there they are written with the Mills ratio
R(z) = (1 - Phi(z)) / phi(z) = sqrt(pi/2) erfcx(z / sqrt 2), which is exact at any distance.
All computation is in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache, partial
from typing import NamedTuple

import torch
from torch import Tensor

from diffusion.checks import as_real, check_labels, check_points
from diffusion.data import RECTANGLES, SQUARE
from diffusion.schedule import Exponential, Schedule
from diffusion.threads import one_thread

_SQRT_2 = math.sqrt(2)
_SQRT_HALF_PI = math.sqrt(math.pi / 2)
_LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


class _Folded(NamedTuple):
    """Coordinates reflected to the upper half of their interval, in units of sigma: |a| <= b."""

    side: Tensor  # -1 where a coordinate was reflected, else 1
    a: Tensor  # its height above the upper end of the interval
    b: Tensor  # and above the lower end
    log_ratio: Tensor  # log phi(b) - log phi(a) <= 0; far out a and b may round to the same number


def _folded(x: Tensor, sigma: Tensor, low: Tensor | float, high: Tensor | float) -> _Folded:
    middle, half = (low + high) / 2, (high - low) / 2
    centred = x - middle
    side = 1 - 2 * (centred < 0).to(x)
    y = side * centred
    return _Folded(side, (y - half) / sigma, (y + half) / sigma, -2 * half * y / sigma**2)


def _mass(at: _Folded) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Phi(b) - Phi(a) within the interval; (Phi(b) - Phi(a)) / phi(a) and the places outside.

    Returns:
        a (of the interval's end where it lies outside) and the mass there, of the shape of a; flat
        indices (k,) of what lies outside, and its quotients (k,).
    """
    inside = at.a.clamp(max=0)
    mass = 0.5 * (torch.erf(at.b / _SQRT_2) - torch.erf(inside / _SQRT_2))
    outside = (at.a > 0).flatten().nonzero().squeeze(1)  # erfcx is slow, so it sees only these
    a, b, log_ratio = (values.flatten()[outside] for values in (at.a, at.b, at.log_ratio))
    return inside, mass, outside, _mills(a) - _mills(b) * torch.exp(log_ratio)


def _mills(z: Tensor) -> Tensor:
    return _SQRT_HALF_PI * torch.special.erfcx(z / _SQRT_2)


def _put(values: Tensor, places: Tensor, others: Tensor) -> Tensor:
    return values.flatten().index_copy(0, places, others).view_as(values)


def _mean(at: _Folded) -> Tensor:
    """The mean of a standard normal truncated to [a, b], reflected back."""
    inside, mass, outside, tail = _mass(at)
    ratio = torch.exp(-0.5 * inside**2 - _LOG_SQRT_2PI) / mass
    return at.side * -torch.expm1(at.log_ratio) * _put(ratio, outside, 1 / tail)


def _log_mass(at: _Folded) -> Tensor:
    """log(Phi(b) - Phi(a))."""
    _, mass, outside, tail = _mass(at)
    log_phi = -0.5 * at.a.flatten()[outside] ** 2 - _LOG_SQRT_2PI
    return _put(torch.log(mass), outside, torch.log(tail) + log_phi)


def _places(x: Tensor, sigma: float | Tensor, rectangle: Tensor) -> _Folded:
    x = as_real(x).to(torch.float64)
    sigma = torch.as_tensor(sigma, dtype=torch.float64, device=x.device)
    return _folded(x, sigma.reshape(-1, 1), *rectangle.to(x))


def ideal_noise(x: Tensor, sigma: float | Tensor, rectangle: Tensor = SQUARE) -> Tensor:
    """E[eps | x_t = x] for x_0 uniform on the rectangle: the best prediction any network can make.

    Args:
        x: (n, 2), any real dtype.
        sigma: noise level, a float or (n,).
        rectangle: (2, 2) rows (low, high), or (2, n, 2), one rectangle for each point.

    Returns:
        (n, 2) float64.
    """
    return _mean(_places(x, sigma, rectangle))


def log_density(x: Tensor, sigma: float | Tensor, rectangle: Tensor = SQUARE) -> Tensor:
    """log p(x_t = x) for x_0 uniform on the rectangle and noise level sigma > 0.

    Arguments as in `ideal_noise`; returns (n,) float64, nats.
    """
    log_mass = _log_mass(_places(x, sigma, rectangle))
    low, high = rectangle.to(log_mass)
    return (log_mass - torch.log(high - low)).sum(dim=1)


def uniform_log_density(x: Tensor, rectangle: Tensor = SQUARE) -> Tensor:
    """log p(x_0 = x): -log(area) inside the rectangle, -inf outside; (n,) float64, nats."""
    x, (low, high) = as_real(x), rectangle.to(torch.float64)
    inside = ((x >= low) & (x <= high)).all(dim=1)
    return torch.where(inside, -torch.log(high - low).sum(), -math.inf)


def mixture_noise(x: Tensor, sigma: float | Tensor, rectangles: Tensor = RECTANGLES) -> Tensor:
    """E[eps | x_t = x] for x_0 uniform on a union of disjoint rectangles (k, 2, 2) -> (n, 2)."""
    areas = (rectangles[:, 1] - rectangles[:, 0]).to(torch.float64).prod(dim=1)
    log_weights = torch.stack(
        [
            log_density(x, sigma, rectangle) + torch.log(area)
            for rectangle, area in zip(rectangles, areas, strict=True)
        ]
    )  # (k, n)
    noises = torch.stack([ideal_noise(x, sigma, rectangle) for rectangle in rectangles])
    return (torch.softmax(log_weights, dim=0)[:, :, None] * noises).sum(dim=0)


@one_thread()
def bayes_loss(schedule: Schedule, rectangle: Tensor = SQUARE) -> float:
    """The smallest possible loss, mean of (eps - E[eps|x_t])^2 over t ~ U(0, 1) and one coordinate.

    Equal to 1 - E[E[eps|x_t]^2]; averaged over both coordinates by quadrature (no randomness).
    """
    widths = (rectangle[1] - rectangle[0]).tolist()
    return 1 - sum(_explained(schedule, width) for width in widths) / len(widths)


@cache
def _explained(schedule: Schedule, width: float) -> float:
    """Mean of E[eps|x_t]^2 over t ~ U(0, 1) and one coordinate, x_0 uniform over that width."""
    t = (torch.arange(400, dtype=torch.float64) + 0.5) / 400
    sigma = schedule.sigma(t)[:, None]
    # x_t = edge + sigma z resolves both edges at any sigma; beyond nine sigma there is no mass.
    z = torch.linspace(-9, 9, 3601, dtype=torch.float64)
    x = torch.minimum(sigma * z, torch.tensor(width / 2))
    x = torch.cat([x, torch.full((len(t), 1), width / 2, dtype=torch.float64)], dim=1)
    at = _folded(x, sigma, 0.0, width)
    integrand = _mean(at) ** 2 * torch.exp(_log_mass(at)) / width
    return 2 * torch.trapezoid(integrand, x, dim=1).mean().item()


def bayes_loss_of_classes(schedule: Schedule, rectangles: Tensor = RECTANGLES) -> float:
    """`bayes_loss` where the class is known, rectangles (k, 2, 2) weighted by area."""
    areas = (rectangles[:, 1] - rectangles[:, 0]).prod(dim=1)
    losses = [bayes_loss(schedule, rectangle) for rectangle in rectangles]
    return float(areas @ torch.tensor(losses, dtype=areas.dtype) / areas.sum())


class ExactDenoiser:
    """The ideal denoiser with the interface of `diffusion.Denoiser`: drives the same samplers.

    Unconditional by default; with `rectangles` (k, 2, 2) it has k classes. Computes in float64.
    """

    def __init__(self, schedule: Schedule | None = None, rectangles: Tensor | None = None) -> None:
        self.schedule = schedule or Exponential()
        self.num_classes = 0 if rectangles is None else len(rectangles)
        self._rectangles = SQUARE[None] if rectangles is None else rectangles
        self.dtype, self.device = torch.float64, torch.device("cpu")
        self.mean = self._rectangles.mean(dim=1)
        widths = self._rectangles[:, 1] - self._rectangles[:, 0]
        self.covariance = torch.diag_embed(widths**2 / 12)

    def __call__(self, x: Tensor, t: float | Tensor, labels: Tensor | int | None = None) -> Tensor:
        x = check_points(x)
        return self.noise(x, self.schedule.sigma(t), self.check_labels(labels, len(x)))

    def check_labels(self, labels: int | Tensor | None, n: int) -> Tensor | None:
        """See `diffusion.checks.check_labels`."""
        return check_labels(labels, n, self.num_classes, self.device)

    def noise(self, x: Tensor, sigma: float | Tensor, labels: Tensor | None = None) -> Tensor:
        """E[eps | x_t = x] at noise level sigma; shapes as in `diffusion.Denoiser.noise`."""
        if not self.num_classes:
            return ideal_noise(x, sigma)
        if labels.ndim == 1 and labels.stride(0) == 0:  # one class for all
            labels = labels[:1]
        corners = self._rectangles[labels]  # (n, 2, 2), or (k, 1, 2, 2)
        return ideal_noise(x, sigma, corners.movedim(-2, 0))

    def at(self, sigma: float | Tensor, labels: Tensor | None = None) -> Callable[[Tensor], Tensor]:
        """`noise` at one level, as a function of x (n, 2) alone."""
        return partial(self.noise, sigma=sigma, labels=labels)
