"""Part 2 against itself: an old checkout, the plain path, and the question that chooses a path."""

import statistics
import subprocess
import sys
from contextlib import contextmanager

import torch

from mingpt.model import GPT
from mingpt.pristine import pristine
from mingpt.trainer import Trainer
from tests.benchmarks.gpt_rows import ROOT, alternate, row
from tests.benchmarks.gpt_speed import BATCH, BLOCK, VOCABULARY

PAIRS, TURNS = 3, {"step": 7, "within": 7, "past": 7}  # of processes, and within each of them
# Of a checkout, by what both have: it waits for a line, does the next thing, prints its seconds.
TIMED = """
import sys, time, torch
from mingpt.data import BlockDataset, load_book
from mingpt.model import GPT
from mingpt.trainer import Trainer
from mingpt.utils import CfgNode

steps, within, past = map(int, sys.argv[1:])

def begin():
    global began
    input()
    began = time.perf_counter()

def end(*_):
    print(time.perf_counter() - began, flush=True)

def end_and_begin(trainer):
    end()
    if trainer.iter_num + 1 < steps:
        begin()

torch.manual_seed(0)
tokens, config = load_book().train, GPT.get_default_config()
config.merge_from_dict({"model_type": "gpt-mini", "vocab_size": 50257, "block_size": 64,
                        "tied_head": True})
model = GPT(config)
settings = CfgNode(device="cpu", batch_size=32, learning_rate=5e-4, seed=0, max_iters=steps)
trainer = Trainer(settings, model, BlockDataset(tokens, 64))
trainer.set_callback("on_batch_end", end_and_begin)
begin()
trainer.run()
model.eval()
for length, turns in ((60, within), (300, past)):
    for _ in range(turns):
        begin()
        model.generate(tokens[None, :4], length)
        end()
"""
MEASURES = {"step": "a training step", "within": "60 tokens within the block",
            "past": "300 tokens past it"}  # fmt: skip


def old_and_new(old):
    """Seconds of a checkout's steps and generation over ours: pairs of processes that take turns,
    each beginning every other time; the first turn of each kind warms up."""
    seconds = {name: {old: [], ROOT: []} for name in TURNS}
    for _ in range(PAIRS):
        processes = {checkout: started(checkout) for checkout in (old, ROOT)}
        for name, turns in TURNS.items():
            order = [*processes]
            for turn in range(turns + 1):
                order.reverse()
                for checkout in order:
                    taken = one_turn(processes[checkout])
                    if turn:
                        seconds[name][checkout].append(taken)
        for process in processes.values():
            process.communicate()
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=old, capture_output=True, text=True, check=True
    ).stdout.strip()
    for name, taken in seconds.items():
        before, ours = (statistics.median(taken[checkout]) for checkout in (old, ROOT))
        row(f"{MEASURES[name]}, commit {commit}'s time over this one's", before / ours, 0.95, " x",
            comment=f"gpt-mini, float32, {1000 * ours:.3g} ms")


def started(checkout):
    """A process of a checkout, waiting for its first turn."""
    numbers = [str(turns + 1) for turns in TURNS.values()]
    return subprocess.Popen(
        [sys.executable, "-c", TIMED, *numbers], cwd=checkout, text=True, encoding="utf-8",
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip


def one_turn(process):
    """Seconds of what the process does next."""
    print(file=process.stdin, flush=True)
    return float(process.stdout.readline())


@contextmanager
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class PlainPath(GPT):
    """A forward of its own is never taken for the package's: it runs model.py alone."""

    def forward(self, *args, **kwargs):
        return super().forward(*args, **kwargs)


def loop_step(cls, model_type, vocab_size, batch, block, **options):
    """A step of a loop of one's own, and its model."""
    config = GPT.get_default_config()
    config.merge_from_dict(
        {"model_type": model_type, "vocab_size": vocab_size, "block_size": block}
    )
    model = cls(config).train()
    optimizer = model.configure_optimizers(Trainer.get_default_config())
    tokens = torch.randint(vocab_size, (batch, block + 1))
    x, y = tokens[:, :-1], tokens[:, 1:]

    def step():
        _, loss = model(x, y, **options)
        model.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step, model


def own_loop(repeats):
    """`logits, loss = model(x, y)` where nobody looks, against model.py's computation."""
    sizes = ("gpt-micro", VOCABULARY, BATCH, BLOCK)
    steps = [
        loop_step(cls, *sizes, **options)[0]
        for cls, options in ((PlainPath, {}), (GPT, {}), (GPT, {"loss_only": True}))
    ]
    with one_thread():
        plain, usual, loss_only = alternate(*steps, repeats=repeats)
    row("own loop, model(x, y), against the plain path", plain / usual, 1.3, " x",
        comment=f"gpt-micro, vocabulary {VOCABULARY}, float32, one thread, {usual:.3g} s a step")
    row("own loop, model(x, y, loss_only=True), against the plain path", plain / loss_only,
        unit=" x", comment="the same")


def question(repeats):
    """What asking whether a model is as built takes of the smallest step there is."""
    step, model = loop_step(GPT, "gpt-nano", 10, 64, 6)  # minGPT's adder of two digits
    with one_thread():
        asked, taken = alternate(
            lambda: [pristine(model, 6) for _ in range(100)], step, repeats=10 * repeats
        )
    row("asking whether the model is as built, share of a step", asked / taken, 1, " %",
        at_least=False, comment=f"gpt-nano, 10 tokens, 64 x 6, {1000 * taken:.3g} ms a step")
