"""The theory of GANs on densities that are known: best discriminator, its value, the gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from diffusion.checks import check_count, check_seed
from diffusion.images.gan import GAN, minimax_loss, non_saturating_loss

LogDensity = Callable[[Tensor], Tensor]  # points (n, 2) -> (n,)


class Mixture:
    """Equal parts of round Gaussians in the plane.

    Args:
        centres: (k, 2).
        spread: standard deviation of each coordinate.
    """

    def __init__(self, centres: Tensor, spread: float) -> None:
        self.centres, self.spread = centres.double(), spread

    def log_density(self, x: Tensor) -> Tensor:
        """(n,) nats, of points (n, 2)."""
        squares = torch.cdist(x.double(), self.centres).square() / self.spread**2
        constant = math.log(2 * math.pi * self.spread**2 * len(self.centres))
        return torch.logsumexp(-squares / 2, dim=1) - constant

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """(n, 2) float32."""
        pick = torch.randint(len(self.centres), (n,), generator=generator)
        noise = torch.randn(n, 2, generator=generator, dtype=torch.float64)
        return (self.centres[pick] + self.spread * noise).float()


def best_discriminator(data: LogDensity, model: LogDensity, x: Tensor) -> Tensor:
    """D*(x) = p_data / (p_data + p_theta), Goodfellow et al. (2014), Prop. 1: (n,) float64."""
    return torch.sigmoid(data(x) - model(x))


class Value(NamedTuple):
    """Both sides of V(G, D*) = -log 4 + 2 JSD(p_data || p_theta), nats."""

    value: float
    jensen_shannon: float


def value_of_best(
    data: LogDensity, model: LogDensity, *, reach: float = 6.0, cells: int = 1200
) -> Value:
    """Both integrals by the midpoint rule on the square [-reach, reach]^2, each on its own.

    value is E_data log D* + E_theta log(1 - D*); jensen_shannon is from its own definition,
    (KL(p_data || mean) + KL(p_theta || mean)) / 2.
    """
    check_count("cells", cells)
    axis = (torch.arange(cells, dtype=torch.float64) + 0.5) / cells * 2 * reach - reach
    area = (2 * reach / cells) ** 2
    x = torch.cartesian_prod(axis, axis)
    log_p, log_q = data(x), model(x)
    p, q = log_p.exp() * area, log_q.exp() * area
    d = best_discriminator(data, model, x)
    # Where one density is nothing beside the other, 0 log 0 = 0.
    value = torch.xlogy(p, d).sum() + torch.xlogy(q, torch.sigmoid(log_q - log_p)).sum()
    log_mean = torch.logaddexp(log_p, log_q) - math.log(2)
    jsd = ((p * (log_p - log_mean)).sum() + (q * (log_q - log_mean)).sum()) / 2
    return Value(value.item(), jsd.item())


class Gradients(NamedTuple):
    """Norms of gradients with respect to the generator's parameters, and where they were taken.

    minimax, closed_form: of E log(1 - D(G(z))), and -E[D(G(z)) grad h(G(z))], which is the same;
    their difference is the norm of the difference. non_saturating: of -E log D(G(z)).
    """

    mean_d: float
    minimax: float
    closed_form: float
    difference: float
    non_saturating: float


def generator_gradients(model: GAN, n: int = 256, *, seed: int = 0) -> Gradients:
    """Gradients of both generator losses over n draws of z, at the model's present state.

    Raises:
        ValueError: n below 1.
    """
    n, seed = check_count("n", n), check_seed(seed)
    parameters = list(model.generator.parameters())

    def h() -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        labels = model.any_labels(n, generator)
        return model.h(model.draw(n, generator, labels), labels)

    def gradient(loss: Callable[[Tensor], Tensor]) -> Tensor:
        parts = torch.autograd.grad(loss(h()), parameters)
        return torch.cat([part.flatten() for part in parts])

    with torch.enable_grad():
        minimax, other = gradient(minimax_loss), gradient(non_saturating_loss)
        closed = gradient(lambda h: -(torch.sigmoid(h).detach() * h).mean())
    with torch.no_grad():
        mean_d = torch.sigmoid(h()).mean()
    norms = (part.norm().item() for part in (minimax, closed, minimax - closed, other))
    return Gradients(mean_d.item(), *norms)
