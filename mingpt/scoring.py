"""Log-probabilities of text under a model, in nats; held-out bits per byte."""

import math

import torch
from torch.nn import functional as F

from mingpt.fast import last_logits
from mingpt.modes import evaluating
from mingpt.pristine import pristine
from mingpt.tokens import token_tensor
from mingpt.utils import check_integer

WINDOW_BATCH = 16
HELDOUT_WINDOW, HELDOUT_STRIDE = 64, 32  # tokens


def token_log_probs(model, idx):
    """log p(idx[:, t+1] | idx[:, : t+1]) for idx (B, T) int64 -> (B, T-1) float64 nats.

    Past the model's block each token is predicted from the block_size tokens before it.
    Raises ValueError when there is no token to predict.
    """
    idx = token_tensor(idx, ndim=2)
    if idx.shape[1] < 2:
        raise ValueError("scoring needs at least two tokens: one to start from, one to predict")
    size = model.block_size
    with evaluating(model):
        rows = [model(idx[:, : min(size, idx.shape[1] - 1)])[0]]
        for end in range(size + 1, idx.shape[1]):
            rows.append(last_logits(model, idx[:, end - size : end]))
    log_probs = torch.cat(rows, dim=1).double().log_softmax(dim=-1)
    return log_probs.gather(-1, idx[:, 1:, None])[..., 0]


def sequence_log_prob(model, idx, prompt_length=1):
    """log p of idx[:, prompt_length:] given what comes before: (B,) float64 nats.

    The product of the token probabilities, taken as a sum in log space. Raises ValueError for
    a prompt_length outside 1 to T - 1, besides what `token_log_probs` refuses.
    """
    prompt_length = check_integer("prompt_length", prompt_length, at_least=1)
    idx = token_tensor(idx, ndim=2)
    if prompt_length >= max(2, idx.shape[1]):
        raise ValueError(
            f"prompt_length {prompt_length} leaves none of the {idx.shape[1]} tokens to score"
        )
    return token_log_probs(model, idx)[:, prompt_length - 1 :].sum(dim=1)


def brute_force_log_prob(model, idx, prompt_length):
    """`sequence_log_prob` of one sequence idx (1, T) the slow way, a float in nats.

    One forward pass per token, on nothing but what comes before it.
    """
    idx, log_product = token_tensor(idx, ndim=2), 0.0
    with evaluating(model):
        for end in range(prompt_length, idx.shape[1]):
            probabilities = model(idx[:, :end])[0][0, -1].double().softmax(dim=-1)
            log_product += math.log(probabilities[idx[0, end]])
    return log_product


def perplexity(log_probs):
    """exp of the mean negative log-probability of log_probs (..., T) nats -> (...)."""
    return (-log_probs.mean(dim=-1)).exp()


def windows(context, tokens, size=64, stride=32):
    """Overlapping windows that score each token of `tokens` (N,) int64 once.

    Windows of `size` inputs move by `stride`; each scores its last `stride` targets, so every
    token is predicted from at least size - stride tokens. The end of `context` (M,) serves the
    first window. Both may be arrays or lists. Returns x, y, each (W, size) int64, y -1 where not
    scored.
    Raises ValueError for a context too short, no tokens, or a stride outside 1 to size.
    """
    size = check_integer("size", size, at_least=1)
    stride = check_integer("stride", stride, at_least=1)
    if stride > size:
        raise ValueError(f"stride should be at most the size {size}, not {stride}")
    context, tokens = token_tensor(context), token_tensor(tokens)
    if len(tokens) == 0:
        raise ValueError("there should be tokens (N,) to score, not none")
    overlap = size - stride
    if len(context) <= overlap:
        raise ValueError(f"the context should hold more than {overlap} tokens")
    text = torch.cat([context[len(context) - overlap - 1 :], tokens])
    count = math.ceil(len(tokens) / stride)
    text = F.pad(text, (0, count * stride - len(tokens)), value=-1)
    blocks = text.unfold(0, size + 1, stride)
    x, y = blocks[:, :-1].clamp(min=0), blocks[:, 1:].clone()
    y[:, :overlap] = -1
    return x, y


def bits_per_byte(model, context, tokens, num_bytes, size=None, stride=None):
    """-log2 p(tokens | context) / num_bytes, each token scored once (see `windows`).

    Windows of `size` tokens (default the model's block) moved by `stride` (default half).
    The model is evaluated in eval mode and left as it was. Raises ValueError as `windows` does,
    for a size above the model's block, and for num_bytes below 1.
    """
    num_bytes = check_integer("num_bytes", num_bytes, at_least=1)
    size = model.block_size if size is None else size
    x, y = windows(context, tokens, size, max(1, size // 2) if stride is None else stride)
    device = next(model.parameters()).device
    nats = 0.0
    with evaluating(model):
        options = {"loss_only": True} if pristine(model) else {}
        for start in range(0, len(x), WINDOW_BATCH):
            targets = y[start : start + WINDOW_BATCH].to(device)
            inputs = x[start : start + WINDOW_BATCH].to(device)
            _, loss = model(inputs, targets, **options)
            nats += float(loss) * int((targets != -1).sum())
    return nats / math.log(2) / num_bytes


def heldout_bits_per_byte(model, book, encoder):
    """Bits per byte of a Book's held-out part, in windows of 64 tokens moved by 32.

    A model with a smaller block takes windows of its size. encoder: that of the book's tokens.
    """
    size = min(HELDOUT_WINDOW, model.block_size)
    return bits_per_byte(
        model, book.train, book.heldout, heldout_bytes(book, encoder), size,
        min(HELDOUT_STRIDE, max(1, size // 2)),
    )


def heldout_log_probs(model, book):
    """log p of every held-out token of a Book, (N,) float64 nats, in the windows of
    `heldout_bits_per_byte`."""
    size = min(HELDOUT_WINDOW, model.block_size)
    x, y = windows(book.train, book.heldout, size, min(HELDOUT_STRIDE, max(1, size // 2)))
    device, found = next(model.parameters()).device, []
    with evaluating(model):
        for inputs, targets in zip(x.split(WINDOW_BATCH), y.split(WINDOW_BATCH), strict=True):
            rows = model(inputs.to(device))[0][targets != -1].log_softmax(dim=-1)
            wanted = targets[targets != -1].to(device)
            found.append(rows.gather(1, wanted[:, None])[:, 0].double())
    return torch.cat(found).cpu()


def heldout_bytes(book, encoder):
    """UTF-8 bytes of a Book's held-out text."""
    return len(encoder.decode_bytes(book.heldout.tolist()))
