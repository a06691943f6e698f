"""A cascade of ever finer stages, in closed form: when may one stop? (sheet H12.3 a)

Stage i adds X_i ~ N(0, 2^{-(i-1)}), independent; Y_k = X_1 + ... + X_k tends to Y. What is still to
come after stage k has variance sum_{i > k} 2^{-(i-1)} = 2^{1-k}, so that

    P(Y <= 0 | Y_k = M) = Phi(-M 2^{(k-1)/2}).

The sign of Y is known with confidence c once |S_k| >= z = Phi^{-1}(c), S_k = Y_k 2^{(k-1)/2}. That
is a Markov chain with one kernel for all stages, S_1 ~ N(0, 1), S_{k+1} = sqrt(2) S_k + N(0, 1):
the time at which it leaves (-z, z) solves one linear integral equation.
"""

import math
from typing import NamedTuple

import numpy as np
import torch

from mingpt.utils import check_integer, check_number, seeded

NODES = 200  # of the quadrature; 100 give the same ten digits
BEYOND = 40.0  # standard deviations past the threshold that the chain cannot reach in one stage


class Stopping(NamedTuple):
    """What stopping at a confidence costs."""

    stages: float  # expected number of stages
    wrong: float  # probability that the sign is then wrong


def log_prob_nonpositive(value, stage):
    """log P(Y <= 0 | Y_stage = value) in nats, a float; exact where the probability underflows.

    Raises ValueError for a stage below 1.
    """
    stage = check_integer("stage", stage, at_least=1)
    z = torch.tensor(-float(value) * 2 ** ((stage - 1) / 2), dtype=torch.float64)
    return float(torch.special.log_ndtr(z))


def simulated_log_prob_nonpositive(value, stage, num_samples, tilted, seed=0, more=60):
    """`log_prob_nonpositive` by drawing the next `more` stages num_samples times.

    tilted: the stages are drawn with the drift that brings Y to 0 on average, and weighted by the
    ratio of densities (exponential tilting): the one way to see an event of 10^-1196. Returns
    (log of the mean in nats, -inf for none seen; the mean's relative standard error, NaN then).
    """
    generator = seeded(seed)
    variance = [2.0 ** (1 - i) for i in range(stage + 1, stage + more + 1)]
    total = sum(variance)
    theta = -float(value) / total if tilted else 0.0
    rest = torch.zeros(num_samples, dtype=torch.float64)
    for v in variance:
        rest += theta * v + math.sqrt(v) * torch.randn(
            num_samples, generator=generator, dtype=torch.float64
        )
    log_weight = -theta * rest + theta**2 * total / 2
    log_weight = log_weight.masked_fill(value + rest > 0, -math.inf)
    log_mean = float(log_weight.logsumexp(0)) - math.log(num_samples)
    relative = (log_weight - log_mean).exp()  # of mean 1
    return log_mean, float(relative.std()) / math.sqrt(num_samples)


def stopping(confidence):
    """The Stopping at the first stage that knows the sign of Y with `confidence` in [0.5, 1).

    P(K > k) = P(|S_1| < z, ..., |S_k| < z). With F the sum over k of the densities of S_k that
    are still inside, F = phi + integral phi(s - sqrt(2) t) F(t) dt on (-z, z), E K = 1 + integral
    F; solved at Gauss-Legendre nodes. Raises ValueError for a confidence outside [0.5, 1).
    """
    confidence = check_number("confidence", confidence, at_least=0.5, below=1)
    z = quantile(confidence)
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    inside, inside_weights = z * nodes, z * weights
    kernel = _density(inside[:, None] - math.sqrt(2) * inside) * inside_weights
    visits = np.linalg.solve(np.eye(NODES) - kernel, _density(inside))
    beyond = z + BEYOND * (nodes + 1) / 2  # and, by symmetry, as much below -z
    entering = _density(beyond) + (
        _density(beyond[:, None] - math.sqrt(2) * inside) * (inside_weights * visits)
    ).sum(axis=1)
    missing = torch.special.ndtr(torch.from_numpy(-beyond)).numpy()
    wrong = 2 * (BEYOND / 2 * weights * entering * missing).sum()
    return Stopping(1 + float((inside_weights * visits).sum()), float(wrong))


def simulated_stopping(confidence, num_samples, seed=0):
    """`stopping` by running the cascade num_samples times: (Stopping, its standard errors)."""
    generator = seeded(seed)
    z = quantile(confidence)
    standing = torch.zeros(num_samples, dtype=torch.float64)  # S_k
    stages = torch.zeros(num_samples, dtype=torch.float64)
    left = torch.zeros(num_samples, dtype=torch.float64)  # S_K
    going = torch.ones(num_samples, dtype=torch.bool)
    while going.any():
        draws = torch.randn(num_samples, generator=generator, dtype=torch.float64)
        standing = math.sqrt(2) * standing + draws
        stages += going
        stops = going & (standing.abs() >= z)
        left[stops] = standing[stops]
        going &= ~stops
    wrong = torch.special.ndtr(-left.abs())  # the remaining stages, in closed form
    errors = (float(v.std()) / math.sqrt(num_samples) for v in (stages, wrong))
    return Stopping(float(stages.mean()), float(wrong.mean())), Stopping(*errors)


def quantile(probability):
    """Phi^{-1}, a float."""
    return float(torch.special.ndtri(torch.tensor(float(probability), dtype=torch.float64)))


def _density(x):
    """phi, the standard normal density, of an array."""
    return np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
