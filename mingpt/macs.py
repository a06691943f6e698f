"""Multiply-accumulates (MACs) of a GPT, counted from its sizes: exact, on every machine the same.

What is counted are the matrix products, as is usual: per position one MAC per weight of a linear
layer, and one per channel and visible position for the scores and once more for the weighted sum.
Norms, softmax, GELU and the sums of residuals are not.
"""

from typing import NamedTuple

import torch


class Macs(NamedTuple):
    """MACs, float64, of one shape: a sum, or one entry a token."""

    attention: torch.Tensor
    mlp: torch.Tensor
    filling: torch.Tensor  # keys and values of blocks that did not run
    head: torch.Tensor

    @property
    def blocks(self):
        """All but the head."""
        return self.attention + self.mlp + self.filling

    @property
    def total(self):
        return self.blocks + self.head


def count(config, exits, positions, heads=None):
    """The Macs of tokens that left after `exits` blocks, each at its position in the window.

    config: n_layer L, n_embd C, vocab_size V. exits, positions (...) int64, positions from 0: at
    position t a block that ran costs 3 C^2 for query, key and value, 2 (t + 1) C for scores and
    weighted sum, C^2 for the projection, and 8 C^2 for the perceptron. A block that did not run
    costs 2 C^2: its key and value are filled in for later tokens. heads (...) int64: how often the
    head was applied, V C each; by default once a block that ran, as `mingpt.early_exit` has to. A
    model without exits applies it once.
    """
    C = config.n_embd
    ran, visible = exits.double(), positions.double() + 1
    heads = ran if heads is None else torch.as_tensor(heads).double().expand_as(ran)
    return Macs(
        attention=ran * (4 * C**2 + 2 * visible * C),
        mlp=ran * 8 * C**2,
        filling=(config.n_layer - ran) * 2 * C**2,
        head=heads * config.vocab_size * C,
    )
