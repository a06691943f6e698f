"""The digits that the project draws, and what their code lengths are compared with."""

from __future__ import annotations

import math
import zlib

import numpy as np
import pytest
import torch

from diffusion.bitflip_demo import HELD_OUT_SEED, compressors, independent_pixels
from diffusion.images.digits import NUM_CLASSES, SIDE, _draw, _outline, digits


def test_same_seed_same_digits_and_other_seeds_others():
    before = torch.get_rng_state()
    images, labels = digits(300, seed=3)
    again, same = digits(300, seed=3)
    assert torch.equal(images, again)
    assert torch.equal(labels, same)
    held_out, _ = digits(300, seed=HELD_OUT_SEED)
    assert (images @ held_out.T).max() < SIDE * SIDE
    assert torch.equal(before, torch.get_rng_state())


def test_digits_are_binary_whole_and_of_every_class():
    images, labels = digits(300)
    assert images.shape == (300, SIDE * SIDE)
    assert images.dtype == torch.float32
    assert images.unique().tolist() == [-1, 1]
    assert labels.unique().tolist() == list(range(NUM_CLASSES))
    border = images.reshape(-1, SIDE, SIDE).clone()
    border[:, 1:-1, 1:-1] = -1
    # Nothing is cut off, but for a few corners of the largest at the farthest.
    assert (border > 0).any(dim=2).any(dim=1).double().mean() < 0.02
    assert len(images.unique(dim=0)) == 300


def ink(character: str, **setting: float) -> np.ndarray:
    """Places (k, 2) of the ink, to the right and up, of a digit that is 1/2 in all but setting."""
    numbers = dict.fromkeys(("rotation", "size", "right", "up", "stroke"), 0.5) | setting
    drawn = _draw(_outline(character), **numbers)
    row, column = np.nonzero(drawn.reshape(SIDE, SIDE).numpy() > 0)
    return np.stack([column, SIDE - 1 - row], axis=1)


def slope(character: str, rotation: float) -> float:
    """Angle of the long axis of the ink, in degrees anticlockwise from the right."""
    (xx, xy), (_, yy) = np.cov(ink(character, rotation=rotation).T)
    return math.degrees(math.atan2(2 * xy, xx - yy) / 2) % 180


@pytest.mark.parametrize("character", "0123456789")
def test_every_setting_does_to_the_digit_what_it_says(character):
    # 3 pixels to either side, whole ones from the middle
    for axis, name in enumerate(("right", "up")):
        for share, shift in ((0, -3), (1, 3)):
            moved, expected = ink(character, **{name: share}), ink(character)
            expected[:, axis] += shift
            assert sorted(map(tuple, moved)) == sorted(map(tuple, expected))
    amounts = [len(ink(character, stroke=stroke)) for stroke in (0, 0.5, 1)]
    assert amounts == sorted(set(amounts))
    for size, height in ((0, 15), (1, 20)):
        drawn = ink(character, size=size, stroke=0)[:, 1]
        assert abs(drawn.max() - drawn.min() + 1 - height) <= 1


@pytest.mark.parametrize("character", "017")
def test_digits_are_rotated_by_15_degrees_to_either_side(character):
    low, middle, high = (slope(character, rotation) for rotation in (0, 0.5, 1))
    # A pixel's error at the end of 17 pixels is 3 degrees.
    assert middle - low == pytest.approx(15, abs=3)
    assert high - middle == pytest.approx(15, abs=3)


def test_classes_differ_more_than_their_members():
    images, labels = digits(2000)
    means = torch.stack([images[labels == k].mean(dim=0) for k in range(NUM_CLASSES)])
    others, truth = digits(500, seed=1)
    nearest = torch.cdist(others, images).argmin(dim=1)
    assert (labels[nearest] == truth).double().mean() > 0.9
    assert torch.pdist(means).min() > 1


@pytest.mark.parametrize("n", [0, -1, 2.5, True])
def test_a_number_of_digits_is_whole_and_positive(n):
    with pytest.raises(ValueError, match="n must be a whole number"):
        digits(n)


def test_independent_pixels_by_hand():
    data = torch.tensor([[1.0, -1.0], [1.0, -1.0], [-1.0, -1.0]])
    # (counts + 1/2) / 4: 5/8 and 1/8
    expected = -(np.log2(5 / 8) + np.log2(7 / 8)) / 2
    assert independent_pixels(data, data[:1]) == pytest.approx(expected)


def test_compressed_sizes_are_of_files_that_hold_the_images():
    data, images = (digits(40, seed=seed)[0] for seed in (0, 1))
    sizes = compressors(data, images)
    packed = np.packbits((images > 0).numpy(), axis=1).tobytes()
    assert len(packed) == 40 * 98
    bits = 8 * len(zlib.compress(packed, 9)) / images.numel()
    assert sizes["zlib, 1 bit per pixel"] == bits
    assert sizes["zlib, 1 bit per pixel, each alone"] > bits
    assert sizes["PNG, each alone"] > sizes["PNG sheet"]
    assert all(0 < size < 2 for size in sizes.values())
    # Given the very images as dictionary there is next to nothing left to say.
    assert compressors(images, images)["zlib, 1 bit per pixel, with a dictionary"] < 0.02
