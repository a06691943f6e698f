"""The cross-entropy of logits, and that of a linear head which never holds all of them.

At GPT-2's vocabulary the head dominates a training step: 2,048 rows of 50,257 float32
logits are 412 MB, and the usual path keeps them, their log-softmax and their gradient.
`linear_cross_entropy` takes the rows in chunks. Each chunk computes its logits, turns them in
place into the gradient softmax - one_hot, and is folded at once into the two gradients that
training needs, so that one chunk is all that ever exists and the backward pass is a scaling.
Where the logits are asked for, `ready_logits` still computes them by blocks, and
`ready_cross_entropy` turns the three passes over all of them, log-softmax and its two backward
passes, into one.
"""

import math

import torch
from torch.nn import functional as F

CHUNK_BYTES = 50 << 20  # of one chunk's logits: 260 float32 rows of GPT-2's vocabulary
# Columns of one product: MKL makes 260 x 50,257 float32 logits of 192 numbers at 58 GFLOP/s in one
# piece and at 76 in pieces of this width (one core of an AMD EPYC).
BLOCK_COLUMNS = 512
READY_ROWS = 8  # of logits at a time, a thread: 1.6 MB at GPT-2's vocabulary, kept in the cache
READY_NUMBERS = 1 << 21  # fewer logits stay there anyway


def cross_entropy(logits, targets):
    """Mean cross-entropy in nats of logits (..., V) against as many integer targets, -1 ignored.

    In the logits' dtype; all ignored: NaN.
    """
    return F.cross_entropy(
        logits.reshape(-1, logits.shape[-1]), targets.reshape(-1).long(), ignore_index=-1
    )


def ready_logits(hidden, weight):
    """hidden (..., C) @ weight.T for weight (V, C), (..., V): F.linear, for large logits on the CPU
    faster. Differentiable any number of times."""
    if (
        hidden.dtype not in (torch.float32, torch.float64)
        or product_dtype(hidden) != hidden.dtype
        or hidden.device.type != "cpu"
        or hidden[..., 0].numel() * len(weight) < READY_NUMBERS
        or not torch.is_grad_enabled()
    ):
        return F.linear(hidden, weight)
    return _ReadyLogits.apply(hidden, weight)


def ready_cross_entropy(logits, targets):
    """The same loss, for large logits on the CPU faster: its gradient is computed with it.

    The logits are an ordinary tensor on the way to the loss. Differentiable any number of times.
    """
    rows, wanted = logits.reshape(-1, logits.shape[-1]), targets.reshape(-1).long()
    if (
        logits.dtype not in (torch.float32, torch.float64)
        or logits.device.type != "cpu"
        or rows.shape[0] <= READY_ROWS
        or rows.numel() < READY_NUMBERS
        or not (logits.requires_grad and torch.is_grad_enabled())
    ):
        return cross_entropy(logits, targets)
    return _ReadyCrossEntropy.apply(rows, wanted)


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
    if not torch.is_grad_enabled():  # evaluation: no gradient to prepare
        hidden, weight = hidden.detach(), weight.detach()
    return _LinearCrossEntropy.apply(hidden, weight, targets, chunk_rows, product_dtype(hidden))


def product_dtype(hidden):
    """The dtype of a matrix product with `hidden`: its own, or autocast's."""
    kind = hidden.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype


def loss_and_gradients(hidden, weight, targets, dtype, chunk_rows=None, need=(True, True)):
    """The mean of `linear_cross_entropy`, and its gradients in hidden and weight, in one pass.

    hidden (N, C), weight (V, C), targets (N,) int64, all of which count; products in dtype.
    Returns a scalar and the two gradients, in dtype, None where `need` says False.
    """
    rows = hidden.shape[0]
    with torch.no_grad(), torch.autocast(hidden.device.type, enabled=False):
        h, w = hidden.detach().to(dtype), weight.detach().to(dtype)
        grad_hidden = torch.empty_like(h) if need[0] else None
        grad_weight = (torch.empty_like if rows else torch.zeros_like)(w) if need[1] else None
        chunk_rows = chunk_rows or _rows_of_a_chunk(w)
        logits_buffer = h.new_empty(min(chunk_rows, rows), weight.shape[0])
        row_index = torch.arange(logits_buffer.shape[0], device=h.device)
        exact = torch.promote_types(dtype, torch.float32)
        total = hidden.new_zeros((), dtype=exact)
        for start in range(0, rows, chunk_rows):
            part = slice(start, min(start + chunk_rows, rows))
            y = targets[part]
            logits = products(h[part], w, logits_buffer[: len(y)])
            p = torch.softmax(logits, dim=1, out=logits)  # in place: the logits are spent
            total += _nats(p.gather(1, y[:, None])[:, 0].to(exact), h[part], w, y).sum()
            if not any(need):
                continue
            p[row_index[: len(y)], y] -= 1.0
            if grad_hidden is not None:
                of_part = grad_hidden[part]
                torch.addmm(of_part, p, w, beta=0, alpha=1 / rows, out=of_part)
            if grad_weight is not None:
                grad_weight.addmm_(p.T, h[part], beta=float(start > 0), alpha=1 / rows)
    return total / rows if rows else total * float("nan"), grad_hidden, grad_weight


def _rows_of_a_chunk(weight):
    return CHUNK_BYTES // (weight.element_size() * len(weight)) or 1


def products(h, w, out):
    """h (n, C) times every row of w (V, C), into out (n, V); returns it."""
    if h.dtype != torch.float32 or h.device.type != "cpu":
        return torch.mm(h, w.T, out=out)
    columns = zip(w.T.split(BLOCK_COLUMNS, dim=1), out.split(BLOCK_COLUMNS, dim=1), strict=True)
    for of_w, of_out in columns:
        torch.mm(h, of_w, out=of_out)
    return out


def _nats(p, h, w, y):
    """-log p (n,); probabilities too small for the softmax are computed again from h and w."""
    nats = -p.log()
    lost = p < torch.finfo(torch.float32).tiny
    if lost.any():
        logits = (h[lost] @ w.T).to(p.dtype)
        nats[lost] = F.cross_entropy(logits, y[lost], reduction="none")
    return nats


class _ReadyLogits(torch.autograd.Function):
    """A matrix product whose result is written by blocks of rows and columns."""

    @staticmethod
    def forward(ctx, hidden, weight):
        ctx.save_for_backward(hidden, weight)
        logits = hidden.new_empty(*hidden.shape[:-1], len(weight))
        rows = hidden.flatten(0, -2).split(_rows_of_a_chunk(weight))
        for part, out in zip(rows, logits.flatten(0, -2).split(len(rows[0])), strict=True):
            products(part, weight, out)
        return logits

    @staticmethod
    def backward(ctx, gradient):
        hidden, weight = ctx.saved_tensors
        of_hidden = gradient @ weight if ctx.needs_input_grad[0] else None
        of_weight = None
        if ctx.needs_input_grad[1]:
            # reshape: the passes of a batch (is_grads_batched=True) have no rule for flatten
            rows, width = gradient.reshape(-1, len(weight)), hidden.shape[-1]
            of_weight = rows.transpose(0, 1) @ hidden.reshape(-1, width)
        return of_hidden, of_weight


class _ReadyCrossEntropy(torch.autograd.Function):
    """The mean cross-entropy of logits (N, V), with its gradient ready when it is asked for.

    The gradient is handed out once, uncopied. A second backward pass, or one that is itself
    differentiated, starts from the logits as F.cross_entropy does.
    """

    @staticmethod
    def forward(ctx, logits, targets):
        counted = targets != -1
        number = int(counted.sum())
        gradient = torch.empty_like(logits)
        nats = logits.new_empty(len(targets))
        at_a_time = READY_ROWS * torch.get_num_threads()
        minus_one = logits.new_full((at_a_time, 1), -1.0)
        for start in range(0, len(targets), at_a_time):
            part = slice(start, start + at_a_time)
            p = torch.softmax(logits[part], dim=1, out=gradient[part])
            y = targets[part, None].clamp(min=0)
            nats[part] = -p.gather(1, y)[:, 0].log()
            p.scatter_add_(1, y, minus_one[: len(p)])
            p *= 1 / max(1, number)
        if number < len(targets):
            gradient[~counted] = 0
        lost = counted & (nats > -math.log(torch.finfo(torch.float32).tiny))
        if lost.any():  # too improbable for the softmax
            nats[lost] = F.cross_entropy(logits[lost], targets[lost], reduction="none")
        ctx.gradient = gradient
        ctx.save_for_backward(logits, targets)
        return nats[counted].sum() / number

    @staticmethod
    def backward(ctx, grad_output):
        gradient, ctx.gradient = ctx.gradient, None
        differentiated = torch.is_grad_enabled()
        if gradient is not None and not differentiated:
            if batched(grad_output):
                ctx.gradient = gradient  # the pass may come in chunks
                return gradient * grad_output, None
            return (gradient if grad_output == 1 else gradient.mul_(grad_output)), None
        logits, targets = ctx.saved_tensors
        with torch.enable_grad():
            loss = cross_entropy(logits, targets)
        (gradient,) = torch.autograd.grad(loss, logits, grad_output, create_graph=differentiated)
        return gradient, None


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, targets, chunk_rows, dtype):
        loss, *gradients = loss_and_gradients(
            hidden, weight, targets, dtype, chunk_rows, ctx.needs_input_grad[:2]
        )
        ctx.save_for_backward(*gradients, hidden, weight, targets)
        ctx.dtype = dtype
        ctx.dtypes = hidden.dtype, weight.dtype
        return loss

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
        if grad_hidden is not None:
            grad_hidden = scaled(grad_hidden.to(ctx.dtypes[0]), grad_output)
        if grad_weight is not None:
            grad_weight = scaled(grad_weight.to(ctx.dtypes[1]), grad_output)
        return grad_hidden, grad_weight, None, None, None


def scaled(gradient, scale):
    """gradient * scale; on the CPU, where looking costs nothing, a scale of 1 copies nothing."""
    looks = scale.device.type == "cpu" and not batched(scale)
    return gradient if looks and scale.item() == 1 else gradient * scale


def batched(tensor):
    """Whether it stands for several at once, as in a backward pass with is_grads_batched=True."""
    functorch = torch._C._functorch
    return functorch.is_legacy_batchedtensor(tensor) or functorch.is_batchedtensor(tensor)
