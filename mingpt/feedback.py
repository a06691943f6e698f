"""Learning from rewards: a language model as a policy, and the objectives that tune it.

A policy P writes y_1 .. y_L after a prompt x, and the whole sequence earns a reward r(x, y)
(Ouyang et al. 2022, InstructGPT). The loss is L = -E_{y ~ P}[r(x, y)], and

    grad L = -E_{y ~ P}[ r(x, y) sum_i grad log P(y_i | y_<i, x) ]        (homework H12.4 a)

because grad P = P grad log P. Against a reference P_ref, the reward less beta KL(P || P_ref) is
largest for P* ~ P_ref exp(r / beta), and every objective of this module leads there.
"""

from typing import NamedTuple

import torch
from torch.nn import functional as F

from mingpt.modes import evaluating
from mingpt.tokens import token_tensor
from mingpt.utils import InputError, check_integer, check_number, seeded

CHUNK = 512  # sequences that are written or scored at once


def check_beta(beta):
    """The KL weight as a float. Raises InputError unless it is above 0 and finite."""
    beta = check_number("beta", beta, at_least=0)
    if beta == 0:
        raise InputError("beta, the KL weight, should be above 0, not 0")
    return beta


def check_prompts(model, prompts, length):
    """Refuse prompts that are not (B, T) int64 or leave the block no room for `length` tokens.

    Raises InputError; returns the length, by default what the block leaves.
    """
    if not isinstance(prompts, torch.Tensor) or prompts.ndim != 2 or not prompts.numel():
        raise InputError("prompts should be a tensor of tokens (B, T), at least one of one token")
    room = model.block_size - prompts.shape[1]
    if room < 1:
        raise InputError(
            f"prompts of {prompts.shape[1]} tokens leave no room in a block of {model.block_size}"
        )
    length = check_integer("length", room if length is None else length, at_least=1)
    if length > room:
        raise InputError(
            f"length {length} is more than the {room} tokens that a block of {model.block_size} "
            f"leaves after prompts of {prompts.shape[1]}"
        )
    return length


# --- Sequences and their probabilities ----------------------------------------------------------


def write(model, prompts, samples, length, generator):
    """`samples` continuations of each prompt, drawn from the model.

    prompts (B, T) int64 -> (B * samples, T + length) int64, those of one prompt together.
    """
    rows = prompts.repeat_interleave(samples, dim=0)
    with evaluating(model):
        return torch.cat([
            model.generate(part, length, do_sample=True, generator=generator)
            for part in rows.split(CHUNK)
        ])  # fmt: skip


def log_probs(model, idx, start):
    """log P(y_i | y_<i, x) of idx (N, T + L) int64 after `start` = T tokens: (N, L) nats."""
    logits = model(idx[:, :-1])[0][:, start - 1 :]
    return -F.cross_entropy(logits.flatten(0, 1), idx[:, start:].flatten(), reduction="none").view(
        len(idx), -1
    )


def sequence_log_probs(model, idx, start):
    """log P(y | x) without gradients, (N,) nats, of idx as in `log_probs`."""
    with evaluating(model):
        return torch.cat([log_probs(model, part, start).sum(dim=1) for part in idx.split(CHUNK)])


# --- Policy gradient ----------------------------------------------------------------------------


def advantages(rewards):
    """r - b for rewards (B, K) of K sequences a prompt; b is the mean of the prompt's others.

    A sequence's own reward is not in its baseline, so the estimator keeps its mean (Kool et al.
    2019; the mean of all K would shrink it by 1 - 1/K).
    """
    count = rewards.shape[1]
    return (rewards - rewards.mean(dim=1, keepdim=True)) * count / (count - 1)


def weighted_gradient(model, idx, weights, start):
    """Gradient of -mean_n weights_n log P(y_n | x_n): a list like model.parameters().

    idx (N, T + L) int64, weights (N,). With weights 1 and sequences of the data this is the
    gradient of the cross-entropy summed over the tokens (H12.4 b). Dropout is off.
    """
    with evaluating(model, gradients=True):
        parameters = [p for p in model.parameters() if p.requires_grad]
        loss = -(weights[:, None] * log_probs(model, idx, start)).sum() / len(idx)
        found = iter(torch.autograd.grad(loss, parameters))
    return [next(found) if p.requires_grad else torch.zeros_like(p) for p in model.parameters()]


def policy_gradient(model, prompts, reward, samples=64, baseline=True, seed=0, *, length=None):
    """An unbiased estimate of the gradient of L = -E[r(x, y)]: a list like model.parameters().

    prompts (B, T) whole numbers; for each, `samples` continuations of `length` tokens (default:
    what the block leaves) are drawn from the model. reward: a function of all of them, (N, T + L)
    int64, prompts and continuations, that returns (N,). baseline: take from each reward the mean
    of the prompt's others, which changes no mean and lowers the variance. seed: a whole number, or
    a torch.Generator to go on drawing from.
    A parameter that requires no gradient gets zeros. The model keeps its mode and its `.grad`.
    Raises InputError for prompts that leave no room, numbers out of range, a baseline from a
    single sample, and rewards of another shape or not finite.
    """
    prompts = token_tensor(prompts, ndim=2)
    length = check_prompts(model, prompts, length)
    samples = check_integer("samples", samples, at_least=2 if baseline else 1)
    if not isinstance(seed, torch.Generator):
        seed = seeded(seed, prompts.device)
    with evaluating(model):
        idx = write(model, prompts, samples, length, seed)
        rewards = check_rewards(reward(idx), len(idx)).to(model.lm_head.weight)
        if baseline:
            rewards = advantages(rewards.view(-1, samples)).flatten()
    return weighted_gradient(model, idx, rewards, prompts.shape[1])


def check_rewards(rewards, count):
    """Rewards as a tensor without gradient. Raises InputError unless they are `count` finite."""
    rewards = torch.as_tensor(rewards).detach()
    if rewards.shape != (count,) or not rewards.isfinite().all():
        raise InputError(f"the reward should return {count} finite numbers, one a sequence")
    return rewards


# --- Objectives of the penalised reward ---------------------------------------------------------
# Each takes new, old, reference (N, L), log-probabilities of the tokens under the policy that is
# tuned, the one that drew them and the reference; rewards (N,); samples: sequences of one prompt,
# which stand together; beta, the KL weight. Each returns a scalar to be minimised.


def reinforce_loss(new, old, reference, rewards, samples, beta):
    """-A log P(y), A the advantage of r - beta log P/P_ref (Williams 1992): H12.4 a's estimator.

    The mean of log P/P_ref is the KL divergence; that its own gradient is left out changes no
    mean, because grad log P has mean 0.
    """
    return -(_penalised_advantages(old, reference, rewards, samples, beta) * new.sum(dim=1)).mean()


def ppo_loss(new, old, reference, rewards, samples, beta, clip=0.2):
    """PPO's clipped objective, negated (Schulman et al. 2017, Eq. 7), of every token.

    The advantage of a sequence holds for each of its tokens.
    """
    advantage = _penalised_advantages(old, reference, rewards, samples, beta)[:, None]
    ratio = (new - old).exp()
    gain = torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)
    return -gain.sum(dim=1).mean()


def dpo_loss(new, old, reference, rewards, samples, beta):
    """DPO's loss (Rafailov et al. 2023, Eq. 7) of pairs of one prompt, nats a pair.

    The labels are a Bradley-Terry judge's probabilities sigmoid(r_1 - r_2) themselves.
    """
    margins = beta * (new - reference).sum(dim=1).view(-1, 2)
    rewards = rewards.view(-1, 2)
    return F.binary_cross_entropy_with_logits(
        margins[:, 0] - margins[:, 1], (rewards[:, 0] - rewards[:, 1]).sigmoid()
    )


def _penalised_advantages(old, reference, rewards, samples, beta):
    penalised = rewards - beta * (old - reference).sum(dim=1)
    return advantages(penalised.view(-1, samples)).flatten()


OBJECTIVES = {"REINFORCE": reinforce_loss, "PPO": ppo_loss, "DPO": dpo_loss}
UPDATES = {"REINFORCE": 1, "PPO": 2, "DPO": 2}  # of the policy for every batch of sequences


# --- Tuning -------------------------------------------------------------------------------------


class Step(NamedTuple):
    """What a policy wrote before an update, N sequences."""

    idx: torch.Tensor  # (N, T + L) int64
    rewards: torch.Tensor  # (N,)
    log_ratios: torch.Tensor  # (N,) log P(y)/P_ref(y), nats; their mean estimates the KL divergence


def tune(policy, reference, prompts, reward, beta, *, method="REINFORCE", samples=8, steps=100,
         learning_rate=1e-4, length=None, seed=0):
    """Tune the policy, in place, on r - beta KL(P || P_ref); yields a Step before every update.

    prompts: a function of a torch.Generator that returns the prompts (B, T) int64 of a step;
    reward as in `policy_gradient`. Adam; the rate falls to 0 along a cosine. Parameters that
    require no gradient stay. Raises InputError as `policy_gradient` does, for beta <= 0 and an
    unknown method.
    """
    beta, generator = check_beta(beta), seeded(seed)
    if method not in OBJECTIVES:
        raise InputError(f"unknown method {method!r}; there are {', '.join(OBJECTIVES)}")
    samples = check_integer("samples", samples, at_least=2)
    if samples % 2 and method == "DPO":
        raise InputError(f"DPO takes sequences in pairs: samples should be even, not {samples}")
    parameters = [p for p in policy.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        with evaluating(policy), evaluating(reference):
            x = token_tensor(prompts(generator), ndim=2)
            start = x.shape[1]
            idx = write(policy, x, samples, check_prompts(policy, x, length), generator)
            rewards = check_rewards(reward(idx), len(idx)).to(policy.lm_head.weight)
            ref = log_probs(reference, idx, start)
        with evaluating(policy, gradients=True):
            new = log_probs(policy, idx, start)
            old = new.detach()
            step = Step(idx, rewards, (old - ref).sum(dim=1))
        yield step
        with evaluating(policy, gradients=True):
            for update in range(UPDATES[method]):
                new = log_probs(policy, idx, start) if update else new
                loss = OBJECTIVES[method](new, old, ref, rewards, samples, beta)
                for p, g in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
                    p.grad = g
                optimizer.step()
        schedule.step()
    optimizer.zero_grad()
