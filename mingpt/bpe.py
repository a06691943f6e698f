"""GPT-2's byte-pair encoding, with minGPT's names; the merges come from data/ (merges.py).

GPT-2's own encoder runs on tiktoken's engine, which gives the ids of the merging loop that is
written here for every other. Token 50256 is <|endoftext|>. `python -m mingpt.bpe` shows an
encoding in its stages.
"""

from mingpt import startup

if __name__ == "__main__":
    startup.prepare("python -m mingpt.bpe")

import copy
import math
import sys
import urllib.request
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from pprint import pprint

import regex  # tiktoken's own engine, installed with it
import tiktoken
import torch

from mingpt.merges import byte_characters, load_merges, token_bytes
from mingpt.parser import Parser
from mingpt.utils import InputError, atomic_path

PROG = "python -m mingpt.bpe"
PATTERN = (  # how GPT-2 splits text before merging (Radford et al. 2019)
    r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
)
END_OF_TEXT = "<|endoftext|>"
END_OF_TEXT_ID = 50256

bytes_to_unicode = byte_characters  # minGPT's name


def get_pairs(word):
    """The set of neighbours in a sequence of strings, tuples of two."""
    return set(pairwise(word))


class Encoder:
    """Text to token ids and back; any Unicode text survives the round trip.

    Token strings hold one printable character for each byte (`byte_encoder`, `byte_decoder`).
    """

    def __init__(self, encoder, bpe_merges):
        """encoder: dict from token string to id; bpe_merges: pairs of token strings, those to be
        merged first at the front."""
        self.byte_encoder = byte_characters()
        self.byte_decoder = {character: byte for byte, character in self.byte_encoder.items()}
        self.encoder = encoder
        self.decoder = {number: token for token, number in encoder.items()}
        self.bpe_ranks = {tuple(pair): rank for rank, pair in enumerate(bpe_merges)}
        self.pat = regex.compile(PATTERN)
        self.cache = {}
        self.vocab_size = len(encoder)
        self._engine = self._made = None

    def _read(self):
        """The attributes that `encode` reads."""
        return self.pat, self.byte_encoder, self.bpe_ranks, self.cache, self.encoder

    @classmethod
    def from_merges(cls, merges):
        """The encoder of GPT-2's merges (M, 2) integer array, row m the two ids that make id
        256 + m; text is encoded by tiktoken's engine for as long as `bpe` is that of this class and
        the attributes that `encode` reads are the objects made here.
        """
        contents = token_bytes(merges)
        characters = {chr(byte): written for byte, written in byte_characters().items()}
        written = str.maketrans(characters)
        tokens = [content.decode("latin-1").translate(written) for content in contents]
        encoder = {token: number for number, token in enumerate(tokens)}
        encoder[END_OF_TEXT] = END_OF_TEXT_ID
        built = cls(encoder, [(tokens[left], tokens[right]) for left, right in merges.tolist()])
        built._engine = tiktoken.Encoding(
            "gpt2",
            pat_str=PATTERN,
            mergeable_ranks={content: rank for rank, content in enumerate(contents)},
            special_tokens={END_OF_TEXT: END_OF_TEXT_ID},
        )
        built._made = built._read()
        return built

    def bpe(self, token):
        """The tokens that a piece of text is merged to, joined by spaces; the piece in characters
        for bytes. The pair of the lowest rank is merged, everywhere, until none has a rank."""
        if token in self.cache:
            return self.cache[token]
        word = tuple(token)
        while len(word) > 1:
            pair = min(get_pairs(word), key=lambda pair: self.bpe_ranks.get(pair, math.inf))
            if pair not in self.bpe_ranks:
                break
            merged = []
            for part in word:
                if merged and (merged[-1], part) == pair:
                    merged[-1] += part
                else:
                    merged.append(part)
            word = tuple(merged)
        self.cache[token] = " ".join(word)
        return self.cache[token]

    def encode_and_show_work(self, text):
        """minGPT's account of an encoding: dict of "bpe_idx" (list of ids), "tokens" (the pieces
        the text is split into before merging) and "parts" (a dict per piece).

        A part holds "token" (the piece), "token_bytes", "token_translated" (its bytes written as
        characters), "token_merged" (its token strings) and "token_ix" (their ids).
        """
        pieces = self.pat.findall(text)
        parts = []
        for piece in pieces:
            content = piece.encode("utf-8")
            translated = "".join(self.byte_encoder[byte] for byte in content)
            merged = self.bpe(translated).split(" ")
            parts.append(
                {
                    "token": piece,
                    "token_bytes": content,
                    "token_translated": translated,
                    "token_merged": merged,
                    "token_ix": [self.encoder[token] for token in merged],
                }
            )
        return {
            "bpe_idx": [i for part in parts for i in part["token_ix"]],
            "tokens": pieces,
            "parts": parts,
        }

    def encode(self, text):
        """List of ids; the text `<|endoftext|>` is text like any other."""
        if (
            self._engine is not None
            and getattr(self.bpe, "__func__", None) is _BPE
            and all(now is made for now, made in zip(self._read(), self._made, strict=True))
        ):
            return self._engine.encode_ordinary(text)
        return self.encode_and_show_work(text)["bpe_idx"]

    def decode(self, ids):
        """The text of the ids in `decoder`; bytes that are not UTF-8 become U+FFFD.

        Raises InputError for an id that is not there.
        """
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_bytes(self, ids):
        """The bytes of the ids. Raises InputError for an id that is not in `decoder`."""
        ids = [int(i) for i in ids]
        for i in ids:
            if i not in self.decoder:
                raise InputError(f"token {i} out of range: allowed 0 to {max(self.decoder)}")
        return bytes(self.byte_decoder[c] for i in ids for c in self.decoder[i])


_BPE = Encoder.bpe  # as the engine computes it


def check_ids(ids, vocab_size):
    """The ids as a list of int. Raises InputError for an id outside 0..vocab_size - 1."""
    ids = [int(i) for i in ids]
    for i in ids:
        if not 0 <= i < vocab_size:
            raise InputError(f"token {i} out of range: allowed 0 to {vocab_size - 1}")
    return ids


def get_file(local_file, remote_file):
    """Download the address `remote_file` to the path `local_file`, unless that exists.

    Raises OSError for what cannot be fetched; then nothing is written.
    """
    if Path(local_file).is_file():
        return
    with urllib.request.urlopen(remote_file, timeout=30) as response:
        content = response.read()
    with atomic_path(local_file) as path:
        path.write_bytes(content)


@lru_cache
def _gpt2():
    return Encoder.from_merges(load_merges())


def get_encoder():
    """GPT-2's encoder: another at each call, so that its tables are the caller's to write to."""
    built = copy.copy(_gpt2())
    for name in ("byte_encoder", "byte_decoder", "encoder", "decoder", "bpe_ranks", "cache"):
        setattr(built, name, getattr(built, name).copy())
    built._made = built._read()
    return built


class BPETokenizer:
    """PyTorch-flavoured encoder: text -> LongTensor (1, T), and back."""

    def __init__(self):
        self.encoder = get_encoder()

    def __call__(self, text, return_tensors="pt"):
        """text (one string) -> int64 (1, T)."""
        if return_tensors != "pt":
            raise InputError(f"only PyTorch tensors ('pt') are returned, not {return_tensors!r}")
        if not isinstance(text, str):
            raise InputError(f"text should be a string, not {type(text).__name__}")
        return torch.tensor([self.encoder.encode(text)], dtype=torch.long)

    def decode(self, idx):
        """idx (T,) int64 -> text."""
        if idx.ndim != 1:
            raise InputError(f"tokens should have one dimension, not shape {tuple(idx.shape)}")
        return self.encoder.decode(idx.tolist())


def _show(argv=None):
    Parser(PROG, description="Show an encoding in its stages.").parse_args(argv)
    pprint(get_encoder().encode_and_show_work("Hello, squirrel! Twelve walnuts (12)? 🐿"), width=100)


if __name__ == "__main__":
    sys.exit(startup.conclude(PROG, _show))
