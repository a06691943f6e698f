"""Data of any place and scale are learnt as well as the same data standardised."""

from __future__ import annotations

import copy
import math

import pytest
import torch

import diffusion
from diffusion import Training, build, gaussian, sample, steering
from diffusion.data import training_points, uniform
from diffusion.exact import ExactDenoiser
from diffusion.schedule import Exponential, Power, fitted, units


def ring(n, generator):
    angle = 2 * math.pi * torch.rand(n, generator=generator)
    radius = 1 + 0.05 * torch.randn(n, generator=generator)
    return torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1)


def moons(n, generator):
    angle, upper = math.pi * torch.rand(n, generator=generator), torch.arange(n) % 2 == 0
    x = torch.where(upper, angle.cos(), 1 - angle.cos())
    y = torch.where(upper, angle.sin(), 0.5 - angle.sin())
    return torch.stack([x, y], dim=1) + 0.05 * torch.randn(n, 2, generator=generator)


def spiral(n, generator):
    angle = 3 * math.pi * torch.rand(n, generator=generator).sqrt()
    points = torch.stack([angle * angle.cos(), angle * angle.sin()], dim=1) / (3 * math.pi)
    return points + 0.02 * torch.randn(n, 2, generator=generator)


def square(n, generator):
    return uniform(n, generator=generator)


def energy_distance(a, b):
    """Unbiased estimate of the squared energy distance; about 0 for samples of one distribution."""
    within = sum(torch.cdist(p, p).sum() / (len(p) * (len(p) - 1)) for p in (a, b))
    return (2 * torch.cdist(a, b).mean() - within).item()


def standardised(shape, n=1500):
    """Points to train on, and ten fresh draws of as many as are compared."""
    generator = torch.Generator().manual_seed(0)
    points = shape(n, generator)
    mean, deviation = points.mean(dim=0), points.std(dim=0)
    truths = [(shape(1000, generator) - mean) / deviation for _ in range(10)]
    return (points - mean) / deviation, truths


PLACES = {
    "30 to 90": ((20.0, 20.0), (60.0, 60.0)),
    "tiny": ((1e-3, 1e-3), (0.02, -0.01)),
    "stretched": ((40.0, 0.5), (300.0, -5.0)),
}


@pytest.mark.parametrize("shape", [ring, moons, spiral, square])
def test_far_data_are_learnt_as_well_as_standardised_ones(shape):
    points, truths = standardised(shape)

    def distance(scale=(1.0, 1.0), shift=(0.0, 0.0)) -> float:
        scale, shift = torch.tensor(scale), torch.tensor(shift)
        far = points * scale + shift
        model = Training(build(far), far, epochs=200, noise_samples=1).run()
        samples = (sample(model, 1000, solver="dpm++", steps=30, seed=1) - shift) / scale
        return energy_distance(samples, truths[0])

    # What repeated draws of the truth itself scatter by.
    chance = torch.tensor([energy_distance(truths[0], truth) for truth in truths[1:]])
    alike = distance()
    for name, place in PLACES.items():
        assert distance(*place) < max(alike, 0) + 4 * chance.std().item(), name


@pytest.mark.parametrize("power", [-20, 6])
def test_a_power_of_two_scales_everything_exactly(power):
    scale = 2.0**power
    points = training_points(1000)
    runs = [Training(build(p), p, epochs=20, noise_samples=1) for p in (points, scale * points)]
    near, far = (run.run() for run in runs)
    assert runs[0].losses == runs[1].losses
    assert far.schedule.sigma_max == scale
    samples = sample(near, 50, solver="ddpm", steps=20, seed=0)
    torch.testing.assert_close(
        sample(far, 50, solver="ddpm", steps=20, seed=0) / scale, samples, rtol=1e-5, atol=1e-5
    )
    # A density counts per area; a bound on it likewise.
    per_area = 2 * math.log(scale)
    for ask in (diffusion.log_likelihood, lambda *a: diffusion.complete_bound(*a).total):
        torch.testing.assert_close(
            ask(far, scale * samples[:5]) + per_area, ask(near, samples[:5]), rtol=1e-5, atol=1e-4
        )
    target = torch.tensor([2.0, 1.0])
    for way in (steering.invert, steering.optimise, steering.guide):
        one, other = way(near, target, steps=30), way(far, scale * target, steps=30)
        assert other.numbers()["reached"] == one.numbers()["reached"]
        assert other.energy == pytest.approx(one.energy, rel=1e-3)


@pytest.mark.parametrize("seed", range(5))
def test_the_square_keeps_the_exercises_schedule_to_the_bit(seed):
    for n in (1000, 3000):
        model = build(training_points(n, seed=seed))
        assert model.schedule == Exponential()
        assert model.unit == 1
        assert torch.equal(model.variance, (model.covariance[0].diagonal().mean()).expand(2))


def test_units_are_half_widths_to_a_power_of_two():
    assert units(torch.tensor([1 / 3, 1600 / 3])).tolist() == [1, 32]
    plan = fitted(torch.tensor([1.0, 32.0]))
    assert plan == Exponential(Exponential().sigma_min, 32.0)


@pytest.mark.parametrize(
    ("plan", "complaint"),
    [
        (Exponential(), r"noise from 0\.006738 to 1 does not suit data of half-widths near \[64"),
        (Power(30.0, 100.0), r"sigma_min at most 16"),
    ],
)
def test_a_schedule_that_does_not_suit_the_data_is_refused_with_the_numbers(plan, complaint):
    points = 60 * training_points(1000)
    for ask in (
        lambda: build(points, schedule=plan),
        lambda: sample(build(points), 5, schedule=plan),
    ):
        with pytest.raises(ValueError, match=complaint):
            ask()
    build(points, schedule=Exponential(0.3, 100.0))


def test_points_of_another_scale_than_the_models_are_refused_before_training():
    with pytest.raises(ValueError, match="does not suit data of half-widths near"):
        Training(build(training_points()), 60 * training_points())


def test_a_chain_of_stages_refuses_data_far_from_unit_scale():
    chain = gaussian.linear(10)
    for points in (60 * training_points(), training_points() + 60):
        model = build(points)
        for ask in (
            lambda m=model: gaussian.sample(m, chain, 5),
            lambda m=model, p=points: gaussian.ChainTraining(m, chain, p),
        ):
            with pytest.raises(ValueError, match="needs data of about unit scale"):
                ask()
    assert gaussian.sample(ExactDenoiser(), gaussian.linear(10), 5).isfinite().all()


def test_scaled_models_come_back_from_their_files(tmp_path):
    points = training_points() * torch.tensor([64.0, 0.5]) + 60
    model = Training(build(points), points, epochs=2, noise_samples=1).run()
    diffusion.save(model, tmp_path / "model.pt")
    again = diffusion.load(tmp_path / "model.pt")
    assert again.schedule == model.schedule
    for other in (again, copy.deepcopy(model)):
        assert torch.equal(sample(other, 9, steps=5, seed=0), sample(model, 9, steps=5, seed=0))
