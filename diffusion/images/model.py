"""What the models of images have in common: where they live, their losses, their weights files."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from diffusion.checks import as_tensor, check_labels, own_mode
from diffusion.files import WeightsError, check_savable, load_weights, save_weights


@contextmanager
def building() -> Iterator[None]:
    """Decorates a constructor: layers draw weights of their own, which `initialise` replaces.

    Neither moves the global random state, nor depends on the caller's modes.
    """
    with torch.random.fork_rng(devices=[]), own_mode(gradients=True):
        yield


class ImageModel(nn.Module):
    """A model of images that can be saved and loaded; its subclasses say what it computes.

    Attributes:
        KIND: what its weights files are called; a file of another kind is refused.
        num_classes: 0 for a model that takes no labels.
        losses: (updates,) float32, the loss of every update; empty before training.
    """

    KIND = ""
    num_classes = 0

    def __init__(self, losses: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("losses", torch.empty(0) if losses is None else losses.float())

    def config(self) -> dict[str, Any]:
        """What, beside the tensors, it takes to build the model again, as JSON could hold it."""
        raise NotImplementedError

    @property
    def device(self) -> torch.device:
        return self.losses.device

    @property
    def dtype(self) -> torch.dtype:
        return self.losses.dtype

    @property
    def parameter_count(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())

    def check_labels(self, labels: int | Tensor | None, n: int) -> Tensor | None:
        """Labels as (n,) int64, or None for a model that takes none.

        Raises:
            ValueError: missing, out of range, of the wrong shape, or given where there are none.
        """
        return check_labels(labels, n, self.num_classes, self.device)

    def save(self, path: str | Path, *, dtype: torch.dtype = torch.float32) -> None:
        """Write weights and architecture to one file, atomically.

        dtype: of the numbers in the file; float16 halves it and rounds them, `load` gives float32.

        Raises:
            OSError: the file cannot be written; an existing file is then untouched.
            ValueError: `load` could not give this model back; nothing is written.
        """
        self.check_savable()
        state = {name: tensor.to(dtype) for name, tensor in self.state_dict().items()}
        save_weights(path, self.KIND, self.config(), state)

    def check_savable(self) -> None:
        """Refuse, before any training, a model that a weights file could not give back.

        Raises:
            ValueError: layers were replaced, added or parametrised after it was built.
        """
        check_savable(self, type(self)(**self.config()))

    @classmethod
    @own_mode(gradients=True)
    def load(cls, path: str | Path) -> Self:
        """Read a model that `save` wrote; it comes back in eval mode.

        Raises:
            WeightsError (a ValueError): the file is missing, truncated, altered, or of another
                model.
        """
        config, state = load_weights(path, cls.KIND)
        try:
            model = cls(losses=state["losses"], **config)
            model.load_state_dict(state)
        except (KeyError, TypeError, ValueError, RuntimeError):
            raise WeightsError(f"{path} does not fit the architecture that it names") from None
        return model.eval()


def initialise(module: nn.Module, generator: torch.Generator | None) -> None:
    """Draw every linear and convolutional layer of a module anew, as PyTorch does by default.

    U(-b, b) with b = 1 / sqrt(inputs of a unit), from the generator, None for one of its own.
    """
    generator = generator or torch.Generator()
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            bound = 1 / math.sqrt(layer.weight[0].numel())
            for parameter in (layer.weight, layer.bias):
                nn.init.uniform_(parameter, -bound, bound, generator=generator)


def check_images(images: Tensor, pixels: int, name: str = "images") -> Tensor:
    """Images (n, pixels) with values in [0, 1], float32: a tensor, an array or lists of them.

    Raises:
        ValueError: otherwise.
    """
    images = as_tensor(images, name)
    if images.ndim != 2 or images.shape[1] != pixels or not len(images):
        raise ValueError(f"{name} must have shape (n, {pixels}), not {tuple(images.shape)}")
    if not ((images >= 0) & (images <= 1)).all():
        raise ValueError(f"{name} must hold values in [0, 1] only")
    return images.float()
