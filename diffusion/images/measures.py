"""How good samples of digits are: distance of their features, classes, sureness, memorisation.

All of them hold samples against real images of the same kind: grey against grey, pixels drawn as
Bernoulli against pixels drawn as Bernoulli.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from diffusion.checks import as_real, as_tensor, check_count, check_labels, own_mode
from diffusion.images.classifier import Classifier, evaluate

SURE = 0.9  # probability of the likeliest class above which the classifier counts as sure
_ROWS = 500  # samples compared with all real images at once


def frechet_distance(features: Tensor, others: Tensor) -> float:
    """Squared Frechet distance of the Gaussians fitted to two sets of features (n, d), (k, d).

    |m_1 - m_2|^2 + tr(S_1 + S_2 - 2 (S_1 S_2)^(1/2)), Dowson and Landau (1982); with the features
    of a classifier, the form of Heusel et al. (2017). In float64.

    Raises:
        ValueError: the sets are not of the same d, or have fewer than two rows.
    """
    features, others = as_real(features, "features"), as_real(others, "features")
    if features.ndim != 2 or others.ndim != 2 or features.shape[1] != others.shape[1]:
        raise ValueError(
            f"features must have shapes (n, d) and (k, d), "
            f"not {tuple(features.shape)} and {tuple(others.shape)}"
        )
    check_count("features", min(len(features), len(others)), least=2)
    features, others = features.double(), others.double()
    apart = (features.mean(dim=0) - others.mean(dim=0)).square().sum()
    first, second = (torch.atleast_2d(values.T.cov()) for values in (features, others))
    # tr (S_1 S_2)^(1/2) from the symmetric R S_2 R with R = S_1^(1/2), which has the same spectrum.
    spectrum, axes = torch.linalg.eigh(first)
    root = axes * spectrum.clamp(min=0).sqrt() @ axes.T
    shared = torch.linalg.eigvalsh(root @ second @ root).clamp(min=0).sqrt().sum()
    return (apart + first.trace() + second.trace() - 2 * shared).item()


def coverage(classes: Tensor, num_classes: int) -> tuple[float, float]:
    """Total variation of class shares from uniform, and what as many fair draws give on average.

    Args:
        classes: (n,) whole numbers in 0..num_classes-1.

    The second number is num_classes / 2 times the mean absolute deviation of a share, normal
    approximation.

    Raises:
        ValueError: they are not, or there are none.
    """
    classes = as_tensor(classes, "classes")
    check_count("the number of samples", classes.numel())
    classes = check_labels(classes, classes.numel(), num_classes, classes.device)
    share = torch.bincount(classes, minlength=num_classes) / len(classes)
    p = 1 / num_classes
    deviation = math.sqrt(2 / math.pi * p * (1 - p) / len(classes))
    return (share - p).abs().sum().item() / 2, num_classes / 2 * deviation


@own_mode(gradients=False)
def nearest_distance(samples: Tensor, images: Tensor) -> Tensor:
    """Euclidean distance of each sample (n, m) to the nearest of the images (k, m): (n,).

    Both may be of any real type; whole numbers are taken as float64.

    Raises:
        ValueError: the sets are not of the same m, or one is empty.
    """
    samples, images = as_real(samples, "samples"), as_real(images, "images")
    sizes = {part.shape[1:] for part in (samples, images)}
    if samples.ndim != 2 or len(sizes) > 1 or not (samples.numel() and images.numel()):
        shapes = f"{tuple(samples.shape)} and {tuple(images.shape)}"
        raise ValueError(f"samples and images must have shapes (n, m) and (k, m), not {shapes}")
    dtype = torch.promote_types(samples.dtype, images.dtype)
    samples, images = samples.to(dtype), images.to(dtype)
    size = images.square().sum(dim=1)
    nearest = [
        (size - 2 * rows @ images.T).min(dim=1).values + rows.square().sum(dim=1)
        for rows in samples.split(_ROWS)
    ]
    return torch.cat(nearest).clamp(min=0).sqrt()


def neighbour_ratio(samples: Tensor, training: Tensor, fresh: Tensor) -> float:
    """Mean distance to the nearest training image over that to the nearest fresh image.

    Near 1 for a model that has learnt the distribution, near 0 for one that recites; the two sets
    of images must be of one size, or the larger one would be nearer by its size alone.

    Raises:
        ValueError: they are not, or as `nearest_distance`.
    """
    if len(training) != len(fresh):
        raise ValueError(f"{len(training)} training images cannot be held to {len(fresh)} fresh")
    near, far = (nearest_distance(samples, images).mean() for images in (training, fresh))
    return (near / far).item()


class Quality(NamedTuple):
    """What `judge` found; see the functions of the same names."""

    frechet: float
    coverage: float
    coverage_of_fair_draws: float
    sure: float


def judge(classifier: Classifier, samples: Tensor, reference: Tensor) -> Quality:
    """Hold samples (n, 784) in [0, 1] to the features (k, d) of reference images.

    `frechet` is the distance of the classifier's features, `coverage` the total variation of the
    classes of the samples from uniform, `sure` the share of samples whose likeliest class has a
    probability above `SURE`.
    """
    logits, features = evaluate(classifier, samples)
    likeliest = logits.softmax(dim=1).max(dim=1)
    return Quality(
        frechet_distance(features, reference),
        *coverage(likeliest.indices, classifier.num_classes),
        (likeliest.values > SURE).double().mean().item(),
    )
