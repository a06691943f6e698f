"""The reverse process: one loop from t = 1 to t = 0, with interchangeable solvers.

A solver is a function (predict, schedule, draw) -> step, and a step maps (x, t, t_next) to the next
x. `predict(x, sigma)` answers with the predicted noise, `draw()` with fresh normal noise of x's
shape. Times run over a grid uniform in t, so the spacing of the steps is a matter of the schedule:
`Exponential` is uniform in log sigma, `Power(rho=7)` is the spacing of Karras et al. (2022).

In the variable sigma the deterministic flow is dx/dsigma = eps_theta(x, sigma), because
score = -eps_theta / sigma and Eq. 7 reads dx = -sigma' sigma score dt.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from diffusion.checks import (
    check_count,
    check_number,
    check_points,
    check_range,
    check_seed,
    own_mode,
)
from diffusion.denoiser import has_own_network
from diffusion.progress import bar
from diffusion.schedule import Schedule, Tabulated, check_suits, spread, tabulated, units
from diffusion.threads import one_thread

Predict = Callable[[Tensor, float], Tensor]
Draw = Callable[[], Tensor]
Step = Callable[[Tensor, float, float], Tensor]


def ddpm(predict: Predict, schedule: Schedule, draw: Draw, lam: float = 1.0) -> Step:
    """dx = -(1 + lam^2) sigma' sigma score dt + lam sqrt(2 sigma' sigma |dt|) n, by Euler steps.

    Every lam >= 0 has the same marginals as dt -> 0: lam = 1 is the reverse SDE of Anderson (1982)
    that DDPM discretises, lam = 0 the deterministic flow of Algorithm 1 (DDIM).
    """

    def step(x: Tensor, t: float, t_next: float) -> Tensor:
        dt = t_next - t
        sigma, sigma_dot = float(schedule.sigma(t)), float(schedule.sigma_dot(t))
        x_next = x + (1 + lam**2) * sigma_dot * dt * predict(x, sigma)
        if lam:
            x_next += lam * math.sqrt(2 * sigma_dot * sigma * abs(dt)) * draw()
        return x_next

    return step


def ddim(predict: Predict, schedule: Schedule, draw: Draw) -> Step:
    """Algorithm 1: the deterministic member of the family, first order in t."""
    return ddpm(predict, schedule, draw, lam=0.0)


def euler(predict: Predict, schedule: Schedule, draw: Draw) -> Step:
    """dx = (sigma_next - sigma) eps_theta: Euler steps in sigma, the DDIM of Song et al. (2021).

    Algorithm 1 moves by sigma'(t) dt instead, which is further wherever sigma(t) is convex.
    """

    def step(x: Tensor, t: float, t_next: float) -> Tensor:
        sigma, sigma_next = float(schedule.sigma(t)), float(schedule.sigma(t_next))
        return x + (sigma_next - sigma) * predict(x, sigma)

    return step


def heun(predict: Predict, schedule: Schedule, draw: Draw, churn: float = 0.0) -> Step:
    """Karras et al. (2022), Algorithm 2: second order, two evaluations a step.

    churn is their gamma: before each step the noise level is raised by that share with fresh noise
    (never above sigma(1), which the network has not seen). 0 is the deterministic sampler.
    """

    def step(x: Tensor, t: float, t_next: float) -> Tensor:
        sigma, sigma_next = float(schedule.sigma(t)), float(schedule.sigma(t_next))
        if churn:
            raised = min(sigma * (1 + churn), max(sigma, schedule.sigma_max))
            x = x + math.sqrt(raised**2 - sigma**2) * draw()
            sigma = raised
        slope = predict(x, sigma)
        euler = x + (sigma_next - sigma) * slope
        return x + (sigma_next - sigma) * 0.5 * (slope + predict(euler, sigma_next))

    return step


def dpm_solver(predict: Predict, schedule: Schedule, draw: Draw) -> Step:
    """DPM-Solver++(2M) (Lu et al. 2022, Algorithm 2): second order, one evaluation a step.

    With lambda = -log sigma the flow of the denoised point D = x - sigma eps_theta is integrated
    exactly for D linear in lambda, extrapolated from this step and the one before.
    """
    previous: tuple[Tensor, float] | None = None

    def step(x: Tensor, t: float, t_next: float) -> Tensor:
        nonlocal previous
        sigma, sigma_next = float(schedule.sigma(t)), float(schedule.sigma(t_next))
        h = math.log(sigma / sigma_next)
        denoised = x - sigma * predict(x, sigma)
        target = denoised
        if previous is not None:
            denoised_before, h_before = previous
            target = denoised + (h / (2 * h_before)) * (denoised - denoised_before)
        previous = (denoised, h)
        return (sigma_next / sigma) * x - math.expm1(-h) * target

    return step


def uniform_times(steps: int) -> list[float]:
    """The grid of so many equal steps from t = 1 to t = 0."""
    return torch.linspace(1, 0, steps + 1, dtype=torch.float64).tolist()


def reverse(step: Step, x: Tensor, times: Iterable[float]) -> Iterator[Tensor]:
    """The reverse loop of every process: x after each of the steps through the times.

    They are `uniform_times`, or the stages T, ..., 0 of a process in stages.
    """
    for t, t_next in pairwise(times):
        x = step(x, t, t_next)
        yield x


SOLVERS = {"ddim": ddim, "ddpm": ddpm, "euler": euler, "heun": heun, "dpm++": dpm_solver}
EVALUATIONS_PER_STEP = {"ddim": 1, "ddpm": 1, "euler": 1, "heun": 2, "dpm++": 1}
# The largest gamma of Karras et al. (2022), Algorithm 2.
MOST_CHURN = math.sqrt(2) - 1
PRIORS = ("matched", "standard")


def start(
    model,
    n: int,
    *,
    labels: Tensor | None = None,
    prior: str = "matched",
    schedule: Schedule | None = None,
    generator: torch.Generator,
) -> Tensor:
    """Draw x_1, the noise that the reverse process starts from, (n, 2).

    x_1 = x_0 + sigma(1) eps has the mean of the data and variance sigma(1)^2 + Var(x_0), and so has
    "matched": N(mean, sigma(1)^2 I + covariance), with the moments of each label's class.
    "standard" is N(0, sigma(1)^2 I), the exercise's N(0, I), which is too narrow.

    Raises:
        ValueError: unknown prior.
    """
    if prior not in PRIORS:
        raise ValueError(f"unknown prior {prior!r}; choose from {', '.join(PRIORS)}")
    schedule = schedule or model.schedule
    z = torch.randn(n, 2, generator=generator, dtype=working_type(model)).to(model.device)
    if prior == "standard":
        return schedule.sigma_max * z
    mean, factor = matched_prior(model, labels, schedule)
    return mean + (factor @ z[:, :, None])[:, :, 0]


def matched_prior(
    model, labels: Tensor | None, schedule: Schedule | None = None
) -> tuple[Tensor, Tensor]:
    """Mean and Cholesky factor of N(mean, sigma(1)^2 I + covariance), of each label's class.

    Returns:
        (n, 2) and (n, 2, 2); n = 1 without labels.
    """
    sigma_max, dtype = (schedule or model.schedule).sigma_max, working_type(model)
    mean, covariance = model.mean.to(dtype), model.covariance.to(dtype)
    identity = torch.eye(2, dtype=dtype, device=model.device)
    factor = torch.linalg.cholesky(covariance + sigma_max**2 * identity)
    return (mean, factor) if labels is None else (mean[labels], factor[labels])


_TOGETHER = 2048  # noise levels times classes that are prepared at once


def predictor(
    model, schedule: Schedule | Tabulated, times: Sequence[float], labels: Tensor | None = None
) -> Predict:
    """The model's prediction in the type of x; a `Denoiser` is prepared for these times' levels."""
    if has_own_network(model):
        return lambda x, sigma: model.noise(x, sigma, labels).to(x)
    if labels is not None and (labels == labels[0]).all():
        labels = labels[:1]
    sigmas = [float(schedule.sigma(t)) for t in times]
    place = {sigma: k for k, sigma in enumerate(sigmas)}
    together = max(1, _TOGETHER // max(8, model.num_classes))
    ready: dict[float, Callable[[Tensor], Tensor]] = {}

    def predict(x: Tensor, sigma: float) -> Tensor:
        if sigma not in place:  # `heun` raises it
            return model.at(sigma, labels)(x).to(x)
        if sigma not in ready:
            levels = sigmas[place[sigma] : place[sigma] + together]
            ready.clear()
            ready.update(zip(levels, model.levels(levels, labels), strict=True))
        return ready[sigma](x).to(x)

    return predict


def working_type(model) -> torch.dtype:
    """The type of a sampler's own numbers: the model's, but no narrower than float32.

    A thousand small steps would be lost in a narrower one.
    """
    return torch.promote_types(model.dtype, torch.float32)


def generator_of(seed: int | None) -> torch.Generator:
    """A generator with the seed, or seeded from the system for None.

    Raises:
        ValueError: the seed is not whole, or outside 0..2^60 - 1.
    """
    generator = torch.Generator()
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(check_seed(seed))
    return generator


def collect(
    points: Iterator[Tensor], x: Tensor, total: int, name: str, keep: bool, progress: bool
) -> tuple[Tensor, Tensor | None]:
    """Take a reverse loop of `total` steps from x to its end, under a progress bar.

    Returns:
        the last points, and if `keep` all of them, (total + 1, ...) from x on, else None.
    """
    path = [x]
    for x_t in bar(points, total=total, desc=name, leave=False, shown=progress):
        if keep:
            path.append(x_t)
    return x_t, torch.stack(path) if keep else None


def _solver_options(solver: str, lam: float | None, churn: float | None) -> dict[str, float]:
    """Those that are given, if the solver is known and takes them."""
    if solver not in SOLVERS:
        raise ValueError(f"unknown solver {solver!r}; choose from {', '.join(SOLVERS)}")
    options = {}
    for name, value, owner in (("lam", lam, "ddpm"), ("churn", churn, "heun")):
        if value is None:
            continue
        if solver != owner:
            raise ValueError(f"{name} belongs to solver {owner!r}, not to {solver!r}")
        value = check_number(name, value)
        if not 0 <= value < math.inf:
            raise ValueError(f"{name} must be at least 0 and finite, not {value}")
        if name == "churn" and value > MOST_CHURN:
            raise ValueError(f"churn must be at most {MOST_CHURN:.4g}, not {value}")
        options[name] = value
    return options


def _suitable(model, schedule: Schedule | None) -> Schedule:
    """The schedule, if it suits the model's data, or the model's own for None."""
    if schedule is None:
        return model.schedule
    return check_suits(schedule, units(spread(model.mean, model.covariance)[1]))


@own_mode(gradients=False)
@one_thread()
def sample(
    model,
    n: int,
    *,
    solver: str = "ddim",
    steps: int = 1000,
    lam: float | None = None,
    churn: float | None = None,
    labels: int | Tensor | None = None,
    seed: int | None = None,
    noise: Tensor | None = None,
    prior: str = "matched",
    schedule: Schedule | None = None,
    return_trajectory: bool = False,
    progress: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Run the reverse process for n points at once.

    Args:
        model: a `Denoiser` or `exact.ExactDenoiser`.
        n: number of points.
        solver: a key of `SOLVERS`.
        steps: T; the number of network evaluations is steps times `EVALUATIONS_PER_STEP[solver]`.
        lam: amount of fresh noise, solver "ddpm" only (default 1).
        churn: amount of fresh noise, 0 to sqrt(2) - 1, solver "heun" only (default 0).
        labels: class of each point, an int or (n,) of them; only for models with classes.
        seed: of the start and of the fresh noise; None seeds from the system.
        noise: x_1 (n, 2) to start from, of any real type, instead of a draw from the prior.
        prior: "matched" or "standard", see `start`.
        schedule: noise levels to step through, the model's own by default.
        return_trajectory: also return all intermediate points.
        progress: show a progress bar if standard error is a terminal.

    Returns:
        points (n, 2) of the model's type, or (points, path), path (steps + 1, n, 2) from x_1 on.

    Raises:
        ValueError: any argument outside what is described here.
    """
    n, steps = check_count("n", n), check_count("steps", steps)
    options = _solver_options(solver, lam, churn)
    labels = model.check_labels(labels, n)
    schedule = _suitable(model, schedule)
    generator = generator_of(seed)
    x = start(model, n, labels=labels, prior=prior, schedule=schedule, generator=generator)
    if noise is not None:
        x = check_range(check_points(noise, "noise", n).to(x), "noise")

    def draw() -> Tensor:
        return torch.randn(n, 2, generator=generator, dtype=x.dtype).to(x.device)

    times = uniform_times(steps)
    table = tabulated(schedule, times)
    step = SOLVERS[solver](predictor(model, table, times, labels), table, draw, **options)
    x_t, path = collect(reverse(step, x, times), x, steps, solver, return_trajectory, progress)
    points = x_t.to(model.dtype)
    if not points.isfinite().all():
        raise ValueError(f"{solver} left the range of numbers; take more steps or less fresh noise")
    return (points, path.to(model.dtype)) if return_trajectory else points


def double(model):
    """The model with its numbers in float64, without gradients; itself if it has them already."""
    if not isinstance(model, torch.nn.Module):
        return model
    return copy.deepcopy(model).double().requires_grad_(False)
