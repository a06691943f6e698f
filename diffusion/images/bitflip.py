"""Bit-flip diffusion of binary images: sampling, and the variational bound.

The process is in `bitprocess`. `predict(y_t, t)` stands for the network's log-odds of
P(Y_0 = +1 | Y_t), with y_t (n, m) and t a stage or (n,) stages. Bounds of one image are sums over
its pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from diffusion.checks import check_count, check_counts, check_number, check_seed, own_mode
from diffusion.images.bitprocess import BitFlip, check_images, coins
from diffusion.progress import bar
from diffusion.sampling import Step, collect, generator_of, reverse

Predict = Callable[[Tensor, int | Tensor], Tensor]

# Network rows evaluated at once: of 64 to 512, as fast as any for digits.
_ROWS = 128

# Of the stages that classes are told apart at: they differ at larger ones. See `draw_stages`.
_DECAY = 3.0
ROUNDS = (8, 16, 32, 64, 128, 256)  # how many of them, round after round


# --- Sampling -----------------------------------------------------------------------------------


def ancestral(predict: Predict, process: BitFlip, generator: torch.Generator) -> Step:
    """Y_{t_next} ~ Q_t(Y_t), as a step of the loop `sampling.reverse` over the stages."""

    def step(y: Tensor, t: int, t_next: int) -> Tensor:
        q = process.reverse_probability(predict(y, t), y, t, t_next)
        return torch.where(torch.rand(y.shape, generator=generator) < q, 1, -1).to(y)

    return step


def visited(stages: int, steps: int | None = None) -> list[int]:
    """The stages T, ..., 0 that a reverse process of so many steps visits: all for None.

    Step i of n ends at T (i / n)^1.5, in whole stages: closer together near 0, where most is
    decided.

    Raises:
        ValueError: steps is not in 1..stages.
    """
    steps = stages if steps is None else check_count("steps", steps)
    if steps > stages:
        raise ValueError(f"steps must be in 1..{stages}, the number of stages, not {steps}")
    return [max(i, round(stages * (i / steps) ** 1.5)) for i in range(steps, -1, -1)]


@own_mode(gradients=False)
def sample(
    model,
    n: int,
    *,
    labels: int | Tensor | None = None,
    steps: int | None = None,
    seed: int | None = None,
    return_trajectory: bool = False,
    progress: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Run the reverse process from fair coins to stage 0, for n images at once.

    Args:
        model: a `bitnet.BitNet` or `bitflip_exact.Enumerated`.
        n: number of images.
        labels: class of each image, an int or (n,) int64; None for images of any class.
        steps: network evaluations, one for each stage that is `visited`; None for all stages.
        seed: None seeds from the system.
        return_trajectory: also return all intermediate images.
        progress: show a progress bar if standard error is a terminal.

    Returns:
        images (n, m), or (images, path) with path (steps + 1, n, m), path[0] the coins.

    Raises:
        ValueError: any argument outside what is described here.
    """
    n = check_count("n", n)
    labels = model.check_labels(labels, n)
    generator = generator_of(seed)
    y = coins((n, model.pixels), generator, model.dtype)
    stages = visited(model.process.stages, steps)

    rows = torch.arange(n).split(_ROWS)

    def predict(y: Tensor, t: int) -> Tensor:
        given = [None if labels is None else labels[part] for part in rows]
        return torch.cat([model.logits(y[part], t, g) for part, g in zip(rows, given, strict=True)])

    images = reverse(ancestral(predict, model.process, generator), y, stages)
    y_t, path = collect(images, y, len(stages) - 1, "bit-flip", return_trajectory, progress)
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
        progress: show how far it is, on standard error.

    Raises:
        ValueError: images, labels or noise_samples outside what is described here.
    """
    process, images = model.process, check_images(images, model.pixels).to(model.dtype)
    labels = model.check_labels(labels, len(images))
    noise_samples = check_count("noise_samples", noise_samples, least=2)
    generator = torch.Generator().manual_seed(check_seed(seed))
    bits = 1 / (model.pixels * math.log(2))
    stages, variances = [], []
    for t in bar(range(1, process.stages + 1), desc="bound", leave=False, shown=progress):
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
    process: BitFlip,
    n: int,
    generator: torch.Generator,
    decay: float = 6.0,
    strata: int = 1,
) -> tuple[Tensor, Tensor]:
    """Stages (n strata,) int64 to estimate bounds at, and the probability float64 of each.

    With probabilities in proportion to x^(-1/2) exp(-decay x^(3/2)), x = t / T: about the share
    that a stage has in the bound of digits. An estimate divides by the probability: its expectation
    does not depend on that choice, its spread does. Each of n images has `strata` stages one after
    the other, one in each of as many equally likely parts; in a part, those of all images are
    stratified again, in random order.
    """
    x = torch.arange(1, process.stages + 1, dtype=torch.float64) / process.stages
    weight = torch.exp(-decay * x**1.5) / x.sqrt()
    probability = weight / weight.sum()
    order = [torch.randperm(n, generator=generator) for _ in range(strata)]
    place = torch.rand(n, strata, generator=generator, dtype=torch.float64)
    u = (torch.stack(order, dim=1) + place) / n
    u = ((torch.arange(strata) + u) / strata).flatten()
    index = torch.searchsorted(probability.cumsum(dim=0), u).clamp(max=process.stages - 1)
    return index + 1, probability[index]


@own_mode(gradients=False)
def class_bounds(
    model,
    images: Tensor,
    classes: Sequence[int | Tensor | None] = (None,),
    *,
    samples: int = 16,
    decay: float = 6.0,
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
        samples: stages for each image, stratified, and among images too.
        decay: see `draw_stages`.
        seed: of stages and Y_t.
        progress: show how far it is, on standard error.

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
    parts = torch.arange(len(images)).split(max(1, _ROWS // samples))
    for rows in bar(parts, desc="bound", leave=False, shown=progress):
        given = [None if every is None else every[rows] for every in labels]
        values = _at_drawn_stages(model, images[rows], given, samples, decay, generator)
        total[rows] = values.mean(dim=2)
    return total + process.prior_kl() * model.pixels


def _at_drawn_stages(
    model,
    images: Tensor,
    labels: Sequence[Tensor | None],
    samples: int,
    decay: float,
    generator: torch.Generator,
    wanted: Tensor | None = None,
) -> Tensor:
    """KL over probability at drawn stages, (n, k, samples) float64 nats, for k labels of images.

    0 where the mask `wanted` (n, k) says that it is not.
    """
    process, n = model.process, len(images)
    t, probability = draw_stages(process, n, generator, decay, samples)
    y_0 = images.repeat_interleave(samples, dim=0)
    y_t = process.forward(y_0, t, generator)
    values = torch.zeros(n, len(labels), samples, dtype=torch.float64)
    for column, given in enumerate(labels):
        picked = torch.arange(n) if wanted is None else wanted[:, column].nonzero()[:, 0]
        if not len(picked):
            continue
        rows = torch.arange(n * samples).reshape(n, samples)[picked].flatten()
        if given is not None:
            given = given[picked].repeat_interleave(samples)
        logits = model.logits(y_t[rows], t[rows], given)
        kl = process.kl(logits, y_0[rows], y_t[rows], t[rows]).double() / probability[rows]
        values[picked, column] = kl.reshape(-1, samples)
    return values


class Likeliest(NamedTuple):
    """What `classify` found for n images.

    classes: (n,) int64, the likeliest ones.
    bounds: (n, num_classes) float64, those of the first round, nats per image.
    stages: (n, num_classes) int64, at how many stages each class was looked at. A class with fewer
    than all that the rounds have was given up before the last one, or the only one left.
    """

    classes: Tensor
    bounds: Tensor
    stages: Tensor


@own_mode(gradients=False)
def classify(
    model,
    images: Tensor,
    *,
    rounds: Sequence[int] = ROUNDS,
    within: float = 3.0,
    seed: int = 0,
    progress: bool = False,
) -> Likeliest:
    """The likeliest class of images (n, m) by Bayes, all classes being equally likely before.

    After every round of stages, classes are given up whose bound is above the best one by more
    than `within` standard errors of the difference; images with one class left are done.

    Args:
        model: a `bitnet.BitNet` with classes.
        rounds: at how many more stages, an even number, the classes that are left are looked at.
        within: see above.
        seed: of stages and Y_t, which all classes of an image share.
        progress: show how far it is, on standard error.

    Raises:
        ValueError: the model has no classes, or anything outside what is described here.
    """
    if not model.num_classes:
        raise ValueError("a model without classes cannot tell them apart")
    rounds = check_counts("rounds", rounds, least=2)
    if not rounds or any(samples % 2 for samples in rounds):
        raise ValueError(f"rounds must be one even number or more, not {rounds}")
    within = check_number("within", within)
    if not within >= 0:
        raise ValueError(f"within must be at least 0, not {within}")
    images = check_images(images, model.pixels).to(model.dtype)
    n, k = len(images), model.num_classes
    generator = torch.Generator().manual_seed(check_seed(seed))
    sums, products = (torch.zeros(shape, dtype=torch.float64) for shape in ((n, k), (n, k, k)))
    left, undecided = torch.ones(n, k, dtype=torch.bool), torch.arange(n)
    done, first, looked = 0, None, torch.zeros(n, k, dtype=torch.int64)
    for samples in rounds:
        parts = undecided.split(max(1, _ROWS // samples))
        for rows in bar(parts, desc=f"{samples} stages", leave=False, shown=progress):
            labels = torch.arange(k)[:, None].expand(k, len(rows))
            values = _at_drawn_stages(
                model, images[rows], labels, samples, _DECAY, generator, left[rows]
            )
            sums[rows] += values.sum(dim=2)
            apart = values[:, :, 0::2] - values[:, :, 1::2]
            products[rows] += apart @ apart.mT
        looked[undecided] += samples * left[undecided]
        done += samples
        first = sums / done if first is None else first
        left[undecided] &= _within_reach(
            sums[undecided], products[undecided], left[undecided], within
        )
        undecided = undecided[left[undecided].sum(dim=1) > 1]
    best = sums.masked_fill(~left, math.inf).argmin(dim=1)
    return Likeliest(best, first + model.process.prior_kl() * model.pixels, looked)


def _within_reach(sums: Tensor, products: Tensor, left: Tensor, within: float) -> Tensor:
    """Which of the classes that are left may yet be the best: (images, k).

    From the sums over stages (images, k) and the products of neighbouring stages' differences
    (images, k, k). Stages are stratified, so that the spread of a sum is that inside the parts: two
    neighbours stand for it, whose squared difference has the variance of both as its mean, or more.
    """
    best = sums.masked_fill(~left, math.inf).argmin(dim=1, keepdim=True)
    above = sums - sums.gather(1, best)
    own = products.diagonal(dim1=1, dim2=2)
    shared = products.gather(2, best[:, :, None].expand(-1, sums.shape[1], 1))[:, :, 0]
    variance = own + own.gather(1, best) - 2 * shared
    return above <= within * variance.clamp(min=0).sqrt()
