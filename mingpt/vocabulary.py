"""A small vocabulary for small machines: GPT-2's tokens cut down to those a text uses."""

import torch

from mingpt.bpe import check_ids, get_encoder
from mingpt.merges import load_merges
from mingpt.model import GPT
from mingpt.tokens import token_tensor
from mingpt.utils import CfgNode

BYTES = 256  # the first ids of GPT-2's vocabulary are the single bytes


class BookVocabulary:
    """GPT-2's encoding restricted to some of its tokens, numbered 0 to V-1.

    A token outside the vocabulary is taken apart into the two tokens its merge joined, again
    and again, as if that merge had never been made; all single bytes are inside, so every
    text still encodes, and decodes to itself. Text that uses only known tokens keeps exactly
    GPT-2's tokens. Encodes and decodes as mingpt.bpe.Encoder does.
    """

    def __init__(self, ids):
        """ids (V,) int64: GPT-2 ids, ascending, all bytes among them. Raises ValueError."""
        ids = torch.as_tensor(ids, dtype=torch.int64)
        if (
            ids.ndim != 1
            or not torch.equal(ids, ids.unique())
            or not torch.equal(ids[:BYTES], torch.arange(BYTES))
        ):
            raise ValueError("a vocabulary lists GPT-2 ids in ascending order, all bytes included")
        self._merges = load_merges()
        if int(ids[-1]) >= BYTES + len(self._merges):
            raise ValueError(f"GPT-2 id {int(ids[-1])} is not a token of text")
        self.ids = ids
        self._number = {token: number for number, token in enumerate(ids.tolist())}
        self._gpt2 = get_encoder()

    @classmethod
    def of(cls, tokens):
        """The vocabulary of GPT-2 tokens (N,), whole numbers: those that occur, and all bytes."""
        return cls(torch.cat([torch.arange(BYTES), token_tensor(tokens)]).unique())

    @property
    def vocab_size(self):
        return len(self.ids)

    def encode(self, text):
        """List of ids in this vocabulary."""
        return self.from_gpt2(self._gpt2.encode(text))

    def decode(self, ids):
        """The text of the ids. Raises ValueError for an id outside the vocabulary."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_bytes(self, ids):
        """The bytes of the ids. Raises ValueError for an id outside the vocabulary."""
        ids = check_ids(ids, self.vocab_size)
        return self._gpt2.decode_bytes(self.ids[ids].tolist() if ids else [])

    def from_gpt2(self, tokens):
        """GPT-2 ids (list) -> ids of this vocabulary (list, at least as long).

        Raises ValueError for an id that is not a token of text.
        """
        for token in tokens:
            if not 0 <= token < BYTES + len(self._merges):
                raise ValueError(f"GPT-2 id {token} is not a token of text")
        found, waiting = [], list(reversed(tokens))
        while waiting:
            token = waiting.pop()
            if token in self._number:
                found.append(self._number[token])
            else:
                left, right = self._merges[token - BYTES].tolist()
                waiting += [right, left]
        return found


def restricted(model, vocabulary):
    """A GPT of GPT-2's tokens as one of a BookVocabulary's: a copy, in eval mode.

    Its distributions are the model's given that the next token is of the vocabulary. The head is
    tied where the model's is. Raises ValueError for a model of other tokens.
    """
    if len(model.transformer.wte.weight) != get_encoder().vocab_size:
        raise ValueError(
            f"the model knows {len(model.transformer.wte.weight)} tokens, not GPT-2's "
            f"{get_encoder().vocab_size}"
        )
    settings = {**model.config.to_dict(), "vocab_size": vocabulary.vocab_size}
    small = GPT(CfgNode(**settings), generator=torch.Generator())
    rows = {"transformer.wte.weight", "lm_head.weight"}
    device = model.lm_head.weight.device
    small.load_state_dict({
        key: value[vocabulary.ids.to(device)] if key in rows else value
        for key, value in model.state_dict().items()
    })  # fmt: skip
    return small.to(device).eval()
