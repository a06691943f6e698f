"""Every sequence of a small vocabulary, so that what is estimated elsewhere is summed exactly.

With V tokens and L places there are V^L continuations y of a prompt. Their probabilities give
expectations, gradients, the best policy and the variance of an estimator without any sampling.
"""

from itertools import product
from typing import NamedTuple

import torch
from torch.func import functional_call, grad, vmap

from mingpt.feedback import check_beta, log_probs
from mingpt.modes import evaluating


def all_sequences(prompt, vocab_size, length):
    """The prompt (T,) int64 with every continuation: (V^L, T + L) int64."""
    rows = torch.tensor(list(product(range(vocab_size), repeat=length)))
    return torch.cat([prompt.expand(len(rows), -1), rows], dim=1)


def distribution(model, idx, start):
    """log P(y) of all sequences idx (N, T + L): (N,) float64 nats."""
    with evaluating(model):
        return log_probs(model, idx, start).double().sum(dim=1)


def exact_gradient(model, idx, rewards, start):
    """Gradient of L = -sum_y P(y) r(y), a list like model.parameters(); rewards (N,)."""
    with evaluating(model, gradients=True):
        p = log_probs(model, idx, start).sum(dim=1).exp()
        loss = -(p * rewards.to(p)).sum()
        return list(torch.autograd.grad(loss, list(model.parameters())))


def best_policy(log_ref, rewards, beta):
    """log P* of P* ~ P_ref exp(r / beta), which maximises E[r] - beta KL(P || P_ref).

    Because E[r] - beta KL(P || P_ref) = beta log Z - beta KL(P || P*). log_ref, rewards (N,).
    """
    return (log_ref + rewards / check_beta(beta)).log_softmax(dim=0)


def total_variation(log_p, log_q):
    """sum |P - Q| / 2 of two distributions (N,): a float from 0 to 1."""
    return float((log_p.exp() - log_q.exp()).abs().sum() / 2)


class Point(NamedTuple):
    """Where a policy stands."""

    kl: float  # nats a sequence, from the reference
    reward: float  # its mean


def point(log_p, log_ref, rewards):
    """The Point of a policy, from log-probabilities of all sequences (N,)."""
    p = log_p.exp()
    return Point(float((p * (log_p - log_ref)).sum()), float((p * rewards).sum()))


# --- The variance of the policy gradient --------------------------------------------------------


def scores(model, idx, start):
    """grad log P(y) of every sequence: a list like model.parameters(), each (N, numbers)."""
    named = {name: p.detach() for name, p in model.named_parameters()}

    def log_prob(parameters, row):
        logits = functional_call(model, parameters, (row[None, :-1],))[0][0, start - 1 :]
        return logits.log_softmax(dim=-1).gather(1, row[start:, None]).sum()

    with evaluating(model, gradients=True):
        found = vmap(grad(log_prob), in_dims=(None, 0))(named, idx)
    return [found[name].flatten(1).double() for name in named]


def estimator_variance(score, log_p, rewards, samples, baseline):
    """Variance of `policy_gradient` for one prompt, summed over the numbers of a parameter.

    score (N, numbers) of all sequences, log_p and rewards (N,) float64. Without a baseline it is
    the variance of r s over `samples`, s = grad log P. With the leave-one-out baseline the
    estimator is the U-statistic of h = (r_i - r_j)(s_i - s_j) / 2, whose variance is
    2 / (K (K - 1)) (2 (K - 2) zeta_1 + zeta_2) (Hoeffding 1948), zeta_1 and zeta_2 the variances
    of E_j h = ((r_i - E r) s_i + E[r s]) / 2 and of h.
    """
    p = log_p.exp()
    mean = (p * rewards) @ score

    def variance(weights):
        centred = weights[:, None] * score
        return float(p @ centred.square().sum(dim=1) - (p @ centred).square().sum())

    if not baseline:
        return variance(rewards) / samples
    zeta_1 = variance(rewards - p @ rewards) / 4
    norm = score.square().sum(dim=1)
    apart = norm[:, None] + norm - 2 * score @ score.T  # |s_i - s_j|^2
    squares = (rewards[:, None] - rewards).square() * apart / 4
    zeta_2 = float(p @ squares @ p - mean.square().sum())
    return 2 / (samples * (samples - 1)) * (2 * (samples - 2) * zeta_1 + zeta_2)
