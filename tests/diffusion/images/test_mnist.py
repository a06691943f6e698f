"""The data file: its parts, its pixels, building it again, and files that are not it."""

from __future__ import annotations

import gzip
import io
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest
import torch

from diffusion.images import mnist

SHIPPED = mnist.DATA_DIR / "mnist.npz"


@pytest.fixture(scope="module")
def originals() -> dict[str, bytes]:
    """The four packed files, made from the shipped arrays; packing is not part of the checksum."""
    with np.load(SHIPPED) as archive:
        return {
            file: gzip.compress(mnist._header(shape) + archive[name].tobytes(), 1)
            for name, (file, shape, _) in mnist._FILES.items()
        }


@pytest.fixture
def server():
    """A local HTTP server of {path: content}; yields (address, files)."""
    files: dict[str, bytes] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            content = files.get(self.path)
            self.send_response(200 if content is not None else 404)
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, *args):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}", files
        http.shutdown()
        thread.join()


def test_the_parts_are_those_of_the_design():
    parts = {name: mnist.load(name) for name in mnist.PARTS}
    assert {name: len(images) for name, (images, _) in parts.items()} == {
        "train": 50_000,
        "validation": 10_000,
        "test": 10_000,
    }
    for images, labels in parts.values():
        assert images.dtype == torch.uint8
        assert images.shape == (len(labels), 784)
        assert labels.dtype == torch.int64
        assert sorted(labels.unique().tolist()) == list(range(10))
    # Published: the first training labels, and the first test labels.
    assert parts["train"][1][:8].tolist() == [5, 0, 4, 1, 9, 2, 1, 3]
    assert parts["test"][1][:8].tolist() == [7, 2, 1, 0, 4, 1, 4, 9]
    # Validation and training together are the training file, whose class sizes are published.
    both = torch.cat([parts["train"][1], parts["validation"][1]])
    assert torch.bincount(both).tolist() == [
        5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949,
    ]  # fmt: skip


def test_pixels_are_drawn_with_the_probability_of_their_grey():
    greys = torch.arange(256, dtype=torch.uint8).repeat(20_000, 1)
    drawn = mnist.binarise(greys, seed=1)
    assert drawn.dtype == torch.float32
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    assert (drawn[:, 0] == 0).all()
    assert (drawn[:, 255] == 1).all()
    p = torch.arange(256) / 255
    error = (drawn.mean(dim=0) - p).abs()
    assert (error[1:255] / torch.sqrt(p * (1 - p) / 20_000)[1:255]).max() < 5
    assert torch.equal(drawn, mnist.binarise(greys, seed=1))
    assert not torch.equal(drawn, mnist.binarise(greys, seed=2))
    generator = torch.Generator().manual_seed(1)
    assert torch.equal(drawn, mnist.binarise(greys, generator=generator))


def test_what_cannot_be_binarised_is_refused():
    with pytest.raises(ValueError, match="uint8"):
        mnist.binarise(torch.rand(3, 784), seed=0)
    with pytest.raises(ValueError, match="exactly one"):
        mnist.binarise(torch.zeros(3, 784, dtype=torch.uint8))
    with pytest.raises(ValueError, match="train, validation, test"):
        mnist.load("holdout")


def test_local_copies_and_a_download_build_the_shipped_file(originals, server, tmp_path, capsys):
    address, files = server
    files |= {f"/mnist/{name}": content for name, content in originals.items()}
    folder = tmp_path / "gz"
    folder.mkdir()
    for name, content in originals.items():
        (folder / name).write_bytes(content)
    sources = (["--images", str(folder)], ["--url", f"{address}/mnist/"])
    for place, source in zip(("local", "download"), sources, strict=True):
        assert mnist.main([*source, "--out", str(tmp_path / place)]) == 0
        assert (tmp_path / place / "mnist.npz").read_bytes() == SHIPPED.read_bytes()
    assert capsys.readouterr().out.count("wrote") == 2


def _flip(packed: bytes) -> bytes:
    content = bytearray(gzip.decompress(packed))
    content[-1] ^= 1
    return gzip.compress(bytes(content), 1)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (None, "404"),
        (_flip, "wrong checksum"),
        (lambda content: content[: len(content) // 2], "is damaged"),
        (lambda content: b"<html>sorry</html>", "is damaged"),
    ],
)
def test_a_wrong_download_writes_nothing(originals, server, tmp_path, capsys, spoil, message):
    address, files = server
    files |= {f"/{name}": content for name, content in originals.items()}
    name = "t10k-labels-idx1-ubyte.gz"
    spoilt = files.pop(f"/{name}")
    if spoil is not None:
        files[f"/{name}"] = spoil(spoilt)
    assert mnist.main(["--url", address, "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert name in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_no_network_and_no_local_copy_are_clear_errors(tmp_path, capsys):
    assert mnist.main(["--url", "http://127.0.0.1:9", "--out", str(tmp_path)]) == 2
    assert "cannot download http://127.0.0.1:9/train-images" in capsys.readouterr().err
    assert mnist.main(["--images", str(tmp_path / "none"), "--out", str(tmp_path)]) == 2
    assert "cannot read" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_missing_damaged_or_other_files_are_refused(tmp_path):
    path = tmp_path / "mnist.npz"
    with pytest.raises(mnist.DataError, match=r"missing.*python -m diffusion.images.mnist"):
        mnist.load("test", path)
    whole = SHIPPED.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(mnist.DataError, match="is damaged"):
        mnist.load("test", path)
    with np.load(SHIPPED) as archive:
        images, labels = archive["test_images"], archive["test_labels"].copy()
    labels[5] = 7
    np.savez(path, test_images=images, test_labels=labels)
    with pytest.raises(mnist.DataError, match="is damaged"):  # half of it is not there
        mnist.check(path)
    with pytest.raises(mnist.DataError, match="test labels"):
        mnist.load("test", path)
    np.savez(path, test_images=images[:100], test_labels=labels[:100])
    with pytest.raises(mnist.DataError, match="test images"):
        mnist.load("test", path)
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        path.write_bytes(archive.read("test_labels.npy"))
    with pytest.raises(mnist.DataError, match="is damaged"):
        mnist.load("test", path)
