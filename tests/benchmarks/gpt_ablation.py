"""What each part of the Part 2 recipe is worth: `python -m tests.benchmarks.gpt_ablation`.

Every variant changes one thing in the default recipe of `example_gpt.py`. The held-out part of the
book is not touched: models train on the first nine tenths of the training part and are scored on
its last tenth, the validation text, in bits per byte after the last iteration. The weights of the
default run are also scored without their average. Names choose variants, `--seeds` the seeds (with
`--seeds 11 12` the names run with 11, then with 12). Writes report/results/ablation_gpt.json after
every run; rows of variants and seeds that were not asked for stay, and those it holds are not run
again, unless they are of another rule of averaging. A run takes two to eight minutes.
"""

from __future__ import annotations

from mingpt import startup

if __name__ == "__main__":
    startup.prepare("python -m tests.benchmarks.gpt_ablation")

import json
import statistics
import sys
from pathlib import Path

import torch
from tqdm import tqdm

from mingpt.bpe import get_encoder
from mingpt.data import BlockDataset, load_book
from mingpt.merges import load_merges
from mingpt.model import GPT
from mingpt.parser import Parser
from mingpt.recipe import recipe_for
from mingpt.scoring import bits_per_byte
from mingpt.trainer import Trainer
from mingpt.utils import write_json

PROG = "python -m tests.benchmarks.gpt_ablation"
PATH = Path(__file__).parents[2] / "report" / "results" / "ablation_gpt.json"
SEED = 11
REFERENCE, NOT_AVERAGED = "the default recipe", "no average of weights"
VALIDATION_SHARE = 0.1
AVERAGING = "mean of all weights, then a moving average over a third of the iterations"

# Name -> changes of the recipe, of the model's sizes, or of the data.
VARIANTS = {
    REFERENCE: {},
    "no discount of seen tokens": {"recipe": {"objective": "cross-entropy"}},
    "embeddings start at std 0.02": {"recipe": {"embd_init_std": 0.02}},
    "embeddings do not decay": {"recipe": {"embedding_weight_decay": 0.0}},
    "weight decay 0.1": {"recipe": {"weight_decay": 0.1}},
    "dropout 0.1": {"recipe": {"dropout": 0.1}},
    "average over a sixth": {"recipe": {"averaged_share": 1 / 6}},
    "4 layers x 192": {"model": {"model_type": None, "n_layer": 4, "n_head": 6, "n_embd": 192}},
    "6 layers x 256": {"model": {"model_type": None, "n_layer": 6, "n_head": 8, "n_embd": 256}},
    "tokens split at random, 10 %": {"split": 0.1},
    "minGPT's recipe": {
        "recipe": {
            "objective": "cross-entropy", "averaged_share": None, "dropout": 0.1,
            "learning_rate": 5e-4, "embd_init_std": 0.02, "embedding_weight_decay": 0.0,
            "weight_decay": 0.1, "tied_head": False,
        },
    },
}  # fmt: skip


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
    """Evaluations [(iterations, validation bits per byte)] of one run, and the value of the last
    iteration's own weights, which the average has no part in."""
    settings = {"model_type": "gpt-mini", "objective": "discounted", "seed": seed}
    recipe = recipe_for("cpu", **settings | changes.get("recipe", {}))
    config = recipe.model_config(get_encoder().vocab_size)
    config.merge_from_dict(changes.get("model", {}))
    training = recipe.trainer_settings(device="cpu", precision="auto")
    training.eval_interval = 50
    if "split" in changes:
        dataset = SplitBlockDataset(
            train_part, recipe.block_size, config.vocab_size, changes["split"], seed
        )
    else:
        dataset = BlockDataset(train_part, recipe.block_size, config.vocab_size)
    def evaluate(model):
        return bits_per_byte(model, train_part, validation_part, num_bytes, size=64, stride=32)

    model = GPT(config, generator=torch.Generator().manual_seed(seed))
    discount = recipe.discount(train_part, get_encoder())
    trainer = Trainer(training, model, dataset, evaluate, discount)
    not_averaged = []

    def at_evaluation(trainer):
        if trainer.iter_num == training.max_iters:
            not_averaged.append(evaluate(trainer.model))

    trainer.set_callback("on_evaluation", at_evaluation)
    with tqdm(total=training.max_iters, unit="it", leave=False, disable=None) as bar:
        trainer.set_callback("on_batch_end", lambda _: bar.update())
        trainer.run()
    return trainer.evaluations, not_averaged[0]


def final(evaluations):
    """The value after the last iteration."""
    return evaluations[-1][1]


def write(content):
    write_json(PATH, content)


def show(runs):
    print(f"{'variant':<40}{'validation bpb':>15}{'seeds':>7}{'worst - best':>14}")
    rows = {name: [final(run) for run in of_seed.values()] for name, of_seed in runs.items()}
    for name, values in sorted(rows.items(), key=lambda item: statistics.mean(item[1])):
        spread = f"{max(values) - min(values):14.4f}" if len(values) > 1 else ""
        print(f"{name:<40}{statistics.mean(values):>15.4f}{len(values):>7}{spread}")


def main(argv=None):
    """Train and measure variants; returns the exit code."""
    return startup.conclude(PROG, lambda: _compare(argv))


def _compare(argv):
    parser = Parser(PROG, description=__doc__.splitlines()[0])
    parser.add_argument("variants", nargs="*", metavar="VARIANT", help="; ".join(VARIANTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[SEED])
    args = parser.parse_args(argv)
    if unknown := set(args.variants) - set(VARIANTS):
        raise ValueError(f"no variant {min(unknown)!r}; there are: {'; '.join(VARIANTS)}")
    whole = load_book().train
    cut = int(len(whole) * (1 - VALIDATION_SHARE))
    train_part, validation_part = whole[:cut], whole[cut:]
    num_bytes = len(get_encoder().decode_bytes(validation_part.tolist()))
    runs = {}
    if PATH.exists():
        earlier = json.loads(PATH.read_text(encoding="utf-8"))
        if earlier["averaging"] == AVERAGING:
            runs = earlier["validation_bits_per_byte_by_iteration"]
    content = {
        "averaging": AVERAGING,
        "training_tokens": len(train_part),
        "validation_tokens": len(validation_part),
        "validation_bytes": num_bytes,
        "validation_bits_per_byte_by_iteration": runs,
    }
    for seed in args.seeds:
        for name in args.variants or VARIANTS:
            of_seed = runs.setdefault(name, {})
            if str(seed) in of_seed:
                continue
            evaluations, not_averaged = train(
                VARIANTS[name], seed, train_part, validation_part, num_bytes
            )
            of_seed[str(seed)] = evaluations
            if name == REFERENCE:
                last, _ = evaluations[-1]
                runs.setdefault(NOT_AVERAGED, {})[str(seed)] = [(last, not_averaged)]
            write(content)
            print(f"{name}, seed {seed}: {final(evaluations):.4f}", flush=True)
    show(runs)


if __name__ == "__main__":
    sys.exit(main())
