"""Reaching a far point with an unchanged model, by choosing the noise it is fed.

Both samplers turn standard normal numbers u into a point: the start, x_1 = mean + factor u_0, and
for DDPM one fresh pair per step. To steer is to choose u. The energy |u|^2 / 2 (nats) is how far
the log-density of u lies below its maximum: the smaller, the less improbable the noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from itertools import pairwise

import torch
from torch import Tensor

from diffusion.checks import as_real, check_count, check_number, check_points, own_mode
from diffusion.ode import jacobians
from diffusion.sampling import ddim, ddpm, double, matched_prior, reverse, uniform_times
from diffusion.schedule import spread, tabulated, units
from diffusion.threads import one_thread

# The largest distance from the target that counts as there, in units of the data.
REACHED = 0.01


class SteeringError(ArithmeticError):
    """The target could not be reached in the way that was asked for."""


@dataclass(frozen=True)
class Steered:
    """A reverse process that was made to end near the target.

    Attributes:
        target: (2,).
        path: (steps + 1, 2), from x_1 to the output.
        noises: (1 + fresh, 2) standardised: the start, then the fresh noise of each step.
        unit: of the model's data, see `Denoiser`.
    """

    target: Tensor
    path: Tensor
    noises: Tensor
    unit: float = 1.0

    @property
    def distance(self) -> float:
        """From the output to the target."""
        return (self.path[-1] - self.target).norm().item()

    @property
    def energy(self) -> float:
        """|u|^2 / 2 over all noises, nats; noise drawn at random has one per pair on average."""
        return 0.5 * self.noises.square().sum().item()

    @property
    def log_density(self) -> float:
        """Log-density of the noises under the standard normal they should come from, nats."""
        return -self.energy - 0.5 * self.noises.numel() * math.log(2 * math.pi)

    def numbers(self) -> dict:
        """What a results file keeps of it."""
        return {
            "reached": self.distance < REACHED * self.unit,
            "output": self.path[-1].tolist(),
            "distance": self.distance,
            "start": self.path[0].tolist(),
            "noise_energy_nats": self.energy,
            "noise_log_density_nats": self.log_density,
            "energy_of_random_noise_nats": len(self.noises),
        }


class _Process:
    """The sampler as a function of its standardised noises, for one point, in float64."""

    def __init__(self, model, target, label: int | None, steps: int, lam: float) -> None:
        steps, lam = check_count("steps", steps), check_number("lam", lam)
        target = as_real(target, "the target").double().to(model.device).reshape(1, -1)
        self.target = check_points(target, "the target")[0]
        labels = model.check_labels(label, 1)
        model = double(model)
        self.steps, self.lam, self.times = steps, lam, uniform_times(steps)
        self.schedule = tabulated(model.schedule, self.times)
        self.model, self.labels = model, labels
        self.at = cache(partial(model.at, labels=labels))  # the levels come again and again
        self.mean, self.factor = matched_prior(model, labels)
        self.unit = units(spread(model.mean, model.covariance)[1]).max().item()

    def start(self, u: Tensor) -> Tensor:
        """Standardised noise (1, 2) -> x_1 (1, 2)."""
        return self.mean + u @ self.factor[0].T

    def standardise(self, x: Tensor) -> Tensor:
        """x_1 (1, 2) -> standardised noise (1, 2)."""
        return torch.linalg.solve(self.factor[0], (x - self.mean)[0])[None]

    def steered(self, path: Tensor, noises: Tensor) -> Steered:
        """The result, if it is finite."""
        result = Steered(self.target, path, noises, self.unit)
        if not (path.isfinite().all() and math.isfinite(result.energy + result.distance)):
            raise SteeringError(
                "the way to the target leaves the range of numbers; take a nearer one"
            )
        return result

    def run(self, noises: Tensor) -> Tensor:
        """Standardised noises (1 + fresh, 2) -> points (steps + 1, 2)."""
        fresh = iter(noises[1:, None])
        step = ddpm(self.predict, self.schedule, lambda: next(fresh), lam=self.lam)
        x = self.start(noises[:1])
        return torch.cat([x, *reverse(step, x, self.times)])

    def predict(self, x: Tensor, sigma: float) -> Tensor:
        return self.at(sigma)(x)

    def linearised(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Output (2,) of `run` at noises u (1 + fresh, 2), and its Jacobian (2, numbers of u).

        By the chain rule over the steps x_{k+1} = x_k + c_k eps_theta(x_k, sigma_k) + d_k u_{k+1},
        with the Jacobians of the network from all of them at once.
        """
        path = self.run(u)
        t = torch.tensor(self.times[:-1], dtype=path.dtype)
        schedule = self.model.schedule
        sigma, sigma_dot = schedule.sigma(t).to(path), schedule.sigma_dot(t).to(path)
        labels = None if self.labels is None else self.labels.expand(self.steps)
        _, jacobian = jacobians(lambda x: self.model.noise(x, sigma, labels), path[:-1])
        drift = (1 + self.lam**2) * sigma_dot / self.steps
        identity = torch.eye(2).to(path)
        after, blocks = identity, []  # after: d x_N / d x_k, from k = N downwards
        for step in reversed(identity - drift[:, None, None] * jacobian):
            blocks.append(after)
            after = after @ step
        blocks = torch.stack(blocks[::-1])
        fresh = self.lam * torch.sqrt(2 * sigma_dot * sigma / self.steps)
        rows = [(after @ self.factor[0])[None]]
        rows += [fresh[:, None, None] * blocks] if self.lam else []
        return path[-1], torch.cat(rows).transpose(0, 1).flatten(1)


@own_mode(gradients=False)
@one_thread()
def invert(
    model, target, label: int | None = None, *, steps: int = 1000, newton_steps: int = 20
) -> Steered:
    """Run Algorithm 1 backwards: find the start from which DDIM ends at the target.

    Each Euler step x_next = x + c eps_theta(x, sigma) is inverted exactly, by Newton's method with
    the Jacobian of the network, so the forward run retraces the path to rounding.

    Args:
        model: a `Denoiser` or `exact.ExactDenoiser`; it is not changed.
        target: (2,) numbers.
        label: class, for models with classes.
        steps: T.

    Raises:
        ValueError: a target that is not two finite numbers, a bad label, steps below 1.
        SteeringError: Newton's method does not converge on some step, or the way there overflows.
    """
    process = _Process(model, target, label, steps, lam=0.0)
    x = process.target[None]
    for t_next, t in pairwise(reversed(process.times)):
        step = ddim(process.predict, process.schedule, None)
        goal, scale = x, x.abs().max().clamp(min=process.unit)

        def gap(x: Tensor, step=step, t=t, t_next=t_next, goal=goal) -> Tensor:
            return step(x, t, t_next) - goal

        for _ in range(newton_steps):
            if gap(x).abs().max() <= 1e-12 * scale:
                break
            residual, jacobian = jacobians(gap, x)
            x = x - torch.linalg.solve(jacobian[0], residual[0])[None]
        else:
            raise SteeringError(
                f"the step from t = {t:.4g} to {t_next:.4g} could not be inverted near "
                f"({x[0, 0]:.4g}, {x[0, 1]:.4g}); more steps make each of them easier to invert"
            )
    noises = process.standardise(x)
    return process.steered(process.run(noises), noises)


@own_mode(gradients=False)
@one_thread()
def optimise(
    model,
    target,
    label: int | None = None,
    *,
    steps: int = 200,
    lam: float = 1.0,
    iterations: int = 100,
    tolerance: float = 1e-6,
) -> Steered:
    """The most probable noises, for the given lam, that make the sampler end at the target.

    Looks for a (local) minimum of |u|^2 / 2 subject to x_0(u) = target by sequential quadratic
    programming: with J the Jacobian of x_0 at u, the least-norm solution of the linearised
    constraint is u+ = J^T (J J^T)^-1 (J u + target - x_0(u)), and the step towards it is halved
    until it lowers energy + penalty * distance.

    Args:
        model, target, label, steps: as in `invert`.
        lam: amount of fresh noise of the DDPM family; 0 chooses the start alone.
        iterations: at most so many.
        tolerance: distance to the target in units of the data, and relative change of u, at which
            to stop.

    Raises:
        ValueError: as `invert`.
        SteeringError: the target is not reached to within 100 times the tolerance.
    """
    process = _Process(model, target, label, steps, lam)
    u = torch.zeros(1 + (process.steps if lam else 0), 2).to(process.target)
    penalty = 1.0

    def merit(u: Tensor) -> float:
        distance = (process.run(u)[-1] - process.target).norm().item() / process.unit
        value = 0.5 * u.square().sum().item() + penalty * distance
        return value if math.isfinite(value) else math.inf

    for _ in range(iterations):
        end, jacobian = process.linearised(u)
        miss = process.target - end
        multiplier = torch.linalg.solve(jacobian @ jacobian.T, jacobian @ u.flatten() + miss)
        # An exact penalty must exceed the multiplier.
        penalty = max(penalty, 2 * process.unit * multiplier.norm().item())
        direction = (jacobian.T @ multiplier).reshape_as(u) - u
        there = miss.norm() <= tolerance * process.unit
        if there and direction.norm() <= tolerance * (1 + u.norm()):
            break
        rate, before = 1.0, merit(u)
        while merit(u + rate * direction) > before and rate > 1e-6:
            rate /= 2
        u = u + rate * direction
    steered = process.steered(process.run(u), u)
    if not steered.distance <= 100 * tolerance * process.unit:
        raise SteeringError(
            f"the noises found miss the target by {steered.distance:.3g} after "
            f"{iterations} iterations; a nearer target or more steps may be reached"
        )
    return steered


@own_mode(gradients=False)
@one_thread()
def guide(
    model,
    target,
    label: int | None = None,
    *,
    steps: int = 1000,
    weight: float = 1.0,
    through_network: bool = False,
) -> Steered:
    """DDPM whose fresh noise pulls the predicted x_0 towards the target, step by step.

    Classifier guidance (Dhariwal and Nichol 2021) adds to the score the gradient of
    -weight |x_hat - target|^2 / (2 sigma^2), x_hat the denoised point of Eq. 8. In the step with
    lam = 1 that shift equals the fresh noise

        n = sqrt(2 sigma' |dt| / sigma^3) weight J^T (target - x_hat),   J = d x_hat / d x.

    No chance is left: the start is the mean of the prior and n is the whole noise.

    Args:
        model, target, label, steps: as in `invert`.
        weight: strength. With J = I pull and score balance where x - x_hat = weight
            (target - x_hat), which for weight 1 is the target.
        through_network: take J from the network (Chung et al. 2023) instead of J = I.

    Raises:
        ValueError: as `invert`, or a weight that is not positive and finite.
        SteeringError: the way there overflows.
    """
    weight = check_number("weight", weight)
    if not 0 < weight < math.inf:
        raise ValueError(f"weight must be positive and finite, not {weight}")
    process = _Process(model, target, label, steps, lam=1.0)
    noises = [torch.zeros(1, 2).to(process.target)]
    unguided = ddpm(process.predict, process.schedule, lambda: noises[-1])

    def step(x: Tensor, t: float, t_next: float) -> Tensor:
        schedule = process.schedule
        sigma, sigma_dot = float(schedule.sigma(t)), float(schedule.sigma_dot(t))

        def denoised(x: Tensor) -> Tensor:
            return x - sigma * process.predict(x, sigma)

        if through_network:
            x_hat, pull_back = torch.func.vjp(denoised, x)
            (pull,) = pull_back(process.target - x_hat)
        else:
            pull = process.target - denoised(x)
        noises.append(weight * math.sqrt(2 * sigma_dot * (t - t_next) / sigma**3) * pull)
        return unguided(x, t, t_next)

    x = process.start(noises[0])
    path = torch.cat([x, *reverse(step, x, process.times)])
    return process.steered(path, torch.cat(noises))


def steer(
    ways: Mapping[str, Callable[..., Steered]], model, target, label: int | None, *, steps: int
) -> tuple[dict[str, Steered], dict[str, str]]:
    """Every way (`invert`, `optimise`, `guide`) to the target: what was found, and why not.

    Arguments as in `invert`.
    """
    found, failed = {}, {}
    for name, way in ways.items():
        try:
            found[name] = way(model, target, label, steps=steps)
        except SteeringError as error:
            failed[name] = str(error)
    return found, failed
