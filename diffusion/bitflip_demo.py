"""What the bit-flip diffusion is asked on digits, and on 3 x 3 images whose truth is known.

Every function takes the script's run: `model`, `args` (seed, samples), `results` to write into, and
`draw(name, figure)`.
"""

from __future__ import annotations

import io
import math
import zlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from diffusion import bitflip, bitnet, process_figures
from diffusion.bitflip import BitFlip, Enumerated
from diffusion.bitnet import BitNet, BitTraining
from diffusion.digits import NUM_CLASSES, SHAPE, digits

TRAINING_IMAGES = 40_000
HELD_OUT_SEED = 2**32  # of the held-out digits: no --seed reaches it
LEAST_STAGES = 5
_TOTAL = 2.5  # delta times the number of stages


def process(stages: int) -> BitFlip:
    """delta = 2.5 / stages: whatever their number, c^T is about e^-5 and Y_T all but coins.

    Raises:
        ValueError: fewer than `LEAST_STAGES`, for which delta would exceed 1/2.
    """
    return BitFlip(_TOTAL / stages, stages)


def training(epochs: int, stages: int, seed: int) -> BitTraining:
    """The default recipe on digits; epochs counts updates, of 64 images each."""
    images, labels = digits(TRAINING_IMAGES, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    model = BitNet(process(stages), SHAPE, num_classes=NUM_CLASSES, generator=generator)
    return BitTraining(
        model, images, labels, epochs=epochs, learning_rate=3e-3, ema_decay=0.995, seed=seed
    )


def load(path: str | Path, stages: int) -> BitNet:
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
    if not len(model.losses):
        raise ValueError(f"{path} holds no training losses: that model was never trained")
    return model


def b1_samples(run) -> None:
    """200 samples of any class."""
    images = bitflip.sample(run.model, 200, seed=run.args.seed, progress=True)
    run.draw("b1_samples", process_figures.image_grid(images, SHAPE, columns=20))
    run.results["samples"] = {
        "ink_share": _share(images > 0),
        "ink_share_of_data": _share(_held_out(run) > 0),
    }


def b2_classes(run) -> None:
    """Twelve samples of each class, and whether the nearest training image has it too."""
    labels = torch.arange(NUM_CLASSES).repeat_interleave(12)
    images = bitflip.sample(run.model, len(labels), labels=labels, seed=run.args.seed)
    figure = process_figures.image_grid(images, SHAPE, columns=12, names=range(NUM_CLASSES))
    run.draw("b2_classes", figure)
    data, truth = digits(4000, seed=run.args.seed)
    agreement, nearest = (images @ data.T).max(dim=1)  # pixels alike minus pixels unlike
    run.results["classes"] = {
        "samples": len(labels),
        "share_whose_nearest_of_4000_training_images_has_the_class": _share(
            truth[nearest] == labels
        ),
        "share_equal_to_one_of_them": _share(agreement == images.shape[1]),
    }


def b3_trajectory(run) -> None:
    """The reverse process of one image of every second class."""
    labels = torch.arange(0, NUM_CLASSES, 2)
    _, path = bitflip.sample(
        run.model, len(labels), labels=labels, seed=run.args.seed, return_trajectory=True
    )
    stages = run.model.process.stages
    shown = sorted({round(stages * share**2) for share in np.linspace(0, 1, 11)}, reverse=True)
    rows = path[[stages - t for t in shown]].transpose(0, 1)
    run.draw("b3_trajectory", process_figures.image_rows(rows, SHAPE, [f"t = {t}" for t in shown]))


def b4_loss(run) -> None:
    """The training loss, an estimate of the bound in bits per pixel."""
    losses, window = run.model.losses, 100
    run.draw("b4_loss", process_figures.bit_loss(losses, window))
    run.results["loss"] = {
        "updates": len(losses),
        f"mean_of_last_{window}_bits_per_pixel": losses[-window:].mean().item(),
    }


def b5_bits(run) -> None:
    """Bits per pixel of held-out images: the bound, pixels on their own, and compressors."""
    images, labels = digits(run.args.samples, seed=HELD_OUT_SEED)
    data, _ = digits(TRAINING_IMAGES, seed=run.args.seed)
    bounds = {
        name: bitflip.bound(run.model, images, given, seed=run.args.seed, progress=True)
        for name, given in (("without label", None), ("given the label", labels))
    }
    report = {
        "held_out_images": len(images),
        "prior_term": bounds["without label"].prior,
        "bound": {
            name: {
                "bits_per_pixel": bound.total.mean().item(),
                "standard_error_over_images": bound.total.std().item() / math.sqrt(len(images)),
                "standard_error_of_the_draws": bound.error.norm().item() / len(images),
            }
            for name, bound in bounds.items()
        },
        "label_bits_per_pixel": math.log2(NUM_CLASSES) / images.shape[1],
        "independent_pixels": independent_pixels(data, images),
        "compressors": compressors(data, images),
    }
    best = min(report["compressors"], key=report["compressors"].get)
    report["best_compressor"] = best
    bars = {
        "fair coins": 1.0,
        "independent pixels": report["independent_pixels"],
    } | {name: report["compressors"][name] for name in ("PNG sheet", best)}
    bars |= {f"bit-flip, {name}": value.total.mean().item() for name, value in bounds.items()}
    stages = {name: bound.stages.mean(dim=0) for name, bound in bounds.items()}
    run.draw("b5_bits", process_figures.bits(bars, stages, len(images)))
    run.results["bits_per_pixel"] = report


def b6_truth(run) -> None:
    """3 x 3 images of a known distribution: all 512 probabilities, learnt and true."""
    truth = lattice()
    ideal = bitflip.distribution(Enumerated(SMALL_PROCESS, bitflip.all_images(9), truth))
    learnt = bitflip.distribution(learn_lattice(truth))
    alone = independent_probabilities(truth)
    distances = {
        name: 0.5 * (p - truth).abs().sum().item()
        for name, p in (("learnt", learnt), ("ideal network", ideal), ("independent pixels", alone))
    }
    run.draw("b6_truth", process_figures.probabilities(truth, learnt, distances))
    run.results["truth_3x3"] = {
        "total_variation": distances,
        "entropy_bits": -(truth * truth.log2()).sum().item(),
    }


QUESTIONS = (b1_samples, b2_classes, b3_trajectory, b4_loss, b5_bits, b6_truth)


def _held_out(run) -> Tensor:
    return digits(run.args.samples, seed=HELD_OUT_SEED)[0]


def _share(yes: Tensor) -> float:
    return yes.double().mean().item()


# --- What to compare with -----------------------------------------------------------------------


def independent_pixels(data: Tensor, images: Tensor) -> float:
    """Bits per pixel of images (n, m) when each pixel is a coin, fitted on data (k, m)."""
    p = ((data > 0).double().sum(dim=0) + 0.5) / (len(data) + 1)
    return -torch.where(images > 0, p, 1 - p).log2().mean().item()


def compressors(data: Tensor, images: Tensor) -> dict[str, float]:
    """Bits per pixel of images (n, 784) after general compression, all of them in one file.

    zlib gets one bit or one byte per pixel, whatever suits it; with a dictionary it has seen as
    many of the training images, data (k, 784), as its 32 KiB window holds. The PNG sheet has 1-bit
    pixels and the images below each other; "each alone" is the mean of separate files.
    """
    on = (images > 0).numpy()
    packed, unpacked = (np.packbits(on, axis=1), on.astype(np.uint8))
    known = np.packbits((data[: 2**15 // 98] > 0).numpy(), axis=1).tobytes()
    sizes = {
        "zlib, 1 bit per pixel": len(zlib.compress(packed.tobytes(), 9)),
        "zlib, 1 byte per pixel": len(zlib.compress(unpacked.tobytes(), 9)),
        "zlib, 1 bit per pixel, with a dictionary": _zlib(packed.tobytes(), known),
        "zlib, 1 bit per pixel, each alone": sum(
            len(zlib.compress(row.tobytes(), 9)) for row in packed
        ),
        "PNG sheet": _png(on.reshape(-1, SHAPE[1])),
        "PNG, each alone": sum(_png(row.reshape(SHAPE)) for row in on),
    }
    return {name: 8 * size / images.numel() for name, size in sizes.items()}


def _zlib(content: bytes, known: bytes) -> int:
    compressor = zlib.compressobj(9, zdict=known)
    return len(compressor.compress(content) + compressor.flush())


def _png(on: np.ndarray) -> int:
    buffer = io.BytesIO()
    Image.fromarray(on).save(buffer, format="PNG", optimize=True)
    return len(buffer.getvalue())


# --- 3 x 3 images -------------------------------------------------------------------------------

SMALL_PROCESS = BitFlip(delta=0.004, stages=500)


def lattice() -> Tensor:
    """A 3 x 3 Ising model with random couplings and fields: probabilities of `all_images(9)`."""
    generator = torch.Generator().manual_seed(0)
    x = bitflip.all_images(9).reshape(-1, 3, 3)
    down, right, field = (
        torch.randn(shape, generator=generator, dtype=torch.float64)
        for shape in ((2, 3), (3, 2), (3, 3))
    )
    energy = 0.6 * (down * x[:, 1:] * x[:, :-1]).sum(dim=(1, 2))
    energy += 0.6 * (right * x[:, :, 1:] * x[:, :, :-1]).sum(dim=(1, 2))
    return torch.softmax(energy + 0.3 * (field * x).sum(dim=(1, 2)), dim=0)


def learn_lattice(truth: Tensor, samples: int = 400_000, seed: int = 0) -> BitNet:
    """A fully connected network trained on samples of `all_images(9)` with probabilities truth."""
    generator = torch.Generator().manual_seed(seed)
    pick = torch.multinomial(truth, samples, replacement=True, generator=generator)
    images = bitflip.all_images(9).float()[pick]
    model = BitNet(SMALL_PROCESS, (3, 3), width=64, generator=generator)
    return BitTraining(
        model,
        images,
        epochs=2000,
        batch_size=512,
        learning_rate=1e-2,
        ema_decay=0.995,
        seed=seed,
    ).run()


def independent_probabilities(truth: Tensor) -> Tensor:
    """The distribution of 3 x 3 images with the same pixels, made independent."""
    images = bitflip.all_images(9)
    p = truth @ (images > 0).double()
    return torch.where(images > 0, p, 1 - p).prod(dim=1)
