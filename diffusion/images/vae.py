"""Variational autoencoders (Kingma and Welling 2014): bound, importance-weighted bound, samples.

    p(z) = N(0, I),   p(x | z) = Bernoulli(sigmoid(decoder(z))) or N(decoder(z), s^2 I),
    q(z | x) = N(m, diag(v)), m and v from the encoder.

The default is the network of the homework sheet: 784 - 300 - 300 - 10 and back, ELU.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from diffusion.checks import as_real, check_count, check_counts, check_range, check_seed, own_mode
from diffusion.images import mnist
from diffusion.images.model import ImageModel, building, check_images, initialise
from diffusion.images.muon import Muon
from diffusion.images.training import BatchTraining
from diffusion.images.vae_conv import ConvDecoder, ConvEncoder
from diffusion.sampling import generator_of

NETWORKS = ("dense", "convolutional")
OBSERVATIONS = ("bernoulli", "gaussian")
_ROWS = 2000  # pairs of image and latent point decoded at once


def sample_gaussian(m: Tensor, v: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """A draw from N(m, diag(v)) that gradients pass through: m + sqrt(v) eps, eps ~ N(0, I).

    Args:
        m: means, any shape; v: variances, the same shape.
        generator: of eps; None draws from PyTorch's global one.
    """
    return m + v.sqrt() * torch.randn(m.shape, generator=generator, dtype=m.dtype)


class Elbo(NamedTuple):
    """Negative evidence lower bound, kl + rec, and its parts: means over images, nats."""

    nelbo: Tensor
    kl: Tensor
    rec: Tensor


class VAE(ImageModel):
    """A VAE with a dense or convolutional pair of networks.

    Args:
        pixels: m, numbers in an image; 784 for the convolutional network.
        latent: dimension of z.
        hidden: units of the hidden layers of the dense encoder, and in reverse order of the
            decoder; none for a linear model. Of the convolutional one: channels at scale 1/2.
        network: "dense" or "convolutional".
        observation: "bernoulli" for images of 0 and 1, "gaussian" with one learnt variance s^2.
        losses: of a training run; see `ImageModel`.
        generator: of the initial weights.

    Raises:
        ValueError: any of them outside that.
    """

    KIND = "diffusion.images.VAE"

    @building()
    def __init__(
        self,
        *,
        pixels: int = mnist.PIXELS,
        latent: int = 10,
        hidden: Sequence[int] = (300, 300),
        network: str = "dense",
        observation: str = "bernoulli",
        losses: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(losses)
        pixels, latent = check_count("pixels", pixels), check_count("latent", latent)
        hidden = check_counts("hidden", hidden)
        if network not in NETWORKS:
            raise ValueError(f"network must be one of {', '.join(NETWORKS)}, not {network!r}")
        if observation not in OBSERVATIONS:
            raise ValueError(
                f"observation must be one of {', '.join(OBSERVATIONS)}, not {observation!r}"
            )
        self.pixels, self.latent, self.hidden = pixels, latent, hidden
        self.network, self.observation = network, observation
        if network == "dense":
            self.encoder = dense(pixels, *self.hidden, 2 * latent)
            self.decoder = dense(latent, *reversed(self.hidden), pixels)
        else:
            if pixels != mnist.PIXELS or len(self.hidden) != 1:
                raise ValueError(
                    f"the convolutional network is for {mnist.PIXELS} pixels and one number of "
                    f"channels, not {pixels} and {len(self.hidden)}"
                )
            self.encoder = ConvEncoder(*self.hidden, 2 * latent)
            self.decoder = ConvDecoder(latent, *self.hidden)
        initialise(self, generator)
        if observation == "gaussian":
            self.log_s = nn.Parameter(torch.zeros(()))

    def config(self) -> dict:
        return {
            "pixels": self.pixels,
            "latent": self.latent,
            "hidden": list(self.hidden),
            "network": self.network,
            "observation": self.observation,
        }

    def check(self, x: Tensor) -> Tensor:
        """x (n, m) as a tensor of the model's type, if it holds 0 and 1 where pixels are such.

        Raises:
            ValueError: otherwise.
        """
        if self.observation == "bernoulli":
            x = check_images(x, self.pixels, "x")
            if not ((x == 0) | (x == 1)).all():
                raise ValueError("x must hold 0 and 1 only; mnist.binarise draws them")
            return x.to(self.losses)
        x = check_range(as_real(x, "x").to(self.losses), "x")
        if x.ndim != 2 or x.shape[1] != self.pixels:
            raise ValueError(f"x must have shape (n, {self.pixels}), not {tuple(x.shape)}")
        return x

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """m and v of q(z | x), each (n, latent), for x (n, m)."""
        m, log_v = self.encoder(x).chunk(2, dim=1)
        return m, log_v.exp()

    def decode(self, z: Tensor) -> Tensor:
        """Mean of p(x | z), (n, m): of Bernoulli pixels the probability of ink."""
        mean = self.decoder(z)
        return torch.sigmoid(mean) if self.observation == "bernoulli" else mean

    def log_conditional(self, x: Tensor, z: Tensor) -> Tensor:
        """log p(x | z), (n,) nats, for x (n, m) and z (n, latent)."""
        out = self.decoder(z)
        if self.observation == "bernoulli":
            return (x * out - softplus(out)).sum(dim=1)
        scaled = (x - out) * torch.exp(-self.log_s)
        constant = self.pixels * (self.log_s + math.log(2 * math.pi) / 2)
        return -scaled.square().sum(dim=1) / 2 - constant

    def elbo_terms(self, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """KL(q(z | x) || p(z)) and -log p(x | z) for one draw of z: each (n,) nats."""
        m, v = self.encode(x)
        kl = (m.square() + v - 1 - v.log()).sum(dim=1) / 2
        return kl, -self.log_conditional(x, sample_gaussian(m, v, generator))

    @own_mode(gradients=False)
    def negative_elbo_bound(self, x: Tensor, *, seed: int = 0) -> Elbo:
        """(nelbo, kl, rec) of images x (n, m), one draw of z for each: scalars, nats an image.

        Raises:
            ValueError: x of another size, or with other values.
        """
        generator = torch.Generator().manual_seed(check_seed(seed))
        parts = [self.elbo_terms(rows, generator) for rows in self.check(x).split(_ROWS)]
        kl, rec = (torch.cat(part).mean() for part in zip(*parts, strict=True))
        return Elbo(kl + rec, kl, rec)

    @own_mode(gradients=False)
    def log_likelihood(self, x: Tensor, *, samples: int = 5000, seed: int = 0) -> Tensor:
        """The importance-weighted bound on log p(x) (Burda et al. 2016), (n,) float64 nats.

        log mean_k p(x, z_k) / q(z_k | x) over `samples` draws z_k ~ q(z | x): in expectation the
        ELBO for one, log p(x) for infinitely many, never falling in between.

        Raises:
            ValueError: x of another size or with other values, samples below 1.
        """
        samples = check_count("samples", samples)
        generator = torch.Generator().manual_seed(check_seed(seed))
        return torch.cat(
            [
                self._log_likelihood(rows, samples, generator)
                for rows in self.check(x).split(max(1, _ROWS // samples))
            ]
        )

    def _log_likelihood(self, x: Tensor, samples: int, generator: torch.Generator) -> Tensor:
        m, v = self.encode(x)
        total = torch.full((len(x),), -math.inf, dtype=torch.float64)
        most = max(1, _ROWS // len(x))
        for k in [most] * (samples // most) + [samples % most] * (samples % most > 0):
            means, variances = m.repeat(k, 1), v.repeat(k, 1)
            z = sample_gaussian(means, variances, generator)
            # The 2 pi of p(z) and q(z | x) cancel.
            log_ratio = ((z - means).square() / variances + variances.log() - z.square()) / 2
            log_w = self.log_conditional(x.repeat(k, 1), z) + log_ratio.sum(dim=1)
            total = torch.logaddexp(total, log_w.double().reshape(k, -1).logsumexp(dim=0))
        return total - math.log(samples)

    @own_mode(gradients=False)
    def sample(self, n: int, *, seed: int | None = None) -> Tensor:
        """Decode n draws z ~ p(z): (n, m), of Bernoulli pixels the probability of ink.

        Where observations are Gaussian, their noise is added: draws of p(x).

        Raises:
            ValueError: n below 1.
        """
        n = check_count("n", n)
        generator = generator_of(seed)
        z = torch.randn(n, self.latent, generator=generator).to(self.losses)
        x = torch.cat([self.decode(rows) for rows in z.split(_ROWS)])
        if self.observation == "gaussian":
            x = x + self.log_s.exp() * torch.randn(x.shape, generator=generator).to(x)
        return x


def dense(*sizes: int) -> nn.Sequential:
    """Fully connected layers of these sizes, ELU between them."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.ELU(), nn.Linear(inputs, outputs)]
    return nn.Sequential(*layers[1:])


def inner_weights(model: VAE) -> list[Tensor]:
    """The weights between two hidden layers, or the kernels between two with many channels."""
    if model.network == "convolutional":
        return [
            weight
            for name, weight in model.named_parameters()
            if weight.ndim == 4 and not name.endswith("put_layer.weight")
        ]
    layers = [
        [layer for layer in network if isinstance(layer, nn.Linear)]
        for network in (model.encoder, model.decoder)
    ]
    return [layer.weight for network in layers for layer in network[1:-1]]


class VAETraining(BatchTraining):
    """Training on the negative ELBO with one draw of z per image; pixels drawn afresh every time.

    Weights between two hidden layers follow Muon, all others Adam. The arguments are those of
    `BatchTraining`.
    """

    def __init__(self, model: VAE, images: Tensor, **options) -> None:
        super().__init__(model, images, **options)
        model = self.model  # as itself, where it was wrapped
        inner = inner_weights(model)
        names = {id(weight) for weight in inner}
        others = [weight for weight in model.parameters() if id(weight) not in names]
        if inner:
            self.optimizer = Muon(inner, others, lr=self.learning_rate)

    def _loss(self, images: Tensor, labels: None) -> Tensor:
        if images.dtype == torch.uint8:
            images = mnist.binarise(images, generator=self.generator)
        kl, rec = self.model.elbo_terms(images, self.generator)
        return (kl + rec).mean()


def load(path: str | Path) -> VAE:
    """Read a VAE that its `save` wrote; it comes back in eval mode.

    Raises:
        WeightsError (a ValueError): the file is missing, damaged, or of another model.
    """
    return VAE.load(path)
