"""sigma(t), its derivative, its inverse and SNR(t) of every schedule."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffusion.schedule import (
    SIGMA_MAX,
    SIGMA_MIN,
    Exponential,
    Power,
    Quadratic,
    Tabulated,
    from_config,
    to_config,
)

SCHEDULES = [
    Exponential(),
    Exponential(0.002, 80.0),
    Quadratic(),
    Quadratic(0.01, 5.0),
    Power(),
    Power(0.002, 80.0),
    Power(rho=1.0),
    Power(0.1, 2.0, rho=0.5),
]
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
GRID = torch.linspace(0, 1, 201, dtype=torch.float64)

times = st.floats(0, 1)
any_schedule = st.sampled_from(SCHEDULES)


def close(actual, expected, rtol=1e-12, atol=0.0):
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=atol)


def test_default_is_the_schedule_of_the_exercise():
    schedule = Exponential()
    expected = torch.exp(5 * (GRID - 1))
    close(schedule.sigma(GRID), expected)
    close(schedule.sigma_dot(GRID), 5 * expected)
    assert (schedule.sigma_min, schedule.sigma_max) == (math.exp(-5), 1.0)


def test_closed_forms_of_the_other_schedules():
    span = SIGMA_MAX - SIGMA_MIN
    close(Quadratic().sigma(GRID), SIGMA_MIN + span * GRID**2)
    close(Power(rho=1.0).sigma(GRID), SIGMA_MIN + span * GRID)
    # Karras et al. (2022), Eq. 5, counts its steps i from sigma_max down.
    i, n, rho, low, high = torch.arange(18), 18, 7, 0.002, 80.0
    karras = (high ** (1 / rho) + i / (n - 1) * (low ** (1 / rho) - high ** (1 / rho))) ** rho
    close(Power(low, high).sigma(1 - i.double() / (n - 1)), karras.double(), rtol=1e-5)
    close(Power(rho=1e7).sigma(GRID), Exponential().sigma(GRID), rtol=1e-5)


@every_schedule
def test_ends_and_signal_to_noise_ratio(schedule):
    close(schedule.sigma(0.0), torch.tensor(schedule.sigma_min, dtype=torch.float64))
    close(schedule.sigma(1.0), torch.tensor(schedule.sigma_max, dtype=torch.float64))
    close(schedule.snr(GRID) * schedule.sigma(GRID) ** 2, torch.ones_like(GRID))


@every_schedule
def test_derivative_agrees_with_autograd(schedule):
    t = GRID.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(schedule.sigma(t).sum(), t)
    close(schedule.sigma_dot(GRID), gradient)


@given(any_schedule, times, times)
def test_sigma_rises_with_t(schedule, first, second):
    if second - first > 1e-6:
        assert schedule.sigma(first) < schedule.sigma(second)
    assert schedule.sigma_dot(first) >= 0


@given(any_schedule, times)
def test_t_inverts_sigma(schedule, t):
    sigma = schedule.sigma(t)
    back = schedule.t(sigma)
    # sigma = floor + t^2 holds t only to the square root of the rounding of the floor.
    close(back, torch.tensor(t, dtype=torch.float64), atol=1e-7)
    close(schedule.sigma(back), sigma, rtol=1e-10)


@every_schedule
def test_a_table_holds_the_schedules_own_numbers(schedule):
    times = GRID.tolist()
    table = Tabulated(schedule, times)
    close([table.sigma(t) for t in times], [schedule.sigma(t).item() for t in times])
    close([table.sigma_dot(t) for t in times], [schedule.sigma_dot(t).item() for t in times])
    with pytest.raises(KeyError):
        table.sigma(0.00123)


@every_schedule
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3)])
def test_methods_keep_shape_and_dtype(schedule, dtype, shape):
    t = torch.full(shape, 0.25, dtype=dtype)
    sigma = schedule.sigma(t)
    for value in (sigma, schedule.sigma_dot(t), schedule.snr(t), schedule.t(sigma)):
        assert (value.shape, value.dtype) == (shape, dtype)
    close(sigma, schedule.sigma(0.25).to(dtype).expand(shape), rtol=1e-5)


@every_schedule
def test_a_number_gives_a_float64_scalar(schedule):
    for value in (schedule.sigma(1), schedule.sigma_dot(0.5), schedule.t(0.5), schedule.snr(0.5)):
        assert (value.shape, value.dtype) == ((), torch.float64)


@pytest.mark.parametrize("kind", [Exponential, Quadratic, Power])
@pytest.mark.parametrize(
    ("sigma_min", "sigma_max"),
    [(0.0, 1.0), (-1.0, 1.0), (1.0, 1.0), (2.0, 1.0), (math.nan, 1.0), (0.1, math.inf)],
)
def test_impossible_ends_are_refused(kind, sigma_min, sigma_max):
    with pytest.raises(ValueError, match="0 < sigma_min < sigma_max"):
        kind(sigma_min, sigma_max)


@pytest.mark.parametrize("rho", [0.0, -7.0, math.inf, math.nan])
def test_impossible_rho_is_refused(rho):
    with pytest.raises(ValueError, match="rho"):
        Power(rho=rho)


@every_schedule
def test_config_round_trip_through_json(schedule):
    assert from_config(json.loads(json.dumps(to_config(schedule)))) == schedule


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"kind": "cosine", "sigma_min": 0.1, "sigma_max": 1.0},
        {"kind": "power", "sigma_min": 0.1, "sigma_max": 1.0},
        {"kind": "exponential", "sigma_min": 0.1, "sigma_max": 1.0, "rho": 7.0},
        {"sigma_min": 0.1, "sigma_max": 1.0},
        {"kind": "exponential", "sigma_min": 1.0, "sigma_max": 0.1},
    ],
)
def test_config_of_no_schedule_is_refused(config):
    with pytest.raises(ValueError, match="schedule"):
        from_config(config)
