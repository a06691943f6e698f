"""Bit-flip diffusion of binary images: process, posterior, loss, sampling, bound.

Images are vectors in {-1, +1}^m. Stage t flips each pixel with probability delta, independently;
equivalently it replaces the pixel, with probability 2 delta, by a fresh fair coin. With
c = 1 - 2 delta, the probability that no coin has replaced a pixel in t stages is c^t, and

    P(Y_t = y | Y_0 = x) = (1 + c^t x y) / 2            for each pixel.

This is the binomial diffusion of Sohl-Dickstein et al. (2015). A network answers with the log-odds
of P(Y_0 = +1 | Y_t); the reverse stage Q_t(Y_t) averages Bayes' posterior over both values of Y_0
with these weights (Austin et al. 2021). `predict(y_t, t)` stands for the network below, with y_t
(n, m) and t a stage or (n,) stages. Losses and bounds of one image are sums over its pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from numbers import Real
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid
from tqdm import tqdm

from diffusion.checks import as_tensor, check_count, check_seed, check_stage, own_mode
from diffusion.sampling import Step, collect, generator_of, reverse

Predict = Callable[[Tensor, int | Tensor], Tensor]

# Network rows evaluated at once.
_ROWS = 512


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

    def _posterior(self, y_t: Tensor, y_0: Tensor, t: int | Tensor) -> Tensor:
        t = check_stage(t, 1, self.stages)
        c, before, now = (column(self.correlation(s), y_t) for s in (torch.tensor(1), t - 1, t))
        return (1 + c * y_t) * (1 + before * y_0) / (2 * (1 + now * y_t * y_0))

    def reverse_probability(self, logits: Tensor, y_t: Tensor, t: int | Tensor) -> Tensor:
        """Q_t(Y_t) = P(Y_{t-1} = +1 | Y_t) under the network's log-odds (n, m) of Y_0 = +1."""
        y_t = check_images(y_t, logits.shape[1], "y_t")
        on, one = torch.sigmoid(logits), torch.ones_like(y_t)
        return on * self._posterior(y_t, one, t) + (1 - on) * self._posterior(y_t, -one, t)

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


# --- Sampling -----------------------------------------------------------------------------------


def ancestral(predict: Predict, process: BitFlip, generator: torch.Generator) -> Step:
    """Y_{t-1} ~ Q_t(Y_t), as a step of the loop `sampling.reverse` over the stages."""

    def step(y: Tensor, t: int, t_next: int) -> Tensor:
        q = process.reverse_probability(predict(y, t), y, t)
        return torch.where(torch.rand(y.shape, generator=generator) < q, 1, -1).to(y)

    return step


@own_mode(gradients=False)
def sample(
    model,
    n: int,
    *,
    labels: int | Tensor | None = None,
    seed: int | None = None,
    return_trajectory: bool = False,
    progress: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Run the reverse process from fair coins through all stages, for n images at once.

    Args:
        model: a `bitnet.BitNet` or `bitflip_exact.Enumerated`.
        n: number of images.
        labels: class of each image, an int or (n,) int64; None for images of any class.
        seed: None seeds from the system.
        return_trajectory: also return all intermediate images.
        progress: show a progress bar if standard error is a terminal.

    Returns:
        images (n, m), or (images, path) with path (stages + 1, n, m), path[0] the coins.

    Raises:
        ValueError: any argument outside what is described here.
    """
    n = check_count("n", n)
    labels = model.check_labels(labels, n)
    generator = generator_of(seed)
    y = coins((n, model.pixels), generator, model.dtype)
    step = ancestral(partial(model.logits, labels=labels), model.process, generator)
    stages = model.process.stages
    images = reverse(step, y, range(stages, -1, -1))
    y_t, path = collect(images, y, stages, "bit-flip", return_trajectory, progress)
    return (y_t, path) if return_trajectory else y_t


# --- The variational bound ----------------------------------------------------------------------


class BitBound(NamedTuple):
    """An upper bound on -log2 P(image), in bits per pixel, float64.

    total (n,) = prior + stages.sum(dim=1); prior is the KL of Y_T from fair coins, stages (n, T)
    the KL of each reverse stage, t = 1 first; error (n,) the standard error of total, which comes
    from the samples of Y_t.
    """

    total: Tensor
    prior: float
    stages: Tensor
    error: Tensor


@own_mode(gradients=False)
def bound(
    model,
    images: Tensor,
    labels: int | Tensor | None = None,
    *,
    noise_samples: int = 2,
    seed: int = 0,
    progress: bool = False,
) -> BitBound:
    """The variational bound with every stage's expectation over Y_t estimated from samples.

    Args:
        model: a `bitnet.BitNet` or `bitflip_exact.Enumerated`.
        images: (n, m) of -1 and +1.
        labels: class of each image, an int or (n,) int64, or None.
        noise_samples: samples of Y_t for every image and stage, at least 2.
        seed: of these samples.
        progress: show a progress bar if standard error is a terminal.

    Raises:
        ValueError: images, labels or noise_samples outside what is described here.
    """
    process, images = model.process, check_images(images, model.pixels).to(model.dtype)
    labels = model.check_labels(labels, len(images))
    noise_samples = check_count("noise_samples", noise_samples, least=2)
    generator = torch.Generator().manual_seed(check_seed(seed))
    bits = 1 / (model.pixels * math.log(2))
    stages, variances = [], []
    hidden = None if progress else True
    for t in tqdm(range(1, process.stages + 1), desc="bound", leave=False, disable=hidden):
        values = torch.empty(noise_samples, len(images), dtype=torch.float64)
        for sampled in values:
            for rows in torch.arange(len(images)).split(_ROWS):
                y_t = process.forward(images[rows], t, generator)
                logits = model.logits(y_t, t, None if labels is None else labels[rows])
                sampled[rows] = bits * process.kl(
                    logits.double(), images[rows].double(), y_t.double(), t
                )
        stages.append(values.mean(dim=0))
        variances.append(values.var(dim=0) / noise_samples)
    stages = torch.stack(stages, dim=1)
    prior = process.prior_kl() / math.log(2)
    return BitBound(
        prior + stages.sum(dim=1), prior, stages, torch.stack(variances).sum(dim=0).sqrt()
    )


def draw_stages(
    process: BitFlip, n: int, generator: torch.Generator, power: float = 2.0
) -> tuple[Tensor, Tensor]:
    """Stages (n,) int64 to estimate a bound at, and the probability (n,) float64 of each.

    t = 1 + floor(T u^power), with stratified u ~ U(0, 1) in random order. Small stages carry most
    of the bound, and are drawn more often with a power above 1. An estimate divides by the
    probability, so that its expectation does not depend on that.
    """
    order = torch.randperm(n, generator=generator)
    u = (order + torch.rand(n, generator=generator, dtype=torch.float64)) / n
    t = 1 + (process.stages * u**power).long().clamp(max=process.stages - 1)
    share = (torch.stack([t, t - 1]).double() / process.stages) ** (1 / power)
    return t, share[0] - share[1]


@own_mode(gradients=False)
def class_bounds(
    model,
    images: Tensor,
    classes: Sequence[int | Tensor | None] = (None,),
    *,
    samples: int = 16,
    power: float = 2.0,
    seed: int = 0,
    progress: bool = False,
) -> Tensor:
    """The variational bound under each class, estimated at a few stages drawn for every image.

    Unbiased for `bound`'s total, at `samples` network evaluations an image and class in place of T.
    All classes see the same stages and the same Y_t, so that their differences are more certain
    than their values.

    Args:
        model: a `bitnet.BitNet` or `bitflip_exact.Enumerated`.
        images: (n, m) of -1 and +1.
        classes: k of them, each an int or (n,) int64; None for images of any class.
        samples: stages for each image, stratified.
        power: see `draw_stages`.
        seed: of stages and Y_t.
        progress: show a progress bar if standard error is a terminal.

    Returns:
        (n, k) float64, nats per image.

    Raises:
        ValueError: any argument outside what is described here.
    """
    process, images = model.process, check_images(images, model.pixels).to(model.dtype)
    samples = check_count("samples", samples)
    labels = [model.check_labels(given, len(images)) for given in classes]
    generator = torch.Generator().manual_seed(check_seed(seed))
    total = torch.empty(len(images), len(classes), dtype=torch.float64)
    most = max(1, _ROWS // samples)
    hidden = None if progress else True
    for rows in tqdm(torch.arange(len(images)).split(most), "bound", leave=False, disable=hidden):
        stages = [draw_stages(process, samples, generator, power) for _ in rows]
        t, probability = (torch.cat(part) for part in zip(*stages, strict=True))
        y_0 = images[rows].repeat_interleave(samples, dim=0)
        y_t = process.forward(y_0, t, generator)
        for column, given in enumerate(labels):
            if given is not None:
                given = given[rows].repeat_interleave(samples)
            logits = model.logits(y_t, t, given)
            kl = process.kl(logits, y_0, y_t, t).double() / probability
            total[rows, column] = kl.reshape(-1, samples).mean(dim=1)
    return total + process.prior_kl() * model.pixels


def classify(
    model,
    images: Tensor,
    *,
    rounds: Sequence[tuple[int, int]] = ((10, 16), (3, 48), (2, 128)),
    seed: int = 0,
    progress: bool = False,
) -> tuple[Tensor, Tensor]:
    """The likeliest class of images (n, m) by Bayes, all classes being equally likely before.

    Args:
        model: a `bitnet.BitNet` with classes.
        rounds: how many of the likeliest classes are looked at, and at how many more stages.
        seed: of stages and Y_t.
        progress: show a progress bar if standard error is a terminal.

    Returns:
        (n,) int64, and the bounds (n, classes) of the first round, nats per image.

    Raises:
        ValueError: the model has no classes, or images outside what is described here.
    """
    if not model.num_classes:
        raise ValueError("a model without classes cannot tell them apart")
    options = {"power": 1.5, "progress": progress}  # classes differ at larger stages
    done, first = 0, None
    every = torch.arange(model.num_classes).expand(len(images), -1)
    bounds = torch.zeros(every.shape, dtype=torch.float64)
    for number, (keep, samples) in enumerate(rounds):
        best = bounds.topk(keep, largest=False).indices if number else every
        found = class_bounds(
            model, images, list(best.T), samples=samples, seed=seed + number, **options
        )
        mean = (done * bounds.gather(1, best) + samples * found) / (done + samples)
        bounds = torch.full_like(bounds, math.inf).scatter(1, best, mean)
        first = bounds if first is None else first
        done += samples
    return bounds.argmin(dim=1), first
