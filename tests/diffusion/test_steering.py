"""Reaching a target with an unchanged model: constraints, optimality, and consistency."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from diffusion import sample
from diffusion.data import RECTANGLES
from diffusion.exact import ExactDenoiser
from diffusion.steering import SteeringError, guide, invert, optimise, steer

TARGETS = [(0.3, -0.2), (1.5, 1.2), (4.0, 5.5)]
STEPS = 20


def model_and_label(request, name: str):
    """A float64 model, and a class where it has some."""
    if name == "exact":
        return ExactDenoiser(), None
    if name == "exact conditional":
        return ExactDenoiser(rectangles=RECTANGLES), 2
    model = copy.deepcopy(request.getfixturevalue(name)).double()
    return model, 2 if model.num_classes else None


@pytest.fixture(params=["exact", "exact conditional", "denoiser", "conditional"])
def model_label(request):
    return model_and_label(request, request.param)


@pytest.fixture
def network(request):
    return model_and_label(request, "denoiser")[0]


def replay(model, noises: torch.Tensor, lam: float, label=None) -> torch.Tensor:
    """The path that the sampler of the exercise's family takes with these standardised noises."""
    steps, schedule, k = STEPS, model.schedule, label or 0
    labels = None if label is None else torch.tensor([label])
    identity = torch.eye(2, dtype=torch.float64)
    factor = torch.linalg.cholesky(model.covariance[k].double() + schedule.sigma_max**2 * identity)
    x = (model.mean[k] + factor @ noises[0])[None]
    path = [x]
    for i in range(steps):
        sigma, sigma_dot = schedule.sigma(1 - i / steps), schedule.sigma_dot(1 - i / steps)
        x = x - (1 + lam**2) * sigma_dot / steps * model.noise(x, sigma, labels)
        if lam:
            x = x + lam * torch.sqrt(2 * sigma_dot * sigma / steps) * noises[1 + i]
        path.append(x)
    return torch.cat(path).detach()


@pytest.mark.parametrize("target", TARGETS)
def test_inverted_flow_starts_where_ddim_reaches_the_target(model_label, target):
    model, label = model_label
    steered = invert(model, target, label, steps=50)
    points, path = sample(
        model, 1, noise=steered.path[:1], labels=label, steps=50, return_trajectory=True
    )
    expected = torch.tensor([target], dtype=torch.float64)
    torch.testing.assert_close(points, expected, rtol=0, atol=1e-8)
    torch.testing.assert_close(path[:, 0], steered.path, rtol=1e-12, atol=1e-12)
    assert steered.noises.shape == (1, 2)
    assert steered.distance < 1e-8


@settings(max_examples=20)
@given(st.floats(-1e12, 1e12), st.floats(-1e12, 1e12))
@example(-1e12, 1e12)
def test_any_finite_target_is_reached_or_refused(denoiser, x, y):
    try:
        steered = invert(denoiser, (x, y), steps=5)
    except SteeringError:
        return
    assert steered.path.isfinite().all()
    assert steered.distance < 1e-8 * max(1, math.hypot(x, y))


@pytest.mark.parametrize("target", TARGETS[:2])
def test_the_only_noise_to_optimise_without_lam_is_the_start(model_label, target):
    model, label = model_label
    inverted = invert(model, target, label, steps=STEPS)
    optimised = optimise(model, target, label, steps=STEPS, lam=0.0)
    assert optimised.noises.shape == (1, 2)
    torch.testing.assert_close(optimised.noises, inverted.noises, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("lam", [0.5, 1.0])
@pytest.mark.parametrize("target", TARGETS)
def test_optimised_noises_meet_the_conditions_of_a_minimum(network, target, lam):
    steered = optimise(network, target, steps=STEPS, lam=lam)
    noises = steered.noises
    assert noises.shape == (1 + STEPS, 2)
    # The constraint: the sampler ends at the target.
    assert steered.distance <= 1e-6
    # Stationarity: u = J^T multiplier, J = d x_0 / d u, here by central differences.
    columns = []
    for i in range(noises.numel()):
        shift = torch.zeros(noises.numel(), dtype=torch.float64)
        shift[i] = 1e-5
        ends = [replay(network, noises + s * shift.view_as(noises), lam)[-1] for s in (1, -1)]
        columns.append((ends[0] - ends[1]) / 2e-5)
    jacobian_t = torch.stack(columns)  # (2 + 2 STEPS, 2)
    multiplier = torch.linalg.lstsq(jacobian_t, noises.reshape(-1, 1)).solution
    residual = noises.flatten() - (jacobian_t @ multiplier).flatten()
    assert residual.norm() < 1e-4 * noises.norm()


@pytest.mark.parametrize("target", TARGETS[1:])
@pytest.mark.parametrize("through_network", [False, True])
def test_optimised_noises_need_less_energy_than_guidance(network, target, through_network):
    guided = guide(network, target, steps=STEPS, through_network=through_network)
    # The guided noises are one way to where guidance ends; the optimised ones are the cheapest.
    end = guided.path[-1]
    assert optimise(network, end, steps=STEPS).energy < guided.energy
    assert guided.distance < 0.5 * math.hypot(*target)


def test_the_path_is_what_the_sampler_makes_of_the_noises(model_label):
    model, label = model_label
    target = (1.5, 1.2)
    for steered, lam in (
        (invert(model, target, label, steps=STEPS), 0.0),
        (optimise(model, target, label, steps=STEPS), 1.0),
        (guide(model, target, label, steps=STEPS), 1.0),
        (guide(model, target, label, steps=STEPS, weight=0.3, through_network=True), 1.0),
    ):
        assert steered.path.shape == (STEPS + 1, 2)
        path = replay(model, steered.noises, lam, label)
        torch.testing.assert_close(path, steered.path, rtol=1e-9, atol=1e-9)
        assert not steered.path.requires_grad
        assert not steered.noises.requires_grad


def test_energy_density_and_distance(network):
    steered = guide(network, (1.5, 1.2), steps=STEPS)
    law = torch.distributions.Normal(0.0, 1.0)
    assert steered.log_density == pytest.approx(law.log_prob(steered.noises).sum().item())
    zero = law.log_prob(torch.zeros(steered.noises.numel())).sum().item()
    assert steered.energy == pytest.approx(zero - steered.log_density)
    end = steered.path[-1].tolist()
    assert steered.distance == pytest.approx(math.dist(end, (1.5, 1.2)))
    assert steered.target.tolist() == [1.5, 1.2]


@pytest.mark.parametrize("through_network", [False, True])
def test_guided_noises_follow_their_formula(network, through_network):
    target, weight = torch.tensor([1.5, 1.2], dtype=torch.float64), 0.7
    steered = guide(network, target, steps=STEPS, weight=weight, through_network=through_network)
    assert not steered.noises[0].any()
    schedule = network.schedule
    for i, x in enumerate(steered.path[:-1]):
        sigma, sigma_dot = schedule.sigma(1 - i / STEPS), schedule.sigma_dot(1 - i / STEPS)

        def denoised(x: torch.Tensor, sigma=sigma) -> torch.Tensor:
            return x - sigma * network.noise(x[None], sigma)[0]

        pull = target - denoised(x)
        if through_network:
            pull = torch.autograd.functional.jacobian(denoised, x).T @ pull
        expected = torch.sqrt(2 * sigma_dot / STEPS / sigma**3) * weight * pull
        torch.testing.assert_close(steered.noises[1 + i], expected.detach(), rtol=1e-9, atol=1e-9)


def test_guidance_is_pulled_by_its_weight(network):
    distances = [guide(network, (4.0, 5.5), weight=w, steps=200).distance for w in (0.1, 0.5, 1.0)]
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < 0.1


@pytest.mark.parametrize("steer", [invert, optimise, guide])
def test_the_model_is_not_changed_and_repeats_itself(denoiser, steer):
    before = copy.deepcopy(denoiser.state_dict())
    first, second = (steer(denoiser, torch.tensor([1.5, 1.2]), steps=STEPS) for _ in range(2))
    assert torch.equal(first.noises, second.noises)
    assert torch.equal(first.path, second.path)
    assert first.path.dtype == torch.float64
    after = denoiser.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert all(parameter.grad is None for parameter in denoiser.parameters())


@pytest.mark.parametrize("steer", [invert, optimise, guide])
@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (((math.inf, 0.0),), {}, "target contains"),
        (((0.0, math.nan),), {}, "target contains"),
        (((1.0, 2.0, 3.0),), {}, "target must have shape"),
        ((1.0,), {}, "target must have shape"),
        (((1.0, 2.0),), {"steps": 0}, "steps must be a whole number"),
        (((1.0, 2.0),), {"steps": 2.5}, "steps must be a whole number"),
        (((1.0, 2.0), 0), {}, "unconditional"),
    ],
)
def test_bad_requests_are_refused(denoiser, steer, arguments, options, message):
    with pytest.raises(ValueError, match=message):
        steer(denoiser, *arguments, **options)


@pytest.mark.parametrize("steer", [invert, optimise, guide])
@pytest.mark.parametrize("label", [None, -1, 5])
def test_bad_labels_are_refused(conditional, steer, label):
    with pytest.raises(ValueError, match="labels"):
        steer(conditional, (1.0, 2.0), label)


@pytest.mark.parametrize("weight", [0.0, -1.0, math.nan, math.inf])
def test_bad_weights_are_refused(denoiser, weight):
    with pytest.raises(ValueError, match="weight must be positive"):
        guide(denoiser, (1.0, 2.0), weight=weight)


def test_failure_is_a_clear_error(denoiser):
    with pytest.raises(SteeringError, match="could not be inverted near"):
        invert(denoiser, (4.0, 5.5), steps=STEPS, newton_steps=1)
    with pytest.raises(SteeringError, match="miss the target"):
        optimise(denoiser, (4.0, 5.5), steps=STEPS, iterations=1)


@pytest.mark.parametrize("way", [invert, optimise, guide])
def test_a_target_out_of_the_range_of_numbers_is_refused(way, network):
    with pytest.raises((SteeringError, ValueError)):
        way(network, (1e308, 0.0), steps=STEPS)


@pytest.mark.parametrize("way", [guide, optimise, invert])
@pytest.mark.parametrize("target", [(1.2e207, -1830.0), (-1e160, 1e160)])
def test_a_target_whose_energy_overflows_is_refused(way, target):
    with pytest.raises(SteeringError):
        way(ExactDenoiser(), target, steps=5)


def test_every_way_is_tried_and_the_failed_ones_say_why():
    def fail(*_, **__):
        raise SteeringError("no way there")

    model = ExactDenoiser(rectangles=RECTANGLES)
    found, failed = steer({"a": invert, "b": fail, "c": guide}, model, (1.5, 1.2), 2, steps=STEPS)
    assert list(found) == ["a", "c"]
    assert failed == {"b": "no way there"}
    numbers = found["a"].numbers()
    assert numbers["reached"]
    assert numbers["output"] == pytest.approx([1.5, 1.2], abs=1e-6)
    assert numbers["distance"] == pytest.approx(0, abs=1e-6)
    assert numbers["energy_of_random_noise_nats"] == 1
    assert torch.equal(found["a"].path, invert(model, (1.5, 1.2), 2, steps=STEPS).path)
