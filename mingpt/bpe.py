"""GPT-2's byte-pair encoding, on tiktoken's engine and the merges shipped in data/.

The merges come from merges.py; token 50256 is <|endoftext|>.
"""

from functools import cached_property, lru_cache

import regex  # tiktoken's own engine, installed with it
import tiktoken
import torch

from mingpt.merges import byte_characters, load_merges, token_bytes

PATTERN = (  # how GPT-2 splits text before merging (Radford et al. 2019)
    r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
)
END_OF_TEXT = "<|endoftext|>"
END_OF_TEXT_ID = 50256


class Encoder:
    """Text to GPT-2 token ids and back; any Unicode text survives the round trip.

    `encoder` and `decoder` are minGPT's mappings between token strings and ids, in which every
    byte is written as one printable character (see `byte_characters`).
    """

    def __init__(self, merges):
        """merges (M, 2) integer array, row m the two ids that make id 256 + m."""
        self._encoding = tiktoken.Encoding(
            "gpt2",
            pat_str=PATTERN,
            mergeable_ranks={token: rank for rank, token in enumerate(token_bytes(merges))},
            special_tokens={END_OF_TEXT: END_OF_TEXT_ID},
        )
        self._characters = byte_characters()

    @property
    def vocab_size(self):
        return self._encoding.n_vocab

    @cached_property
    def encoder(self):
        """Dict from token string to id."""
        return {token: number for number, token in self.decoder.items()}

    @cached_property
    def decoder(self):
        """Dict from id to token string."""
        ids = range(self.vocab_size)
        return {i: END_OF_TEXT if i == END_OF_TEXT_ID else self._written(i) for i in ids}

    def _written(self, token):
        return "".join(self._characters[b] for b in self._encoding.decode_single_token_bytes(token))

    def encode_and_show_work(self, text):
        """minGPT's account of an encoding: dict of "bpe_idx" (list of ids), "tokens" (the pieces
        the text is split into before merging) and "parts" (a dict per piece).

        A part holds "token" (the piece), "token_bytes", "token_translated" (its bytes written as
        characters), "token_merged" (its token strings) and "token_ix" (their ids).
        """
        pieces = regex.findall(PATTERN, text)
        parts = []
        for piece in pieces:
            ids = self.encode(piece)
            content = self.decode_bytes(ids)
            parts.append(
                {
                    "token": piece,
                    "token_bytes": content,
                    "token_translated": "".join(self._characters[b] for b in content),
                    "token_merged": [self._written(i) for i in ids],
                    "token_ix": ids,
                }
            )
        return {
            "bpe_idx": [i for part in parts for i in part["token_ix"]],
            "tokens": pieces,
            "parts": parts,
        }

    def encode(self, text):
        """List of ids; the text `<|endoftext|>` is text like any other."""
        return self._encoding.encode_ordinary(text)

    def decode(self, ids):
        """The text of the ids; bytes that are not UTF-8 become U+FFFD.

        Raises ValueError for an id outside the vocabulary.
        """
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_bytes(self, ids):
        """The bytes of the ids. Raises ValueError for an id outside the vocabulary."""
        return self._encoding.decode_bytes(check_ids(ids, self.vocab_size))


def check_ids(ids, vocab_size):
    """The ids as a list of int. Raises ValueError for an id outside 0..vocab_size - 1."""
    ids = [int(i) for i in ids]
    for i in ids:
        if not 0 <= i < vocab_size:
            raise ValueError(f"token {i} out of range: allowed 0 to {vocab_size - 1}")
    return ids


@lru_cache
def get_encoder():
    """GPT-2's encoder, built once."""
    return Encoder(load_merges())


class BPETokenizer:
    """PyTorch-flavoured encoder: text -> LongTensor (1, T), and back."""

    def __init__(self):
        self.encoder = get_encoder()

    def __call__(self, text, return_tensors="pt"):
        """text (one string) -> int64 (1, T)."""
        if return_tensors != "pt":
            raise ValueError(f"only PyTorch tensors ('pt') are returned, not {return_tensors!r}")
        if not isinstance(text, str):
            raise ValueError(f"text should be a string, not {type(text).__name__}")
        return torch.tensor([self.encoder.encode(text)], dtype=torch.long)

    def decode(self, idx):
        """idx (T,) int64 -> text."""
        if idx.ndim != 1:
            raise ValueError(f"tokens should have one dimension, not shape {tuple(idx.shape)}")
        return self.encoder.decode(idx.tolist())
