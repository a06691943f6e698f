"""Part 2 against transformers: training steps, their memory, generation, and what bounds them."""

import functools
import subprocess
import sys
from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from mingpt.data import BlockDataset, load_book
from mingpt.devices import bfloat16_supported
from mingpt.model import GPT, MODEL_TYPES
from mingpt.trainer import Trainer
from mingpt.utils import CfgNode
from mingpt.vocabulary import BookVocabulary
from tests.benchmarks.gpt_rows import RATES, ROOT, alternate, row

BATCH, BLOCK = 32, 64
VOCABULARY = 50257
TARGETS = {("gpt-mini", "float32", "gpt2"): 1.6, ("gpt-mini", "bfloat16", "gpt2"): 2.5,
           ("gpt-nano", "float32", "gpt2"): 2.0}  # fmt: skip


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
