"""GPT-2 in PyTorch, with minGPT's interface: train, generate, invert, attend, score."""

from mingpt import attention, inversion, scoring
from mingpt.checkpoint import CheckpointError, load, save
from mingpt.data import DataError

__all__ = ["CheckpointError", "DataError", "attention", "inversion", "load", "save", "scoring"]
