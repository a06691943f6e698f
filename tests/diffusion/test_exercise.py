"""What the exercise's answers stand on: readings of Algorithm 1, formulas of a step, estimates."""

from __future__ import annotations

import argparse

import pytest
import torch

import example_diffusion
from diffusion import data, sample
from diffusion.cli import Run
from diffusion.exact import ExactDenoiser
from diffusion.sampling import double
from diffusion.schedule import Exponential, Power
from diffusion.studies import exercise


@pytest.mark.parametrize("prior", ["matched", "standard"])
def test_the_loop_to_zero_inclusive_takes_one_more_step_of_algorithm_1(denoiser, prior):
    model, T, calls = double(denoiser), 8, []

    class Counted:
        def __getattr__(self, name):
            return getattr(model, name)

        def noise(self, x, sigma, labels=None):
            calls.append(sigma)
            return model.noise(x, sigma, labels)

    found = exercise.to_zero_inclusive(Counted(), 50, T, prior=prior, seed=3)
    assert len(calls) == T + 1
    assert calls[-1] == pytest.approx(model.schedule.sigma_min)
    before = sample(model, 50, steps=T, prior=prior, seed=3)
    sigma, slope = model.schedule.sigma_min, float(model.schedule.sigma_dot(0.0))
    expected = before - slope / T * model.noise(before, sigma)
    torch.testing.assert_close(found, expected)


def test_on_the_linear_schedule_both_formulas_of_a_step_are_one(denoiser):
    model = double(denoiser)
    options = {"steps": 7, "seed": 0, "schedule": Power(rho=1.0)}
    ddim, euler = (sample(model, 50, solver=name, **options) for name in ("ddim", "euler"))
    torch.testing.assert_close(ddim, euler)
    other = sample(model, 50, steps=7, seed=0, solver="euler", schedule=Exponential())
    assert not torch.allclose(other, sample(model, 50, steps=7, seed=0), atol=1e-2)


def test_steps_by_sigma_itself_are_exact_where_the_noise_is_constant():
    """Data at one point, far away: eps = (x - m) / sigma, and one step lands sigma_0 from it."""
    schedule = Exponential()
    x, point = torch.tensor([[3.0, -1.0]]).double(), torch.tensor([[1.0, 1.0]]).double()
    step = exercise.SOLVERS["euler"](lambda z, sigma: (z - point) / sigma, schedule, None)
    for t, t_next in ((1.0, 0.5), (1.0, 0.0)):
        shrunk = point + (x - point) * float(schedule.sigma(t_next) / schedule.sigma(t))
        torch.testing.assert_close(step(x, t, t_next), shrunk)


def test_a_table_of_schedules_has_a_value_for_every_number_of_steps(denoiser):
    known = {(2, "model"): sample(denoiser, 500, steps=2, seed=1)}
    table = exercise.scores_by_schedule(denoiser, 500, (2, 5), seed=1, known=known)
    assert table == exercise.scores_by_schedule(denoiser, 500, (2, 5), seed=1, known={})
    assert list(table) == list(exercise.SCHEDULES)
    for plan, by_formula in table.items():
        for formula, solver in exercise.STEP_FORMULAS.items():
            assert set(by_formula[formula]) == {"model", "exact score"}
            points = sample(
                denoiser, 500, steps=5, seed=1, solver=solver, schedule=exercise.SCHEDULES[plan]
            )
            found = {name: values[1] for name, values in by_formula[formula]["model"].items()}
            assert found == exercise.scores(points)


def test_scores_of_uniform_points_are_those_of_the_square(generator):
    found = exercise.scores(data.uniform(100_000, generator=generator))
    assert found["standard_deviation"] == pytest.approx(3**-0.5, abs=0.003)
    assert found["outside"] == 0
    # An expectation of 0.0126 and a standard deviation below 0.001 at this number.
    assert 0.009 < found["tv10"] < 0.016


@pytest.mark.parametrize("rectangles", [None, data.RECTANGLES])
def test_the_exact_score_has_no_error_of_its_own(rectangles):
    probes = exercise.PROBES[:4]
    found = exercise.estimates(ExactDenoiser(rectangles=rectangles), probes, seed=0)
    for name, place, label in probes:
        row = found[name]
        assert row["eq9_nats"] == row["eq9_exact_score_nats"]
        assert row["bound_nats"] == row["bound_exact_score_nats"]
        assert row["location"] == list(place)
        assert row["class"] == (None if rectangles is None else label)
        # A bound on the density of the same model lies below it.
        assert row["bound_nats"] < row["log_density_nats"] + 4 * row["eq9_standard_error_nats"]


def test_the_forward_process_starts_at_the_chosen_point(denoiser):
    args = argparse.Namespace(seed=0)
    run = Run(example_diffusion.EXERCISE, args, {"unconditional": denoiser})
    answer = example_diffusion.u1_forward_process(run)
    assert answer.numbers["start"] == pytest.approx([1.6, 1.4], abs=1e-12)


def test_a_forecast_changes_nothing(denoiser, conditional):
    args = argparse.Namespace(points=1000, seed=0, epochs=20, device="cpu", samples=1000)
    models = {"unconditional": denoiser, "conditional": conditional}
    run = Run(example_diffusion.EXERCISE, args, dict(models))
    before = [p.clone() for model in models.values() for p in model.parameters()]
    loaded = exercise.forecast(run)
    run.models = {"unconditional": None, "conditional": None}
    trained = exercise.forecast(run)
    assert loaded > 0
    assert trained > 0
    assert run.models == {"unconditional": None, "conditional": None}
    after = [p for model in models.values() for p in model.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_samples_of_several_seeds_are_those_of_each(denoiser):
    args = argparse.Namespace(solver="ddim", steps=20, lam=None, seed=0)
    run = Run(None, args, {"unconditional": denoiser})
    starts = [(3, "matched"), (4, "matched"), (3, "standard")]
    for (seed, prior), points in zip(
        starts, exercise.samples_by_seed(run, 50, starts), strict=True
    ):
        expected = sample(denoiser, 50, steps=20, seed=seed, prior=prior)
        torch.testing.assert_close(points, expected, rtol=1e-4, atol=1e-4)
