"""The stages that a bound is estimated at, and the learning rate of a run of open length."""

from __future__ import annotations

import pytest
import torch

from diffusion.images import bitflip
from diffusion.images.bitflip import BitFlip
from diffusion.images.bitnet import BitNet, BitTraining

DECAY = 1.0  # under which no stage is rare


def cumulative(process: BitFlip) -> torch.Tensor:
    """P(stage <= t) for t in 0..stages, from a draw of every stage."""
    t, probability = bitflip.draw_stages(process, 20_000, torch.Generator().manual_seed(1), DECAY)
    each = torch.zeros(process.stages + 1, dtype=torch.float64)
    each[t] = probability
    assert each.sum().item() == pytest.approx(1, abs=1e-9)
    return each.cumsum(dim=0)


@pytest.mark.parametrize("strata", [1, 3, 8])
def test_every_image_has_a_stage_in_each_of_equal_parts(strata, generator):
    process = BitFlip(0.05, 50)
    below = cumulative(process)
    t, _ = bitflip.draw_stages(process, 400, generator, DECAY, strata)
    t = t.reshape(400, strata)
    part = torch.arange(strata)
    assert (below[t] >= part / strata - 1e-9).all()
    assert (below[t - 1] <= (part + 1) / strata + 1e-9).all()
    # In a part the stages of all images are spread again: no share is off by more than an image
    # at either end of the part.
    for stage in range(1, 51):
        p = (below[stage] - below[stage - 1]).item()
        assert abs((t == stage).sum().item() - 400 * strata * p) <= 2 * strata


def training(epochs: int, cooldown: int | None) -> BitTraining:
    generator = torch.Generator().manual_seed(0)
    model = BitNet(BitFlip(0.05, 20), (3, 3), width=8, generator=generator)
    images = bitflip.coins((40, 9), generator)
    return BitTraining(model, images, epochs=epochs, learning_rate=1e-2, cooldown=cooldown)


def test_the_rate_is_constant_and_falls_to_zero_in_the_last_updates():
    rates = [training(200, 40)._rate(done) for done in range(200)]
    assert rates[49:161] == [1.0] * 112
    falls = torch.tensor(rates[160:]).diff()
    torch.testing.assert_close(falls, torch.full_like(falls, -1 / 40))
    assert rates[-1] == pytest.approx(1 / 40)
    with pytest.raises(ValueError, match="cooldown must be a whole number"):
        training(200, 0)


def test_how_long_a_run_lasts_can_be_left_open():
    short, long = training(30, 20), training(90, 20)
    for _ in range(10):
        assert short.epoch() == long.epoch()
    long.epochs = 30
    for name, tensor in long.run().state_dict().items():
        assert torch.equal(tensor, short.run().state_dict()[name])
