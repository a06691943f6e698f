"""The trainings that `python -m tests.benchmarks.images` can time, by the names of their files."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from diffusion.cli import Study
from diffusion.images import mnist, vae
from diffusion.studies import bitflip as bitflip_study
from diffusion.studies import gan as gan_study
from diffusion.studies import vae as vae_study
from diffusion.training import Training


def _defaults(study: Study, precision: str) -> argparse.Namespace:
    options = {option.name: option.default for option in study.options}
    return argparse.Namespace(**options | {"precision": precision})


VAES = _defaults(vae_study.STUDY, "float32")


class AdamTraining(vae.VAETraining):
    """Adam for all weights, in place of the recipe's Muon for some."""

    def __init__(self, model: vae.VAE, images: Tensor, **options) -> None:
        super().__init__(model, images, **options)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=self.learning_rate)


class SheetsOptimiser(AdamTraining):
    """Adam at a constant rate, as the sheet has it."""

    def _rate(self, done: int) -> float:
        return 1.0


def _adam(kind: type[AdamTraining], rate: float, precision: str) -> AdamTraining:
    model = vae.VAE(generator=torch.Generator().manual_seed(0))
    images, _ = mnist.load("train")
    return kind(model, images, epochs=VAES.epochs, learning_rate=rate, seed=0)


# Each takes the precision, which those of VAEs do not heed.
TRAININGS: dict[str, Callable[[str], Training]] = {
    "bitflip": lambda p: bitflip_study.digits_training(_defaults(bitflip_study.STUDY, p)),
    "vae_conv": lambda p: vae_study.conv_training(VAES.conv_epochs, 0),
    "gan": lambda p: gan_study.digits_training(_defaults(gan_study.STUDY, p)),
    "vae_adam": partial(_adam, SheetsOptimiser, 1e-3),
    "vae_adam_cosine": partial(_adam, AdamTraining, 1e-3),
    "vae_adam_rate": partial(_adam, AdamTraining, 4e-3),
    **{
        f"vae_{k}": lambda p, k=k: vae_study.sheet_training(VAES.epochs, k)
        for k in range(VAES.runs)
    },
}
