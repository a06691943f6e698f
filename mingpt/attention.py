"""What a model attends to: scores and weights of any block, their spread, their effect."""

from typing import NamedTuple

import torch

from mingpt.intervals import Correlation, correlation_interval
from mingpt.modes import evaluating
from mingpt.scoring import token_log_probs
from mingpt.tokens import token_tensor


def attention(model, idx, block=-1):
    """Attention of one block on idx (B, T) int64: scores, weights, each (B, heads, T, T).

    scores are QK^T / sqrt(head size), -inf for the future; weights their softmax over the
    last dimension, so that every row sums to 1. Negative blocks count from the last.
    Raises ValueError for a block the model does not have.
    """
    scores, weights = all_blocks(model, idx, [block])
    return scores[0], weights[0]


def all_blocks(model, idx, blocks=None):
    """As `attention` for several blocks (default all): each (blocks, B, heads, T, T)."""
    idx = token_tensor(idx, ndim=2)
    blocks = range(len(model.transformer.h)) if blocks is None else blocks
    with evaluating(model):
        *_, captured = model(idx, capture=blocks, last_only=True)
    scores, weights = zip(*(captured[block] for block in blocks), strict=True)
    return torch.stack(scores), torch.stack(weights)


def entropy(weights):
    """Shannon entropy in bits of weights (..., T), each row a distribution -> (...)."""
    return -(weights * weights.clamp(min=torch.finfo(weights.dtype).tiny).log2()).sum(dim=-1)


def knockout(model, idx, key, rows, blocks=None, seen=None):
    """Change of token log-probabilities when positions `rows` may not look at `key`.

    idx (1, T) int64; key the hidden position; rows the querying positions; blocks the blocks
    in which it is hidden (default all); seen: `token_log_probs` of idx, where they are known.
    Returns (len(rows),) float64 nats: the change of
    log p(idx[row + 1]) for each row, negative where `key` supported the token. A row never
    loses sight of itself. Raises ValueError for several sequences, and for positions
    or blocks that are not there.
    """
    idx = token_tensor(idx, ndim=2)
    if len(idx) != 1:
        raise ValueError(f"idx should be one sequence, of shape (1, T), not {tuple(idx.shape)}")
    T = idx.shape[1]
    for what, positions, end in (("key", [key], T), ("row", rows, T - 1)):
        for position in positions:
            if not 0 <= position < end:
                raise ValueError(f"{what} {position} out of range: allowed 0 to {end - 1}")
    blocked = torch.zeros(T, T, dtype=torch.bool, device=idx.device)
    blocked[rows, key] = True
    blocked.fill_diagonal_(False)
    blocks = range(len(model.transformer.h)) if blocks is None else blocks
    with evaluating(model):
        logits, _ = model(idx[:, :-1], blocked=dict.fromkeys(blocks, blocked[:-1, :-1]))
    rows = torch.as_tensor(rows, device=idx.device)
    hidden = logits[0, rows].double().log_softmax(-1).gather(-1, idx[0, rows + 1, None])[:, 0]
    seen = token_log_probs(model, idx) if seen is None else seen
    return hidden - seen[0, rows]


class WordExplanation(NamedTuple):
    """What one block attends to where a word is predicted, and what hiding it changes.

    The claim "the token attended to most made the model say this" is checked: each earlier token
    in turn is hidden from the predicting positions, in this block alone and in all blocks. A
    position cannot be hidden from itself: where it attends to itself most, `hidden` is the
    strongest before it.
    """

    rows: list  # positions that predict the word's tokens
    scores: torch.Tensor  # (T, T) float64, mean over heads
    weights: torch.Tensor  # (T, T) float64, mean over heads
    top: int  # position of the largest weight in the first row
    hidden: int  # the same, the row's own position left out
    log_prob: float  # of the word, nats
    changes_in_block: list  # of log_prob when each position before rows[0] is hidden here, nats
    changes: list  # the same, hidden in all blocks
    correlation_in_block: Correlation | None  # of the rows' mean weight with -changes_in_block
    correlation: Correlation | None  # the same with -changes


def explain_word(model, idx, positions, block):
    """WordExplanation of the word at `positions` of idx (1, T) int64, for one block."""
    idx, rows = token_tensor(idx, ndim=2), [position - 1 for position in positions]
    scores, weights = (t[0].double().mean(dim=0).cpu() for t in attention(model, idx, block))
    first = rows[0]
    known = idx[:, : positions[-1] + 1]  # what comes later changes nothing
    seen = token_log_probs(model, known)

    def changes(blocks):
        return [
            knockout(model, known, key, rows, blocks, seen).sum().item() for key in range(first)
        ]

    def losses(changes):
        return -torch.tensor(changes, dtype=torch.float64)

    here, everywhere = changes([block]), changes(None)
    of_key = weights[rows, :first].mean(dim=0)
    return WordExplanation(
        rows=rows,
        scores=scores,
        weights=weights,
        top=int(weights[first].argmax()),
        hidden=int(weights[first, :first].argmax()),
        log_prob=seen[0, rows].sum().item(),
        changes_in_block=here,
        changes=everywhere,
        correlation_in_block=correlation(of_key, losses(here)),
        correlation=correlation(of_key, losses(everywhere)),
    )


def correlation(a, b):
    """Pearson Correlation of two vectors, None where one is constant or they are too short."""
    if len(a) < 4 or a.std() == 0 or b.std() == 0:
        return None
    r = torch.corrcoef(torch.stack([a, b.to(a)]))[0, 1].item()
    return correlation_interval(r, len(a))
