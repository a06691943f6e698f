"""An old checkout's times against a new one's: `python -m tests.benchmarks.speed OLD NEW`.

The two take turns on one machine, alone and beside a busy process of one thread: Part 1's whole
script and sampling; alone also Part 1's with the shipped weights, and Part 2's whole script in
float32. A run is stopped after `LIMIT` seconds and then counts as that long, so that the ratios err
on the old checkout's side. Writes report/results/benchmark_speed.json; with --only TEXT just the
measures whose names hold the text are taken, and the others of the file kept. On an otherwise idle
machine of two cores about three quarters of an hour.
"""

from __future__ import annotations

from diffusion import startup

if __name__ == "__main__":
    startup.prepare("python -m tests.benchmarks.speed")

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from diffusion.files import write_json
from diffusion.parser import Parser

PROG = "python -m tests.benchmarks.speed"
ROOT = Path(__file__).parents[2]
LIMIT = 600
SHIPPED = [
    "--weights",
    "weights/diffusion_unconditional.pt",
    "--conditional-weights",
    "weights/diffusion_conditional.pt",
]
SCRIPTS = {
    "example_diffusion.py": [],
    "example_diffusion.py, shipped weights": SHIPPED,
    "example_gpt.py, float32": ["--precision", "float32"],
}
SAMPLING = {
    "20,000 samples, DDIM, T = 1000": "20_000, steps=1000",
    "1,000 samples, DPM-Solver++(2M), 24 evaluations": '1000, solver="dpm++", steps=24',
}
TIMED = """
import time, diffusion
model = diffusion.load("weights/diffusion_unconditional.pt")
diffusion.sample(model, 1000, steps=10, seed=0)
began = time.perf_counter()
diffusion.sample(model, {}, seed=0)
print(time.perf_counter() - began)
"""


def script(checkout: Path, name: str) -> tuple[float, bool]:
    """Wall-clock seconds of one of `SCRIPTS` in a checkout, and whether it came to its end."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        folders = ["--out", f"{scratch}/report", "--save", f"{scratch}/weights"]
        command = [sys.executable, name.split(",")[0], *SCRIPTS[name], *folders]
        try:
            subprocess.run(command, cwd=checkout, check=True, capture_output=True, timeout=LIMIT)
        except subprocess.TimeoutExpired:
            return float(LIMIT), False
        return time.perf_counter() - began, True


def sampling(checkout: Path, arguments: str) -> float:
    """Seconds of one call of `diffusion.sample` in a process of its own."""
    command = [sys.executable, "-c", TIMED.format(arguments)]
    done = subprocess.run(
        command, cwd=checkout, check=True, capture_output=True, encoding="utf-8", timeout=LIMIT
    )
    return float(done.stdout)


@contextmanager
def busy(wanted: bool) -> Iterator[None]:
    """Beside a process that keeps one processor busy, if wanted."""
    if not wanted:
        yield
        return
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def machine() -> dict:
    """The processor, what of its instructions matters here, and how many there are."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    fields = {name.strip(): value.strip() for name, value in fields.items()}
    flags = fields.get("flags", "").split()
    return {
        "processor": fields.get("model name", platform.processor()),
        "processors": os.cpu_count(),
        "avx512": "avx512f" in flags,
        "bfloat16": "avx512_bf16" in flags,
    }


def commit(checkout: Path) -> str | None:
    """Of a git checkout, shortened; None where there is none."""
    command = ["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    return done.stdout.strip() or None


def measure(old: Path, new: Path, only: str) -> list[dict]:
    """A row for every measure whose name holds `only`."""
    rows = []
    commits = {"commit_old": commit(old), "commit_new": commit(new)}

    def add(name: str, beside: bool, seconds: dict[str, float], stopped: bool) -> None:
        row = {"measure": name, "beside_a_busy_process": beside}
        row |= {f"seconds_{which}": value for which, value in seconds.items()}
        row |= {"ratio": seconds["new"] / seconds["old"], "old_was_stopped": stopped}
        row |= commits
        rows.append(row)
        print(table_row(row), file=sys.stderr, flush=True)

    for beside in (False, True):
        with busy(beside):
            for name in wanted(SAMPLING, beside, only):
                arguments = SAMPLING[name]
                times = [(sampling(old, arguments), sampling(new, arguments)) for _ in range(3)]
                before, after = (median(values) for values in zip(*times, strict=True))
                add(name, beside, {"old": before, "new": after}, False)
            for name in wanted(SCRIPTS, beside, only):
                (before, ended), (after, _) = script(old, name), script(new, name)
                add(name, beside, {"old": before, "new": after}, not ended)
    return rows


def wanted(names: Iterable[str], beside: bool, only: str) -> list[str]:
    """Those that hold the text; of the scripts, beside a busy process, the first alone."""
    alone = set(SCRIPTS) - {"example_diffusion.py"} if beside else set()
    return [name for name in names if only in name and name not in alone]


def table_row(row: dict) -> str:
    """Measure, seconds of the new and of the old checkout, and their ratio."""
    name = row["measure"] + ", beside a busy process" * row["beside_a_busy_process"]
    sign = "> " * row["old_was_stopped"]
    cells = f"{row['seconds_new']:.3g}", f"{sign}{row['seconds_old']:.3g}", f"{row['ratio']:.2f}"
    return "| " + " | ".join((name, *cells)) + " |"


def main(argv: list[str] | None = None) -> int:
    """Measure and write; returns the exit code."""
    return startup.conclude(PROG, lambda: _compare(argv))


def _compare(argv: list[str] | None) -> None:
    parser = Parser(PROG, description=__doc__.splitlines()[0])
    for which in ("old", "new"):
        parser.add_argument(which, type=Path, metavar=which.upper(), help=f"the {which} checkout")
    parser.add_argument("--only", default="", metavar="TEXT", help="measures whose names hold it")
    args = parser.parse_args(argv)
    for checkout in (args.old, args.new):
        if not (checkout / "example_diffusion.py").is_file():
            raise ValueError(f"there is no example_diffusion.py in {checkout}")
    path = ROOT / "report/results/benchmark_speed.json"
    kept = []
    if args.only and path.exists():
        earlier = json.loads(path.read_text(encoding="utf-8"))["rows"]
        kept = [row for row in earlier if args.only not in row["measure"]]
    content = {"machine": machine(), "limit_seconds": LIMIT}
    content["rows"] = kept + measure(args.old.resolve(), args.new.resolve(), args.only)
    write_json(path, content)


if __name__ == "__main__":
    sys.exit(main())
