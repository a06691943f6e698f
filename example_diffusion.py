"""Exercise 1, Part 1: a diffusion model of points in the plane.

Trains an unconditional and a conditional model (or loads them) and answers questions 1-6 of both
parts (U1-U6, C1-C6) and the bonus, in this order; `--data FILE.npy` asks them about points of your
own, `--study NAME` runs a study instead. Figures go to OUT/figures, numbers to
OUT/results/diffusion.json.

All of this code was written with an AI assistant. Tests hold each formula to a closed form, an
enumeration or an independent implementation, and each claim to a measurement.
"""

from __future__ import annotations

from diffusion import startup

if __name__ == "__main__":
    startup.prepare("example_diffusion.py")

import sys
from functools import partial

import numpy as np
import torch

import diffusion
from diffusion import cli, data, exact, likelihood, metrics, schedule, steering
from diffusion.cli import Answer, Run, Study
from diffusion.exact import ExactDenoiser
from diffusion.figures import curves
from diffusion.figures import points as pictures
from diffusion.figures.style import SQUARE, Frame
from diffusion.studies import STUDIES, exercise, owndata
from diffusion.studies.exercise import (
    ACCURATE,
    SCHEDULES,
    STEP_COUNTS,
    labelled_points,
    labels_like_the_data,
    sample,
)

# --- Unconditional model ------------------------------------------------------------------------


def u1_forward_process(run: Run, frame: Frame = SQUARE) -> Answer:
    """Question 1: the forward process of a point outside the square."""
    t = torch.linspace(0, 1, 1001, dtype=torch.float64)
    sigma = run.models["unconditional"].schedule.sigma(t)
    variance = torch.diff(sigma**2, prepend=torch.zeros(1))
    generator = torch.Generator().manual_seed(run.args.seed)
    # Independent increments of the variance give one path with the marginals of Eq. 2.
    noise = torch.randn(len(t), 2, generator=generator, dtype=torch.float64)
    path = torch.tensor(frame.place(1.6, 1.4)) + (variance.sqrt()[:, None] * noise).cumsum(dim=0)
    return Answer(
        {"start": path[0].tolist(), "end": path[-1].tolist()},
        {"u1_forward": pictures.forward_process(path, t, frame)},
    )


def u2_training_loss(run: Run) -> Answer:
    """Question 2: the training loss, and the smallest loss that any network could reach."""
    free, conditional = run.models["unconditional"], run.models["conditional"]
    losses = {
        "unconditional": (free.losses, exact.bayes_loss(free.schedule)),
        "conditional": (conditional.losses, exact.bayes_loss_of_classes(free.schedule)),
    }
    excess_risk = {
        "unconditional": metrics.excess_risk(free),
        "conditional": [
            metrics.excess_risk(conditional, rectangle=rectangle, label=label)
            for label, rectangle in enumerate(data.RECTANGLES)
        ],
    }
    window = 100
    numbers = {
        name: {
            "bayes_loss": bayes,
            "first_loss": values[0].item(),
            f"loss_mean_of_last_{window}_epochs": values[-window:].mean().item(),
            "excess_risk": excess_risk[name],
        }
        for name, (values, bayes) in losses.items()
    }
    return Answer(numbers, {"u2_loss": curves.training_loss(losses, window)})


def u3_nine_seeds(run: Run) -> Answer:
    """Question 3: nine samplings of 1000 points, nine seeds."""
    seeds = range(run.args.seed, run.args.seed + 9)
    samples = [sample(run, 1000, seed=seed) for seed in seeds]
    scores = [metrics.tv10(points) for points in samples]
    titles = [f"seed {s}: TV10 {score:.3f}" for s, score in zip(seeds, scores, strict=True)]
    return Answer(
        {"tv10": scores, "tv10_of_1000_uniform_points": metrics.uniform_tv10(1000, repeats=100)},
        {"u3_seeds": pictures.sample_grid(samples, titles, columns=3)},
    )


def u4_sampling_steps(run: Run) -> Answer:
    """Question 4: what the number of sampling steps T does.

    Algorithm 1 moves by sigma'(t) dt = 5 sigma / T times the noise; sigma itself falls by less.
    T = 1 and 2 overshoot the denoised point, T = 5 lands on it, which shrinks the samples towards
    means. From T = 10 on the error falls like 1 / T until the network's own error is what is left.
    """
    model, n, seed = run.models["unconditional"], run.args.samples, run.args.seed
    truth = ExactDenoiser(model.schedule)
    samples = {T: diffusion.sample(model, n, steps=T, seed=seed) for T in STEP_COUNTS}
    ideal = {T: diffusion.sample(truth, n, steps=T, seed=seed) for T in STEP_COUNTS}
    floor = metrics.uniform_tv10(n, repeats=20)
    scores = {
        name: [metrics.tv10(points) for points in by_steps.values()]
        for name, by_steps in {"model": samples, "exact score": ideal}.items()
    }
    titles = [f"T = {T}\nTV10 {v:.3f}" for T, v in zip(STEP_COUNTS, scores["model"], strict=True)]
    shown = [points[:1000] for points in samples.values()]
    note = f"1,000 of {n:,} samples each; TV10 is that of all {n:,}"
    most, last = STEP_COUNTS[-1], samples[STEP_COUNTS[-1]]
    at_most_steps = {
        "T": most,
        "tv10": scores["model"][-1],
        "ks": metrics.ks(last),
        "outside": metrics.outside_share(last),
    }
    numbers = {"steps": STEP_COUNTS, "samples": n, "tv10_floor": floor, "tv10": scores}
    return Answer(
        numbers | {"at_most_steps": at_most_steps},
        {
            "u4_steps": pictures.sample_grid(shown, titles, columns=5, note=note),
            "u4_tv10": curves.steps_against_truth(STEP_COUNTS, *scores.values(), floor, n),
        },
    )


def u5_schedules(run: Run) -> Answer:
    """Question 5: other schedules for the steps, at equal T.

    The rule of thumb that the numbers support: Euler steps in t are good where sigma(t) is straight
    over a step. The linear schedule has no curvature and wins at every T; the exponential one, most
    curved where the noise is large, needs about five times as many steps for the same distance.
    """
    n, steps = run.args.samples, (5, 10, 20, 50, 100, 200)
    model = run.models["unconditional"]
    truth = ExactDenoiser(model.schedule)

    def score(model, plan, T: int) -> float:
        points = diffusion.sample(model, n, steps=T, schedule=plan, seed=run.args.seed)
        return metrics.tv10(points)

    errors = {
        name: tuple([score(m, plan, T) for T in steps] for m in (model, truth))
        for name, plan in SCHEDULES.items()
    }
    t = torch.linspace(0, 1, 21, dtype=torch.float64)
    sigmas = {name: plan.sigma(t) for name, plan in SCHEDULES.items()}
    scores = {name: {"model": a, "exact score": b} for name, (a, b) in errors.items()}
    return Answer(
        {"steps": steps, "tv10": scores},
        {"u5_schedules": curves.schedules(t, sigmas, steps, errors)},
    )


def u6_same_noise(run: Run, frame: Frame = SQUARE) -> Answer:
    """Question 6: the same noise ten times; DDIM repeats itself to the bit, DDPM does not."""
    model, common = run.models["unconditional"], {"steps": run.args.steps, "seed": run.args.seed}
    generator = torch.Generator().manual_seed(run.args.seed)
    starts = diffusion.sampling.start(model, 4, generator=generator)
    solvers = {"DDIM": {"solver": "ddim"}} | {
        f"DDPM, λ = {lam:g}": {"solver": "ddpm", "lam": lam} for lam in (0.25, 0.5, 1.0)
    }
    outputs, spreads = {}, {}
    for name, options in solvers.items():
        noise = starts.repeat(10, 1)  # ten copies of the four starts, with fresh noise each
        points = diffusion.sample(model, 40, noise=noise, **common, **options).reshape(10, 4, 2)
        spreads[name] = points.std(dim=0, correction=0).square().sum(dim=1).mean().sqrt().item()
        outputs[name] = (points, spreads[name])
    paths = {
        name: diffusion.sample(
            model, 4, noise=starts, return_trajectory=True, **common, **solvers[name]
        )[1].numpy()
        for name in ("DDIM", "DDPM, λ = 1")
    }
    ddim = outputs["DDIM"][0]
    identical = bool((ddim == ddim[0]).all())
    t = np.linspace(1, 0, run.args.steps + 1)
    return Answer(
        {"ddim_outputs_identical_to_the_bit": identical, "spread": spreads},
        {
            "u6_same_noise": pictures.repeated_outputs(starts, outputs, frame),
            "u6_trajectories": pictures.trajectories(paths, t, frame),
        },
    )


def start_mismatch(run: Run) -> Answer:
    """Beyond the questions: the price of starting from N(0, I), and how sigma(1) pays it off.

    x_1 = x_0 + sigma(1) eps has variance sigma(1)^2 + 1/3 per coordinate, Algorithm 1 starts with
    sigma(1)^2: a start too narrow by the factor sqrt(1 + 1 / (3 sigma(1)^2)).
    """
    n, levels = run.args.samples, (1.0, 1.5, 2.0, 3.0, 5.0, 10.0)
    truths = [ExactDenoiser(schedule.Exponential(sigma_max=level)) for level in levels]
    scores, table = {}, {}
    for prior in diffusion.sampling.PRIORS:
        options = {"prior": prior, "seed": run.args.seed} | ACCURATE
        ideal = [diffusion.sample(truth, n, **options) for truth in truths]
        learnt = diffusion.sample(run.models["unconditional"], n, **options)
        scores[prior] = [metrics.tv10(points) for points in ideal]
        for name, points in (("exact score", ideal[0]), ("model", learnt)):
            table[f"{name}, {prior} start"] = {
                "tv10": metrics.tv10(points),
                "ks": metrics.ks(points),
                "standard_deviation": points.std(dim=0).mean().item(),
            }
    floor = metrics.uniform_tv10(n, repeats=20)
    return Answer(
        {
            "at_sigma_max_1": table,
            "standard_deviation_of_uniform": 3**-0.5,
            "sigma_max": levels,
            "tv10_exact_score": scores,
        },
        {"start_mismatch": curves.start_mismatch(levels, scores, floor)},
    )


# --- Conditional model --------------------------------------------------------------------------


def c1_classes(run: Run) -> Answer:
    """Question 1: the input, coloured by class (question 2 is answered in `Denoiser`)."""
    points, labels = run.once(labelled_points)
    title = f"{len(points):,} training points by class"
    figure = pictures.classes(points, labels, data.CLASS_NAMES, data.RECTANGLES, title)
    counts = torch.bincount(labels, minlength=data.NUM_CLASSES).tolist()
    return Answer(dict(zip(data.CLASS_NAMES, counts, strict=True)), {"c1_classes": figure})


def c3_one_point_per_class(run: Run) -> Answer:
    """Question 3: one trajectory per class, checked to end in its class's rectangle."""
    labels = torch.arange(data.NUM_CLASSES)
    points, path = sample(run, len(labels), "conditional", labels=labels, return_trajectory=True)
    inside = data.inside(points, data.RECTANGLES.transpose(0, 1)).tolist()
    figure = pictures.class_trajectories(path, data.CLASS_NAMES, data.RECTANGLES, inside)
    return Answer(dict(zip(data.CLASS_NAMES, inside, strict=True)), {"c3_trajectories": figure})


def c4_samples_by_class(run: Run) -> Answer:
    """Question 4: 2000 samples, classes in the data's proportions."""
    labels = labels_like_the_data(run, 2000)
    points = sample(run, len(labels), "conditional", labels=labels)
    title = f"{len(labels):,} samples by class"
    figure = pictures.classes(points, labels, data.CLASS_NAMES, data.RECTANGLES, title)
    inside = data.inside(points, data.RECTANGLES[labels].transpose(0, 1))
    share = inside.double().mean().item()
    return Answer({"samples": len(labels), "share_in_own_rectangle": share}, {"c4_samples": figure})


def reverse_process(run: Run) -> Answer:
    """Beyond the questions: 1000 points on their way through both models, as an animation."""
    n, frames, steps = 1000, 40, 1000
    labels = labels_like_the_data(run, n)
    options = {"steps": steps, "seed": run.args.seed, "return_trajectory": True}
    shown = torch.linspace(0, steps, frames).round().long()
    _, free = diffusion.sample(run.models["unconditional"], n, **options)
    _, guided = diffusion.sample(run.models["conditional"], n, labels=labels, **options)
    names = ("unconditional", "conditional, coloured by class")
    sigmas = run.models["unconditional"].schedule.sigma(1 - shown / steps)
    movie = pictures.reverse_process((free[shown], guided[shown]), labels, names, sigmas)
    return Answer(figures={"reverse_process.gif": movie})


def c5_analysis(run: Run) -> Answer:
    """Question 5: how well each class is met, and what happens at the borders."""
    n, model = run.args.samples, run.models["conditional"]
    generator = torch.Generator().manual_seed(run.args.seed)
    bins = torch.linspace(0, 0.25, 11, dtype=torch.float64)
    table, ratios = {}, {}
    for k, (name, rectangle) in enumerate(zip(data.CLASS_NAMES, data.RECTANGLES, strict=True)):
        points = diffusion.sample(model, n, labels=k, seed=run.args.seed, **ACCURATE)
        uniform = data.uniform(n, rectangle, generator=generator)
        distances = [metrics.border_distance(p, rectangle).mean().item() for p in (points, uniform)]
        ratios[name] = metrics.border_profile(points, rectangle, bins)
        table[name] = {
            "in_own_rectangle": 1 - metrics.outside_share(points, rectangle),
            "tv10_inside": metrics.tv10(points, rectangle),
            "tv10_of_uniform_points": metrics.tv10(uniform, rectangle),
            "mean_border_distance": distances[0],
            "mean_border_distance_of_uniform_points": distances[1],
            "samples_over_uniform_within_0.025_of_border": ratios[name][0].item(),
        }
    # The best that sampling down to sigma(0) can do, in one of the narrow rectangles.
    narrow = data.RECTANGLES[1]
    uniform = data.uniform(1_000_000, narrow, generator=generator)
    noise = torch.randn(uniform.shape, generator=generator)
    blurred = metrics.border_profile(uniform + model.schedule.sigma_min * noise, narrow, bins)
    limit = "uniform_blurred_by_sigma_0_over_uniform_within_0.025_of_border"
    return Answer(
        {"samples": n, "classes": table, limit: blurred[0].item()},
        {"c5_borders": curves.border_profiles(bins, ratios, blurred)},
    )


# Name, location, class; A and B share their location.
PROBES = (
    ("A", (0.0, 0.0), "centre"),
    ("B", (0.0, 0.0), "top"),
    ("C", (-0.25, 0.75), "top"),
    ("D", (0.75, 0.25), "right"),
    ("E", (0.95, 0.95), "right"),
    ("F", (0.75, 0.25), "left"),
    ("G", (1.2, 0.3), "right"),
    ("H", (1.5, -1.4), "bottom"),
)


def c6_probability(run: Run) -> Answer:
    """Question 6: Eq. 9, the complete bound and the exact density, beside the truth.

    Within the data -L_T lies below log p by little more than the constant reconstruction term;
    where location or class do not fit, it falls by hundreds of nats. There the network
    extrapolates, and its density, though negligible, is far larger than the true one.
    """
    free, conditional = run.models["unconditional"], run.models["conditional"]
    names, places, class_names = zip(*PROBES, strict=True)
    x = torch.tensor(places)
    labels = torch.tensor([data.CLASS_NAMES.index(name) for name in class_names])
    own = data.RECTANGLES[labels].transpose(0, 1)
    estimates = {
        "points": likelihood.estimates(conditional, x, labels, own, seed=run.args.seed),
        "points_unconditional": likelihood.estimates(
            free, x, None, data.SQUARE, seed=run.args.seed
        ),
    }
    for kind, rows in estimates.items():
        for row, (_, place, name) in zip(rows, PROBES, strict=True):
            row |= {"location": list(place), "class": name if kind == "points" else None}
    numbers = {kind: dict(zip(names, rows, strict=True)) for kind, rows in estimates.items()}
    # Without classes B and F are the places of A and D once more.
    without = {k: v for k, v in numbers["points_unconditional"].items() if k not in "BF"}
    table = [*numbers["points"].items(), *without.items()]

    maps = {"all classes": likelihood.density_map(free)}
    for k, name in enumerate(data.CLASS_NAMES):
        maps[name] = likelihood.density_map(conditional, k)
    densities, integrals = zip(*maps.values(), strict=True)
    areas = [4.0, *(float((r[1] - r[0]).prod()) for r in data.RECTANGLES)]
    return Answer(
        numbers | {"integral_of_density": dict(zip(maps, integrals, strict=True))},
        {
            "c6_probability": pictures.probabilities(*run.once(labelled_points), x, names, table),
            "c6_density": pictures.density_maps(densities, list(maps), areas, integrals, 2.0),
        },
    )


# --- Bonus --------------------------------------------------------------------------------------

WAYS = {
    "inverted flow": steering.invert,
    "optimised noises, λ = 0.25": partial(steering.optimise, lam=0.25),
    "optimised noises, λ = 1": steering.optimise,
    "guidance": steering.guide,
    "guidance through the network": partial(steering.guide, through_network=True),
}


def bonus_steering(run: Run, frame: Frame = SQUARE, label: int = 2) -> Answer:
    """Bonus: both models, unchanged, output a point far outside the square.

    Random samples never come near, and guidance with the network's own Jacobian stops short: far
    from the data the denoised point hardly moves with x, so its gradient vanishes. What works:
    running the deterministic flow backwards from the target, the least noise that leads there, and
    guidance that takes the Jacobian for the identity. Fresh noise (lam > 0) is the dearer way,
    since the drift that it must fight grows with 1 + lam^2.
    """
    target = tuple(run.args.target)
    nearest = (sample(run, run.args.samples) - torch.tensor(target)).norm(dim=1).min().item()
    numbers, figures = {"target": target, "nearest_of_random_samples": nearest}, {}
    labels = {"unconditional": None, "conditional": label}
    for name, model in run.models.items():
        found, failed = steering.steer(WAYS, model, target, labels[name], steps=200)
        numbers[name] = {way: steered.numbers() for way, steered in found.items()}
        numbers[name] |= {way: {"reached": False, "failed": why} for way, why in failed.items()}
        if "inverted flow" in found:
            start = found["inverted flow"].path[:1]
            again = diffusion.sample(model, 1, noise=start, labels=labels[name], steps=200)
            numbers[name]["inverted flow"]["distance_of_diffusion_sample_from_that_start"] = (
                (again[0] - torch.tensor(target)).norm().item()
            )
        titles = {
            f"{way}\nmisses by {s.distance:.2g}\nenergy {s.energy:,.0f} nats": s.path
            for way, s in found.items()
        }
        figures[f"bonus_{name}"] = pictures.steering(titles, target, frame)
    return Answer(numbers, figures)


EXERCISE = Study(
    name="diffusion",
    description="Part 1: train the diffusion models, or load them, and answer its questions.",
    options=exercise.OPTIONS,
    check=exercise.check,
    load=exercise.load,
    train=exercise.train,
    questions={
        "u1": u1_forward_process,
        "u2": u2_training_loss,
        "u3": u3_nine_seeds,
        "u4": u4_sampling_steps,
        "u5": u5_schedules,
        "u6": u6_same_noise,
        "start_mismatch": start_mismatch,
        "c1": c1_classes,
        "c3": c3_one_point_per_class,
        "c4": c4_samples_by_class,
        "reverse_process": reverse_process,
        "c5": c5_analysis,
        "c6": c6_probability,
        "bonus": bonus_steering,
        "saved_samples": exercise.saved_samples,
    },
)


OWN_DATA = owndata.study(u1_forward_process, u6_same_noise, bonus_steering)


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    own = any(argument.partition("=")[0] == exercise.DATA.flag for argument in argv)
    errors = (diffusion.TrainingError, diffusion.ToleranceError)
    study = OWN_DATA if own else EXERCISE
    return cli.main("example_diffusion.py", study, STUDIES, argv, errors)


if __name__ == "__main__":
    sys.exit(main())
