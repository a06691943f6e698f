"""Which weights a script takes: those of points that lie and spread as the ones it asks about."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import diffusion
from diffusion import data
from diffusion.studies.parts import recipe

WEIGHTS = Path(__file__).parents[2] / "weights"


def written(path, points, labels=None, num_classes=0):
    """Weights of a model of the points, which counts as trained."""
    model = diffusion.build(points, labels, num_classes=num_classes, width=8)
    model.losses = torch.ones(3)
    diffusion.save(model, path)
    return path


def test_shipped_weights_are_of_every_sample_of_the_square():
    for n, seed in [(data.MIN_POINTS, seed) for seed in range(20)] + [(data.MAX_POINTS, 0)]:
        points = data.training_points(n, seed=seed)
        model = recipe.load(WEIGHTS / "diffusion_unconditional.pt", points)
        assert model.num_classes == 0
        model = recipe.load(
            WEIGHTS / "diffusion_conditional.pt", points, data.class_of(points), data.NUM_CLASSES
        )
        assert model.num_classes == data.NUM_CLASSES


@pytest.mark.parametrize("scale", [1e-6, 1.0, 300.0])
def test_two_small_samples_of_the_same_points_count_as_the_same(scale, tmp_path):
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        one, other = scale * (torch.randn(2, 300, 2, generator=generator) + 5)
        recipe.load(written(tmp_path / "one.pt", one), other)


@pytest.mark.parametrize(
    "change",
    [
        lambda points: points + torch.tensor([0.0, 0.5]),
        lambda points: points - 300,
        lambda points: points * 2,
        lambda points: points / 2,
        lambda points: points * torch.tensor([1.0, 1.5]),
        lambda points: points * torch.tensor([1.5, 1 / 1.5]),
    ],
)
def test_points_elsewhere_or_of_another_width_are_others(change, tmp_path):
    square = data.training_points()
    for one, other in ((square, change(square)), (change(square), square)):
        path = written(tmp_path / "one.pt", one)
        with pytest.raises(ValueError, match="is of points around") as caught:
            recipe.load(path, other)
        assert "\n" not in str(caught.value)


def test_classes_count_alike_however_many_points_they_have(tmp_path):
    generator = torch.Generator().manual_seed(0)
    few, many = torch.randn(2, 500, 2, generator=generator)
    points = torch.cat([few[:20] + 50, many])
    labels = (torch.arange(len(points)) >= 20).long()
    path = written(tmp_path / "two.pt", points, labels, 2)
    assert recipe.load(path, points, labels, 2).num_classes == 2
    with pytest.raises(ValueError, match="is of points around"):
        recipe.load(path, points - 50 * (1 - labels[:, None]), labels, 2)
