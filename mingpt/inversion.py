"""Inverting a model: input vectors whose next-token predictions spell a given sentence."""

from typing import NamedTuple

import torch
from torch.nn import functional as F
from tqdm import tqdm

from mingpt.modes import evaluating
from mingpt.scoring import sequence_log_prob
from mingpt.utils import check_integer, check_number


class Inversion(NamedTuple):
    """What `invert` found."""

    vectors: torch.Tensor  # (T, C) in place of the token embedding's output
    losses: list  # cross-entropy in nats before each step
    history: list  # (step, (T,) int64 argmax tokens), every `record_every` steps and at the end
    reached: bool  # whether the argmax at every position is the target
    margins: torch.Tensor  # (T,) logit of the target minus the best other logit
    steps: int  # optimiser steps taken


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
    seed = check_integer("seed", seed, at_least=0)
    max_steps = check_integer("max_steps", max_steps, at_least=0)
    record_every = check_integer("record_every", record_every, at_least=1)
    learning_rate = check_number("learning_rate", learning_rate, at_least=0)
    margin = check_number("margin", margin, at_least=0)
    target = torch.as_tensor(target_ids)
    if target.numel() and (target.is_floating_point() or target.dtype == torch.bool):
        raise ValueError(f"target_ids should be whole numbers, not {target.dtype}")
    target = target.long()
    if target.ndim != 1 or not 0 < len(target) <= model.block_size:
        raise ValueError(
            f"the sentence has {target.numel()} tokens; inversion takes 1 to {model.block_size}"
        )
    table = model.transformer.wte.weight
    if not 0 <= int(target.min()) <= int(target.max()) < len(table):
        raise ValueError(f"token out of range: allowed 0 to {len(table) - 1}")
    bar = tqdm(total=max_steps, desc="inversion", unit="step", disable=None if progress else True)
    losses, history = [], []
    with bar, evaluating(model, gradients=True):
        target = target.clone().to(table.device)
        exact = torch.promote_types(table.dtype, torch.float32)
        noise = torch.randn(
            len(target), table.shape[1], generator=torch.Generator().manual_seed(seed),
            dtype=torch.float32,
        )  # fmt: skip
        scale = table.detach().to(exact).std()
        vectors = (noise.to(table.device, exact) * scale).requires_grad_()
        optimizer = torch.optim.Adam([vectors], lr=learning_rate)
        for step in range(max_steps + 1):
            logits = model(embeddings=vectors[None].to(table.dtype))[0][0].to(exact)  # (T, V)
            margins = _margins(logits.detach(), target)
            reached = bool((margins > margin).all())
            stop = reached or step == max_steps
            if step % record_every == 0 or stop:
                history.append((step, logits.argmax(dim=-1).cpu()))
            loss = F.cross_entropy(logits, target)
            losses.append(loss.item())
            if stop:
                break
            (vectors.grad,) = torch.autograd.grad(loss, [vectors])
            optimizer.step()
            bar.update()
    return Inversion(vectors.detach(), losses, history, reached, margins.cpu(), step)


def _margins(logits, target):
    """Logit of the target minus the largest other logit, (T,)."""
    wanted = logits.gather(1, target[:, None])
    others = logits.scatter(1, target[:, None], float("-inf"))
    return wanted[:, 0] - others.amax(dim=1)


class NearestTokens(NamedTuple):
    """The real token embeddings closest to given vectors."""

    ids: torch.Tensor  # (T,) int64
    distances: torch.Tensor  # (T,) Euclidean
    cosines: torch.Tensor  # (T,) largest cosine with any token embedding
    predicted: torch.Tensor  # (T,) int64: argmax of the model fed with `ids`
    typical_distance: float  # median distance of a known token's embedding to its neighbour


def nearest_tokens(model, vectors, known, sample=512):
    """NearestTokens of vectors (T, C), and what the model predicts from those tokens.

    typical_distance: the median over at most `sample` of the tokens `known` (N,) int64, those
    of the training text say, of the distance to the nearest other token of the vocabulary.
    """
    known = torch.as_tensor(known).unique()
    with evaluating(model):
        table = model.transformer.wte.weight.to(vectors.dtype)
        distances, ids = torch.cdist(vectors[None], table[None])[0].min(dim=1)
        cosines = (F.normalize(vectors, dim=1) @ F.normalize(table, dim=1).T).amax(dim=1)
        predicted = model(ids[None])[0][0].argmax(dim=-1)
        known = known.to(table.device)
        probe = known[torch.linspace(0, len(known) - 1, min(sample, len(known))).long()]
        neighbours = torch.cdist(table[probe][None], table[None])[0]
        neighbours[torch.arange(len(probe)), probe] = float("inf")
        typical = neighbours.amin(dim=1).median().item()
    return NearestTokens(ids.cpu(), distances.cpu(), cosines.cpu(), predicted.cpu(), typical)


class Repetition(NamedTuple):
    """What came of asking a model to repeat a sentence."""

    prompt: str
    continuation: str  # greedy, as many tokens as the sentence has
    repeats_sentence: bool
    log_prob_of_sentence_nats: float  # given the prompt


def ask_to_repeat(model, encoder, sentence, template):
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
    asked = torch.tensor([prompt + target], device=device)
    log_prob = sequence_log_prob(model, asked, prompt_length=len(prompt)).item()
    return Repetition(
        encoder.decode(prompt), encoder.decode(continuation), continuation == target, log_prob
    )
