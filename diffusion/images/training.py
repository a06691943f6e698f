"""Training on random batches of images, or of anything else that comes in rows."""

from __future__ import annotations

import torch
from torch import Tensor

from diffusion.checks import as_tensor, check_count, check_range
from diffusion.files import unwrapped
from diffusion.training import Training


class BatchTraining(Training):
    """One update a random batch; see `Training` for the rest. Subclasses say what is minimised.

    Args:
        model: trained in place; an `ImageModel`.
        images: (n, m), m the pixels of the model: uint8 grey values, or floating-point rows that
            are used as they are; a tensor, an array or lists.
        labels: (n,) whole numbers, for a model with classes.
        epochs: number of updates, one batch each.
        batch_size: rows in a batch, drawn with replacement.
        options: learning_rate, ema_decay, seed of `Training`.

    Raises:
        ValueError: images of another size or type, labels or options out of range, or a model
            that no weights file could hold.
    """

    def __init__(
        self,
        model,
        images: Tensor,
        labels: Tensor | None = None,
        *,
        batch_size: int = 100,
        **options,
    ) -> None:
        model, images = unwrapped(model), as_tensor(images, "training images").detach()
        if images.ndim != 2 or images.shape[1] != model.pixels or not len(images):
            raise ValueError(
                f"training images must have shape (n, {model.pixels}), not {tuple(images.shape)}"
            )
        if images.dtype != torch.uint8:
            if not images.is_floating_point():
                raise ValueError(f"training images must be uint8 grey values, not {images.dtype}")
            images = check_range(images.to(model.dtype), "the training images")
        model.check_savable()
        self.batch_size = check_count("batch_size", batch_size)
        super().__init__(model, images, labels, noise_samples=1, **options)

    def _batch(self) -> tuple[Tensor, Tensor | None]:
        pick = torch.randint(len(self.points), (self.batch_size,), generator=self.generator)
        return self.points[pick], None if self.labels is None else self.labels[pick]

    def _settings(self) -> dict:
        return super()._settings() | {"batch_size": self.batch_size}
