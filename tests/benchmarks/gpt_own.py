"""Part 2 against itself: an old checkout, the plain path, and the question that chooses a path."""

import json
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

TURNS = 3
# Of a checkout, by what both have: seconds of a step, and of 60 and of 300 generated tokens.
TIMED = """
import json, time, torch
from mingpt.data import BlockDataset, load_book
from mingpt.model import GPT
from mingpt.trainer import Trainer
from mingpt.utils import CfgNode

def seconds(function, times):
    taken = []
    for _ in range(times + 1):
        began = time.perf_counter()
        function()
        taken.append(time.perf_counter() - began)
    return sorted(taken[1:])[times // 2]

torch.manual_seed(0)
tokens, config = load_book().train, GPT.get_default_config()
config.merge_from_dict({"model_type": "gpt-mini", "vocab_size": 50257, "block_size": 64,
                        "tied_head": True})
model = GPT(config)
settings = CfgNode(device="cpu", batch_size=32, learning_rate=5e-4, seed=0, max_iters=8)
trainer, times = Trainer(settings, model, BlockDataset(tokens, 64)), []
trainer.set_callback("on_batch_end", lambda _: times.append(time.perf_counter()))
trainer.run()
steps = sorted(b - a for a, b in zip(times, times[1:]))
model.eval()
prompt = tokens[None, :4]
print(json.dumps([steps[len(steps) // 2], seconds(lambda: model.generate(prompt, 60), 5),
                  seconds(lambda: model.generate(prompt, 300), 3)]))
"""
MEASURES = ("a training step", "60 tokens within the block", "300 tokens past it")


def old_and_new(old):
    """Seconds of a checkout's steps and generation over ours, each in processes by turns."""
    times = {old: [], ROOT: []}
    for _ in range(TURNS):
        for checkout, taken in times.items():
            done = subprocess.run(
                [sys.executable, "-c", TIMED], cwd=checkout, check=True, capture_output=True,
                text=True, encoding="utf-8",
            )  # fmt: skip
            taken.append(json.loads(done.stdout.splitlines()[-1]))
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=old, capture_output=True, text=True, check=True
    ).stdout.strip()
    before, after = ([statistics.median(column) for column in zip(*taken, strict=True)]
                     for taken in times.values())  # fmt: skip
    for name, seconds, ours in zip(MEASURES, before, after, strict=True):
        row(f"{name}, commit {commit}'s time over this one's", seconds / ours, 0.95, " x",
            comment=f"gpt-mini, float32, {1000 * ours:.3g} ms")


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
