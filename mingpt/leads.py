"""Of every row of a head: the loss of its target, by how much that leads, and what is said.

`of_logits` takes them from logits, `of_hidden` from what the head multiplies: the logits are then
written once, by blocks, and turned in place into the loss's gradient, where the usual path makes
four more tables of their size.
"""

from typing import NamedTuple

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from mingpt.loss import READY_ROWS, products


class Leads(NamedTuple):
    """Of targets (R,) int64."""

    nats: torch.Tensor  # (R,) cross-entropies, differentiable
    margins: torch.Tensor  # (R,) logit of the target minus the best other logit
    said: torch.Tensor | None  # (R,) int64 argmax of the logits, where it was asked for


def of_logits(logits, targets, say=True):
    """Leads of logits (R, V) for targets (R,) int64."""
    nats = F.cross_entropy(logits, targets, reduction="none")
    logits = logits.detach()
    wanted = logits.gather(1, targets[:, None])
    others = logits.scatter(1, targets[:, None], float("-inf")).amax(dim=1)
    return Leads(nats, wanted[:, 0] - others, logits.argmax(dim=1) if say else None)


def of_hidden(hidden, weight, targets, say=True):
    """Leads of the logits hidden (R, C) @ weight.T for weight (V, C), float32 or float64.

    The weight is frozen: the losses have a gradient in `hidden` alone, once differentiable.
    """
    return Leads(*_Leads.apply(hidden, weight.detach(), targets, say))


class _Leads(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, targets, say):
        logits = products(hidden, weight, hidden.new_empty(len(hidden), len(weight)))
        nats, margins = (logits.new_empty(len(logits)) for _ in range(2))
        said = torch.empty_like(targets) if say else None
        at_a_time = READY_ROWS * torch.get_num_threads()  # rows that stay in the cache
        for start in range(0, len(logits), at_a_time):
            part = slice(start, start + at_a_time)
            rows, y = logits[part], targets[part, None]
            if say:
                said[part] = rows.argmax(dim=1)
            wanted = rows.gather(1, y)
            others = rows.scatter_(1, y, float("-inf")).amax(dim=1, keepdim=True)
            rows.scatter_(1, y, wanted)
            margins[part] = (wanted - others)[:, 0]
            p = torch.softmax(rows, dim=1, out=rows)
            # The best logit's own probability is never too small for the softmax.
            behind = torch.maximum(wanted, others) - wanted
            nats[part] = behind[:, 0] - p.amax(dim=1).log()
            p.scatter_add_(1, y, torch.full_like(wanted, -1))
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(logits @ weight)
        ctx.mark_non_differentiable(margins, *([said] if say else []))
        return nats, margins, said

    @staticmethod
    @once_differentiable
    def backward(ctx, of_nats, *_):
        (gradient,) = ctx.saved_tensors
        return of_nats[:, None] * gradient, None, None, None
