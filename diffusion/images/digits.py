"""Binary digits of 28 x 28 pixels, drawn with matplotlib's own font, for the bit-flip diffusion.

Each image is one digit of DejaVu Sans, rotated, scaled, shifted and thickened at random, and black
or white at every pixel: ink is +1, paper -1.
"""

from __future__ import annotations

import math

import torch
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.font_manager import FontProperties
from matplotlib.path import Path
from matplotlib.textpath import TextPath
from matplotlib.transforms import Affine2D
from torch import Tensor

from diffusion.checks import check_count

SIDE = 28
SHAPE = (SIDE, SIDE)
NUM_CLASSES = 10

_LARGEST_ROTATION = math.radians(15)
_HEIGHTS = (15.0, 20.0)  # of the digit, pixels
_LARGEST_SHIFT = 3.0  # of its centre, pixels
_LARGEST_STROKE = 1.5  # added to the width of its lines, pixels


def digits(n: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Draw n digits; other seeds give other images.

    Returns:
        images (n, 784) float32 in {-1, +1}, rows of pixels from the top; labels (n,) int64 in 0..9.

    Raises:
        ValueError: n is not a whole number of at least 1.
    """
    check_count("n", n)
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(NUM_CLASSES, (n,), generator=generator)
    settings = torch.rand(n, 5, generator=generator, dtype=torch.float64).tolist()
    outlines = [_outline(str(digit)) for digit in range(NUM_CLASSES)]
    images = [
        _draw(outlines[label], *setting)
        for label, setting in zip(labels.tolist(), settings, strict=True)
    ]
    return torch.stack(images), labels


def _outline(character: str) -> Path:
    """The character's outline, of height 1 and centred on the origin."""
    path = TextPath((0, 0), character, size=100, prop=FontProperties(family="DejaVu Sans"))
    box = path.get_extents()
    centre = (box.min + box.max) / 2
    return path.transformed(Affine2D().translate(*-centre).scale(1 / box.height))


def _draw(outline: Path, rotation: float, size: float, right: float, up: float, stroke: float):
    """One image (784,) for five numbers in [0, 1]."""
    low, high = _HEIGHTS
    place = (
        Affine2D()
        .rotate((2 * rotation - 1) * _LARGEST_ROTATION)
        .scale(low + (high - low) * size)
        .translate(
            SIDE / 2 + (2 * right - 1) * _LARGEST_SHIFT, SIDE / 2 + (2 * up - 1) * _LARGEST_SHIFT
        )
    )
    canvas = RendererAgg(SIDE, SIDE, 72)  # one point is one pixel
    pen = canvas.new_gc()
    pen.set_linewidth(stroke * _LARGEST_STROKE)
    pen.set_foreground((0, 0, 0))
    canvas.draw_path(pen, outline, place, (0, 0, 0))
    coverage = torch.frombuffer(bytearray(canvas.buffer_rgba()), dtype=torch.uint8)
    return torch.where(coverage[3::4] >= 128, 1.0, -1.0)
