"""The table of `python -m tests.benchmarks.gpt`: rows, their file, and the stopwatch."""

import json
import platform
import statistics
import time
from pathlib import Path

import torch

from mingpt.utils import write_json

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "report" / "results" / "benchmark_gpt.json"
ROWS = {}  # by name, of this run
RATES = {}  # measured in this run, by what the roofline estimates call them


def row(name, value, target=None, unit="", at_least=True, roofline=None, comment=None):
    """Add a row and print it; target None where nobody set one."""
    ROWS[name] = {"name": name, "value": value, "unit": unit.strip()}
    line = f"{name:62s} {value:9.3f}{unit}"
    if target is not None:
        met = value >= target if at_least else value <= target
        ROWS[name] |= {"target": target, "at": "least" if at_least else "most", "met": bool(met)}
        line += f"   target {'>=' if at_least else '<='} {target:.4g}{'' if met else ', MISSED'}"
    if roofline is not None:
        share = value / roofline if at_least else roofline / value
        ROWS[name] |= {"roofline_estimate": roofline, "share_of_roofline": share}
        line += f"   roofline estimate {roofline:.3g} ({share:.0%} of it)"
    if comment is not None:
        ROWS[name]["comment"] = comment
        line += f"   [{comment}]"
    print(line, flush=True)


def write():
    """Merge the rows of this run into the results file."""
    rows, rates = {}, {}
    if RESULTS.exists():
        earlier = json.loads(RESULTS.read_text(encoding="utf-8"))
        rows = {old["name"]: old for old in earlier["rows"]}
        rates = earlier.get("measured_rates", {})
    content = {
        "machine_of_last_run": machine(),
        "measured_rates": rates | RATES,
        "rows": list((rows | ROWS).values()),
    }
    write_json(RESULTS, content)


def machine():
    cpus = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    model = cpus.split("model name")[1].splitlines()[0].strip(" \t:")
    return (
        f"{model}, {cpus.count('processor')} processors, {torch.get_num_threads()} threads, "
        f"{platform.system()}, PyTorch {torch.__version__}"
    )


def alternate(*functions, repeats):
    """Median seconds of each function, called in turn, one warm-up round before."""
    times = [[] for _ in functions]
    for turn in range(repeats + 1):
        for function, taken in zip(functions, times, strict=True):
            began = time.perf_counter()
            function()
            if turn:
                taken.append(time.perf_counter() - began)
    return [statistics.median(taken) for taken in times]
