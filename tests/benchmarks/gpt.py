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

Needs requirements-dev.txt. Runs every part; `--skip-slow` leaves out the slow ones,
`default-run` (the whole default `python example_gpt.py`) and `equal-time`, `--only PART ...` all
but those named. `--quick` takes fewer repeats: the whole of it then takes some four minutes without
the slow parts, and four more with `default-run`.
"""

from mingpt import startup

if __name__ == "__main__":
    startup.prepare("python -m tests.benchmarks.gpt")

import contextlib
import functools
import json
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import SUPPRESS
from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel

import example_gpt
import mingpt
from mingpt import cli, inversion
from mingpt.bpe import get_encoder
from mingpt.compressors import COMPRESSORS, VERSIONS, primed_bits_per_byte
from mingpt.data import BlockDataset, load_book
from mingpt.devices import bfloat16_supported
from mingpt.model import GPT, MODEL_TYPES
from mingpt.parser import Parser
from mingpt.scoring import bits_per_byte, heldout_bits_per_byte
from mingpt.studies import exercise
from mingpt.trainer import Trainer
from mingpt.utils import CfgNode, write_json
from mingpt.vocabulary import BookVocabulary

PROG = "python -m tests.benchmarks.gpt"
ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = ROOT / "weights" / "gpt.pt"
RESULTS = ROOT / "report" / "results" / "benchmark_gpt.json"
BATCH, BLOCK = 32, 64
EQUAL_SECONDS = 60
VOCABULARY = 50257
TARGETS = {("gpt-mini", "float32", "gpt2"): 1.6, ("gpt-mini", "bfloat16", "gpt2"): 2.5,
           ("gpt-nano", "float32", "gpt2"): 2.0}  # fmt: skip
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


def training_tokens(vocab):
    """The training part, (N,) int64, and the size of its vocabulary, "gpt2" or "book"."""
    tokens = load_book().train
    if vocab == "gpt2":
        return tokens, VOCABULARY
    vocabulary = BookVocabulary.of(tokens)
    return torch.tensor(vocabulary.from_gpt2(tokens.tolist())), vocabulary.vocab_size


def our_stepper(name, precision="float32", vocab="gpt2"):
    """A function that trains one step of ours."""
    tokens, vocab_size = training_tokens(vocab)
    config = GPT.get_default_config()
    config.merge_from_dict(
        {"model_type": name, "vocab_size": vocab_size, "block_size": BLOCK, "tied_head": True}
    )
    settings = CfgNode(
        device="cpu", precision=precision, batch_size=BATCH, learning_rate=5e-4, seed=0
    )
    trainer = Trainer(settings, GPT(config), BlockDataset(tokens, BLOCK, vocab_size))
    trainer.model.train()
    trainer.optimizer = trainer.model.configure_optimizers(trainer.config)
    trainer.draw_batches(None)
    return lambda: trainer._step(*next(trainer.batches))


def their_model(name, vocab_size=VOCABULARY):
    """transformers' model of the same sizes; its dropout is GPT-2's 0.1 everywhere, as ours is."""
    return GPT2LMHeadModel(
        GPT2Config(**MODEL_TYPES[name], n_positions=BLOCK, vocab_size=vocab_size, bos_token_id=0,
                   eos_token_id=None)
    )


def their_stepper(name, precision="float32", vocab="gpt2"):
    """A function that trains one step of transformers' model, as its documentation has it."""
    tokens, vocab_size = training_tokens(vocab)
    model = their_model(name, vocab_size).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, betas=(0.9, 0.95))
    dataset = BlockDataset(tokens, BLOCK, vocab_size)

    def step():
        x, _ = dataset.batch(torch.randint(len(dataset), (BATCH,)))
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            loss = model(x, labels=x).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def training_speed(repeats):
    """Steps of both sides on equal terms, then what our choices add to our own."""
    precisions = ["float32"] + ["bfloat16"] * bfloat16_supported("cpu")
    settings = [
        *(("gpt-mini", precision, "gpt2") for precision in precisions),
        ("gpt-mini", precisions[-1], "book"),
        ("gpt-nano", "float32", "gpt2"),
    ]
    seconds = {}
    for name, precision, vocab in settings:
        ours, theirs = alternate(
            our_stepper(name, precision, vocab), their_stepper(name, precision, vocab),
            repeats=repeats,
        )
        seconds[name, precision, vocab] = ours
        print(f"    {name}, {precision}, vocabulary {vocab}: ours {BATCH * BLOCK / ours:.0f} "
              f"tokens/s, transformers {BATCH * BLOCK / theirs:.0f}")
        least = training_operations(name, training_tokens(vocab)[1]) / matrix_rate(precision)
        book = ", the book's vocabulary" if vocab == "book" else ""
        row(f"training, {name}, {precision}{book}, against transformers", theirs / ours,
            TARGETS.get((name, precision, vocab)), " x", roofline=theirs / least)
    full = seconds["gpt-mini", precisions[-1], "gpt2"]
    if len(precisions) > 1:
        row("our choice: bfloat16 instead of float32, gpt-mini",
            seconds["gpt-mini", "float32", "gpt2"] / full, unit=" x")
    row(f"our choice: --vocab book instead of GPT-2's, gpt-mini, {precisions[-1]}",
        full / seconds["gpt-mini", precisions[-1], "book"], unit=" x")


def training_operations(name, vocab_size):
    """Multiplications and additions in the matrix products of one training step."""
    layers, width = MODEL_TYPES[name]["n_layer"], MODEL_TYPES[name]["n_embd"]
    weights = 12 * layers * width**2 + vocab_size * width
    attention = layers * (BLOCK + 1) * width  # QK^T and weights @ V of the past, per token
    return 6 * BATCH * BLOCK * (weights + attention)


@functools.cache
def matrix_rate(precision="float32"):
    """Operations per second in a large matrix product."""
    a, b = (torch.randn(2048, 2048).to(getattr(torch, precision)) for _ in range(2))
    (taken,) = alternate(lambda: a @ b, repeats=15)
    RATES[f"matrix product, {precision}, GFLOP/s"] = 2 * 2048**3 / taken / 1e9
    return 2 * 2048**3 / taken


@functools.cache
def bandwidth():
    """Bytes per second read from memory."""
    source = torch.randn(25_000_000)
    (taken,) = alternate(source.sum, repeats=15)
    RATES["memory read, GB/s"] = 4 * source.numel() / taken / 1e9
    return 4 * source.numel() / taken


def step_memory(side):
    """Run in its own process: prints the peak resident bytes that two steps add."""
    stepper = our_stepper("gpt-mini") if side == "ours" else their_stepper("gpt-mini")
    # The peak of imports and set-up is forgotten.
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    before = resident_bytes("VmRSS")
    stepper()
    stepper()
    print(resident_bytes("VmHWM") - before)


def resident_bytes(field):
    """VmRSS (now) or VmHWM (peak) of this process; Linux."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split(f"{field}:")[1].split()[0]) * 1024


def least_step_memory():
    """Bytes that a step must hold beside the weights, at the end of its forward pass.

    AdamW's two moments, and what the backward pass reads of every block when nothing is
    computed twice: per token 16 vectors (each layer norm's input and output, query, key, value,
    the attention's output, and the perceptron's four before and four after GELU), at the end
    two more. The gradients need not be there yet.
    """
    sizes = MODEL_TYPES["gpt-mini"]
    activations = BATCH * BLOCK * sizes["n_embd"] * (16 * sizes["n_layer"] + 2)
    return 4 * (2 * our_model().num_parameters + activations)


def memory(repeats):
    peaks = []
    for side in ("ours", "theirs"):
        command = [sys.executable, "-m", "tests.benchmarks.gpt", "--step-memory", side]
        output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        peaks.append(int(output.stdout.split()[-1]))
    print(f"    peak memory of a step: ours {peaks[0] / 2**20:.0f} MiB, transformers "
          f"{peaks[1] / 2**20:.0f} MiB, least {least_step_memory() / 2**20:.0f} MiB")
    row("peak memory of a gpt-mini step, against transformers", peaks[0] / peaks[1], 0.5, "x",
        at_least=False, roofline=least_step_memory() / peaks[1],
        comment="what a step adds to the weights; float32")


def our_model():
    config = GPT.get_default_config()
    config.merge_from_dict(
        {"model_type": "gpt-mini", "vocab_size": VOCABULARY, "block_size": BLOCK, "tied_head": True}
    )
    return GPT(config).eval()


def window_seconds():
    """The least time for one token past the block: every position computed, one head row."""
    layers, width = MODEL_TYPES["gpt-mini"]["n_layer"], MODEL_TYPES["gpt-mini"]["n_embd"]
    rows = 12 * (layers - 1) * BLOCK + 2 * BLOCK + 10  # of the last block only keys and values
    attention = ((layers - 1) * (BLOCK + 1) + 2) * BLOCK * width
    operations = 2 * (rows * width**2 + attention)
    return operations / matrix_rate() + 4 * VOCABULARY * width / bandwidth()


def generation(repeats):
    theirs, ours = their_model("gpt-mini").eval(), our_model()
    prompt = load_book().train[None, :4]
    mask = torch.ones_like(prompt)
    new = BLOCK - 4

    def their_cached():
        theirs.generate(prompt, attention_mask=mask, max_new_tokens=new, do_sample=False,
                        pad_token_id=0)

    @torch.no_grad()
    def their_window():
        idx = prompt
        for _ in range(300):
            logits = theirs(idx[:, -BLOCK:], use_cache=False).logits[:, -1]
            idx = torch.cat([idx, logits.argmax(-1, keepdim=True)], dim=1)

    inside, their_inside = alternate(
        lambda: ours.generate(prompt, new), their_cached, repeats=repeats
    )
    print(f"    {new} tokens: ours {new / inside:.0f} tokens/s, transformers "
          f"{new / their_inside:.0f}")
    least = 4 * ours.num_parameters / bandwidth()  # every weight is read for every token
    row("generation within the block, against transformers' cache", their_inside / inside, 1.3, "x",
        roofline=their_inside / (new * least))
    past, their_past = alternate(
        lambda: ours.generate(prompt, 300), their_window, repeats=max(1, repeats // 3)
    )
    print(f"    300 tokens: ours {300 / past:.0f} tokens/s, transformers {300 / their_past:.0f}")
    row("generation of 300 tokens past the block, cropped window", their_past / past, 3.0, "x",
        roofline=their_past / (new * least + (300 - new) * window_seconds()))


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
        for _ in range(2):
            iterations = round(iterations * EQUAL_SECONDS / seconds)
            seconds, bpb, precision = timed_training(vocab, iterations)
        row(f"held-out bits per byte after {EQUAL_SECONDS} s of training, {name}", bpb,
            comment=f"{iterations} iterations in {seconds:.0f} s, {precision}")


def timed_training(vocab, iterations):
    """Seconds of example_gpt.py's training, held-out bits per byte of the model, precision."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(None):
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
    parser.add_argument("--step-memory", choices=["ours", "theirs"], help=SUPPRESS)
    args = parser.parse_args(argv)
    torch.manual_seed(0)
    if args.step_memory:
        step_memory(args.step_memory)
        return
    skipped = SLOW_PARTS if args.skip_slow else ()
    for part in args.only or [part for part in PARTS if part not in skipped]:
        PARTS[part](3 if args.quick else 7)
        write()


if __name__ == "__main__":
    sys.exit(main())
