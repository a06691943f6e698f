"""The diagonal Fisher information of a network, and the parabola that EWC builds from it.

    F_i = E_x sum_y p(y | x, theta) (d log p(y | x, theta) / d theta_i)^2

The inner mean is over the model's own predictive distribution and is summed in full. Only then is F
the curvature of KL(p(y | x, theta) || p(y | x, theta + d)) = d^T F d / 2 + O(d^3): how far the
predictions move, whatever the labels are. Squared gradients at the labels (the "empirical Fisher")
vanish where the labels are fitted, however much a change of weights would hurt (Kunstner, Balles
and Hennig 2019).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax, unfold

from diffusion.checks import check_number, own_mode

FORMS = ("online", "per-task")
_ROWS = 500  # examples differentiated at once


@contextmanager
def _recorded(model: nn.Module) -> Iterator[list[tuple[nn.Module, Tensor, Tensor]]]:
    """Collects (layer, input, output) of every layer with weights that the model passes through."""
    found: list[tuple[nn.Module, Tensor, Tensor]] = []
    hooks = [
        layer.register_forward_hook(lambda *call: found.append((call[0], call[1][0], call[2])))
        for layer in model.modules()
        if isinstance(layer, nn.Linear | nn.Conv2d)
    ]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _squares(layer: nn.Module, a: Tensor, delta: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """(parameter, sum over examples of its squared gradient), from input and output gradient."""
    a = a.detach()
    if isinstance(layer, nn.Linear):
        yield layer.weight, delta.square().T @ a.square()
    else:
        patches = unfold(a, layer.kernel_size, padding=layer.padding, stride=layer.stride)
        delta = delta.flatten(2)  # (n, channels, places)
        yield layer.weight, (delta @ patches.mT).square().sum(dim=0).view_as(layer.weight)
        delta = delta.sum(dim=2)
    if layer.bias is not None:
        yield layer.bias, delta.square().sum(dim=0)


@own_mode(gradients=True)
def squared_gradients(model: nn.Module, values: Callable[[], Tensor]) -> list[Tensor]:
    """sum_n sum_k (d values_nk / d theta)^2, in the order and shapes of model.parameters().

    Args:
        model: of linear and convolutional layers, each passed through once in `values`.
        values: runs the model on n independent examples -> (n, k).
    """
    with _recorded(model) as found:
        outcome = values()
    total = {id(parameter): torch.zeros_like(parameter) for parameter in model.parameters()}
    outputs = [output for _, _, output in found]
    for k in range(outcome.shape[1]):
        last = k == outcome.shape[1] - 1
        deltas = torch.autograd.grad(outcome[:, k].sum(), outputs, retain_graph=not last)
        for (layer, a, _), delta in zip(found, deltas, strict=True):
            for parameter, squares in _squares(layer, a, delta):
                total[id(parameter)] += squares
    return list(total.values())


def fisher_diagonal(model: nn.Module, x: Tensor) -> list[Tensor]:
    """The diagonal Fisher information per example, in the order of model.parameters().

    Args:
        model: a classifier, x (n, ...) -> logits (n, classes), of linear and convolutional layers.
        x: examples that the mean over x is taken over.
    """

    def scores(rows: Tensor) -> Tensor:
        log_p = log_softmax(model(rows), dim=1)
        return log_p * (log_p / 2).exp().detach()  # its squared gradient: p (d log p)^2

    return mean_squares(model, x, scores)


def mean_squares(model: nn.Module, x: Tensor, values: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """Squared gradients of values(rows) -> (n, k) summed over k, the mean over x (n, ...)."""
    parts = [squared_gradients(model, lambda rows=rows: values(rows)) for rows in x.split(_ROWS)]
    return [sum(part) / len(x) for part in zip(*parts, strict=True)]


class Parabola:
    """EWC's penalty lam/2 sum_i P_i (theta_i - c_i)^2 after any number of tasks.

    "per-task" is the sum of one parabola a task, each about the weights after that task with that
    task's Fisher information (Kirkpatrick et al. 2017). Such a sum is itself one parabola, with
    P = sum_k F_k and c = sum_k F_k theta_k / P. "online" has the same P about the latest weights
    (Huszar 2018): Bayes' rule, in which the posterior of the tasks so far, whose mode the latest
    weights are, is the prior of the next one. The sum instead pulls back to optima that already
    contain the earlier tasks, and so counts those again.

    Args:
        lam: strength; 1 weighs an old image as much as a new one.
        form: "online" or "per-task".

    Raises:
        ValueError: lam negative or not finite, another form.
    """

    def __init__(self, lam: float, form: str = "online") -> None:
        lam = check_number("lambda", lam)
        if not 0 <= lam < float("inf"):
            raise ValueError(f"lambda must be finite and not negative, not {lam}")
        if form not in FORMS:
            raise ValueError(f"form must be one of {', '.join(FORMS)}, not {form!r}")
        self.lam, self.form = lam, form
        self.precision: list[Tensor] = []
        self.centre: list[Tensor] = []

    @torch.no_grad()
    def add(self, parameters: list[Tensor], fisher: list[Tensor]) -> None:
        """Take in a task: the weights after it, and its Fisher information."""
        latest = [parameter.detach().clone() for parameter in parameters]
        if not self.precision:
            self.precision, self.centre = [f.clone() for f in fisher], latest
            return
        self.precision = [p + f for p, f in zip(self.precision, fisher, strict=True)]
        if self.form == "online":
            self.centre = latest
            return
        # Where no task has information, any centre does.
        share = [f / p.where(p > 0, 1) for f, p in zip(fisher, self.precision, strict=True)]
        self.centre = [c.lerp(x, s) for c, x, s in zip(self.centre, latest, share, strict=True)]

    def __call__(self, parameters: list[Tensor]) -> Tensor | float:
        """The penalty, in nats per image; 0 before the first task."""
        if not self.precision or not self.lam:
            return 0.0
        terms = zip(self.precision, parameters, self.centre, strict=True)
        return self.lam / 2 * sum((p * (x - c).square()).sum() for p, x, c in terms)
