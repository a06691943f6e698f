"""Every figure. Functions take numbers and strings, know no model, and return a Figure."""

from mingpt.figures.compression import bits_by_frequency, bits_by_position, compressed_sizes
from mingpt.figures.exercise import (
    attention_all_blocks,
    inversion,
    painted_attention,
    token_log_probs,
    training_loss,
    visible,
)
from mingpt.figures.style import VERMILLION, save

__all__ = [
    "VERMILLION",
    "attention_all_blocks",
    "bits_by_frequency",
    "bits_by_position",
    "compressed_sizes",
    "inversion",
    "painted_attention",
    "save",
    "token_log_probs",
    "training_loss",
    "visible",
]
