"""What the exercise's script stands on: its options, models, data and samples.

The questions are in example_diffusion.py.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import diffusion
from diffusion import data, likelihood, metrics, schedule
from diffusion.checks import own_mode
from diffusion.cli import Answer, Run, option
from diffusion.exact import ExactDenoiser
from diffusion.sampling import SOLVERS, ddim, predictor, reverse, start
from diffusion.schedule import tabulated
from diffusion.studies.parts import recipe
from diffusion.threads import one_thread, side_by_side

STEP_COUNTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)  # the T of question 4
SCHEDULES = {  # of question 5
    "exponential (original)": schedule.Exponential(),
    "Karras, ρ = 7": schedule.Power(),
    "quadratic, t² + floor": schedule.Quadratic(),
    "linear": schedule.Power(rho=1.0),
}
STEP_FORMULAS = {"σ'(t) dt": "ddim", "σ_next − σ": "euler"}  # solvers of question 5
ACCURATE = {"solver": "dpm++", "steps": 100}  # nearer to the flow than DDIM with T = 1000
FAST = {"solver": "dpm++", "steps": 24}
BORDER_BINS = torch.linspace(0, 0.25, 11, dtype=torch.float64)  # distances from a border

# Of question C6: name, location, class; A and B share their location.
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

# All questions but training, in evaluations of the network at --samples points, and at 20,000.
WORK = (15_400, 5_900)
TWO_AT_ONCE = 1.25  # how much longer an epoch takes beside that of the other model

DATA = option(
    "--data",
    "points of your own in place of the square's: an array (n, 2), or (n, 3) with whole-number "
    "classes in the third column, of 100 to 1,000,000 points at any scale",
    type=Path,
    metavar="FILE.npy",
)
TARGET = {"type": float, "nargs": 2, "metavar": ("X", "Y")}

OPTIONS = (
    DATA,
    recipe.WEIGHTS,
    option(
        "--conditional-weights",
        "load the conditional model instead of training it; the shipped one is "
        "weights/diffusion_conditional.pt",
        type=Path,
        metavar="PATH",
    ),
    recipe.EPOCHS,
    recipe.POINTS,
    option("--steps", "sampling steps T", within=(1, 100_000), type=int, default=1000),
    option(
        "--solver",
        "reverse process of questions U3, C3, C4 and of saved samples",
        choices=tuple(SOLVERS),
        default="ddim",
    ),
    option(
        "--lam",
        "amount of fresh noise, solver ddpm only (its default is 1)",
        within=(0, 10),
        type=float,
    ),
    recipe.SEED,
    recipe.DEVICE,
    option(
        "--samples",
        "points per measurement, and points that --save-samples writes",
        within=(2, 1_000_000),
        type=int,
        metavar="N",
        default=20_000,
    ),
    option(
        "--save-samples",
        "write N unconditional samples, an (N, 2) float32 array",
        output=True,
        type=Path,
        metavar="FILE.npy",
    ),
    option("--target", "the far point of the bonus", default=(4.0, 5.5), **TARGET),
)


def check(args: argparse.Namespace) -> None:
    recipe.check_device(args)
    if args.lam is not None and args.solver != "ddpm":
        raise ValueError(f"--lam belongs to --solver ddpm, not to {args.solver}")
    if args.target is not None and not all(abs(value) <= 1e6 for value in args.target):
        raise ValueError(f"--target must be two numbers in -1e6..1e6, not {args.target}")
    if args.save_samples is not None and args.save_samples.suffix != ".npy":
        raise ValueError(f"--save-samples must name a .npy file, not {args.save_samples}")


def load(args: argparse.Namespace) -> dict[str, diffusion.Denoiser | None]:
    points, given = recipe.training_points(args), args.conditional_weights
    labels = data.class_of(points)
    return {
        "unconditional": args.weights and recipe.load(args.weights, points),
        "conditional": given and recipe.load(given, points, labels, data.NUM_CLASSES),
    }


def train(run: Run, name: str) -> diffusion.Denoiser:
    return run.once(trained)[name]


def trained(run: Run) -> dict[str, diffusion.Denoiser]:
    """The models that were not loaded, trained side by side and saved."""
    points, labels = run.once(labelled_points)
    trainings = {
        name: recipe.training(run.args, points, labels if name == "conditional" else None)
        for name, model in run.models.items()
        if model is None
    }
    by_path = {run.file(name): t for name, t in trainings.items()}
    return dict(zip(trainings, recipe.run_and_save_all(by_path, diffusion.save), strict=True))


def forecast(run: Run) -> float:
    """About how many seconds the run will take: first steps of training and sampling, scaled up."""
    points, labels = run.once(labelled_points)
    missing = [name for name, model in run.models.items() if model is None]
    model = run.models["unconditional"] or recipe.untrained(run.args, points)
    diffusion.sample(model, 20_000, steps=2)  # the first ones are slow
    per_step = _seconds(lambda: diffusion.sample(model, 20_000, steps=10)) / 10
    at_once = min(2, torch.get_num_threads())
    answering = (WORK[0] * run.args.samples / 20_000 + WORK[1]) * per_step / at_once
    if not missing:
        return answering
    training = recipe.training(run.args, points, labels if "conditional" in missing else None)
    training.advance(3)
    per_epoch = _seconds(lambda: training.advance(6)) / 6
    if len(missing) > at_once:
        per_epoch *= 2
    elif len(missing) > 1:
        per_epoch *= TWO_AT_ONCE
    return answering + training.epochs * per_epoch


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def labelled_points(run: Run) -> tuple[Tensor, Tensor]:
    """The training data (n, 2), and the class of each point (n,) int64."""
    points = recipe.training_points(run.args)
    return points, data.class_of(points)


def labels_like_the_data(run: Run, n: int) -> Tensor:
    """Classes (n,) in the training data's proportions."""
    _, labels = run.once(labelled_points)
    generator = torch.Generator().manual_seed(run.args.seed)
    return labels[torch.randint(len(labels), (n,), generator=generator)]


def sample(run: Run, n: int, name: str = "unconditional", **options):
    """Samples by the solver and number of steps that the command line asks for."""
    args = run.args
    defaults = {"solver": args.solver, "steps": args.steps, "lam": args.lam, "seed": args.seed}
    return diffusion.sample(run.models[name], n, **(defaults | options))


def scores(points: Tensor, rectangle: Tensor = data.SQUARE) -> dict[str, float]:
    """How far points (n, 2) are from uniform on the rectangle."""
    return {
        "tv10": metrics.tv10(points, rectangle),
        "ks": metrics.ks(points, rectangle),
        "outside": metrics.outside_share(points, rectangle),
        "standard_deviation": points.double().std(dim=0).mean().item(),
    }


def samples(run: Run) -> Tensor:
    """--samples points, by the solver and number of steps that the command line asks for."""
    return sample(run, run.args.samples)


def samples_by_seed(run: Run, n: int, starts: Sequence[tuple[int, str]]) -> list[Tensor]:
    """n points from the start of each (seed, prior), by the command line's solver and steps.

    All start at once, in two halves; fresh noise, if the solver takes it, is each half's own.
    """
    model = run.models["unconditional"]
    noises = [
        start(model, n, prior=prior, generator=torch.Generator().manual_seed(seed))
        for seed, prior in starts
    ]
    halves = [torch.cat(noises[: len(noises) // 2]), torch.cat(noises[len(noises) // 2 :])]
    seeds = run.args.seed, run.args.seed + 1
    made = side_by_side(lambda x, s: sample(run, len(x), noise=x, seed=s), halves, seeds)
    return list(torch.cat(made).split(n))


def samples_by_steps(run: Run) -> dict[tuple[int, str], Tensor]:
    """Of Algorithm 1: (T, "model" or "exact score") -> --samples points, for T in `STEP_COUNTS`."""
    args, model = run.args, run.models["unconditional"]
    models = {"model": model, "exact score": ExactDenoiser(model.schedule)}

    def made(T: int, name: str) -> Tensor:
        if name == "model" and (args.steps, args.solver) == (T, "ddim"):
            return run.once(samples)
        return diffusion.sample(models[name], args.samples, steps=T, seed=args.seed)

    jobs = [*product(STEP_COUNTS[::-1], models)]  # the longest first
    return dict(zip(jobs, side_by_side(made, *zip(*jobs, strict=True)), strict=True))


def scores_by_schedule(
    model, n: int, steps: Sequence[int], *, seed: int, known: Mapping[tuple[int, str], Tensor]
) -> dict:
    """Schedule -> formula of a step -> "model", "exact score" -> measure -> values by steps.

    known: of Algorithm 1 with the model's own schedule, the samples that there are already.
    """
    models = {"model": model, "exact score": ExactDenoiser(model.schedule)}
    table = {
        plan: {formula: {name: {} for name in models} for formula in STEP_FORMULAS}
        for plan in SCHEDULES
    }
    jobs = [(T, *rest) for T in steps[::-1] for rest in product(SCHEDULES, STEP_FORMULAS, models)]
    own = (model.schedule, "ddim")

    def score(T: int, plan: str, formula: str, name: str) -> dict[str, float]:
        if (T, name) in known and (SCHEDULES[plan], STEP_FORMULAS[formula]) == own:
            return scores(known[T, name])
        options = {"schedule": SCHEDULES[plan], "solver": STEP_FORMULAS[formula], "seed": seed}
        return scores(diffusion.sample(models[name], n, steps=T, **options))

    found = side_by_side(score, *zip(*jobs, strict=True))  # the longest first
    for (_, plan, formula, name), row in zip(jobs[::-1], found[::-1], strict=True):
        for measure, value in row.items():
            table[plan][formula][name].setdefault(measure, []).append(value)
    return table


@own_mode(gradients=False)
@one_thread()
def to_zero_inclusive(model, n: int, steps: int, *, prior: str, seed: int) -> Tensor:
    """Algorithm 1 with t = 1, 1 + dt, ..., 0 read inclusive: T + 1 evaluations, the last at t = 0.

    `diffusion.sample` takes the T steps that lead from t = 1 to t = 0.
    """
    generator = torch.Generator().manual_seed(seed)
    x = start(model, n, prior=prior, generator=generator)
    times = torch.linspace(1, -1 / steps, steps + 2, dtype=torch.float64).tolist()
    table = tabulated(model.schedule, times)
    for point in reverse(ddim(predictor(model, table, times), table, None), x, times):
        x = point
    return x


def borders(model, n: int, *, seed: int) -> dict[str, tuple[Tensor, dict]]:
    """By class: shares of its samples by distance from its border over those of uniform points.

    Also how they lie in their rectangle. There are n samples of each class, by `FAST`.
    """

    def of(label: int) -> tuple[Tensor, dict]:
        rectangle = data.RECTANGLES[label]
        points = diffusion.sample(model, n, labels=label, seed=seed, **FAST)
        profile = metrics.border_profile(points, rectangle, BORDER_BINS)
        distance = metrics.border_distance(points, rectangle).mean().item()
        return profile, {
            "in_own_rectangle": 1 - metrics.outside_share(points, rectangle),
            "tv10_inside": metrics.tv10(points, rectangle),
            "mean_border_distance": distance,
        }

    return dict(zip(data.CLASS_NAMES, side_by_side(of, range(data.NUM_CLASSES)), strict=True))


def estimates(model, probes: Sequence[tuple], *, seed: int) -> dict[str, dict]:
    """`likelihood.estimates` at the probes, by name, and the two bounds with the exact score.

    Both bounds take the same draws, so that their difference is the model's error alone.
    """
    names, places, classes = zip(*probes, strict=True)
    x, labels, rectangles = torch.tensor(places), None, data.SQUARE
    truth = ExactDenoiser(model.schedule)
    if model.num_classes:
        labels = torch.tensor([data.CLASS_NAMES.index(name) for name in classes])
        rectangles = data.RECTANGLES[labels].transpose(0, 1)
        truth = ExactDenoiser(model.schedule, data.RECTANGLES)
    ideal = likelihood.complete_bound(truth, x, labels, seed=seed)
    rows = likelihood.estimates(model, x, labels, rectangles, seed=seed)
    for k, row in enumerate(rows):
        row["eq9_exact_score_nats"] = ideal.diffusion[k].item()
        row["bound_exact_score_nats"] = ideal.total[k].item()
        row["location"] = list(places[k])
        row["class"] = classes[k] if model.num_classes else None
    return dict(zip(names, rows, strict=True))


def saved_samples(run: Run) -> Answer:
    """The samples that --save-samples asks for."""
    if run.args.save_samples is None:
        return Answer()
    buffer = io.BytesIO()
    np.save(buffer, run.once(samples).numpy())
    return Answer(files={run.args.save_samples: buffer.getvalue()})
