"""The cross-entropy of logits, and that of a linear head which never holds all of them.

At GPT-2's vocabulary the head dominates a training step: 2,048 rows of 50,257 float32
logits are 412 MB, and the usual path keeps them, their log-softmax and their gradient.
`linear_cross_entropy` takes the rows in chunks. Each chunk computes its logits, turns them in
place into the gradient softmax - one_hot, and is folded at once into the two gradients that
training needs, so that one chunk is all that ever exists and the backward pass is a scaling.
"""

import torch
from torch.nn import functional as F

CHUNK_BYTES = 50 << 20  # of one chunk's logits: 260 float32 rows of GPT-2's vocabulary


def cross_entropy(logits, targets):
    """Mean cross-entropy in nats of logits (..., V) against as many integer targets, -1 ignored.

    In the logits' dtype; all ignored: NaN.
    """
    return F.cross_entropy(
        logits.reshape(-1, logits.shape[-1]), targets.reshape(-1).long(), ignore_index=-1
    )


def linear_cross_entropy_reference(hidden, weight, targets, ignore_index=-1):
    """The same loss by way of all logits, as every textbook has it; the tests' yardstick."""
    return F.cross_entropy(F.linear(hidden, weight), targets, ignore_index=ignore_index)


def linear_cross_entropy(hidden, weight, targets, ignore_index=-1, chunk_rows=None):
    """Mean cross-entropy in nats of `softmax(hidden @ weight.T)` against `targets`.

    hidden (N, C) float, weight (V, C) float, targets (N,) int64; rows whose target is
    `ignore_index` count neither in the sum nor in the mean (all ignored: NaN, as
    F.cross_entropy has it). Under autocast the matrix products run in its dtype.
    Differentiable twice, in `hidden` and `weight`; a derivative of the gradient takes all logits.
    """
    keep = targets != ignore_index
    if not keep.all():
        hidden, targets = hidden[keep], targets[keep]
    device_type = hidden.device.type
    dtype = (
        torch.get_autocast_dtype(device_type)
        if torch.is_autocast_enabled(device_type)
        else hidden.dtype
    )
    if not torch.is_grad_enabled():  # evaluation: no gradient to prepare
        hidden, weight = hidden.detach(), weight.detach()
    return _LinearCrossEntropy.apply(hidden, weight, targets, chunk_rows, dtype)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, targets, chunk_rows, dtype):
        need_hidden, need_weight = ctx.needs_input_grad[:2]
        rows = hidden.shape[0]
        with torch.autocast(hidden.device.type, enabled=False):
            h, w = hidden.detach().to(dtype), weight.detach().to(dtype)
            grad_hidden = torch.empty_like(h) if need_hidden else None
            grad_weight = torch.zeros_like(w) if need_weight else None
            chunk_rows = chunk_rows or CHUNK_BYTES // (h.element_size() * weight.shape[0]) or 1
            logits_buffer = h.new_empty(min(chunk_rows, rows), weight.shape[0])
            row_index = torch.arange(logits_buffer.shape[0], device=h.device)
            exact = torch.promote_types(dtype, torch.float32)
            total = hidden.new_zeros((), dtype=exact)
            for start in range(0, rows, chunk_rows):
                part = slice(start, min(start + chunk_rows, rows))
                y = targets[part].unsqueeze(1)
                logits = torch.mm(h[part], w.T, out=logits_buffer[: y.shape[0]])
                target_logits = logits.gather(1, y).to(exact)
                largest = logits.amax(1, keepdim=True).to(exact)
                p = torch.softmax(logits, dim=1, out=logits)  # in place: the logits are spent
                log_norm = largest - p.amax(1, keepdim=True).to(exact).log()
                total += (log_norm - target_logits).sum()
                if not (need_hidden or need_weight):
                    continue
                p[row_index[: y.shape[0]], y[:, 0]] -= 1.0
                if need_hidden:
                    torch.mm(p, w, out=grad_hidden[part])
                if need_weight:
                    grad_weight.addmm_(p.T, h[part])
        ctx.save_for_backward(grad_hidden, grad_weight, hidden, weight, targets)
        ctx.rows, ctx.dtype = rows, dtype
        ctx.dtypes = hidden.dtype, weight.dtype
        return total / rows if rows else total * float("nan")

    @staticmethod
    def backward(ctx, grad_output):
        grad_hidden, grad_weight, hidden, weight, targets = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph: a derivative of this gradient is wanted
            loss = linear_cross_entropy_reference(
                hidden.to(ctx.dtype), weight.to(ctx.dtype), targets
            ).to(grad_output.dtype)
            inputs = [t if t.requires_grad else None for t in (hidden, weight)]
            found = iter(torch.autograd.grad(
                loss, [t for t in inputs if t is not None], grad_output, create_graph=True
            ))  # fmt: skip
            return *(t if t is None else next(found) for t in inputs), None, None, None
        scale = grad_output / max(ctx.rows, 1)
        if grad_hidden is not None:
            grad_hidden = grad_hidden.to(ctx.dtypes[0]) * scale
        if grad_weight is not None:
            grad_weight = grad_weight.to(ctx.dtypes[1]) * scale
        return grad_hidden, grad_weight, None, None, None
