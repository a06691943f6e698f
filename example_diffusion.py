"""Exercise 1, Part 1: a diffusion model of points in the plane.

Trains an unconditional and a conditional model (or loads them), answers questions 1-6 of both parts
and the bonus, draws every figure into OUT/figures and writes every number to
OUT/results_diffusion.json. --process vp and --process bitflip show two more diffusions the same
way. The code was written with an AI assistant.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

import diffusion
from diffusion import (
    bitflip_demo,
    bitnet,
    data,
    exact,
    figures,
    metrics,
    schedule,
    steering,
    vp_demo,
)
from diffusion.exact import ExactDenoiser
from diffusion.files import check_writable, write_atomically

STEP_COUNTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)  # the T of question 4
SCHEDULES = {
    "exponential (original)": schedule.Exponential(),
    "Karras, ρ = 7": schedule.Power(),
    "quadratic, t² + floor": schedule.Quadratic(),
    "linear": schedule.Power(rho=1.0),
}
ACCURATE = {"solver": "dpm++", "steps": 100}  # nearer to the flow than DDIM with T = 1000


@dataclass
class Run:
    """What every question needs: the models, the data, the options, and where results go."""

    args: argparse.Namespace
    model: diffusion.Denoiser
    conditional: diffusion.Denoiser
    points: Tensor
    labels: Tensor
    results: dict = field(default_factory=dict)

    def draw(self, name: str, figure) -> None:
        figures.save(figure, self.args.out / "figures" / f"diffusion_{name}.png")

    def sample(self, n: int, model=None, **options):
        """Samples by the solver and number of steps that the command line asks for."""
        args = self.args
        defaults = {"solver": args.solver, "steps": args.steps, "lam": args.lam, "seed": args.seed}
        return diffusion.sample(model or self.model, n, **(defaults | options))


@dataclass
class OtherRun:
    """What the questions of `vp_demo` and `bitflip_demo` need."""

    args: argparse.Namespace
    model: diffusion.Denoiser | bitnet.BitNet
    process: str
    points: Tensor | None = None
    device: str = "cpu"
    results: dict = field(default_factory=dict)

    def draw(self, name: str, figure) -> None:
        figures.save(figure, self.args.out / "figures" / f"diffusion_{self.process}_{name}.png")


# --- Unconditional model ------------------------------------------------------------------------


def u1_forward_process(run: Run) -> None:
    """Question 1: the forward process of a point outside the square."""
    t = torch.linspace(0, 1, 1001, dtype=torch.float64)
    variance = torch.diff(run.model.schedule.sigma(t) ** 2, prepend=torch.zeros(1))
    generator = torch.Generator().manual_seed(run.args.seed)
    # Independent increments of the variance give one path with the marginals of Eq. 2.
    noise = torch.randn(len(t), 2, generator=generator, dtype=torch.float64)
    path = torch.tensor([1.6, 1.4]) + (variance.sqrt()[:, None] * noise).cumsum(dim=0)
    run.draw("u1_forward", figures.forward_process(path, t))
    run.results["u1"] = {"start": path[0].tolist(), "end": path[-1].tolist()}


def u2_training_loss(run: Run) -> None:
    """Question 2: the training loss, and the smallest loss that any network could reach."""
    areas = torch.tensor([(r[1] - r[0]).prod() for r in data.RECTANGLES])
    bayes = [exact.bayes_loss(run.model.schedule, rectangle) for rectangle in data.RECTANGLES]
    curves = {
        "unconditional": (run.model.losses, exact.bayes_loss(run.model.schedule)),
        "conditional": (
            run.conditional.losses,
            float(areas @ torch.tensor(bayes, dtype=areas.dtype) / areas.sum()),
        ),
    }
    window = 100
    run.draw("u2_loss", figures.training_loss(curves, window))
    run.results["u2"] = {
        name: {
            "bayes_loss": bayes,
            "first_loss": losses[0].item(),
            f"loss_mean_of_last_{window}_epochs": losses[-window:].mean().item(),
            "excess": _excess(run, name == "conditional"),
        }
        for name, (losses, bayes) in curves.items()
    }


def _excess(run: Run, conditional: bool) -> float | list[float]:
    if not conditional:
        return metrics.excess(run.model)
    return [
        metrics.excess(run.conditional, rectangle=rectangle, label=label)
        for label, rectangle in enumerate(data.RECTANGLES)
    ]


def u3_nine_seeds(run: Run) -> None:
    """Question 3: nine samplings of 1000 points, nine seeds."""
    seeds = range(run.args.seed, run.args.seed + 9)
    samples = [run.sample(1000, seed=seed) for seed in seeds]
    scores = [metrics.tv10(points) for points in samples]
    titles = [f"seed {s}: TV10 {score:.3f}" for s, score in zip(seeds, scores, strict=True)]
    run.draw("u3_seeds", figures.sample_grid(samples, titles, columns=3))
    run.results["u3"] = {
        "tv10": scores,
        "tv10_of_1000_uniform_points": _uniform_tv10(1000),
    }


def _uniform_tv10(n: int, repeats: int = 100) -> float:
    generator = torch.Generator().manual_seed(1)
    return float(
        np.mean([metrics.tv10(data.uniform(n, generator=generator)) for _ in range(repeats)])
    )


def u4_sampling_steps(run: Run) -> None:
    """Question 4: what the number of sampling steps T does.

    Algorithm 1 moves by sigma'(t) dt = 5 sigma / T times the noise; sigma itself falls by less.
    T = 1 and 2 overshoot the denoised point, T = 5 lands on it, which shrinks the samples towards
    means. From T = 10 on the error falls like 1 / T until the network's own error is what is left.
    """
    n, truth = run.args.samples, ExactDenoiser(run.model.schedule)
    samples = {T: diffusion.sample(run.model, n, steps=T, seed=run.args.seed) for T in STEP_COUNTS}
    ideal = {T: diffusion.sample(truth, n, steps=T, seed=run.args.seed) for T in STEP_COUNTS}
    floor = _uniform_tv10(n, repeats=20)
    scores = {
        name: [metrics.tv10(points) for points in by_steps.values()]
        for name, by_steps in {"model": samples, "exact score": ideal}.items()
    }
    titles = [f"T = {T}\nTV10 {v:.3f}" for T, v in zip(STEP_COUNTS, scores["model"], strict=True)]
    shown = [points[:1000] for points in samples.values()]
    note = f"1,000 of {n:,} samples each; TV10 is that of all {n:,}"
    run.draw("u4_steps", figures.sample_grid(shown, titles, columns=5, note=note))
    run.draw(
        "u4_tv10",
        figures.steps_against_truth(STEP_COUNTS, *scores.values(), floor, n),
    )
    run.results["u4"] = {
        "steps": STEP_COUNTS,
        "samples": n,
        "tv10_floor": floor,
        "tv10": scores,
        "at_most_steps": {
            "T": STEP_COUNTS[-1],
            "tv10": scores["model"][-1],
            "ks": metrics.ks(samples[STEP_COUNTS[-1]]),
            "outside": metrics.outside_share(samples[STEP_COUNTS[-1]]),
        },
    }


def u5_schedules(run: Run) -> None:
    """Question 5: other schedules for the steps, at equal T.

    The rule of thumb that the numbers support: Euler steps in t are good where sigma(t) is straight
    over a step. The linear schedule has no curvature and wins at every T; the exponential one, most
    curved where the noise is large, needs about five times as many steps for the same distance.
    """
    n, steps = run.args.samples, (5, 10, 20, 50, 100, 200)
    truth = ExactDenoiser(run.model.schedule)

    def score(model, plan, T: int) -> float:
        points = diffusion.sample(model, n, steps=T, schedule=plan, seed=run.args.seed)
        return metrics.tv10(points)

    errors = {
        name: tuple([score(model, plan, T) for T in steps] for model in (run.model, truth))
        for name, plan in SCHEDULES.items()
    }
    t = torch.linspace(0, 1, 21, dtype=torch.float64)
    sigmas = {name: plan.sigma(t) for name, plan in SCHEDULES.items()}
    run.draw("u5_schedules", figures.schedules(t, sigmas, steps, errors))
    run.results["u5"] = {
        "steps": steps,
        "tv10": {name: {"model": a, "exact score": b} for name, (a, b) in errors.items()},
    }


def u6_same_noise(run: Run) -> None:
    """Question 6: the same noise ten times; DDIM repeats itself to the bit, DDPM does not."""
    starts = diffusion.sampling.start(
        run.model, 4, generator=torch.Generator().manual_seed(run.args.seed)
    )
    solvers = {"DDIM": {"solver": "ddim"}} | {
        f"DDPM, λ = {lam:g}": {"solver": "ddpm", "lam": lam} for lam in (0.25, 0.5, 1.0)
    }
    outputs, spreads = {}, {}
    for name, options in solvers.items():
        noise = starts.repeat(10, 1)  # ten copies of the four starts, with fresh noise each
        points = diffusion.sample(
            run.model, 40, steps=run.args.steps, noise=noise, seed=run.args.seed, **options
        ).reshape(10, 4, 2)
        spreads[name] = points.std(dim=0, correction=0).square().sum(dim=1).mean().sqrt().item()
        outputs[name] = (points, spreads[name])
    ddim = outputs["DDIM"][0]
    run.draw("u6_same_noise", figures.repeated_outputs(starts, outputs))

    paths = {
        name: diffusion.sample(
            run.model,
            4,
            steps=run.args.steps,
            noise=starts,
            seed=run.args.seed,
            return_trajectory=True,
            **solvers[name],
        )[1].numpy()
        for name in ("DDIM", "DDPM, λ = 1")
    }
    run.draw("u6_trajectories", figures.trajectories(paths, np.linspace(1, 0, run.args.steps + 1)))
    run.results["u6"] = {
        "ddim_outputs_identical_to_the_bit": bool((ddim == ddim[0]).all()),
        "spread": spreads,
    }


def start_mismatch(run: Run) -> None:
    """Beyond the questions: the price of starting from N(0, I), and how sigma(1) pays it off.

    x_1 = x_0 + sigma(1) eps has variance sigma(1)^2 + 1/3 per coordinate, Algorithm 1 starts with
    sigma(1)^2: a start too narrow by the factor sqrt(1 + 1 / (3 sigma(1)^2)).
    """
    n, levels = run.args.samples, (1.0, 1.5, 2.0, 3.0, 5.0, 10.0)
    truths = [ExactDenoiser(schedule.Exponential(sigma_max=level)) for level in levels]
    scores, table = {}, {}
    for prior in diffusion.sampling.PRIORS:
        options = {"prior": prior, "seed": run.args.seed} | ACCURATE
        ideal = [diffusion.sample(truth, n, **options) for truth in truths]
        scores[prior] = [metrics.tv10(points) for points in ideal]
        for name, points in (
            ("exact score", ideal[0]),
            ("model", diffusion.sample(run.model, n, **options)),
        ):
            table[f"{name}, {prior} start"] = {
                "tv10": metrics.tv10(points),
                "ks": metrics.ks(points),
                "standard_deviation": points.std(dim=0).mean().item(),
            }
    floor = _uniform_tv10(n, repeats=20)
    run.draw("start_mismatch", figures.start_mismatch(levels, scores, floor))
    run.results["start_mismatch"] = {
        "at_sigma_max_1": table,
        "standard_deviation_of_uniform": 3**-0.5,
        "sigma_max": levels,
        "tv10_exact_score": scores,
    }


# --- Conditional model --------------------------------------------------------------------------


def c1_classes(run: Run) -> None:
    """Question 1: the input, coloured by class (question 2 is answered in `Denoiser`)."""
    figure = figures.classes(
        run.points,
        run.labels,
        data.CLASS_NAMES,
        data.RECTANGLES,
        f"{len(run.points):,} training points by class",
    )
    run.draw("c1_classes", figure)
    counts = torch.bincount(run.labels, minlength=data.NUM_CLASSES).tolist()
    run.results["c1"] = dict(zip(data.CLASS_NAMES, counts, strict=True))


def c3_one_point_per_class(run: Run) -> None:
    """Question 3: one trajectory per class, checked to end in its class's rectangle."""
    labels = torch.arange(data.NUM_CLASSES)
    points, path = run.sample(
        data.NUM_CLASSES, run.conditional, labels=labels, return_trajectory=True
    )
    inside = [
        bool(data.inside(point[None], rectangle))
        for point, rectangle in zip(points, data.RECTANGLES, strict=True)
    ]
    figure = figures.class_trajectories(path, data.CLASS_NAMES, data.RECTANGLES, inside)
    run.draw("c3_trajectories", figure)
    run.results["c3"] = dict(zip(data.CLASS_NAMES, inside, strict=True))


def c4_samples_by_class(run: Run) -> None:
    """Question 4: 2000 samples, classes in the data's proportions."""
    generator = torch.Generator().manual_seed(run.args.seed)
    pick = torch.randint(len(run.labels), (2000,), generator=generator)
    labels = run.labels[pick]
    points = run.sample(len(labels), run.conditional, labels=labels)
    figure = figures.classes(
        points, labels, data.CLASS_NAMES, data.RECTANGLES, f"{len(labels):,} samples by class"
    )
    run.draw("c4_samples", figure)
    inside = [
        bool(data.inside(p[None], data.RECTANGLES[k])) for p, k in zip(points, labels, strict=True)
    ]
    run.results["c4"] = {"samples": len(labels), "share_in_own_rectangle": float(np.mean(inside))}


def reverse_process(run: Run) -> None:
    """Beyond the questions: 1000 points on their way through both models, as an animation."""
    n, frames = 1000, 40
    generator = torch.Generator().manual_seed(run.args.seed)
    labels = run.labels[torch.randint(len(run.labels), (n,), generator=generator)]
    options = {"steps": 1000, "seed": run.args.seed, "return_trajectory": True}
    shown = torch.linspace(0, options["steps"], frames).round().long()
    _, free = diffusion.sample(run.model, n, **options)
    _, guided = diffusion.sample(run.conditional, n, labels=labels, **options)
    figures.save_reverse_process(
        run.args.out / "figures" / "reverse_process.gif",
        (free[shown], guided[shown]),
        labels,
        ("unconditional", "conditional, coloured by class"),
        run.model.schedule.sigma(1 - shown / options["steps"]),
    )


def c5_analysis(run: Run) -> None:
    """Question 5: how well each class is met, and what happens at the borders."""
    n = run.args.samples
    generator = torch.Generator().manual_seed(run.args.seed)
    bins = torch.linspace(0, 0.25, 11, dtype=torch.float64)

    def profile(points: Tensor, rectangle: Tensor) -> Tensor:
        """Share of points by distance from the border, over that of uniform points."""
        width, height = rectangle[1] - rectangle[0]
        nearer = 1 - (width - 2 * bins) * (height - 2 * bins) / (width * height)
        share = torch.histogram(metrics.border_distance(points, rectangle), bins).hist / len(points)
        return share / torch.diff(nearer)

    table, ratios = {}, {}
    for k, (name, rectangle) in enumerate(zip(data.CLASS_NAMES, data.RECTANGLES, strict=True)):
        points = diffusion.sample(run.conditional, n, labels=k, seed=run.args.seed, **ACCURATE)
        uniform = data.uniform(n, rectangle, generator=generator)
        distances = [metrics.border_distance(p, rectangle).mean().item() for p in (points, uniform)]
        ratios[name] = profile(points, rectangle)
        table[name] = {
            "in_own_rectangle": 1 - metrics.outside_share(points, rectangle),
            "tv10_inside": metrics.tv10(points, rectangle),
            "tv10_of_uniform_points": metrics.tv10(uniform, rectangle),
            "mean_border_distance": distances[0],
            "mean_border_distance_of_uniform_points": distances[1],
            "samples_over_uniform_within_0.025_of_border": ratios[name][0].item(),
        }
    # The best that sampling down to sigma(0) can do, in one of the narrow rectangles.
    uniform = data.uniform(1_000_000, data.RECTANGLES[1], generator=generator)
    noise = torch.randn(uniform.shape, generator=generator)
    blurred = profile(uniform + run.conditional.schedule.sigma_min * noise, data.RECTANGLES[1])
    run.draw("c5_borders", figures.border_profiles(bins, ratios, blurred))
    run.results["c5"] = {
        "samples": n,
        "classes": table,
        "uniform_blurred_by_sigma_0_over_uniform_within_0.025_of_border": blurred[0].item(),
    }


# Name, location, class; A and B share their location.
PROBES = (
    ("A", (0.0, 0.0), "centre"),
    ("B", (0.0, 0.0), "top"),
    ("C", (-0.25, 0.75), "top"),
    ("D", (0.75, 0.25), "right"),
    ("E", (0.95, 0.95), "right"),
    ("F", (0.75, 0.25), "left"),
    ("G", (1.2, 0.3), "right"),
    ("H", (1.5, -1.4), "bottom"),
)


def c6_probability(run: Run) -> None:
    """Question 6: Eq. 9, the complete bound and the exact density, beside the truth.

    The process ends at sigma(0), so the truth is the uniform density blurred by sigma(0). Within
    the data -L_T lies below log p by little more than the constant reconstruction term; where
    location or class do not fit, it falls by hundreds of nats. There the network extrapolates, and
    its density, though negligible, is far larger than the true one.
    """
    names, places, class_names = zip(*PROBES, strict=True)
    x = torch.tensor(places)
    labels = torch.tensor([data.CLASS_NAMES.index(name) for name in class_names])
    rows = ["log-probability, nats        Eq. 9 (± s.e.)  full bound   density truth(σ₀)"]
    run.results["c6"] = {}
    for kind, model, label, rectangles in (
        ("points", run.conditional, labels, data.RECTANGLES[labels].transpose(0, 1)),
        ("points_unconditional", run.model, None, data.SQUARE),
    ):
        estimates = _log_probabilities(model, x, label, rectangles, run.args.seed)
        run.results["c6"][kind] = dict(zip(names, estimates, strict=True))
        for probe, found in zip(PROBES, estimates, strict=True):
            name, (x_1, x_2), class_name = probe
            found |= {"location": [x_1, x_2], "class": class_name if label is not None else None}
            if label is None and name in "BF":  # the places of A and D once more
                continue
            rows.append(
                f"{name} ({x_1:+.2f}, {x_2:+.2f}) {found['class'] or 'none':<7}"
                f"{found['eq9_nats']:>10.2f} ±{found['eq9_standard_error_nats']:<6.2f}"
                f"{found['bound_nats']:>10.2f}{found['log_density_nats']:>10.2f}"
                f"{found['true_log_density_nats']:>10.2f}"
            )
    figure = figures.probabilities(run.points, run.labels, x, names, rows)
    run.draw("c6_probability", figure)

    # Cells of 0.05 whose edges fall on the rectangles' edges.
    extent, cells = 2.0, 80
    axis = (torch.arange(cells) + 0.5) * (2 * extent / cells) - extent
    grid = torch.cartesian_prod(axis, axis).flip(1)
    maps = {"all classes": diffusion.log_likelihood(run.model, grid, rtol=1e-3, atol=1e-3)}
    for k, name in enumerate(data.CLASS_NAMES):
        maps[name] = diffusion.log_likelihood(run.conditional, grid, k, rtol=1e-3, atol=1e-3)
    densities = [values.exp().reshape(cells, cells) for values in maps.values()]
    integrals = [density.sum().item() * (2 * extent / cells) ** 2 for density in densities]
    areas = [4.0, *(float((r[1] - r[0]).prod()) for r in data.RECTANGLES)]
    run.draw("c6_density", figures.density_maps(densities, list(maps), areas, integrals, extent))
    run.results["c6"]["integral_of_density"] = dict(zip(maps, integrals, strict=True))


def _log_probabilities(model, x: Tensor, labels, rectangles: Tensor, seed: int) -> list[dict]:
    """Every estimate of log p at x (n, 2), and the truth, in nats."""
    bound = diffusion.complete_bound(model, x, labels, seed=seed)
    columns = {
        "eq9_nats": bound.diffusion,
        "eq9_standard_error_nats": bound.error,
        "bound_nats": bound.total,
        "bound_prior_term_nats": bound.prior,
        "bound_reconstruction_term_nats": bound.reconstruction,
        "log_density_nats": diffusion.log_likelihood(model, x, labels),
        "true_log_density_nats": exact.log_density(x, model.schedule.sigma_min, rectangles),
    }
    return [{name: values[i].item() for name, values in columns.items()} for i in range(len(x))]


# --- Bonus --------------------------------------------------------------------------------------


def bonus_steering(run: Run) -> None:
    """Bonus: both models, unchanged, output a point far outside the square.

    Random samples never come near, and guidance with the network's own Jacobian stops short: far
    from the data the denoised point hardly moves with x, so its gradient vanishes. What works:
    running the deterministic flow backwards from the target, the least noise that leads there, and
    guidance that takes the Jacobian for the identity. Fresh noise (lam > 0) is the dearer way,
    since the drift that it must fight grows with 1 + lam^2.
    """
    target = tuple(run.args.target)
    nearest = run.sample(run.args.samples) - torch.tensor(target)
    report = {"target": target, "nearest_of_random_samples": nearest.norm(dim=1).min().item()}
    ways = {
        "inverted flow": steering.invert,
        "optimised noises, λ = 0.25": partial(steering.optimise, lam=0.25),
        "optimised noises, λ = 1": steering.optimise,
        "guidance": steering.guide,
        "guidance through the network": partial(steering.guide, through_network=True),
    }
    for kind, model, label in (
        ("unconditional", run.model, None),
        ("conditional", run.conditional, 2),
    ):
        found = {}
        for name, way in ways.items():
            try:
                found[name] = way(model, target, label, steps=200)
            except steering.SteeringError as error:
                report.setdefault(kind, {})[name] = {"reached": False, "failed": str(error)}
                continue
            report.setdefault(kind, {})[name] = {
                "reached": found[name].distance < 0.01,
                "output": found[name].path[-1].tolist(),
                "distance": found[name].distance,
                "start": found[name].path[0].tolist(),
                "noise_energy_nats": found[name].energy,
                "noise_log_density_nats": found[name].log_density,
                "energy_of_random_noise_nats": len(found[name].noises),
            }
        if "inverted flow" in found:
            start = found["inverted flow"].path[:1]
            again = diffusion.sample(model, 1, noise=start, labels=label, steps=200)
            report[kind]["inverted flow"]["distance_of_diffusion_sample_from_that_start"] = (
                (again[0] - torch.tensor(target)).norm().item()
            )
        titles = {
            f"{name}\nmisses by {s.distance:.2g}\nenergy {s.energy:,.0f} nats": s.path
            for name, s in found.items()
        }
        run.draw(f"bonus_{kind}", figures.steering(titles, target))
    run.results["bonus"] = report


QUESTIONS = (
    u1_forward_process,
    u2_training_loss,
    u3_nine_seeds,
    u4_sampling_steps,
    u5_schedules,
    u6_same_noise,
    start_mismatch,
    c1_classes,
    c3_one_point_per_class,
    c4_samples_by_class,
    reverse_process,
    c5_analysis,
    c6_probability,
    bonus_steering,
)


# --- Command line -------------------------------------------------------------------------------


class Parser(argparse.ArgumentParser):
    """Answers a bad option with one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n")


# Options of each process beside --process, --save and --out, with their defaults.
DEFAULTS = {
    "ve": {
        "weights": None,
        "conditional_weights": None,
        "epochs": 3000,
        "points": 3000,
        "steps": 1000,
        "solver": "ddim",
        "lam": None,
        "seed": 0,
        "device": "auto",
        "samples": 20_000,
        "save_samples": None,
        "target": (4.0, 5.5),
    },
    "vp": {
        "weights": None,
        "epochs": 3000,
        "points": 3000,
        "steps": 1000,
        "seed": 0,
        "device": "auto",
        "samples": 20_000,
    },
    "bitflip": {"weights": None, "epochs": 2500, "steps": 200, "seed": 0, "samples": 200},
}
STEPS = {"ve": (1, 100_000), "vp": (2, 10_000), "bitflip": (bitflip_demo.LEAST_STAGES, 10_000)}
FOLDERS = {"save": Path("runs"), "out": Path("report")}


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog="example_diffusion.py",
        description="Train the diffusion models of Part 1, or load them, and answer its questions; "
        "or show the variance-preserving and the bit-flip diffusion.",
        argument_default=argparse.SUPPRESS,
    )

    def add(option: str, help: str, **settings) -> None:
        """An option, with its default and, where not all have it, its processes in the help."""
        name = option.removeprefix("--").replace("-", "_")
        values = {process: d[name] for process, d in DEFAULTS.items() if name in d}
        notes = [f"{values['ve']}"] if values.get("ve") is not None else []
        notes += [f"{k}: {v}" for k, v in values.items() if v != values["ve"]]
        text = f" (default {'; '.join(notes)})" if notes else ""
        owners = f" [{', '.join(values)}]" if values and len(values) < len(DEFAULTS) else ""
        parser.add_argument(option, help=help + text + owners, **settings)

    add(
        "--process",
        "variance-exploding (default), variance-preserving, or bit-flip",
        choices=tuple(DEFAULTS),
    )
    add(
        "--weights",
        "load the process's model instead of training it: for ve and vp the unconditional one, "
        "shipped as weights/diffusion_unconditional.pt, for bitflip weights/bitflip.pt",
        type=Path,
        metavar="PATH",
    )
    add(
        "--conditional-weights",
        "load the conditional model instead of training it; "
        "the shipped one is weights/diffusion_conditional.pt",
        type=Path,
        metavar="PATH",
    )
    add("--epochs", "training epochs, one full batch each; of bitflip: batches of 64", type=int)
    add("--points", "training points, 1000 to 3000", type=int)
    add("--steps", "sampling steps T; of vp and bitflip: stages T", type=int)
    add(
        "--solver",
        "reverse process of questions U3, C3, C4 and of saved samples",
        choices=tuple(diffusion.sampling.SOLVERS),
    )
    add("--lam", "amount of fresh noise, solver ddpm only (its default is 1)", type=float)
    add("--seed", "of data, training and sampling", type=int)
    add("--device", "where to train", choices=("auto", "cpu", "cuda"))
    add(
        "--samples",
        "points per measurement, and points that --save-samples writes; of bitflip: held-out "
        "images",
        type=int,
        metavar="N",
    )
    add(
        "--save-samples",
        "write N unconditional samples, an (N, 2) float32 array",
        type=Path,
        metavar="FILE.npy",
    )
    add("--target", "the far point of the bonus", type=float, nargs=2, metavar=("X", "Y"))
    add(
        "--save",
        "folder that receives the trained weights (default runs)",
        type=Path,
        metavar="DIR",
    )
    add(
        "--out",
        "folder that receives figures/ and results_diffusion.json (default report)",
        type=Path,
        metavar="DIR",
    )
    given = vars(parser.parse_args(argv))
    process = given.pop("process", "ve")
    for name in given:
        if name not in DEFAULTS[process] | FOLDERS:
            owners = " or ".join(owner for owner in DEFAULTS if name in DEFAULTS[owner])
            option = "--" + name.replace("_", "-")
            parser.error(f"{option} belongs to --process {owners}, not to {process}")
    return argparse.Namespace(process=process, **(DEFAULTS[process] | FOLDERS | given))


def check(args: argparse.Namespace) -> None:
    """Refuse every bad option before any work is done.

    Raises:
        ValueError: saying what is wrong and what is allowed.
    """
    limits = {
        "epochs": (1, 1_000_000),
        "steps": STEPS[args.process],
        "samples": (2, 1_000_000),
        "points": (data.MIN_POINTS, data.MAX_POINTS),
        "seed": (0, 2**32 - 1),
    }
    for name, (least, most) in limits.items():
        if not least <= getattr(args, name, least) <= most:
            raise ValueError(f"--{name} must be in {least}..{most}, not {getattr(args, name)}")
    if getattr(args, "device", None) == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda was asked for, but there is no CUDA device here")
    if args.process == "ve":
        _check_ve(args)


def _check_ve(args: argparse.Namespace) -> None:
    if args.lam is not None and args.solver != "ddpm":
        raise ValueError(f"--lam belongs to --solver ddpm, not to {args.solver}")
    if args.lam is not None and not 0 <= args.lam <= 10:
        raise ValueError(f"--lam must be in 0..10, not {args.lam}")
    if not all(abs(value) <= 1e6 for value in args.target):
        raise ValueError(f"--target must be two numbers in -1e6..1e6, not {args.target}")
    if args.save_samples is not None and args.save_samples.suffix != ".npy":
        raise ValueError(f"--save-samples must name a .npy file, not {args.save_samples}")
    if args.save_samples is not None and args.save_samples.is_dir():
        raise ValueError(f"--save-samples must name a file, but {args.save_samples} is a folder")


def train(
    args: argparse.Namespace, points: Tensor, labels: Tensor | None, path: Path
) -> diffusion.Denoiser:
    """Train one model with the default recipe and save it; the seed fixes every bit of it.

    Raises:
        TrainingError: the loss became NaN or infinite; the last good weights were saved.
    """
    classes = 0 if labels is None else data.NUM_CLASSES
    model = diffusion.build(*data.all_turns(points, labels), num_classes=classes, seed=args.seed)
    training = diffusion.Training(
        model.to(device(args)),
        points,
        labels,
        epochs=args.epochs,
        augment=data.random_turns,
        seed=args.seed,
    )
    return finish(training, diffusion.save, path)


def device(args: argparse.Namespace) -> str:
    cuda = args.device == "cuda" or (args.device == "auto" and torch.cuda.is_available())
    return "cuda" if cuda else "cpu"


def finish(training: diffusion.Training, save: Callable, path: Path):
    """Run a training to its end and save the model, or what was good of it."""
    try:
        trained = training.run(progress=True).cpu()
    except diffusion.TrainingError as error:
        rescue = path.with_name(f"{path.stem}_last_good.pt")
        save(error.model.cpu(), rescue)
        raise diffusion.TrainingError(
            f"{error}; the last good weights are in {rescue}", error.model
        ) from None
    save(trained, path)
    return trained


def load(path: Path, num_classes: int) -> diffusion.Denoiser:
    """A model from a file, if it is of the kind that the option asks for."""
    model = diffusion.load(path)
    if model.num_classes != num_classes:
        kind = "an unconditional model" if num_classes == 0 else f"{num_classes} classes"
        raise ValueError(f"{path} has {model.num_classes} classes, but {kind} is needed here")
    if not len(model.losses):
        raise ValueError(f"{path} holds no training losses: that model was never trained")
    return model


def answer(args: argparse.Namespace) -> dict:
    """Get both models, answer every question, and return the numbers."""
    points = data.training_points(args.points, seed=args.seed)
    labels = data.class_of(points)
    models: dict[str, diffusion.Denoiser | None] = {
        "diffusion_unconditional": args.weights and load(args.weights, 0),
        "diffusion_conditional": args.conditional_weights
        and load(args.conditional_weights, data.NUM_CLASSES),
    }
    check_outputs(args, training=None in models.values())
    if args.save_samples is not None:
        check_writable(args.save_samples.parent)
    for name, classes in zip(models, (None, labels), strict=True):
        if models[name] is None:
            models[name] = train(args, points, classes, args.save / f"{name}.pt")

    run = Run(args, *models.values(), points, labels)
    results = ask(run, QUESTIONS)
    if args.save_samples is not None:
        buffer = io.BytesIO()
        np.save(buffer, run.sample(args.samples).numpy())
        write_atomically(args.save_samples, buffer.getvalue())
    del results["options"]["process"]
    return results


def answer_vp(args: argparse.Namespace) -> dict:
    """Show the variance-preserving chain with the unconditional denoiser, and train its own."""
    points = data.training_points(args.points, seed=args.seed)
    model = args.weights and load(args.weights, 0)
    check_outputs(args, training=model is None)
    if model is None:
        model = train(args, points, None, args.save / "diffusion_unconditional.pt")
    return ask(OtherRun(args, model, "vp", points, device(args)), vp_demo.QUESTIONS)


def answer_bitflip(args: argparse.Namespace) -> dict:
    """Show the bit-flip diffusion of digits, with a model that is loaded or trained."""
    model = args.weights and bitflip_demo.load(args.weights, args.steps)
    check_outputs(args, training=model is None)
    if model is None:
        training = bitflip_demo.training(args.epochs, args.steps, args.seed)
        model = finish(training, bitnet.save, args.save / "bitflip.pt")
    return ask(OtherRun(args, model, "bitflip"), bitflip_demo.QUESTIONS)


def check_outputs(args: argparse.Namespace, training: bool) -> None:
    for folder in [args.out / "figures"] + [args.save] * training:
        check_writable(folder)


def ask(run: Run | OtherRun, questions: Sequence[Callable]) -> dict:
    """Answer the questions; returns options, answers and timings."""
    seconds = {}
    for question in tqdm(questions, desc="questions", disable=None):
        began = time.perf_counter()
        question(run)
        seconds[question.__name__] = time.perf_counter() - began
    options = {name: str(v) if isinstance(v, Path) else v for name, v in vars(run.args).items()}
    return {"options": options} | run.results | {"timings_seconds": seconds}


ANSWERS = {"ve": answer, "vp": answer_vp, "bitflip": answer_bitflip}


def merged(path: Path, process: str, results: dict) -> dict:
    """The content of the results file with this process's results in place of earlier ones.

    Raises:
        ValueError: there is a file at path that holds something else.
    """
    earlier = {}
    if path.exists():
        try:
            earlier = json.loads(path.read_text())
        except ValueError:
            earlier = None
        if not isinstance(earlier, dict):
            raise ValueError(f"{path} is not a results file; move it away first")
    if process != "ve":
        return earlier | {process: results}
    return results | {name: earlier[name] for name in ANSWERS if name in earlier}


def main(argv: list[str] | None = None) -> int:
    try:
        args = parse(argv)
        check(args)
        path = args.out / "results_diffusion.json"
        merged(path, args.process, {})  # complain before the work, not after
        results = merged(path, args.process, ANSWERS[args.process](args))
        content = json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False)
        write_atomically(path, (content + "\n").encode())
    except (ValueError, OSError, diffusion.TrainingError, diffusion.ToleranceError) as error:
        print(f"example_diffusion.py: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("example_diffusion.py: interrupted", file=sys.stderr)
        return 130
    print(f"figures in {args.out / 'figures'}, numbers in {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
