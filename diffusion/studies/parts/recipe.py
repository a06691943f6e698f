"""How a script trains and loads its models; the exercise and the studies share it.

The recipe of the shipped denoisers: two hidden layers of `WIDTH` units; every epoch sees all
points, each rotated by a random multiple of 90 degrees, and the scaling is fitted to all four
rotations. The seed fixes every bit of it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

import diffusion
from diffusion import data
from diffusion.cli import option
from diffusion.schedule import spread, units
from diffusion.training import run_together

WIDTH = 48
# How far the points of a loaded model may be from those it is asked about: several times what two
# samples of the same points differ by.
APART = 0.25

WEIGHTS = option(
    "--weights",
    "load the unconditional model instead of training it; the shipped one is "
    "weights/diffusion_unconditional.pt",
    type=Path,
    metavar="PATH",
)
EPOCHS = option(
    "--epochs",
    "training epochs, one full batch each",
    within=(1, 1_000_000),
    type=int,
    default=3000,
)
POINTS = option(
    "--points",
    f"training points, {data.MIN_POINTS} to {data.MAX_POINTS}",
    within=(data.MIN_POINTS, data.MAX_POINTS),
    type=int,
    default=data.MAX_POINTS,
)
SEED = option(
    "--seed", "of data, training and sampling", within=(0, 2**32 - 1), type=int, default=0
)
CLASSIFIER = option(
    "--classifier",
    "weights of the classifier of digits",
    type=Path,
    metavar="PATH",
    default=Path(__file__).resolve().parents[3] / "weights/classifier.pt",
)
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
PRECISION = option(
    "--precision",
    "of the networks' arithmetic; bfloat16 is faster where the processor knows it",
    choices=tuple(PRECISIONS),
    default="float32",
)
DEVICE = option(
    "--device",
    "where to train: auto (CUDA if it is there), cpu, cuda, cuda:1, mps, or any other of PyTorch's",
    default="auto",
)


def check_device(args: argparse.Namespace) -> None:
    """Refuse a device that PyTorch does not know, or that is not here.

    Raises:
        ValueError: then.
    """
    if args.device == "auto":
        return
    try:
        kind = torch.device(args.device).type
    except RuntimeError:
        raise ValueError(
            f"--device must be auto or a device of PyTorch, not {args.device}"
        ) from None
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"--device {args.device} was asked for, but there is no CUDA device here")
    try:
        works = torch.ones(1, device=args.device).item() == 1
    except Exception:  # every backend has errors of its own
        works = False
    if not works:
        raise ValueError(f"--device {args.device}: PyTorch cannot compute on it here")


def training_points(args: argparse.Namespace) -> Tensor:
    """The points (n, 2) that --points and --seed ask for."""
    return data.training_points(args.points, seed=args.seed)


def untrained(
    args: argparse.Namespace, points: Tensor, labels: Tensor | None = None, **architecture
) -> diffusion.Denoiser:
    """A denoiser for the points (n, 2), with classes if there are labels (n,), on the device."""
    model = diffusion.build(
        *data.all_rotations(points, labels),
        num_classes=0 if labels is None else data.NUM_CLASSES,
        seed=args.seed,
        **({"width": WIDTH} | architecture),
    )
    return on_device(args, model)


def on_device(args: argparse.Namespace, model: nn.Module) -> nn.Module:
    """The model on the device that --device asks for."""
    found = "cuda" if torch.cuda.is_available() else "cpu"
    return model.to(found if args.device == "auto" else args.device)


def settings(args: argparse.Namespace) -> dict:
    """The recipe's arguments of `Training`."""
    return {"epochs": args.epochs, "augment": data.random_rotations, "seed": args.seed}


def training(
    args: argparse.Namespace, points: Tensor, labels: Tensor | None = None
) -> diffusion.Training:
    """A training by the recipe, of the points (n, 2) and, with classes, their labels (n,)."""
    return diffusion.Training(untrained(args, points, labels), points, labels, **settings(args))


def run_and_save(
    training: diffusion.Training, save: Callable[[nn.Module, Path], None], path: Path
) -> nn.Module:
    """Run a training to its last epoch and save the model; see `run_and_save_all`."""
    return run_and_save_all({path: training}, save)[0]


def run_and_save_all(
    trainings: Mapping[Path, diffusion.Training], save: Callable[[nn.Module, Path], None]
) -> list[nn.Module]:
    """Run trainings to their last epochs, side by side, and save each model under its path.

    Raises:
        TrainingError: a loss became NaN or infinite; the last good weights of its model were saved.
    """
    try:
        trained = [model.cpu() for model in run_together([*trainings.values()], progress=True)]
    except diffusion.TrainingError as error:
        path = next(path for path, run in trainings.items() if run.average is error.model)
        rescue = path.with_name(f"{path.stem}_last_good.pt")
        save(error.model.cpu(), rescue)
        raise diffusion.TrainingError(
            f"{error}; the last good weights are in {rescue}", error.model
        ) from None
    for path, model in zip(trainings, trained, strict=True):
        save(model, path)
    return trained


def load(
    path: Path, points: Tensor, labels: Tensor | None = None, num_classes: int = 0
) -> diffusion.Denoiser:
    """A denoiser from a file, trained on points like these (n, 2), with so many classes.

    labels: (n,) the points' classes, for a model that has any.

    Raises:
        ValueError: the file holds something else, or a model of other points.
    """
    model = diffusion.load(path)
    if model.num_classes != num_classes:
        kind = "an unconditional model" if num_classes == 0 else f"{num_classes} classes"
        raise ValueError(f"{path} has {model.num_classes} classes, but {kind} is needed here")
    check_trained(model, path)
    check_place(model, points, labels, path)
    return model


def check_place(
    model: diffusion.Denoiser, points: Tensor, labels: Tensor | None, path: Path
) -> None:
    """Refuse a model of points that lie elsewhere than these, or spread otherwise.

    Raises:
        ValueError: its points' centre is over `APART` units from that of these points, or in a
            coordinate their standard deviations differ by more than that share.
    """
    fresh = diffusion.build(points, labels, num_classes=model.num_classes)
    (own, wide), (centre, deviation) = _place(model), _place(fresh)
    apart = (own - centre).abs() / units(deviation**2)
    ratio = torch.maximum(wide / deviation, deviation / wide) - 1
    if not (apart.max() <= APART and ratio.max() <= APART):
        raise ValueError(
            f"{path} is of points around {_pair(own)} with standard deviations {_pair(wide)}, but "
            f"these are around {_pair(centre)} with {_pair(deviation)}"
        )


def _place(model: diffusion.Denoiser) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (2,) of the points that a model was built for."""
    centre, variance = spread(model.mean.double(), model.covariance.double())
    return centre, variance.sqrt()


def _pair(values: Tensor) -> str:
    return "({:.4g}, {:.4g})".format(*values.tolist())


def check_trained(model: nn.Module, path: Path) -> None:
    """Refuse a model without losses.

    Raises:
        ValueError: then.
    """
    if not len(model.losses):
        raise ValueError(f"{path} holds no training losses: that model was never trained")
