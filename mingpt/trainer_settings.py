"""What the Trainer's settings may be."""

from mingpt.processes import process_count
from mingpt.utils import check_integer, check_number


def check_settings(config):
    """Raise ValueError for a setting out of range or a batch the processes cannot share."""
    for name in ("batch_size", "accumulation_steps"):
        check_integer(name, getattr(config, name), at_least=1)
    for name in ("max_iters", "eval_interval", "patience"):
        if getattr(config, name) is not None:
            check_integer(name, getattr(config, name), at_least=1)
    for name in ("warmup_iters", "num_workers"):
        check_integer(name, getattr(config, name), at_least=0)
    if config.seed is not None:
        check_integer("seed", config.seed, at_least=0)
    for name in ("learning_rate", "weight_decay", "embedding_weight_decay", "min_lr_ratio"):
        check_number(name, getattr(config, name), at_least=0)
    if config.grad_norm_clip is not None:
        check_number("grad_norm_clip", config.grad_norm_clip, at_least=0)
    if config.ema_decay is not None:
        check_number("ema_decay", config.ema_decay, at_least=0, below=1)
    if not (isinstance(config.betas, tuple | list) and len(config.betas) == 2):
        raise ValueError(f"betas should be two numbers, not {config.betas!r}")
    for beta in config.betas:
        check_number("each of betas", beta, at_least=0, below=1)
    if not isinstance(config.compile, bool):
        raise ValueError(f"compile should be True or False, not {config.compile!r}")
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
