"""What is measured of a network that learnt tasks one after another.

R (tasks, tasks) is the accuracy matrix: R[k, i] on the test images of task i after task k.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from diffusion.images.continual import Task, accuracies, scaled


def accuracy_matrix(models: Sequence[nn.Module], tasks: Sequence[Task]) -> Tensor:
    """R (models, tasks) float64."""
    return torch.stack([accuracies(model, tasks) for model in models])


def average_accuracy(matrix: Tensor) -> Tensor:
    """After every task, the mean accuracy on the tasks so far: (tasks,)."""
    return torch.stack([row[: k + 1].mean() for k, row in enumerate(matrix)])


def forgetting(matrix: Tensor) -> float:
    """Best minus last accuracy, the mean over all tasks but the last (Chaudhry et al. 2018)."""
    best = torch.stack([matrix[k:-1, k].max() for k in range(len(matrix) - 1)])
    return (best - matrix[-1, :-1]).mean().item()


def forward_transfer(matrix: Tensor, untrained: Tensor) -> float:
    """Accuracy on a task just before it is learnt, minus the untrained network's (tasks,).

    The mean over all tasks but the first (Lopez-Paz and Ranzato 2017).
    """
    before = matrix.diagonal(offset=1)
    return (before - untrained[1:]).mean().item()


def distance(old: nn.Module, new: nn.Module, weights: Sequence[Tensor] | None = None) -> float:
    """sqrt(sum_i F_i (new_i - old_i)^2); F is 1 without weights, in the order of parameters().

    With the Fisher information of a task at the old weights, half its square is, to second order,
    the KL divergence in nats per image of that task between the predictions before and after.
    """
    total = 0.0
    for k, (a, b) in enumerate(zip(old.parameters(), new.parameters(), strict=True)):
        square = (b.detach() - a.detach()).double().square()
        total += (square if weights is None else weights[k] * square).sum().item()
    return math.sqrt(total)


@torch.no_grad()
def losses_between(
    old: nn.Module, new: nn.Module, places: Sequence[float], task: Task, rows: Tensor
) -> list[float]:
    """Cross-entropy, nats per image, at old + place (new - old) for every place."""
    x, labels = scaled(task.grey(rows)), task.labels[rows]
    found = []
    for place in places:
        weights = {
            name: torch.lerp(a, b, place)
            for (name, a), b in zip(old.named_parameters(), new.parameters(), strict=True)
        }
        found.append(cross_entropy(functional_call(old, weights, (x,)), labels).item())
    return found


def mean_and_error(values: Sequence[float] | Tensor) -> dict:
    """Mean over seeds, and its standard error where there are several."""
    values = torch.as_tensor(values, dtype=torch.float64)
    found = {"mean": values.mean().item(), "each_seed": values.tolist()}
    if len(values) > 1:
        found["standard_error"] = (values.std() / math.sqrt(len(values))).item()
    return found
