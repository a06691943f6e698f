"""Learning from rewards where every sequence is counted: the first two questions of feedback.py.

A GPT with 5 tokens and 4 places has 625 sequences, so that expectations, gradients and the best
policy are sums.
"""

import copy
import math
from typing import NamedTuple

import torch

from mingpt import enumeration, feedback, figures
from mingpt.cli import Answer, Run
from mingpt.model import GPT
from mingpt.progress import bar

VOCABULARY, LENGTH = 5, 4  # of the policy whose sequences are enumerated
EXACT_BETAS = (0.5, 1.0)
EXACT_SAMPLES, EXACT_RATE = 256, 3e-3
TARGET_TV = 0.02
ERRORS = 4  # standard errors within which an unbiased estimate lies


class Exact(NamedTuple):
    """A policy all of whose sequences are known."""

    model: GPT
    prompt: torch.Tensor  # (1, 1) int64
    idx: torch.Tensor  # (625, 5) int64
    log_ref: torch.Tensor  # (625,) float64 nats
    rewards: torch.Tensor  # (625,) float64


# --- Question 1: the gradient (H12.4 a and b) ---------------------------------------------------


def different_tokens(idx):
    """The reward of the enumerated sequences: how many different tokens follow the prompt."""
    ordered = idx[:, 1:].sort(dim=1).values
    return 1.0 + (ordered[:, 1:] != ordered[:, :-1]).sum(dim=1)


def exact(run):
    """The Exact policy: a GPT with random weights, large enough for uneven probabilities."""
    config = GPT.get_default_config()
    config.merge_from_dict({"n_layer": 2, "n_head": 2, "n_embd": 32, "vocab_size": VOCABULARY,
                            "block_size": LENGTH + 1})  # fmt: skip
    model = GPT(config, generator=torch.Generator().manual_seed(run.args.seed)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4.0 if parameter.ndim > 1 else 1.0)
    prompt = torch.zeros(1, 1, dtype=torch.int64)
    idx = enumeration.all_sequences(prompt[0], VOCABULARY, LENGTH)
    log_ref = enumeration.distribution(model, idx, start=1)
    return Exact(model, prompt, idx, log_ref, different_tokens(idx).double())


def q1_gradient(run: Run) -> Answer:
    """The estimator against the exact gradient, its variance, and the cross-entropy's gradient."""
    world, count, samples = run.once(exact), run.args.estimates, 64
    truth = enumeration.exact_gradient(world.model, world.idx, world.rewards, start=1)
    scores = enumeration.scores(world.model, world.idx, start=1)
    numbers = {"estimates": count, "samples": samples, "standard_errors_allowed": ERRORS,
               "groups": [name for name, _ in world.model.named_parameters()]}  # fmt: skip
    shown = {}
    for baseline in (False, True):
        found = [
            feedback.policy_gradient(world.model, world.prompt, different_tokens, samples,
                                     baseline, seed=run.args.seed + i)
            for i in bar(range(count), desc="gradients")
        ]  # fmt: skip
        z, measured, predicted = [], [], []
        for group, (wanted, score) in enumerate(zip(truth, scores, strict=True)):
            draws = torch.stack([gradient[group].flatten() for gradient in found]).double()
            along = wanted.flatten().double() / wanted.norm().double()
            parts = draws @ along  # the gradient's length, if unbiased
            z.append(float((parts.mean() - wanted.norm()) / (parts.std() / math.sqrt(count))))
            measured.append(float(draws.var(dim=0).sum()))
            predicted.append(enumeration.estimator_variance(
                score, world.log_ref, world.rewards, samples, baseline
            ))  # fmt: skip
        name = "with baseline" if baseline else "without baseline"
        numbers[name.replace(" ", "_")] = {
            "standard_errors_from_exact": z, "largest": max(map(abs, z)),
            "variance": measured, "variance_exact": predicted, "variance_sum": sum(measured),
            "variance_sum_exact": sum(predicted),
        }  # fmt: skip
        shown[name] = z, measured, predicted
    without, with_ = numbers["without_baseline"], numbers["with_baseline"]
    numbers["variance_ratio"] = without["variance_sum"] / with_["variance_sum"]
    numbers["difference_from_cross_entropy"] = cross_entropy_difference(world.model, world.idx)
    return Answer(numbers, {"gradient": figures.gradient_estimates(shown, ERRORS)}, (
        f"Q1  {len(truth)} parameter groups, largest distance along the exact gradient "
        f"{without['largest']:.1f} standard errors without, {with_['largest']:.1f} with baseline;\n"
        f"    the baseline divides the variance by {numbers['variance_ratio']:.1f}; with reward 1 "
        f"and data in place of samples\n    the difference from the cross-entropy's gradient is "
        f"{numbers['difference_from_cross_entropy']:g}"
    ))  # fmt: skip


def cross_entropy_difference(model, idx):
    """H12.4 b: the largest difference between the policy gradient of data with reward 1 and the
    gradient of the cross-entropy, a mean over tokens, times the tokens of a sequence."""
    data = idx[:512]  # a power of two, so that dividing by it rounds nothing
    ours = feedback.weighted_gradient(model, data, torch.ones(len(data)), start=1)
    loss = model(data[:, :-1], data[:, 1:])[1] * LENGTH
    theirs = torch.autograd.grad(loss, list(model.parameters()))
    return max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True))


# --- Question 2: the best policy in closed form -------------------------------------------------


def q2_closed_form(run: Run) -> Answer:
    """REINFORCE, PPO and DPO against P* ~ P_ref exp(r / beta)."""
    world = run.once(exact)
    paths, ends, numbers = {}, {}, {}
    for method in feedback.OBJECTIVES:
        ends[method], distances = [], []
        for beta in EXACT_BETAS:
            path, end = approach(run, method, beta)
            paths[method] = path if beta == EXACT_BETAS[0] else paths.get(method)
            ends[method].append(enumeration.point(end, world.log_ref, world.rewards))
            best = enumeration.best_policy(world.log_ref, world.rewards, beta)
            distances.append(enumeration.total_variation(end, best))
        numbers[method] = {"total_variation": distances, "kl_and_reward": ends[method],
                           "largest": max(distances)}  # fmt: skip
    frontier = [
        enumeration.point(enumeration.best_policy(world.log_ref, world.rewards, beta),
                          world.log_ref, world.rewards)
        for beta in torch.logspace(-1.2, 1.5, 60).tolist()
    ]  # fmt: skip
    best = [enumeration.best_policy(world.log_ref, world.rewards, beta) for beta in EXACT_BETAS]
    rows = [f"    {name:<10} " + "  ".join(f"{tv:.4f}" for tv in numbers[name]["total_variation"])
            for name in ends]  # fmt: skip
    return Answer(
        {"betas": EXACT_BETAS, "methods": numbers, "target": TARGET_TV, "exact_kl_and_reward": [
            enumeration.point(p, world.log_ref, world.rewards) for p in best],
         "total_variation_of_the_reference": [
             enumeration.total_variation(world.log_ref, p) for p in best]},
        {"closed_form": figures.closed_form(
            paths, list(zip(*frontier, strict=True)), ends, TARGET_TV)},
        "\n".join([f"Q2  total variation from the best policy, beta {EXACT_BETAS}", *rows]),
    )  # fmt: skip


def approach(run, method, beta):
    """Tune by a method: ((batches, total variations on the way), log-probabilities at the end)."""
    world = run.once(exact)
    policy, every = copy.deepcopy(world.model), max(1, run.args.exact_steps // 40)
    best = enumeration.best_policy(world.log_ref, world.rewards, beta)
    steps = feedback.tune(
        policy, world.model, lambda generator: world.prompt, different_tokens, beta,
        method=method, samples=EXACT_SAMPLES, steps=run.args.exact_steps,
        learning_rate=EXACT_RATE, seed=run.args.seed,
    )  # fmt: skip
    batches, distances = [], []
    shown = bar(steps, desc=f"{method}, beta {beta}", total=run.args.exact_steps)
    for number, _ in enumerate(shown):
        if number % every == 0:
            log_p = enumeration.distribution(policy, world.idx, start=1)
            batches.append(number)
            distances.append(enumeration.total_variation(log_p, best))
    end = enumeration.distribution(policy, world.idx, start=1)
    batches.append(run.args.exact_steps)
    distances.append(enumeration.total_variation(end, best))
    return (batches, distances), end
