"""Distance of samples, (n, 2) tensors, and of a denoiser from the truth."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from diffusion.checks import as_real, check_seed, own_mode
from diffusion.data import SQUARE, inside, uniform
from diffusion.exact import ideal_noise
from diffusion.threads import one_thread

GRID = 10


def _unit(points: Tensor, rectangle: Tensor) -> Tensor:
    low, high = rectangle.to(torch.float64)
    return (as_real(points).to(torch.float64) - low) / (high - low)


def outside_share(points: Tensor, rectangle: Tensor = SQUARE) -> float:
    """Share of the points that lie outside the rectangle, in 0..1."""
    return 1 - inside(points, rectangle).double().mean().item()


def tv10(points: Tensor, rectangle: Tensor = SQUARE) -> float:
    """Total variation distance to uniform on a 10 x 10 grid over the rectangle.

    (sum over cells |n_cell/n - 1/100| + n_outside/n) / 2, in 0..1; true uniform samples have an
    expectation of 0.0281 at n = 20,000.
    """
    points = as_real(points)
    kept = _unit(points[inside(points, rectangle)], rectangle)
    cell = (kept * GRID).long().clamp(max=GRID - 1)
    counts = torch.bincount(cell[:, 0] * GRID + cell[:, 1], minlength=GRID**2)
    share = counts.double() / len(points)
    return 0.5 * ((share - GRID**-2).abs().sum().item() + outside_share(points, rectangle))


@one_thread()
def uniform_tv10(n: int, repeats: int) -> float:
    """Mean `tv10` of n truly uniform points over so many repetitions: the floor of the measure."""
    generator = torch.Generator().manual_seed(1)
    return float(np.mean([tv10(uniform(n, generator=generator)) for _ in range(repeats)]))


def ks(points: Tensor, rectangle: Tensor = SQUARE) -> float:
    """The larger Kolmogorov-Smirnov distance of the two coordinates to uniform, in 0..1."""
    ordered = _unit(points, rectangle).clamp(0, 1).sort(dim=0).values
    n = len(points)
    rank = torch.arange(n, dtype=torch.float64)[:, None]
    return torch.maximum((rank + 1) / n - ordered, ordered - rank / n).max().item()


def border_distance(points: Tensor, rectangle: Tensor = SQUARE) -> Tensor:
    """Signed distance of each point to the rectangle's border, positive inside; (n,) float64."""
    low, high = rectangle.to(torch.float64)
    points = as_real(points).to(torch.float64)
    gaps = torch.cat([points - low, high - points], dim=1)
    return torch.where(
        inside(points, rectangle),
        gaps.min(dim=1).values,
        -gaps.clamp(max=0).norm(dim=1),
    )


def border_profile(points: Tensor, rectangle: Tensor, bins: Tensor) -> Tensor:
    """Share of points by distance from the border, over that of uniform points.

    Args:
        points: (n, 2).
        bins: (b + 1,) float64, rising distances from the border, 0 first.

    Returns:
        (b,) float64, 1 where points lie as uniform ones do.
    """
    width, height = rectangle[1] - rectangle[0]
    nearer = 1 - (width - 2 * bins) * (height - 2 * bins) / (width * height)
    share = torch.histogram(border_distance(points, rectangle), bins).hist / len(points)
    return share / torch.diff(nearer)


@own_mode(gradients=False)
@one_thread()
def excess_risk(
    model,
    *,
    rectangle: Tensor = SQUARE,
    label: int | None = None,
    num_samples: int = 100_000,
    seed: int = 0,
) -> float:
    """Mean of (eps_theta - eps*)^2 over t ~ U(0, 1), x_0 ~ data, eps, and both coordinates.

    Args:
        model: anything with `schedule` and `noise(x, sigma, labels)`.
        rectangle: where x_0 is uniform.
        label: the class of which that is the rectangle, for models with classes.
        num_samples: at least 20,000 for the measure to be meaningful.
        seed: of t, x_0 and eps.
    """
    generator = torch.Generator().manual_seed(check_seed(seed))
    x_0 = uniform(num_samples, rectangle, generator=generator)
    sigma = model.schedule.sigma(
        torch.rand(num_samples, generator=generator, dtype=torch.float32)
    )
    x_t = x_0 + sigma[:, None] * torch.randn(
        num_samples, 2, generator=generator, dtype=torch.float32
    )
    labels = None if label is None else torch.full((num_samples,), label, device=model.device)
    predicted = model.noise(x_t.to(model.device), sigma.to(model.device), labels).cpu()
    difference = predicted - ideal_noise(x_t, sigma, rectangle)
    return difference.square().mean().item()
