"""--study bitflip: binomial diffusion of binary digits, and of 3 x 3 images whose truth is known.

The model is a `bitnet.BitNet`, loaded from weights/bitflip.pt or trained on 40,000 digits.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diffusion.cli import Answer, Run, Study, option
from diffusion.figures import images as figures
from diffusion.images import bitflip, bitnet, lattice, measures
from diffusion.images.bitflip import BitFlip
from diffusion.images.bitflip_exact import Enumerated
from diffusion.images.bitnet import BitNet, BitTraining
from diffusion.images.digits import NUM_CLASSES, SHAPE, digits
from diffusion.studies import recipe

TRAINING_IMAGES = 40_000
HELD_OUT_SEED = 2**32  # of the held-out digits: no --seed reaches it
LEAST_STAGES = 5
_TOTAL = 2.5  # delta times the number of stages

OPTIONS = (
    option(
        "--weights",
        "load the network instead of training it; the shipped one is weights/bitflip.pt",
        type=Path,
        metavar="PATH",
    ),
    option("--epochs", "training batches, of 64", within=(1, 1_000_000), type=int, default=2500),
    option("--steps", "stages T", within=(LEAST_STAGES, 10_000), type=int, default=200),
    recipe.SEED,
    option(
        "--samples",
        "held-out images",
        within=(2, 1_000_000),
        type=int,
        metavar="N",
        default=200,
    ),
)


def process(stages: int) -> BitFlip:
    """delta = 2.5 / stages: whatever their number, c^T is about e^-5 and Y_T all but coins.

    Raises:
        ValueError: fewer than `LEAST_STAGES`, for which delta would exceed 1/2.
    """
    return BitFlip(_TOTAL / stages, stages)


def load(args: argparse.Namespace) -> dict[str, BitNet | None]:
    return {"bitflip": args.weights and load_digits(args.weights, args.steps)}


def load_digits(path: Path, stages: int) -> BitNet:
    """A trained model of digits with so many stages from a file.

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


def train(run: Run, name: str) -> BitNet:
    """The default recipe on digits; --epochs counts updates, of 64 images each."""
    args = run.args
    images, labels = digits(TRAINING_IMAGES, seed=args.seed)
    generator = torch.Generator().manual_seed(args.seed)
    model = BitNet(process(args.steps), SHAPE, num_classes=NUM_CLASSES, generator=generator)
    training = BitTraining(
        model,
        images,
        labels,
        epochs=args.epochs,
        learning_rate=3e-3,
        ema_decay=0.995,
        seed=args.seed,
    )
    return recipe.run_and_save(training, bitnet.save, args.save / f"{name}.pt")


# --- Questions ----------------------------------------------------------------------------------


def b1_samples(run: Run) -> Answer:
    """200 samples of any class."""
    images = bitflip.sample(run.models["bitflip"], 200, seed=run.args.seed, progress=True)
    held_out, _ = digits(run.args.samples, seed=HELD_OUT_SEED)
    return Answer(
        {"ink_share": _share(images > 0), "ink_share_of_data": _share(held_out > 0)},
        {"b1_samples": figures.grid(images, SHAPE, columns=20)},
    )


def b2_classes(run: Run) -> Answer:
    """Twelve samples of each class, and whether the nearest training image has it too."""
    labels = torch.arange(NUM_CLASSES).repeat_interleave(12)
    images = bitflip.sample(run.models["bitflip"], len(labels), labels=labels, seed=run.args.seed)
    data, truth = digits(4000, seed=run.args.seed)
    agreement, nearest = (images @ data.T).max(dim=1)  # pixels alike minus pixels unlike
    return Answer(
        {
            "samples": len(labels),
            "share_whose_nearest_of_4000_training_images_has_the_class": _share(
                truth[nearest] == labels
            ),
            "share_equal_to_one_of_them": _share(agreement == images.shape[1]),
        },
        {"b2_classes": figures.grid(images, SHAPE, columns=12, names=range(NUM_CLASSES))},
    )


def b3_trajectory(run: Run) -> Answer:
    """The reverse process of one image of every second class."""
    model, labels = run.models["bitflip"], torch.arange(0, NUM_CLASSES, 2)
    _, path = bitflip.sample(
        model, len(labels), labels=labels, seed=run.args.seed, return_trajectory=True
    )
    stages = model.process.stages
    shown = sorted({round(stages * share**2) for share in np.linspace(0, 1, 11)}, reverse=True)
    rows = path[[stages - t for t in shown]].transpose(0, 1)
    titles = [f"t = {t}" for t in shown]
    return Answer(figures={"b3_trajectory": figures.rows(rows, SHAPE, titles)})


def b4_loss(run: Run) -> Answer:
    """The training loss, an estimate of the bound in bits per pixel."""
    losses, window = run.models["bitflip"].losses, 100
    return Answer(
        {
            "updates": len(losses),
            f"mean_of_last_{window}_bits_per_pixel": losses[-window:].mean().item(),
        },
        {"b4_loss": figures.loss(losses, window)},
    )


def b5_bits(run: Run) -> Answer:
    """Bits per pixel of held-out images: the bound, pixels on their own, and compressors."""
    images, labels = digits(run.args.samples, seed=HELD_OUT_SEED)
    data, _ = digits(TRAINING_IMAGES, seed=run.args.seed)
    model, n = run.models["bitflip"], len(images)
    bounds = {
        name: bitflip.bound(model, images, given, seed=run.args.seed, progress=True)
        for name, given in (("without label", None), ("given the label", labels))
    }
    alone, sizes = measures.independent_pixels(data, images), measures.compressors(data, images)
    best = min(sizes, key=sizes.get)
    numbers = {
        "held_out_images": n,
        "prior_term": bounds["without label"].prior,
        "bound": {
            name: {
                "bits_per_pixel": bound.total.mean().item(),
                "standard_error_over_images": bound.total.std().item() / math.sqrt(n),
                "standard_error_of_the_estimate": bound.error.norm().item() / n,
            }
            for name, bound in bounds.items()
        },
        "label_bits_per_pixel": math.log2(NUM_CLASSES) / images.shape[1],
        "independent_pixels": alone,
        "compressors": sizes,
        "best_compressor": best,
    }
    bars = {"fair coins": 1.0, "independent pixels": alone}
    bars |= {name: sizes[name] for name in ("PNG sheet", best)}
    bars |= {f"bit-flip, {name}": bound.total.mean().item() for name, bound in bounds.items()}
    stages = {name: bound.stages.mean(dim=0) for name, bound in bounds.items()}
    return Answer(numbers, {"b5_bits": figures.bits(bars, stages, n)})


def b6_truth(run: Run) -> Answer:
    """3 x 3 images of a known distribution: all 512 probabilities, learnt and true."""
    truth = lattice.probabilities()
    ideal = bitflip_exact.distribution(
        Enumerated(lattice.PROCESS, bitflip_exact.all_images(9), truth)
    )
    learnt = bitflip_exact.distribution(lattice.learn(truth))
    alone = lattice.independent_probabilities(truth)
    distances = {
        name: 0.5 * (p - truth).abs().sum().item()
        for name, p in (("learnt", learnt), ("ideal network", ideal), ("independent pixels", alone))
    }
    return Answer(
        {"total_variation": distances, "entropy_bits": -(truth * truth.log2()).sum().item()},
        {"b6_truth": figures.probabilities(truth, learnt, distances)},
    )


def _share(yes: Tensor) -> float:
    return yes.double().mean().item()


STUDY = Study(
    name="bitflip",
    description="bit-flip diffusion of binary digits, and of images whose truth is known",
    options=OPTIONS,
    load=load,
    train=train,
    questions={
        "samples": b1_samples,
        "classes": b2_classes,
        "trajectory": b3_trajectory,
        "loss": b4_loss,
        "bits_per_pixel": b5_bits,
        "truth_3x3": b6_truth,
    },
)
