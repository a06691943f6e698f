"""Forgetting of a generative model: a VAE learns the digits one class after another.

Its loss is the negative ELBO, so forgetting is measured in nats per image. The network is the
homework sheet's, trained as the sheet says: Adam, batches of 100 pixels drawn as Bernoulli(grey).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from diffusion.checks import check_count, check_seed, own_mode
from diffusion.images import mnist
from diffusion.images.continual import fit, reservoir, stream
from diffusion.images.continual_fisher import Parabola, mean_squares
from diffusion.images.vae import VAE

BATCH = 100


class Naive:
    """The negative ELBO of the class at hand, nothing else.

    One object serves one sequence of classes. Batches are of `BATCH` images whatever the strategy,
    so that all of them cost the same number of image passes.
    """

    def batch(self, seen: Sequence[Tensor], generator: torch.Generator) -> Tensor:
        """Images (100, 784) float32 of 0 and 1; seen: uint8 images of the classes so far."""
        return _drawn(seen[-1], BATCH, generator)

    def penalty(self, model: VAE) -> Tensor | float:
        """What is added to the loss, nats per image."""
        return 0.0

    def consolidate(self, model: VAE, images: Tensor, generator: torch.Generator) -> None:
        """Keep what later classes need of the one that was just learnt."""


class Joint(Naive):
    """Batches from all images of all classes so far."""

    def batch(self, seen, generator) -> Tensor:
        return _mixed(seen, BATCH, generator)


class EWC(Naive):
    """A parabola about the latest weights, from squared gradients of the ELBO.

    The ELBO has no predictive distribution over the pixels and the encoder's draw in one, so the
    gradients are taken at training images of the class, with one draw of z each.
    """

    def __init__(self, lam: float, examples: int = 1000) -> None:
        self.parabola = Parabola(lam)
        self.examples = check_count("examples", examples)

    def penalty(self, model) -> Tensor | float:
        return self.parabola(list(model.parameters()))

    def consolidate(self, model, images, generator) -> None:
        def bounds(rows: Tensor) -> Tensor:
            kl, rec = model.elbo_terms(rows, generator)
            return (kl + rec)[:, None]

        squares = mean_squares(model, _drawn(images, self.examples, generator), bounds)
        self.parabola.add(list(model.parameters()), squares)


class Rehearsal(Naive):
    """Some images of every class are kept; in the k-th class they are (k - 1) / k of a batch.

    Args:
        memory: images kept of a class.

    Raises:
        ValueError: memory below 1.
    """

    def __init__(self, memory: int) -> None:
        self.memory = check_count("the memory of rehearsal", memory)
        self.kept: list[Tensor] = []

    def batch(self, seen, generator) -> Tensor:
        return _mixed([*self.kept, seen[-1]], BATCH, generator)

    def consolidate(self, model, images, generator) -> None:
        self.kept.append(images[reservoir(len(images), self.memory, generator)])


class Replay(Naive):
    """As rehearsal, but with images that the model itself generated before the class at hand.

    Deep generative replay (Shin et al. 2017). Nothing is kept but a copy of the network.
    """

    def __init__(self) -> None:
        self.old: VAE | None = None

    def batch(self, seen, generator) -> Tensor:
        if self.old is None:
            return super().batch(seen, generator)
        new = (torch.randint(len(seen), (BATCH,), generator=generator) == 0).sum().item()
        z = torch.randn(BATCH - new, self.old.latent, generator=generator, dtype=torch.float32)
        with torch.no_grad():
            ink = self.old.decode(z)
        own = torch.rand(ink.shape, generator=generator, dtype=torch.float32) < ink
        return torch.cat([_drawn(seen[-1], new, generator), own.float()])

    def consolidate(self, model, images, generator) -> None:
        self.old = copy.deepcopy(model)


def _drawn(images: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """n of the images (m, 784) uint8, their pixels drawn as Bernoulli(grey value / 255)."""
    rows = torch.randint(len(images), (n,), generator=generator)
    return mnist.binarise(images[rows], generator=generator)


def _mixed(parts: Sequence[Tensor], n: int, generator: torch.Generator) -> Tensor:
    """n images, each part with the same chance whatever its size."""
    if len(parts) == 1:
        return _drawn(parts[0], n, generator)
    counts = torch.randint(len(parts), (n,), generator=generator).bincount(minlength=len(parts))
    pairs = zip(parts, counts.tolist(), strict=True)
    return torch.cat([_drawn(part, count, generator) for part, count in pairs])


@own_mode(gradients=True)
def learn(
    classes: Sequence[Tensor],
    strategy: Naive,
    *,
    updates: int,
    learning_rate: float,
    seed: int,
    first: VAE | None = None,
) -> list[VAE]:
    """The VAE after every class.

    Args:
        classes: (n_k, 784) uint8 images of every class.
        updates: batches for a class.
        learning_rate: Adam's, at the start of every class; it falls linearly to zero.
        seed: of the initial weights and of every draw; every class has its own stream.
        first: the network after the first class, the same for all strategies.
    """
    check_count("updates", updates)
    model, found = VAE(generator=torch.Generator().manual_seed(check_seed(seed))).float(), []
    for k, images in enumerate(classes):
        generator, another = stream(seed, 2 * k), stream(seed, 2 * k + 1)
        if k == 0 and first is not None:
            model = copy.deepcopy(first)
        else:
            model = copy.deepcopy(model)
            part = partial(_loss, model, strategy, classes[: k + 1], generator)
            fit(model, part, updates, learning_rate)
        strategy.consolidate(model, images, another)
        found.append(model)
    return found


def _loss(model: VAE, strategy: Naive, seen: Sequence[Tensor], generator) -> Tensor:
    kl, rec = model.elbo_terms(strategy.batch(seen, generator), generator)
    return (kl + rec).mean() + strategy.penalty(model)


def nats(model: VAE, classes: Sequence[Tensor], seed: int = 0) -> list[float]:
    """Negative ELBO, the mean over the images (n_k, 784) of 0 and 1 of every class."""
    return [model.negative_elbo_bound(x, seed=seed).nelbo.item() for x in classes]
