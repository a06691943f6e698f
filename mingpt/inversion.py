"""Inverting a model: input vectors whose next-token predictions spell a given sentence."""

from typing import NamedTuple

import torch
from torch.nn import functional as F

from mingpt import leads
from mingpt.intervals import share_interval
from mingpt.modes import evaluating
from mingpt.pristine import pristine
from mingpt.progress import bar
from mingpt.scoring import sequence_log_prob
from mingpt.utils import check_integer, check_number


class Inversion(NamedTuple):
    """What `invert` found."""

    vectors: torch.Tensor  # (T, C) in place of the token embedding's output
    losses: list  # cross-entropy in nats before each step
    history: list  # (step, (T,) int64 argmax tokens), every `record_every` steps and at the end
    reached: bool  # whether every target's logit leads by more than the margin asked for
    margins: torch.Tensor  # (T,) logit of the target minus the best other logit
    steps: int  # optimiser steps taken
    start: torch.Tensor  # (T, C) the vectors before the first step


def invert(model, target_ids, seed=0, max_steps=500, learning_rate=0.05, record_every=25,
           margin=0.0, progress=False):
    """Learn vectors (T, C) with argmax model(vectors)[i] = target_ids[i] for every i.

    The model is frozen; Adam minimises the cross-entropy of all T positions. Vectors and loss are
    float32, or of the model's dtype where that is finer. The vectors start as Gaussian noise of
    the token embedding's scale, drawn from `seed`. Stops as soon as every target's logit leads by
    more than `margin`, or after max_steps.
    target_ids (T,) int64. Raises ValueError for an empty or too long target, tokens outside the
    vocabulary, or settings out of range.
    """
    (found,) = invert_all(
        model, [target_ids], [seed], max_steps, learning_rate, record_every, margin, progress
    )
    return found


def invert_all(model, targets, seeds, max_steps=500, learning_rate=0.05, record_every=25,
               margin=0.0, progress=False, on_step=lambda step: None):
    """`invert` for N targets of one length and as many seeds, side by side: a list of Inversions.

    Each is optimised for itself and stops for itself; together they read the weights once a step.
    on_step(steps taken so far) is called after every step.
    Raises ValueError as `invert` does, and for targets of several lengths.
    """
    seeds = [check_integer("seed", seed, at_least=0) for seed in seeds]
    max_steps = check_integer("max_steps", max_steps, at_least=0)
    record_every = check_integer("record_every", record_every, at_least=1)
    learning_rate = check_number("learning_rate", learning_rate, at_least=0)
    margin = check_number("margin", margin, at_least=0)
    table = model.transformer.wte.weight
    targets = _checked(targets, model.block_size, len(table))
    shown = bar(total=max_steps, desc="inversion", unit="step", shown=progress)
    with shown, evaluating(model, gradients=True):
        targets = targets.clone().to(table.device)
        exact = torch.promote_types(table.dtype, torch.float32)
        scale = table.detach().to(exact).std()
        shape = targets.shape[1], table.shape[1]
        starts = [
            torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)
            .to(table.device, exact) * scale
            for seed in seeds
        ]  # fmt: skip
        vectors = [start.clone().requires_grad_() for start in starts]
        optimizer = torch.optim.Adam(vectors, lr=learning_rate)
        losses, history = ([[] for _ in seeds] for _ in range(2))
        found, left = {}, list(range(len(seeds)))
        for step in range(max_steps + 1):
            say = step % record_every == 0 or step == max_steps
            wanted = targets[left]
            now = _leads(model, torch.stack([vectors[n] for n in left]), wanted, say)
            of_each = now.nats.mean(dim=1)
            for place, n in enumerate(left):
                losses[n].append(of_each[place].item())
                reached = bool((now.margins[place] > margin).all())
                stop = reached or step == max_steps
                if say or stop:  # one that is reached says its target
                    said = now.said if say else wanted
                    history[n].append((step, said[place].cpu()))
                if stop:
                    found[n] = Inversion(
                        vectors[n].detach(), losses[n], history[n], reached,
                        now.margins[place].cpu(), step, starts[n],
                    )  # fmt: skip
            left = [n for n in left if n not in found]
            if not left:
                break
            going = [vectors[n] for n in left]
            gradients = torch.autograd.grad(of_each.sum(), going)
            optimizer.zero_grad()  # one that has stopped gets no gradient and stays
            for vector, gradient in zip(going, gradients, strict=True):
                vector.grad = gradient
            optimizer.step()
            shown.update()
            on_step(step + 1)
    return [found[n] for n in range(len(seeds))]


def invert_many(model, targets, seed, margin, group=20):
    """`invert_all` for any number of targets, `group` at a time, with seeds from `seed` upwards."""
    found = []
    with bar(total=len(targets), desc="inversion", unit="start") as shown:
        for start in range(0, len(targets), group):
            part = targets[start : start + group]
            seeds = range(seed + start, seed + start + len(part))
            found += invert_all(
                model, part, seeds, margin=margin, on_step=lambda step: shown.set_postfix(step=step)
            )
            shown.update(len(part))
    return found


def _checked(targets, block_size, vocab_size):
    """The targets as one tensor (N, T) int64."""
    targets = [torch.as_tensor(target) for target in targets]
    for target in targets:
        if target.numel() and (target.is_floating_point() or target.dtype == torch.bool):
            raise ValueError(f"target_ids should be whole numbers, not {target.dtype}")
        if target.ndim != 1 or not 0 < len(target) <= block_size:
            raise ValueError(
                f"the sentence has {target.numel()} tokens; inversion takes 1 to {block_size}"
            )
        if not 0 <= int(target.min()) <= int(target.max()) < vocab_size:
            raise ValueError(f"token out of range: allowed 0 to {vocab_size - 1}")
    if len({len(target) for target in targets}) != 1:
        raise ValueError("the targets should be of one length")
    return torch.stack([target.long() for target in targets])


def _leads(model, vectors, targets, say):
    """Leads (N, T) of vectors (N, T, C) in place of the token embedding, for targets (N, T)."""
    vectors = vectors.to(model.transformer.wte.weight.dtype)
    exact = torch.promote_types(vectors.dtype, torch.float32)
    if pristine(model, vectors.shape[1]) and model.lm_head.weight.dtype == exact:
        hidden = model.hidden_states(embeddings=vectors).flatten(0, 1)
        found = leads.of_hidden(hidden, model.lm_head.weight, targets.flatten(), say)
    else:
        logits = model(embeddings=vectors)[0].to(exact).flatten(0, 1)
        found = leads.of_logits(logits, targets.flatten(), say)
    return leads.Leads(*(None if each is None else each.view(targets.shape) for each in found))


class NearestTokens(NamedTuple):
    """The real token embeddings closest to given vectors."""

    ids: torch.Tensor  # (T,) int64
    distances: torch.Tensor  # (T,) Euclidean
    cosines: torch.Tensor  # (T,) largest cosine with any token embedding
    predicted: torch.Tensor  # (T,) int64: argmax of the model fed with `ids`
    typical_distance: float  # median distance of a known token's embedding to its neighbour


def nearest(table, vectors):
    """Distances and ids of the rows of table (V, C) that are nearest to vectors (N, C): (N,)."""
    distances, ids = torch.cdist(vectors[None], table[None].to(vectors.dtype))[0].min(dim=1)
    return distances, ids


def nearest_tokens(model, vectors, known, sample=512):
    """NearestTokens of vectors (T, C), and what the model predicts from those tokens.

    typical_distance: the median over at most `sample` of the tokens `known` (N,) int64, those
    of the training text say, of the distance to the nearest other token of the vocabulary.
    """
    known = torch.as_tensor(known).unique()
    with evaluating(model):
        table = model.transformer.wte.weight.to(vectors.dtype)
        distances, ids = nearest(table, vectors)
        cosines = (F.normalize(vectors, dim=1) @ F.normalize(table, dim=1).T).amax(dim=1)
        predicted = model(ids[None])[0][0].argmax(dim=-1)
        known = known.to(table.device)
        probe = known[torch.linspace(0, len(known) - 1, min(sample, len(known))).long()]
        neighbours = torch.cdist(table[probe][None], table[None])[0]
        neighbours[torch.arange(len(probe)), probe] = float("inf")
        typical = neighbours.amin(dim=1).median().item()
    return NearestTokens(ids.cpu(), distances.cpu(), cosines.cpu(), predicted.cpu(), typical)


def success_of(found):
    """How many of N Inversions reached their target, and the 95 % interval of their share."""
    reached = sum(each.reached for each in found)
    return {
        "starts": len(found),
        "starts_reached": reached,
        "success_rate": reached / len(found),
        "success_interval_95": share_interval(reached, len(found)),
    }


def way_of(model, found, target):
    """Where Inversions of one target (T,) int64 lead, in Euclidean distances, as numbers.

    Lists (T) are of the first, the rest are medians and shares over all of them.
    """
    with evaluating(model):
        table = model.transformer.wte.weight
        starts, ends = (
            torch.cat([getattr(each, name) for each in found]) for name in ("start", "vectors")
        )
        before, _ = nearest(table, starts)
        after, ids = nearest(table, ends)
        wanted = target.to(ids.device)
        is_target = ids == wanted.repeat(len(found))
        to_target = (found[0].vectors - table[wanted]).norm(dim=1)
        length = (ends - starts).norm(dim=1)
    T = len(target)
    return {
        "distance_to_nearest_token_at_start": before[:T].tolist(),
        "distance_to_nearest_token": after[:T].tolist(),
        "distance_to_target_token": to_target.tolist(),
        "distance_from_start": length[:T].tolist(),
        "nearest_token_is_the_target": is_target[:T].tolist(),
        "share_of_nearest_tokens_that_are_the_target": is_target.double().mean().item(),
        "median_distance_to_nearest_token_at_start": before.median().item(),
        "median_distance_to_nearest_token": after.median().item(),
        "median_distance_from_start": length.median().item(),
    }


class Repetition(NamedTuple):
    """What a model says that is prompted to repeat a sentence."""

    prompt: str
    continuation: str  # greedy, as many tokens as the sentence has
    repeats_sentence: bool
    log_prob_of_sentence_nats: float  # given the prompt


def prompt_to_repeat(model, encoder, sentence, template):
    """Repetition: the other way to make a model say something, next to `invert`.

    template: the prompt, with {sentence} in it; its beginning is cut where the block is too short.
    """
    target = encoder.encode(sentence)
    prompt = encoder.encode(template.format(sentence=sentence))
    prompt = prompt[-(model.block_size - len(target)) :]
    device = next(model.parameters()).device
    idx = torch.tensor([prompt], device=device)
    with evaluating(model):
        continuation = model.generate(idx, len(target))[0, idx.shape[1] :].tolist()
    idx = torch.tensor([prompt + target], device=device)
    log_prob = sequence_log_prob(model, idx, prompt_length=len(prompt)).item()
    return Repetition(
        encoder.decode(prompt), encoder.decode(continuation), continuation == target, log_prob
    )
