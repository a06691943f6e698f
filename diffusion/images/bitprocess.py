"""The bit-flip process: forward stages, posterior, and the loss of a stage.

Images are vectors in {-1, +1}^m. Stage t flips each pixel with probability delta, independently;
equivalently it replaces the pixel, with probability 2 delta, by a fresh fair coin. With
c = 1 - 2 delta, the probability that no coin has replaced a pixel in t stages is c^t, and

    P(Y_t = y | Y_0 = x) = (1 + c^t x y) / 2            for each pixel.

This is the binomial diffusion of Sohl-Dickstein et al. (2015). A network answers with the log-odds
of P(Y_0 = +1 | Y_t); the reverse stage Q_t(Y_t) averages Bayes' posterior over both values of Y_0
with these weights (Austin et al. 2021).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from diffusion.checks import as_tensor, check_count, check_stage


@dataclass(frozen=True)
class BitFlip:
    """The forward process.

    Attributes:
        delta: probability that a stage flips a pixel, in (0, 1/2].
        stages: T.

    Raises:
        ValueError: delta or stages outside that; by the methods, images or a stage outside what
            they describe.
    """

    delta: float = 0.0125
    stages: int = 200

    def __post_init__(self) -> None:
        if not isinstance(self.delta, Real) or not 0 < self.delta <= 0.5:
            raise ValueError(f"delta must be in (0, 1/2], not {self.delta}")
        object.__setattr__(self, "delta", float(self.delta))  # NumPy's would not go into a file
        object.__setattr__(self, "stages", check_count("stages", self.stages))

    def correlation(self, t: int | Tensor) -> Tensor:
        """c^t = E[Y_0 Y_t] of a pixel for t in 0..stages, float64 of t's shape."""
        t = check_stage(t, 0, self.stages)
        return (1 - 2 * torch.tensor(self.delta, dtype=torch.float64)) ** t

    def replaced(self, t: int | Tensor) -> Tensor:
        """Probability 1 - c^t that a fresh coin has replaced a pixel by stage t."""
        return 1 - self.correlation(t)

    def flipped(self, t: int | Tensor) -> Tensor:
        """Probability (1 - c^t) / 2 that a pixel of Y_t differs from Y_0."""
        return self.replaced(t) / 2

    def evidence(self, t: int | Tensor) -> Tensor:
        """log((1 + c^t) / (1 - c^t)): log-odds for Y_0 = +1 that one pixel Y_t = +1 gives."""
        return 2 * torch.atanh(self.correlation(check_stage(t, 1, self.stages)))

    def stage(self, y: Tensor, generator: torch.Generator) -> Tensor:
        """One stage: images (n, m) with every pixel flipped with probability delta."""
        y = check_images(y, name="y")
        return torch.where(torch.rand(y.shape, generator=generator) < self.delta, -y, y)

    def forward(self, y_0: Tensor, t: int | Tensor, generator: torch.Generator) -> Tensor:
        """Draw Y_t from Y_0 (n, m) at once, for a stage or (n,) stages in 0..stages.

        Two coins per pixel: is it replaced by now, and if so, by what?
        """
        y_0 = check_images(y_0, name="y_0")
        replaced = torch.rand(y_0.shape, generator=generator) < column(self.replaced(t), y_0)
        return torch.where(replaced, coins(y_0.shape, generator, y_0.dtype), y_0)

    def posterior(self, y_t: Tensor, y_0: Tensor, t: int | Tensor) -> Tensor:
        """P(Y_{t-1} = +1 | Y_t, Y_0) for t in 1..stages, by Bayes: (n, m).

        P(y_t | +1) P(+1 | y_0) / P(y_t | y_0)
            = (1 + c y_t) (1 + c^(t-1) y_0) / (2 (1 + c^t y_t y_0)).
        """
        y_t = check_images(y_t, name="y_t")
        return self._posterior(y_t, check_images(y_0, y_t.shape[1], "y_0"), t)

    def _posterior(
        self, y_t: Tensor, y_0: Tensor, t: int | Tensor, s: int | Tensor | None = None
    ) -> Tensor:
        t = check_stage(t, 1, self.stages)
        s = t - 1 if s is None else check_stage(s, 0, self.stages)
        c, before, now = (column(self.correlation(k), y_t) for k in (t - s, s, t))
        return (1 + c * y_t) * (1 + before * y_0) / (2 * (1 + now * y_t * y_0))

    def reverse_probability(
        self, logits: Tensor, y_t: Tensor, t: int | Tensor, s: int | Tensor | None = None
    ) -> Tensor:
        """Q_t(Y_t) = P(Y_s = +1 | Y_t) under the network's log-odds (n, m) of Y_0 = +1.

        s is t - 1 if it is not given, and less where stages are passed over.
        """
        y_t = check_images(y_t, logits.shape[1], "y_t")
        on, one = torch.sigmoid(logits), torch.ones_like(y_t)
        return on * self._posterior(y_t, one, t, s) + (1 - on) * self._posterior(y_t, -one, t, s)

    def kl(self, logits: Tensor, y_0: Tensor, y_t: Tensor, t: int | Tensor) -> Tensor:
        """KL(P(Y_{t-1} | Y_t, Y_0) || Q_t(Y_t)), summed over pixels: (n,) nats.

        At t = 1 the posterior is certain of Y_0, and this is -log Q_1(Y_0).
        """
        y_t = check_images(y_t, logits.shape[1], "y_t")
        # Multiplied by y_0, every pixel's truth is +1. Probabilities of Y_{t-1} = +-Y_0 are kept
        # apart, so that neither loses digits to the other when it is small.
        u, one = y_0 * y_t, torch.ones_like(y_t)
        right, wrong = logsigmoid(y_0 * logits), logsigmoid(-y_0 * logits)
        total = torch.zeros_like(u)
        for sign in (1, -1):
            given_right = self._posterior(sign * u, sign * one, t)  # P(Y_{t-1} = sign Y_0)
            given_wrong = self._posterior(sign * u, -sign * one, t)
            log_q = torch.logaddexp(right + given_right.log(), wrong + given_wrong.log())
            total += torch.xlogy(given_right, given_right) - given_right * log_q
        return total.sum(dim=1)

    def prior_kl(self) -> float:
        """KL of Y_T given Y_0 from fair coins, nats per pixel."""
        p = self.flipped(self.stages).item()
        return math.log(2) + p * math.log(p) + (1 - p) * math.log1p(-p)


def column(values: Tensor, like: Tensor) -> Tensor:
    if values.ndim == 1 and len(values) != len(like):
        raise ValueError(f"t must be one stage or {len(like)}, not {len(values)}")
    return values.reshape(-1, 1).to(like)


def coins(shape, generator: torch.Generator, dtype: torch.dtype = torch.float32) -> Tensor:
    """Fair coins -1 and +1."""
    return 2 * torch.randint(2, shape, generator=generator).to(dtype) - 1


def check_images(images: Tensor, pixels: int | None = None, name: str = "images") -> Tensor:
    """Images (n, pixels) of -1 and +1 as a floating-point tensor: a tensor, an array or lists.

    Raises:
        ValueError: otherwise.
    """
    images = as_tensor(images, name)
    if images.ndim != 2 or (pixels is not None and images.shape[1] != pixels):
        expected = "m" if pixels is None else pixels
        raise ValueError(f"{name} must have shape (n, {expected}), not {tuple(images.shape)}")
    if not ((images == 1) | (images == -1)).all():
        raise ValueError(f"{name} must hold -1 and +1 only")
    return images if images.is_floating_point() else images.float()
