"""What the study of continual learning trains of the VAE: one digit after another, every seed.

Rates and lambda are chosen on validation images of the first two digits alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from diffusion.cli import Run
from diffusion.images import continual_vae, mnist
from diffusion.images.vae import VAE
from diffusion.studies.parts import continual_runs as runs
from diffusion.threads import run_all

RATES = (0.002, 0.004, 0.008)
LAMBDAS = (1.0, 10.0, 100.0, 1000.0)
MEMORY = 200  # images kept of a class
TESTED = 500  # test images of a class


@dataclass(frozen=True)
class Digits:
    """MNIST by class: train of uint8 images, validation and test with fixed draws of the pixels."""

    train: list[Tensor]
    validation: list[Tensor]
    test: list[Tensor]


@dataclass(frozen=True)
class Generations:
    """One strategy's VAE of one seed: nats (steps, classes) on test images; the last model."""

    nats: Tensor
    last: VAE


def digits(run: Run) -> Digits:
    (train, labels), *rest = (mnist.load(part) for part in ("train", "validation", "test"))
    classes = range(run.args.classes)
    drawn = [(mnist.binarise(images, seed=0), labels) for images, labels in rest]
    return Digits(
        [train[labels == c] for c in classes],
        *([x[y == c][:TESTED] for c in classes] for x, y in drawn),
    )


def _vae(
    run: Run, k: int, strategy: continual_vae.Naive, rate: float, classes: int, **more
) -> list[VAE]:
    return continual_vae.learn(
        run.once(digits).train[:classes],
        strategy,
        updates=run.args.vae_updates,
        learning_rate=rate,
        seed=runs.seeds(run.args)[k],
        **more,
    )


@dataclass(frozen=True)
class FirstDigit:
    """The VAE of the first digit: its learning rate, scores of all rates (seeds,), and models."""

    rate: float
    scores: dict[float, Tensor]
    models: list[VAE]


def first_class(run: Run) -> FirstDigit:
    """The learning rate with the fewest nats on validation images of the first digit."""
    validation, several = run.once(digits).validation[:1], runs.each_seed(run)
    rates = runs.candidates(run, RATES)

    def job(rate: float, k: int) -> tuple[VAE, float]:
        (model,) = _vae(run, k, continual_vae.Naive(), rate, 1)
        return model, -continual_vae.nats(model, validation)[0]

    keys = [(rate, k) for rate in rates for k in several]
    learnt = run_all([lambda key=key: job(*key) for key in keys], "VAE of the first digit")
    found = dict(zip(keys, learnt, strict=True))
    scores = {
        rate: torch.tensor([found[rate, k][1] for k in several], dtype=torch.float64)
        for rate in rates
    }
    best = max(scores, key=lambda rate: scores[rate].mean())
    return FirstDigit(best, scores, [found[best, k][0] for k in several])


def vae_lambda(run: Run) -> dict[float, Tensor]:
    """lambda -> (seeds,) nats on validation images of the first two classes after the second."""
    first = run.once(first_class)

    def job(lam: float, k: int) -> Tensor:
        strategy = continual_vae.EWC(lam)
        model = _vae(run, k, strategy, first.rate, 2, first=first.models[k])[1]
        validation = run.once(digits).validation[:2]
        return torch.tensor(continual_vae.nats(model, validation), dtype=torch.float64).mean()

    lambdas = runs.candidates(run, LAMBDAS)
    keys = [(lam, k) for lam in lambdas for k in runs.each_seed(run)]
    found = run_all([lambda key=key: job(*key) for key in keys], "lambda of the VAE")
    rows = torch.stack(found).reshape(len(lambdas), -1)
    return dict(zip(lambdas, rows, strict=True))


def generations(run: Run) -> dict[str, list[Generations]]:
    """By strategy, for every seed."""
    scores, first = run.once(vae_lambda), run.once(first_class)
    lam = min(scores, key=lambda lam: scores[lam].mean())
    new = {
        "joint": continual_vae.Joint,
        "rehearsal, real": partial(continual_vae.Rehearsal, MEMORY),
        "rehearsal, own": continual_vae.Replay,
        "EWC": partial(continual_vae.EWC, lam),
        "naive": continual_vae.Naive,
    }

    def job(name: str, k: int) -> Generations:
        models = _vae(run, k, new[name](), first.rate, run.args.classes, first=first.models[k])
        test = run.once(digits).test
        return Generations(torch.tensor([continual_vae.nats(m, test) for m in models]), models[-1])

    keys = [(name, k) for name in new for k in runs.each_seed(run)]
    learnt = run_all([lambda key=key: job(*key) for key in keys], "VAEs")
    found = dict(zip(keys, learnt, strict=True))
    return {name: [found[name, k] for k in runs.each_seed(run)] for name in new}
