"""A small convolutional classifier of MNIST: the yardstick that samples of every model are held to.

It is trained on grey and on binarised images alike, because models of both kinds are measured.
"""

from __future__ import annotations

from diffusion import startup

if __name__ == "__main__":
    startup.prepare("python -m diffusion.images.classifier")  # before the imports that take seconds

import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, max_pool2d, relu

from diffusion.checks import check_count, own_mode
from diffusion.files import check_file
from diffusion.images import mnist
from diffusion.images.model import ImageModel, building, check_images, initialise
from diffusion.images.training import BatchTraining
from diffusion.parser import Parser
from diffusion.training import TrainingError

PROG = "python -m diffusion.images.classifier"
FEATURES = 64  # units of the last hidden layer
_ROWS = 1000  # images evaluated at once


class Classifier(ImageModel):
    """Three convolutions with pooling, one hidden layer, ten classes.

    Args:
        width: channels of the first convolution; the others have twice as many.
        losses: of a training run; see `ImageModel`.
        generator: of the initial weights.
    """

    KIND = "diffusion.images.Classifier"
    num_classes = mnist.NUM_CLASSES
    pixels = mnist.PIXELS

    @building()
    def __init__(
        self,
        *,
        width: int = 32,
        losses: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(losses)
        self.width = width = check_count("width", width)
        self.first = nn.Conv2d(1, width, 5, stride=2, padding=2)
        self.second = nn.Conv2d(width, 2 * width, 3, padding=1)
        self.third = nn.Conv2d(2 * width, 2 * width, 3, padding=1)
        self.hidden = nn.Linear(2 * width * 9, FEATURES)
        self.output_layer = nn.Linear(FEATURES, self.num_classes)
        initialise(self, generator)

    def config(self) -> dict:
        return {"width": self.width}

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (n, 10) and features (n, 64), the last hidden layer, of images (n, 784) in [0, 1].

        Raises:
            ValueError: images of another size or other values.
        """
        x = check_images(x, self.pixels, "x").to(self.losses).reshape(-1, 1, *mnist.SHAPE)
        x = relu(self.first(x))  # (n, width, 14, 14)
        x = max_pool2d(relu(self.second(x)), 2)  # (n, 2 width, 7, 7)
        x = max_pool2d(relu(self.third(x)), 2)  # (n, 2 width, 3, 3)
        features = relu(self.hidden(x.flatten(1)))
        return self.output_layer(features), features


class ClassifierTraining(BatchTraining):
    """Cross-entropy; every image moved by up to two pixels, half of them binarised."""

    SHIFT = 2  # pixels at most, each way

    def _loss(self, images: Tensor, labels: Tensor) -> Tensor:
        moved = self._moved(images)
        half = len(moved) // 2
        drawn = mnist.binarise(moved[:half], generator=self.generator)
        logits, _ = self.model(torch.cat([drawn, moved[half:] / 255]))
        return cross_entropy(logits, labels)

    def _moved(self, images: Tensor) -> Tensor:
        """Images (n, 784) shifted, each by its own draw, over a margin of paper."""
        n, (height, width), most = len(images), mnist.SHAPE, self.SHIFT
        wide = nn.functional.pad(images.reshape(n, height, width), [most] * 4)
        down, right = torch.randint(2 * most + 1, (2, n, 1), generator=self.generator)
        rows = (down + torch.arange(height))[:, :, None]
        columns = (right + torch.arange(width))[:, None, :]
        return wide[torch.arange(n)[:, None, None], rows, columns].reshape(n, -1)


@own_mode(gradients=False)
def evaluate(model: Classifier, images: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (n, 10) and features (n, 64) of images (n, 784) in [0, 1], a part at a time."""
    images = check_images(images, model.pixels)
    parts = [model(rows) for rows in images.split(_ROWS)]
    logits, features = zip(*parts, strict=True)
    return torch.cat(logits), torch.cat(features)


def load(path: str | Path) -> Classifier:
    """Read a classifier that its `save` wrote; it comes back in eval mode.

    Raises:
        WeightsError (a ValueError): the file is missing, damaged, or of another model.
    """
    return Classifier.load(path)


def main(argv: list[str] | None = None) -> int:
    """Train and save by the command line; returns the exit code."""
    return startup.conclude(PROG, lambda: _train_as_asked(argv), errors=(TrainingError,))


def _train_as_asked(argv: list[str] | None) -> None:
    parser = Parser(
        PROG, description="Train the classifier that samples of digits are judged by."
    )
    parser.add_argument("--out", type=Path, required=True, metavar="PATH", help="file to write")
    args = parser.parse_args(argv)
    check_file(args.out)
    images, labels = mnist.load("train")
    model = Classifier(generator=torch.Generator().manual_seed(0))
    training = ClassifierTraining(model, images, labels, epochs=5000, learning_rate=2e-3)
    training.run(progress=True).save(args.out)
    print(f"wrote {args.out}")


if __name__ == "__main__":
    sys.exit(main())
