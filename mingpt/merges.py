"""GPT-2's merges: the order of the bytes, and the arrays of data/, read and verified.

`data/gpt2_merges.npy` holds for each merge the two ids it joins; ids 0 to 255 are the bytes in
GPT-2's order, merge m makes id 256 + m. The tokeniser (bpe.py) and the book (data.py) build on it.
"""

import hashlib
import io
from pathlib import Path

import numpy as np

DATA_DIR = Path(__file__).resolve().parent.parent / "data"
# SHA-256 of the array's content (uint16, little endian), whatever file format wraps it.
MERGES_ARRAY_SHA256 = "80d121a7b35cab0a6344b48302353f3eccdc93b2889e22901b77f783cbc6bb24"
PRINTABLE_BYTES = 188


class DataError(ValueError):
    """A data file is missing, damaged or not what was expected."""


def byte_order():
    """The 256 bytes in the order of their token ids: printable Latin-1 first, then the rest."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return printable + [byte for byte in range(256) if byte not in printable]


def byte_characters():
    """The character GPT-2's files write for each byte, dict {byte: str}: its own in Latin-1
    where printable, else the next of those from code point 256 on."""
    return {
        byte: chr(byte) if rank < PRINTABLE_BYTES else chr(256 + rank - PRINTABLE_BYTES)
        for rank, byte in enumerate(byte_order())
    }


def token_bytes(merges):
    """The byte string of every token but the special one, list of 256 + len(merges)."""
    tokens = [bytes([byte]) for byte in byte_order()]
    for left, right in merges.tolist():
        tokens.append(tokens[left] + tokens[right])
    return tokens


def parse_merges(merges_text):
    """GPT-2's merge list as published (vocab.bpe) -> uint16 (M, 2) ids."""
    ids = {character: rank for rank, character in enumerate(byte_characters().values())}
    pairs = []
    for line in merges_text.splitlines():
        if line and not line.startswith("#version"):
            left, right = line.split(" ")
            pairs.append((ids[left], ids[right]))
            ids[left + right] = 255 + len(pairs)
    return np.array(pairs, dtype=np.uint16)


def load_merges(data_dir=DATA_DIR):
    """GPT-2's merges, uint16 (50000, 2): the ids each merge joins. Raises DataError."""
    return load_arrays(Path(data_dir) / "gpt2_merges.npy", (), MERGES_ARRAY_SHA256)[0]


def load_arrays(path, names, sha256):
    """The arrays of these names in an .npz file, or the one of an .npy file for no names.

    Raises DataError for a file that is missing, damaged, or of another content than `sha256`.
    """
    rebuild = "build it again with `python -m mingpt.data` (see data/README.md)"
    if not path.is_file():
        raise DataError(f"{path} is missing: {rebuild}")
    try:
        loaded = np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)
        arrays = [loaded[name] for name in names] if names else [loaded]
    except Exception as error:  # numpy and zipfile raise many kinds for a damaged file
        raise DataError(f"{path} cannot be read ({type(error).__name__}): {rebuild}") from None
    if arrays_sha256(arrays) != sha256:
        raise DataError(f"{path} has a wrong checksum: {rebuild}")
    return arrays


def arrays_sha256(arrays):
    """SHA-256 of arrays of ids as uint16, little endian, one after another."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array, dtype="<u2").tobytes())
    return digest.hexdigest()
