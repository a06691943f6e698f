"""What `GPT.forward` may be given: every check of its arguments, each a ValueError with a reason.

Whether tokens are in the vocabulary is looked at on the CPU alone, where it is cheap, and not
while compiling. Elsewhere it would stall the device or split the graph; there the kernels fail.
"""

import torch


def check_tokens(idx, vocab_size):
    """idx (B, T) int64 or int32, in the vocabulary."""
    if idx.ndim != 2 or idx.dtype not in (torch.int64, torch.int32):
        raise ValueError(
            f"tokens should be int64 or int32 of shape (B, T), not {idx.dtype} {tuple(idx.shape)}"
        )
    if may_look(idx) and not (int(idx.min()) >= 0 and int(idx.max()) < vocab_size):
        raise ValueError(
            f"token out of range: got {int(idx.min())} to {int(idx.max())}, "
            f"allowed 0 to {vocab_size - 1}"
        )


def check_embeddings(embeddings, width):
    """embeddings (B, T, C), C the width."""
    if embeddings.ndim != 3 or embeddings.shape[2] != width:
        raise ValueError(
            f"embeddings should be of shape (B, T, {width}), not {tuple(embeddings.shape)}"
        )


def check_targets(targets, shape, vocab_size):
    """targets int64 of the shape (B, T), -1 or in the vocabulary."""
    if targets.dtype != torch.int64 or targets.shape != shape:
        raise ValueError(
            f"targets should be int64 of shape {tuple(shape)}, "
            f"not {targets.dtype} {tuple(targets.shape)}"
        )
    if may_look(targets) and not (int(targets.min()) >= -1 and int(targets.max()) < vocab_size):
        raise ValueError(
            f"target out of range: got {int(targets.min())} to {int(targets.max())}, "
            f"allowed 0 to {vocab_size - 1}, and -1 to ignore"
        )


def check_positions(T, past, block_size):
    """T new positions after `past` cached ones fit the block."""
    if past and T != 1:
        raise ValueError(f"with keys in the cache give one new token at a time, not {T}")
    if not 0 < T + past <= block_size:
        raise ValueError(f"{T + past} positions given; this model takes 1 to {block_size}")


def block_number(block, count):
    """The number of a block among `count`, counted from the last where negative."""
    if isinstance(block, bool) or block not in range(-count, count):
        raise ValueError(f"block {block} out of range: this model has blocks 0 to {count - 1}")
    return block % count


def check_blocked(blocked, T, count):
    """The masks {block: (T, T) bool} with each block by its number."""
    for mask in blocked.values():
        if mask.dtype != torch.bool or mask.shape != (T, T):
            raise ValueError(
                f"blocked should hold bool masks of shape ({T}, {T}), "
                f"not {mask.dtype} {tuple(mask.shape)}"
            )
    return {block_number(block, count): mask for block, mask in blocked.items()}


def check_combination(idx, embeddings, targets, past, looks_inside, loss_only, last_only):
    """Arguments that exclude or need each other. past: positions in the cache; looks_inside:
    whether attention is to be captured or blocked."""
    if targets is not None and last_only:
        raise ValueError("last_only gives logits of one position: it takes no targets")
    if looks_inside and past:
        raise ValueError("capture and blocked take the whole sequence, not a filled cache")
    if (idx is None) == (embeddings is None):
        raise ValueError("give either token indices or embeddings, not both")
    if loss_only and targets is None:
        raise ValueError("loss_only needs targets")


def may_look(tokens):
    """Whether to check the range of tokens."""
    return tokens.device.type == "cpu" and tokens.numel() and not torch.compiler.is_compiling()
