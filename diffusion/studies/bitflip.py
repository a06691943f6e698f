"""--study bitflip: binomial diffusion of MNIST's digits, and of images whose truth is known.

The model is a `bitnet.BitNet`, loaded from weights/bitflip.pt or trained. The first five questions
are the homework sheet's H12.1 a to e.
"""

from __future__ import annotations

import argparse
import math
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diffusion.cli import Answer, Run, Study, option
from diffusion.figures import images as figures
from diffusion.images import bitflip, bitflip_exact, bitnet, classifier, lattice, mnist
from diffusion.images.bitflip_exact import Enumerated
from diffusion.images.bitnet import BitNet, BitTraining
from diffusion.images.classifier import Classifier
from diffusion.images.mnist import NUM_CLASSES, PIXELS, SHAPE
from diffusion.studies.parts import bitmodel, recipe

FLIPPED = 100  # test images whose pixels are flipped stage after stage
CLASSIFIED = 50  # test images that are classified

OPTIONS = (
    option(
        "--weights",
        "load the network instead of training it; the shipped one is weights/bitflip.pt",
        type=Path,
        metavar="PATH",
    ),
    option(
        "--start",
        "train on from these weights instead of from scratch",
        type=Path,
        metavar="PATH",
    ),
    option(
        "--blocks", "of the network at 14 x 14, on each side", within=(1, 8), type=int, default=1
    ),
    option("--epochs", "training batches, of 64", within=(1, 1_000_000), type=int, default=2500),
    option(
        "--steps",
        "stages T",
        within=(bitmodel.LEAST_STAGES, 10_000),
        type=int,
        default=bitmodel.STAGES,
    ),
    recipe.PRECISION,
    recipe.SEED,
    recipe.CLASSIFIER,
    option(
        "--samples",
        "test images for the likelihood",
        within=(20, 10_000),
        type=int,
        metavar="N",
        default=2_000,
    ),
    bitmodel.DRAWS,
)


def load(args: argparse.Namespace) -> dict[str, BitNet | Classifier | None]:
    mnist.check()
    model = args.weights and bitmodel.load(args.weights, args.steps)
    if model:
        model.precision = recipe.PRECISIONS[args.precision]
    return {"classifier": classifier.load(args.classifier), "bitflip": model}


def train(run: Run, name: str) -> BitNet:
    training, path = digits_training(run.args), run.file(name)
    earlier = training.model.losses.clone()
    save = partial(bitnet.save, dtype=torch.float16)  # half the bytes of float32
    model = recipe.run_and_save(training, save, path)
    model.losses = torch.cat([earlier, model.losses])
    save(model, path)
    return model


def digits_training(args: argparse.Namespace) -> BitTraining:
    """The recipe; epochs counts updates, of 64 images each.

    A model that has been trained before gets a third of the learning rate, which falls to zero on a
    line, and half as many images without their label. The updates before it count in the seed: with
    that of the earlier run it would see the earlier batches again, the same noise in them.

    Raises:
        ValueError: --start holds something else than a smaller model of MNIST.
    """
    images, labels = mnist.load("train")
    generator = torch.Generator().manual_seed(args.seed)
    chain, options = bitmodel.process(args.steps), {"learning_rate": 3e-3}
    if args.start:
        model = bitnet.grown(bitnet.load(args.start), chain, args.blocks, generator)
        options = {"learning_rate": 1e-3, "cooldown": args.epochs, "unlabelled": 0.1}
    else:
        model = BitNet(
            chain, SHAPE, num_classes=NUM_CLASSES, blocks=args.blocks, generator=generator
        )
    model.precision = recipe.PRECISIONS[args.precision]
    seed = args.seed + len(model.losses)
    return BitTraining(model, images, labels, epochs=args.epochs, seed=seed, **options)


def test_images(run: Run) -> tuple[Tensor, Tensor]:
    """--samples test images of -1 and +1, the fixed draw that nats are measured on, and labels."""
    images, labels = mnist.load("test")
    images = 2 * mnist.binarise(images, seed=0) - 1
    return images[: run.args.samples], labels[: run.args.samples]


# --- The sheet's questions ------------------------------------------------------------------------


def a_replacement(run: Run) -> Answer:
    """H12.1a: the probability that a coin has replaced a pixel by stage t tends to 1.

    A replaced pixel is a coin, so that of replaced pixels half differ from Y_0: twice the share of
    flipped pixels, measured stage by stage, is that probability.
    """
    process = run.models["bitflip"].process
    images = run.once(test_images)[0][:FLIPPED]
    generator = torch.Generator().manual_seed(run.args.seed)
    y, errors = images, []
    for t in range(1, process.stages + 1):
        y = process.stage(y, generator)
        flipped, p = (y != images).double().mean().item(), process.flipped(t).item()
        errors.append(abs(flipped - p) / math.sqrt(p * (1 - p) / y.numel()))
    return Answer(
        {
            "pixels": images.numel(),
            "replaced_by_T": process.replaced(process.stages).item(),
            "measured_by_T": 2 * flipped,
            "largest_deviation_over_stages_in_standard_errors": max(errors),
        }
    )


def b_at_once(run: Run) -> Answer:
    """H12.1b: Y_t drawn at once, with at most two coins a pixel, against stage after stage.

    Marginals by pixel; independence by the covariance of the flips of neighbouring pixels. Each is
    a number that is N(0, 1) if the draw is right, so of m of them the largest grows like
    sqrt(2 log m).
    """
    process, n = run.models["bitflip"].process, 2000
    t = max(1, process.stages // 10)
    y_0 = run.once(test_images)[0][:1].expand(n, -1)
    generator = torch.Generator().manual_seed(run.args.seed)
    staged = y_0
    for _ in range(t):
        staged = process.stage(staged, generator)
    draws = {"at once": process.forward(y_0, t, generator), "staged": staged}
    p = process.flipped(t).item()
    numbers = {"t": t, "draws": n, "probability_of_a_flip": p}
    for name, y in draws.items():
        flips = (y != y_0).double() - p
        marginal = flips.mean(dim=0) / math.sqrt(p * (1 - p) / n)
        pairs = (flips[:, 1:] * flips[:, :-1]).mean(dim=0) / (p * (1 - p) / math.sqrt(n))
        numbers[name] = {
            "largest_marginal_deviation": marginal.abs().max().item(),
            "mean_square_of_marginal_deviations": marginal.square().mean().item(),
            "largest_covariance_of_neighbours": pairs.abs().max().item(),
            "mean_square_of_covariances": pairs.square().mean().item(),
        }
    return Answer(numbers | {"sqrt_2_log_pixels": math.sqrt(2 * math.log(PIXELS))})


def c_output(run: Run) -> Answer:
    """H12.1c: of sigmoid, ReLU and tanh only the sigmoid turns the network's output into Q."""
    model, (images, _) = run.models["bitflip"], run.once(test_images)
    t = max(1, model.process.stages // 5)
    generator = torch.Generator().manual_seed(run.args.seed)
    y_t = model.process.forward(images[:20], t, generator)
    with torch.no_grad():
        out = model.logits(y_t, t, model.check_labels(None, len(y_t)))

    def valid(values: Tensor) -> float:
        return _share((values >= 0) & (values <= 1))

    return Answer(
        {
            "share_of_outputs_that_are_probabilities": {
                "sigmoid": valid(torch.sigmoid(out)),
                "relu": valid(torch.relu(out)),
                "tanh": valid(torch.tanh(out)),
            },
        }
    )


def d_posterior(run: Run) -> Answer:
    """H12.1d: P(Y_{t-1} = +1 | Y_t, Y_0) against Bayes over the chain's own transition matrix."""
    process = run.models["bitflip"].process
    stage = torch.tensor(
        [[1 - process.delta, process.delta], [process.delta, 1 - process.delta]],
        dtype=torch.float64,
    )
    values, before, largest = torch.tensor([[1.0, -1.0]]).double(), torch.eye(2).double(), 0.0
    for t in range(1, process.stages + 1):
        # joint[y_0, y, y_t] = P(Y_{t-1} = y, Y_t = y_t | Y_0 = y_0)
        joint = before[:, :, None] * stage[None]
        truth = joint[:, 0] / joint.sum(dim=1).clamp(min=1e-300)  # (y_0, y_t)
        found = torch.stack([process.posterior(values, y_0.expand(1, 2), t)[0] for y_0 in values.T])
        largest = max(largest, (found - truth).abs().max().item())
        before = before @ stage
    return Answer({"stages": process.stages, "largest_difference": largest})


def e_stages(run: Run) -> Answer:
    """H12.1e: the KL at every stage in nats, t = 1 apart, and what it punishes most.

    At t = 1 the posterior is certain, and the KL is -log Q_1(Y_0). A wrong output is punished
    without limit there; later the posterior itself hardly depends on Y_0, and forgives.
    """
    model, images = run.models["bitflip"], run.once(test_images)[0][:FLIPPED]
    generator = torch.Generator().manual_seed(run.args.seed)
    shown = np.unique(np.geomspace(1, model.process.stages, 40).round().astype(int)).tolist()
    nats = [stage_nats(model, images, t, generator).item() for t in shown]
    one = torch.ones(1, 1, dtype=torch.float64)
    punished = {
        str(t): {
            name: model.process.kl(odds * one, one, one, t).item()
            for name, odds in (("right", 5.0), ("undecided", 0.0), ("wrong", -5.0))
        }
        for t in (1, 2, 10, 100, 1000)
        if t <= model.process.stages
    }
    return Answer(
        {
            "images": len(images),
            "first_stage_nats": nats[0],
            "prior_nats": model.process.prior_kl() * PIXELS,
            "kl_of_one_pixel_nats_by_stage_and_log_odds_of_5": punished,
        },
        {"e_stages": figures.stages(shown, nats, len(images))},
    )


@torch.no_grad()
def stage_nats(model: BitNet, images: Tensor, t: int, generator: torch.Generator) -> Tensor:
    """What stage t adds to the bound: the mean over images (n, m), one draw of Y_t for each."""
    y_t = model.process.forward(images, t, generator)
    logits = model.logits(y_t, t, model.check_labels(None, len(y_t)))
    return model.process.kl(logits, images, y_t, t).mean()


# --- The model ------------------------------------------------------------------------------------


def f_samples(run: Run) -> Answer:
    """100 samples of any class, and six of each."""
    model = run.models["bitflip"]
    options = {"steps": bitmodel.steps(model), "seed": run.args.seed, "progress": True}
    images = bitflip.sample(model, 100, **options)
    labels = torch.arange(NUM_CLASSES).repeat_interleave(6)
    given = bitflip.sample(model, len(labels), labels=labels, **options)
    held_out, _ = run.once(test_images)
    return Answer(
        {
            "stages_visited": options["steps"],
            "ink_share": _share(images > 0),
            "ink_share_of_test_images": _share(held_out > 0),
        },
        {
            "f_samples": figures.grid(images, SHAPE, columns=20),
            "f_classes": figures.grid(given, SHAPE, columns=6, names=range(NUM_CLASSES)),
        },
    )


def g_trajectory(run: Run) -> Answer:
    """The reverse process of one image of every second class."""
    model, labels = run.models["bitflip"], torch.arange(0, NUM_CLASSES, 2)
    n = bitmodel.steps(model)
    _, path = bitflip.sample(
        model, len(labels), labels=labels, steps=n, seed=run.args.seed, return_trajectory=True
    )
    stages = bitflip.visited(model.process.stages, n)
    shown = sorted({round(n * share) for share in np.linspace(0, 1, 11)})
    rows = path[shown].transpose(0, 1)
    titles = [f"t = {stages[i]}" for i in shown]
    return Answer(figures={"g_trajectory": figures.rows(rows, SHAPE, titles)})


def h_loss(run: Run) -> Answer:
    """The training loss, an estimate of the bound in bits per pixel."""
    losses, window = run.models["bitflip"].losses, 100
    return Answer(
        {
            "updates": len(losses),
            f"mean_of_last_{window}_nats": losses[-window:].mean().item() * math.log(2) * PIXELS,
        },
        {"h_loss": figures.loss(losses, window)},
    )


def i_likelihood(run: Run) -> Answer:
    """Nats per image: the bounds, estimated at stages drawn for every image."""
    model, (images, _) = run.models["bitflip"], run.once(test_images)
    options = {"samples": run.args.draws, "seed": run.args.seed}
    class_first = bitmodel.nats(model, run.models["classifier"], images, **options)
    any_class = bitflip.class_bounds(model, images, **options, progress=True)[:, 0]
    return Answer(
        {
            "images": len(images),
            "stages_drawn_for_each": run.args.draws,
            "bound_nats": class_first.mean().item(),
            "standard_error": _error(class_first),
            "of_any_class": {
                "bound_nats": any_class.mean().item(),
                "standard_error": _error(any_class),
            },
        }
    )


def j_classes(run: Run) -> Answer:
    """The same model as a classifier, by Bayes over the ten classes; and nats given the label."""
    model, (images, labels) = run.models["bitflip"], run.once(test_images)
    few = images[:CLASSIFIED]
    found = bitflip.classify(model, few, seed=run.args.seed, progress=True)
    given = found.bounds.gather(1, labels[: len(few), None])[:, 0]
    return Answer(
        {
            "images": len(few),
            "accuracy": _share(found.classes == labels[: len(few)]),
            "nats_given_the_label": given.mean().item(),
            "standard_error": _error(given),
        }
    )


def k_truth(run: Run) -> Answer:
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
        {"k_truth": figures.probabilities(truth, learnt, distances)},
    )


def _error(values: Tensor) -> float:
    """Standard error of the mean of (n,) values."""
    return (values.std() / math.sqrt(len(values))).item()


def _share(yes: Tensor) -> float:
    return yes.double().mean().item()


STUDY = Study(
    name="bitflip",
    description="bit-flip diffusion of MNIST's digits, and of images whose truth is known",
    options=OPTIONS,
    small="--epochs 3 --steps 8 --samples 20",
    load=load,
    train=train,
    questions={
        "replacement": a_replacement,
        "at_once": b_at_once,
        "output": c_output,
        "posterior": d_posterior,
        "stages": e_stages,
        "samples": f_samples,
        "trajectory": g_trajectory,
        "loss": h_loss,
        "likelihood": i_likelihood,
        "classifier": j_classes,
        "truth_3x3": k_truth,
    },
)
