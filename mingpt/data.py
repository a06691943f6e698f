"""The tokenised book: loading, blocks, batches; `python -m mingpt.data` builds the arrays.

The text is cut at the first newline at or after 90 % of its characters; the training part
and the held-out part are tokenised apart. A text of one's own can take the book's place.
"""

from mingpt import startup

if __name__ == "__main__":
    startup.prepare("python -m mingpt.data")  # before the imports that take seconds

import hashlib
import http.client
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from mingpt.bpe import Encoder, get_encoder
from mingpt.merges import DATA_DIR, DataError, arrays_sha256, load_arrays, parse_merges
from mingpt.parser import Parser
from mingpt.progress import bar
from mingpt.tokens import token_array
from mingpt.utils import atomic_path, check_integer, check_writable

PROG = "python -m mingpt.data"
TRAIN_SHARE = 0.9

TEXT_URL = (
    "https://gist.githubusercontent.com/phillipj/4944029/raw/"
    "75ba2243dd5ec2875f629bf5d79f6c1e4b5a8b46/alice_in_wonderland.txt"
)
TEXT_SHA256 = "c8f5de222fcf1804197e97b0df02d30d25ab70715fcf93bb8d61c0f7b2c13acb"
MERGES_URL = "https://openaipublic.blob.core.windows.net/gpt-2/models/124M/vocab.bpe"
MERGES_SHA256 = "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"

# SHA-256 of the arrays' contents (uint16, little endian), whatever file format wraps them.
BOOK_ARRAYS_SHA256 = "22664d522353cf9c2ab1440788687d86bc8fae066b56f2d55cb1774749d52cdc"


class Book(NamedTuple):
    """Token ids of the two parts of the book, int64 (N,)."""

    train: torch.Tensor
    heldout: torch.Tensor

    def sha256(self):
        """SHA-256 of the two parts, for GPT-2's tokens: BOOK_ARRAYS_SHA256 for the shipped book."""
        return arrays_sha256([part.numpy() for part in self])


def load_book(data_dir=DATA_DIR):
    """The Book shipped as data/alice.npz, in GPT-2's tokens. Raises DataError."""
    arrays = load_arrays(Path(data_dir) / "alice.npz", ("train", "heldout"), BOOK_ARRAYS_SHA256)
    return Book(*(torch.from_numpy(a.astype(np.int64)) for a in arrays))


def read_book(path):
    """The Book that a UTF-8 text file holds, in GPT-2's tokens. Raises DataError."""
    content = _read(path, None)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8 text: byte {content[error.start]:#04x} at position {error.start}"
        ) from None
    parts = (get_encoder().encode(part) for part in split_text(text))
    return Book(*(torch.tensor(part, dtype=torch.int64) for part in parts))


class BlockDataset(Dataset):
    """Every block of a token array: tokens[i : i+block_size] -> tokens[i+1 : i+block_size+1].

    Works as a PyTorch dataset; `batch` cuts many blocks at once straight from the array.
    """

    def __init__(self, tokens, block_size, vocab_size=None):
        """tokens (N,) whole numbers: a tensor, a NumPy array (also one mapped from a file, which
        stays there), a list or bytes. Raises ValueError for others, and when N is too short for a
        block."""
        tokens = token_array(tokens)
        block_size = check_integer("block size", block_size, at_least=1)
        if vocab_size is not None:
            vocab_size = check_integer("vocab_size", vocab_size, at_least=1)
        if len(tokens) <= block_size:
            raise ValueError(
                f"block size {block_size} is larger than the data allow: "
                f"{len(tokens)} tokens make blocks of at most {len(tokens) - 1}"
            )
        self.tokens = tokens
        self.block_size = block_size
        self.vocab_size = int(tokens.max()) + 1 if vocab_size is None else vocab_size

    def __len__(self):
        return len(self.tokens) - self.block_size

    def __getitem__(self, i):
        x, y = self.batch(torch.tensor([range(len(self))[i]]))
        return x[0], y[0]

    def batch(self, starts):
        """starts (B,) int64 -> x, y, each (B, block_size) int64."""
        places = torch.as_tensor(starts)[:, None] + torch.arange(self.block_size + 1)
        if isinstance(self.tokens, np.ndarray):
            blocks = torch.from_numpy(self.tokens[places.numpy()].astype(np.int64))
        else:
            blocks = self.tokens[places].long()
        return blocks[:, :-1], blocks[:, 1:]

    def get_vocab_size(self):
        return self.vocab_size

    def get_block_size(self):
        return self.block_size


def split_text(text):
    """(training part, held-out part) of a text; the cut's newline is held out.

    The cut is the first newline in the first half of the text's last tenth, else the last one in
    the tenth before; a text without either is cut where its last tenth begins.
    """
    tenth = int(len(text) * TRAIN_SHARE)
    cut = text.find("\n", tenth, (tenth + len(text)) // 2)
    if cut < 0:
        cut = text.rfind("\n", len(text) * 8 // 10, tenth)
    cut = tenth if cut < 0 else cut
    return text[:cut], text[cut:]


def build(text_bytes, merges_bytes, data_dir=DATA_DIR):
    """Write data_dir/alice.npz and gpt2_merges.npy from the two published files.

    Raises DataError when either file is not the expected one.
    """
    _verify("the book's text", text_bytes, TEXT_SHA256)
    _verify("GPT-2's merge list", merges_bytes, MERGES_SHA256)
    merges = parse_merges(merges_bytes.decode("utf-8"))
    encoder = Encoder.from_merges(merges)
    parts = split_text(text_bytes.decode("utf-8"))
    train, heldout = (np.array(encoder.encode(part), dtype=np.uint16) for part in parts)
    with atomic_path(Path(data_dir) / "gpt2_merges.npy") as path:
        np.save(path, merges)
    with atomic_path(Path(data_dir) / "alice.npz") as path:
        np.savez(path, train=train, heldout=heldout)


def _verify(what, content, expected):
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise DataError(
            f"{what} has a wrong checksum: expected SHA-256 {expected}, found {found}"
        )


def _read(path, url):
    """The content of a local file, or of a download when there is none."""
    if path is not None:
        try:
            return Path(path).read_bytes()
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror}") from None
    try:
        with urllib.request.urlopen(url, timeout=30) as response:
            size = int(response.headers.get("Content-Length") or 0) or None
            content = bytearray()
            name = url.rsplit("/", 1)[-1]
            with bar(total=size, unit="byte", unit_scale=True, desc=name) as shown:
                while chunk := response.read(1 << 14):
                    content += chunk
                    shown.update(len(chunk))
    except (OSError, ValueError, http.client.HTTPException) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()
        reason = error if isinstance(error, urllib.error.HTTPError) else (
            getattr(error, "reason", None) or error
        )
        raise DataError(
            f"cannot download {url} ({reason}); give local copies with --text and --merges"
        ) from None
    if size is not None and len(content) != size:
        raise DataError(f"download of {url} broke off after {len(content)} of {size} bytes")
    return bytes(content)


def main(argv=None):
    """Build the arrays by the command line; returns the exit code."""
    return startup.conclude(PROG, lambda: _build_as_asked(argv))


def _build_as_asked(argv):
    parser = Parser(
        PROG, description="Build data/alice.npz (the tokenised book) and data/gpt2_merges.npy."
    )
    parser.add_argument("--text", help="local copy of the book (default: download)")
    parser.add_argument("--merges", help="local copy of vocab.bpe (default: download)")
    parser.add_argument("--text-url", default=TEXT_URL, help="where to download the book")
    parser.add_argument("--merges-url", default=MERGES_URL, help="where to download vocab.bpe")
    parser.add_argument("--out", type=Path, default=DATA_DIR, help="folder to write (default: "
                        "data/)")  # fmt: skip
    args = parser.parse_args(argv)
    check_writable(args.out)
    build(_read(args.text, args.text_url), _read(args.merges, args.merges_url), args.out)
    print(f"wrote {args.out / 'alice.npz'} and {args.out / 'gpt2_merges.npy'}")


if __name__ == "__main__":
    sys.exit(main())
