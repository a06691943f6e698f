"""--study gan: a generative adversarial network of MNIST, and its theory where truth is known.

The model is a convolutional pair, loaded from weights/gan.pt or trained.
"""

from __future__ import annotations

import argparse
import copy
import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from diffusion.cli import Answer, Run, Study, option
from diffusion.figures import families as figures
from diffusion.figures import images as sheets
from diffusion.images import classifier, gan, gan_exact, measures, mnist
from diffusion.images.classifier import Classifier
from diffusion.images.gan import GAN, GANTraining
from diffusion.images.gan_exact import Mixture
from diffusion.studies.parts import recipe

SEEN = 8  # images whose progress in training is shown
MARKS = (0, 50, 100, 200, 400)  # updates after which it is
YOUNG = 60  # updates of the generator whose gradients are measured
PERFECTED = (0, 5, 10, 20, 40, 80, 150)  # updates of the discriminator alone
COLLAPSE = 250  # updates of the generator alone
AVERAGED = 0.999  # decay of the average of the weights
PLANE_UPDATES = 1500  # of the discriminator of known densities

# Two known densities in the plane, which overlap.
DATA = Mixture(torch.tensor([[-1.0, 0.0], [1.0, 0.0]]), 0.6)
MODEL = Mixture(torch.tensor([[0.0, 0.5]]), 0.8)

OPTIONS = (
    option(
        "--weights",
        "load the pair instead of training it; the shipped one is weights/gan.pt",
        type=Path,
        metavar="PATH",
    ),
    option("--epochs", "training batches, of 64", within=(1, 1_000_000), type=int, default=9_000),
    recipe.PRECISION,
    recipe.CLASSIFIER,
    recipe.SEED,
    option(
        "--samples",
        "samples for the measures",
        within=(100, 10_000),
        type=int,
        metavar="N",
        default=10_000,
    ),
)


def load(args: argparse.Namespace) -> dict[str, GAN | Classifier | None]:
    mnist.check()
    return {
        "classifier": classifier.load(args.classifier),
        "gan": args.weights and load_digits(args.weights),
    }


def load_digits(path: Path) -> GAN:
    """A trained GAN of MNIST from a file.

    Raises:
        ValueError: the file holds something else.
    """
    model = gan.load(path)
    if model.pixels != mnist.PIXELS:
        raise ValueError(f"{path} is of {model.pixels} pixels, but {mnist.PIXELS} are needed here")
    recipe.check_trained(model, path)
    return model


def train(run: Run, name: str) -> GAN:
    save = partial(GAN.save, dtype=torch.float16)  # what it rounds off no measure of samples sees
    return recipe.run_and_save(digits_training(run.args), save, run.file(name))


def digits_training(args: argparse.Namespace, epochs: int | None = None) -> GANTraining:
    """The recipe, for args.epochs updates or another number of them, of 64 images each."""
    images, labels = mnist.load("train")
    generator = torch.Generator().manual_seed(args.seed)
    return GANTraining(
        GAN(num_classes=mnist.NUM_CLASSES, generator=generator),
        images,
        labels,
        epochs=epochs or args.epochs,
        batch_size=64,
        learning_rate=2e-3,
        ema_decay=AVERAGED,
        penalty=0.3,
        precision=recipe.PRECISIONS[args.precision],
        seed=args.seed,
    )


# --- The sheet's questions ------------------------------------------------------------------------


def a_gradients(run: Run) -> Answer:
    """H10.3a: on a young generator, both gradients while its discriminator is perfected.

    The discriminator's learning rate falls to zero, and its loss is said with the gradients.
    """
    training = digits_training(run.args, YOUNG)
    training.advance(YOUNG)
    found, losses = [], []
    for update, loss in enumerate(perfect(training, run.args.seed)):
        losses.append(loss)
        if update in PERFECTED:
            found.append(gan_exact.generator_gradients(training.model, 128, seed=run.args.seed))
    columns = {name: [getattr(row, name) for row in found] for name in found[0]._fields}
    figure = figures.gradients(columns["mean_d"], columns["minimax"], columns["non_saturating"])
    relative = [row.difference / row.minimax for row in found]
    return Answer(
        {
            "updates_of_the_generator": YOUNG,
            "updates_of_the_discriminator": list(PERFECTED),
            "discriminator_loss_nats": [losses[update] for update in PERFECTED],
            **{name: columns[name] for name in ("mean_d", "minimax", "non_saturating")},
            "largest_relative_error_of_the_closed_form": max(relative),
        },
        {"a_gradients": figure},
    )


def perfect(training: GANTraining, seed: int) -> Iterator[float]:
    """Train the discriminator alone: before the first update and after each, its loss in nats.

    The loss is of 64 images and as many generated ones that come next, not yet trained on.
    """
    model, generator = training.model, torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.discriminator.parameters(), lr=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, PERFECTED[-1])
    for update in range(PERFECTED[-1] + 1):
        pick = torch.randint(len(training.points), (64,), generator=generator)
        real, labels = training.points[pick] / 255, training.labels[pick]
        with torch.no_grad():
            fake = model.draw(64, generator, labels)
        loss = gan.discriminator_loss(model.h(real, labels), model.h(fake, labels))
        yield loss.item()
        if update < PERFECTED[-1]:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


def b_theory(run: Run) -> Answer:
    """H10.3b: D* and V(G, D*) = -log 4 + 2 JSD on two known densities."""
    value, jsd = gan_exact.value_of_best(DATA.log_density, MODEL.log_density)
    best, found = trained_discriminator(run.args.seed)
    return Answer(
        {
            "value_nats": value,
            "minus_log_4_plus_2_jsd_nats": -math.log(4) + 2 * jsd,
            "difference": value + math.log(4) - 2 * jsd,
            "mean_error_of_a_trained_discriminator": (found - best).abs().mean().item(),
        },
        {"b_discriminator": figures.discriminator(best, found)},
    )


def trained_discriminator(seed: int) -> tuple[Tensor, Tensor]:
    """D* and D of a dense discriminator trained on draws of both, at 4000 fresh points."""
    generator = torch.Generator().manual_seed(seed)
    model = GAN(pixels=2, latent=2, hidden=(64, 64), network="dense", generator=generator)
    optimizer = torch.optim.Adam(model.discriminator.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, PLANE_UPDATES)
    for _ in range(PLANE_UPDATES):
        real, fake = DATA.sample(1000, generator), MODEL.sample(1000, generator)
        optimizer.zero_grad()
        gan.discriminator_loss(model.h(real), model.h(fake)).backward()
        optimizer.step()
        schedule.step()
    x = torch.cat([DATA.sample(2000, generator), MODEL.sample(2000, generator)])
    best = gan_exact.best_discriminator(DATA.log_density, MODEL.log_density, x)
    with torch.no_grad():
        return best, torch.sigmoid(model.h(x)).double()


def c_samples(run: Run) -> Answer:
    """H10.3c: 200 samples as a 10 x 20 sheet, and the losses of both players."""
    model = run.models["gan"]
    images = model.sample(200, seed=run.args.seed)
    losses = dict(zip(("discriminator", "generator"), model.losses.T, strict=True))
    window = min(100, len(model.losses))
    return Answer(
        {
            "updates": len(model.losses),
            "parameters": model.parameter_count,
            **{f"{name}_loss_at_the_end": part[-window:].mean().item()
               for name, part in losses.items()},
        },
        {
            "c_samples": sheets.grid(2 * images - 1, mnist.SHAPE, columns=20),
            "c_losses": figures.losses(losses, "loss, nats"),
        },
    )  # fmt: skip


def d_progress(run: Run) -> Answer:
    """The same z and classes in a short run from nothing, with the weights as they were then."""
    training, rows = digits_training(run.args, MARKS[-1]), []
    for done, mark in zip((0, *MARKS), MARKS, strict=False):
        training.advance(mark - done)
        rows.append(training.model.sample(SEEN, seed=run.args.seed))
    rows.append(run.models["gan"].sample(SEEN, seed=run.args.seed))
    share = training.batch_size / len(training.points)  # of an epoch, in an update
    shown = (*MARKS, len(run.models["gan"].losses))
    names = [f"{updates} updates,\n{updates * share:.2g} epochs" for updates in shown]
    title = "The same z and class in a column"
    figure = figures.named_rows(torch.stack(rows), mnist.SHAPE, names, title)
    return Answer(figures={"d_progress": figure})


def e_coverage(run: Run) -> Answer:
    """Which classes samples have; and a collapse made on purpose, which this detects."""
    judge, n, seed = run.models["classifier"], run.args.samples, run.args.seed
    _, features = classifier.evaluate(judge, mnist.load("test")[0] / 255)
    train = mnist.load("train")[0][-n:] / 255
    samples = {
        "GAN": run.models["gan"].sample(n, seed=seed),
        "collapsed": collapsed(run.models["gan"], seed).sample(n, seed=seed),
        "real images": train,
    }
    numbers, shares = {"samples": n}, {}
    for name, images in samples.items():
        found = measures.judge(judge, images, features)
        numbers[name] = found._asdict()
        classes = classifier.evaluate(judge, images)[0].argmax(dim=1)
        shares[name] = (torch.bincount(classes, minlength=10) / n).tolist()
        numbers[name]["shares"] = shares[name]
    return Answer(numbers, {"e_classes": figures.classes(shares, n)})


def collapsed(model: GAN, seed: int) -> GAN:
    """The generator after `COLLAPSE` updates that please one output of a still discriminator.

    Whatever class it is asked for, an image counts as one of class 0. Nothing makes it leave the
    images that this output likes best, so it gives up the rest.
    """
    model = copy.deepcopy(model).requires_grad_()
    optimizer = torch.optim.Adam(model.generator.parameters(), lr=2e-3)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(COLLAPSE):
        images = model.draw(64, generator, model.any_labels(64, generator))
        one = torch.zeros(64, dtype=torch.int64) if model.num_classes else None
        optimizer.zero_grad()
        gan.non_saturating_loss(model.h(images, one)).backward()
        optimizer.step()
    return model


STUDY = Study(
    name="gan",
    description="a generative adversarial network of MNIST, and the theory of such",
    options=OPTIONS,
    small="--epochs 2 --samples 100",
    load=load,
    train=train,
    questions={
        "gradients": a_gradients,
        "theory": b_theory,
        "samples": c_samples,
        "progress": d_progress,
        "coverage": e_coverage,
    },
)
