"""Generative adversarial networks (Goodfellow et al. 2014): two players, their losses, training.

With D(x) = sigmoid(h(x)) the discriminator maximises

    V(G, D) = E log D(x) + E log(1 - D(G(z))),   x ~ data, z ~ N(0, I),

and the generator minimises E log(1 - D(G(z))) (minimax) or -E log D(G(z)) (non-saturating).
With classes, G takes a label beside z, and D has one output for every class, of which that of the
label counts (Mescheder et al. 2018).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import (
    leaky_relu,
    one_hot,
    pixel_shuffle,
    pixel_unshuffle,
    relu,
    softplus,
)

from diffusion.checks import check_count, check_counts, own_mode
from diffusion.images import mnist
from diffusion.images.model import ImageModel, building, initialise
from diffusion.images.training import BatchTraining
from diffusion.images.vae import NETWORKS, dense
from diffusion.sampling import generator_of

_ROWS = 1000  # images generated at once
_GROUPS = 8  # of channels, for the generator's normalisation


class GAN(ImageModel):
    """Both players, dense or convolutional.

    Args:
        pixels: m, numbers in an image; 784 for the convolutional networks.
        latent: dimension of z.
        hidden: units of the hidden layers of both dense networks; of the convolutional ones:
            channels at scale 1/2, a multiple of 8.
        network: "dense", whose output is unbounded, or "convolutional", with output in [0, 1].
        num_classes: 0 for players that see no labels.
        losses: (updates, 2), of discriminator and generator; see `ImageModel`.
        generator: of the initial weights.

    Raises:
        ValueError: any of them outside that.
    """

    KIND = "diffusion.images.GAN"

    @building()
    def __init__(
        self,
        *,
        pixels: int = mnist.PIXELS,
        latent: int = 64,
        hidden: Sequence[int] = (32,),
        network: str = "convolutional",
        num_classes: int = 0,
        losses: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(losses)
        pixels, latent = check_count("pixels", pixels), check_count("latent", latent)
        self.num_classes = check_count("classes", num_classes, least=0)
        hidden = check_counts("hidden", hidden)
        if network not in NETWORKS:
            raise ValueError(f"network must be one of {', '.join(NETWORKS)}, not {network!r}")
        self.pixels, self.latent, self.hidden = pixels, latent, hidden
        self.network = network
        inputs, outputs = latent + self.num_classes, max(1, self.num_classes)
        if network == "dense":
            self.generator = dense(inputs, *self.hidden, pixels)
            self.discriminator = dense(pixels, *self.hidden, outputs)
        else:
            if pixels != mnist.PIXELS or len(self.hidden) != 1 or self.hidden[0] % _GROUPS:
                raise ValueError(
                    f"the convolutional network is for {mnist.PIXELS} pixels and one multiple of "
                    f"{_GROUPS} channels, not {pixels} and {self.hidden}"
                )
            self.generator = _Generator(inputs, *self.hidden)
            self.discriminator = _Discriminator(*self.hidden, outputs)
        initialise(self, generator)

    def config(self) -> dict:
        return {
            "pixels": self.pixels,
            "latent": self.latent,
            "hidden": list(self.hidden),
            "network": self.network,
            "num_classes": self.num_classes,
        }

    def any_labels(self, n: int, generator: torch.Generator) -> Tensor | None:
        """n labels, each as likely as any other: (n,) int64; None without classes."""
        if not self.num_classes:
            return None
        return torch.randint(self.num_classes, (n,), generator=generator)

    def _noise(self, n: int, generator: torch.Generator, labels: Tensor | None) -> Tensor:
        z = torch.randn(n, self.latent, generator=generator).to(self.losses)
        if labels is None:
            return z
        return torch.cat([z, one_hot(labels, self.num_classes).to(z)], dim=1)

    def draw(self, n: int, generator: torch.Generator, labels: Tensor | None = None) -> Tensor:
        """G(z) for n draws of z and, with classes, labels (n,): (n, m), with gradients."""
        return self.generator(self._noise(n, generator, labels))

    def h(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """Log-odds of D(x) = sigmoid(h(x)) that x (n, m) is real, and of its label: (n,)."""
        return of_label(self.discriminator(x), labels)

    @own_mode(gradients=False)
    def sample(
        self, n: int, *, labels: int | Tensor | None = None, seed: int | None = None
    ) -> Tensor:
        """n images G(z), (n, m), in [0, 1] where the network is convolutional.

        Args:
            n: number of images.
            labels: with classes, that of each image, an int or (n,) int64; None draws them.
            seed: None seeds from the system.

        Raises:
            ValueError: n below 1, or labels outside that.
        """
        n, generator = check_count("n", n), generator_of(seed)
        if labels is None:
            labels = self.any_labels(n, generator)
        z = self._noise(n, generator, self.check_labels(labels, n))
        return torch.cat([self.generator(rows) for rows in z.split(_ROWS)])


def of_label(outputs: Tensor, labels: Tensor | None) -> Tensor:
    """Of a discriminator's outputs (n, 1) or (n, classes) that of each label: (n,)."""
    return outputs[:, 0] if labels is None else outputs.gather(1, labels[:, None])[:, 0]


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """-V(G, D) from the log-odds h of real and generated images."""
    return softplus(-real).mean() + softplus(fake).mean()


def minimax_loss(fake: Tensor) -> Tensor:
    """E log(1 - D(G(z))) from the log-odds h of generated images; vanishes with D(G(z))."""
    return -softplus(fake).mean()


def non_saturating_loss(fake: Tensor) -> Tensor:
    """-E log D(G(z)) from the log-odds h of generated images."""
    return softplus(-fake).mean()


class _Generator(nn.Module):
    """z (n, latent) -> images (n, 784) by way of 7 x 7 and 14 x 14."""

    def __init__(self, latent: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.input_layer = nn.Linear(latent, 2 * width * 49)
        channels = (2 * width, 2 * width, width, width)
        self.norms = nn.ModuleList(nn.GroupNorm(_GROUPS, c) for c in channels)
        self.coarse = nn.Conv2d(2 * width, 2 * width, 3, padding=1)
        self.up = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.middle = nn.Conv2d(width, width, 3, padding=1)
        self.output_layer = nn.Conv2d(width, 4, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        x = self.input_layer(z).reshape(-1, 2 * self.width, 7, 7)
        x = x + self.coarse(relu(self.norms[0](x)))
        x = self.up(relu(self.norms[1](x)))  # (n, width, 14, 14)
        x = x + self.middle(relu(self.norms[2](x)))
        x = pixel_shuffle(self.output_layer(relu(self.norms[3](x))), 2)  # (n, 1, 28, 28)
        return torch.sigmoid(x.float()).reshape(len(z), -1)


class _Discriminator(nn.Module):
    """Images (n, 784) -> log-odds (n, outputs)."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.input_layer = nn.Conv2d(4, width, 3, padding=1)
        self.down = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.coarse = nn.Conv2d(2 * width, 2 * width, 3, padding=1)
        self.output_layer = nn.Linear(2 * width * 49, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = pixel_unshuffle(2 * x.reshape(-1, 1, *mnist.SHAPE) - 1, 2)  # (n, 4, 14, 14)
        x = self.down(leaky_relu(self.input_layer(x), 0.2))  # (n, 2 width, 7, 7)
        x = self.coarse(leaky_relu(x, 0.2))
        return self.output_layer(leaky_relu(x, 0.2).flatten(1))


class GANTraining(BatchTraining):
    """Both players at once: one update is a step of each against the other as it was.

    Their losses are added in such a way that the parameters of each see only its own. The
    discriminator is kept smooth near the data by the penalty of Mescheder et al. (2018) on its
    slope, E |grad h|^2 penalty / 2, estimated by E (h(x + r) - h(x))^2 / s^2, r ~ N(0, s^2 I), on
    a quarter of a batch.

    Args:
        labels: (n,), for players with classes; generated images get those of the batch.
        loss: of the generator, `non_saturating_loss` or `minimax_loss`.
        penalty: on the slope.
        precision: what the networks compute in, float32 or bfloat16.
        others: those of `BatchTraining`.
    """

    REACH = 0.1  # s

    def __init__(
        self,
        model: GAN,
        images: Tensor,
        labels: Tensor | None = None,
        *,
        loss=non_saturating_loss,
        penalty: float = 1.0,
        precision: torch.dtype = torch.float32,
        **options,
    ) -> None:
        super().__init__(model, images, labels, **options)
        self.loss, self.penalty, self.precision = loss, penalty, precision
        self.players: list[tuple[float, float]] = []
        for group in self.optimizer.param_groups:
            group["betas"] = (0.5, 0.99)

    def _loss(self, images: Tensor, labels: Tensor | None) -> Tensor:
        real = images / 255 if images.dtype == torch.uint8 else images
        lowered = self.precision != torch.float32
        with torch.autocast(real.device.type, self.precision, enabled=lowered):
            h_real, h_fake, h_moved, h_seen = (h.float() for h in self._odds(real, labels))
        slope = (h_moved - h_real[: len(h_moved)]).square().mean() / self.REACH**2
        losses = discriminator_loss(h_real, h_fake), self.loss(h_seen)
        self.players.append((losses[0].item(), losses[1].item()))
        return losses[0] + losses[1] + self.penalty / 2 * slope

    def _odds(self, real: Tensor, labels: Tensor | None) -> tuple[Tensor, ...]:
        """h of real, generated and some moved real images, and of the generated ones again.

        Of these the last alone has a gradient for the generator, and none for the discriminator.
        """
        model, n = self.model, len(real)
        fake = model.draw(n, self.generator, labels)
        moved = real[: math.ceil(n / 4)]
        moved = moved + self.REACH * torch.randn(moved.shape, generator=self.generator)
        given = None if labels is None else torch.cat([labels, labels, labels[: len(moved)]])
        shown = model.h(torch.cat([real, fake.detach(), moved]), given)
        held = {name: p.detach() for name, p in model.discriminator.named_parameters()}
        seen = of_label(functional_call(model.discriminator, held, (fake,)), labels)
        return *shown.split([n, n, len(moved)]), seen

    def advance(self, epochs: int) -> None:
        try:
            super().advance(epochs)
        finally:
            self.average.losses = torch.tensor(self.players, device=self.average.device)

    def resume(self, path: str | Path) -> None:
        super().resume(path)
        self.players = [tuple(both) for both in self.average.losses.tolist()]

    def _settings(self) -> dict:
        return super()._settings() | {
            "loss": self.loss.__name__,
            "penalty": self.penalty,
            "precision": str(self.precision),
        }


def load(path: str | Path) -> GAN:
    """Read a GAN that its `save` wrote; it comes back in eval mode.

    Raises:
        WeightsError (a ValueError): the file is missing, damaged, or of another model.
    """
    return GAN.load(path)
