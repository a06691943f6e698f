"""The exercise's questions about points of one's own (--data FILE.npy).

No truth is known here. Whatever the exercise measures against its square is measured against a
tenth of the points, held out: by the energy distance with its permutation test, the ratio of W2
distances, their log-density. What has no answer without the square or classes is said.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import ceil

import torch
from torch import Tensor

import diffusion
from diffusion import distances, likelihood
from diffusion.cli import Answer, Run, Study
from diffusion.figures import curves
from diffusion.figures import owndata as pictures
from diffusion.figures import points as shared_pictures
from diffusion.studies import exercise
from diffusion.studies.exercise import ACCURATE, SCHEDULES, STEP_COUNTS, sample
from diffusion.studies.parts import ownpoints
from diffusion.studies.parts.owndensity import (
    accuracy,
    density_maps,
    held_out_log_density,
    probes,
)
from diffusion.studies.parts.ownpoints import (
    COMPARED,
    REFERENCES,
    all_compared,
    at_own_class,
    compared,
    count,
    frame,
    labels_like_the_data,
    sizes,
    split,
    truth,
    truth_of,
    unseen,
)
from diffusion.training import noised


def u2_training_loss(run: Run) -> Answer:
    points, numbers, shown, window = run.once(split), {}, {}, 100
    for name, model in run.models.items():
        conditional = name == "conditional"
        held_out = denoising_loss(
            model, points.held_out, points.held_out_labels if conditional else None
        )
        training = denoising_loss(model, points.training, points.labels if conditional else None)
        numbers[name] = {
            "first_loss": model.losses[0].item(),
            f"loss_mean_of_last_{window}_epochs": model.losses[-window:].mean().item(),
            "held_out_loss": held_out[0],
            "held_out_loss_standard_error": held_out[1],
            "loss_of_training_points": training[0],
            "loss_of_training_points_standard_error": training[1],
        }
        shown[name] = (model.losses, held_out[0])
    return Answer(numbers, {"u2_loss": curves.training_loss(shown, window, "held-out loss")})


def denoising_loss(
    model, points: Tensor, labels: Tensor | None, *, rows: int = 100_000, seed: int = 0
) -> tuple[float, float]:
    """The loss that training minimises, on points (n, 2), and its standard error over points."""
    points = points[:rows]
    repeats = ceil(rows / len(points))
    generator = torch.Generator().manual_seed(seed)
    x_t, sigma, eps = noised(points.repeat(repeats, 1), model.schedule, generator)
    labels = None if labels is None else labels[:rows].repeat(repeats)
    with torch.no_grad():
        errors = (model.noise(x_t, sigma, labels) - eps).square().mean(dim=1)
    by_point = errors.reshape(repeats, len(points)).double().mean(dim=0)
    return by_point.mean().item(), (by_point.std() / len(points) ** 0.5).item()


def u3_nine_seeds(run: Run) -> Answer:
    seeds = range(run.args.seed, run.args.seed + 9)
    samples = [sample(run, count(run), seed=seed) for seed in seeds]
    found = all_compared(run, samples)
    titles = [
        f"seed {seed}: p = {p:.3f}\nenergy distance {distance:.3g}"
        for seed, p, distance in zip(
            seeds, found["p_value_of_the_same_law"], found["energy_distance"], strict=True
        )
    ]
    grid = shared_pictures.sample_grid(samples, titles, columns=3, frame=run.once(frame))
    return Answer(sizes(run) | found | run.once(truth), {"u3_seeds": grid})


def u4_sampling_steps(run: Run) -> Answer:
    model, n = run.models["unconditional"], count(run)
    samples = [diffusion.sample(model, n, steps=T, seed=run.args.seed) for T in STEP_COUNTS]
    found, floor = all_compared(run, samples), run.once(truth)
    p_values = found["p_value_of_the_same_law"]
    titles = [f"T = {T}\np = {p:.3f}" for T, p in zip(STEP_COUNTS, p_values, strict=True)]
    note = f"{n:,} samples each; p-value of having the held-out points' law"
    curve = pictures.steps(STEP_COUNTS, found, floor, f"DDIM, {n:,} samples")
    grid = shared_pictures.sample_grid(samples, titles, 5, note, run.once(frame))
    numbers = sizes(run) | {"steps": STEP_COUNTS} | found | floor
    return Answer(numbers, {"u4_steps": grid, "u4_distance": curve})


def u5_schedules(run: Run) -> Answer:
    model, steps = run.models["unconditional"], (5, 10, 20, 50, 100, 200)
    ends = {"sigma_min": model.schedule.sigma_min, "sigma_max": model.schedule.sigma_max}
    plans = {name: replace(plan, **ends) for name, plan in SCHEDULES.items()}

    def drawn(plan, T: int) -> Tensor:
        return diffusion.sample(model, count(run), steps=T, schedule=plan, seed=run.args.seed)

    found = {
        name: all_compared(run, [drawn(plan, T) for T in steps]) for name, plan in plans.items()
    }
    t = torch.linspace(0, 1, 21, dtype=torch.float64)
    sigmas = {name: plan.sigma(t) for name, plan in plans.items()}
    figure = pictures.schedules(t, sigmas, steps, found, run.once(truth))
    numbers = ends | {"steps": steps, "scores": found} | run.once(truth)
    return Answer(sizes(run) | numbers, {"u5_schedules": figure})


def start_mismatch(run: Run) -> Answer:
    model, table = run.models["unconditional"], {}
    for prior in diffusion.sampling.PRIORS:
        options = {"prior": prior, "seed": run.args.seed} | ACCURATE
        points = diffusion.sample(model, count(run), **options)
        found = compared(points, run.once(unseen), run.once(truth), run.args.seed)
        deviation = {"standard_deviation": points.std(dim=0).tolist()}
        table[f"model, {prior} start"] = found | deviation
    deviation = run.once(split).training.std(dim=0).tolist()
    numbers = table | {"standard_deviation_of_training_points": deviation} | run.once(truth)
    return Answer(sizes(run) | numbers)


def c1_classes(run: Run) -> Answer:
    points = run.once(split)
    # Every class is shown in full where there are few points, in its proportion where many.
    rows = torch.arange(0, len(points.training), ceil(len(points.training) / 5000))
    title = f"{len(rows):,} of {len(points.training):,} training points by class"
    figure = pictures.classes(
        points.training[rows], points.labels[rows], points.names, title, run.once(frame)
    )
    counts = {
        name: {
            "training": (points.labels == k).sum().item(),
            "held_out": (points.held_out_labels == k).sum().item(),
        }
        for k, name in enumerate(points.names)
    }
    return Answer(counts, {"c1_classes": figure})


def c3_one_point_per_class(run: Run) -> Answer:
    names = run.once(split).names
    labels = torch.arange(len(names))
    points, path = sample(run, len(names), "conditional", labels=labels, return_trajectory=True)
    own = at_own_class(run, points, labels).tolist()
    figure = pictures.class_trajectories(path, names, own, run.once(frame))
    return Answer(dict(zip(names, own, strict=True)), {"c3_trajectories": figure})


def c4_samples_by_class(run: Run) -> Answer:
    points, labels = run.once(split), labels_like_the_data(run, 2000)
    samples = sample(run, len(labels), "conditional", labels=labels)
    title = f"{len(labels):,} samples by class"
    figure = pictures.classes(samples, labels, points.names, title, run.once(frame))
    held_out, own = points.held_out[:REFERENCES], points.held_out_labels[:REFERENCES]
    numbers = {
        "samples": len(labels),
        "share_at_own_class": at_own_class(run, samples, labels).double().mean().item(),
        "share_of_held_out_points_at_own_class": (
            at_own_class(run, held_out, own).double().mean().item()
        ),
    }
    return Answer(numbers, {"c4_samples": figure})


def reverse_process(run: Run) -> Answer:
    n, count_shown, steps = 1000, 40, 1000
    shown = torch.linspace(0, steps, count_shown).round().long()
    labels = labels_like_the_data(run, n) if "conditional" in run.models else None
    paths = []
    for name, model in run.models.items():
        given = labels if name == "conditional" else None
        options = {"steps": steps, "seed": run.args.seed, "return_trajectory": True}
        paths.append(diffusion.sample(model, n, labels=given, **options)[1][shown])
    names = ("unconditional", "conditional, coloured by class")[: len(paths)]
    sigmas = run.models["unconditional"].schedule.sigma(1 - shown / steps)
    colours = pictures.class_colours(len(run.once(split).names))
    movie = shared_pictures.reverse_process(paths, labels, names, sigmas, run.once(frame), colours)
    return Answer(figures={"reverse_process.gif": movie})


def c5_analysis(run: Run) -> Answer:
    points, table = run.once(split), {}
    for k, name in enumerate(points.names):
        samples = diffusion.sample(
            run.models["conditional"], count(run), labels=k, seed=run.args.seed, **ACCURATE
        )
        held_out, training = (
            distances.subsample(some[own == k], COMPARED, seed=run.args.seed)
            for some, own in (
                (points.held_out, points.held_out_labels),
                (points.training, points.labels),
            )
        )
        floor = truth_of(held_out, training, len(samples))
        found = floor | compared(samples, held_out, floor, run.args.seed)
        own = at_own_class(run, samples, torch.full((len(samples),), k))
        shares = {"held_out_points": len(held_out), "at_own_class": own.double().mean().item()}
        table[name] = shares | found
    return Answer({"samples": count(run), "classes": table})


def c6_probability(run: Run) -> Answer:
    numbers, table = {}, []
    for kind, model in run.models.items():
        names, x, labels = probes(run, kind)
        bound = likelihood.complete_bound(model, x, labels, seed=run.args.seed)
        density = likelihood.log_likelihood(model, x, labels, **accuracy(run, 1e-4))
        rows = {
            name: {
                "location": x[i].tolist(),
                "class": None if labels is None else run.once(split).names[labels[i]],
                "eq9_nats": bound.diffusion[i].item(),
                "eq9_standard_error_nats": bound.error[i].item(),
                "bound_nats": bound.total[i].item(),
                "log_density_nats": density[i].item(),
            }
            for i, name in enumerate(names)
        }
        numbers[kind] = {"points": rows, "held_out": held_out_log_density(run, kind)}
        table += rows.items()
    integrals, figure = density_maps(run)
    marked = pictures.probabilities(table, run.once(frame))
    return Answer(
        numbers | {"integral_of_density": integrals},
        {"c6_probability": marked, "c6_density": figure},
    )


# --- The study ----------------------------------------------------------------------------------

DISTANCES = "energy distance with its permutation test and W2 ratio to held-out points"
NO_SCORE = "the exact score is not known and left out"
NEAREST = "no borders of classes are known: class of the nearest training point in their place"
NOTES = {
    "u1": "the start lies to the points as (1.6, 1.4) to the square",
    "u2": "the Bayes loss is not known, nor the excess risk: held-out loss in their place",
    "u3": f"TV10 needs the square: {DISTANCES} in its place",
    "u4": f"TV10 needs the square: {DISTANCES} in its place; {NO_SCORE}",
    "u5": f"TV10 needs the square: {DISTANCES} in its place; {NO_SCORE}",
    "start_mismatch": f"TV10 and KS need the square: {DISTANCES} in their place; {NO_SCORE}, "
    "and with it the curve against sigma(1)",
    "c3": NEAREST,
    "c4": NEAREST,
    "c5": f"borders, border distances and TV10 need the square: {DISTANCES} in their place, "
    "and the class of the nearest training point",
    "c6": "the true density is not known: mean log-density of held-out points in its place, "
    "beside that of fitted Gaussians",
    "bonus": "the target lies to the points as (4, 5.5) to the square, unless --target is given; "
    "the conditional model is steered in the first class",
}
OF_CLASSES = ("c1", "c3", "c4", "c5")
NO_CLASSES = "not answered: the file has no third column, so there are no classes"


def noted(name: str, question: Callable[[Run], Answer]) -> Callable[[Run], Answer]:
    """The question, with what stands in place of the truth, or why there is no answer."""

    def annotated(run: Run) -> Answer:
        if name in OF_CLASSES and "conditional" not in run.models:
            return Answer({"note": NO_CLASSES}, text=f"{name}: {NO_CLASSES}")
        answer, note = question(run), NOTES.get(name)
        if note is None:
            return answer
        return replace(answer, numbers={"note": note, **answer.numbers}, text=f"{name}: {note}")

    return annotated


def study(
    u1: Callable[..., Answer], u6: Callable[..., Answer], bonus: Callable[..., Answer]
) -> Study:
    """The study of a file of points, with those of the exercise's questions that hold for it.

    u1, u6, bonus: called with the run and the `Frame` of the points; bonus also with a label.
    """
    questions: Mapping[str, Callable[[Run], Answer]] = {
        "u1": lambda run: u1(run, run.once(frame)),
        "u2": u2_training_loss,
        "u3": u3_nine_seeds,
        "u4": u4_sampling_steps,
        "u5": u5_schedules,
        "u6": lambda run: u6(run, run.once(frame)),
        "start_mismatch": start_mismatch,
        "c1": c1_classes,
        "c3": c3_one_point_per_class,
        "c4": c4_samples_by_class,
        "reverse_process": reverse_process,
        "c5": c5_analysis,
        "c6": c6_probability,
        "bonus": lambda run: bonus(run, run.once(frame), 0),
        "saved_samples": exercise.saved_samples,
    }
    return Study(
        name="diffusion",
        description="Part 1 about points of your own: the same questions, measured against a "
        "tenth of the points that training does not see.",
        options=ownpoints.OPTIONS,
        check=ownpoints.check,
        load=ownpoints.load,
        weights="diffusion_{}.pt",
        train=ownpoints.train,
        subject=lambda args: args.data,
        questions={name: noted(name, question) for name, question in questions.items()},
    )
