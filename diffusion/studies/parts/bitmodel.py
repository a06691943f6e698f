"""What studies share of the bit-flip model of MNIST: its process, file, steps and bounds."""

from __future__ import annotations

import math
from pathlib import Path

from torch import Tensor

from diffusion.cli import option
from diffusion.images import bitflip, bitnet, classifier
from diffusion.images.bitnet import BitNet
from diffusion.images.bitprocess import BitFlip
from diffusion.images.classifier import Classifier
from diffusion.images.mnist import NUM_CLASSES, SHAPE
from diffusion.studies.parts import recipe

LEAST_STAGES = 5
STAGES = 1000
STEPS = 50  # of these that samples visit
_TOTAL = 2.5  # delta times the number of stages

DRAWS = option(
    "--draws", "stages drawn for the bound of each image", within=(1, 100), type=int, default=1
)


def process(stages: int) -> BitFlip:
    """delta = 2.5 / stages: whatever their number, c^T is about e^-5 and Y_T all but coins.

    Raises:
        ValueError: fewer than `LEAST_STAGES`, for which delta would exceed 1/2.
    """
    return BitFlip(_TOTAL / stages, stages)


def load(path: Path, stages: int) -> BitNet:
    """A trained model of MNIST with so many stages from a file.

    Raises:
        ValueError: the file holds something else.
    """
    model = bitnet.load(path)
    if model.shape != SHAPE or model.num_classes != NUM_CLASSES:
        raise ValueError(
            f"{path} is of {model.num_classes} classes and {model.shape[0]} x {model.shape[1]} "
            f"pixels, but {NUM_CLASSES} and {SHAPE[0]} x {SHAPE[1]} are needed here"
        )
    if model.process.stages != stages:
        raise ValueError(f"{path} has {model.process.stages} stages, not {stages}")
    recipe.check_trained(model, path)
    return model


def steps(model: BitNet) -> int:
    """Stages that samples visit."""
    return min(STEPS, model.process.stages)


def nats(model: BitNet, judge: Classifier, images: Tensor, *, samples: int, seed: int) -> Tensor:
    """A bound on -log P of images (n, 784), estimated at so many stages each: (n,) nats.

    The model draws a class first, each with probability 1/10, and then an image of it:
    -log P(x) <= -log P(x | k) + log 10, whatever class k(x) is. Here it is what the classifier
    `judge` sees in x. See `bitflip.class_bounds` for images of any class at once.
    """
    seen = classifier.evaluate(judge, (images + 1) / 2)[0].argmax(dim=1)
    found = bitflip.class_bounds(model, images, (seen,), samples=samples, seed=seed, progress=True)
    return found[:, 0] + math.log(NUM_CLASSES)
