"""What users hand in: arrays, lists, other types and scales, in any mode of the caller."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

import diffusion
from diffusion import (
    Training,
    build,
    data,
    distances,
    exact,
    gaussian,
    metrics,
    sample,
    schedule,
    steering,
)
from diffusion.data import NUM_CLASSES, class_of, training_points

POINTS = training_points(1000)[:200]
LABELS = class_of(POINTS)
FORMS = {
    "float64": (POINTS.double(), LABELS),
    "numpy": (POINTS.numpy(), LABELS.numpy()),
    "float64 numpy, int32 labels": (POINTS.double().numpy(), LABELS.numpy().astype(np.int32)),
    "big-endian": (POINTS.numpy().astype(">f4"), LABELS.numpy().astype(">i4")),
    "long double": (POINTS.numpy().astype(np.longdouble), LABELS.numpy().astype(np.longdouble)),
    "lists": (POINTS.tolist(), LABELS.tolist()),
    "with gradients": (POINTS.clone().requires_grad_(), LABELS),
    "uint8 labels": (POINTS, LABELS.to(torch.uint8)),
    "uint64 labels": (POINTS, LABELS.to(torch.uint64)),
    "whole float labels": (POINTS, LABELS.half()),
}


# --- Data ---------------------------------------------------------------------------------------


def trained(points, labels, num_classes=NUM_CLASSES):
    model = build(points, labels, num_classes=num_classes, width=8)
    return Training(model, points, labels, epochs=3, noise_samples=1).run()


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_the_same_data_gives_the_same_model(form):
    expected, found = trained(POINTS, LABELS), trained(*FORMS[form])
    for name, tensor in expected.state_dict().items():
        assert torch.equal(tensor, found.state_dict()[name]), name


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_the_same_points_gives_the_same_answers(form, conditional):
    x, labels = FORMS[form]
    x, labels = x[:5], labels[:5]
    bound = {"steps": 50, "num_samples": 64}
    for ask in (
        lambda x, labels: conditional(x, 0.5, labels),
        lambda x, labels: sample(conditional, 5, steps=4, noise=x, labels=labels),
        lambda x, labels: diffusion.elbo(conditional, x, labels, **bound),
        lambda x, labels: diffusion.complete_bound(conditional, x, labels, **bound).total,
        lambda x, labels: diffusion.log_likelihood(conditional, x, labels),
    ):
        torch.testing.assert_close(ask(x, labels), ask(POINTS[:5], LABELS[:5]))


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_the_same_points_is_as_far_from_others(form):
    x, others = FORMS[form][0], POINTS[:60] * 0.9
    for ask in (
        lambda x: distances.energy_distance(x, others),
        lambda x: distances.permutation_test(x, others, permutations=9, seed=0),
        lambda x: distances.w2_ratio(x, others, x, pairs=2, most=20),
        lambda x: distances.nearest(others, x).tolist(),
        metrics.tv10,
        metrics.ks,
    ):
        assert ask(x) == pytest.approx(ask(POINTS), rel=1e-6)


def test_the_result_of_a_training_is_trained_again():
    once = trained(POINTS, LABELS)
    before = copy.deepcopy(once.state_dict())
    again = Training(once, POINTS, LABELS, epochs=3, noise_samples=1, seed=2).run()
    assert len(again.losses) == 3
    assert not torch.equal(again.output_layer.weight, before["output_layer.weight"])
    frozen = trained(POINTS, LABELS).requires_grad_(False)
    frozen.output_layer.requires_grad_(True)
    kept = Training(frozen, POINTS, LABELS, epochs=3, noise_samples=1, seed=2).run()
    assert [p.requires_grad for p in kept.parameters()] == [
        name.startswith("output_layer") for name, _ in kept.named_parameters()
    ]


@pytest.mark.parametrize(
    ("points", "labels", "num_classes", "complaint"),
    [
        (torch.zeros(5, 3), None, 0, r"the training points must have shape \(n, 2\), not \(5, 3\)"),
        (POINTS, LABELS, 0, "labels need num_classes"),
        (POINTS, None, 5, r"needs labels in 0\.\.4"),
        (POINTS, 2 * (LABELS > 1), 3, "three points, but class 1 has 0"),
        (POINTS, LABELS + 0.5, 5, "labels must be one whole number or 200 of them"),
        (POINTS, LABELS * torch.nan, 5, "labels must be one whole number or 200 of them"),
        (POINTS, LABELS[1:], 5, "labels must be one whole number or 200"),
        ("points", None, 0, "must be a tensor, an array or lists of numbers"),
        ([[1.0, 2.0], [1.0]], None, 0, "must be a tensor, an array or lists of numbers"),
        ([["a", "b"]] * 3, None, 0, "must be a tensor, an array or lists of numbers"),
        (POINTS + 0j, None, 0, "must be real"),
        (1e300 * POINTS.double(), None, 0, "standard deviations inf, inf; both must vary"),
        (1e39 * POINTS.double(), None, 0, "too large for the model"),
        (torch.zeros(5, 2), None, 0, "standard deviations 0, 0; both must vary"),
        (POINTS * torch.tensor([1.0, 1e-5]), None, 0, "at most 1000 times as much"),
        (POINTS.double() + 1e6, None, 0, "lie 1e.06 from 0 but vary by"),
        (POINTS.double() + torch.tensor([0, 1e6]), None, 0, "lie 1e.06 from 0 but vary by 0.5"),
    ],
)
def test_data_without_a_plain_meaning_are_refused_in_a_line(points, labels, num_classes, complaint):
    with pytest.raises(ValueError, match=complaint) as caught:
        build(points, labels, num_classes=num_classes)
    assert "\n" not in str(caught.value)


def test_the_place_of_a_coordinate_is_held_to_its_own_width():
    """A narrow coordinate at 0 beside a wide one far from 0 is learnt as if both were at 0."""
    narrow, far = POINTS.double() * torch.tensor([0.004, 2.0]), torch.tensor([0.0, 50.0])
    losses = [
        Training(build(points, width=8), points, epochs=20).run().losses
        for points in (narrow, narrow + far)
    ]
    torch.testing.assert_close(*losses, rtol=1e-3, atol=0)


def test_numpys_numbers_are_numbers(denoiser, tmp_path):
    i, f = np.int64, np.float32
    model = build(POINTS, width=i(8), depth=i(2), seed=i(0), num_classes=i(0))
    run = Training(
        model, POINTS, epochs=i(2), learning_rate=f(1e-2), ema_decay=f(0.5), noise_samples=i(1),
        seed=i(1),
    )  # fmt: skip
    diffusion.save(run.run(), tmp_path / "model.pt")
    run.save(tmp_path / "checkpoint.pt")
    run.resume(tmp_path / "checkpoint.pt")
    assert diffusion.load(tmp_path / "model.pt").width == 8
    plan = schedule.Power(f(0.01), f(1), f(7))
    diffusion.save(build(POINTS, schedule=plan), tmp_path / "model.pt")
    options = {"solver": "ddpm", "lam": f(0.5), "schedule": plan}
    assert torch.equal(
        sample(denoiser, i(3), steps=i(4), seed=i(7), **options),
        sample(denoiser, 3, steps=4, seed=7, **options),
    )
    assert diffusion.elbo(denoiser, POINTS[:1], steps=i(9), num_samples=i(8), seed=i(2)).isfinite()
    assert diffusion.log_likelihood(denoiser, POINTS[:1], rtol=f(1e-3), atol=f(1e-3)).isfinite()
    chain = gaussian.linear(i(9), f(1e-4), f(0.02))
    assert gaussian.sample(denoiser, chain, i(2), seed=i(3)).isfinite().all()
    assert steering.invert(denoiser, np.array([1, 1]), steps=i(20)).distance < 1e-6
    assert steering.optimise(denoiser, [1, 1], steps=i(5), lam=f(1)).distance < 1e-3
    assert steering.guide(denoiser, (1, 1), steps=i(200), weight=f(1)).distance < 0.1
    assert len(training_points(i(1000), seed=i(2))) == 1000
    assert metrics.excess_risk(denoiser, num_samples=i(20), seed=i(2)) > 0
    assert len(distances.subsample(POINTS, i(3), seed=i(1))) == 3
    again = distances.permutation_test(POINTS, POINTS + 1, permutations=i(9), seed=i(1))
    assert again == distances.permutation_test(POINTS, POINTS + 1, permutations=9, seed=1)


# --- Types --------------------------------------------------------------------------------------

GRID = torch.tensor([[0, 0], [1, -1], [0, 1], [2, 0]])


@pytest.mark.parametrize(
    "model_type", [torch.float16, torch.bfloat16, torch.float32, torch.float64]
)
@pytest.mark.parametrize("x_type", [torch.int64, torch.uint8, torch.float16, torch.float64])
def test_answers_are_of_the_models_type(model_type, x_type, denoiser):
    model, x = copy.deepcopy(denoiser).to(model_type), GRID.abs().to(x_type)
    exact_in = GRID.abs().double()
    with torch.no_grad():
        truth = copy.deepcopy(denoiser).double()(exact_in, 0.5)
        for answer in (model(x, 0.5), model.noise(x, model.schedule.sigma(0.5))):
            assert answer.dtype == model_type
            error = 30 * torch.finfo(model_type).eps
            torch.testing.assert_close(answer.double(), truth, rtol=error, atol=error)
    points, path = sample(model, 4, noise=x, steps=5, return_trajectory=True)
    assert points.dtype == path.dtype == model_type
    assert gaussian.sample(model, gaussian.linear(5), 4, noise=x).dtype == model_type
    assert diffusion.elbo(model, x, steps=20, num_samples=16).dtype == torch.float64
    assert diffusion.log_likelihood(model, x).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_half_model_samples_as_its_original(dtype, denoiser):
    half = copy.deepcopy(denoiser).to(dtype)
    points = sample(half, 2000, solver="ddim", steps=200, seed=0)
    original = sample(denoiser, 2000, solver="ddim", steps=200, seed=0)
    # The same starts end at the same places, to the coarse grain of the network's numbers.
    assert (points - original).abs().median() < 8 * torch.finfo(dtype).eps
    assert metrics.tv10(points) < metrics.tv10(original) + 0.03


def test_a_half_model_comes_back_from_its_file(denoiser, tmp_path):
    half = copy.deepcopy(denoiser).half()
    diffusion.save(half, tmp_path / "half.pt")
    again = diffusion.load(tmp_path / "half.pt")
    assert again.dtype == torch.float16
    assert torch.equal(sample(again, 5, steps=3, seed=0), sample(half, 5, steps=3, seed=0))


def test_points_beyond_a_types_range_are_refused(denoiser):
    with pytest.raises(ValueError, match=r"too large for the model.*torch\.float16"):
        copy.deepcopy(denoiser).half()(torch.full((1, 2), 1e6), 0.5)


def test_whole_numbers_are_points_in_every_measure():
    corners = torch.tensor([[0, 0], [1, 1], [-1, 1], [2, 0]])
    real = corners.double()
    assert torch.equal(
        data.inside(corners, data.RECTANGLES[0]), data.inside(real, data.RECTANGLES[0])
    )
    assert torch.equal(class_of(corners[:3]), class_of(real[:3]))
    for measure in (metrics.tv10, metrics.ks, metrics.outside_share):
        assert measure(corners) == measure(real)
    assert torch.equal(metrics.border_distance(corners), metrics.border_distance(real))
    assert torch.equal(exact.uniform_log_density(corners), exact.uniform_log_density(real))
    assert torch.equal(exact.ExactDenoiser()(corners, 0.5), exact.ExactDenoiser()(real, 0.5))
    chain = gaussian.linear(10)
    assert torch.equal(chain.forward(corners, 5, corners), chain.forward(real, 5, real))
    assert torch.equal(chain.denoised(corners, 5, corners), chain.denoised(real, 5, real))
    pairs = zip(chain.posterior(corners, corners, 5), chain.posterior(real, real, 5), strict=True)
    assert all(torch.equal(found, expected) for found, expected in pairs)


# --- The caller's modes -------------------------------------------------------------------------


def everything(model):
    """One of each kind of answer that is computed in more than one pass."""
    x = POINTS[:3] * 1
    run = Training(build(POINTS * 1, width=8), POINTS * 1, epochs=2, noise_samples=1)
    return [
        *run.run().parameters(),
        sample(model, 3000, steps=3, seed=0),
        gaussian.sample(model, gaussian.linear(5), 3, seed=0),
        diffusion.elbo(model, x, steps=9, num_samples=16),
        diffusion.complete_bound(model, x, steps=9, num_samples=16).total,
        diffusion.log_likelihood(model, x),
        steering.invert(model, (1, 1), steps=20).path,
        steering.optimise(model, (1, 1), steps=5).path,
        steering.guide(model, (1, 1), steps=5, through_network=True).path,
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_the_callers_gradient_mode_changes_nothing(mode, dtype, denoiser):
    model = copy.deepcopy(denoiser).to(dtype)
    expected = everything(model)
    with mode():
        found = everything(model)
    for one, other in zip(expected, found, strict=True):
        assert torch.equal(one, other)
        assert not other.is_inference()
    assert not any(answer.requires_grad for answer in found[-8:])


def test_the_callers_autocast_changes_nothing(denoiser):
    def risk():
        return metrics.excess_risk(denoiser, num_samples=100)

    expected, measured = everything(denoiser), risk()
    with torch.autocast("cpu", torch.bfloat16):
        found = everything(denoiser)
        assert risk() == measured
        assert torch.is_autocast_enabled("cpu")
    for one, other in zip(expected, found, strict=True):
        assert torch.equal(one, other)


def test_the_model_is_left_as_it_was(denoiser):
    for training in (True, False):
        model = copy.deepcopy(denoiser).train(training).requires_grad_(training)
        before = copy.deepcopy(model.state_dict())
        everything(model)
        assert model.training == training
        for parameter in model.parameters():
            assert parameter.requires_grad == training
            assert parameter.grad is None
        assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_a_model_made_in_inference_mode_is_refused_before_training():
    with torch.inference_mode():
        model = diffusion.Denoiser(torch.zeros(2), torch.eye(2) / 3)
    with pytest.raises(ValueError, match="inference_mode"):
        Training(model, POINTS)


def test_a_model_loaded_in_inference_mode_can_be_trained(denoiser, tmp_path):
    diffusion.save(denoiser, tmp_path / "model.pt")
    with torch.inference_mode():
        model = diffusion.load(tmp_path / "model.pt")
    Training(model, POINTS, epochs=1).run()


def test_building_and_loading_move_no_global_random_state(denoiser, tmp_path):
    before = torch.get_rng_state()
    build(POINTS, LABELS, num_classes=NUM_CLASSES)
    model = diffusion.Denoiser(torch.zeros(2), torch.eye(2) / 3)
    diffusion.save(denoiser, tmp_path / "model.pt")
    diffusion.load(tmp_path / "model.pt")
    Training(model, POINTS, epochs=1).run()
    assert torch.equal(before, torch.get_rng_state())


def test_the_default_type_changes_nothing(denoiser):
    def risk():
        return metrics.excess_risk(denoiser, num_samples=20)

    expected, measured = trained(POINTS, LABELS).state_dict(), risk()
    torch.set_default_dtype(torch.float64)
    try:
        found = trained(POINTS, LABELS).state_dict()
        assert risk() == measured
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
