"""Images of 3 x 3 pixels whose 512 probabilities are known, and a model that learns them."""

from __future__ import annotations

import torch
from torch import Tensor

from diffusion.checks import check_seed
from diffusion.images import bitflip_exact
from diffusion.images.bitnet import BitNet, BitTraining
from diffusion.images.bitprocess import BitFlip

PROCESS = BitFlip(delta=0.004, stages=500)


def probabilities() -> Tensor:
    """A 3 x 3 Ising model with random couplings and fields: probabilities of `all_images(9)`."""
    generator = torch.Generator().manual_seed(0)
    x = bitflip_exact.all_images(9).reshape(-1, 3, 3)
    down, right, field = (
        torch.randn(shape, generator=generator, dtype=torch.float64)
        for shape in ((2, 3), (3, 2), (3, 3))
    )
    energy = 0.6 * (down * x[:, 1:] * x[:, :-1]).sum(dim=(1, 2))
    energy += 0.6 * (right * x[:, :, 1:] * x[:, :, :-1]).sum(dim=(1, 2))
    return torch.softmax(energy + 0.3 * (field * x).sum(dim=(1, 2)), dim=0)


def learn(truth: Tensor, samples: int = 400_000, seed: int = 0) -> BitNet:
    """A fully connected network trained on samples of `all_images(9)` with probabilities truth."""
    generator = torch.Generator().manual_seed(check_seed(seed))
    pick = torch.multinomial(truth, samples, replacement=True, generator=generator)
    images = bitflip_exact.all_images(9).float()[pick]
    model = BitNet(PROCESS, (3, 3), width=64, generator=generator)
    return BitTraining(
        model,
        images,
        epochs=2000,
        batch_size=512,
        learning_rate=1e-2,
        ema_decay=0.995,
        seed=seed,
    ).run()


def independent_probabilities(truth: Tensor) -> Tensor:
    """The distribution of 3 x 3 images with the same pixels, made independent."""
    images = bitflip_exact.all_images(9)
    p = truth @ (images > 0).double()
    return torch.where(images > 0, p, 1 - p).prod(dim=1)
