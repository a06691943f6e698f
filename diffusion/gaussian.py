"""Variance-preserving Gaussian diffusion (Ho et al. 2020), and its equivalence with ours.

Stage t of T shrinks and blurs: q(x_t | x_{t-1}) = N(sqrt(1 - beta_t) x_{t-1}, beta_t I). With
abar_t the product of 1 - beta_s over s <= t, q(x_t | x_0) = N(sqrt(abar_t) x_0, (1 - abar_t) I).

Dividing x_t by sqrt(abar_t) gives x_0 + sigma_t eps with sigma_t^2 = (1 - abar_t) / abar_t: the
variance-exploding process of `diffusion.sampling`, stage by stage and with the same noise eps. So a
`Denoiser`, which predicts eps from (x_0 + sigma eps, sigma), is also the network of every chain
whose sigma_t it was trained on (`predictor`), and the reverse of each process is that of the other.

`predict(x, t)` stands for a prediction of eps from x_t, with t the stage.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion.checks import (
    as_real,
    check_count,
    check_points,
    check_range,
    check_stage,
    own_mode,
)
from diffusion.sampling import Draw, Step, collect, generator_of, reverse, working_type
from diffusion.schedule import Schedule, spread, units
from diffusion.training import Training

Predict = Callable[[Tensor, int], Tensor]


@dataclass(frozen=True, eq=False)
class Chain:
    """The forward process.

    Args:
        betas: (T,), beta_1 first, each in (0, 1); kept as float64.

    Attributes:
        abar: (T + 1,) float64, abar_0 = 1 first.
        sigma: (T + 1,) float64, sqrt((1 - abar) / abar), noise level of the equivalent VE process.

    Raises:
        ValueError: betas that are not as described; in the methods, a t or eps of another shape.
    """

    betas: Tensor

    def __post_init__(self) -> None:
        try:
            betas = as_real(self.betas, "betas").double()
        except (TypeError, ValueError, RuntimeError):
            raise ValueError(f"betas must be numbers, not {self.betas!r}") from None
        if betas.ndim != 1 or not len(betas):
            raise ValueError(f"betas must have shape (T,), T at least 1, not {tuple(betas.shape)}")
        if not ((betas > 0) & (betas < 1)).all():
            raise ValueError("every beta must be in (0, 1)")
        # log abar keeps the digits of 1 - abar where beta is small.
        log_abar = torch.cat([torch.zeros(1, dtype=torch.float64), torch.log1p(-betas).cumsum(0)])
        object.__setattr__(self, "betas", betas)
        object.__setattr__(self, "abar", log_abar.exp())
        object.__setattr__(self, "sigma", torch.expm1(-log_abar).sqrt())

    @property
    def stages(self) -> int:
        """T."""
        return len(self.betas)

    def marginal(self, t: int | Tensor) -> tuple[Tensor, Tensor]:
        """sqrt(abar_t) and 1 - abar_t: factor on x_0 and variance of q(x_t | x_0), t in 0..T."""
        t = check_stage(t, 0, self.stages)
        return self.abar[t].sqrt(), self.abar[t] * self.sigma[t] ** 2

    def forward(self, x_0: Tensor, t: int | Tensor, eps: Tensor) -> Tensor:
        """x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps for x_0 (n, d), a stage or (n,) of them."""
        x_0, eps = as_real(x_0, "x_0"), as_real(eps, "eps")
        if eps.shape != x_0.shape:
            raise ValueError(f"eps must have shape {tuple(x_0.shape)}, not {tuple(eps.shape)}")
        factor, variance = self.marginal(t)
        return _column(factor, x_0) * x_0 + _column(variance.sqrt(), x_0) * eps

    def posterior(self, x_t: Tensor, x_0: Tensor, t: int | Tensor) -> tuple[Tensor, Tensor]:
        """Mean (n, d) and variance, () or (n,), of q(x_{t-1} | x_t, x_0) for t in 1..T.

        With b = beta_t (Ho et al. 2020, Eqs. 6 and 7):
            mean = (sqrt(abar_{t-1}) b x_0 + sqrt(1 - b) (1 - abar_{t-1}) x_t) / (1 - abar_t)
            variance = b (1 - abar_{t-1}) / (1 - abar_t).
        """
        x_t, x_0 = as_real(x_t, "x_t"), as_real(x_0, "x_0")
        t = check_stage(t, 1, self.stages)
        beta = self.betas[t - 1]
        factor, variance = self.marginal(t - 1)
        _, variance_t = self.marginal(t)
        on_x_0 = factor * beta / variance_t
        on_x_t = (1 - beta).sqrt() * variance / variance_t
        mean = _column(on_x_0, x_0) * x_0 + _column(on_x_t, x_t) * x_t
        return mean, beta * variance / variance_t

    def denoised(self, x_t: Tensor, t: int | Tensor, eps: Tensor) -> Tensor:
        """The x_0 for which `forward` gives x_t with the noise eps."""
        x_t, eps = as_real(x_t, "x_t"), as_real(eps, "eps")
        factor, variance = self.marginal(t)
        return (x_t - _column(variance.sqrt(), x_t) * eps) / _column(factor, x_t)


def _column(values: Tensor, like: Tensor) -> Tensor:
    if values.ndim == 1 and len(values) != len(like):
        raise ValueError(f"t must be one stage or {len(like)}, not {len(values)}")
    return values.reshape(-1, 1).to(like)


# --- Schedules ----------------------------------------------------------------------------------


def linear(stages: int = 1000, first: float = 1e-4, last: float = 0.02) -> Chain:
    """beta rises linearly from first to last (Ho et al. 2020, whose values are the defaults)."""
    check_count("stages", stages)
    return Chain(torch.linspace(first, last, stages, dtype=torch.float64))


def cosine(stages: int = 1000, offset: float = 0.008, most: float = 0.999) -> Chain:
    """abar_t = f(t) / f(0), f(t) = cos^2(pi/2 (t/T + offset) / (1 + offset)), betas at most `most`.

    Nichol and Dhariwal (2021), Eq. 17.
    """
    check_count("stages", stages)
    place = torch.linspace(0, 1, stages + 1, dtype=torch.float64)
    f = torch.cos(math.pi / 2 * (place + offset) / (1 + offset)) ** 2
    return Chain((1 - f[1:] / f[:-1]).clamp(max=most))


def of_levels(sigma: Tensor) -> Chain:
    """The chain with these VE noise levels: chain.sigma[1:] = sigma, (T,) and rising from above 0.

    Raises:
        ValueError: the levels do not rise from above 0.
    """
    sigma = as_real(sigma, "noise levels").double()
    squares = torch.cat([torch.zeros(1, dtype=torch.float64), sigma**2])
    if not (torch.diff(squares) > 0).all() or not (sigma > 0).all():
        raise ValueError("noise levels must rise from above 0")
    return Chain(torch.diff(squares) / (1 + squares[1:]))


def of_schedule(schedule: Schedule, steps: int) -> Chain:
    """The chain whose stages 1, ..., steps + 1 have the levels of a VE schedule's steps.

    Stage 1 has sigma(0), where VE sampling ends: the reverse of this chain is to end there too.
    """
    check_count("steps", steps)
    return of_levels(schedule.sigma(torch.linspace(0, 1, steps + 1, dtype=torch.float64)))


# --- The network --------------------------------------------------------------------------------


def predictor(model, chain: Chain, labels: Tensor | None = None) -> Predict:
    """eps from x_t by a VE denoiser, which sees x_t / sqrt(abar_t) and sigma_t.

    Args:
        model: a `Denoiser` or `exact.ExactDenoiser`.
        labels: (n,) int64, for models with classes.
    """

    def predict(x: Tensor, t: int | Tensor) -> Tensor:
        factor, _ = chain.marginal(t)
        return model.noise(x / _column(factor, x), chain.sigma[t].to(x), labels).to(x)

    return predict


def check_fits(chain: Chain, model) -> None:
    """Refuse a model of data so far from unit scale that N(0, I) is no end for them.

    A chain's own noise has variance 1 and cannot be scaled to the data.

    Raises:
        ValueError: then, with the numbers.
    """
    centre, variance = spread(model.mean, model.covariance)
    widest, offset = units(variance).max().item(), centre.abs().max().item()
    if not 0.125 <= widest <= 8 or offset > 8:
        raise ValueError(
            f"a chain of stages needs data of about unit scale, not of half-width {widest:.4g} "
            f"around {offset:.4g}: standardise them"
        )


class ChainTraining(Training):
    """DDPM training (Ho et al. 2020, Algorithm 1); see `Training` for the rest.

    The loss is the mean of (eps_theta(x_t, t) - eps)^2 over t uniform in 1..T, stratified.

    Args:
        model: a `Denoiser`, trained in place as the network of the chain.
        chain: the forward process.
        data: points, labels and options of `Training`.
    """

    def __init__(self, model, chain: Chain, *data, **options) -> None:
        check_fits(chain, model)
        super().__init__(model, *data, **options)
        self.chain = chain

    def _check_levels(self, model, unit: Tensor) -> None:
        """A chain of few stages may end early: its levels are given."""

    def _loss(self, points: Tensor, labels: Tensor | None) -> Tensor:
        n = len(points)
        place = torch.randperm(n, generator=self.generator)
        place = place + torch.rand(n, generator=self.generator, dtype=torch.float64)
        t = 1 + (self.chain.stages * place / n).long().clamp(max=self.chain.stages - 1)
        eps = torch.randn(n, 2, generator=self.generator, dtype=torch.float32).to(points)
        x_t = self.chain.forward(points, t, eps)
        return (predictor(self.model, self.chain, labels)(x_t, t) - eps).square().mean()

    def _settings(self) -> dict:
        return super()._settings() | {"betas": self.chain.betas.tolist()}


# --- Sampling -----------------------------------------------------------------------------------


def ddpm(predict: Predict, chain: Chain, draw: Draw) -> Step:
    """x_{t-1} ~ q(x_{t-1} | x_t, denoised x_0) (Ho et al. 2020, Algorithm 2)."""

    def step(x: Tensor, t: int, t_next: int) -> Tensor:
        if t_next != t - 1:
            raise ValueError(f"solver 'ddpm' goes to the stage before, not from {t} to {t_next}")
        mean, variance = chain.posterior(x, chain.denoised(x, t, predict(x, t)), t)
        return mean + float(variance.sqrt()) * draw() if t_next else mean

    return step


def ddim(predict: Predict, chain: Chain, draw: Draw) -> Step:
    """x_s = sqrt(abar_s) denoised x_0 + sqrt(1 - abar_s) eps_theta (Song et al. 2021, Eq. 12).

    s may be any stage below t. Divided by sqrt(abar), this is x + (sigma_s - sigma_t) eps_theta.
    """

    def step(x: Tensor, t: int, t_next: int) -> Tensor:
        eps = predict(x, t)
        return chain.forward(chain.denoised(x, t, eps), t_next, eps)

    return step


SOLVERS = {"ddpm": ddpm, "ddim": ddim}


@own_mode(gradients=False)
def sample(
    model,
    chain: Chain,
    n: int,
    *,
    solver: str = "ddpm",
    stages: list[int] | None = None,
    labels: int | Tensor | None = None,
    seed: int | None = None,
    noise: Tensor | None = None,
    return_trajectory: bool = False,
    progress: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Run the chain's reverse process for n points at once.

    Args:
        model: a `Denoiser` or `exact.ExactDenoiser`.
        chain: the forward process.
        n: number of points.
        solver: a key of `SOLVERS`.
        stages: those to step through, falling; T, ..., 0 by default. "ddpm" takes every one.
        labels: class of each point, an int or (n,) int64; only for models with classes.
        seed: of the start and of the fresh noise; None seeds from the system.
        noise: x at the first stage (n, 2), N(0, I) by default: right if abar_T is nearly 0.
        return_trajectory: also return all intermediate points.
        progress: show a progress bar if standard error is a terminal.

    Returns:
        points (n, 2), or (points, path) with path (len(stages), n, 2), path[0] the start.

    Raises:
        ValueError: any argument outside what is described here.
    """
    if solver not in SOLVERS:
        raise ValueError(f"unknown solver {solver!r}; choose from {', '.join(SOLVERS)}")
    n = check_count("n", n)
    check_fits(chain, model)
    stages = list(range(chain.stages, -1, -1)) if stages is None else list(stages)
    if len(stages) < 2 or check_stage(torch.tensor(stages), 0, chain.stages).diff().max() >= 0:
        raise ValueError("stages must be two or more, falling")
    labels = model.check_labels(labels, n)
    generator = generator_of(seed)

    def draw() -> Tensor:
        return torch.randn(n, 2, generator=generator, dtype=working_type(model)).to(model.device)

    x = draw()
    if noise is not None:
        x = check_range(check_points(noise, "noise", n).to(x), "noise")
    step = SOLVERS[solver](predictor(model, chain, labels), chain, draw)
    points = reverse(step, x, stages)
    x_t, path = collect(points, x, len(stages) - 1, solver, return_trajectory, progress)
    return (x_t.to(model.dtype), path.to(model.dtype)) if return_trajectory else x_t.to(model.dtype)
