"""The ODE integrator against closed forms, its order, and what it says when it fails."""

from __future__ import annotations

import math

import pytest
import torch

from diffusion import ToleranceError
from diffusion.ode import integrate, jacobians
from diffusion.sampling import double

START = torch.tensor([[1.0, 0.0], [0.3, -2.0]], dtype=torch.float64)


def decay(u, y):
    return -y


def rotation(u, y):
    return torch.stack([-y[:, 1], y[:, 0]], dim=1)


def forced(u, y):
    return y * math.cos(u)


def turned(y, angle):
    cos, sin = math.cos(angle), math.sin(angle)
    return y @ torch.tensor([[cos, sin], [-sin, cos]], dtype=torch.float64)


@pytest.mark.parametrize("tolerance", [1e-4, 1e-8, 1e-12])
@pytest.mark.parametrize(("start", "end"), [(0.0, 3.0), (3.0, 0.0), (-1.0, -1.5)])
@pytest.mark.parametrize(
    ("f", "solution"),
    [
        (decay, lambda y, start, end: y * math.exp(start - end)),
        (rotation, lambda y, start, end: turned(y, end - start)),
        (forced, lambda y, start, end: y * math.exp(math.sin(end) - math.sin(start))),
    ],
)
def test_integrator_agrees_with_closed_forms(f, solution, start, end, tolerance):
    result = integrate(f, START, start, end, rtol=tolerance, atol=tolerance)
    # The tolerance is local: it may grow with the number of steps and with the flow.
    limit = 100 * tolerance + 1e-13
    torch.testing.assert_close(result, solution(START, start, end), rtol=limit, atol=limit)


def test_integrator_is_of_order_five():
    evaluations = []
    for tolerance in (1e-5, 1e-10):
        count = 0

        def f(u, y):
            nonlocal count
            count += 1
            return rotation(u, y)

        integrate(f, START, 0.0, 20.0, rtol=tolerance, atol=tolerance)
        evaluations.append(count)
    # The local error of a step h is of order h^5 (that of the embedded solution of order 4).
    assert math.log10(evaluations[1] / evaluations[0]) == pytest.approx(1, abs=0.1)


def test_the_worst_row_sets_the_step():
    rates = torch.tensor([[1e-3], [50.0]], dtype=torch.float64)
    y = torch.ones(2, 1, dtype=torch.float64)
    result = integrate(lambda u, y: -rates * y, y, 0.0, 1.0, rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(result, torch.exp(-rates), rtol=1e-6, atol=1e-10)


def test_nothing_to_integrate():
    options = {"rtol": 1e-6, "atol": 1e-6}
    assert integrate(decay, START[:0], 0.0, 1.0, **options).shape == (0, 2)
    assert torch.equal(integrate(decay, START, 1.0, 1.0, **options), START)


@pytest.mark.parametrize(
    ("f", "options"),
    [
        (rotation, {"max_steps": 3}),
        (lambda u, y: y * math.nan, {}),
        (lambda u, y: torch.full_like(y, math.inf), {}),
        (lambda u, y: y**2, {}),  # from 1 it reaches infinity at u = 1
        (rotation, {"rtol": 1e-300, "atol": 1e-300}),
    ],
    ids=["few steps", "NaN", "infinity", "explosion", "no room"],
)
def test_integrator_says_when_it_fails(f, options):
    with pytest.raises(ToleranceError, match="on the way from 0 to 9"):
        integrate(f, START, 0.0, 9.0, **({"rtol": 1e-6, "atol": 1e-6} | options))


@pytest.mark.parametrize("bad", [0.0, -1e-3, math.nan])
@pytest.mark.parametrize("name", ["rtol", "atol"])
def test_integrator_refuses_bad_tolerances(name, bad):
    with pytest.raises(ValueError, match="tolerances must be positive"):
        integrate(decay, START, 0.0, 1.0, **({"rtol": 1e-3, "atol": 1e-3} | {name: bad}))


def test_it_says_what_may_be_done_about_a_tolerance():
    with pytest.raises(ToleranceError, match="allow a larger tolerance"):
        integrate(rotation, START, 0.0, 9.0, rtol=1e-300, atol=1e-300)


def test_jacobians_are_those_of_forward_mode(denoiser):
    model = double(denoiser)
    x = torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    value, found = jacobians(model.at(0.3), x)
    torch.testing.assert_close(value, model.noise(x, 0.3))
    for row, expected in zip(x, found, strict=True):
        forward = torch.func.jacfwd(lambda point: model.noise(point[None], 0.3)[0])(row)
        torch.testing.assert_close(expected, forward)
