"""Part 2 against its targets and against transformers: `python -m tests.benchmarks.gpt`.

Equal terms: in every row "against transformers" both sides compute the same thing on the same data
with the same precision (theirs under autocast), vocabulary and dropout, in one process, by turns;
medians count. What a choice of ours adds (precision, vocabulary) is a row of its own, ours against
ours. Peak memory is measured in a process of its own. Prints a table and writes
report/results/benchmark_gpt.json, where the rows of the parts that were run replace their
predecessors and the others stay. A row may carry a roofline estimate, in the row's own unit: what
the value would be if ours took no longer than its operations at the measured rate of a large matrix
product, its bytes at the measured rate of reading memory, or no more memory than it must hold. The
two measured rates are in the file.

Ours is measured against itself too: a loop of one's own against the plain path, and with `--old
CHECKOUT` steps and generation against another checkout, by turns.

Needs requirements-dev.txt. Runs every part; `--skip-slow` leaves out the slow ones,
`default-run` (the whole default `python example_gpt.py`) and `equal-time`, `--only PART ...` all
but those named. `--quick` takes fewer repeats: the whole of it then takes some four minutes without
the slow parts, and four more with `default-run`.
"""

from mingpt import startup

if __name__ == "__main__":
    startup.prepare("python -m tests.benchmarks.gpt")

import contextlib
import io
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import SUPPRESS
from pathlib import Path

import torch

import example_gpt
import mingpt
from mingpt import cli, inversion
from mingpt.bpe import get_encoder
from mingpt.compressors import COMPRESSORS, VERSIONS, primed_bits_per_byte
from mingpt.data import load_book
from mingpt.parser import Parser
from mingpt.scoring import bits_per_byte, heldout_bits_per_byte
from mingpt.studies import exercise
from tests.benchmarks.gpt_own import old_and_new, own_loop, question
from tests.benchmarks.gpt_rows import ROOT, row, write
from tests.benchmarks.gpt_speed import generation, memory, step_memory, training_speed

PROG = "python -m tests.benchmarks.gpt"
WEIGHTS = ROOT / "weights" / "gpt.pt"
EQUAL_SECONDS = 60


def shipped_weights(repeats):
    model, book = mingpt.load(WEIGHTS), load_book()
    megabytes = WEIGHTS.stat().st_size / 1e6
    row("weights/gpt.pt, size", megabytes, 26, " MB", at_least=False)
    num_bytes = len(get_encoder().decode_bytes(book.heldout))
    bpb = bits_per_byte(model, book.train, book.heldout, num_bytes, size=64, stride=32)
    row("weights/gpt.pt, held-out bits per byte", bpb, 1.97, at_least=False)
    ppmd = COMPRESSORS["7-Zip PPMd"][1]
    row("weights/gpt.pt, against 7-Zip PPMd", bpb, ppmd, at_least=False)
    target = torch.tensor(get_encoder().encode(exercise.SENTENCE))
    reached, seconds = 0, []
    for seed in range(20):
        began = time.perf_counter()
        reached += inversion.invert(model, target, seed=seed).reached
        seconds.append(time.perf_counter() - began)
    row("inversion, starts of 20 that succeed", reached, 20)
    row("inversion, median time", statistics.median(seconds), 10, " s", at_least=False)
    with tempfile.TemporaryDirectory() as folder:
        seconds, _ = run_script("--weights", str(WEIGHTS), "--out", folder)
    row("example_gpt.py --weights weights/gpt.pt", seconds, 60, " s", at_least=False)


def compressors(repeats):
    """The same measure for general compressors, primed with the training part; those that are not
    installed keep the value of an earlier run, with the version it was measured with."""
    parts = [get_encoder().decode_bytes(part.tolist()) for part in load_book()]
    for name, (command, measured) in COMPRESSORS.items():
        here = shutil.which(command[0]) is not None
        value = primed_bits_per_byte(command, *parts) if here else measured
        row(f"{name}, held-out bits per byte", value,
            comment="measured in this run" if here else f"not installed; {VERSIONS[name]}")


def default_run(repeats):
    with tempfile.TemporaryDirectory() as folder:
        seconds, results = run_script("--out", folder, "--save", folder)
    row("example_gpt.py, training included", seconds / 60, 5, " min", at_least=False)
    row("    its held-out bits per byte", results["q1"]["heldout_bits_per_byte"], 1.97,
        at_least=False)


def equal_time(repeats):
    """example_gpt.py's default recipe, as many iterations as the time allows, both vocabularies."""
    for vocab, name in (("gpt2", "GPT-2's vocabulary"), ("book", "--vocab book")):
        iterations, seconds = 40, EQUAL_SECONDS
        for _ in range(6):  # a machine at other work may never be that even
            iterations = round(iterations * EQUAL_SECONDS / seconds)
            seconds, bpb, precision = timed_training(vocab, iterations)
            if abs(seconds - EQUAL_SECONDS) <= 0.03 * EQUAL_SECONDS:
                break
        row(f"held-out bits per byte after {EQUAL_SECONDS} s of training, {name}", bpb,
            comment=f"{iterations} iterations in {seconds:.0f} s, {precision}")


def timed_training(vocab, iterations):
    """Seconds of example_gpt.py's training, held-out bits per byte of the model, precision."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        options = ["--vocab", vocab, "--max-iters", str(iterations), "--save", folder]
        study, args = cli.parse("", example_gpt.EXERCISE, (), [*options, "--device", "cpu"])
        cli.check_options(study, args)
        run = cli.Run(study, args, {})
        began = time.perf_counter()
        gpt = exercise.train(run, "gpt")
        seconds = time.perf_counter() - began
    return seconds, heldout_bits_per_byte(gpt.model, gpt.book, gpt.encoder), args.precision


def run_script(*arguments):
    """Seconds and results of example_gpt.py in its own process."""
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "example_gpt.py", *arguments], cwd=ROOT, check=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )
    seconds = time.perf_counter() - began
    out = Path(arguments[arguments.index("--out") + 1])
    return seconds, json.loads((out / "results" / "gpt.json").read_text(encoding="utf-8"))


SLOW_PARTS = ("default-run", "equal-time")
PARTS = {
    "training": training_speed,
    "memory": memory,
    "generation": generation,
    "own-loop": own_loop,
    "question": question,
    "shipped": shipped_weights,
    "compressors": compressors,
    "default-run": default_run,
    "equal-time": equal_time,
}


def main(argv=None):
    """Measure what the command line asks for; returns the exit code."""
    return startup.conclude(PROG, lambda: _measure(argv))


def _measure(argv):
    parser = Parser(PROG, description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer repeats")
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument(
        "--only", nargs="+", choices=PARTS, metavar="PART", help=f"of {', '.join(PARTS)}"
    )
    chosen.add_argument(
        "--skip-slow", action="store_true", help=f"leave out {', '.join(SLOW_PARTS)}"
    )
    parser.add_argument(
        "--old", type=Path, metavar="CHECKOUT", help="measure this checkout against ours, no part"
    )
    parser.add_argument("--step-memory", choices=["ours", "theirs"], help=SUPPRESS)
    args = parser.parse_args(argv)
    torch.manual_seed(0)
    if args.step_memory:
        step_memory(args.step_memory)
        return
    if args.old is not None:
        if not (args.old / "mingpt" / "model.py").is_file():
            raise ValueError(f"there is no mingpt/model.py in {args.old}")
        old_and_new(args.old.resolve())
        write()
        return
    skipped = SLOW_PARTS if args.skip_slow else ()
    for part in args.only or [part for part in PARTS if part not in skipped]:
        PARTS[part](3 if args.quick else 7)
        write()


if __name__ == "__main__":
    sys.exit(main())
