"""What model.py computes, with less work: for a model that is `pristine`, and for nobody else.

Attention never holds its scores, the loss never holds its logits, generation keeps the keys and
values of earlier positions, and the head is applied to the positions that are asked for. Each is
held to model.py's computation by tests.
"""

import math

import torch
from torch.nn import functional as F

from mingpt.loss import linear_cross_entropy, ready_cross_entropy, ready_logits
from mingpt.model_arguments import check_tokens
from mingpt.pristine import pristine


def logits_and_loss(model, x, targets, loss_only=False, last_only=False):
    """`GPT.forward` from x (B, T, C), what enters the first block: (logits, loss)."""
    x = hidden_states(model, x, last_only=last_only)
    if loss_only:
        return None, linear_cross_entropy(
            x.flatten(0, 1), model.lm_head.weight, targets.flatten().long()
        )
    if last_only:
        return head_of_last(model, x), None
    if targets is None:
        return model.lm_head(x), None
    logits = ready_logits(x, model.lm_head.weight)
    return logits, ready_cross_entropy(logits, targets)


def embed_to_train(model, idx):
    """`model.embed(idx)` for a step whose loss comes from the head.

    Where the head shares the token embedding's weights, its gradient is dense anyway: what the few
    rows of `idx` add to it is then a sparse gradient instead of another dense one. Else it is
    sparse where the embedding asks for that.
    """
    wte = model.transformer.wte
    sparse = wte.sparse or model.lm_head.weight is wte.weight
    tokens = F.embedding(
        idx, wte.weight, wte.padding_idx, wte.max_norm, wte.norm_type, wte.scale_grad_by_freq,
        sparse=sparse,
    )  # fmt: skip
    return model.embed(embeddings=tokens)


def hidden_states(model, x, past=None, last_only=False):
    """What the head multiplies, (B, T, C), or (B, 1, C) with last_only, from x (B, T, C).

    past: list of one dict per block, which gives and takes the keys and values of earlier
    positions; x is then all positions, or the one that follows them. Without gradients.
    """
    blocks = model.transformer.h
    for number, block in enumerate(blocks):
        last = last_only and number == len(blocks) - 1 and not torch.is_grad_enabled()
        attended = attention(block.attn, block.ln_1(x), past and past[number], last)
        x = (x[:, -1:] if last else x) + attended
        x = x + block.mlpf(block.ln_2(x))
    return model.transformer.ln_f(x[:, -1:] if last_only else x)


def attention(attn, x, past=None, last_only=False):
    """`CausalSelfAttention.forward` of x (B, T, C), or its last position alone, (B, 1, C)."""
    if acts(attn.attn_dropout):  # a dropout within the fused form is none on the CPU
        return attn(x)[:, -1:] if last_only else attn(x)
    q, k, v = attn.query_key_value(x)
    if past is not None:
        if past:
            k = torch.cat([past["k"], k], dim=2)  # (B, nh, T_past + T, hs)
            v = torch.cat([past["v"], v], dim=2)
        past["k"], past["v"] = k, v
    if last_only:
        q = q[:, :, -1:]  # (B, nh, 1, hs)
    y = causal_attention(q, k, v).transpose(1, 2)  # (B, T or 1, nh, hs)
    y = y.reshape(len(x), y.shape[1], x.shape[2])
    return attn.resid_dropout(attn.c_proj(y))


def causal_attention(q, k, v):
    """softmax(q k^T / sqrt(hs)) v, causally, for q, k, v (B, nh, T, hs) -> (B, nh, T, hs).

    A single query (B, nh, 1, hs) stands at the end and sees every key. Differentiable twice.
    """
    if q.requires_grad and q.numel() and not torch.compiler.is_compiling():
        return _CausalAttention.apply(q, k, v)
    return F.scaled_dot_product_attention(q, k, v, is_causal=q.shape[2] > 1)


HAS_BACKWARD = {"cpu"}  # devices whose fused backward pass is called here directly


class _CausalAttention(torch.autograd.Function):
    """PyTorch's fused attention, whose backward pass has no derivative, with one.

    Where a derivative of the gradient is wanted (create_graph) the explicit form is differentiated.
    """

    @staticmethod
    def forward(ctx, q, k, v):
        if q.device.type in HAS_BACKWARD:
            y, log_sum = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
                q, k, v, dropout_p=0.0, is_causal=True
            )
            ctx.save_for_backward(q, k, v, y, log_sum)
            return y
        ctx.save_for_backward(q, k, v)
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    @staticmethod
    def backward(ctx, gradient):
        q, k, v, *result = ctx.saved_tensors
        if torch.is_grad_enabled():
            y = _explicit_attention(q, k, v)
            return torch.autograd.grad(y, (q, k, v), gradient, create_graph=True)
        if result:
            return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
                gradient, q, k, v, *result, dropout_p=0.0, is_causal=True
            )
        with torch.enable_grad():  # elsewhere PyTorch chooses among forms: computed again
            inputs = [t.detach().requires_grad_() for t in (q, k, v)]
            y = F.scaled_dot_product_attention(*inputs, is_causal=True)
        return torch.autograd.grad(y, inputs, gradient)


def _explicit_attention(q, k, v):
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
    return scores.masked_fill(future, float("-inf")).softmax(dim=-1) @ v


def head_of_last(model, x):
    """The head for the last position alone: x (B, 1, C) -> logits (B, 1, V).

    With few rows the time goes into reading the weights. MKL reads them up to four times
    as fast for (V, C) @ (C, 2) as for its matrix-vector product or for (2, C) @ (C, V), so
    a lone column goes in twice; beyond eight the head itself is as fast.
    """
    if not 0 < len(x) <= 8:
        return model.lm_head(x)
    columns = x[:, 0].repeat(2 if len(x) == 1 else 1, 1).T  # (C, at least 2)
    return (model.lm_head.weight @ columns).T[: len(x), None]


def last_logits(model, idx):
    """`model(idx)[0][:, -1:]` for idx (B, T) int64, (B, 1, V), of any model."""
    if pristine(model, idx.shape[1]):
        return model(idx, last_only=True)[0]
    return model(idx)[0][:, -1:]


def continuation(model, previous=None):
    """A Continuation of a model, `previous` where there is one; False where every token needs the
    model's own forward pass over the whole window."""
    return pristine(model) and not draws(model) and (previous or Continuation(model))


class Continuation:
    """Logits of the token to come for a sequence that grows by one token at a time.

    Keys and values are kept while the sequence fits the block. Beyond it the window slides, every
    position moves, and the window is computed afresh.
    """

    def __init__(self, model):
        self.model = model
        self.past = None

    @torch.inference_mode()
    def logits(self, idx):
        """idx (B, T) int64, a token longer than at the last call -> (B, V), an inference tensor."""
        return head_of_last(self.model, self.hidden_state(idx))[:, 0]

    @torch.inference_mode()
    def hidden_state(self, idx):
        """As `logits`, what the head multiplies, (B, 1, C)."""
        model, start = self.model, 0
        if self.past is None:
            check_tokens(idx, len(model.transformer.wte.weight))
        if idx.shape[1] > model.block_size:
            idx, self.past = idx[:, -model.block_size :], None
        elif self.past is None:
            self.past = [{} for _ in model.transformer.h]
        else:
            start = idx.shape[1] - 1
        x = model.embed(idx[:, start:], start=start)
        return hidden_states(model, x, self.past, last_only=True)


def acts(dropout):
    """Whether an nn.Dropout drops anything as it stands."""
    return dropout.training and dropout.p > 0


def draws(model):
    """Whether any dropout of the model acts."""
    return any(acts(m) for m in model.modules() if isinstance(m, torch.nn.Dropout))
