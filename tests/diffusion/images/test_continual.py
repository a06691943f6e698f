"""Tasks, strategies and measures of continual learning, on small made-up digits."""

from __future__ import annotations

import math
import time

import pytest
import torch
from torch import nn

from diffusion.images import continual_measures as measures
from diffusion.images.continual import (
    EWC,
    Joint,
    Naive,
    Rehearsal,
    Separate,
    accuracies,
    as_tasks,
    learn,
    network,
    permutations,
    reservoir,
)
from diffusion.images.continual_exact import TwoWeights
from diffusion.images.continual_fisher import Parabola
from diffusion.threads import run_all

OPTIONS = {"updates": 25, "batch_size": 32, "learning_rate": 0.01, "seed": 3}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def tasks():
    """Two tasks of ten patterns of 784 pixels, every pixel wrong with probability 0.2."""
    generator = seeded(1)
    patterns = torch.rand(10, 784, generator=generator) < 0.5
    labels = torch.arange(10).repeat(40)
    noise = torch.rand(400, 784, generator=generator) < 0.2
    images = (patterns[labels] ^ noise).to(torch.uint8) * 255
    return as_tasks(images, labels, permutations(2, 5))


@pytest.fixture(scope="module")
def small() -> nn.Module:
    model = nn.Sequential(nn.Linear(784, 20), nn.ReLU(), nn.Linear(20, 10))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.05 * torch.randn(parameter.shape, generator=seeded(2)))
    return model


def test_the_first_permutation_is_the_identity_and_all_of_them_are_permutations():
    orders = permutations(20, 7)
    assert torch.equal(orders[0], torch.arange(784))
    assert torch.equal(orders.sort(dim=1).values, torch.arange(784).expand(20, -1))
    assert len({tuple(order.tolist()) for order in orders}) == 20
    assert torch.equal(orders[:5], permutations(5, 7))  # more tasks keep the first ones
    # Pixels of a uniform permutation stay in place 1 +- 1 times.
    assert (orders[1:] == torch.arange(784)).sum(dim=1).double().mean() < 1 + 5 / math.sqrt(19)


def test_a_permuted_image_is_the_image_read_in_another_order(tasks):
    plain, permuted = tasks
    assert torch.equal(plain.grey(slice(0, 5)), plain.images[:5])
    order = permuted.permutation
    assert torch.equal(permuted.grey(slice(0, 5))[:, order.argsort()], plain.images[:5])


@pytest.mark.parametrize("number", [1, 21, 0, -3])
def test_only_two_to_twenty_tasks_exist(number):
    with pytest.raises(ValueError, match="tasks must be"):
        permutations(number)


def test_both_networks_have_the_same_number_of_parameters_and_know_no_default_dtype():
    sizes = [sum(p.numel() for p in network(kind).parameters()) for kind in ("mlp", "cnn")]
    assert abs(sizes[0] - sizes[1]) < 0.002 * sizes[0]
    before = [p.clone() for p in network("mlp", 4).parameters()]
    torch.set_default_dtype(torch.float64)
    try:
        after = list(network("mlp", 4).parameters())
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(map(torch.equal, before, after))
    with pytest.raises(ValueError, match="network must be one of"):
        network("transformer")


def test_building_moves_no_global_random_state():
    before = torch.get_rng_state()
    network("cnn")
    TwoWeights(1.0, 2.0)
    assert torch.equal(before, torch.get_rng_state())


def test_a_reservoir_is_a_uniform_sample():
    generator, n, size, times = seeded(), 30, 6, 2000
    counts = torch.zeros(n)
    for _ in range(times):
        rows = reservoir(n, size, generator)
        assert len(set(rows.tolist())) == size
        counts[rows] += 1
    p = size / n
    assert ((counts / times - p).abs() < 5 * math.sqrt(p * (1 - p) / times)).all()
    assert torch.equal(reservoir(4, 6, generator), torch.arange(4))


def test_after_the_first_task_all_strategies_are_equal_and_it_need_not_be_repeated(tasks, small):
    strategies = [Naive, Joint, Separate, lambda: EWC(10.0, examples=50), lambda: Rehearsal(5)]
    learnt = [learn(tasks, strategy(), small, **OPTIONS).models for strategy in strategies]
    first = [list(models[0].parameters()) for models in learnt]
    assert all(all(map(torch.equal, first[0], other)) for other in first[1:])
    for strategy, models in zip(strategies, learnt, strict=True):
        again = learn(tasks, strategy(), small, done=learnt[0][:1], **OPTIONS).models
        assert all(map(torch.equal, models[1].parameters(), again[1].parameters()))


def test_the_time_of_a_task_leaves_out_watching_it(tasks, small, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, "thread_time", lambda: clock[0])

    def watch(model):
        clock[0] += 1.0

    class Slow(Naive):
        def loss(self, *arguments):
            clock[0] += 0.25
            return super().loss(*arguments)

    learnt = learn(tasks, Slow(), small, watch=watch, **OPTIONS)
    assert learnt.seconds == [0.25 * OPTIONS["updates"]] * len(tasks)


def test_no_result_depends_on_the_callers_mode_or_on_how_many_jobs_run_at_once(tasks, small):
    def job():
        return learn(tasks, EWC(10.0, examples=50), small, **OPTIONS).models[-1]

    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        with torch.inference_mode():
            alone = run_all([job], "alone")
        torch.set_num_threads(2)
        several = run_all([job] * 3, "several")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    for other in several:
        assert all(map(torch.equal, alone[0].parameters(), other.parameters()))


def test_without_strength_ewc_is_naive_and_with_much_of_it_nothing_moves(tasks, small):
    naive = learn(tasks, Naive(), small, **OPTIONS).models
    free = learn(tasks, EWC(0.0, examples=50), small, done=naive[:1], **OPTIONS).models
    assert all(map(torch.equal, naive[1].parameters(), free[1].parameters()))
    step = [measures.distance(naive[0], naive[1])]
    for lam in (10.0, 1e4):
        held = learn(tasks, EWC(lam, examples=200), small, done=naive[:1], **OPTIONS).models
        step.append(measures.distance(held[0], held[1]))
    assert step[0] > step[1] > step[2]


def test_rehearsal_weighs_every_task_alike_and_keeps_what_it_says(tasks, small):
    strategy = Rehearsal(7)
    strategy.consolidate(small, tasks[0], seeded())
    strategy.consolidate(small, tasks[1], seeded())
    assert strategy.bytes_kept == 2 * 7 * 785
    assert [len(images) for images in strategy.images] == [7, 7]
    rows = reservoir(400, 7, seeded())
    assert torch.equal(strategy.images[1], tasks[1].grey(rows))
    # With a memory that holds whole tasks the loss is that of joint training on average.
    strategy = Rehearsal(400)
    strategy.consolidate(small, tasks[0], seeded())
    generator, n, times = seeded(1), 32, 400
    with torch.no_grad():
        ours = torch.stack([strategy.loss(small, tasks, n, generator) for _ in range(times)])
        joint = torch.stack([Joint().loss(small, tasks, n, generator) for _ in range(times)])
    error = math.hypot(ours.std().item(), joint.std().item()) / math.sqrt(times)
    assert abs(ours.mean() - joint.mean()).item() < 5 * error


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: Rehearsal(0), "memory of rehearsal must be"),
        (lambda: EWC(-1.0), "lambda must be finite and not negative"),
        (lambda: EWC(math.inf), "lambda must be finite and not negative"),
        (lambda: EWC(math.nan), "lambda must be finite and not negative"),
        (lambda: Parabola("strong"), "lambda must be a number"),
        (lambda: Parabola(1.0, "twofold"), "form must be one of"),
        (lambda: EWC(1.0, examples=0), "examples must be"),
    ],
)
def test_strategies_that_do_not_exist_are_refused(make, complaint):
    with pytest.raises(ValueError, match=complaint):
        make()


@pytest.mark.parametrize("wrong", [{"updates": 0}, {"batch_size": 0}, {"learning_rate": 0.0},
                                   {"learning_rate": math.inf}, {"seed": -1}])  # fmt: skip
def test_settings_out_of_range_are_refused(wrong, tasks, small):
    with pytest.raises(ValueError, match="must be"):
        learn(tasks, Naive(), small, **(OPTIONS | wrong))


# --- Measures -----------------------------------------------------------------------------------


def test_the_measures_of_a_matrix_are_those_of_a_hand_calculation():
    matrix = torch.tensor([[0.9, 0.2, 0.1], [0.7, 0.8, 0.3], [0.75, 0.5, 0.6]]).double()
    expected = torch.tensor([0.9, 0.75, (0.75 + 0.5 + 0.6) / 3]).double()
    torch.testing.assert_close(measures.average_accuracy(matrix), expected)
    assert measures.forgetting(matrix) == pytest.approx((0.15 + 0.3) / 2)
    untrained = torch.tensor([0.1, 0.1, 0.2]).double()
    assert measures.forward_transfer(matrix, untrained) == pytest.approx((0.1 + 0.1) / 2)


def test_accuracy_counts_every_image_once(tasks, small):
    right = [
        (small(task.grey(slice(None)).float() / 255).argmax(dim=1) == task.labels).double().mean()
        for task in tasks
    ]
    torch.testing.assert_close(accuracies(small, tasks), torch.stack(right))


def test_the_loss_on_the_line_is_that_of_the_networks_at_its_ends(tasks, small):
    new = learn(tasks[:1], Naive(), small, **OPTIONS).models[0]
    found = measures.losses_between(small, new, (0.0, 0.5, 1.0), tasks[0], slice(0, 50))
    rows = tasks[0].grey(slice(0, 50)).float() / 255
    for place, model in ((0, small), (2, new)):
        with torch.no_grad():
            loss = nn.functional.cross_entropy(model(rows), tasks[0].labels[:50])
        assert found[place] == pytest.approx(loss.item(), rel=1e-5)
    assert measures.distance(small, small) == 0
    squares = [torch.full_like(p, 4.0) for p in small.parameters()]
    plain = measures.distance(small, new)
    assert measures.distance(small, new, squares) == pytest.approx(2 * plain)


def test_the_standard_error_of_a_mean():
    found = measures.mean_and_error([1.0, 2.0, 6.0])
    assert found["mean"] == 3
    assert found["standard_error"] == pytest.approx(math.sqrt(7 / 3))
    assert "standard_error" not in measures.mean_and_error([1.0])
