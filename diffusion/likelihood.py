"""How probable is a point? Eq. 9, the complete variational bound, and the exact density.

The forward process gives x_t = x_0 + sigma(t) eps, so with x_hat the denoised point (Eq. 8)
||x - x_hat||^2 = sigma(t)^2 ||eps_theta - eps||^2, and Eq. 9 becomes

    L_T = T/2 E_{eps, t}[w(t) ||eps_theta - eps||^2],   w(t) = SNR(t - dt) / SNR(t) - 1.

Times lie on the grid {1/T, 2/T, ..., 1}, as in Kingma et al. (2021, Variational Diffusion Models,
Eq. 13), so that t - dt never leaves [0, 1]. All values are in nats.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from diffusion.checks import check_count, check_number, check_points, check_seed, own_mode
from diffusion.exact import log_density
from diffusion.ode import integrate, jacobians
from diffusion.sampling import double, matched_prior
from diffusion.schedule import spread, units
from diffusion.threads import one_thread

# Points, and noise levels for each, that the network is evaluated at in one call.
_POINTS, _ROWS = 8, 8192
# The lowest value reported, where the true one underflows.
_LOWEST = torch.finfo(torch.float64).min
# Independent randomisations from which the low-variance estimator takes its standard error.
_REPLICATES = 8


class Bound(NamedTuple):
    """Terms of the variational bound, (n,) float64 nats each: total <= log p(x).

    total = diffusion + prior + reconstruction; error is the standard error of the diffusion term,
    the only one that is estimated.
    """

    total: Tensor
    diffusion: Tensor
    prior: Tensor
    reconstruction: Tensor
    error: Tensor


def _times_and_noises(
    weights: Tensor, num_samples: int, seed: int, low_variance: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Grid indices (R, S), noises (R, S, 2) and weights (R, S), in R replicates."""
    steps = len(weights)
    if not low_variance:
        generator = torch.Generator().manual_seed(seed)
        k = torch.randint(steps, (num_samples, 1), generator=generator)
        eps = torch.randn(num_samples, 1, 2, generator=generator, dtype=torch.float64)
        return k, eps, weights[k]
    # Sobol points are evenly spread in numbers that are powers of two.
    half = 2 ** int(math.log2(max(1, num_samples // (2 * _REPLICATES))))
    cumulative = weights.cumsum(0) / weights.sum()
    uniform = torch.stack(
        [
            torch.quasirandom.SobolEngine(3, scramble=True, seed=_REPLICATES * seed + r).draw(
                half, dtype=torch.float64
            )
            for r in range(_REPLICATES)
        ]
    )
    k = torch.searchsorted(cumulative, uniform[..., 0].contiguous()).clamp(max=steps - 1)
    radius = torch.sqrt(-2 * torch.log1p(-uniform[..., 1]))
    angle = 2 * math.pi * uniform[..., 2]
    eps = radius[..., None] * torch.stack([angle.cos(), angle.sin()], dim=-1)
    k = torch.cat([k, k], dim=1)
    return k, torch.cat([eps, -eps], dim=1), weights.mean().expand(k.shape)


@own_mode(gradients=False)
@one_thread()
def elbo(
    model,
    x: Tensor,
    labels: int | Tensor | None = None,
    *,
    steps: int = 1000,
    num_samples: int = 10_000,
    seed: int = 0,
    low_variance: bool = True,
    return_error: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """-L_T of Eq. 9, the diffusion term of the bound on log p(x).

    Args:
        model: a `Denoiser` or `exact.ExactDenoiser`.
        x: (n, 2).
        labels: class of each point, an int or (n,) int64; only for models with classes.
        steps: T.
        num_samples: (noise, time) pairs, the same ones for every point, so that differences between
            points and classes are less noisy than the values.
        seed: of the pairs.
        low_variance: draw the pairs as scrambled Sobol points (stratified in time and noise), each
            noise with its negative, times in proportion to w(t) (importance sampling; for the
            exercise's schedule w is constant); their number is rounded down to 16 times a power
            of two, 16 at least. False draws t and eps independently, as the
            exercise describes. Both are unbiased.
        return_error: also return the standard error.

    Returns:
        (n,) float64 nats, or a pair of those.

    Raises:
        ValueError: x or labels as in `Denoiser.forward`; steps, num_samples or seed out of range.
    """
    steps, seed = check_count("steps", steps), check_seed(seed)
    num_samples = check_count("num_samples", num_samples, least=2)
    x = check_points(x)
    labels = model.check_labels(labels, len(x))
    model = double(model)
    t = torch.arange(steps + 1, dtype=torch.float64) / steps
    snr = model.schedule.snr(t)
    k, eps, factors = _times_and_noises(snr[:-1] / snr[1:] - 1, num_samples, seed, low_variance)
    sigma, replicates = model.schedule.sigma(t[1:])[k], len(k)
    means = [torch.empty(0, replicates, dtype=torch.float64)]
    for errors in _squared_errors(model, x, labels, sigma, eps):
        means.append((0.5 * steps * factors * errors).mean(dim=2))
    means = torch.cat(means)
    means = means.clamp(max=-_LOWEST / replicates)
    value = -means.mean(dim=1)
    if not return_error:
        return value
    # In units of the value, whose square may overflow.
    unit = value.abs().clamp(min=1)
    variance = ((means + value[:, None]) / unit[:, None]).square().sum(dim=1) / (replicates - 1)
    return value, unit * torch.sqrt(variance / replicates)


def _squared_errors(
    model, x: Tensor, labels: Tensor | None, sigma: Tensor, eps: Tensor
) -> Iterator[Tensor]:
    """|eps_theta - eps|^2, (k, R, S), of k of the points (n, 2) at levels (R, S) and noises."""
    place = {"dtype": model.dtype, "device": model.device}
    sigma_flat, eps_flat = sigma.reshape(-1).to(**place), eps.reshape(-1, 2).to(**place)
    for rows in torch.arange(len(x)).split(_POINTS):
        points = x[rows, None].to(**place)
        own = None if labels is None else labels[rows, None]
        total = []
        for s, e in zip(sigma_flat.split(_ROWS), eps_flat.split(_ROWS), strict=True):
            predicted = model.noise(points + s[:, None] * e, s, own)
            total.append((predicted - e).double().square().sum(dim=2))
        yield torch.cat(total, dim=1).cpu().reshape(len(rows), *sigma.shape)


@own_mode(gradients=False)
@one_thread()
def complete_bound(
    model, x: Tensor, labels: int | Tensor | None = None, *, steps: int = 1000, **options
) -> Bound:
    """The complete variational bound (Kingma et al. 2021, Eq. 11).

    log p(x) >= -L_T - KL(q(z_1 | x) || prior) + E log p(x | z_0), with q(z_1 | x) =
    N(x, sigma(1)^2 I), the matched prior N(mean, sigma(1)^2 I + covariance), and p(x | z_0) =
    N(z_0, sigma(0)^2 I).

    Args:
        options: num_samples, seed, low_variance of `elbo`.

    Raises:
        ValueError: as `elbo`.
    """
    x = check_points(x)
    value, error = elbo(model, x, labels, steps=steps, return_error=True, **options)
    labels = model.check_labels(labels, len(x))
    sigma_0, sigma_1 = model.schedule.sigma_min, model.schedule.sigma_max
    # KL(N(x, s^2 I) || N(m, L L^T)) in two dimensions.
    mean, factor = matched_prior(double(model), labels)
    inverse = torch.linalg.inv(factor)
    shift = (inverse @ (x.to(mean) - mean)[:, :, None]).square().sum(dim=(1, 2))
    spread = sigma_1**2 * inverse.square().sum(dim=(1, 2))
    log_ratio = 2 * factor.diagonal(dim1=1, dim2=2).log().sum(dim=1) - 4 * math.log(sigma_1)
    prior = -0.5 * (spread - 2 + shift + log_ratio).cpu().clamp(max=-_LOWEST)
    reconstruction = torch.full_like(prior, -math.log(2 * math.pi * sigma_0**2) - 1)
    total = (value + prior + reconstruction).clamp(min=_LOWEST)
    return Bound(total, value, prior, reconstruction, error)


@own_mode(gradients=False)
@one_thread()
def log_likelihood(
    model,
    x: Tensor,
    labels: int | Tensor | None = None,
    *,
    rtol: float = 1e-4,
    atol: float = 1e-4,
) -> Tensor:
    """Exact log-density of the model at x, by the probability-flow ODE (Song et al. 2021, Eq. 39).

    dx/dsigma = eps_theta(x, sigma) carries x from sigma(0) to sigma(1) and stretches volumes at the
    rate tr(d eps_theta / dx), hence

        log p_0(x_0) = log prior(x_1) + integral of tr(d eps_theta / dx) dsigma,

    with the matched prior. The trace is exact, from one Jacobian-vector product per coordinate.
    Computed in float64, in the variable log sigma. Where the density underflows, far from the data,
    the value is finite and very negative.

    Args:
        model: a `Denoiser` or `exact.ExactDenoiser`.
        x: (n, 2).
        labels: class of each point, an int or (n,) int64; only for models with classes.
        rtol, atol: local error allowed per step, on the log-density and on the path, whose unit is
            that of the data (see `schedule.units`).

    Returns:
        (n,) float64 nats.

    Raises:
        ValueError: x or labels as in `Denoiser.forward`, or a tolerance that is not positive and
            finite.
        ToleranceError: the tolerance cannot be reached, or x is so far out (beyond about 1e150)
            that the flow overflows.
    """
    rtol, atol = check_number("rtol", rtol), check_number("atol", atol)
    x = check_points(x).double().to(model.device)
    labels = model.check_labels(labels, len(x))
    model = double(model)
    low, high = math.log(model.schedule.sigma_min), math.log(model.schedule.sigma_max)
    unit = torch.nn.functional.pad(units(spread(model.mean, model.covariance)[1]), (0, 1), value=1)
    values = [torch.empty(0, dtype=torch.float64)]
    for rows in torch.arange(len(x)).split(4096) if len(x) else ():
        label = None if labels is None else labels[rows]
        slope = partial(_flow, model, label)
        state = torch.nn.functional.pad(x[rows], (0, 1))
        state = integrate(slope, state, low, high, rtol=rtol, atol=atol, unit=unit.to(x))
        mean, factor = matched_prior(model, label)
        prior = torch.distributions.MultivariateNormal(mean, scale_tril=factor)
        values.append((prior.log_prob(state[:, :2]) + state[:, 2]).cpu())
    return torch.cat(values).clamp(min=_LOWEST)


def estimates(
    model, x: Tensor, labels: int | Tensor | None, rectangles: Tensor, *, seed: int = 0
) -> list[dict[str, float]]:
    """Every estimate of log p at each of x (n, 2), and the truth, in nats.

    The process ends at sigma(0), so the truth is the uniform density blurred by sigma(0).

    Args:
        rectangles: where the data of x's class are uniform, (2, 2), or (2, n, 2), one for each.

    Raises:
        ValueError, ToleranceError: as `elbo` and `log_likelihood`.
    """
    x = check_points(x)
    bound = complete_bound(model, x, labels, seed=seed)
    columns = {
        "eq9_nats": bound.diffusion,
        "eq9_standard_error_nats": bound.error,
        "bound_nats": bound.total,
        "bound_prior_term_nats": bound.prior,
        "bound_reconstruction_term_nats": bound.reconstruction,
        "log_density_nats": log_likelihood(model, x, labels),
        "true_log_density_nats": log_density(x, model.schedule.sigma_min, rectangles),
    }
    return [{name: values[i].item() for name, values in columns.items()} for i in range(len(x))]


def density_map(
    model,
    labels: int | None = None,
    *,
    extent: float = 2.0,
    cells: int = 80,
    tolerance: float = 1e-3,
) -> tuple[Tensor, float]:
    """The model's density on a grid over [-extent, extent]^2, and its integral there.

    With the defaults the cells have sides of 0.05, whose edges fall on those of the rectangles.

    Returns:
        (cells, cells) float64 at the centres of the cells, rows along y; the sum times their area.
    """
    axis = (torch.arange(cells, dtype=torch.float32) + 0.5) * (2 * extent / cells) - extent
    grid = torch.cartesian_prod(axis, axis).flip(1)
    log_p = log_likelihood(model, grid, labels, rtol=tolerance, atol=tolerance)
    density = log_p.exp().reshape(cells, cells)
    return density, density.sum().item() * (2 * extent / cells) ** 2


def _flow(model, labels: Tensor | None, log_sigma: float, state: Tensor) -> Tensor:
    """d(x, log-volume)/d log sigma for state (n, 3)."""
    sigma = math.exp(log_sigma)
    eps, jacobian = jacobians(model.at(sigma, labels), state[:, :2])
    trace = jacobian.diagonal(dim1=1, dim2=2).sum(dim=1)
    return sigma * torch.cat([eps, trace[:, None]], dim=1)
