"""What the Trainer's settings may be."""

import math
import numbers

import numpy as np
import torch

from mingpt.processes import process_count
from mingpt.utils import CfgNode, check_integer, check_number

WHOLE = {  # setting -> its least value
    "batch_size": 1, "accumulation_steps": 1, "max_iters": 0, "eval_interval": 1, "patience": 1,
    "warmup_iters": 0, "num_workers": 0, "seed": 0,
}  # fmt: skip
NUMBERS = (
    "learning_rate", "weight_decay", "embedding_weight_decay", "min_lr_ratio", "grad_norm_clip",
    "ema_decay",
)  # fmt: skip
MAY_BE_NONE = {"max_iters", "eval_interval", "patience", "seed", "grad_norm_clip", "ema_decay"}
MEANS_NONE = {"max_iters": math.inf, "grad_norm_clip": math.inf, "eval_interval": 0}


def complete_settings(config, defaults):
    """The config, with the defaults (a CfgNode) of what it lacks, after `check_settings`.

    Of one that takes no attributes, as a frozen dataclass, a CfgNode copy.
    """
    try:
        return _completed(config, defaults)
    except AttributeError:
        names = [n for n in dir(config) if not (n.startswith("__") or hasattr(CfgNode, n))]
        return _completed(CfgNode(**{name: getattr(config, name) for name in names}), defaults)


def _completed(config, defaults):
    for name, default in defaults.to_dict().items():
        if not hasattr(config, name):
            setattr(config, name, default)
    check_settings(config)
    return config


def check_settings(config):
    """Raise ValueError for a setting out of range or a batch the processes cannot share.

    Numbers of other kinds (NumPy's, tensors without dimensions, a whole float for max_iters) become
    Python's in the config. An infinite max_iters or grad_norm_clip is none, and so are an
    eval_interval of 0 and an lr_decay of False.
    """
    for name in (*WHOLE, *NUMBERS):
        value = _scalar(getattr(config, name))
        if isinstance(value, numbers.Real) and value == MEANS_NONE.get(name):
            value = None
        if value is None and name in MAY_BE_NONE:
            pass
        elif name in WHOLE:
            if name == "max_iters" and isinstance(value, float) and value.is_integer():
                value = int(value)
            value = check_integer(name, value, at_least=WHOLE[name])
        else:
            below = 1 if name == "ema_decay" else math.inf
            value = check_number(name, value, at_least=0, below=below)
        setattr(config, name, value)
    betas = config.betas
    betas = betas.tolist() if isinstance(betas, torch.Tensor | np.ndarray) else betas
    if not (isinstance(betas, tuple | list) and len(betas) == 2):
        raise ValueError(f"betas should be two numbers, not {betas!r}")
    config.betas = type(betas)(
        check_number("each of betas", beta, at_least=0, below=1) for beta in betas
    )
    for name in ("compile", "keep_best"):
        if not isinstance(getattr(config, name), bool):
            raise ValueError(f"{name} should be True or False, not {getattr(config, name)!r}")
    if config.lr_decay is False:
        config.lr_decay = "none"
    if config.lr_decay not in ("none", "cosine"):
        raise ValueError(f"lr_decay should be 'none' or 'cosine', not {config.lr_decay!r}")
    if config.lr_decay == "cosine" and config.max_iters is None:
        raise ValueError("a cosine decay needs max_iters")
    if config.batch_size % (process_count() * config.accumulation_steps):
        raise ValueError(
            f"a batch of {config.batch_size} blocks cannot be divided among "
            f"{process_count()} processes x {config.accumulation_steps} accumulation steps"
        )
    if process_count() > 1 and config.seed is None:
        raise ValueError("several processes need a seed, to draw the same batches")


def last_iteration(config):
    """The number of iterations that max_iters asks for, None for no end.

    As in minGPT, where the step comes before the question, at least one is made.
    """
    return None if config.max_iters is None else max(1, config.max_iters)


def _scalar(value):
    """A tensor without dimensions as a number; anything else as it is."""
    return value.item() if isinstance(value, torch.Tensor) and value.ndim == 0 else value
