"""What the study of continual learning trains: every sequence of tasks of every seed, once.

Choices come first, on validation images of the first two tasks alone; no test image is seen before
they stand.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from diffusion.cli import Run
from diffusion.images import continual_vae, mnist
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
from diffusion.images.vae import VAE
from diffusion.threads import run_all

BATCH = 128
TRAINING_IMAGES = 50_000
RATES = {"mlp": (0.002, 0.005, 0.01, 0.02), "cnn": (0.005, 0.01, 0.02, 0.04)}  # of Adam
VAE_RATES = (0.002, 0.004, 0.008)
VAE_LAMBDAS = (1.0, 10.0, 100.0, 1000.0)
VAE_MEMORY = 200  # images kept of a class
VAE_TESTED = 500  # test images of a class
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


def firsts(run: Run) -> dict[tuple[str, float, int], nn.Module]:
    """By kind of network, rate and seed the network after the first task, where all begin."""
    keys = [(kind, rate, k) for kind in NETWORKS for rate in RATES[kind] for k in each_seed(run)]

    def job(kind: str, rate: float, k: int) -> nn.Module:
        return _learn(run, kind, Naive(), rate, k, 1).models[0]

    return _at_once(run, job, keys, "first tasks")


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
        done=() if known is None else [known],
        **more,
    )


# --- The learning rate --------------------------------------------------------------------------


@dataclass(frozen=True)
class Rate:
    """A learning rate, and what it was chosen by.

    scores: strategy -> rate -> (seeds,) accuracy on validation images of the first two tasks after
    the second, the mean over both; chosen: by `best_rate`.
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
    names = {"mlp": list(tried(run.args)), "cnn": ["separate"]}

    def job(kind: str, name: str, rate: float, k: int) -> Tensor:
        strategy = tried(run.args)[name]
        learnt = _learn(run, kind, strategy, rate, k, 2)
        return accuracy_after(learnt, strategy, run.once(data)[k].validation[:2]).mean()

    keys = [(kind, name, rate, k) for kind in NETWORKS for name in reversed(names[kind])
            for rate in RATES[kind] for k in each_seed(run)]  # fmt: skip
    found = _at_once(run, job, keys, "learning rates")
    scores = {
        kind: {
            name: {
                rate: torch.stack([found[kind, name, rate, k] for k in each_seed(run)])
                for rate in RATES[kind]
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
    (marks, tasks) test accuracy while learning the tasks after the first.
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
    curve, done, every = [], 0, max(1, run.args.updates // MARKS)
    watched = [Task(t.images[:WATCHED], t.labels[:WATCHED], t.permutation) for t in test]

    def watch(model: nn.Module) -> None:
        nonlocal done
        done += 1
        if done % every == 0:
            curve.append(accuracies(model, watched))

    more = {} if strategy.FRESH else {"watch": watch}
    learnt = _learn(run, kind, strategy, rate, k, len(test), **more)
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


# --- A VAE, class after class -------------------------------------------------------------------


@dataclass(frozen=True)
class Digits:
    """MNIST by class: train of uint8 images, validation and test with fixed draws of the pixels."""

    train: list[Tensor]
    validation: list[Tensor]
    test: list[Tensor]


@dataclass(frozen=True)
class Generations:
    """One strategy's VAE of one seed: nats (steps, classes) on test images; the last model."""

    nats: Tensor
    last: VAE


def digits(run: Run) -> Digits:
    (train, labels), *rest = (mnist.load(part) for part in ("train", "validation", "test"))
    classes = range(run.args.classes)
    drawn = [(mnist.binarise(images, seed=0), labels) for images, labels in rest]
    return Digits(
        [train[labels == c] for c in classes],
        *([x[y == c][:VAE_TESTED] for c in classes] for x, y in drawn),
    )


def _vae(
    run: Run, k: int, strategy: continual_vae.Naive, rate: float, classes: int, **more
) -> list[VAE]:
    return continual_vae.learn(
        run.once(digits).train[:classes],
        strategy,
        updates=run.args.vae_updates,
        learning_rate=rate,
        seed=seeds(run.args)[k],
        **more,
    )


@dataclass(frozen=True)
class First:
    """The VAE of the first digit: its learning rate, scores of all rates (seeds,), and models."""

    rate: float
    scores: dict[float, Tensor]
    models: list[VAE]


def first_class(run: Run) -> First:
    """The learning rate with the fewest nats on validation images of the first digit."""
    validation, several = run.once(digits).validation[:1], range(run.args.seeds)

    def job(rate: float, k: int) -> tuple[VAE, float]:
        (model,) = _vae(run, k, continual_vae.Naive(), rate, 1)
        return model, -continual_vae.nats(model, validation)[0]

    keys = [(rate, k) for rate in VAE_RATES for k in several]
    learnt = run_all([lambda key=key: job(*key) for key in keys], "VAE of the first digit")
    found = dict(zip(keys, learnt, strict=True))
    scores = {
        rate: torch.tensor([found[rate, k][1] for k in several], dtype=torch.float64)
        for rate in VAE_RATES
    }
    best = max(scores, key=lambda rate: scores[rate].mean())
    return First(best, scores, [found[best, k][0] for k in several])


def vae_lambda(run: Run) -> dict[float, Tensor]:
    """lambda -> (seeds,) nats on validation images of the first two classes after the second."""
    first = run.once(first_class)

    def job(lam: float, k: int) -> Tensor:
        strategy = continual_vae.EWC(lam)
        model = _vae(run, k, strategy, first.rate, 2, first=first.models[k])[1]
        validation = run.once(digits).validation[:2]
        return torch.tensor(continual_vae.nats(model, validation), dtype=torch.float64).mean()

    keys = [(lam, k) for lam in VAE_LAMBDAS for k in range(run.args.seeds)]
    found = run_all([lambda key=key: job(*key) for key in keys], "lambda of the VAE")
    rows = torch.stack(found).reshape(len(VAE_LAMBDAS), -1)
    return dict(zip(VAE_LAMBDAS, rows, strict=True))


def generations(run: Run) -> dict[str, list[Generations]]:
    """By strategy, for every seed."""
    scores, first = run.once(vae_lambda), run.once(first_class)
    lam = min(scores, key=lambda lam: scores[lam].mean())
    new = {
        "joint": continual_vae.Joint,
        "rehearsal, real": partial(continual_vae.Rehearsal, VAE_MEMORY),
        "rehearsal, own": continual_vae.Replay,
        "EWC": partial(continual_vae.EWC, lam),
        "naive": continual_vae.Naive,
    }

    def job(name: str, k: int) -> Generations:
        models = _vae(run, k, new[name](), first.rate, run.args.classes, first=first.models[k])
        test = run.once(digits).test
        return Generations(torch.tensor([continual_vae.nats(m, test) for m in models]), models[-1])

    keys = [(name, k) for name in new for k in range(run.args.seeds)]
    learnt = run_all([lambda key=key: job(*key) for key in keys], "VAEs")
    found = dict(zip(keys, learnt, strict=True))
    return {name: [found[name, k] for k in range(run.args.seeds)] for name in new}
