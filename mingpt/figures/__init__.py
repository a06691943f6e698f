"""Every figure. Functions take numbers and strings, know no model, and return a Figure.

All of this code was written with an AI assistant. Tests hold each formula to a closed form, an
enumeration or an independent implementation, and each claim to a measurement.
"""

from mingpt.figures.attention import attention_all_blocks, painted_attention
from mingpt.figures.compression import bits_by_frequency, bits_by_position, compressed_sizes
from mingpt.figures.early_exit import (
    accuracy_by_macs,
    agreement,
    cascade,
    exits,
    thresholds,
)
from mingpt.figures.exercise import (
    inversion,
    token_log_probs,
    training_loss,
    visible,
)
from mingpt.figures.feedback import (
    closed_form,
    gradient_estimates,
    over_optimisation,
    reward_model,
)
from mingpt.figures.objective import saved_bits, two_trainings
from mingpt.figures.style import VERMILLION, save

__all__ = [
    "VERMILLION",
    "accuracy_by_macs",
    "agreement",
    "attention_all_blocks",
    "bits_by_frequency",
    "bits_by_position",
    "cascade",
    "closed_form",
    "compressed_sizes",
    "exits",
    "gradient_estimates",
    "inversion",
    "over_optimisation",
    "painted_attention",
    "reward_model",
    "save",
    "saved_bits",
    "thresholds",
    "token_log_probs",
    "training_loss",
    "two_trainings",
    "visible",
]
