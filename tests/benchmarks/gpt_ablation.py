"""What each part of the Part 2 recipe is worth: `python -m tests.benchmarks.gpt_ablation`.

Every variant changes one thing in the default recipe of `example_gpt.py`. The held-out part of the
book is not touched: models train on the first nine tenths of the training part and are scored on
its last tenth, the validation text, in bits per byte at the best evaluation. One seed screens all
variants; the reference and the best other are then finalists and get two more seeds. Writes
report/results_gpt_ablation.json after every run and goes on from it when started again. A run takes
two to four minutes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path

import torch
from tqdm import tqdm

import example_gpt
from mingpt.bpe import get_encoder
from mingpt.data import BlockDataset, load_book
from mingpt.discounting import AbsoluteDiscount, spelling_groups
from mingpt.merges import load_merges
from mingpt.model import GPT
from mingpt.scoring import bits_per_byte
from mingpt.trainer import Trainer
from mingpt.utils import atomic_path

PATH = Path(__file__).parents[2] / "report" / "results_gpt_ablation.json"
SEEDS = (11, 12, 13)
FINALISTS = 1  # beside the reference
REFERENCE = "the default recipe"
VALIDATION_SHARE = 0.1

# Name -> changes of command-line options, of the CPU preset, of the model's shape, or of the data.
VARIANTS = {
    REFERENCE: {},
    "no discount of seen tokens": {"discount": False},
    "embeddings start at std 0.02": {"preset": {"embd_init_std": 0.02}},
    "embeddings do not decay": {"preset": {"embedding_weight_decay": 0.0}},
    "weight decay 0.1": {"preset": {"weight_decay": 0.1}},
    "dropout 0.1": {"options": {"dropout": 0.1}},
    "no average of weights": {"ema_decay": None},
    "4 layers x 192": {"model": {"model_type": None, "n_layer": 4, "n_head": 6, "n_embd": 192}},
    "6 layers x 256": {"model": {"model_type": None, "n_layer": 6, "n_head": 8, "n_embd": 256}},
    "tokens split at random, 10 %": {"split": 0.1},
    "minGPT's recipe": {
        "discount": False,
        "ema_decay": None,
        "options": {"dropout": 0.1, "learning_rate": 5e-4},
        "preset": {"embd_init_std": 0.02, "embedding_weight_decay": 0.0, "weight_decay": 0.1},
        "model": {"tied_head": False},
    },
}


class SplitBlockDataset(BlockDataset):
    """Blocks in which tokens are split into the pair they were merged from, at random.

    A relative of BPE-dropout (Provilkov et al. 2020): each token above the bytes is undone with
    probability `rate`, and its parts again, so the model sees several spellings of a word.
    """

    def __init__(self, tokens, block_size, vocab_size, rate, seed):
        super().__init__(tokens, block_size, vocab_size)
        self.rate = rate
        self.generator = torch.Generator().manual_seed(seed)
        self.merges = torch.from_numpy(load_merges().astype("int64"))

    def batch(self, starts):
        x, y = super().batch(starts)
        rows = [self._split(row)[: x.shape[1] + 1] for row in torch.cat([x, y[:, -1:]], dim=1)]
        blocks = torch.stack(rows)
        return blocks[:, :-1], blocks[:, 1:]

    def _split(self, row):
        while True:
            undo = torch.rand(len(row), generator=self.generator) < self.rate
            undo &= (row >= 256) & (row < 256 + len(self.merges))
            if not undo.any():
                return row
            pairs = self.merges[(row - 256).clamp(0, len(self.merges) - 1)]
            both = torch.stack([torch.where(undo, pairs[:, 0], row), pairs[:, 1]], dim=1)
            keep = torch.stack([torch.ones_like(undo), undo], dim=1)
            row = both[keep]


def train(changes, seed, train_part, validation_part, num_bytes):
    """Evaluations [(iterations, validation bits per byte)] of one run."""
    args, given = example_gpt.parse_arguments(["--seed", str(seed), "--device", "cpu"])
    example_gpt.validate(args, given)
    vars(args).update(changes.get("options", {}))
    args.preset = args.preset | changes.get("preset", {})
    config = GPT.get_default_config()
    config.merge_from_dict(
        {
            "model_type": args.model,
            "vocab_size": args.encoder.vocab_size,
            "block_size": args.block_size,
            "tied_head": True,
            "embd_init_std": args.preset["embd_init_std"],
            "embd_pdrop": args.dropout,
            "resid_pdrop": args.dropout,
            "attn_pdrop": args.dropout,
        }
        | changes.get("model", {})
    )
    settings = example_gpt.training_settings(args)
    settings.eval_interval = 25
    if "ema_decay" in changes:
        settings.ema_decay = changes["ema_decay"]
    if "split" in changes:
        dataset = SplitBlockDataset(
            train_part, args.block_size, config.vocab_size, changes["split"], seed
        )
    else:
        dataset = BlockDataset(train_part, args.block_size, config.vocab_size)
    discount = None
    if changes.get("discount", True):
        discount = AbsoluteDiscount(train_part, spelling_groups(args.encoder))
    trainer = Trainer(
        settings,
        GPT(config, generator=torch.Generator().manual_seed(seed)),
        dataset,
        lambda model: bits_per_byte(
            model, train_part, validation_part, num_bytes, size=64, stride=32
        ),
        discount,
    )
    with tqdm(total=settings.max_iters, unit="it", leave=False, disable=None) as bar:
        trainer.set_callback("on_batch_end", lambda _: bar.update())
        trainer.run()
    return trainer.evaluations


def best(evaluations):
    return min(value for _, value in evaluations)


def write(content):
    with atomic_path(PATH) as path:
        path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def show(runs):
    print(f"{'variant':<40}{'validation bpb':>15}{'seeds':>7}{'worst - best':>14}")
    rows = {name: [best(run) for run in of_seed.values()] for name, of_seed in runs.items()}
    for name, values in sorted(rows.items(), key=lambda item: statistics.mean(item[1])):
        spread = f"{max(values) - min(values):14.4f}" if len(values) > 1 else ""
        print(f"{name:<40}{statistics.mean(values):>15.4f}{len(values):>7}{spread}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fresh", action="store_true", help="do not go on from earlier results")
    args = parser.parse_args()
    whole = load_book().train
    cut = int(len(whole) * (1 - VALIDATION_SHARE))
    train_part, validation_part = whole[:cut], whole[cut:]
    num_bytes = len(get_encoder().decode_bytes(validation_part.tolist()))
    runs = {}
    if PATH.exists() and not args.fresh:
        runs = json.loads(PATH.read_text())["validation_bits_per_byte_by_iteration"]
    content = {
        "seeds": SEEDS,
        "training_tokens": len(train_part),
        "validation_tokens": len(validation_part),
        "validation_bytes": num_bytes,
        "validation_bits_per_byte_by_iteration": runs,
    }

    def run(name, seed):
        of_seed = runs.setdefault(name, {})
        if str(seed) not in of_seed:
            of_seed[str(seed)] = train(VARIANTS[name], seed, train_part, validation_part, num_bytes)
            write(content)
            print(f"{name}, seed {seed}: {best(of_seed[str(seed)]):.4f}", flush=True)

    for name in VARIANTS:
        run(name, SEEDS[0])
    ranked = sorted(VARIANTS, key=lambda name: best(runs[name][str(SEEDS[0])]))
    finalists = [name for name in ranked if name != REFERENCE][:FINALISTS]
    for name in (REFERENCE, *finalists):
        for seed in SEEDS[1:]:
            run(name, seed)
    show(runs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
