"""What the exercise's script stands on: its options, models, data and samples.

The questions are in example_diffusion.py.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import diffusion
from diffusion import data, schedule
from diffusion.cli import Answer, Run, option
from diffusion.sampling import SOLVERS
from diffusion.studies import recipe

STEP_COUNTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)  # the T of question 4
SCHEDULES = {  # of question 5
    "exponential (original)": schedule.Exponential(),
    "Karras, ρ = 7": schedule.Power(),
    "quadratic, t² + floor": schedule.Quadratic(),
    "linear": schedule.Power(rho=1.0),
}
ACCURATE = {"solver": "dpm++", "steps": 100}  # nearer to the flow than DDIM with T = 1000

DATA = option(
    "--data",
    "points of your own in place of the square's: an array (n, 2), or (n, 3) with whole-number "
    "classes in the third column, of 100 to 1,000,000 points at any scale; name an --out of "
    "its own, too",
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
    return {
        "unconditional": args.weights and recipe.load(args.weights, 0),
        "conditional": args.conditional_weights
        and recipe.load(args.conditional_weights, data.NUM_CLASSES),
    }


def train(run: Run, name: str) -> diffusion.Denoiser:
    points, labels = run.once(labelled_points)
    path = run.args.save / f"diffusion_{name}.pt"
    return recipe.train(run.args, points, labels if name == "conditional" else None, path)


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


def saved_samples(run: Run) -> Answer:
    """The samples that --save-samples asks for."""
    if run.args.save_samples is None:
        return Answer()
    buffer = io.BytesIO()
    np.save(buffer, sample(run, run.args.samples).numpy())
    return Answer(files={run.args.save_samples: buffer.getvalue()})
