"""Part 1 against its targets: `python -m tests.benchmarks.diffusion` (about fifteen minutes).

Measures the shipped weights with seeds that no choice was made with; of three seeds the worst value
counts. Prints a table and writes report/results/benchmark_diffusion.json and, of quality against
cost, report/figures/diffusion_cost_tv10.svg and diffusion_cost_w2.svg. `--only quality|speed|cost`
measures one part and keeps the other numbers of the file; speed wants an otherwise idle machine.
"""

from __future__ import annotations

from diffusion import startup

if __name__ == "__main__":
    startup.prepare("python -m tests.benchmarks.diffusion")

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from torch import Tensor
from tqdm import tqdm

import diffusion
from diffusion import data, metrics, schedule
from diffusion.exact import ExactDenoiser
from diffusion.figures import curves, style
from diffusion.files import write_json
from diffusion.sampling import EVALUATIONS_PER_STEP

PROG = "python -m tests.benchmarks.diffusion"
ROOT = Path(__file__).parents[2]
SEEDS = (201, 202, 203)
SAMPLES = 20_000
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
    """Rows of measure, value, target and floor; printed as they come."""

    def __init__(self) -> None:
        self.rows: list[dict] = []
        print(f"{'measure':<66}{'value':>10}  {'target':<12}{'floor':>8}")

    def add(
        self,
        measure: str,
        value: float,
        *,
        most: float | None = None,
        least: float | None = None,
        floor: float | str = "",
    ) -> None:
        met = (most is None or value <= most) and (least is None or value >= least)
        target = f"<= {most:g}" if most is not None else f">= {least:g}"
        print(f"{measure:<66}{value:>10.4g}  {target:<12}{floor:>8}  {'met' if met else 'MISSED'}")
        sys.stdout.flush()
        row = {"measure": measure, "value": value, "target": target, "floor": floor, "met": met}
        self.rows.append(row)


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


def unconditional(table: Table, model) -> None:
    excess_risk = max(metrics.excess_risk(model, seed=seed) for seed in SEEDS)
    table.add("excess risk of the shipped model", excess_risk, most=0.0012, floor=0)
    for name, options, tv10 in (
        ("DDIM, T = 1000", {"steps": 1000}, 0.048),
        ("DPM++(2M), 24 evaluations", FAST, 0.052),
    ):
        samples = [diffusion.sample(model, SAMPLES, seed=seed, **options) for seed in SEEDS]
        for measure, function, most, floor in (
            ("TV10", metrics.tv10, tv10, 0.0285),
            ("KS", metrics.ks, 0.016, 0.0075),
            ("outside", metrics.outside_share, 0.01, 0.006),
        ):
            table.add(f"{measure}, {name}", max(map(function, samples)), most=most, floor=floor)
        ratio = max(map(w2_ratio, samples, SEEDS))
        table.add(f"W2 ratio, {name}", ratio, most=1.10, floor=1)


def recipe(table: Table) -> None:
    """The default recipe on three other data sets: as good, and no basin."""
    excess_risks = []
    for seed in SEEDS:
        points = data.training_points(seed=seed)
        model = diffusion.build(data.all_rotations(points, None)[0], seed=seed)
        training = diffusion.Training(model, points, augment=data.random_rotations, seed=seed)
        excess_risks.append(metrics.excess_risk(training.run(progress=True), seed=seed))
    table.add(
        "excess risk, trained on three other data seeds", max(excess_risks), most=0.0025, floor=0
    )


def conditional(table: Table, model) -> None:
    for k, (name, rectangle) in enumerate(zip(data.CLASS_NAMES, data.RECTANGLES, strict=True)):
        samples = [diffusion.sample(model, SAMPLES, labels=k, seed=seed) for seed in SEEDS]
        own = 1 - max(metrics.outside_share(points, rectangle) for points in samples)
        tv10 = max(metrics.tv10(points, rectangle) for points in samples)
        width, height = (rectangle[1] - rectangle[0]).tolist()
        # A border blurred by sigma(0) loses sigma(0)/sqrt(2 pi) on each side.
        truth = 1 - 2 * schedule.SIGMA_MIN / np.sqrt(2 * np.pi) * (1 / width + 1 / height)
        table.add(f"class {name}: in own rectangle", own, least=0.982, floor=round(truth, 4))
        table.add(f"class {name}: TV10 in its rectangle", tv10, most=0.070, floor=0.0285)


def probabilities(table: Table, model, conditional_model) -> None:
    truth = -np.log(4)
    means, near, bounds = [], [], []
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        x = 0.9 * data.uniform(1000, generator=generator)
        log_p = diffusion.log_likelihood(model, x)
        means.append(abs(log_p.mean().item() - truth))
        near.append(((log_p - truth).abs() <= 0.25).double().mean().item())
        bound = diffusion.complete_bound(model, x, seed=seed)
        bounds.append(abs(bound.total.mean().item() - truth))
    table.add("log-density: |mean - log(1/4)|, nats", max(means), most=0.03, floor=0)
    table.add("log-density: share within 0.25 nat of log(1/4)", min(near), least=0.95, floor=1)
    table.add("complete bound: |mean - log(1/4)|, nats", max(bounds), most=0.10, floor=0)

    # Cells of 0.05, whose edges fall on the rectangles' edges.
    cells, extent = 80, 2.0
    axis = (torch.arange(cells) + 0.5) * (2 * extent / cells) - extent
    grid = torch.cartesian_prod(axis, axis)
    area = (2 * extent / cells) ** 2
    errors = [abs(diffusion.log_likelihood(model, grid).exp().sum().item() * area - 1)]
    for k in range(data.NUM_CLASSES):
        total = diffusion.log_likelihood(conditional_model, grid, k).exp().sum().item() * area
        errors.append(abs(total - 1))
    table.add("integral of the density: largest |integral - 1|", max(errors), most=0.02, floor=0)

    centres = data.RECTANGLES.mean(dim=1)
    log_p = torch.stack(
        [diffusion.log_likelihood(conditional_model, centres, k) for k in range(data.NUM_CLASSES)]
    )
    right = log_p.diagonal()
    wrong = log_p.masked_fill(torch.eye(data.NUM_CLASSES, dtype=torch.bool), -np.inf)
    gap = (right - wrong.max(dim=0).values).min().item()
    table.add("right class over any wrong one at class centres, nats", gap, least=3)


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


def speed(table: Table, model) -> None:
    def seconds(n: int, repeats: int, **options) -> float:
        times = []
        for _ in range(repeats):
            began = time.perf_counter()
            diffusion.sample(model, n, seed=SEEDS[0], **options)
            times.append(time.perf_counter() - began)
        return float(np.median(times))

    table.add("seconds for 20,000 samples, T = 1000", seconds(20_000, 1, steps=1000), most=12)
    table.add("seconds for 1,000 samples, T = 1000", seconds(1000, 3, steps=1000), most=1.5)
    table.add(
        "milliseconds for 1,000 samples, DPM++(2M), 24 evaluations",
        1000 * seconds(1000, 20, **FAST),
        most=30,
    )
    sampling = (
        "import diffusion; diffusion.sample(diffusion.load("
        "'weights/diffusion_unconditional.pt'), 20000, steps=50); "
        "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
    )
    # The child reads its own peak: the kernel's account of children starts at their parent's.
    child = subprocess.run(
        [sys.executable, "-c", sampling],
        cwd=ROOT,
        check=True,
        capture_output=True,
        encoding="utf-8",
    )
    peak = int(child.stdout)  # kilobytes
    table.add("megabytes, peak of a process that draws 20,000 samples", peak / 1024, most=500)


def script(table: Table) -> None:
    """Wall-clock of the whole script, trained and with the shipped weights."""
    weights = [
        "--weights",
        "weights/diffusion_unconditional.pt",
        "--conditional-weights",
        "weights/diffusion_conditional.pt",
    ]
    for name, options, most in (("shipped weights", weights, 60), ("training included", [], 150)):
        with tempfile.TemporaryDirectory() as scratch:
            out = ["--out", f"{scratch}/report", "--save", f"{scratch}/weights"]
            began = time.perf_counter()
            command = [sys.executable, "example_diffusion.py", *options, *out]
            subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
            table.add(
                f"seconds for example_diffusion.py, {name}", time.perf_counter() - began, most=most
            )


def cost(model) -> dict:
    """Draw quality against cost; returns the curves."""
    evaluations, tv10, ratio = quality_against_cost(model)
    for name, scores, floor, title in (
        ("tv10", tv10, 0.0285, "TV10, distance from uniform"),
        ("w2", ratio, 1.0, "W2 to uniform over uniform to uniform"),
    ):
        figure = curves.quality_against_cost(evaluations, scores, floor, title)
        style.save(figure, ROOT / f"report/figures/diffusion_cost_{name}.svg")
    return {"evaluations": evaluations, "tv10": tv10, "w2_ratio": ratio}


def main(argv: list[str] | None = None) -> int:
    """Measure what the command line asks for; returns the exit code."""
    return startup.conclude(PROG, lambda: _measure(argv), errors=(diffusion.TrainingError,))


def _measure(argv: list[str] | None) -> int:
    parser = startup.Parser(PROG, description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=("quality", "speed", "cost"), help="one part alone")
    part = parser.parse_args(argv).only
    path = ROOT / "report/results/benchmark_diffusion.json"
    results = {"seeds": SEEDS, "samples": SAMPLES, "table": [], "quality_against_cost": None}
    if part is not None and path.exists():
        results |= json.loads(path.read_text(encoding="utf-8"))
    table = Table()
    model = diffusion.load(ROOT / "weights/diffusion_unconditional.pt")
    conditional_model = diffusion.load(ROOT / "weights/diffusion_conditional.pt")
    if part in (None, "quality"):
        unconditional(table, model)
        conditional(table, conditional_model)
        probabilities(table, model, conditional_model)
        recipe(table)
    if part in (None, "speed"):
        speed(table, model)
        script(table)
    rows = {row["measure"]: row for row in (*results["table"], *table.rows)}
    results["table"] = list(rows.values())
    if part in (None, "cost"):
        results["quality_against_cost"] = cost(model)
    write_json(path, results)
    missed = sum(not row["met"] for row in table.rows)
    print(f"{len(table.rows) - missed} of {len(table.rows)} targets met")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
