"""What the questions about points of one's own stand on: options, models, and the split.

The questions are in `diffusion.studies.owndata`, the square's part of this in `exercise`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from math import ceil

import torch
from torch import Tensor

import diffusion
from diffusion import distances, pointsfile, progress
from diffusion.cli import Run, option
from diffusion.figures.style import Frame
from diffusion.pointsfile import Points
from diffusion.studies import exercise
from diffusion.studies.parts import recipe

ROWS = 6_000  # of one epoch, twice the exercise's; each with a noise and its opposite
COMPARED = 1000  # points of either kind in an energy distance; its time and memory are quadratic
IN_W2 = 300  # points of either kind in a W2 distance; its time is cubic
REFERENCES = 20_000  # training points among which the nearest one is looked for

OPTIONS = (
    *(entry for entry in exercise.OPTIONS if entry.name not in {"points", "target"}),
    option("--points", argparse.SUPPRESS),
    option(
        "--target",
        "the far point of the bonus (default: where (4, 5.5) is to the exercise's square)",
        **exercise.TARGET,
    ),
)


def check(args: argparse.Namespace) -> None:
    exercise.check(args)
    if args.points is not None:
        raise ValueError("--points belongs to the square's points; --data takes all of its file")
    points = pointsfile.read(args.data, seed=args.seed)
    if args.conditional_weights and not points.names:
        raise ValueError(f"--conditional-weights needs classes, and {args.data} has none")
    if args.target is None:
        args.target = Frame.around(points.training).place(4.0, 5.5)


def load(args: argparse.Namespace) -> dict[str, diffusion.Denoiser | None]:
    points = pointsfile.read(args.data, seed=args.seed)
    models = {"unconditional": args.weights and recipe.load(args.weights, points.training)}
    if points.names:
        weights = args.conditional_weights
        models["conditional"] = weights and recipe.load(
            weights, points.training, points.labels, len(points.names)
        )
    return models


class Batches(diffusion.Training):
    """Training that sees `ROWS` of the points in each epoch, drawn afresh."""

    def _batch(self) -> tuple[Tensor, Tensor | None]:
        rows = torch.randint(len(self.points), (ROWS,), generator=self.generator)
        rows = rows.to(self.points.device)
        return self.points[rows], None if self.labels is None else self.labels[rows]


def train(run: Run, name: str) -> diffusion.Denoiser:
    """A denoiser of the training points, each of them in every epoch as far as `ROWS` allow."""
    args, points = run.args, run.once(split)
    labels = points.labels if name == "conditional" else None
    classes = 0 if labels is None else len(points.names)
    model = diffusion.build(points.training, labels, num_classes=classes, seed=args.seed)
    n = len(points.training)
    training = (diffusion.Training if n <= ROWS else Batches)(
        recipe.on_device(args, model),
        points.training,
        labels,
        epochs=args.epochs,
        noise_samples=ceil(ROWS / n),
        seed=args.seed,
    )
    return recipe.run_and_save(training, diffusion.save, run.file(name))


# --- Shared by the questions --------------------------------------------------------------------


def split(run: Run) -> Points:
    return pointsfile.read(run.args.data, seed=run.args.seed)


def frame(run: Run) -> Frame:
    return Frame.around(run.once(split).training)


def unseen(run: Run) -> Tensor:
    """Held-out points, at most `COMPARED`."""
    return distances.subsample(run.once(split).held_out, COMPARED, seed=run.args.seed)


def seen(run: Run) -> Tensor:
    """As many training points as samples are compared."""
    return distances.subsample(run.once(split).training, count(run), seed=run.args.seed)


def count(run: Run) -> int:
    """How many samples are compared with the held-out points."""
    return min(run.args.samples, COMPARED)


def truth(run: Run) -> dict[str, float]:
    """What true points reach."""
    return truth_of(run.once(unseen), run.once(seen), count(run))


def sizes(run: Run) -> dict[str, int]:
    return {"samples": count(run), "held_out_points": len(run.once(unseen))}


def spread(run: Run) -> float:
    """Root of the mean variance of the coordinates, in units of the data."""
    return run.once(split).training.double().var(dim=0).mean().sqrt().item()


def labels_like_the_data(run: Run, n: int) -> Tensor:
    """Classes (n,) in the training points' proportions."""
    labels = run.once(split).labels
    generator = torch.Generator().manual_seed(run.args.seed)
    return labels[torch.randint(len(labels), (n,), generator=generator)]


def at_own_class(run: Run, points: Tensor, labels: Tensor) -> Tensor:
    """Whether the training point nearest to each of the points is of its class -> (n,) bool."""
    training = run.once(split).training
    generator = torch.Generator().manual_seed(run.args.seed)
    rows = torch.randperm(len(training), generator=generator)[:REFERENCES]
    return run.once(split).labels[rows][distances.nearest(points, training[rows])] == labels


def truth_of(held_out: Tensor, training: Tensor, n: int) -> dict[str, float]:
    """Distances of training points from held-out ones, to be compared with those of n samples."""
    size = min(IN_W2, n, len(held_out), len(training))
    return {
        "energy_distance_of_training_points": distances.energy_distance(training, held_out),
        "w2_of_training_points": distances.mean_w2(training, held_out, size),
        "points_in_each_w2": size,
    }


def compared(samples: Tensor, held_out: Tensor, truth: dict, seed: int) -> dict:
    """Every distance of samples from held-out points; truth: of `truth_of`."""
    distance, p_value = distances.permutation_test(samples, held_out, seed=seed)
    true = truth["w2_of_training_points"]
    found = distances.mean_w2(samples, held_out, truth["points_in_each_w2"]) if true else None
    return {
        "energy_distance": distance,
        "p_value_of_the_same_law": p_value,
        "w2_ratio": found and found / true,
    }


def all_compared(run: Run, samples: Sequence[Tensor]) -> dict[str, list]:
    """The distances of several sets of samples (n, 2), by measure."""
    truth_here, held_out = run.once(truth), run.once(unseen)
    bar = progress.bar(samples, desc="distances to held-out points", unit="set", leave=False)
    found = [compared(points, held_out, truth_here, run.args.seed) for points in bar]
    return {name: [row[name] for row in found] for name in found[0]}
