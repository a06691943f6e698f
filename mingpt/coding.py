"""Text in as few bytes as its tokens' probabilities allow: arithmetic coding under a predictor.

A file is a header and an arithmetic code. Reading it needs the very same probabilities, to the
last bit. So both directions run the same operations on arrays of the same shapes, on the CPU, each
on one thread, and turn every distribution into whole frequencies. The header says which model,
method, PyTorch and NumPy wrote the file, and holds a checksum of its first frequencies: a machine
that computes otherwise is found out before, not after, the work.

`python -m mingpt.coding compress FILE` and `... decompress FILE` do it for files.
"""

from mingpt import startup

if __name__ == "__main__":
    startup.prepare("python -m mingpt.coding")  # before the imports that take seconds

import hashlib
import re
import struct
import sys
import zlib
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy
import torch

from mingpt import checkpoint
from mingpt.arithmetic import ArithmeticDecoder, ArithmeticEncoder, frequencies, interval
from mingpt.bpe import Encoder, get_encoder
from mingpt.data import load_book
from mingpt.mixing import METHODS
from mingpt.modes import plain_arithmetic
from mingpt.parser import Parser
from mingpt.progress import bar
from mingpt.tokens import token_tensor
from mingpt.utils import atomic_path, check_file

PROG = "python -m mingpt.coding"
MAGIC = b"mGPT"
VERSION = 3  # counts up with every change of the file or of what METHODS compute
HEADER = struct.Struct("<4sBB6s6sI6sI")  # the fields of Header
SEAL = struct.Struct("<I")  # CRC-32 of all that precedes it
DIGEST_BYTES = 6  # of a SHA-256 that the header keeps
SUFFIX = ".mgpt"
WEIGHTS = Path("weights/gpt.pt")


class CodingError(ValueError):
    """A compressed file is damaged, or was written by another model, version or machine."""


# --- The file -----------------------------------------------------------------------------------


class Header(NamedTuple):
    """What stands before the code."""

    magic: bytes
    version: int
    method: int  # its number in METHODS
    libraries: bytes  # three numbers of a version each: PyTorch's, then NumPy's
    model: bytes  # of the SHA-256 of the weights and of the text they are primed with
    frequencies: int  # CRC-32 of the first distribution: what this machine computes
    text: bytes  # of the SHA-256 of the text
    tokens: int


def parse(content):
    """A file's (Header, code). Raises CodingError for what `compress` did not write so."""
    if content[: len(MAGIC)] != MAGIC:
        raise CodingError("this is not a text compressed by mingpt.coding")
    body, seal = content[: -SEAL.size], content[-SEAL.size :]
    if len(body) < HEADER.size or SEAL.pack(zlib.crc32(body)) != seal:
        raise CodingError("the compressed text is damaged: truncated or altered")
    header = Header(*HEADER.unpack_from(body))
    if header.version != VERSION or header.method >= len(METHODS):
        raise CodingError(
            f"the compressed text is of version {header.version}, method {header.method}; this "
            f"package reads version {VERSION}, methods 0 to {len(METHODS) - 1}"
        )
    return header, body[HEADER.size :]


def compress(text, model, method="adaptive", encoder=None, primer=None):
    """The text (str) as bytes, to be read by `decompress` with the same model and arguments.

    model: a GPT, left as it is; method: one of METHODS; encoder: that of the model's tokens
    (default GPT-2's); primer (N,) whole numbers: what precedes the text (default: the book's
    training part, which the model was trained on), more than 32 tokens.
    Raises ValueError for a text that UTF-8 does not have, an encoder of other tokens, and a primer
    that is none.
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; there are {', '.join(METHODS)}")
    encoder, primer = _defaults(model, encoder, primer)
    raw = text.encode("utf-8")  # UnicodeEncodeError is a ValueError
    tokens = encoder.encode(text)
    code = ArithmeticEncoder()
    with reproducible():
        predictor = METHODS[method](model, encoder, primer)
        distribution = frequencies(predictor.predict())
        header = Header(
            MAGIC, VERSION, list(METHODS).index(method), _versions(),
            _model_sum(model, primer), _frequency_sum(distribution), _text_sum(raw), len(tokens),
        )  # fmt: skip
        for token in bar(tokens, desc="compress", unit="token"):
            code.encode(*interval(distribution, token))
            predictor.update(token)
            distribution = frequencies(predictor.predict())
    content = HEADER.pack(*header) + code.to_bytes()
    return content + SEAL.pack(zlib.crc32(content))


def decompress(content, model, encoder=None, primer=None):
    """The text that `compress` was given, for its bytes and the same model, encoder and primer.

    Raises CodingError for damaged or foreign bytes, another model or primer, another version of
    PyTorch or NumPy, and a machine that computes otherwise; never returns another text.
    """
    header, code = parse(content)
    encoder, primer = _defaults(model, encoder, primer)
    if header.model != _model_sum(model, primer):
        raise CodingError("the text was compressed with another model or primer")
    if header.libraries != _versions():
        theirs, ours = (_in_words(versions) for versions in (header.libraries, _versions()))
        raise CodingError(f"the text was compressed with {theirs}; here are {ours}")
    decoder = ArithmeticDecoder(code)
    tokens = []
    with reproducible():
        predictor = list(METHODS.values())[header.method](model, encoder, primer)
        distribution = frequencies(predictor.predict())
        if header.frequencies != _frequency_sum(distribution):
            raise CodingError("the text was compressed on a machine whose arithmetic differs from "
                              "this one's in the last digits: decompress it there")
        for _ in bar(range(header.tokens), desc="decompress", unit="token"):
            tokens.append(decoder.decode(distribution))
            predictor.update(tokens[-1])
            distribution = frequencies(predictor.predict())
    raw = encoder.decode_bytes(tokens)
    if header.text != _text_sum(raw):
        raise CodingError("decompression went astray: the text does not match its checksum, so "
                          "this machine's arithmetic differs from the one that compressed it")
    return raw.decode("utf-8")


def _defaults(model, encoder, primer):
    encoder = get_encoder() if encoder is None else encoder
    known = len(model.transformer.wte.weight)
    if encoder.vocab_size != known:
        raise ValueError(f"the model knows {known} tokens, its encoder {encoder.vocab_size}")
    if primer is None:
        primer = load_book().train
        if not isinstance(encoder, Encoder):
            primer = torch.tensor(encoder.from_gpt2(primer.tolist()))
    return encoder, token_tensor(primer)


@contextmanager
def reproducible():
    """Operations on one thread and in float32, all of it, whatever the caller computes with and
    where; no gradients but those asked for."""
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    products = torch.backends.mkldnn.matmul  # set_float32_matmul_precision sets it too
    precision = products.fp32_precision
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float32)
    products.fp32_precision = "ieee"
    try:
        with plain_arithmetic():
            yield
    finally:
        torch.set_num_threads(threads)
        torch.set_default_dtype(dtype)
        products.fp32_precision = precision


def _model_sum(model, primer):
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().float().contiguous().numpy().data)
    digest.update(primer.contiguous().numpy().astype("<i8").data)
    return digest.digest()[:DIGEST_BYTES]


def _frequency_sum(frequencies):
    return zlib.crc32(frequencies.numpy().astype("<i8").data)


def _text_sum(raw):
    return hashlib.sha256(raw).digest()[:DIGEST_BYTES]


def _versions():
    """Of the libraries that compute the probabilities."""
    found = b""
    for library in (torch, numpy):
        numbers = library.__version__.partition("+")[0].split(".")[:3]
        found += bytes(int(re.match(r"\d+", number)[0]) for number in numbers)
    return found


def _in_words(versions):
    torch_version, numpy_version = (
        ".".join(map(str, part)) for part in (versions[:3], versions[3:])
    )
    return f"PyTorch {torch_version} and NumPy {numpy_version}"


# --- The command line ---------------------------------------------------------------------------

BYTES_PER_TOKEN, TOKENS_PER_SECOND, START_SECONDS = 3.5, 50, 10  # on two cores of 2.6 GHz


def compress_file(path, out, model, **options):
    """Compress a file of UTF-8 text into another, atomically; returns its size in bytes.

    options: those of `compress`. Raises ValueError for a file that is not UTF-8 text, OSError.
    """
    try:
        text = Path(path).read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: byte {error.start} is none of it") from None
    _say_how_long(path, len(text.encode()) / BYTES_PER_TOKEN)
    content = compress(text, model, **options)
    with atomic_path(out) as temporary:
        temporary.write_bytes(content)
    return len(content)


def decompress_file(path, out, model, **options):
    """Write the text of a file by `compress_file` into another, atomically; returns its bytes.

    options: those of `decompress`. Raises CodingError as `decompress` does, OSError.
    """
    content = Path(path).read_bytes()
    try:
        _say_how_long(path, parse(content)[0].tokens)
        raw = decompress(content, model, **options).encode("utf-8")
    except CodingError as error:
        raise CodingError(f"{path}: {error}") from None
    with atomic_path(out) as temporary:
        temporary.write_bytes(raw)
    return len(raw)


def _say_how_long(path, tokens):
    seconds = START_SECONDS + tokens / TOKENS_PER_SECOND
    time = f"{seconds:.0f} seconds" if seconds < 90 else f"{seconds / 60:.0f} minutes"
    print(f"{path} will take about {time}", flush=True)


def wrote(out, text_file):
    """What to print of a file `out` into which text_file was compressed, or out of which."""
    size, text_size = Path(out).stat().st_size, Path(text_file).stat().st_size
    share = f", {8 * size / text_size:.3f} bits per byte" if text_size and out != text_file else ""
    return f"wrote {out}: {size} bytes{share}"


def default_out(path, compressing):
    """Where the result of a file goes when nobody says: FILE.mgpt, and back to FILE."""
    path = Path(path)
    if compressing:
        return path.with_name(path.name + SUFFIX)
    return path.with_suffix("") if path.suffix == SUFFIX else path.with_name(path.name + ".txt")


def check_files(path, out):
    """Raise ValueError where there is no file to read, or where no new one can be written."""
    if not Path(path).is_file():
        raise ValueError(f"{path}: no such file")
    if Path(out).exists():
        raise ValueError(f"{out} exists: choose another name, or move it away")
    check_file(out)


def main(argv=None):
    """Compress or decompress by the command line; returns the exit code."""
    return startup.conclude(PROG, lambda: _code_as_asked(argv))


def _code_as_asked(argv):
    parser = Parser(
        PROG, description="Compress a UTF-8 text by the language model, or the reverse."
    )
    parser.add_argument("direction", choices=("compress", "decompress"))
    parser.add_argument("file", type=Path)
    parser.add_argument("--out", type=Path, help="file to write (default: FILE.mgpt, and back)")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help=f"default: {WEIGHTS}")
    parser.add_argument("--method", choices=tuple(METHODS), default="adaptive",
                        help="of compression: learn from the text on the way, or stand still")
    args = parser.parse_args(argv)
    compressing = args.direction == "compress"
    out = args.out or default_out(args.file, compressing)
    check_files(args.file, out)
    content = checkpoint.read(args.weights)
    model, encoder = checkpoint.build(content), checkpoint.encoder(content)
    if compressing:
        compress_file(args.file, out, model, method=args.method, encoder=encoder)
    else:
        decompress_file(args.file, out, model, encoder=encoder)
    print(wrote(out, args.file if compressing else out))


if __name__ == "__main__":
    sys.exit(main())
