"""Training: it learns, repeats itself to the bit, survives interruption, and stops at NaN."""

from __future__ import annotations

import copy
import math
import subprocess
import sys
import time
from pathlib import Path

import pytest
import scipy.stats
import torch

from diffusion import Training, TrainingError, WeightsError, build, exact, metrics
from diffusion.data import NUM_CLASSES, class_of, random_rotations, training_points
from diffusion.schedule import Exponential, Power
from diffusion.training import noised, run_together

POINTS = training_points(1000)[:200]


def training(seed: int = 0, *, points=POINTS, labels=None, schedule=None, width=16, **options):
    num_classes = 0 if labels is None else NUM_CLASSES
    model = build(points, labels, num_classes=num_classes, width=width, schedule=schedule)
    return Training(
        model, points, labels, seed=seed, **({"epochs": 12, "noise_samples": 1} | options)
    )


def state(run: Training) -> dict[str, torch.Tensor]:
    """Every number that a run carries from one epoch to the next."""
    moments = run.optimizer.state_dict()["state"]
    return (
        {f"model.{k}": v for k, v in run.model.state_dict().items()}
        | {f"average.{k}": v for k, v in run.average.state_dict().items()}
        | {f"adam.{i}.{k}": v for i, entry in moments.items() for k, v in entry.items()}
        | {"generator": run.generator.get_state(), "losses": torch.tensor(run.losses)}
    )


def same_bits(one: Training, other: Training) -> bool:
    first, second = state(one), state(other)
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


# --- Learning -----------------------------------------------------------------------------------


def test_loss_falls_towards_the_bayes_loss(denoiser):
    losses = denoiser.losses
    assert losses.shape == (300,)
    assert losses.isfinite().all()
    bayes = exact.bayes_loss(denoiser.schedule)
    # Each loss averages 2000 squares of variance about 2, so fifty of them scatter by 0.0045.
    # 1000 training points allow a little less than the Bayes loss of the square itself.
    assert abs(losses[-50:].mean().item() - bayes) < 0.03
    assert metrics.excess_risk(denoiser, num_samples=20_000) < 0.01


def test_conditional_training_learns_each_class(conditional):
    for label in range(NUM_CLASSES):
        rectangle = exact.RECTANGLES[label]
        excess = metrics.excess_risk(
            conditional, rectangle=rectangle, label=label, num_samples=20_000
        )
        assert excess < 0.03


def test_build_takes_the_moments_of_the_points():
    labels = class_of(POINTS)
    model = build(POINTS, labels, num_classes=NUM_CLASSES)
    for k in range(NUM_CLASSES):
        group = POINTS[labels == k]
        centred = group - group.mean(dim=0)
        covariance = centred.T @ centred / (len(group) - 1)
        torch.testing.assert_close(model.mean[k], group.mean(dim=0))
        torch.testing.assert_close(model.covariance[k], covariance)
    assert build(POINTS).num_classes == 0


@pytest.mark.parametrize("count", [0, 2])
def test_build_needs_three_points_of_each_class(count):
    with pytest.raises(ValueError, match="three points"):
        build(POINTS[:count])
    labels = torch.zeros(len(POINTS), dtype=torch.int64)
    labels[:count] = 1
    with pytest.raises(ValueError, match="three points"):
        build(POINTS, labels, num_classes=2)


# --- The forward process ------------------------------------------------------------------------


class Identity:
    """A stand-in for a schedule, to see the times themselves."""

    def sigma(self, t):
        return t


def test_times_are_stratified_and_noises_normal(generator):
    n = 1000
    points = torch.zeros(n, 2)
    _, times, eps = noised(points, Identity(), generator)
    strata = times.sort().values * n - torch.arange(n)  # one time in each [i/n, (i+1)/n]
    assert strata.min() > -1e-3
    assert strata.max() < 1 + 1e-3
    # In random order: no correlation with the index, which would have standard error 1/sqrt(n).
    correlation = torch.corrcoef(torch.stack([times, torch.arange(n) / n]))[0, 1]
    assert abs(correlation) < 4 / math.sqrt(n)
    assert scipy.stats.kstest(eps.flatten().numpy(), "norm").pvalue > 1e-4
    assert scipy.stats.kstest(strata.numpy(), "uniform").pvalue > 1e-4


@pytest.mark.parametrize("schedule", [Exponential(), Power()], ids=repr)
def test_points_are_noised_by_the_corrected_equation_4(schedule, generator):
    x_t, sigma, eps = noised(POINTS, schedule, generator)
    assert torch.equal(x_t, POINTS + sigma[:, None] * eps)
    assert x_t.dtype == sigma.dtype == eps.dtype == POINTS.dtype
    assert ((sigma >= schedule.sigma_min) & (sigma <= schedule.sigma_max)).all()


# --- The loop -----------------------------------------------------------------------------------


@pytest.mark.parametrize("ema_decay", [0.0, 0.5, 0.998])
def test_average_agrees_with_an_independent_loop(ema_decay):
    run = training(ema_decay=ema_decay)
    expected = [p.detach().double() for p in run.model.parameters()]
    for epoch in range(12):
        # The weights that are about to prove good enter; the average starts as a plain mean.
        decay = min(ema_decay, epoch / (epoch + 1))
        weights = [p.detach().double() for p in run.model.parameters()]
        expected = [decay * e + (1 - decay) * w for e, w in zip(expected, weights, strict=True)]
        run.epoch()
        for average, value in zip(run.average.parameters(), expected, strict=True):
            torch.testing.assert_close(average.double(), value, rtol=1e-5, atol=1e-6)


def test_first_update_is_one_adam_step_on_the_mean_squared_error():
    run = training(schedule=Power(), learning_rate=1e-2)
    before = copy.deepcopy(run.model)
    x_t, sigma, eps = noised(POINTS, run.model.schedule, torch.Generator().manual_seed(0))
    t = run.model.schedule.t(sigma.double())
    loss = ((before(x_t, t) - eps) ** 2).mean() / 2
    loss = loss + ((before(2 * POINTS - x_t, t) + eps) ** 2).mean() / 2  # the opposite noises
    loss.backward()
    assert run.epoch() == pytest.approx(loss.item(), rel=1e-4)
    # Adam's first step is the learning rate, here the first of the warm-up, times the sign.
    rate = 1e-2 / Training.WARM_UP
    for old, new in zip(before.parameters(), run.model.parameters(), strict=True):
        steady = old.grad.abs() > 1e-3
        moved = (old - rate * old.grad.sign())[steady]
        torch.testing.assert_close(new[steady], moved, rtol=1e-4, atol=rate * 1e-2)


def test_opposite_noises_leave_the_gradient_right_and_less_scattered():
    """The mean over draws is that of single noises; the variance is below that of two of them."""
    model = build(POINTS, width=16)
    with torch.no_grad():
        model.output_layer.weight.normal_(generator=torch.Generator().manual_seed(0))
    single, opposite = [], []
    for seed in range(300):
        run = training(seed)
        run.model = model
        loss = run._loss(POINTS, None)
        opposite.append(torch.autograd.grad(loss, model.output_layer.bias)[0])
        x_t, sigma, eps = noised(POINTS, model.schedule, torch.Generator().manual_seed(1000 + seed))
        loss = (model.noise(x_t, sigma) - eps).square().mean()
        single.append(torch.autograd.grad(loss, model.output_layer.bias)[0])
    single, opposite = torch.stack(single), torch.stack(opposite)
    error = torch.sqrt((single.var(dim=0) + opposite.var(dim=0)) / 300)
    assert ((single.mean(dim=0) - opposite.mean(dim=0)).abs() < 4 * error).all()
    assert (opposite.var(dim=0) < single.var(dim=0) / 2).all()


@pytest.mark.parametrize("labelled", [False, True])
def test_several_noise_samples_are_as_many_copies_of_each_point(labelled):
    labels = class_of(POINTS) if labelled else None
    copies = None if labels is None else labels.repeat(3)
    model, same = (build(POINTS, labels, num_classes=5 * labelled) for _ in range(2))
    drawn = Training(model, POINTS, labels, epochs=2, noise_samples=3)
    copied = Training(same, POINTS.repeat(3, 1), copies, epochs=2, noise_samples=1)
    drawn.run()
    copied.run()
    assert same_bits(drawn, copied)


@pytest.mark.parametrize("labelled", [False, True])
def test_same_seed_gives_the_same_bits(labelled):
    options = {"labels": class_of(POINTS) if labelled else None, "augment": random_rotations}
    one, same, other = (training(seed, **options) for seed in (3, 3, 4))
    before = torch.get_rng_state()
    for run in (one, same, other):
        result = run.run()
        assert result is run.average
        assert not result.training
        assert torch.equal(result.losses, torch.tensor(run.losses))
    assert torch.equal(before, torch.get_rng_state())
    assert same_bits(one, same)
    assert not same_bits(one, other)
    assert len(one.losses) == 12


def test_run_is_quiet_when_not_at_a_terminal(capsys):
    training(epochs=3).run(progress=True)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("threads", [1, 2])
def test_side_by_side_gives_the_bits_of_one_after_another(threads):
    labels = class_of(POINTS)
    alone, together = ([training(1), training(2, labels=labels)] for _ in range(2))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        averages = run_together(together)
        for run in alone:
            run.run()
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert [run.average for run in together] == averages
    for one, other in zip(alone, together, strict=True):
        assert same_bits(one, other)
        assert torch.equal(one.average.losses, other.average.losses)


def test_an_infinite_loss_stops_all_that_run_side_by_side():
    runs = [training(epochs=200), training(epochs=200, learning_rate=1e30)]
    with pytest.raises(TrainingError) as caught:
        run_together(runs)
    assert caught.value.model is runs[1].average


@pytest.mark.parametrize("stopped_after", [1, 5, 12])
@pytest.mark.parametrize("labelled", [False, True])
def test_resumed_run_gives_the_bits_of_an_uninterrupted_one(labelled, stopped_after, tmp_path):
    options = {"labels": class_of(POINTS) if labelled else None, "augment": random_rotations}
    whole, first, second = (training(**options) for _ in range(3))
    whole.run()
    for _ in range(stopped_after):
        first.epoch()
    first.save(tmp_path / "checkpoint.pt")
    second.resume(tmp_path / "checkpoint.pt")
    assert same_bits(first, second)
    second.run()
    assert same_bits(whole, second)


def test_finished_run_can_be_saved_and_resumed(tmp_path):
    done, resumed = training(), training()
    done.run()
    done.save(tmp_path / "checkpoint.pt")
    resumed.resume(tmp_path / "checkpoint.pt")
    resumed.run()
    assert same_bits(done, resumed)


def test_run_writes_its_checkpoint(tmp_path):
    whole, resumed = training(), training()
    whole.run(checkpoint=tmp_path / "new" / "checkpoint.pt", every=5)
    resumed.resume(tmp_path / "new" / "checkpoint.pt")
    assert resumed.losses == whole.losses[:10]


EPOCHS = 100
TRAINED_UNTIL_KILLED = f"""
import sys, time
from tests.diffusion.test_training import training
run = training(epochs={EPOCHS})
epoch, enough = run.epoch, {EPOCHS - 2}
run.epoch = lambda: epoch() if len(run.losses) < enough else time.sleep(1200) or sys.exit(1)
run.run(checkpoint=sys.argv[1], every=7)
"""


def test_killed_run_resumes_to_the_same_bits(tmp_path):
    checkpoint = tmp_path / "checkpoint.pt"
    with subprocess.Popen(
        [sys.executable, "-c", TRAINED_UNTIL_KILLED, str(checkpoint)], cwd=Path(__file__).parents[2]
    ) as process:
        while not checkpoint.exists() and process.poll() is None:
            time.sleep(0.001)
        process.kill()
    resumed, whole = training(epochs=EPOCHS), training(epochs=EPOCHS)
    resumed.resume(checkpoint)
    assert 0 < len(resumed.losses) < EPOCHS
    assert len(resumed.losses) % 7 == 0
    resumed.run()
    whole.run()
    assert same_bits(whole, resumed)


# --- What goes wrong ----------------------------------------------------------------------------


def test_infinite_loss_stops_and_keeps_the_last_good_weights():
    run = training(epochs=200, learning_rate=1e30)
    with pytest.raises(TrainingError, match=r"the loss became (nan|inf) in epoch") as caught:
        run.run()
    model = caught.value.model
    assert all(p.isfinite().all() for p in model.parameters())
    assert model(POINTS, 0.5).isfinite().all()
    assert torch.tensor(run.losses).isfinite().all()
    assert torch.equal(model.losses, torch.tensor(run.losses))
    assert f"epoch {len(run.losses) + 1};" in str(caught.value)
    before = copy.deepcopy(state(run))
    with pytest.raises(TrainingError):
        run.epoch()
    after = state(run)
    for key in before.keys() - {"generator"}:
        assert torch.equal(before[key].nan_to_num(), after[key].nan_to_num())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs"),
        ({"learning_rate": 0.0}, "learning rate"),
        ({"learning_rate": math.inf}, "learning rate"),
        ({"learning_rate": math.nan}, "learning rate"),
        ({"noise_samples": 0}, "noise_samples"),
        ({"ema_decay": 1.0}, "ema_decay"),
        ({"ema_decay": -0.1}, "ema_decay"),
        ({"ema_decay": math.nan}, "ema_decay"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        training(**options)


def test_bad_data_are_refused():
    model, labels = build(POINTS), class_of(POINTS)
    with pytest.raises(ValueError, match="NaN or infinite"):
        Training(model, torch.full((5, 2), torch.nan))
    with pytest.raises(ValueError, match="unconditional"):
        Training(model, POINTS, labels)
    model = build(POINTS, labels, num_classes=NUM_CLASSES)
    for bad in (None, labels[1:], labels + 1):
        with pytest.raises(ValueError, match="labels"):
            Training(model, POINTS, bad)


def test_checkpoint_of_an_earlier_version_is_refused(tmp_path):
    run = training()
    run.save(tmp_path / "checkpoint.pt")
    content = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    del content["settings"]["format"]
    torch.save(content, tmp_path / "checkpoint.pt")
    with pytest.raises(WeightsError, match="of an earlier version"):
        run.resume(tmp_path / "checkpoint.pt")


def test_missing_and_damaged_checkpoints_are_refused(tmp_path):
    path = tmp_path / "checkpoint.pt"
    run = training()
    with pytest.raises(WeightsError, match="no checkpoint"):
        run.resume(path)
    run.save(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(WeightsError, match="damaged"):
        run.resume(path)
    torch.save({"lm_head.weight": torch.zeros(3)}, path)
    with pytest.raises(WeightsError, match="not a checkpoint"):
        run.resume(path)


@pytest.mark.parametrize(
    "other",
    [
        {"epochs": 13},
        {"learning_rate": 1e-4},
        {"ema_decay": 0.9},
        {"noise_samples": 2},
        {"points": POINTS[1:]},
        {"points": -POINTS},
        {"points": POINTS.flip(0)},
        {"seed": 1},
        {"augment": random_rotations},
        {"labels": class_of(POINTS)},
        {"width": 8},
        {"schedule": Power()},
    ],
    ids=lambda other: next(iter(other)),
)
def test_checkpoint_of_another_run_is_refused(other, tmp_path):
    run = training(**other)
    before = copy.deepcopy(state(run))
    training().save(tmp_path / "checkpoint.pt")
    with pytest.raises(WeightsError, match="other settings or data"):
        run.resume(tmp_path / "checkpoint.pt")
    after = state(run)
    assert all(torch.equal(before[key], after[key]) for key in before)
