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
    PROBES,
    SCHEDULES,
    STEP_COUNTS,
    labelled_points,
    labels_like_the_data,
    sample,
    scores,
)
from diffusion.threads import side_by_side

# --- Unconditional model ------------------------------------------------------------------------


def u1_forward_process(run: Run, frame: Frame = SQUARE) -> Answer:
    """Question 1: the forward process of a point outside the square."""
    t = torch.linspace(0, 1, 1001, dtype=torch.float64)
    sigma = run.models["unconditional"].schedule.sigma(t)
    variance = torch.diff(sigma**2, prepend=torch.zeros(1))
    generator = torch.Generator().manual_seed(run.args.seed)
    # Independent increments of the variance give one path with the marginals of Eq. 2.
    noise = torch.randn(len(t), 2, generator=generator, dtype=torch.float64)
    point = torch.tensor([frame.place(1.6, 1.4)], dtype=torch.float64)
    path = torch.cat([point, point + (variance.sqrt()[:, None] * noise).cumsum(dim=0)])
    figure = pictures.forward_process(path, torch.cat([t[:1], t]), frame)
    return Answer({"start": path[0].tolist(), "end": path[-1].tolist()}, {"u1_forward": figure})


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
    """Question 3: nine samplings of 1000 points, nine seeds; one more from the exercise's start."""
    seeds = range(run.args.seed, run.args.seed + 9)
    *samples, literal = exercise.samples_by_seed(
        run, 1000, [(seed, "matched") for seed in seeds] + [(seeds[0], "standard")]
    )
    found = [metrics.tv10(points) for points in (*samples, literal)]
    titles = [f"seed {s}: {score:.3f}" for s, score in zip(seeds, found, strict=False)]
    title = f"start N(0, I)\nTV10 {found[-1]:.3f}"
    return Answer(
        {
            "tv10": found[:-1],
            "tv10_of_1000_uniform_points": metrics.uniform_tv10(1000, repeats=100),
            "standard_start": scores(literal),
        },
        {
            "u3_seeds": pictures.sample_grid(
                samples, titles, 3, "1,000 samples each, and their TV10", side=0.85
            ),
            "u3_standard_start": pictures.sample_grid([literal], [title], columns=1),
        },
    )


def u4_sampling_steps(run: Run) -> Answer:
    """Question 4: what the number of sampling steps T does.

    Algorithm 1 moves by sigma'(t) dt = 5 sigma / T times the noise; sigma itself falls by less.
    T = 1 and 2 overshoot the denoised point, T = 5 lands on it, which shrinks the samples towards
    means. From T = 10 on the error falls like 1 / T until the network's own error is what is left.
    Read as T + 1 evaluations, the last of them at t = 0, Algorithm 1 goes further still.
    """
    model, n, seed = run.models["unconditional"], run.args.samples, run.args.seed
    literal = {"seed": seed, "prior": "standard"}
    standard, inclusive = "start N(0, I)", "start N(0, I), T + 1 evaluations"
    ways = {
        standard: lambda T: diffusion.sample(model, n, steps=T, **literal),
        inclusive: lambda T: exercise.to_zero_inclusive(model, n, T, **literal),
    }
    long_first = STEP_COUNTS[::-1]
    jobs = [(T, name) for T in long_first for name in ways if T <= 100 or name != inclusive]
    made = dict(zip(jobs, side_by_side(lambda job: ways[job[1]](job[0]), jobs), strict=True))
    made = run.once(exercise.samples_by_steps) | made
    found = {
        name: [scores(made[T, name]) for T in STEP_COUNTS if (T, name) in made]
        for name in ("model", "exact score", *ways)
    }
    tv10 = {name: [row["tv10"] for row in rows] for name, rows in found.items()}
    floor = metrics.uniform_tv10(n, repeats=20)
    panels = [(T, "model", f"T = {T}") for T in STEP_COUNTS]
    panels += [
        (STEP_COUNTS[-1], standard, f"{STEP_COUNTS[-1]}, N(0, I)"),
        (STEP_COUNTS[0], inclusive, f"{STEP_COUNTS[0]} + 1, N(0, I)"),
    ]
    shown = [made[T, name][:1000] for T, name, _ in panels]
    titles = [f"{text}\nTV10 {metrics.tv10(made[T, name]):.3f}" for T, name, text in panels]
    note = f"1,000 of {n:,} samples each; TV10 is that of all {n:,}"
    numbers = {"steps": STEP_COUNTS, "samples": n, "tv10_floor": floor, "tv10": tv10}
    return Answer(
        numbers | {"at_most_steps": {"T": STEP_COUNTS[-1]} | found["model"][-1]},
        {
            "u4_steps": pictures.sample_grid(shown, titles, columns=6, note=note),
            "u4_tv10": curves.steps_against_truth(STEP_COUNTS, tv10, floor, n),
        },
    )


def u5_schedules(run: Run) -> Answer:
    """Question 5: other schedules for the steps, and both formulas of a step, at equal T.

    The rule of thumb that the numbers support: step by the exact sigma_next - sigma and put the
    steps where the noise is small. Stepping by sigma'(t) dt is right only where sigma(t) is
    straight: most of what the linear schedule seems to gain is that the formulas agree there.
    """
    n, steps = run.args.samples, (5, 10, 20, 50, 100, 200)
    model, known = run.models["unconditional"], run.once(exercise.samples_by_steps)
    table = exercise.scores_by_schedule(model, n, steps, seed=run.args.seed, known=known)
    t = torch.linspace(0, 1, 21, dtype=torch.float64)
    sigmas = {name: plan.sigma(t) for name, plan in SCHEDULES.items()}
    return Answer(
        {"steps": steps, "samples": n, "scores": table, "standard_deviation_of_uniform": 3**-0.5},
        {"u5_schedules": curves.schedules(t, sigmas, steps, table)},
    )


def u6_same_noise(run: Run, frame: Frame = SQUARE) -> Answer:
    """Question 6: the same noise ten times; DDIM repeats itself to the bit, DDPM does not.

    DDIM runs ten times, every time with a generator that is left unseeded, as the exercise asks.
    DDPM runs with ten copies of the noise at once, each with fresh noise of its own.
    """
    model, seed, repeats = run.models["unconditional"], run.args.seed, 10
    starts = diffusion.sampling.start(model, 4, generator=torch.Generator().manual_seed(seed))
    options = {"steps": run.args.steps, "return_trajectory": True}
    ways = [diffusion.sample(model, 4, noise=starts, **options) for _ in range(repeats)]
    found = {"DDIM": (torch.stack([points for points, _ in ways]), ways[0][1])}
    options |= {"solver": "ddpm", "noise": starts.repeat(repeats, 1), "seed": seed}
    for lam in (0.25, 0.5, 1.0):
        points, path = diffusion.sample(model, 4 * repeats, lam=lam, **options)
        found[f"DDPM, λ = {lam:g}"] = points.reshape(repeats, 4, 2), path[:, :4]
    outputs = {  # points (10, 4, 2) and their spread
        name: (points, points.std(dim=0, correction=1).square().sum(dim=1).mean().sqrt().item())
        for name, (points, _) in found.items()
    }
    ddim = outputs["DDIM"][0]
    numbers = {
        "ddim_outputs_identical_to_the_bit": bool((ddim == ddim[0]).all()),
        "spread": {name: spread for name, (_, spread) in outputs.items()},
    }
    t = np.linspace(1, 0, run.args.steps + 1)
    shown = {name: found[name][1].numpy() for name in ("DDIM", "DDPM, λ = 1")}
    return Answer(
        numbers,
        {
            "u6_same_noise": pictures.repeated_outputs(starts, outputs, frame),
            "u6_trajectories": pictures.trajectories(shown, t, frame),
        },
    )


def start_mismatch(run: Run) -> Answer:
    """Beyond the questions: the price of starting from N(0, I), and how sigma(1) pays it off.

    x_1 = x_0 + sigma(1) eps has variance sigma(1)^2 + 1/3 per coordinate, Algorithm 1 starts with
    sigma(1)^2: a start too narrow by the factor sqrt(1 + 1 / (3 sigma(1)^2)).
    """
    n, levels = run.args.samples, (1.0, 1.5, 2.0, 3.0, 5.0, 10.0)
    truths = [ExactDenoiser(schedule.Exponential(sigma_max=level)) for level in levels]
    curve, table = {}, {}
    for prior in diffusion.sampling.PRIORS:
        options = {"prior": prior, "seed": run.args.seed} | ACCURATE
        ideal = side_by_side(lambda truth, o=options: diffusion.sample(truth, n, **o), truths)
        learnt = diffusion.sample(run.models["unconditional"], n, **options)
        curve[prior] = [metrics.tv10(points) for points in ideal]
        for name, points in (("exact score", ideal[0]), ("model", learnt)):
            table[f"{name}, {prior} start"] = scores(points)
    floor = metrics.uniform_tv10(n, repeats=20)
    return Answer(
        {
            "at_sigma_max_1": table,
            "standard_deviation_of_uniform": 3**-0.5,
            "sigma_max": levels,
            "tv10_exact_score": curve,
        },
        {"start_mismatch": curves.start_mismatch(levels, curve, floor)},
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
    """Question 5: how well each class is met, and what happens at the borders.

    Sampling ends at sigma(0), so even the exact score leaves a border blurred. What is the model's
    own is the difference from samples that the same solver draws with the exact score.
    """
    conditional, n = run.models["conditional"], 10 * run.args.samples
    truth = ExactDenoiser(conditional.schedule, data.RECTANGLES)
    learnt, ideal = (exercise.borders(m, n, seed=run.args.seed) for m in (conditional, truth))
    table = {
        name: {
            "model": learnt[name][1] | {"profile": learnt[name][0].tolist()},
            "exact_score": ideal[name][1] | {"profile": ideal[name][0].tolist()},
        }
        for name in data.CLASS_NAMES
    }
    bins = exercise.BORDER_BINS
    profiles = {name: (learnt[name][0], ideal[name][0]) for name in data.CLASS_NAMES}
    return Answer(
        {
            "samples_of_each_class": n,
            "sampling": exercise.FAST,
            "distance_bins": bins.tolist(),
            "classes": table,
        },
        {"c5_borders": curves.border_profiles(bins, profiles)},
    )


def c6_probability(run: Run) -> Answer:
    """Question 6: Eq. 9, the complete bound and the exact density, beside the truth.

    Within the data -L_T lies below log p by little more than the constant reconstruction term;
    where location or class do not fit, it falls by hundreds of nats. There the network
    extrapolates, and its density, though negligible, is far larger than the true one. The bound is
    on the density of the chain of noisy steps, the density that of the flow: with the exact score
    both are one model's, with a learnt one they differ, so the bound may lie above.
    """
    free, conditional = run.models["unconditional"], run.models["conditional"]
    names = [name for name, _, _ in PROBES]
    numbers = {
        "points": exercise.estimates(conditional, PROBES, seed=run.args.seed),
        "points_unconditional": exercise.estimates(free, PROBES, seed=run.args.seed),
    }
    maps = side_by_side(
        likelihood.density_map,
        [free] + [conditional] * data.NUM_CLASSES,
        [None, *range(data.NUM_CLASSES)],
    )
    densities, integrals = zip(*maps, strict=True)
    titles = ["all classes", *data.CLASS_NAMES]
    areas = [4.0, *(float((r[1] - r[0]).prod()) for r in data.RECTANGLES)]
    places = torch.tensor([place for _, place, _ in PROBES])
    return Answer(
        numbers | {"integral_of_density": dict(zip(titles, integrals, strict=True))},
        {
            "c6_probability": pictures.probabilities(*run.once(labelled_points), places, names),
            "c6_density": pictures.density_maps(densities, titles, areas, integrals, 2.0),
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
    labels = {"unconditional": None, "conditional": label}
    steered = steered_models(run, labels)
    figures = {
        f"bonus_{name}": pictures.steering(
            {
                f"{way}\nmisses by {s.distance:.2g}\nenergy {s.energy:,.0f} nats": s.path
                for way, s in found.items()
            },
            tuple(run.args.target),
            frame,
        )
        for name, (found, _) in steered.items()
    }
    return Answer(steering_numbers(run, labels, steered), figures)


def steered_models(run: Run, labels: dict) -> dict[str, tuple[dict, dict]]:
    """By model: what each of the `WAYS` came to, and why those failed that did."""
    steer = partial(steering.steer, WAYS, target=tuple(run.args.target), steps=200)
    ways = side_by_side(lambda name: steer(run.models[name], label=labels[name]), run.models)
    return dict(zip(run.models, ways, strict=True))


def steering_numbers(run: Run, labels: dict, steered: dict) -> dict:
    """The measures of `steered_models`, beside random samples and a sampling from a found start."""
    target = torch.tensor(run.args.target)
    nearest = (run.once(exercise.samples) - target).norm(dim=1).min().item()
    numbers = {"target": tuple(run.args.target), "nearest_of_random_samples": nearest}
    for name, (found, failed) in steered.items():
        numbers[name] = {way: outcome.numbers() for way, outcome in found.items()}
        numbers[name] |= {way: {"reached": False, "failed": why} for way, why in failed.items()}
        if "inverted flow" in found:
            start = found["inverted flow"].path[:1]
            again = diffusion.sample(
                run.models[name], 1, noise=start, labels=labels[name], steps=200
            )
            numbers[name]["inverted flow"]["distance_of_diffusion_sample_from_that_start"] = (
                (again[0] - target).norm().item()
            )
    return numbers


OWN_DATA = owndata.study(u1_forward_process, u6_same_noise, bonus_steering)

EXERCISE = Study(
    name="diffusion",
    description="Part 1: train the diffusion models, or load them, and answer its questions.",
    options=exercise.OPTIONS,
    variants={exercise.DATA.flag: OWN_DATA},
    small="--epochs 60 --points 1000 --steps 50 --samples 1000",
    check=exercise.check,
    load=exercise.load,
    train=exercise.train,
    weights="diffusion_{}.pt",
    forecast=exercise.forecast,
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


def main(argv: list[str] | None = None) -> int:
    errors = (diffusion.TrainingError, diffusion.ToleranceError)
    return cli.main("example_diffusion.py", EXERCISE, STUDIES, argv, errors)


if __name__ == "__main__":
    sys.exit(main())
