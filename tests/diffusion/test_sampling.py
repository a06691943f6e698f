"""The reverse process: against the exercise's algorithm, and driven by the exact score."""

from __future__ import annotations

import copy
import math
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from diffusion import metrics, sample
from diffusion.data import NUM_CLASSES, RECTANGLES, uniform
from diffusion.exact import ExactDenoiser
from diffusion.ode import integrate
from diffusion.sampling import EVALUATIONS_PER_STEP, SOLVERS, start
from diffusion.schedule import SIGMA_MIN, Exponential, Power, Quadratic, Schedule

N = 20_000
every_solver = pytest.mark.parametrize("solver", sorted(SOLVERS))


@pytest.fixture(scope="module")
def denoiser64(denoiser):
    return copy.deepcopy(denoiser).double()


@pytest.fixture
def noise(generator) -> torch.Tensor:
    return 1.2 * torch.randn(6, 2, generator=generator, dtype=torch.float64)


# --- The exercise -------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", [Exponential(), Power(), Quadratic()], ids=repr)
@pytest.mark.parametrize("steps", [1, 7, 50])
@torch.no_grad()
def test_ddim_is_algorithm_1(denoiser64, noise, schedule, steps):
    z, dt = noise, -1 / steps
    for i in range(steps):
        t = 1 + i * dt
        sigma, sigma_dot = schedule.sigma(t), schedule.sigma_dot(t)
        eps = denoiser64.noise(z, sigma)
        denoised = z - sigma * eps  # Eq. 8
        score = (denoised - z) / sigma**2
        z = z - sigma_dot * sigma * score * dt  # Eq. 7
    points = sample(denoiser64, 6, solver="ddim", steps=steps, noise=noise, schedule=schedule)
    torch.testing.assert_close(points, z, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0, 2.0])
def test_one_step_of_the_family_with_lam(denoiser64, noise, lam):
    fresh, schedule = torch.flip(noise, [0]), denoiser64.schedule
    step = SOLVERS["ddpm"](denoiser64.noise, schedule, lambda: fresh, lam)
    t, dt = 0.6, -0.1
    sigma, sigma_dot = schedule.sigma(t), schedule.sigma_dot(t)
    score = -denoiser64.noise(noise, sigma) / sigma
    expected = noise - (1 + lam**2) * sigma_dot * sigma * score * dt
    expected = expected + lam * torch.sqrt(2 * sigma_dot * sigma * abs(dt)) * fresh
    torch.testing.assert_close(step(noise, t, t + dt), expected, rtol=1e-12, atol=1e-12)


def test_same_noise_gives_the_same_bits_ten_times(denoiser, noise):
    outputs = [sample(denoiser, 6, noise=noise, steps=20) for _ in range(10)]
    assert all(torch.equal(output, outputs[0]) for output in outputs)


@pytest.mark.parametrize("given", [False, True])
def test_lam_0_is_ddim_to_the_bit(denoiser, noise, given):
    options = {"steps": 20, "seed": 5, "noise": noise if given else None}
    assert torch.equal(
        sample(denoiser, 6, solver="ddpm", lam=0.0, **options),
        sample(denoiser, 6, solver="ddim", **options),
    )


@pytest.mark.parametrize("options", [{"solver": "ddpm"}, {"solver": "heun", "churn": 0.2}])
def test_fresh_noise_depends_on_the_seed(denoiser, noise, options):
    first, same, other = (
        sample(denoiser, 6, noise=noise, steps=20, seed=seed, **options) for seed in (1, 1, 2)
    )
    assert torch.equal(first, same)
    assert not torch.isclose(first, other).any()


def test_defaults_of_lam_and_churn(denoiser):
    options = {"steps": 5, "seed": 0}
    assert torch.equal(
        sample(denoiser, 4, solver="ddpm", **options),
        sample(denoiser, 4, solver="ddpm", lam=1.0, **options),
    )
    assert torch.equal(
        sample(denoiser, 4, solver="heun", **options),
        sample(denoiser, 4, solver="heun", churn=0.0, **options),
    )


# --- The exact score ----------------------------------------------------------------------------


def exact_start(n: int, schedule, seed: int) -> torch.Tensor:
    """x_1 = x_0 + sigma(1) eps itself, not a Gaussian of the same moments."""
    generator = torch.Generator().manual_seed(seed)
    x_0 = uniform(n, generator=generator, dtype=torch.float64)
    return x_0 + schedule.sigma_max * torch.randn(n, 2, generator=generator, dtype=torch.float64)


def check_uniform(points: torch.Tensor, outside_bias: float) -> None:
    """The points follow the law of x_0 + sigma(0) eps, within sampling error at n = 20,000.

    Blur moves a share sigma(0) sqrt(2/pi) of each coordinate outside the square. TV10 of blurred
    uniform points is 0.031 with standard deviation 0.0021. For KS, P(D > d) <= 2 exp(-2 n d^2)
    (Massart 1990) is 1e-4 at d = 0.0157, and blur shifts each distribution function by at most
    sigma(0) / sqrt(2 pi) / 2.
    """
    assert len(points) == N
    outside = 1 - (1 - SIGMA_MIN / math.sqrt(2 * math.pi)) ** 2
    scatter = 4 * math.sqrt(outside / N)
    assert abs(metrics.outside_share(points) - outside) < scatter + outside_bias
    assert metrics.tv10(points) < 0.031 + 4 * 0.0021
    assert metrics.ks(points) < 0.0157 + SIGMA_MIN / math.sqrt(2 * math.pi) / 2


@pytest.mark.parametrize(
    ("schedule", "options"),
    [
        (Exponential(), {"solver": "ddim", "steps": 200}),
        (Exponential(), {"solver": "ddpm", "lam": 0.5, "steps": 200}),
        (Exponential(), {"solver": "ddpm", "lam": 1.0, "steps": 200}),
        (Exponential(), {"solver": "heun", "steps": 30}),
        (Exponential(), {"solver": "heun", "steps": 40, "churn": 0.2}),
        (Exponential(), {"solver": "dpm++", "steps": 30}),
        (Exponential(SIGMA_MIN, 10.0), {"solver": "dpm++", "steps": 60}),
        (Power(), {"solver": "heun", "steps": 30}),
        (Quadratic(), {"solver": "heun", "steps": 60}),
        (Power(rho=1.0), {"solver": "dpm++", "steps": 300}),
    ],
    ids=str,
)
def test_exact_score_reproduces_the_square(schedule, options):
    model = ExactDenoiser(schedule)
    points = sample(model, N, noise=exact_start(N, schedule, seed=0), seed=1, **options)
    # First-order steps end a little inside: measured at 200 steps, 0.0012 fewer points outside.
    check_uniform(points, outside_bias=0.0012 if options["solver"].startswith("dd") else 0.0005)


def test_matched_start_reproduces_the_square_and_the_standard_one_shrinks_it():
    options = {"solver": "dpm++", "steps": 30, "seed": 0}
    matched = sample(ExactDenoiser(), N, **options)
    standard = sample(ExactDenoiser(), N, prior="standard", **options)
    # The Gaussian of the same moments is not quite the law of x_1: 0.001 more outside.
    check_uniform(matched, outside_bias=0.0015)
    # The standard deviation of 40,000 uniform numbers has error sqrt(0.2 / 40,000) / sqrt(3).
    error = 4 * 0.0013
    assert matched.std().item() == pytest.approx(math.sqrt(1 / 3), abs=error)
    assert standard.std().item() == pytest.approx(0.528, abs=error)
    assert metrics.tv10(standard) > 0.1


def test_exact_conditional_score_fills_each_class():
    model, labels = ExactDenoiser(rectangles=RECTANGLES), torch.arange(N) % NUM_CLASSES
    points = sample(model, N, labels=labels, solver="dpm++", steps=40, seed=0)
    for label, (low, high) in enumerate(RECTANGLES):
        lost = SIGMA_MIN * math.sqrt(2 / math.pi) / (high - low)
        inside = (1 - lost).prod().item()  # 0.986 for the narrow ones
        error = 4 * math.sqrt(inside * (1 - inside) / (N / 5))
        share = 1 - metrics.outside_share(points[labels == label], RECTANGLES[label])
        assert share == pytest.approx(inside, abs=error)


@pytest.mark.parametrize("schedule", [Exponential(), Power()], ids=repr)
@pytest.mark.parametrize(("solver", "order"), [("ddim", 1), ("heun", 2), ("dpm++", 2)])
def test_order_of_convergence(solver, order, schedule):
    noise = torch.tensor([[0.3, 0.2], [-0.5, 0.8], [1.0, -0.6], [-0.9, -0.4]], dtype=torch.float64)
    model = ExactDenoiser(schedule)

    def flow(log_sigma: float, x: torch.Tensor) -> torch.Tensor:
        sigma = math.exp(log_sigma)
        return sigma * model.noise(x, sigma)

    ends = math.log(schedule.sigma_max), math.log(schedule.sigma_min)
    truth = integrate(flow, noise, *ends, rtol=1e-11, atol=1e-12)
    ends = [sample(model, 4, solver=solver, steps=n, noise=noise) for n in (160, 320, 640)]
    errors = torch.stack([(end - truth).norm() for end in ends])
    slopes = -errors.log().diff() / math.log(2)
    assert slopes.tolist() == pytest.approx([order] * 2, abs=0.05)


# --- Start, path, labels ------------------------------------------------------------------------


@pytest.mark.parametrize("label", range(NUM_CLASSES))
@pytest.mark.parametrize("schedule", [None, Exponential(SIGMA_MIN, 3.0)], ids=str)
def test_moments_of_the_start(conditional, generator, label, schedule):
    sigma_max = 1.0 if schedule is None else 3.0
    options = {"schedule": schedule, "generator": generator}
    labels = torch.full((N,), label)
    matched = start(conditional, N, labels=labels, **options)
    standard = start(conditional, N, labels=labels, prior="standard", **options)
    identity = torch.eye(2)
    for x, mean, covariance in (
        (matched, conditional.mean[label], conditional.covariance[label] + sigma_max**2 * identity),
        (standard, torch.zeros(2), sigma_max**2 * identity),
    ):
        variance = covariance.diagonal()
        assert ((x.mean(dim=0) - mean).abs() < 4 * (variance / N).sqrt()).all()
        # A sample covariance has variance (C_ii C_jj + C_ij^2) / n, at most 2 C_ii C_jj / n.
        scatter = (2 * torch.outer(variance, variance) / N).sqrt()
        assert ((x.T.cov() - covariance).abs() < 4 * scatter).all()


@every_solver
@pytest.mark.parametrize("steps", [1, 2, 9])
def test_path_runs_from_the_noise_to_the_points(denoiser, noise, solver, steps):
    options = {"solver": solver, "steps": steps, "seed": 3, "noise": noise}
    points, path = sample(denoiser, 6, return_trajectory=True, **options)
    assert path.shape == (steps + 1, 6, 2)
    assert points.dtype == path.dtype == denoiser.dtype
    assert torch.equal(path[0], noise.float())
    assert torch.equal(path[-1], points)
    assert torch.equal(points, sample(denoiser, 6, **options))
    assert len(path.unique(dim=0)) == steps + 1


@every_solver
@pytest.mark.parametrize("schedule", [Power(0.002, 3.0), Quadratic(), Power(rho=1.0)], ids=repr)
def test_solvers_step_through_the_given_schedule(denoiser64, noise, solver, schedule):
    seen = []

    def predict(x, sigma):
        seen.append(float(sigma))
        return denoiser64.noise(x, sigma)

    step = SOLVERS[solver](predict, schedule, lambda: torch.zeros_like(noise))
    for t in (1.0, 0.75, 0.5, 0.25):
        step(noise, t, t - 0.25)
    grid = [float(schedule.sigma(t)) for t in (1.0, 0.75, 0.5, 0.25, 0.0)]
    inner, last = (2, 1) if solver == "heun" else (1, 0)
    expected = Counter(grid[1:4] * inner + grid[:1] + grid[4:] * last)
    assert Counter(seen) == expected
    assert len(seen) == 4 * EVALUATIONS_PER_STEP[solver]
    moved = sample(denoiser64, 6, solver=solver, steps=4, noise=noise, seed=0, schedule=schedule)
    own = sample(denoiser64, 6, solver=solver, steps=4, noise=noise, seed=0)
    assert not torch.allclose(moved, own)


def test_start_is_drawn_from_the_seed_alone(denoiser):
    before = torch.get_rng_state()
    options = {"steps": 2}
    first, same, other = (sample(denoiser, 5, seed=seed, **options) for seed in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.isclose(first, other).any()
    assert torch.equal(before, torch.get_rng_state())
    unseeded = [sample(denoiser, 5, **options) for _ in range(2)]
    assert not torch.isclose(*unseeded).all()


def test_given_noise_is_left_as_it_was(denoiser64, noise):
    before = noise.clone()
    for solver in SOLVERS:
        sample(denoiser64, 6, solver=solver, steps=3, noise=noise)
    assert torch.equal(noise, before)


@every_solver
def test_one_label_for_all_equals_one_for_each(conditional, solver):
    options = {"solver": solver, "steps": 6, "seed": 0}
    one = sample(conditional, 8, labels=3, **options)
    each = sample(conditional, 8, labels=torch.full((8,), 3), **options)
    assert torch.equal(one, each)
    assert not torch.isclose(one, sample(conditional, 8, labels=1, **options)).any()


@every_solver
@pytest.mark.parametrize("n", [5, 3000])
def test_levels_prepared_together_are_those_of_each_call(conditional, solver, n):
    class Plain(type(conditional)):
        """Asked by the samplers through its `noise`, level by level."""

        def noise(self, x, sigma, labels=None):
            calls.append(sigma)
            return super().noise(x, sigma, labels)

    calls, prepared = [], copy.deepcopy(conditional).double()
    plain = copy.deepcopy(prepared)
    plain.__class__ = Plain
    steps = 300 if n == 5 else 3
    options = {"solver": solver, "steps": steps, "labels": torch.arange(n) % NUM_CLASSES, "seed": 0}
    options |= {"churn": 0.2} if solver == "heun" else {}
    expected = sample(plain, n, **options)
    assert len(calls) == steps * EVALUATIONS_PER_STEP[solver]
    torch.testing.assert_close(sample(prepared, n, **options), expected, rtol=1e-9, atol=1e-9)


def zero(x, sigma, labels=None):
    return torch.zeros_like(x)


def test_noise_put_in_place_of_a_models_own_is_called(denoiser, monkeypatch):
    guided, x = copy.deepcopy(denoiser), torch.ones(3, 2)
    assert not torch.equal(sample(guided, 3, noise=x, steps=5), x)
    guided.noise = zero
    assert torch.equal(sample(guided, 3, noise=x, steps=5), x)
    guided = copy.deepcopy(denoiser)
    guided.at = lambda sigma, labels=None: torch.zeros_like
    assert torch.equal(sample(guided, 3, noise=x, steps=5), x)
    monkeypatch.setattr(type(denoiser), "noise", lambda self, *args: zero(*args))
    assert torch.equal(sample(denoiser, 3, noise=x, steps=5), x)


@dataclass(frozen=True)
class Line(Schedule):
    """Of plain numbers, with no tensor among them."""

    def sigma(self, t):
        return self.sigma_min + (self.sigma_max - self.sigma_min) * float(t)

    def sigma_dot(self, t):
        return self.sigma_max - self.sigma_min

    def t(self, sigma):
        return (sigma - self.sigma_min) / (self.sigma_max - self.sigma_min)


@every_solver
def test_a_schedule_of_plain_numbers_will_do(denoiser, solver):
    options = {"solver": solver, "steps": 5, "seed": 0}
    expected = sample(denoiser, 4, schedule=Power(rho=1.0), **options)
    torch.testing.assert_close(sample(denoiser, 4, schedule=Line(), **options), expected)


def test_progress_is_quiet_when_not_at_a_terminal(denoiser, capsys):
    sample(denoiser, 2, steps=3, progress=True)
    assert capsys.readouterr() == ("", "")


def test_sample_needs_no_gradients(denoiser):
    assert not sample(denoiser, 2, steps=3).requires_grad


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"solver": "rk4"}, "unknown solver 'rk4'; choose from ddim, ddpm, euler, heun"),
        ({"prior": "uniform"}, "unknown prior 'uniform'; choose from matched, standard"),
        ({"n": 0}, "n must be a whole number of at least 1, not 0"),
        ({"n": 2.5}, "n must be a whole number"),
        ({"steps": 0}, "steps must be a whole number of at least 1, not 0"),
        ({"steps": -1}, "steps must be a whole number"),
        ({"steps": 10.0}, "steps must be a whole number"),
        ({"lam": 0.5}, "lam belongs to solver 'ddpm'"),
        ({"solver": "heun", "lam": 0.0}, "lam belongs to solver 'ddpm'"),
        ({"churn": 0.5}, "churn belongs to solver 'heun'"),
        ({"solver": "ddpm", "lam": -0.1}, "lam must be at least 0"),
        ({"solver": "ddpm", "lam": math.nan}, "lam must be at least 0"),
        ({"solver": "ddpm", "lam": math.inf}, "lam must be at least 0 and finite"),
        ({"solver": "heun", "churn": -0.1}, "churn must be at least 0"),
        ({"noise": torch.zeros(3, 2)}, r"noise must have shape \(4, 2\)"),
        ({"noise": torch.zeros(4)}, r"noise must have shape \(4, 2\)"),
        ({"noise": torch.full((4, 2), torch.nan)}, "noise contains"),
        ({"noise": "points"}, "noise must be a tensor"),
        ({"solver": "ddpm", "lam": 1e30}, "left the range of numbers"),
        ({"labels": 0}, "unconditional"),
    ],
)
def test_bad_options_are_refused(denoiser, options, message):
    with pytest.raises(ValueError, match=message):
        sample(denoiser, **({"n": 4, "steps": 2} | options))


@pytest.mark.parametrize("labels", [None, 5, -1, torch.zeros(3, dtype=torch.int64), 0.5])
def test_bad_labels_are_refused(conditional, labels):
    with pytest.raises(ValueError, match="labels"):
        sample(conditional, 4, steps=2, labels=labels)


def test_numpy_counts_are_whole_numbers_too():
    assert sample(ExactDenoiser(), np.int64(2), steps=np.int64(3), seed=0).shape == (2, 2)


@pytest.mark.parametrize("options", [{"seed": 1.5}, {"solver": "heun", "churn": 0.5}])
def test_seeds_and_churn_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match="must be"):
        sample(ExactDenoiser(), 2, steps=2, **options)
