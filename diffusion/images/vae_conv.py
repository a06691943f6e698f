"""The convolutional pair of networks for a VAE of 28 x 28 images."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import elu, pixel_shuffle, pixel_unshuffle

_CODE = 256  # units between the convolutions and the latent space


class _Residual(nn.Module):
    """x + a 3 x 3 convolution of what a first one finds."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(elu(self.first(elu(x))))


class ConvEncoder(nn.Module):
    """Images (n, 784) -> (n, outputs): convolutions at scales 1/2 and 1/4, a hidden layer."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.input_layer = nn.Conv2d(4, width, 3, padding=1)
        self.down = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.coarse = _Residual(2 * width)
        self.code = nn.Linear(2 * width * 49, _CODE)
        self.output_layer = nn.Linear(_CODE, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = pixel_unshuffle(x.reshape(-1, 1, 28, 28), 2)  # (n, 4, 14, 14)
        x = self.down(elu(self.input_layer(x)))  # (n, 2 width, 7, 7)
        x = elu(self.coarse(x))
        return self.output_layer(elu(self.code(x.flatten(1))))


class ConvDecoder(nn.Module):
    """Latent points (n, inputs) -> (n, 784): the encoder's way back."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.code = nn.Linear(inputs, _CODE)
        self.input_layer = nn.Linear(_CODE, 2 * width * 49)
        self.up = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.middle = _Residual(width)
        self.output_layer = nn.Conv2d(width, 4, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        x = self.input_layer(elu(self.code(z))).reshape(-1, 2 * self.width, 7, 7)
        x = self.middle(elu(self.up(elu(x))))  # (n, width, 14, 14)
        return pixel_shuffle(self.output_layer(elu(x)), 2).reshape(len(z), -1)
