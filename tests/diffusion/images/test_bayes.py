"""Bit flips as a classifier, by Bayes over the classes."""

from __future__ import annotations

import math

import pytest
import torch

from diffusion.images import bitflip
from diffusion.images.bitflip import BitFlip
from diffusion.images.bitnet import BitNet, BitTraining


def network(num_classes: int = 0) -> BitNet:
    generator = torch.Generator().manual_seed(0)
    model = BitNet(
        BitFlip(0.02, 20), (12, 8), width=8, num_classes=num_classes, generator=generator
    )
    torch.nn.init.normal_(model.trunk.output_layer.weight, generator=generator)
    return model


def images_of(model: BitNet, n: int) -> torch.Tensor:
    return bitflip.coins((n, model.pixels), torch.Generator().manual_seed(1))


def test_classes_are_found_by_bayes_over_rounds(generator):
    images = bitflip.coins((3, 9), generator)  # one for each class
    model = BitNet(BitFlip(0.05, 40), (3, 3), num_classes=3, width=32, generator=generator)
    options = {"epochs": 200, "learning_rate": 1e-2, "ema_decay": 0.97}
    trained = BitTraining(model, images, torch.arange(3), **options).run()
    found = bitflip.classify(trained, images, rounds=(20, 20), seed=1)
    assert found.classes.tolist() == [0, 1, 2]
    assert found.bounds.isfinite().all()
    with pytest.raises(ValueError, match="without classes"):
        bitflip.classify(network(), images_of(network(), 2))


def test_classes_that_are_far_behind_get_no_more_stages(monkeypatch):
    model, asked = network(num_classes=3), []
    images = images_of(model, 6)
    exact = torch.stack([bitflip.bound(model, images, k, noise_samples=20).total for k in range(3)])

    def logits(y_t, t, labels):
        asked.append(labels.bincount(minlength=3))
        return BitNet.logits(model, y_t, t, labels)

    monkeypatch.setattr(model, "logits", logits)
    found = bitflip.classify(model, images, rounds=(100, 200, 400), seed=2)
    assert torch.equal(found.classes, exact.argmin(dim=0))
    torch.testing.assert_close(found.bounds, exact.T * 96 * math.log(2), rtol=0.1, atol=0)
    asked = torch.stack(asked).sum(dim=0)
    assert asked.min() < 6 * 700  # of all, in all rounds
    assert torch.equal(found.stages.sum(dim=0), asked)
    assert set(found.stages.flatten().tolist()) <= {100, 300, 700}
    most = found.stages.amax(dim=1, keepdim=True)
    assert torch.equal(found.stages.gather(1, found.classes[:, None]), most)
    asked = []
    bitflip.classify(model, images, rounds=(20,), within=0.0)
    assert torch.stack(asked).sum(dim=0).tolist() == [120, 120, 120]


@pytest.mark.parametrize(
    "options",
    [{"rounds": ()}, {"rounds": 8}, {"rounds": (0,)}, {"rounds": (7,)}, {"rounds": (2.5,)},
     {"within": -1.0}, {"within": math.nan}],
)  # fmt: skip
def test_rounds_are_even_and_errors_not_negative(options):
    model = network(num_classes=3)
    with pytest.raises(ValueError, match="must be"):
        bitflip.classify(model, images_of(model, 2), **options)


def test_spread_of_differences_between_classes_is_not_underrated():
    model = network(num_classes=3)
    image = images_of(model, 1).repeat(2000, 1)
    labels = [torch.full((2000,), k) for k in range(2)]
    generator = torch.Generator().manual_seed(4)
    values = bitflip._at_drawn_stages(model, image, labels, 8, 1.0, generator)
    difference = values[:, 0] - values[:, 1]
    stated = (difference[:, 0::2] - difference[:, 1::2]).square().sum(dim=1).mean()
    # All images are one: in every part their stages are stratified, which lessens the spread of
    # the mean of all, not that of each.
    spread = difference.sum(dim=1).var()
    assert 0.9 * spread < stated < 2 * spread
