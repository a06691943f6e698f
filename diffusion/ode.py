"""Jacobians, and an error-controlled ODE integrator: Dormand and Prince (1980), order 5(4)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

# Butcher tableau; the last row of _A gives the fifth-order solution, _E its difference from the
# fourth-order one.
_C = (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
_A = (
    (),
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
_E = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)


class ToleranceError(ArithmeticError):
    """The integrator could not reach the tolerance that was asked for."""


def integrate(
    f: Callable[[float, Tensor], Tensor],
    y: Tensor,
    start: float,
    end: float,
    *,
    rtol: float,
    atol: float,
    unit: Tensor | float = 1.0,
    max_steps: int = 2000,
) -> Tensor:
    """Solve dy/du = f(u, y) from u = start, y (n, d), to u = end, in either direction.

    The step suits the worst row: its root-mean-square error, in units of atol unit + rtol |y|,
    stays below one in every step; unit (d,) is the scale of each column.

    Raises:
        ValueError: a tolerance that is not positive and finite.
        ToleranceError: the tolerance needs more than max_steps steps, or steps below the resolution
            of floating point, or f is not finite.
    """
    if not (0 < rtol < math.inf and 0 < atol < math.inf):
        raise ValueError(f"tolerances must be positive and finite, not rtol={rtol}, atol={atol}")
    if not len(y):
        return y
    u, h = start, (end - start) / 20
    first = f(u, y)
    for _ in range(max_steps):
        last = abs(h) >= abs(end - u)
        if last:
            h = end - u
        slopes = [first]
        for c, row in zip(_C[1:], _A[1:], strict=True):
            y_next = y + h * sum(a * k for a, k in zip(row, slopes, strict=True) if a)
            slopes.append(f(u + c * h, y_next))
        difference = h * sum(e * k for e, k in zip(_E, slopes, strict=True) if e)
        scale = atol * unit + rtol * torch.maximum(y.abs(), y_next.abs())
        error = (difference / scale).square().mean(dim=1).max().sqrt().item()
        if error <= 1:
            if last:
                return y_next
            u, y, first = u + h, y_next, slopes[-1]
        # A NaN or infinite error, from a step that was far too long, takes the smallest factor.
        h *= min(5.0, max(0.2, 0.9 * max(error, 1e-9) ** -0.2)) if math.isfinite(error) else 0.2
        if u + h == u:
            break
    finite = all(slope.isfinite().all() for slope in slopes)
    advice = "allow a larger tolerance" if finite else "it leaves the range of numbers there"
    raise ToleranceError(
        f"the ODE did not reach rtol={rtol:g}, atol={atol:g} within {max_steps} steps "
        f"(it got to {u:.4g} on the way from {start:.4g} to {end:.4g}); {advice}"
    )


def jacobians(f: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """f(x) (n, d) and its derivative (n, d, d) at x (n, d), each row a function of its own row.

    One pass back for every coordinate, of all rows at once.
    """
    with torch.enable_grad():
        leaf = x.detach().requires_grad_(True)
        value = f(leaf)
        rows = [torch.autograd.grad(column, leaf, retain_graph=True)[0] for column in value.sum(0)]
    return value.detach(), torch.stack(rows, dim=1)
