"""--study families: bit flips, VAEs and a GAN by the same measures, and on the square beside ours.

All models are loaded. On MNIST they are held to test images whose pixels were drawn from their grey
values, because that is what bit flips and VAEs are models of; the GAN's greys are drawn likewise.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import diffusion
from diffusion import data, metrics
from diffusion.cli import Answer, Run, Study, option
from diffusion.figures import families as figures
from diffusion.images import bitflip, classifier, mnist
from diffusion.images.classifier import Classifier
from diffusion.images.gan import GAN, GANTraining
from diffusion.images.measures import judge, neighbour_ratio
from diffusion.images.vae import VAE, VAETraining
from diffusion.studies import gan as gan_study
from diffusion.studies import vae as vae_study
from diffusion.studies.parts import bitmodel, recipe

FOLDER = Path(__file__).resolve().parents[2] / "weights"
NEIGHBOURS = 1000  # samples whose nearest images are looked for
SQUARE_SAMPLES, SQUARE_UPDATES = 20_000, 3000

OPTIONS = (
    option(
        "--weights",
        "folder of bitflip.pt, vae.pt, vae_conv.pt, gan.pt, classifier.pt and "
        "diffusion_unconditional.pt",
        type=Path,
        metavar="DIR",
        default=FOLDER,
    ),
    recipe.PRECISION,
    recipe.SEED,
    option("--samples", "samples of each family", within=(100, 10_000), type=int, metavar="N",
           default=5_000),
    option("--bitflip-samples", "samples of the bit flips, which take longer",
           within=(100, 10_000), type=int, metavar="N", default=250),
    bitmodel.DRAWS,
)  # fmt: skip


def load(args: argparse.Namespace) -> dict:
    mnist.check()
    folder = args.weights
    bits = bitmodel.load(folder / "bitflip.pt", bitmodel.STAGES)
    bits.precision = recipe.PRECISIONS[args.precision]
    return {
        "bit flips": bits,
        "VAE (sheet)": vae_study.load_kind(folder / "vae.pt", "dense"),
        "VAE (conv.)": vae_study.load_kind(folder / "vae_conv.pt", "convolutional"),
        "GAN": gan_study.load_digits(folder / "gan.pt"),
        "classifier": classifier.load(folder / "classifier.pt"),
        "points": recipe.load(folder / "diffusion_unconditional.pt", data.training_points()),
    }


def train(run: Run, name: str) -> None:
    """Nothing is trained here: `load` gives every model."""


def drawn(model, n: int, seed: int) -> Tensor:
    """n samples of any of the families, pixels drawn: (n, 784) in {0, 1}."""
    if isinstance(model, VAE | GAN):
        return torch.bernoulli(
            model.sample(n, seed=seed), generator=torch.Generator().manual_seed(seed)
        )
    # A class first, then an image of it.
    labels = torch.randint(10, (n,), generator=torch.Generator().manual_seed(seed))
    options = {"labels": labels, "steps": bitmodel.steps(model), "seed": seed}
    return (bitflip.sample(model, n, **options, progress=True) + 1) / 2


def samples(run: Run) -> dict[str, tuple[Tensor, float]]:
    """Of every family its samples (n, 784), and the seconds that a thousand took."""
    found = {}
    for name in ("bit flips", "VAE (sheet)", "VAE (conv.)", "GAN"):
        n = run.args.bitflip_samples if name == "bit flips" else run.args.samples
        began = time.perf_counter()
        images = drawn(run.models[name], n, run.args.seed)
        found[name] = images, 1000 * (time.perf_counter() - began) / n
    return found


# --- Questions ----------------------------------------------------------------------------------


def a_table(run: Run) -> Answer:
    """Nats where there are any, distance of features, classes, memorisation, time, size.

    Nats are of the first --samples test images, of bit flips at --draws stages each.
    """
    test = mnist.binarise(mnist.load("test")[0], seed=0)
    training = mnist.binarise(mnist.load("train")[0], seed=1)
    _, features = classifier.evaluate(run.models["classifier"], test)
    numbers = {}
    found = {name: images for name, (images, _) in run.once(samples).items()}
    counts = sorted({len(images) for images in found.values()})
    # The distance of few samples is larger by their number alone: a floor for every number.
    found |= {f"real images, {n}": training[-n:] for n in counts}
    for name, images in found.items():
        near = images[:NEIGHBOURS]
        row = {"samples": len(images)} | judge(run.models["classifier"], images, features)._asdict()
        row["neighbour_ratio"] = neighbour_ratio(near, training[: len(test)], test)
        numbers[name] = row
    for row in numbers.values():
        floor = numbers[f"real images, {row['samples']}"]["frechet"]
        row["frechet_over_floor"] = row["frechet"] / floor
    for name, (_, seconds) in run.once(samples).items():
        model = run.models[name]
        numbers[name]["seconds_per_1000_samples"] = seconds
        numbers[name]["parameters"] = sum(p.numel() for p in model.parameters())
        numbers[name]["updates"] = len(model.losses)
        if not isinstance(model, GAN):
            shown = test[: run.args.samples]
            nats = _nats(model, run.models["classifier"], shown, run.args)
            numbers[name]["nats"] = nats.mean().item()
            numbers[name]["standard_error"] = (nats.std() / math.sqrt(len(nats))).item()
    bars = {
        "nats, upper bound": {k: v["nats"] for k, v in numbers.items() if "nats" in v},
        "Fréchet / floor": {k: v["frechet_over_floor"] for k, v in numbers.items()},
        "classes, TV": {k: v["coverage"] for k, v in numbers.items()},
        "neighbour ratio": {k: v["neighbour_ratio"] for k, v in numbers.items()},
    }
    return Answer(numbers, {"a_table": figures.compared(bars)})


def _nats(model, judge: Classifier, test: Tensor, args: argparse.Namespace) -> Tensor:
    """A bound in nats for every test image: the ELBO of a VAE, the bound of bit flips; (n,)."""
    if isinstance(model, VAE):
        return -model.log_likelihood(test, samples=1, seed=args.seed)
    return bitmodel.nats(model, judge, 2 * test - 1, samples=args.draws, seed=args.seed)


def b_rows(run: Run) -> Answer:
    """Ten samples of each family, the first ones drawn."""
    found = run.once(samples)
    rows = torch.stack([images[:10] for images, _ in found.values()])
    return Answer(figures={"b_rows": figures.named_rows(rows, mnist.SHAPE, list(found))})


def c_square(run: Run) -> Answer:
    """VAE and GAN on the exercise's 3,000 points beside the diffusion model: truth is known."""
    n, seed, numbers, shown = SQUARE_SAMPLES, run.args.seed, {}, {}
    points = data.training_points(seed=seed)
    draws: dict[str, Callable[[], Tensor]] = {
        "diffusion": lambda: diffusion.sample(
            run.models["points"], n, solver="dpm++", steps=24, seed=seed
        ),
        "VAE": lambda: square_vae(points, seed).sample(n, seed=seed),
        "GAN": lambda: square_gan(points, seed).sample(n, seed=seed),
        "uniform": lambda: data.uniform(n, generator=torch.Generator().manual_seed(seed)),
    }
    for name, draw in draws.items():
        sampled = draw()
        numbers[name] = {
            "tv10": metrics.tv10(sampled),
            "ks": metrics.ks(sampled),
            "outside": metrics.outside_share(sampled),
        }
        shown[f"{name}\nTV10 {numbers[name]['tv10']:.3f}"] = sampled[:2000]
    return Answer(numbers | {"samples": n}, {"c_square": figures.squares(shown)})


def square_vae(points: Tensor, seed: int) -> VAE:
    """A dense VAE of points in the plane, with Gaussian observations."""
    generator = torch.Generator().manual_seed(seed)
    options = {"latent": 2, "hidden": (64, 64), "observation": "gaussian"}
    model = VAE(pixels=2, **options, generator=generator)
    with torch.no_grad():
        model.log_s.fill_(-2)  # from s = 1 it learns to do without z, and stays there
    return VAETraining(
        model,
        points,
        epochs=SQUARE_UPDATES,
        batch_size=500,
        learning_rate=3e-3,
        ema_decay=0.99,
        seed=seed,
    ).run(progress=True)


def square_gan(points: Tensor, seed: int) -> GAN:
    """A dense GAN of points in the plane."""
    generator = torch.Generator().manual_seed(seed)
    model = GAN(pixels=2, latent=2, hidden=(64, 64), network="dense", generator=generator)
    return GANTraining(
        model,
        points,
        epochs=SQUARE_UPDATES,
        batch_size=500,
        learning_rate=5e-4,
        penalty=0.1,
        seed=seed,
    ).run(progress=True)


STUDY = Study(
    name="families",
    description="bit flips, VAEs and a GAN side by side, on MNIST and on the square",
    options=OPTIONS,
    small="--samples 100 --bitflip-samples 100",
    load=load,
    train=train,
    questions={"table": a_table, "rows": b_rows, "square": c_square},
)
