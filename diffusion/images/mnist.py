"""MNIST: loading it, drawing pixels from grey values; `python -m diffusion.images.mnist` builds it.

The training file is cut into 50,000 images for training and the last 10,000 for validation, where
every choice is made; the 10,000 test images only judge what was chosen.
"""

from __future__ import annotations

from diffusion import startup

if __name__ == "__main__":
    startup.prepare("python -m diffusion.images.mnist")  # before the imports that take seconds

import gzip
import hashlib
import http.client
import io
import struct
import sys
import urllib.error
import urllib.request
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from diffusion.checks import as_tensor, check_seed
from diffusion.files import check_file, write_atomically
from diffusion.parser import Parser

PROG = "python -m diffusion.images.mnist"
DATA_DIR = Path(__file__).resolve().parents[2] / "data"
SHAPE = (28, 28)
PIXELS = 28 * 28
NUM_CLASSES = 10
PARTS = ("train", "validation", "test")
URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"

_VALIDATION = 10_000
# The original files, by the name of the array each becomes: SHA-256 of the unpacked content.
_FILES = {
    "train_images": ("train-images-idx3-ubyte.gz", (60_000, 28, 28),
                     "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"),
    "train_labels": ("train-labels-idx1-ubyte.gz", (60_000,),
                     "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"),
    "test_images": ("t10k-images-idx3-ubyte.gz", (10_000, 28, 28),
                    "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"),
    "test_labels": ("t10k-labels-idx1-ubyte.gz", (10_000,),
                    "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"),
}  # fmt: skip
_LARGEST = 64 << 20  # bytes that are unpacked at most
_LEVEL = 7  # of compression: 9 takes eleven times as long for half a percent


class DataError(ValueError):
    """A data file is missing, damaged or not what was expected."""


# --- The shipped file ---------------------------------------------------------------------------


def load(part: str, path: str | Path = DATA_DIR / "mnist.npz") -> tuple[Tensor, Tensor]:
    """Images (n, 784) uint8, 0 paper to 255 ink, rows from the top; labels (n,) int64 in 0..9.

    n is 50,000 for "train", 10,000 for "validation" and for "test".

    Raises:
        ValueError: another part.
        DataError (a ValueError): the file is missing, damaged, or holds other images.
    """
    if part not in PARTS:
        raise ValueError(f"part must be one of {', '.join(PARTS)}, not {part!r}")
    source = "test" if part == "test" else "train"
    images, labels = _arrays(Path(path), (f"{source}_images", f"{source}_labels"))
    rows = {"train": slice(0, -_VALIDATION), "validation": slice(-_VALIDATION, None)}
    rows = rows.get(part, slice(None))
    images = torch.from_numpy(images[rows].reshape(-1, PIXELS).copy())
    return images, torch.from_numpy(labels[rows].astype(np.int64))


def check(path: str | Path = DATA_DIR / "mnist.npz") -> None:
    """Prove the shipped file, before any work that would be lost without it.

    Raises:
        DataError (a ValueError): the file is missing, damaged, or holds other images.
    """
    _arrays(Path(path), tuple(_FILES))


def binarise(images: Tensor, *, seed: int | None = None, generator=None) -> Tensor:
    """Draw every pixel as Bernoulli(grey value / 255).

    Args:
        images: (n, m) uint8 grey values, a tensor or an array.
        seed: of the draws; 0 for the fixed draw of the test images that nats are measured on.
        generator: in place of a seed, a torch.Generator that the draws are taken from.

    Returns:
        (n, m) float32 in {0, 1}.

    Raises:
        ValueError: images of another type, or not exactly one of seed and generator.
    """
    images = as_tensor(images, "images")
    if images.dtype != torch.uint8 or images.ndim != 2:
        raise ValueError(
            "images must be (n, m) uint8 grey values 0..255, "
            f"not {images.dtype} of shape {tuple(images.shape)}"
        )
    if (seed is None) == (generator is None):
        raise ValueError("pixels are drawn with a seed or a generator, exactly one of them")
    if generator is None:
        generator = torch.Generator().manual_seed(check_seed(seed))
    # A draw in 0..254 is below the grey value with probability grey value / 255.
    draw = torch.randint(255, images.shape, generator=generator, dtype=torch.uint8)
    return (draw < images).float()


def _arrays(path: Path, names: tuple[str, ...]) -> list[np.ndarray]:
    """Arrays of the shipped file, proven by the checksums of the files that they came from."""
    rebuild = "build it again with `python -m diffusion.images.mnist` (see data/README.md)"
    if not path.is_file():
        raise DataError(f"{path} is missing: {rebuild}")
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as archive:
            arrays = [archive[name] for name in names]
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or rebuild}") from None
    except Exception as error:  # numpy and zipfile raise many kinds for a damaged file
        raise DataError(f"{path} is damaged ({type(error).__name__}): {rebuild}") from None
    for name, array in zip(names, arrays, strict=True):
        _, shape, expected = _FILES[name]
        if array.dtype != np.uint8 or array.shape != shape or _sha256(array) != expected:
            raise DataError(f"{path} does not hold MNIST's {name.replace('_', ' ')}: {rebuild}")
    return arrays


def _header(shape: tuple[int, ...]) -> bytes:
    """Of the IDX format: two zeros, 8 for unsigned bytes, the number of axes, their lengths."""
    return bytes((0, 0, 8, len(shape))) + struct.pack(f">{len(shape)}I", *shape)


def _sha256(array: np.ndarray) -> str:
    """Of the IDX file that the array came from."""
    digest = hashlib.sha256(_header(array.shape))
    digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()


# --- Building it --------------------------------------------------------------------------------


def build(files: dict[str, bytes], path: str | Path = DATA_DIR / "mnist.npz") -> None:
    """Write the shipped file from the four packed originals, by their file names; atomically.

    The same originals give the same bytes: the archive carries no dates.

    Raises:
        DataError: a file is damaged, or not the expected one; nothing is written.
    """
    arrays = {}
    for name, (file, shape, expected) in _FILES.items():
        try:
            with gzip.GzipFile(fileobj=io.BytesIO(files[file])) as packed:
                content = packed.read(_LARGEST)
        except (OSError, EOFError, ValueError, zlib.error) as error:
            raise DataError(f"{file} is damaged: {error}") from None
        found = hashlib.sha256(content).hexdigest()
        if found != expected:
            raise DataError(
                f"{file} has a wrong checksum: expected SHA-256 {expected} unpacked, found {found}"
            )
        start = len(_header(shape))
        arrays[name] = np.frombuffer(content, np.uint8, offset=start).reshape(shape)

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, array in arrays.items():
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            content = io.BytesIO()
            np.save(content, array)
            archive.writestr(entry, content.getvalue(), zipfile.ZIP_DEFLATED, _LEVEL)
    write_atomically(path, buffer.getvalue())


def _read(folder: str | None, url: str, name: str) -> bytes:
    """The content of a local file, or of a download when no folder is given."""
    if folder is None:
        return _download(url.rstrip("/") + "/" + name)
    try:
        return (Path(folder) / name).read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {Path(folder) / name}: {error.strerror}") from None


def _download(url: str) -> bytes:
    content, size = bytearray(), None
    try:
        with urllib.request.urlopen(url, timeout=30) as response:
            size = int(response.headers.get("Content-Length") or 0) or None
            name = url.rsplit("/", 1)[-1]
            with tqdm(total=size, unit="B", unit_scale=True, desc=name, disable=None) as bar:
                while chunk := response.read(1 << 16):
                    content += chunk
                    bar.update(len(chunk))
    except urllib.error.HTTPError as error:
        error.close()
        raise DataError(f"cannot download {url} ({error})") from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise DataError(
            f"cannot download {url} ({reason}); give a folder of local copies with --images"
        ) from None
    if size is not None and len(content) != size:
        raise DataError(f"download of {url} broke off after {len(content)} of {size} bytes")
    return bytes(content)


def main(argv: list[str] | None = None) -> int:
    """Build the shipped file by the command line; returns the exit code."""
    return startup.conclude(PROG, lambda: _build_as_asked(argv))


def _build_as_asked(argv: list[str] | None) -> None:
    parser = Parser(
        PROG, description="Build data/mnist.npz from the four original files of MNIST."
    )
    parser.add_argument("--images", metavar="DIR", help="folder of the four .gz files "
                        "(default: download)")  # fmt: skip
    parser.add_argument("--url", default=URL, help=f"where to download them (default {URL})")
    parser.add_argument("--out", metavar="DIR", default=DATA_DIR, type=Path,
                        help="folder to write (default: data/)")  # fmt: skip
    args = parser.parse_args(argv)
    path = args.out / "mnist.npz"
    check_file(path)
    build({file: _read(args.images, args.url, file) for file, *_ in _FILES.values()}, path)
    print(f"wrote {path}")


if __name__ == "__main__":
    sys.exit(main())
