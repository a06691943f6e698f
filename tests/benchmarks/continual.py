"""Continual learning against its targets: `python -m tests.benchmarks.continual` (ten minutes).

Runs `--study continual` as a user would, at its defaults and with `--tasks 2 --seeds 1`, and prints
a table of measure, value and target; writes report/results/benchmark_continual.json. The times are
those of an idle machine only if it is idle. The results go to a temporary folder, those of the
default run to another one by `--out`. `--results FILE` takes all from a default run that was made
before; the time of the small run is then "not timed".
"""

from __future__ import annotations

from diffusion import startup

if __name__ == "__main__":
    startup.prepare("python -m tests.benchmarks.continual")

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import torch

from diffusion.files import write_json
from diffusion.parser import Parser
from tests.benchmarks.image_rows import Table

PROG = "python -m tests.benchmarks.continual"
ROOT = Path(__file__).parents[2]
LIMITS = {"default run, seconds": 600, "--tasks 2 --seeds 1, seconds": 60}
RESULTS = ROOT / "report/results/benchmark_continual.json"


def study(folder: Path, *options: str) -> tuple[dict, float]:
    """The results of a run of the study in a process of its own, and its seconds."""
    began = time.perf_counter()
    command = [sys.executable, "example_diffusion.py", "--study", "continual", *options]
    folders = ["--out", str(folder), "--save", str(folder / "weights")]
    if subprocess.run([*command, *folders], cwd=ROOT, check=False).returncode:
        raise ChildProcessError("the study failed")
    seconds = time.perf_counter() - began
    path = folder / "results/continual.json"
    return json.loads(path.read_text(encoding="utf-8")), seconds


def add(table: Table, name: str, found: Mapping, **target) -> None:
    """A row of a mean over seeds and its standard error."""
    table.add("continual", name, found["mean"], error=found.get("standard_error"), **target)


def measure_accuracies(table: Table, results: Mapping) -> None:
    kept, networks = results["forgetting"], results["networks"]
    lam, tasks = results["lambda"]["chosen"], results["options"]["tasks"]
    ewc = kept[f"EWC, lambda {lam:g}"]
    add(table, f"joint training, {tasks} tasks", kept["joint"]["average_accuracy"], least=0.97)
    for memory, least in ((200, 0.90), (1000, 0.94)):
        found = kept[f"rehearsal, {memory} images"]["average_accuracy"]
        add(table, f"rehearsal, {memory} images a task", found, least=least)
    add(table, f"EWC, lambda {lam:g}", ewc["average_accuracy"], least=0.92)
    add(table, "naive", kept["naive"]["average_accuracy"])
    add(table, "naive, forgetting", kept["naive"]["forgetting"])
    add(table, "EWC minus naive", results["forgetting"]["ewc_minus_naive"])
    gap = results["forgetting"]["ewc_minus_naive"]
    if "standard_error" in gap:
        ratio = gap["mean"] / gap["standard_error"]
        table.add("continual", "the same in standard errors", ratio, least=5)
    add(table, "MLP minus CNN, permuted digits", networks["mlp_minus_cnn_permuted"])
    add(table, "MLP minus CNN, plain digits", networks["mlp_minus_cnn_plain"])


def measure_truth(table: Table, results: Mapping) -> None:
    errors, fisher = results["regression"], results["fisher"]
    table.add("truth", "EWC minus joint least squares, whole Fisher, relative",
              max(errors["relative_error_whole_online"]), most=1e-6)  # fmt: skip
    table.add("truth", "error of the diagonal minus theory",
              errors["largest_difference_from_theory"], most=1e-6)  # fmt: skip
    largest = max(map(abs, fisher["deviation_in_standard_errors"]))
    table.add("truth", "two weights: estimate off by, standard errors", largest, most=3)


def measure_times(table: Table, seconds: Mapping[str, float]) -> None:
    """Rows of LIMITS; a time that is not there has a row of its own, without a value."""
    for name, most in LIMITS.items():
        if name in seconds:
            threads = f"{torch.get_num_threads()} threads"
            table.add("time", name, seconds[name], most=most, reference=threads)
        else:
            print(f"{'time':<12}{name:<58}{'not timed':>17}  <= {most}")
            table.rows.append({"family": "time", "measure": name, "value": None,
                               "target": f"<= {most}", "reference": "not timed"})  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Measure by the command line; returns the exit code."""
    return startup.conclude(PROG, lambda: _measure(argv))


def _measure(argv: list[str] | None) -> None:
    parser = Parser(PROG, description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, metavar="FILE", help="of a run made before")
    parser.add_argument("--out", type=Path, metavar="DIR", help="keep the default run's results")
    args = parser.parse_args(argv)
    table, seconds = Table(), {}
    if args.results is None:
        with tempfile.TemporaryDirectory() as folder:
            kept = (args.out or Path(folder) / "default").resolve()
            results, seconds["default run, seconds"] = study(kept)
            _, seconds["--tasks 2 --seeds 1, seconds"] = study(
                Path(folder) / "small", "--tasks", "2", "--seeds", "1"
            )
    else:
        results = json.loads(args.results.read_text(encoding="utf-8"))
        seconds["default run, seconds"] = sum(results["timings_seconds"].values())
    measure_accuracies(table, results)
    measure_truth(table, results)
    measure_times(table, seconds)
    write_json(RESULTS, {"study": "benchmark_continual", "rows": table.rows})


if __name__ == "__main__":
    sys.exit(main())
