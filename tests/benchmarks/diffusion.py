"""Part 1 against the truth: `python -m tests.benchmarks.diffusion` (about eight minutes).

Measures the shipped weights over five sampling seeds that no choice was made with: means and their
standard errors, beside those of the exact score and of the truth. Prints a table and writes
report/results/benchmark_diffusion.json and, of quality against cost,
report/figures/diffusion_cost_tv10.svg and diffusion_cost_w2.svg; of the borders of the classes over
training seeds, diffusion_borders.svg. `--only quality|seeds|cost` measures one part and keeps the
other numbers of the file. Times are those of `python -m tests.benchmarks.speed`.
"""

from __future__ import annotations

from diffusion import startup

if __name__ == "__main__":
    startup.prepare("python -m tests.benchmarks.diffusion")

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from scipy.stats import ks_2samp
from torch import Tensor
from tqdm import tqdm

import diffusion
from diffusion import data, exact, likelihood, metrics, schedule
from diffusion.exact import ExactDenoiser
from diffusion.figures import curves, style
from diffusion.files import write_json
from diffusion.parser import Parser
from diffusion.sampling import EVALUATIONS_PER_STEP
from diffusion.studies import exercise
from diffusion.studies.parts import recipe

PROG = "python -m tests.benchmarks.diffusion"
ROOT = Path(__file__).parents[2]
SEEDS = (201, 202, 203, 204, 205)
TRAINING_SEEDS = (211, 212, 213)
SAMPLES, MANY = 20_000, 500_000
PAIRS, PAIR_SIZE = 20, 1000  # of W2
FAST = {"solver": "dpm++", "steps": 24}  # 24 network evaluations
# Panel of the cost figures -> solver and its options.
SOLVERS = {
    "ddim": {"solver": "ddim"},
    "ddpm": {"solver": "ddpm"},
    "heun": {"solver": "heun"},
    "heun+churn": {"solver": "heun", "churn": 0.1},
    "dpm++": {"solver": "dpm++"},
}
SPACINGS = {
    "log σ": schedule.Exponential(),
    "Karras ρ = 7": schedule.Power(),
    "linear": schedule.Power(rho=1.0),
}


class Table:
    """Rows of a measure: its mean over seeds with standard error, and so of what it is held to."""

    def __init__(self) -> None:
        self.rows: list[dict] = []
        print(f"{'measure':<66}{'value':>20}{'exact score':>20}{'truth':>20}")

    def add(
        self,
        measure: str,
        values: Sequence[float],
        exact: Sequence[float] | None = None,
        truth: Sequence[float] | float | None = None,
    ) -> None:
        """values: one for each seed. exact: with the exact score. truth: of the truth itself."""
        row = {"measure": measure}
        for name, found in (("value", values), ("exact_score", exact), ("truth", truth)):
            row[name], row[f"{name}_standard_error"] = mean_and_error(found)
        row["standard_error"] = row.pop("value_standard_error")
        self.rows.append(row)
        cells = (
            (row["value"], row["standard_error"]),
            (row["exact_score"], row["exact_score_standard_error"]),
            (row["truth"], row["truth_standard_error"]),
        )
        print(f"{measure:<66}" + "".join(f"{shown(*cell):>20}" for cell in cells), flush=True)


def mean_and_error(values: Sequence[float] | float | None) -> tuple[float | None, float | None]:
    """Mean and its standard error; the value alone where there is one, or no other."""
    if values is None or isinstance(values, float | int):
        return values, None
    error = float(np.std(values, ddof=1) / len(values) ** 0.5) if len(set(values)) > 1 else None
    return float(np.mean(values)), error


def shown(value: float | None, error: float | None) -> str:
    return ("" if value is None else f"{value:.4g}") + ("" if error is None else f" ± {error:.1g}")


def w2(a: Tensor, b: Tensor) -> float:
    """Exact 2-Wasserstein distance between two point sets of equal size."""
    cost = cdist(a.double().numpy(), b.double().numpy(), "sqeuclidean")
    return float(np.sqrt(cost[linear_sum_assignment(cost)].mean()))


def _uniform(seed: int) -> Callable[[], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return lambda: data.uniform(PAIR_SIZE, generator=generator)


@cache
def _w2_of_truth(seed: int) -> float:
    uniform = _uniform(seed + 1000)
    return float(np.mean([w2(uniform(), uniform()) for _ in range(PAIRS)]))


def w2_ratio(samples: Tensor, seed: int) -> float:
    """W2 of samples to uniform points over W2 of uniform to uniform points, means of 20 pairs."""
    uniform = _uniform(seed)
    ours = [w2(part, uniform()) for part in samples.split(PAIR_SIZE)]
    return float(np.mean(ours)) / _w2_of_truth(seed)


MEASURES = {"TV10": metrics.tv10, "KS": metrics.ks, "outside": metrics.outside_share}


def unconditional(table: Table, model) -> None:
    truth = ExactDenoiser(model.schedule)
    excess = [metrics.excess_risk(model, seed=seed) for seed in SEEDS]
    table.add("excess risk of the shipped model", excess, truth=0)
    trained_on = data.all_rotations(data.training_points(), None)[0]
    samples, ideal = (
        [diffusion.sample(m, MANY, seed=seed, **FAST) for seed in SEEDS] for m in (model, truth)
    )
    uniform = [data.uniform(MANY, generator=torch.Generator().manual_seed(seed)) for seed in SEEDS]
    for measure, function in MEASURES.items():
        name = f"{measure} of {MANY:,} samples, DPM-Solver++(2M), 24 evaluations"
        table.add(name, *(list(map(function, points)) for points in (samples, ideal, uniform)))
    for measure, function in (("TV10", tv10_between), ("KS", ks_between)):
        name = f"{measure} from the symmetrised training points, the same samples"
        found = ([function(each, trained_on) for each in of] for of in (samples, ideal, uniform))
        table.add(name, *found)
    for name, options in (("DDIM, T = 1000", {"steps": 1000}), ("DPM-Solver++(2M)", FAST)):
        samples = [diffusion.sample(model, SAMPLES, seed=seed, **options) for seed in SEEDS]
        values = [metrics.tv10(points) for points in samples]
        floor = metrics.uniform_tv10(SAMPLES, repeats=20)
        table.add(f"TV10 of {SAMPLES:,} samples, {name}", values, truth=floor)
        ratios = list(map(w2_ratio, samples, SEEDS))
        table.add(f"W2 ratio, {name}", ratios, truth=1)


def tv10_between(a: Tensor, b: Tensor) -> float:
    """Total variation distance of two sets of points on the grid of `metrics.tv10`."""
    bins = torch.linspace(-1, 1, metrics.GRID + 1, dtype=torch.float64)
    cells = [
        torch.histogramdd(points.double(), [bins, bins]).hist / len(points) for points in (a, b)
    ]
    outside = abs(metrics.outside_share(a) - metrics.outside_share(b))
    return 0.5 * ((cells[0] - cells[1]).abs().sum().item() + outside)


def ks_between(a: Tensor, b: Tensor) -> float:
    """The larger two-sample Kolmogorov-Smirnov distance of the two coordinates."""
    return max(float(ks_2samp(a[:, i].numpy(), b[:, i].numpy()).statistic) for i in range(2))


def conditional(table: Table, model) -> None:
    truth = ExactDenoiser(model.schedule, data.RECTANGLES)
    for k, (name, rectangle) in enumerate(zip(data.CLASS_NAMES, data.RECTANGLES, strict=True)):
        samples = [diffusion.sample(model, MANY // 5, labels=k, seed=s, **FAST) for s in SEEDS]
        ideal = [diffusion.sample(truth, MANY // 5, labels=k, seed=s, **FAST) for s in SEEDS]
        own = [1 - metrics.outside_share(points, rectangle) for points in samples]
        width, height = (rectangle[1] - rectangle[0]).tolist()
        # A border blurred by sigma(0) loses sigma(0)/sqrt(2 pi) on each side.
        best = 1 - 2 * schedule.SIGMA_MIN / np.sqrt(2 * np.pi) * (1 / width + 1 / height)
        exact = [1 - metrics.outside_share(points, rectangle) for points in ideal]
        table.add(f"class {name}: in own rectangle", own, exact=exact, truth=float(best))
        values = [metrics.tv10(points, rectangle) for points in samples]
        exact = [metrics.tv10(points, rectangle) for points in ideal]
        floor = metrics.uniform_tv10(MANY // 5, repeats=20)
        name = f"class {name}: TV10 in its rectangle, {MANY // 5:,} samples"
        table.add(name, values, exact=exact, truth=floor)


def probabilities(table: Table, model, conditional_model) -> None:
    """The density on the square, beside the uniform density blurred by sigma(0)."""
    inner, whole, worst, bounds = [], [], [], []
    for seed in SEEDS:
        x = data.uniform(1000, generator=torch.Generator().manual_seed(seed))
        log_p = diffusion.log_likelihood(model, x)
        error = log_p - exact.log_density(x, model.schedule.sigma_min)
        centre = (x.abs() <= 0.9).all(dim=1)
        inner.append(error[centre].mean().item())
        whole.append(error.mean().item())
        worst.append(error.abs().max().item())
        bound = diffusion.complete_bound(model, x[:200], seed=seed)
        bounds.append((bound.total - log_p[:200]).mean().item())
    table.add("log-density minus truth, mean on 0.9 times the square, nats", inner, truth=0)
    table.add("log-density minus truth, mean on the whole square, nats", whole, truth=0)
    table.add("log-density minus truth, largest of 1,000 points, nats", worst, truth=0)
    table.add("complete bound minus log-density, mean on the square, nats", bounds)

    models = [(model, None)] + [(conditional_model, k) for k in range(data.NUM_CLASSES)]
    errors = [abs(likelihood.density_map(m, label)[1] - 1) for m, label in models]
    table.add("integral of the density: largest |integral - 1|", [max(errors)], truth=0)

    centres = data.RECTANGLES.mean(dim=1)
    log_p = torch.stack(
        [diffusion.log_likelihood(conditional_model, centres, k) for k in range(data.NUM_CLASSES)]
    )
    right = log_p.diagonal()
    wrong = log_p.masked_fill(torch.eye(data.NUM_CLASSES, dtype=torch.bool), -np.inf)
    gap = (right - wrong.max(dim=0).values).min().item()
    table.add("right class over any wrong one at class centres, nats", [gap])


def training_seeds() -> dict:
    """The conditional recipe on other data seeds: what is in each class, and at its border."""
    ideal = exercise.borders(ExactDenoiser(rectangles=data.RECTANGLES), 200_000, seed=SEEDS[0])
    table = {name: {"in_own_rectangle": [], "profile": []} for name in data.CLASS_NAMES}
    for seed in TRAINING_SEEDS:
        args = argparse.Namespace(epochs=3000, points=data.MAX_POINTS, seed=seed, device="cpu")
        points = recipe.training_points(args)
        model = recipe.training(args, points, data.class_of(points)).run(progress=True)
        for name, (profile, row) in exercise.borders(model, 200_000, seed=SEEDS[0]).items():
            table[name]["in_own_rectangle"].append(row["in_own_rectangle"])
            table[name]["profile"].append((profile / ideal[name][0]).tolist())
    figure = curves.borders_of_seeds(
        exercise.BORDER_BINS, {name: row["profile"] for name, row in table.items()}
    )
    style.save(figure, ROOT / "report/figures/diffusion_borders.svg")
    for row in table.values():
        own, count = row["in_own_rectangle"], len(TRAINING_SEEDS)
        row["in_own_rectangle_mean"] = float(np.mean(own))
        row["in_own_rectangle_standard_error"] = float(np.std(own, ddof=1) / count**0.5)
    return {"seeds": TRAINING_SEEDS, "profile_is": "samples of model / exact score", **table}


def quality_against_cost(model) -> tuple[tuple, dict, dict]:
    """TV10 and W2 ratio against network evaluations, for solvers and spacings."""
    evaluations = (4, 8, 24, 96)
    truth = ExactDenoiser(model.schedule)
    tv10, ratio = {}, {}
    for panel, options in tqdm(SOLVERS.items(), desc="solvers", disable=None):
        for spacing, plan in SPACINGS.items():
            steps = [nfe // EVALUATIONS_PER_STEP[options["solver"]] for nfe in evaluations]
            samples, ideal = (
                [
                    diffusion.sample(m, SAMPLES, steps=T, schedule=plan, seed=SEEDS[0], **options)
                    for T in steps
                ]
                for m in (model, truth)
            )
            name = f"{panel}, {spacing}"
            tv10[name] = [metrics.tv10(points) for points in samples]
            tv10[f"{name}: exact score"] = [metrics.tv10(points) for points in ideal]
            ratio[name] = [w2_ratio(points, SEEDS[0]) for points in samples]
            ratio[f"{name}: exact score"] = [w2_ratio(points.float(), SEEDS[0]) for points in ideal]
    return evaluations, tv10, ratio


def cost(model) -> dict:
    """Draw quality against cost; returns the curves."""
    evaluations, tv10, ratio = quality_against_cost(model)
    for name, scores, floor, title in (
        ("tv10", tv10, metrics.uniform_tv10(SAMPLES, repeats=20), "TV10, distance from uniform"),
        ("w2", ratio, 1.0, "W2 over that of uniform"),
    ):
        figure = curves.quality_against_cost(evaluations, scores, floor, title)
        style.save(figure, ROOT / f"report/figures/diffusion_cost_{name}.svg")
    return {"evaluations": evaluations, "tv10": tv10, "w2_ratio": ratio}


def main(argv: list[str] | None = None) -> int:
    """Measure what the command line asks for; returns the exit code."""
    return startup.conclude(PROG, lambda: _measure(argv), errors=(diffusion.TrainingError,))


def _measure(argv: list[str] | None) -> None:
    parser = Parser(PROG, description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=("quality", "seeds", "cost"), help="one part alone")
    part = parser.parse_args(argv).only
    path = ROOT / "report/results/benchmark_diffusion.json"
    results = {"table": [], "quality_against_cost": None}
    if part is not None and path.exists():
        results |= json.loads(path.read_text(encoding="utf-8"))
    results |= {"seeds": SEEDS, "samples": SAMPLES}
    table = Table()
    model = diffusion.load(ROOT / "weights/diffusion_unconditional.pt")
    conditional_model = diffusion.load(ROOT / "weights/diffusion_conditional.pt")
    if part in (None, "quality"):
        unconditional(table, model)
        conditional(table, conditional_model)
        probabilities(table, model, conditional_model)
        results["table"] = table.rows
    if part in (None, "seeds"):
        results["conditional_model_over_training_seeds"] = training_seeds()
    if part in (None, "cost"):
        results["quality_against_cost"] = cost(model)
    write_json(path, results)


if __name__ == "__main__":
    sys.exit(main())
