"""Bit-flip diffusion of distributions over so few images that all of them can be listed."""

from __future__ import annotations

import torch
from torch import Tensor

from diffusion.checks import check_count
from diffusion.images.bitprocess import BitFlip, check_images, column

_MOST_PIXELS = 12  # of images whose distribution is enumerated


class Enumerated:
    """The ideal network of a distribution over listed images; the interface of `bitnet.BitNet`.

    P(Y_0 = x | Y_t = y) is in proportion to P(x) exp(evidence(t) x.y / 2). In float64.

    Args:
        process: the forward process.
        images: (k, m) of -1 and +1.
        probabilities: (k,), uniform if not given.
    """

    def __init__(
        self, process: BitFlip, images: Tensor, probabilities: Tensor | None = None
    ) -> None:
        self.process, self.images = process, check_images(images).double()
        uniform = torch.full((len(images),), 1 / len(images), dtype=torch.float64)
        self.probabilities = uniform if probabilities is None else probabilities.double()
        if self.probabilities.shape != (len(images),):
            raise ValueError(f"there must be {len(images)} probabilities, one for each image")
        self.dtype = torch.float64

    @property
    def pixels(self) -> int:
        return self.images.shape[1]

    def check_labels(self, labels: int | Tensor | None, n: int) -> None:
        """There are no classes.

        Raises:
            ValueError: a label is given.
        """
        if labels is not None:
            raise ValueError("an unconditional model takes no labels")

    def logits(self, y_t: Tensor, t: int | Tensor, labels: None = None) -> Tensor:
        """log P(Y_0 = +1 | Y_t) / P(Y_0 = -1 | Y_t) for y_t (n, m): (n, m).

        Raises:
            ValueError: y_t or t outside that.
        """
        check_images(y_t, self.pixels, "y_t")
        agreement = y_t @ self.images.T  # (n, k)
        log_weight = column(self.process.evidence(t), agreement) * agreement / 2
        posterior = torch.softmax(log_weight + self.probabilities.log(), dim=1)
        on, off = (posterior @ (self.images == value).double() for value in (1, -1))
        return on.log() - off.log()


def all_images(pixels: int) -> Tensor:
    """All 2^pixels images, (2^pixels, pixels) float64.

    Raises:
        ValueError: pixels is not in 1..12.
    """
    check_count("pixels", pixels)
    if pixels > _MOST_PIXELS:
        raise ValueError(f"images of at most {_MOST_PIXELS} pixels can be listed, not {pixels}")
    values = torch.tensor([-1, 1], dtype=torch.float64)
    return torch.cartesian_prod(*[values] * pixels).reshape(-1, pixels)


@torch.no_grad()
def distribution(model) -> Tensor:
    """P(image) of the sampler's output for each of `all_images`: exact, (2^pixels,) float64.

    Starts from fair coins and applies the matrix of every reverse stage.
    """
    images, process = all_images(model.pixels), model.process
    p = torch.full((len(images),), 1 / len(images), dtype=torch.float64)
    for t in range(process.stages, 0, -1):
        logits = model.logits(images.to(model.dtype), t).double()
        q = process.reverse_probability(logits, images, t)
        p = p @ _products(q)
    return p


def _products(q: Tensor) -> Tensor:
    """P(image) of independent pixels, +1 with probabilities q (n, m): (n, 2^m), `all_images`."""
    matrix = torch.ones(len(q), 1, dtype=q.dtype)
    for on in q.T:  # every pixel doubles the columns
        pixel = torch.stack([1 - on, on], dim=1)
        matrix = (matrix[:, :, None] * pixel[:, None, :]).reshape(len(q), -1)
    return matrix
