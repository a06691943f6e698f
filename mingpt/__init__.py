"""GPT-2 in PyTorch, with minGPT's interface: train, generate, invert, attend, score.

From the bottom up:
    data        merges bpe vocabulary data
    model       model (its settings, checks and shortcuts: model_config model_arguments pristine),
                loss, sampling, huggingface
    training    trainer (trainer_settings resume), discounting, devices, processes, recipe
    files       checkpoint: what a weights file holds
    questions   inversion attention scoring text
    pictures    figures: a function a figure, arrays in, a Figure out
    scripts     startup, cli: the runner;
                studies/: one module a study, and what example_gpt.py trains and asks with

Everything here is imported on first use, so that `python -m mingpt.data` starts with the
package empty.
"""

from importlib import import_module

__all__ = ["CheckpointError", "DataError", "attention", "inversion", "load", "save", "scoring"]

_MODULE_OF = {
    "CheckpointError": "checkpoint", "load": "checkpoint", "save": "checkpoint",
    "DataError": "merges",
}  # fmt: skip
_MODULES = {
    "attention", "bpe", "checkpoint", "cli", "data", "devices", "discounting",
    "figures", "huggingface", "inversion", "loss", "merges", "model", "model_arguments",
    "model_config", "pristine", "processes", "recipe", "resume", "sampling", "scoring",
    "startup", "text", "trainer", "trainer_settings", "utils", "vocabulary",
}  # fmt: skip


def __getattr__(name):
    if name in _MODULES:
        return import_module(f"mingpt.{name}")
    if name in _MODULE_OF:
        return getattr(import_module(f"mingpt.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module 'mingpt' has no attribute {name!r}")


def __dir__():
    return sorted(globals().keys() | _MODULES | _MODULE_OF.keys())
