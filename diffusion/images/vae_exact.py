"""VAEs whose log p(x) is known: linear ones in closed form, one latent dimension by quadrature."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from diffusion.checks import check_count
from diffusion.images.vae import VAE

_GRID = torch.linspace(-12, 12, 24_001, dtype=torch.float64)  # of z, for the quadrature
_ROWS = 64  # images of which the whole grid is decoded at once


# --- Linear, with Gaussian observations -----------------------------------------------------------


def pca_log_likelihood(x: Tensor, latent: int) -> float:
    """The largest mean log-likelihood that a linear VAE can give to points x (n, d), nats a point.

    That of probabilistic PCA (Tipping and Bishop 1999, Eq. 8): with the eigenvalues of the sample
    covariance in descending order, s^2 is the mean of those beyond the first `latent`, and

        -(1/2) (sum of log of the first + (d - latent) log s^2 + d log 2 pi + d).

    Raises:
        ValueError: latent is not in 1..d-1.
    """
    d = x.shape[1]
    check_count("latent", latent)
    if latent >= d:
        raise ValueError(f"latent must be below {d}, the dimension of the points, not {latent}")
    eigenvalues = torch.linalg.eigvalsh(x.double().T.cov(correction=0)).flip(0)
    kept, noise = eigenvalues[:latent], eigenvalues[latent:].mean()
    logs = kept.log().sum() + (d - latent) * noise.log()
    return -(logs + d * math.log(2 * math.pi) + d).item() / 2


@torch.no_grad()
def linear_log_likelihood(model: VAE, x: Tensor) -> Tensor:
    """log p(x) of a VAE with a linear decoder W z + b and Gaussian observations, (n,) float64.

    p(x) = N(b, W W^T + s^2 I).

    Raises:
        ValueError: the model is not of that form.
    """
    w, b, variance = _linear_decoder(model)
    covariance = w @ w.T + variance * torch.eye(len(b), dtype=w.dtype)
    return torch.distributions.MultivariateNormal(b, covariance).log_prob(x.double())


@torch.no_grad()
def linear_elbo(model: VAE, x: Tensor) -> Tensor:
    """The ELBO of the same models with its expectation over q(z | x) in closed form, (n,) float64.

    E_q log p(x | z) = -(|x - W m - b|^2 + sum_i v_i |W_i|^2) / (2 s^2) - (d / 2) log 2 pi s^2,
    W_i the columns of W; minus KL(q(z | x) || p(z)).

    Raises:
        ValueError: the model is not of that form.
    """
    w, b, variance = _linear_decoder(model)
    x = model.check(x)
    m, v = (part.double() for part in model.encode(x))
    squares = (x.double() - m @ w.T - b).square().sum(dim=1) + v @ w.square().sum(dim=0)
    conditional = -squares / (2 * variance) - len(b) / 2 * (2 * math.pi * variance).log()
    return conditional - (m.square() + v - 1 - v.log()).sum(dim=1) / 2


def _linear_decoder(model: VAE) -> tuple[Tensor, Tensor, Tensor]:
    """W (d, latent), b (d,) and s^2, float64."""
    if model.hidden or model.network != "dense" or model.observation != "gaussian":
        raise ValueError("the model must be dense, without hidden layers, and Gaussian")
    layer = model.decoder[0]
    return layer.weight.double(), layer.bias.double(), (2 * model.log_s.double()).exp()


# --- One latent dimension -------------------------------------------------------------------------


class Quadrature(NamedTuple):
    """Of each image, (n,) float64 nats: log p(x) = elbo + gap, gap = KL(q(z | x) || p(z | x))."""

    log_p: Tensor
    elbo: Tensor
    gap: Tensor


@torch.no_grad()
def quadrature(model: VAE, x: Tensor) -> Quadrature:
    """Integrals over z of a VAE with one latent dimension, on a grid of step 0.001; exact to 1e-6.

    The three are integrated each on its own, so that their identity is a check.

    Raises:
        ValueError: the model has more latent dimensions, or x is not what it is for.
    """
    if model.latent != 1:
        raise ValueError(f"quadrature needs one latent dimension, not {model.latent}")
    parts = [_quadrature(model, rows) for rows in model.check(x).split(_ROWS)]
    return Quadrature(*(torch.cat(part) for part in zip(*parts, strict=True)))


def _quadrature(model: VAE, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    out = model.decoder(_GRID[:, None].to(x)).double()  # (grid, m)
    if model.observation == "bernoulli":
        log_x = x.double() @ out.T - torch.nn.functional.softplus(out).sum(dim=1)  # (n, grid)
    else:
        scaled = torch.cdist(x.double(), out).square() / (2 * model.log_s.double()).exp()
        log_x = -scaled / 2 - model.pixels * (model.log_s.double() + math.log(2 * math.pi) / 2)
    step = math.log((_GRID[1] - _GRID[0]).item())
    log_joint = log_x + _log_normal(torch.zeros(()), torch.ones(()))
    log_p = log_joint.logsumexp(dim=1) + step
    m, v = (value.double() for value in model.encode(x))  # (n, 1)
    log_q = _log_normal(m, v)
    q = (log_q + step).exp()  # sums to 1 over the grid
    log_posterior = log_joint - log_p[:, None]
    return (
        log_p,
        (q * (log_joint - log_q)).sum(dim=1),
        (q * (log_q - log_posterior)).sum(dim=1),
    )


def _log_normal(m: Tensor, v: Tensor) -> Tensor:
    """log N(z; m, v) on the grid."""
    return -(_GRID - m).square() / (2 * v) - (2 * math.pi * v).log() / 2
