"""What `GPT.forward` may be given: every check of its arguments, each an InputError with a reason.

Tokens, targets and embeddings are looked at for a model that is `pristine`; the parts of another
say themselves what they take. Whether tokens are in the vocabulary is looked at on the CPU alone,
where it is cheap; elsewhere it would stall the device, and the kernels fail.
"""

import torch

from mingpt.utils import InputError


def check_tokens(idx, vocab_size):
    """idx (B, T) int64 or int32, in the vocabulary."""
    if idx.ndim != 2 or idx.dtype not in (torch.int64, torch.int32):
        raise InputError(
            f"tokens should be int64 or int32 of shape (B, T), not {idx.dtype} {tuple(idx.shape)}"
        )
    if may_look(idx) and not (int(idx.min()) >= 0 and int(idx.max()) < vocab_size):
        raise InputError(
            f"token out of range: got {int(idx.min())} to {int(idx.max())}, "
            f"allowed 0 to {vocab_size - 1}"
        )


def check_embeddings(embeddings, width):
    """embeddings (B, T, C), C the width."""
    if embeddings.ndim != 3 or embeddings.shape[2] != width:
        raise InputError(
            f"embeddings should be of shape (B, T, {width}), not {tuple(embeddings.shape)}"
        )


def check_targets(targets, shape, vocab_size):
    """targets of any integer dtype, as many as tokens of `shape`: -1 or in the vocabulary."""
    number = 1
    for size in shape:
        number *= size
    integer = not (
        targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool
    )
    if not integer or targets.numel() != number:
        raise InputError(
            f"targets should be {number} whole numbers, one for each token {tuple(shape)}, "
            f"not {targets.dtype} {tuple(targets.shape)}"
        )
    if may_look(targets) and not (int(targets.min()) >= -1 and int(targets.max()) < vocab_size):
        raise InputError(
            f"target out of range: got {int(targets.min())} to {int(targets.max())}, "
            f"allowed 0 to {vocab_size - 1}, and -1 to ignore"
        )


def check_length(given, block_size):
    """Tokens or embeddings (B, T, ...) fit the block."""
    if given.ndim < 2:
        raise InputError(f"tokens should be of shape (B, T), not {tuple(given.shape)}")
    if given.shape[1] > block_size:
        raise InputError(f"{given.shape[1]} positions given; this model takes up to {block_size}")


def block_number(block, count):
    """The number of a block among `count`, counted from the last where negative."""
    if isinstance(block, bool) or block not in range(-count, count):
        raise InputError(f"block {block} out of range: this model has blocks 0 to {count - 1}")
    return block % count


def check_blocked(blocked, T, count):
    """The masks {block: (T, T) bool} with each block by its number."""
    for mask in blocked.values():
        if mask.dtype != torch.bool or mask.shape != (T, T):
            raise InputError(
                f"blocked should hold bool masks of shape ({T}, {T}), "
                f"not {mask.dtype} {tuple(mask.shape)}"
            )
    return {block_number(block, count): mask for block, mask in blocked.items()}


def check_combination(idx, embeddings, targets, loss_only, last_only):
    """Arguments that exclude or need each other."""
    if (idx is None) == (embeddings is None):
        raise InputError("give either token indices or embeddings, not both")
    if targets is not None and last_only:
        raise InputError("last_only gives logits of one position: it takes no targets")
    if loss_only and targets is None:
        raise InputError("loss_only needs targets")


def may_look(tokens):
    """Whether to check the range of tokens."""
    return tokens.device.type == "cpu" and tokens.numel() > 0
