"""Part 2 against its targets and against transformers: `python -m tests.benchmarks.gpt`.

Both sides do the same work on the same data in one process, alternating; medians count. Peak
memory is measured in a process of its own. Needs requirements-dev.txt. `--quick` takes fewer
repeats, `--skip-training` leaves training speed out; `--default-run` adds the whole default
`python example_gpt.py`.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel

import mingpt
from mingpt import inversion
from mingpt.bpe import get_encoder
from mingpt.data import BlockDataset, load_book
from mingpt.model import GPT, MODEL_TYPES
from mingpt.scoring import bits_per_byte
from mingpt.trainer import Trainer, bfloat16_supported
from mingpt.utils import CfgNode
from mingpt.vocabulary import BookVocabulary

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = ROOT / "weights" / "gpt.pt"
BATCH, BLOCK = 32, 64


def row(name, value, target, unit="", at_least=True):
    met = value >= target if at_least else value <= target
    sign = ">=" if at_least else "<="
    print(f"{'ok ' if met else 'NOT'} {name:58s} {value:9.3f}{unit}   target {sign} {target}{unit}",
          flush=True)


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


def our_stepper(name, precision="float32", vocab="gpt2"):
    """A function that trains one step of ours."""
    tokens, vocab_size = load_book().train, 50257
    if vocab == "book":
        vocabulary = BookVocabulary.of(tokens)
        tokens = torch.tensor(vocabulary.from_gpt2(tokens.tolist()))
        vocab_size = vocabulary.vocab_size
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
    batches = trainer._batches()
    return lambda: trainer._step(*next(batches))


def their_model(name):
    return GPT2LMHeadModel(
        GPT2Config(**MODEL_TYPES[name], n_positions=BLOCK, vocab_size=50257, bos_token_id=0,
                   eos_token_id=None)
    )


def their_stepper(name):
    """A function that trains one step of transformers' model, as its documentation has it."""
    model = their_model(name).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, betas=(0.9, 0.95))
    dataset = BlockDataset(load_book().train, BLOCK)

    def step():
        x, _ = dataset.batch(torch.randint(len(dataset), (BATCH,)))
        loss = model(x, labels=x).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def training_speed(repeats):
    tokens = BATCH * BLOCK
    precision = "bfloat16" if bfloat16_supported("cpu") else "float32"
    mini, half, small, theirs = alternate(
        our_stepper("gpt-mini"),
        our_stepper("gpt-mini", precision),
        our_stepper("gpt-mini", precision, "book"),
        their_stepper("gpt-mini"),
        repeats=repeats,
    )
    print(f"    gpt-mini: ours {tokens / mini:.0f} tokens/s, bfloat16 {tokens / half:.0f}, "
          f"--vocab book {tokens / small:.0f}, transformers {tokens / theirs:.0f}")
    row("training, gpt-mini, float32, against transformers", theirs / mini, 1.6, "x")
    row("training, gpt-mini, bfloat16, against transformers", theirs / half, 2.5, "x")
    row("training, gpt-mini, --vocab book, against transformers", theirs / small, 5.0, "x")
    physical_limits(mini, half)
    nano, theirs = alternate(our_stepper("gpt-nano"), their_stepper("gpt-nano"), repeats=repeats)
    print(f"    gpt-nano: ours {tokens / nano:.0f} tokens/s, transformers {tokens / theirs:.0f}")
    row("training, gpt-nano, float32, against transformers", theirs / nano, 2.0, "x")


def physical_limits(full_seconds, half_seconds):
    """What the matrix products alone would take at the measured matrix rate."""
    width, layers = 192, 6
    weights = 12 * layers * width**2 + 50257 * width
    attention = 2 * layers * BLOCK * width  # QK^T and weights @ V, per token and direction
    operations = 6 * BATCH * BLOCK * (weights + attention)
    for dtype, seconds in ((torch.float32, full_seconds), (torch.bfloat16, half_seconds)):
        a, b = torch.randn(2048, 2048, dtype=dtype), torch.randn(2048, 2048, dtype=dtype)
        (taken,) = alternate(lambda a=a, b=b: a @ b, repeats=7)
        rate = 2 * 2048**3 / taken
        limit = operations / rate
        print(f"    limit, {dtype}: {operations / 1e9:.0f} GFLOP at {rate / 1e9:.0f} GFLOP/s = "
              f"{limit:.3f} s a step; ours takes {seconds:.3f} s, {seconds / limit:.2f} x")


def step_memory(side):
    """Run in its own process: prints the peak resident bytes that two steps add."""
    stepper = our_stepper("gpt-mini") if side == "ours" else their_stepper("gpt-mini")
    before = resident_bytes("VmRSS")
    stepper()
    stepper()
    print(resident_bytes("VmHWM") - before)


def resident_bytes(field):
    """VmRSS (now) or VmHWM (peak) of this process; Linux."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{field}:")[1].split()[0]) * 1024


def memory():
    peaks = []
    for side in ("ours", "theirs"):
        command = [sys.executable, "-m", "tests.benchmarks.gpt", "--step-memory", side]
        output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        peaks.append(int(output.stdout.split()[-1]))
    print(f"    peak memory of a step: ours {peaks[0] / 2**20:.0f} MiB, transformers "
          f"{peaks[1] / 2**20:.0f} MiB")
    row("peak memory of a gpt-mini step, against transformers", peaks[0] / peaks[1], 0.5, "x",
        at_least=False)


def generation(repeats):
    theirs = their_model("gpt-mini").eval()
    config = GPT.get_default_config()
    config.merge_from_dict(
        {"model_type": "gpt-mini", "vocab_size": 50257, "block_size": BLOCK, "tied_head": True}
    )
    ours = GPT(config).eval()
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
    row("generation within the block, against transformers' cache", their_inside / inside, 1.3, "x")
    table_bytes = 4 * ours.num_parameters
    source = torch.randn(25_000_000)
    (taken,) = alternate(source.sum, repeats=7)
    bandwidth = 4 * source.numel() / taken
    print(f"    limit: {table_bytes / 1e6:.0f} MB of weights a token at {bandwidth / 1e9:.0f} GB/s "
          f"= {bandwidth / table_bytes:.0f} tokens/s")
    past, their_past = alternate(
        lambda: ours.generate(prompt, 300), their_window, repeats=max(1, repeats // 3)
    )
    row("generation of 300 tokens past the block, cropped window", their_past / past, 3.0, "x")


def shipped_weights():
    import example_gpt

    model, book = mingpt.load(WEIGHTS), load_book()
    megabytes = WEIGHTS.stat().st_size / 1e6
    row("weights/gpt.pt, size", megabytes, 26, " MB", at_least=False)
    num_bytes = len(get_encoder().decode_bytes(book.heldout))
    bpb = bits_per_byte(model, book.train, book.heldout, num_bytes, size=64, stride=32)
    row("weights/gpt.pt, held-out bits per byte", bpb, 1.97, at_least=False)
    row("weights/gpt.pt, against 7-Zip PPMd", bpb, 1.937, at_least=False)
    target = torch.tensor(get_encoder().encode(example_gpt.SENTENCE))
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


def default_run():
    with tempfile.TemporaryDirectory() as folder:
        seconds, results = run_script("--out", folder, "--save", folder)
    row("example_gpt.py, training included", seconds / 60, 5, " min", at_least=False)
    row("    its held-out bits per byte", results["q1"]["heldout_bits_per_byte"], 1.97,
        at_least=False)


def run_script(*arguments):
    """Seconds and results of example_gpt.py in its own process."""
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "example_gpt.py", *arguments], cwd=ROOT, check=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )
    seconds = time.perf_counter() - began
    out = Path(arguments[arguments.index("--out") + 1])
    return seconds, json.loads((out / "results_gpt.json").read_text())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer repeats")
    parser.add_argument("--default-run", action="store_true", help="add the default run")
    parser.add_argument("--skip-training", action="store_true", help="leave out training speed")
    parser.add_argument("--step-memory", choices=["ours", "theirs"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.manual_seed(0)
    if args.step_memory:
        step_memory(args.step_memory)
        return
    repeats = 3 if args.quick else 7
    if not args.skip_training:
        training_speed(repeats)
    memory()
    generation(repeats)
    shipped_weights()
    if args.default_run:
        default_run()


if __name__ == "__main__":
    main()
