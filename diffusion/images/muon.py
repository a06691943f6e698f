"""Muon: steps along orthogonalised momentum for kernels, Adam for everything else (Jordan 2024)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.optim import Adam

# Of the odd polynomial a x + b x^3 + c x^5 that drives singular values towards 1 (ibid.).
_A, _B, _C = 3.4445, -4.7750, 2.0315
_ITERATIONS = 5


class Muon(Adam):
    """Kernels get a step of a fixed size in every direction, whatever the gradient's size in it.

    The step of a kernel is learning rate x `RATIO` x sqrt(max(1, rows / columns)) times its
    momentum (Nesterov's, made orthogonal as a matrix of output by input units).

    Args:
        kernels: weights of two or more axes.
        others: parameters that Adam takes care of.
        lr: learning rate of Adam.
    """

    RATIO = 20 / 3  # of Muon's learning rate to Adam's
    MOMENTUM = 0.95

    def __init__(self, kernels: Iterable[Tensor], others: Iterable[Tensor], lr: float) -> None:
        super().__init__(list(others), lr=lr, betas=(0.9, 0.99), fused=True)
        self.add_param_group({"params": list(kernels)})

    @torch.no_grad()
    def step(self) -> None:
        group = self.param_groups[-1]
        for kernel in group["params"]:
            state = self.state[kernel]
            if not state:  # under Adam's names, so that its own state dictionaries fit
                state["step"] = torch.zeros(())
                state["exp_avg"] = torch.zeros_like(kernel)
            momentum = state["exp_avg"].lerp_(kernel.grad, 1 - self.MOMENTUM)
            direction = kernel.grad.lerp_(momentum, self.MOMENTUM).flatten(1)
            rows, columns = direction.shape
            size = group["lr"] * self.RATIO * max(1, rows / columns) ** 0.5
            kernel.sub_(size * orthogonalised(direction).reshape(kernel.shape))
            kernel.grad = None  # Adam passes over it
        super().step()


def orthogonalised(matrix: Tensor) -> Tensor:
    """The matrix (r, c) with its singular values brought near 1, by Newton-Schulz iterations.

    In bfloat16, whose three digits are enough for a direction; float32 is returned.
    """
    x = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    x = (x / (x.norm() + 1e-7)).bfloat16()
    for _ in range(_ITERATIONS):
        square = x @ x.T
        x = _A * x + (_B * square + _C * square @ square) @ x
    x = x.float()
    return x if matrix.shape[0] <= matrix.shape[1] else x.T
