"""--study continual: what a network forgets when it learns task after task, and what helps.

Permuted digits (H10.5) with an MLP, and a CNN of as many parameters beside it; then the sheet's VAE
learning one digit after another. Everything is trained here; nothing is loaded or saved.

Learning rates and lambda are chosen on validation images of the first two tasks alone: one rate for
all sequences, by EWC, rehearsal and joint training, and one for each kind of network where tasks
are learnt apart. `--seeds 1` is a quick look: the second of each range of rates is taken, and of
the VAE's lambda.
"""

from __future__ import annotations

import argparse
import math

import torch
from torch import Tensor

from diffusion.cli import Answer, Run, Study, option
from diffusion.figures import continual as figures
from diffusion.figures import families as sheets
from diffusion.images import continual_measures as measures
from diffusion.images import mnist
from diffusion.images.continual import MAX_TASKS, MIN_TASKS, NETWORKS, accuracies, network, scaled
from diffusion.images.continual_fisher import fisher_diagonal
from diffusion.images.continual_measures import mean_and_error
from diffusion.studies.parts import continual_digits as digits
from diffusion.studies.parts import continual_runs as runs
from diffusion.studies.parts import continual_truth, recipe

PLACES = tuple(k / 10 for k in range(-2, 13))  # on the line between two sets of weights
MAX_ROWS = 5  # tasks whose images are shown
PROBED = 1000  # images of a loss or of the Fisher information

OPTIONS = (
    option(
        "--tasks", "permutations of the pixels", within=(MIN_TASKS, MAX_TASKS), type=int, default=5
    ),
    option("--seeds", "repetitions of everything", within=(1, 100), type=int, default=3),
    recipe.SEED,
    option(
        "--updates",
        f"batches of {runs.BATCH} for a task",
        within=(1, 1_000_000),
        type=int,
        default=400,
    ),
    option(
        "--lambdas",
        "strengths of EWC, finite and not negative",
        type=float,
        nargs="+",
        metavar="LAMBDA",
        default=(1.0, 10.0, 100.0, 1e3, 1e4, 1e5),
    ),
    option(
        "--memories",
        "images of a task that rehearsal keeps, 1 or more",
        type=int,
        nargs="+",
        metavar="M",
        default=(50, 200, 1000),
    ),
    option(
        "--classes",
        "digits that the VAE learns one after another (default: two for every task, at most 10)",
        within=(2, 10),
        type=int,
    ),
    option(
        "--vae-updates",
        "batches of 100 for a digit",
        within=(1, 1_000_000),
        type=int,
        default=150,
    ),
)


def check(args: argparse.Namespace) -> None:
    """Refuse strengths and memories that do not exist; two digits a task where none are given.

    Raises:
        ValueError: then.
    """
    for lam in args.lambdas:
        if not 0 <= lam < math.inf:
            raise ValueError(f"--lambdas must be finite and not negative, not {lam:g}")
    for memory in args.memories:
        if not 1 <= memory <= runs.TRAINING_IMAGES:
            raise ValueError(f"--memories must be in 1..{runs.TRAINING_IMAGES}, not {memory}")
    for name in ("lambdas", "memories"):
        values = getattr(args, name)
        if len(set(values)) < len(values):
            raise ValueError(f"--{name} names a value twice")
        setattr(args, name, tuple(sorted(values)))
    args.classes = args.classes or min(2 * args.tasks, mnist.NUM_CLASSES)


def _last(run: Run, name: str, kind: str = "mlp") -> Tensor:
    """Test accuracy after the last task: (seeds, tasks)."""
    return torch.stack([path.last for path in run.once(runs.paths)[kind, name]])


def _averages(matrices: Tensor) -> Tensor:
    """Average accuracy after every task: (seeds, tasks)."""
    return torch.stack([measures.average_accuracy(matrix) for matrix in matrices])


# --- Questions ----------------------------------------------------------------------------------


def choices(run: Run) -> Answer:
    """What was chosen on validation images of the first two tasks, and how."""
    numbers = {"rule": "the best mean accuracy over both tasks after the second"}
    for what, rate in run.once(runs.rates).items():
        scores = {
            name: {f"{x:g}": mean_and_error(score) for x, score in by_rate.items()}
            for name, by_rate in rate.scores.items()
        }
        numbers[what] = {"learning_rate": rate.chosen, "validation_accuracy": scores}
    every = run.once(runs.paths)
    numbers["lambda"] = runs.best_lambda(run)
    numbers["validation_accuracy_by_lambda"] = {
        f"{lam:g}": mean_and_error([p.two.mean() for p in every["mlp", f"EWC {lam:g}"]])
        for lam in run.args.lambdas
    }
    return Answer(numbers)


def tasks(run: Run) -> Answer:
    """What the network sees: the same digits under every permutation."""
    test = run.once(runs.data)[0].test[:MAX_ROWS]
    images = torch.stack([scaled(task.grey(slice(0, 10))) for task in test])
    names = [f"task {k + 1}" for k in range(len(test))]
    return Answer({}, {"a_tasks": sheets.named_rows(images, mnist.SHAPE, names)})


def a_forgetting(run: Run) -> Answer:
    """H10.5 a i: how much is forgotten, by strategy, between the two bounds."""
    matrices, numbers = run.once(runs.matrices), {}
    untrained = [
        accuracies(network("mlp", seed), once.test)
        for seed, once in zip(runs.seeds(run.args), run.once(runs.data), strict=True)
    ]
    for name, found in matrices.items():
        numbers[name] = {
            "average_accuracy": mean_and_error(_averages(found)[:, -1]),
            "after_every_task": _averages(found).mean(dim=0).tolist(),
            "matrix": found.mean(dim=0).tolist(),
        }
        if name != "joint":
            lost = [measures.forgetting(matrix) for matrix in found]
            ahead = list(map(measures.forward_transfer, found, untrained))
            numbers[name]["forgetting"] = mean_and_error(lost)
            numbers[name]["forward_transfer"] = mean_and_error(ahead)
    apart = _last(run, "separate")
    numbers["separate"] = {"average_accuracy": mean_and_error(apart.mean(dim=1))}
    naive, ewc, kept = _three(run)
    gap = _averages(matrices[ewc])[:, -1] - _averages(matrices["naive"])[:, -1]
    numbers["ewc_minus_naive"] = mean_and_error(gap)
    lines = {name: _averages(found) for name, found in matrices.items()}
    lines["separate"] = apart.cumsum(dim=1) / torch.arange(1, apart.shape[1] + 1)
    curves = {
        name: torch.stack([path.curve for path in runs.shown(run)[name]])
        for name in (naive, ewc, kept)
    }
    squares = {name: numbers[name]["matrix"] for name in (naive, ewc, kept, "joint")}
    return Answer(
        numbers,
        {
            "a_matrices": figures.matrices(squares),
            "a_curves": figures.curves(curves, run.args.tasks),
            "a_averages": figures.averages(lines),
        },
    )


def _three(run: Run) -> list[str]:
    """Naive, EWC, and rehearsal with the middle one of the memories, by their full names."""
    shown = runs.shown(run)
    kept = [name for name in shown if name.startswith("rehearsal")]
    ewc = [name for name in shown if name.startswith("EWC")]
    return ["naive", *ewc, kept[len(kept) // 2]]


def a_networks(run: Run) -> Answer:
    """H10.5 a ii: a CNN against an MLP of as many parameters, on plain and on permuted digits."""
    apart = {kind: _last(run, "separate", kind) for kind in NETWORKS}
    naive = {kind: _last(run, "naive", kind) for kind in NETWORKS}
    difference = apart["mlp"] - apart["cnn"]
    numbers = {
        "parameters": {
            kind: sum(p.numel() for p in network(kind).parameters()) for kind in NETWORKS
        },
        "mlp_minus_cnn_plain": mean_and_error(difference[:, 0]),
        "mlp_minus_cnn_permuted": mean_and_error(difference[:, 1:].mean(dim=1)),
    }
    for kind in NETWORKS:
        numbers[kind] = {
            "plain": mean_and_error(apart[kind][:, 0]),
            "permuted": mean_and_error(apart[kind][:, 1:].mean(dim=1)),
            "naive_average_accuracy": mean_and_error(naive[kind].mean(dim=1)),
        }
    return Answer(numbers, {"a_networks": figures.networks(apart, naive)})


def a_why(run: Run) -> Answer:
    """Why it forgets: how far the weights go, and what lies between old and new ones."""
    shown, once = runs.shown(run), run.once(runs.data)
    numbers, lines, travelled = {}, {}, {}
    for name in _three(run):
        plain, weighted, losses = [], [], []
        for path, tasks in zip(shown[name], once, strict=True):
            models = path.learnt.models
            steps = zip(models[:-1], models[1:], tasks.train[:-1], strict=True)
            pairs = [
                (measures.distance(old, new), measures.distance(old, new, _fisher(old, task)))
                for old, new, task in steps
            ]
            plain.append([pair[0] for pair in pairs])
            weighted.append([pair[1] for pair in pairs])
            rows = slice(0, PROBED)
            losses.append(
                [
                    measures.losses_between(models[0], models[1], PLACES, task, rows)
                    for task in tasks.test[:2]
                ]
            )
        values = torch.tensor(losses)  # (seeds, 2, places)
        lines[name] = {"task 1": values[:, 0], "task 2": values[:, 1]}
        travelled[name] = torch.tensor(plain), torch.tensor(weighted)
        ends = [PLACES.index(place) for place in (0.0, 0.5, 1.0)]
        numbers[name] = {
            "distance": torch.tensor(plain).mean(dim=0).tolist(),
            "fisher_distance": torch.tensor(weighted).mean(dim=0).tolist(),
            "loss_of_task_1_at_0_half_1": values[:, 0].mean(dim=0)[ends].tolist(),
            "loss_of_task_2_at_0_half_1": values[:, 1].mean(dim=0)[ends].tolist(),
        }
    figure = figures.valleys(PLACES, lines), figures.distances(travelled)
    return Answer(numbers, {"a_line": figure[0], "a_distance": figure[1]})


def _fisher(model, task) -> list[Tensor]:
    return fisher_diagonal(model, scaled(task.grey(slice(0, PROBED))))


def b_lambda(run: Run) -> Answer:
    """H10.5 b i and ii: what lambda does, over its decades; one parabola a task against one."""
    columns = [_last(run, f"EWC {lam:g}") for lam in run.args.lambdas]

    def parts(last: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return last[:, :-1].mean(dim=1), last[:, -1], last.mean(dim=1)

    old, new, both = (torch.stack(part, dim=1) for part in zip(*map(parts, columns), strict=True))
    numbers = {
        f"{lam:g}": {
            "old_tasks": mean_and_error(old[:, k]),
            "last_task": mean_and_error(new[:, k]),
            "all_tasks": mean_and_error(both[:, k]),
        }
        for k, lam in enumerate(run.args.lambdas)
    }
    best = runs.best_lambda(run)
    per_task = torch.stack([path.last.mean() for path in run.once(runs.per_task_form)])
    here = both[:, run.args.lambdas.index(best)]
    figure = figures.lambdas(run.args.lambdas, old, new, both, parts(_last(run, "naive")), best)
    return Answer(
        {
            "chosen": best,
            "by_lambda": numbers,
            "one_parabola_a_task": mean_and_error(per_task),
            "online_minus_one_a_task": mean_and_error(here - per_task),
            "bytes_kept": run.once(runs.paths)["mlp", f"EWC {best:g}"][0].learnt.bytes_kept,
        },
        {"b_lambda": figure},
    )


def c_rehearsal(run: Run) -> Answer:
    """H10.5 c i: accuracy against images kept, bytes kept, and time paid.

    The time is that of the tasks after the first, which is learnt alike by all.
    """
    shown = runs.shown(run)
    accuracy = {name: torch.stack([path.last.mean() for path in shown[name]]) for name in shown}
    seconds = {
        name: torch.tensor([sum(path.learnt.seconds[1:]) for path in paths])
        for name, paths in shown.items()
    }
    numbers = {
        name: {
            "average_accuracy": mean_and_error(accuracy[name]),
            "bytes_kept": paths[0].learnt.bytes_kept,
            "cpu_seconds": mean_and_error(seconds[name]),
        }
        for name, paths in shown.items()
    }
    all_images = run.args.tasks * runs.TRAINING_IMAGES * (mnist.PIXELS + 1)
    numbers["joint"]["bytes_kept"] = all_images
    kept = [name for name in shown if name.startswith("rehearsal")]
    lines = {n: (accuracy[n], seconds[n]) for n in shown if n not in kept}
    figure = figures.memories(
        run.args.memories,
        torch.stack([accuracy[name] for name in kept], dim=1),
        torch.stack([seconds[name] for name in kept], dim=1),
        [numbers[name]["bytes_kept"] for name in kept],
        lines,
    )
    return Answer(numbers, {"c_rehearsal": figure})


def e_vae(run: Run) -> Answer:
    """Forgetting of a generative model, in nats: the sheet's VAE, one digit after another."""
    scores, found = run.once(digits.vae_lambda), run.once(digits.generations)
    first = run.once(digits.first_class)
    numbers = {
        "learning_rate": first.rate,
        "validation_nats_of_the_first_digit": {
            f"{rate:g}": mean_and_error(-score) for rate, score in first.scores.items()
        },
        "lambda": min(scores, key=lambda lam: scores[lam].mean()),
        "validation_nats_by_lambda": {
            f"{lam:g}": mean_and_error(score) for lam, score in scores.items()
        },
        "memory": digits.MEMORY,
    }
    values = {name: torch.stack([one.nats for one in each]) for name, each in found.items()}
    for name, nats in values.items():
        first = torch.stack([nats[:, k, k] for k in range(nats.shape[2])], dim=1)
        numbers[name] = {
            "nats": mean_and_error(nats[:, -1].mean(dim=1)),
            "forgotten_nats": mean_and_error((nats[:, -1] - first)[:, :-1].mean(dim=1)),
            "last_digit": mean_and_error(nats[:, -1, -1]),
            "by_step_and_digit": nats.mean(dim=0).tolist(),
        }
    drawn = torch.stack([each[0].last.sample(12, seed=run.args.seed) for each in found.values()])
    return Answer(
        numbers,
        {
            "e_nats": figures.generations(values),
            "e_samples": sheets.named_rows(drawn, mnist.SHAPE, list(found)),
        },
    )


STUDY = Study(
    name="continual",
    description="what networks forget that learn one task after another, and what helps",
    options=OPTIONS,
    small="--tasks 2 --seeds 2 --updates 20 --vae-updates 5 --classes 2 --lambdas 1 100 "
    "--memories 20",
    load=lambda args: {},
    train=lambda run, name: None,
    questions={
        "choices": choices,
        "tasks": tasks,
        "forgetting": a_forgetting,
        "networks": a_networks,
        "why": a_why,
        "lambda": b_lambda,
        "rehearsal": c_rehearsal,
        "regression": continual_truth.d_regression,
        "fisher": continual_truth.d_fisher,
        "vae": e_vae,
    },
    check=check,
)
