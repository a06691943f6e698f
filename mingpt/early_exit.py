"""Leaving a GPT early: a token stops at the first block whose answer is sure enough.

After every block the final norm and the head are applied to the state, as if it were the last
(Teerapittayanon et al. 2016, BranchyNet; for language models Schuster et al. 2022, CALM). A token
that has left keeps its state; later tokens look at it in the blocks that it skipped, whose keys and
values are computed from that state (CALM).
"""

import math

import torch
from torch.nn import functional as F

from mingpt.fast import head_of_last
from mingpt.loss import linear_cross_entropy
from mingpt.model import GPT
from mingpt.model_arguments import check_length, check_tokens
from mingpt.modes import evaluating
from mingpt.pristine import pristine
from mingpt.sampling import check_sampling, next_token
from mingpt.tokens import token_tensor
from mingpt.utils import InputError, check_integer, check_number


def top_probability(logits):
    """The largest probability, (...) for logits (..., V)."""
    return (logits.amax(dim=-1) - logits.logsumexp(dim=-1)).exp()


def certainty(logits):
    """1 - H / log V, H the entropy: 0 for a uniform guess, 1 for no doubt; (...) for (..., V)."""
    log_probs = logits.log_softmax(dim=-1)
    entropy = -(log_probs.exp() * log_probs).sum(dim=-1)
    return 1 - entropy / math.log(logits.shape[-1])


CONFIDENCES = {"probability": top_probability, "entropy": certainty}


def forward(model, idx, threshold=0.9, confidence="probability"):
    """Logits (B, T, V) of each token's exit, and exits (B, T) int64, the blocks that ran for it.

    idx (B, T) int64. A token leaves after the first block at which its confidence is above the
    threshold, after the last one otherwise: threshold 1 runs all blocks, as `model(idx)` does, and
    0 the first alone (but for a uniform guess). confidence: "probability", the largest, or
    "entropy", 1 - H / log V. Without gradients, in eval mode; perceptrons and heads are computed
    for the tokens that are still on their way. Raises InputError for a threshold outside [0, 1], an
    unknown confidence, tokens that do not fit, and a model with changed parts.
    """
    threshold = check(model, threshold, confidence)
    idx = token_tensor(idx, ndim=2)
    check_length(idx, model.block_size)
    check_tokens(idx, len(model.transformer.wte.weight))
    with evaluating(model):
        return _leave(model, model.embed(idx), threshold, CONFIDENCES[confidence])


def generate(model, idx, max_new_tokens, threshold=0.9, confidence="probability", *,
             temperature=1.0, do_sample=False, top_k=None, top_p=None, generator=None):
    """`GPT.generate` with early exits: (idx (B, T + n), exits (B, n) int64), n max_new_tokens.

    exits: the blocks that ran for the position that each new token came from. Keys and values are
    kept; a block that no sequence of the batch needs computes nothing else. Beyond the block size
    the window slides and is computed afresh. With threshold 1 the tokens are those of `generate`.
    Raises as `forward` and `generate` do.
    """
    threshold = check(model, threshold, confidence)
    count = check_integer("max_new_tokens", max_new_tokens, at_least=0)
    check_sampling(temperature, top_k, top_p)
    idx = token_tensor(idx, ndim=2)
    if idx.shape[1] == 0:
        raise InputError("the prompt is empty: give at least one token")
    check_tokens(idx, len(model.transformer.wte.weight))
    exits, past = [], None
    with evaluating(model):
        for _ in range(count):
            start = 0 if past is None else idx.shape[1] - 1
            if idx.shape[1] > model.block_size:
                window, start, past = idx[:, -model.block_size :], 0, None
            else:
                window = idx[:, start:]
                past = past or [{} for _ in model.transformer.h]
            x = model.embed(window, start=start)
            logits, ran = _leave(model, x, threshold, CONFIDENCES[confidence], past)
            token = next_token(logits[:, -1], temperature, do_sample, top_k, top_p, generator)
            idx = torch.cat([idx, token], dim=1)
            exits.append(ran[:, -1:])
    return idx, torch.cat(exits, dim=1) if exits else idx[:, :0]


def check(model, threshold, confidence):
    """The threshold as a float. Raises InputError as `forward` says."""
    if confidence not in CONFIDENCES:
        raise InputError(f"unknown confidence {confidence!r}; known: {', '.join(CONFIDENCES)}")
    if not pristine(model):
        raise InputError("early exit needs this package's GPT as it was built, without hooks")
    return check_number("threshold", threshold, at_least=0, at_most=1)


def exit_logits(model, idx):
    """What each block would answer: logits (L, B, T, V) after blocks 1 to L, all of them run.

    Without gradients, in eval mode.
    """
    with evaluating(model):
        return torch.stack([model.lm_head(x) for x in _states(model, idx)])


def _states(model, idx):
    """The normed states (B, T, C) after every block, in order."""
    x = model.embed(idx)
    for block in model.transformer.h:
        x = block(x)
        yield model.transformer.ln_f(x)


def _leave(model, x, threshold, confidence, past=None):
    """(logits (B, T, V), exits (B, T)) from x (B, T, C), what enters the first block.

    past: list of one dict a block, which gives and takes the keys and values of earlier positions;
    x is then all positions, or the one that follows them.
    """
    blocks = model.transformer.h
    logits = x.new_empty(*x.shape[:2], len(model.lm_head.weight))
    exits = torch.full(x.shape[:2], len(blocks), device=x.device)
    going = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
    for number, block in enumerate(blocks, 1):
        if not going.any() and past is None:
            break
        kept = None if past is None else past[number - 1]
        x = _through(block, x, going, kept)
        if not going.any() or (number < len(blocks) and threshold == 1):
            continue
        answers = head_of_last(model, model.transformer.ln_f(x[going])[:, None])[:, 0]
        logits[going] = answers  # of those that go on, until a later block's
        if number < len(blocks):
            leaves = torch.zeros_like(going)
            leaves[going] = confidence(answers) > threshold
            exits[leaves] = number
            going &= ~leaves
    return logits, exits


def _through(block, x, going, kept):
    """One block for the positions of x (B, T, C) that are `going` (B, T); the others stay as they
    are, but for their keys and values."""
    attn, normed = block.attn, block.ln_1(x)
    if not going.any():
        _, k, v = _key_and_value(attn, normed)
        _keep(kept, k, v)
        return x
    q, k, v = attn.query_key_value(normed)
    if kept is not None:
        k, v = _keep(kept, k, v)
    T, T_all = q.shape[2], k.shape[2]
    scores = q / q.shape[-1] ** 0.5 @ k.transpose(-2, -1)  # (B, nh, T, T_all)
    if T > 1:
        future = torch.ones(T, T_all, dtype=torch.bool, device=x.device).triu(1)
        scores = scores.masked_fill(future, float("-inf"))
    y = (scores.softmax(dim=-1) @ v).transpose(1, 2).reshape(x.shape)
    h = x[going] + attn.c_proj(y[going])  # (N, C)
    return x.index_put([going], h + block.mlpf(block.ln_2(h)))


def _key_and_value(attn, normed):
    """As `query_key_value`, without the query: (None, k, v)."""
    C = normed.shape[-1]
    both = F.linear(normed, attn.c_attn.weight[C:], attn.c_attn.bias[C:])
    heads = (*normed.shape[:2], attn.n_head, C // attn.n_head)
    return None, *(t.view(heads).transpose(1, 2) for t in both.split(C, dim=2))


def _keep(kept, k, v):
    """Keys and values of earlier positions and these, (B, nh, T_all, hs) each, now kept."""
    if kept:
        k, v = torch.cat([kept["k"], k], dim=2), torch.cat([kept["v"], v], dim=2)
    kept["k"], kept["v"] = k, v
    return k, v


class JointlyTrained(GPT):
    """A GPT that trains the answers of all exits; `plain` gives the GPT with its weights.

    The loss after block i of L has the weight i / (1 + ... + L) (CALM).
    """

    def forward(self, idx, targets):
        """(None, loss) for idx, targets (B, T) int64: the weighted mean of the cross-entropies."""
        count, loss = len(self.transformer.h), 0.0
        for number, x in enumerate(_states(self, idx), 1):
            of_exit = linear_cross_entropy(
                x.flatten(0, 1), self.lm_head.weight, targets.flatten().long()
            )
            loss = loss + 2 * number / (count * (count + 1)) * of_exit
        return None, loss

    def plain(self):
        """A GPT with these weights, in eval mode."""
        model = GPT(self.config, generator=torch.Generator())
        model.load_state_dict(self.state_dict())
        return model.eval()
