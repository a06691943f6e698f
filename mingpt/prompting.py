"""Prompts of words and of learnt vectors: what a model answers, and how a soft prompt is learnt.

A soft prompt (Lester et al. 2021, arXiv 2104.08691) is `length` vectors that stand before the
token embeddings of a frozen model and take the first positions. Gradient descent on examples of a
task finds them.
"""

import copy
from typing import NamedTuple

import torch
from torch.nn.utils.rnn import pad_sequence

from mingpt import fast
from mingpt.model_arguments import check_tokens
from mingpt.modes import evaluating
from mingpt.progress import bar
from mingpt.sampling import next_token
from mingpt.tokens import token_tensor
from mingpt.utils import InputError, check_integer, check_number

STEPS, BATCH_SIZE = 250, 32  # of `tune`
GROUP = 128  # prompts that are continued at once


class SoftPrompt(NamedTuple):
    """What `tune` found."""

    vectors: torch.Tensor  # (length, C) in place of the token embedding's output
    losses: list  # mean cross-entropy of a batch's answer tokens in nats, before each step


class FineTuned(NamedTuple):
    """What `finetune` made."""

    model: torch.nn.Module  # a copy, in eval mode
    losses: list  # as of a SoftPrompt


class Completion(NamedTuple):
    """How a model went on after one prompt."""

    tokens: list  # ints, to the first of `ends`, which is the last of them, or as many as asked
    log_probs: list  # of each, in nats, at temperature 1; of an end that of all `ends` together
    entropies: list  # of the distribution each was drawn from, in nats; 0 where none is


# --- Learning -----------------------------------------------------------------------------------


def tune(model, pairs, length=5, seed=0, *, steps=STEPS, batch_size=BATCH_SIZE,
         learning_rate=0.1, progress=False):
    """Learn a SoftPrompt of `length` vectors that makes the frozen model answer as in pairs.

    pairs: list of (prompt, answer), tokens each (list or tensor (T,) of whole numbers); the loss
    is the mean cross-entropy of the answers' tokens, whose ends should be tokens of theirs. Adam,
    its rate falling linearly to 0. The vectors start as Gaussian noise of the token embedding's
    scale; it and the batches are drawn from `seed`.
    Raises ValueError for no pairs, empty parts, tokens outside the vocabulary, vectors and pair
    that do not fit the block, and settings out of range.
    """
    length = check_integer("length", length, at_least=1)
    generator = torch.Generator().manual_seed(check_integer("seed", seed, at_least=0))
    with evaluating(model, gradients=True):
        table = model.transformer.wte.weight
        noise = torch.randn(length, table.shape[1], dtype=torch.float32, generator=generator)
        vectors = (noise.to(table.device) * table.detach().float().std()).requires_grad_()
        losses = _learn(model, vectors, [vectors], pairs, seed, steps, batch_size, learning_rate,
                        progress)  # fmt: skip
    return SoftPrompt(vectors.detach(), losses)


def finetune(model, pairs, seed=0, *, steps=STEPS, batch_size=BATCH_SIZE, learning_rate=1e-3,
             progress=False):
    """Train all weights of a copy of the model on what `tune` sees, batch for batch: FineTuned.

    Raises ValueError as `tune` does.
    """
    with evaluating(model, gradients=True):
        tuned = copy.deepcopy(model)
        no_vectors = tuned.transformer.wte.weight[:0].detach()
        losses = _learn(tuned, no_vectors, list(tuned.parameters()), pairs, seed, steps, batch_size,
                        learning_rate, progress)  # fmt: skip
    return FineTuned(tuned, losses)


def _learn(model, vectors, parameters, pairs, seed, steps, batch_size, learning_rate, progress):
    """Minimise the answers' cross-entropy in some parameters; the losses before each step."""
    steps = check_integer("steps", steps, at_least=1)
    batch_size = check_integer("batch_size", batch_size, at_least=1)
    learning_rate = check_number("learning_rate", learning_rate, at_least=0)
    tokens, targets = _blocks(model, pairs, len(vectors))
    generator = torch.Generator().manual_seed(check_integer("seed", seed, at_least=0))
    losses, shown = [], bar(range(steps), desc="tuning", shown=progress)
    optimizer = torch.optim.Adam(parameters, lr=learning_rate)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)
    for _ in shown:
        chosen = torch.randint(len(tokens), (batch_size,), generator=generator)
        x = with_prefix(model, tokens[chosen].to(vectors.device), vectors)
        _, loss = model(embeddings=x, targets=targets[chosen].to(vectors.device))
        losses.append(loss.item())
        gradients = torch.autograd.grad(loss, parameters)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
        schedule.step()
    optimizer.zero_grad()
    return losses


def with_prefix(model, idx, vectors):
    """The input embeddings (B, length + T, C) of vectors (length, C) and tokens idx (B, T)."""
    words = model.transformer.wte(idx)
    prefix = vectors.to(words.dtype).expand(len(idx), *vectors.shape)
    return torch.cat([prefix, words], dim=1)


def _blocks(model, pairs, length):
    """Inputs (N, T) and targets (N, length + T), -1 but for the answers'. Raises ValueError."""
    if len(pairs) == 0:
        raise ValueError("there should be pairs (prompt, answer) to learn from, not none")
    tokens, targets = [], []
    for prompt, answer in pairs:
        prompt, answer = token_tensor(prompt), token_tensor(answer)
        if not (len(prompt) and len(answer)):
            raise ValueError("a pair's prompt and its answer should have at least one token each")
        whole = torch.cat([prompt, answer])
        check_tokens(whole[None], len(model.transformer.wte.weight))
        tokens.append(whole[:-1])
        target = torch.full((length + len(whole) - 1,), -1)
        target[-len(answer) :] = answer
        targets.append(target)
    longest = max(map(len, tokens))
    if length + longest > model.block_size:
        raise ValueError(
            f"{length} vectors and a pair of {longest + 1} tokens do not fit the block of "
            f"{model.block_size}: it leaves room for {max(0, model.block_size - longest)} vectors"
        )
    # What stands behind an answer is seen by nothing before it.
    return pad_sequence(tokens, True, 0), pad_sequence(targets, True, -1)


# --- Asking -------------------------------------------------------------------------------------


def complete(model, prompts, max_new_tokens, *, vectors=None, ends=(), temperature=0.0,
             generator=None, progress=False):
    """A Completion of each prompt, in their order.

    prompts: list of tokens (list or tensor (T,)), of any lengths: those of one length are
    continued together, with keys and values kept. vectors (length, C) stand before each.
    temperature 0 is greedy; above, tokens are drawn from `generator`. `ends`: tokens that end a
    completion.
    Raises ValueError for a prompt that is empty, or that leaves no room for max_new_tokens, for
    vectors of another shape and for ends outside the vocabulary.
    """
    room = check_integer("max_new_tokens", max_new_tokens, at_least=1)
    vocab_size, width = model.transformer.wte.weight.shape
    if vectors is None:
        vectors = model.transformer.wte.weight.new_empty(0, width)
    if vectors.dim() != 2 or vectors.shape[1] != width:
        raise InputError(f"vectors should be (length, {width}), not {tuple(vectors.shape)}")
    if ends:
        check_tokens(torch.tensor([list(ends)]), vocab_size)
    by_length = {}
    for place, prompt in enumerate(prompts):
        prompt = token_tensor(prompt)
        if len(prompt) == 0:
            raise InputError("the prompt is empty: give at least one token")
        if len(vectors) + len(prompt) + room > model.block_size + 1:
            raise InputError(
                f"a prompt of {len(vectors) + len(prompt)} tokens leaves no room for {room} more "
                f"in the model's block of {model.block_size}"
            )
        by_length.setdefault(len(prompt), []).append((place, prompt))
    found = [None] * len(prompts)
    shown = bar(total=len(prompts), desc="answers", unit="prompt", shown=progress)
    with shown, evaluating(model):
        for _, alike in sorted(by_length.items()):
            for start in range(0, len(alike), GROUP):
                places, group = zip(*alike[start : start + GROUP], strict=True)
                made = _continue(
                    model, torch.stack(group), vectors, room, set(ends), temperature, generator
                )
                for place, completion in zip(places, made, strict=True):
                    found[place] = completion
                shown.update(len(group))
    return found


def _continue(model, idx, vectors, room, ends, temperature, generator):
    """Completions of prompts idx (B, T)."""
    idx = idx.to(vectors.device)
    check_tokens(idx, len(model.transformer.wte.weight))
    past = [{} for _ in model.transformer.h] if fast.continuation(model) else None
    x = with_prefix(model, idx, vectors)
    columns, ended = [], torch.zeros(len(idx), dtype=torch.bool)
    stops = torch.tensor(sorted(ends), dtype=torch.int64, device=idx.device)
    while len(columns) < room and not ended.all():
        logits = _next_logits(model, x, past)
        token = next_token(logits, temperature, temperature > 0, generator=generator)
        plain = logits.double().log_softmax(dim=-1)
        entropy = logits.new_zeros(len(logits)).double()  # of the limit at temperature 0
        if temperature > 0:
            heated = (logits.double() / temperature).log_softmax(dim=-1)
            entropy = torch.special.entr(heated.exp()).sum(dim=-1)
        log_prob, ending = plain.gather(1, token)[:, 0], torch.isin(token[:, 0], stops)
        log_prob = torch.where(ending, plain[:, stops].logsumexp(dim=1), log_prob)
        columns.append((token[:, 0].cpu(), log_prob.cpu(), entropy.cpu()))
        ended |= ending.cpu()
        x = torch.cat([x, model.transformer.wte(token)], dim=1)
    tokens, log_probs, entropies = (
        torch.stack(part, dim=1).tolist() for part in zip(*columns, strict=True)
    )
    lengths = [
        next((place + 1 for place, token in enumerate(row) if token in ends), len(row))
        for row in tokens
    ]
    return [
        Completion(*(part[row][:length] for part in (tokens, log_probs, entropies)))
        for row, length in enumerate(lengths)
    ]


def _next_logits(model, x, past):
    """Logits (B, V) of the token after input embeddings x (B, T, C), all positions so far.

    past: as in `fast.hidden_states`, None where the model has to compute every position.
    """
    if past is None:
        return model(embeddings=x)[0][:, -1]
    start = x.shape[1] - 1 if past[0] else 0
    entering = model.embed(embeddings=x[:, start:], start=start)
    hidden = fast.hidden_states(model, entering, past, last_only=True)
    return fast.head_of_last(model, hidden)[:, 0]
