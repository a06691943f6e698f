"""What code lengths of images are compared with."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
import torch

from diffusion.images.digits import digits
from diffusion.images.measures import compressors, independent_pixels


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
