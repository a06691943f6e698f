"""What the study of continual learning trains: every sequence of tasks of every seed, once.

Choices come first, on validation images of the first two tasks alone; test images only draw curves
before they stand. One seed, a quick look, chooses no rates: the second of each range is taken.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from diffusion.cli import Run
from diffusion.images import mnist
from diffusion.images.continual import (
    EWC,
    NETWORKS,
    Joint,
    Learnt,
    Naive,
    Rehearsal,
    Separate,
    Task,
    accuracies,
    as_tasks,
    learn,
    network,
    permutations,
)
from diffusion.images.continual_measures import accuracy_matrix
from diffusion.threads import run_all

BATCH = 128
TRAINING_IMAGES = 50_000
RATES = {"mlp": (0.002, 0.005, 0.01, 0.02), "cnn": (0.005, 0.01, 0.02, 0.04)}  # of Adam
MARKS = 5  # points of a learning curve in every task
WATCHED = 500  # test images of a task that learning curves are measured on


@dataclass(frozen=True)
class Data:
    """The tasks of one seed, of the three parts of MNIST."""

    train: list[Task]
    validation: list[Task]
    test: list[Task]


def data(run: Run) -> list[Data]:
    """For every seed the tasks, under that seed's permutations."""
    parts = [mnist.load(part) for part in ("train", "validation", "test")]
    orders = [permutations(run.args.tasks, seed) for seed in seeds(run.args)]
    return [Data(*(as_tasks(*part, order) for part in parts)) for order in orders]


def seeds(args: argparse.Namespace) -> range:
    return range(args.seed, args.seed + args.seeds)


def candidates(run: Run, values: tuple[float, ...]) -> tuple[float, ...]:
    """Of which a rate or lambda is chosen: all values, or with one seed the second alone."""
    return values if run.args.seeds > 1 else values[1:2]


class First(NamedTuple):
    """The network after the first task, where all begin, and how it came there: see Path.curve."""

    model: nn.Module
    curve: list[Tensor]


def firsts(run: Run) -> dict[tuple[str, float, int], First]:
    """By kind of network, rate and seed."""
    keys = [(kind, rate, k) for kind in NETWORKS for rate in candidates(run, RATES[kind])
            for k in each_seed(run)]  # fmt: skip

    def job(kind: str, rate: float, k: int) -> First:
        curve, watch = watched(run, k)
        return First(_learn(run, kind, Naive(), rate, k, 1, watch=watch).models[0], curve)

    return _at_once(run, job, keys, "first tasks")


def watched(run: Run, k: int) -> tuple[list[Tensor], Callable[[nn.Module], None]]:
    """A curve, empty, and what adds a point, (tasks,) test accuracy, MARKS times a task."""
    done, updates = 0, run.args.updates
    every = max(1, updates // MARKS)
    test = [Task(t.images[:WATCHED], t.labels[:WATCHED], t.permutation)
            for t in run.once(data)[k].test]  # fmt: skip
    curve: list[Tensor] = []

    def watch(model: nn.Module) -> None:
        nonlocal done
        done = done % updates + 1  # in the task at hand
        if done % every == 0:
            curve.append(accuracies(model, test))

    return curve, watch


def each_seed(run: Run) -> range:
    return range(run.args.seeds)


def _at_once(run: Run, job: Callable, keys: list[tuple], what: str) -> dict[tuple, Any]:
    """key -> job(*key), several at once."""
    run.once(data)
    return dict(zip(keys, run_all([partial(job, *key) for key in keys], what), strict=True))


def _learn(run: Run, kind: str, strategy: Naive, rate: float, k: int, tasks: int, **more) -> Learnt:
    """The k-th seed's first `tasks` tasks."""
    seed = seeds(run.args)[k]
    known = run.once(firsts).get((kind, rate, k)) if tasks > 1 else None
    return learn(
        run.once(data)[k].train[:tasks],
        strategy,
        network(kind, seed),
        updates=run.args.updates,
        batch_size=BATCH,
        learning_rate=rate,
        seed=seed,
        done=() if known is None else [known.model],
        **more,
    )


# --- The learning rate --------------------------------------------------------------------------


@dataclass(frozen=True)
class Rate:
    """A learning rate, and what it was chosen by.

    scores: strategy -> rate -> (seeds,) accuracy on validation images of the first two tasks after
    the second, the mean over both, none with one seed; chosen: by `best_rate`.
    """

    chosen: float
    scores: dict[str, dict[float, Tensor]]


def tried(args: argparse.Namespace) -> dict[str, Naive]:
    """One strategy of each kind, EWC and rehearsal with the middle one of their settings."""
    lam, memory = (values[len(values) // 2] for values in (args.lambdas, args.memories))
    return {
        "separate": Separate(),
        "naive": Naive(),
        f"EWC {lam:g}": EWC(lam),
        f"rehearsal {memory}": Rehearsal(memory),
        "joint": Joint(),
    }


def rates(run: Run) -> dict[str, Rate]:
    """For each kind of network the rate of tasks learnt apart, and the one of all "sequences".

    Sequences have one rate, whatever the strategy and the network, so that strategies are compared
    and not rates; the MLP chooses it.
    """
    run.once(firsts)
    if run.args.seeds == 1:
        kinds = {"mlp": "mlp", "cnn": "cnn", "sequences": "mlp"}
        return {what: Rate(*candidates(run, RATES[kind]), {}) for what, kind in kinds.items()}
    names = {"mlp": list(tried(run.args)), "cnn": ["separate"]}

    def job(kind: str, name: str, rate: float, k: int) -> Tensor:
        strategy = tried(run.args)[name]
        learnt = _learn(run, kind, strategy, rate, k, 2)
        return accuracy_after(learnt, strategy, run.once(data)[k].validation[:2]).mean()

    keys = [(kind, name, rate, k) for kind in NETWORKS for name in reversed(names[kind])
            for rate in candidates(run, RATES[kind]) for k in each_seed(run)]  # fmt: skip
    found = _at_once(run, job, keys, "learning rates")
    scores = {
        kind: {
            name: {
                rate: torch.stack([found[kind, name, rate, k] for k in each_seed(run)])
                for rate in candidates(run, RATES[kind])
            }
            for name in names[kind]
        }
        for kind in NETWORKS
    }
    apart = {kind: best_rate({"separate": scores[kind].pop("separate")}) for kind in NETWORKS}
    return apart | {"sequences": best_rate(scores["mlp"])}


def best_rate(scores: dict[str, dict[float, Tensor]]) -> Rate:
    """The one with the best mean over strategies, but for the naive one: it does not try to
    remember, and would rather not learn."""
    counted = [by_rate for name, by_rate in scores.items() if name != "naive"]
    chosen = max(counted[0], key=lambda rate: sum(by_rate[rate].mean() for by_rate in counted))
    return Rate(chosen, scores)


def accuracy_after(learnt: Learnt, strategy: Naive, tasks: list[Task]) -> Tensor:
    """(tasks,) accuracy after the last of these tasks, or of each task's own network."""
    if not isinstance(strategy, Separate):
        return accuracies(learnt.models[len(tasks) - 1], tasks)
    pairs = zip(learnt.models, tasks, strict=False)
    return torch.cat([accuracies(model, [task]) for model, task in pairs])


# --- Every sequence -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Path:
    """One strategy's way through the tasks of one seed.

    last: (tasks,) accuracy on test images after the last task, or each task's own network's.
    two: (2,) accuracy on validation images of the first two tasks after the second. curve:
    (marks, tasks) test accuracy while learning, empty where every task has a network of its own.
    """

    learnt: Learnt
    last: Tensor
    two: Tensor
    curve: Tensor


def strategies(args: argparse.Namespace) -> dict[str, Naive]:
    """A new strategy for each name, the longest to learn first."""
    kept = {f"rehearsal {memory}": Rehearsal(memory) for memory in args.memories}
    held = {f"EWC {lam:g}": EWC(lam) for lam in args.lambdas}
    return {"joint": Joint()} | kept | held | {"separate": Separate(), "naive": Naive()}


def paths(run: Run) -> dict[tuple[str, str], list[Path]]:
    """By network and strategy, for every seed; the convolutional one learns naively and apart."""
    keys = [
        (kind, name, k)
        for name in strategies(run.args)
        for kind in NETWORKS
        if kind == "mlp" or name in {"naive", "separate"}
        for k in range(run.args.seeds)
    ]
    run.once(rates)
    jobs = [
        lambda kind=kind, name=name, k=k: path(run, kind, strategies(run.args)[name], k)
        for kind, name, k in keys
    ]
    found = dict(zip(keys, run_all(jobs, "sequences of tasks"), strict=True))
    return {key[:2]: [found[(*key[:2], k)] for k in range(run.args.seeds)] for key in keys}


def path(run: Run, kind: str, strategy: Naive, k: int) -> Path:
    """One strategy's way through the k-th seed's tasks, and its accuracies."""
    test, validation = run.once(data)[k].test, run.once(data)[k].validation[:2]
    rate = run.once(rates)[kind if isinstance(strategy, Separate) else "sequences"].chosen
    curve, watch = watched(run, k)
    more = {} if strategy.FRESH else {"watch": watch}
    learnt = _learn(run, kind, strategy, rate, k, len(test), **more)
    first = run.once(firsts).get((kind, rate, k))
    if first and not strategy.FRESH:
        curve = first.curve + curve
    return Path(
        learnt,
        accuracy_after(learnt, strategy, test),
        accuracy_after(learnt, strategy, validation),
        torch.stack(curve) if curve else torch.empty(0, len(test)),
    )


def best_lambda(run: Run) -> float:
    """The lambda with the highest validation accuracy over the first two tasks after the second."""
    score = {
        lam: torch.stack([path.two.mean() for path in run.once(paths)["mlp", f"EWC {lam:g}"]])
        for lam in run.args.lambdas
    }
    return max(score, key=lambda lam: score[lam].mean())


def shown(run: Run) -> dict[str, list[Path]]:
    """The strategies that are looked at closely, by their full names; EWC at the lambda chosen."""
    every, lam = run.once(paths), best_lambda(run)
    kept = {f"rehearsal, {m} images": every["mlp", f"rehearsal {m}"] for m in run.args.memories}
    held = {f"EWC, lambda {lam:g}": every["mlp", f"EWC {lam:g}"]}
    return {"naive": every["mlp", "naive"]} | held | kept | {"joint": every["mlp", "joint"]}


def matrices(run: Run) -> dict[str, Tensor]:
    """The accuracy matrices (seeds, tasks, tasks) of the strategies shown, on test images."""
    once, close = run.once(data), shown(run)
    jobs = [
        lambda path=path, k=k: accuracy_matrix(path.learnt.models, once[k].test)
        for each in close.values()
        for k, path in enumerate(each)
    ]
    found = torch.stack(run_all(jobs, "accuracy matrices"))
    return dict(zip(close, found.unflatten(0, (len(close), -1)), strict=True))


def per_task_form(run: Run) -> list[Path]:
    """EWC with one parabola a task, at the lambda chosen: after two tasks it is the same."""
    lam = best_lambda(run)
    jobs = [lambda k=k: path(run, "mlp", EWC(lam, "per-task"), k) for k in range(run.args.seeds)]
    return run_all(jobs, "EWC, one parabola a task")
