"""Elastic weight consolidation where the truth is known: linear regression, and two weights.

Task k: y = X theta + N(0, 1), design X (n, d). Its Fisher information is H_k = X^T X, its own
optimum b_k, and the joint solution of tasks 1..k, J_k, solves S_k J_k = sum_j H_j b_j with
S_k = H_1 + ... + H_k. All in float64.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax

from diffusion.images.model import building


class Regression(NamedTuple):
    """H (tasks, d, d) and H_k b_k = X^T y (tasks, d) of linear-regression tasks."""

    fisher: Tensor
    moment: Tensor


def regression(tasks: int, n: int, d: int, generator: torch.Generator) -> Regression:
    """Tasks with designs of their own, correlated between coordinates, and one truth each."""
    options = {"generator": generator, "dtype": torch.float64}
    mixing = torch.randn(tasks, d, d, **options)
    x = torch.randn(tasks, n, d, **options) @ mixing
    theta = torch.randn(tasks, d, 1, **options)
    y = x @ theta + torch.randn(tasks, n, 1, **options)
    return Regression(x.mT @ x, (x.mT @ y)[..., 0])


def joint(tasks: Regression) -> Tensor:
    """The least-squares solution of tasks 1..k for every k: (tasks, d)."""
    return torch.linalg.solve(tasks.fisher.cumsum(dim=0), tasks.moment.cumsum(dim=0))


def sequential(tasks: Regression, *, diagonal: bool = False, form: str = "online") -> Tensor:
    """The minimiser of EWC's loss (lambda = 1) after every task: (tasks, d).

    Task k minimises (theta - b_k)^T H_k (theta - b_k) plus the parabola of the tasks before, with
    the Fisher information whole or its diagonal only; see `continual_fisher.Parabola` for the
    forms.
    """
    found = [torch.linalg.solve(tasks.fisher[0], tasks.moment[0])]
    precision, pull = torch.zeros_like(tasks.fisher[0]), torch.zeros_like(tasks.moment[0])
    for previous, fisher, moment in zip(
        tasks.fisher[:-1], tasks.fisher[1:], tasks.moment[1:], strict=True
    ):
        kept = previous.diag().diag() if diagonal else previous
        precision = precision + kept
        pull = precision @ found[-1] if form == "online" else pull + kept @ found[-1]
        found.append(torch.linalg.solve(precision + fisher, pull + moment))
    return torch.stack(found)


def diagonal_error(tasks: Regression) -> Tensor:
    """What theory says sequential(diagonal=True) - joint is: (tasks, d).

    With D the diagonal of S, the two normal equations subtracted give
    (D_{k-1} + H_k) e_k = D_{k-1} e_{k-1} + (S_{k-1} - D_{k-1}) (J_k - J_{k-1}):
    the error is what leaves out correlations, times how far the joint optimum had to move.
    """
    whole, best = tasks.fisher.cumsum(dim=0), joint(tasks)
    errors = [torch.zeros_like(best[0])]
    for k in range(1, len(best)):
        part = whole[k - 1].diag().diag()
        right = part @ errors[-1] + (whole[k - 1] - part) @ (best[k] - best[k - 1])
        errors.append(torch.linalg.solve(part + tasks.fisher[k], right))
    return torch.stack(errors)


class TwoWeights(nn.Sequential):
    """p(y = 1 | x) = sigmoid(v tanh(w x)): x (n, 1) -> logits (n, 2), the first of them 0."""

    @building()
    def __init__(self, w: float, v: float) -> None:
        super().__init__(
            nn.Linear(1, 1, bias=False),
            nn.Tanh(),
            nn.Linear(1, 1, bias=False),
            nn.ZeroPad1d((1, 0)),
        )
        for layer, value in ((self[0], w), (self[2], v)):
            nn.init.constant_(layer.weight, value)
        self.double()

    def gradients(self, x: Tensor) -> Tensor:
        """d (v tanh(w x)) / d (w, v) at x (n, 1), by hand: (n, 2)."""
        w, v = self[0].weight, self[2].weight
        hidden = torch.tanh(w * x)
        return torch.cat([v * (1 - hidden.square()) * x, hidden], dim=1).detach()

    @torch.no_grad()
    def fisher(self, x: Tensor) -> Tensor:
        """The whole Fisher information (2, 2), enumerated over labels and over the x (n, 1).

        With s the logit's gradient, d log p(1 | x) = (1 - p) s and d log p(0 | x) = -p s.
        """
        p = log_softmax(self(x), dim=1).exp()[:, 1]
        slopes = self.gradients(x)
        both = zip((p, 1 - p), (1 - p, -p), strict=True)
        return sum((chance * slope.square() * slopes.T) @ slopes for chance, slope in both) / len(x)

    @torch.no_grad()
    def divergence(self, other: TwoWeights, x: Tensor) -> float:
        """The mean over x (n, 1) of KL(p(y | x) || p of the other), nats."""
        log_p, log_q = log_softmax(self(x), dim=1), log_softmax(other(x), dim=1)
        return (log_p.exp() * (log_p - log_q)).sum(dim=1).mean().item()
