"""The network of the bit-flip diffusion, its training, and its weights files."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from diffusion.checks import as_tensor, check_count, check_labels, check_stage, own_mode
from diffusion.files import WeightsError, check_savable, load_weights, save_weights, unwrapped
from diffusion.images import mnist
from diffusion.images.bitflip import draw_stages
from diffusion.images.bitprocess import BitFlip, check_images
from diffusion.images.model import building
from diffusion.images.muon import Muon
from diffusion.images.training import BatchTraining

_KIND = "diffusion.BitNet"
_WAVES = 32  # features of the stage
_EMBEDDING = 64  # length of the vector that stands for stage and class
_DENSE_PIXELS = 64  # images of at most so many pixels get a fully connected network


class BitNet(nn.Module):
    """Log-odds of P(Y_0 = +1 | Y_t), of which the sigmoid is the probability.

    By Bayes these are the log-odds given all *other* pixels plus the pixel's own evidence,
    y_t log((1 + c^t) / (1 - c^t)), which is known. The network adds what the others say. Images of
    at most 64 pixels get a fully connected one; larger ones a convolutional one at two scales,
    1/2 and 1/4, whose blocks are scaled and shifted by stage and class (Perez et al. 2018, FiLM).

    With classes, a label may be withheld: one more embedding stands for "any class".

    Args:
        process: the forward process.
        shape: (height, width) of the images; larger ones than 64 pixels in multiples of 4.
        num_classes: 0 for an unconditional model.
        width: channels at scale 1/2, a multiple of 8 (twice as many at 1/4), or hidden units.
        blocks: of the convolutional network at scale 1/2, on each side of those at 1/4.
        losses: see below.
        generator: of the initial weights.

    Attributes:
        losses: (epochs,) float32, the loss of every update; empty before training.
        precision: what the network computes in: float32, or bfloat16, which is faster where the
            processor knows it and has three digits. Not saved.

    Raises:
        ValueError: a shape or width that is not as described.
    """

    @building()
    def __init__(
        self,
        process: BitFlip,
        shape: tuple[int, int],
        *,
        num_classes: int = 0,
        width: int = 48,
        blocks: int = 1,
        losses: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        shape = check_count("height", shape[0]), check_count("width", shape[1])
        width, num_classes = check_count("channels", width), check_count("classes", num_classes, 0)
        self.process, self.shape, self.blocks = process, shape, check_count("blocks", blocks)
        self.num_classes, self.width = num_classes, width
        self.precision = torch.float32
        self.register_buffer("losses", torch.empty(0) if losses is None else losses.float())
        self.stage_embedding = nn.Sequential(
            nn.Linear(_WAVES, _EMBEDDING), nn.SiLU(), nn.Linear(_EMBEDDING, _EMBEDDING)
        )
        self.class_embedding = nn.Embedding(num_classes + 1, _EMBEDDING) if num_classes else None
        if self.pixels <= _DENSE_PIXELS:
            self.trunk = _Dense(self.pixels, width)
        elif shape[0] % 4 or shape[1] % 4 or width % 8:
            raise ValueError(
                f"images of more than {_DENSE_PIXELS} pixels need sides in multiples of 4 and "
                f"channels in multiples of 8, not {shape[0]} x {shape[1]} and {width}"
            )
        else:
            self.trunk = _Convolutional(self.shape, width, blocks)
        self._initialise(generator)

    def _initialise(self, generator: torch.Generator | None) -> None:
        generator = generator or torch.Generator()
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
                bound = 1 / math.sqrt(module.weight[0].numel())
                nn.init.uniform_(module.weight, -bound, bound, generator=generator)
                nn.init.uniform_(module.bias, -bound, bound, generator=generator)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, generator=generator)
        # Start from the pixel's own evidence alone.
        nn.init.zeros_(self.trunk.output_layer.weight)
        nn.init.zeros_(self.trunk.output_layer.bias)

    def check_savable(self) -> None:
        """As `ImageModel.check_savable`."""
        config = self.config()
        process = BitFlip(config.pop("delta"), config.pop("stages"))
        check_savable(self, BitNet(process, tuple(config.pop("shape")), **config))

    def config(self) -> dict:
        """What, beside the tensors, it takes to build the model again."""
        return {
            "delta": self.process.delta,
            "stages": self.process.stages,
            "shape": list(self.shape),
            "num_classes": self.num_classes,
            "width": self.width,
            "blocks": self.blocks,
        }

    @property
    def pixels(self) -> int:
        return self.shape[0] * self.shape[1]

    @property
    def device(self) -> torch.device:
        return self.losses.device

    @property
    def dtype(self) -> torch.dtype:
        return self.losses.dtype

    def check_labels(self, labels: int | Tensor | None, n: int) -> Tensor | None:
        """Labels as (n,) int64, num_classes where none is given; None for an unconditional model.

        Raises:
            ValueError: out of range, of the wrong shape, or given where there are none.
        """
        if self.num_classes and labels is None:
            return torch.full((n,), self.num_classes, device=self.device)
        return check_labels(labels, n, self.num_classes, self.device)

    def forward(self, y_t: Tensor, t: int | Tensor, labels: int | Tensor | None = None) -> Tensor:
        """P(Y_0 = +1 | Y_t = y_t).

        Args:
            y_t: (n, m) of -1 and +1, m the pixels the network was built for.
            t: stage in 1..stages, one for all images or (n,) int64.
            labels: class of each image, an int or (n,) int64; None for any class.

        Returns:
            (n, m) probabilities.

        Raises:
            ValueError: anything outside that.
        """
        y_t = check_images(y_t, self.pixels, "y_t").to(self.dtype)
        t = check_stage(t, 1, self.process.stages)
        if t.ndim and t.shape != (len(y_t),):
            raise ValueError(f"t must be one stage or {len(y_t)}, not shape {tuple(t.shape)}")
        return torch.sigmoid(self.logits(y_t, t, self.check_labels(labels, len(y_t))))

    def logits(self, y_t: Tensor, t: int | Tensor, labels: Tensor | None = None) -> Tensor:
        """Log-odds of Y_0 = +1, (n, m); arguments as `check_labels` and `forward` leave them."""
        t = torch.as_tensor(t, device=y_t.device).reshape(-1)
        # The square root spreads the first stages, where most of the bound lies.
        waves = torch.arange(_WAVES, device=y_t.device) * math.pi
        place = torch.sqrt(t / self.process.stages)[:, None]
        embedding = self.stage_embedding(torch.cos(waves * place).to(y_t))  # (1 or n, _EMBEDDING)
        if labels is not None:
            embedding = embedding + self.class_embedding(labels)
        evidence = self.process.evidence(t).reshape(-1, 1).to(y_t)
        lowered = self.precision != torch.float32
        with torch.autocast(y_t.device.type, self.precision, enabled=lowered):
            others = self.trunk(y_t, silu(embedding))
        return evidence * y_t + others.to(y_t)


class _Dense(nn.Module):
    """Two hidden layers, each scaled and shifted by the embedding."""

    def __init__(self, pixels: int, width: int) -> None:
        super().__init__()
        self.input_layer, self.hidden = nn.Linear(pixels, width), nn.Linear(width, width)
        self.scale_shift = nn.Linear(_EMBEDDING, 4 * width)
        self.output_layer = nn.Linear(width, pixels)

    def forward(self, y: Tensor, embedding: Tensor) -> Tensor:
        scale_1, shift_1, scale_2, shift_2 = self.scale_shift(embedding).chunk(4, dim=1)
        hidden = silu(self.input_layer(y) * (1 + scale_1) + shift_1)
        return self.output_layer(silu(self.hidden(hidden) * (1 + scale_2) + shift_2))


class _Block(nn.Module):
    """Residual block: norm, scale and shift, two 3 x 3 convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, channels)
        self.scale_shift = nn.Linear(_EMBEDDING, 2 * channels)
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.scale_shift(embedding)[:, :, None, None].chunk(2, dim=1)
        hidden = silu(self.norm(x) * (1 + scale) + shift)
        return x + self.second(silu(self.first(hidden)))


class _Convolutional(nn.Module):
    """Blocks at scale 1/2, four at 1/4, and as many at 1/2 again with what the first ones saw."""

    def __init__(self, shape: tuple[int, int], width: int, blocks: int) -> None:
        super().__init__()
        self.shape = shape
        height, breadth = shape[0] // 2, shape[1] // 2
        self.input_layer = nn.Conv2d(4, width, 3, padding=1)
        self.position_embedding = nn.Parameter(torch.zeros(width, height, breadth))
        self.first = _Block(width)
        self.down = nn.Conv2d(width, 2 * width, 2, stride=2)
        self.coarse = nn.ModuleList(_Block(2 * width) for _ in range(4))
        self.up = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.last = _Block(width)
        self.more_first = nn.ModuleList(_Block(width) for _ in range(blocks - 1))
        self.more_last = nn.ModuleList(_Block(width) for _ in range(blocks - 1))
        self.output_layer = nn.Conv2d(width, 4, 1)

    def forward(self, y: Tensor, embedding: Tensor) -> Tensor:
        x = nn.functional.pixel_unshuffle(y.reshape(-1, 1, *self.shape), 2)  # (n, 4, h/2, w/2)
        x = self.input_layer(x) + self.position_embedding
        for block in (self.first, *self.more_first):
            x = block(x, embedding)
        coarse = self.down(x)
        for block in self.coarse:
            coarse = block(coarse, embedding)
        x = x + self.up(coarse)
        for block in (self.last, *self.more_last):
            x = block(x, embedding)
        return nn.functional.pixel_shuffle(self.output_layer(silu(x)), 2).reshape(len(y), -1)


class BitTraining(BatchTraining):
    """Training on the variational bound, with Muon; see `BatchTraining` for the rest.

    The loss estimates the bound without its constant prior term, in bits per pixel: for every
    image of a batch one stage t with KL(P(Y_{t-1} | Y_t, Y_0) || Q_t(Y_t)) over the probability
    of t; see `bitflip.draw_stages`.

    Args:
        model: trained in place.
        images: (n, m) of -1 and +1, or uint8 grey values, whose pixels are drawn afresh for every
            batch.
        labels: (n,) int64, for a model with classes.
        unlabelled: share of labels that is withheld, for images of any class (Ho and Salimans
            2022).
        cooldown: updates in which the learning rate falls to zero on a line, the last ones; it is
            constant before, so that how long a run lasts can be left open (Hagele et al. 2024).
            None: it falls along a cosine all the time.
        options: batch_size, epochs, learning_rate, ema_decay, seed of `BatchTraining`.

    Raises:
        ValueError: images of another size, other values, options out of range, or a model that no
            weights file could hold.
    """

    def __init__(
        self,
        model: BitNet,
        images: Tensor,
        labels: Tensor | None = None,
        *,
        batch_size: int = 64,
        unlabelled: float = 0.2,
        cooldown: int | None = None,
        **options,
    ) -> None:
        model, images = unwrapped(model), as_tensor(images)
        if images.dtype != torch.uint8:
            images = check_images(images, model.pixels)
        if not 0 <= unlabelled <= 1:
            raise ValueError(f"unlabelled must be in [0, 1], not {unlabelled}")
        super().__init__(model, images, labels, batch_size=batch_size, **options)
        self.unlabelled = unlabelled
        self.cooldown = None if cooldown is None else check_count("cooldown", cooldown)
        # Kernels between two layers of many channels; the two ends are left to Adam.
        kernels = {
            name: parameter
            for name, parameter in model.named_parameters()
            if parameter.ndim == 4 and not name.endswith("put_layer.weight")
        }
        others = [p for name, p in model.named_parameters() if name not in kernels]
        self.optimizer = Muon(kernels.values(), others, lr=self.learning_rate)

    def _loss(self, images: Tensor, labels: Tensor | None) -> Tensor:
        process, generator = self.model.process, self.generator
        if images.dtype == torch.uint8:
            images = 2 * mnist.binarise(images, generator=generator) - 1
        if labels is not None:
            withheld = torch.rand(len(labels), generator=generator) < self.unlabelled
            labels = labels.masked_fill(withheld, self.model.num_classes)
        t, probability = draw_stages(process, len(images), generator)
        y_t = process.forward(images, t, generator)
        kl = process.kl(self.model.logits(y_t, t, labels), images, y_t, t)
        return (kl / probability.to(kl)).mean() / (self.model.pixels * math.log(2))

    def _rate(self, done: int) -> float:
        if self.cooldown is None:
            return super()._rate(done)
        return min(1.0, (done + 1) / self.WARM_UP, (self.epochs - done) / self.cooldown)

    def _settings(self) -> dict:
        return super()._settings() | {
            "unlabelled": self.unlabelled,
            "cooldown": self.cooldown,
            "precision": str(self.model.precision),
        }


def grown(
    model: BitNet, process: BitFlip, blocks: int, generator: torch.Generator | None = None
) -> BitNet:
    """A copy of a convolutional model for more training, with more blocks and another process.

    The blocks that are added change nothing yet: their last layer is zero (Chen et al. 2016,
    Net2Net). Stages keep their place t / T.

    Raises:
        ValueError: the model has more blocks than that, or is not convolutional.
    """
    if model.pixels <= _DENSE_PIXELS or blocks < model.blocks:
        raise ValueError(f"a network of {model.blocks} blocks cannot grow to {blocks}")
    config = model.config() | {"blocks": blocks, "shape": model.shape}
    del config["delta"], config["stages"]
    result = BitNet(process, **config, losses=model.losses, generator=generator)
    for block in (*result.trunk.more_first, *result.trunk.more_last):
        nn.init.zeros_(block.second.weight)
        nn.init.zeros_(block.second.bias)
    result.load_state_dict(model.state_dict(), strict=False)
    result.precision = model.precision
    return result


def save(model: BitNet, path: str | Path, *, dtype: torch.dtype = torch.float32) -> None:
    """Write weights, architecture and process to one file, atomically.

    A model that `torch.compile`, data parallelism or weight averaging has wrapped is saved as
    itself.

    dtype: of the numbers in the file; float16 halves it and rounds them, `load` gives float32.

    Raises:
        OSError: the file cannot be written; an existing file is then untouched.
        ValueError: `load` could not give this model back; nothing is written.
    """
    model = unwrapped(model)
    model.check_savable()
    state = {name: tensor.to(dtype) for name, tensor in model.state_dict().items()}
    save_weights(path, _KIND, model.config(), state)


@own_mode(gradients=True)
def load(path: str | Path) -> BitNet:
    """Read a model that `save` wrote; it comes back in eval mode.

    Raises:
        WeightsError (a ValueError): the file is missing, truncated, altered, or of another model.
    """
    config, state = load_weights(path, _KIND)
    try:
        process = BitFlip(config.pop("delta"), config.pop("stages"))
        shape = tuple(config.pop("shape"))
        model = BitNet(process, shape, losses=state["losses"], **config)
        model.load_state_dict(state)
    except (KeyError, TypeError, ValueError, RuntimeError):
        raise WeightsError(f"{path} does not fit the architecture that it names") from None
    return model.eval()
