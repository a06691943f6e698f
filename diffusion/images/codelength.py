"""Code lengths that an image model is compared with: coins for every pixel, and compressors."""

from __future__ import annotations

import io
import zlib

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from diffusion.images.digits import SHAPE


def independent_pixels(data: Tensor, images: Tensor) -> float:
    """Bits per pixel of images (n, m) when each pixel is a coin, fitted on data (k, m)."""
    p = ((data > 0).double().sum(dim=0) + 0.5) / (len(data) + 1)
    return -torch.where(images > 0, p, 1 - p).log2().mean().item()


def compressors(data: Tensor, images: Tensor) -> dict[str, float]:
    """Bits per pixel of images (n, 784) after general compression, all of them in one file.

    zlib gets one bit or one byte per pixel, whatever suits it; with a dictionary it has seen as
    many of the training images, data (k, 784), as its 32 KiB window holds. The PNG sheet has 1-bit
    pixels and the images below each other; "each alone" is the mean of separate files.
    """
    on = (images > 0).numpy()
    packed, unpacked = (np.packbits(on, axis=1), on.astype(np.uint8))
    known = np.packbits((data[: 2**15 // 98] > 0).numpy(), axis=1).tobytes()
    sizes = {
        "zlib, 1 bit per pixel": len(zlib.compress(packed.tobytes(), 9)),
        "zlib, 1 byte per pixel": len(zlib.compress(unpacked.tobytes(), 9)),
        "zlib, 1 bit per pixel, with a dictionary": _zlib(packed.tobytes(), known),
        "zlib, 1 bit per pixel, each alone": sum(
            len(zlib.compress(row.tobytes(), 9)) for row in packed
        ),
        "PNG sheet": _png(on.reshape(-1, SHAPE[1])),
        "PNG, each alone": sum(_png(row.reshape(SHAPE)) for row in on),
    }
    return {name: 8 * size / images.numel() for name, size in sizes.items()}


def _zlib(content: bytes, known: bytes) -> int:
    compressor = zlib.compressobj(9, zdict=known)
    return len(compressor.compress(content) + compressor.flush())


def _png(on: np.ndarray) -> int:
    buffer = io.BytesIO()
    Image.fromarray(on).save(buffer, format="PNG", optimize=True)
    return len(buffer.getvalue())
