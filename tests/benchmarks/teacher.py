"""Kneser-Ney as the GPT's teacher: `python -m tests.benchmarks.teacher`.

The default recipe gives every token's target a little of what an absolute discount frees, whatever
precedes it. Here a share of every target is the whole distribution that n-grams predict there, with
the position itself not counted. Everything is as in gpt_ablation.py: training on the first nine
tenths of the training part, bits per byte on its last tenth after the last iteration. Scored as
in question 1, and in windows of 32 as the compressor reads. `--shares`, `--orders` choose what is
trained; share 0 is the default recipe. Writes report/results/ablation_teacher.json after every run,
which takes five minutes of one core.
"""

from mingpt import startup

if __name__ == "__main__":
    startup.prepare("python -m tests.benchmarks.teacher")

import json
import sys
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from mingpt.bpe import get_encoder
from mingpt.data import BlockDataset, load_book
from mingpt.discounting import AbsoluteDiscount, spelling_groups
from mingpt.model import GPT
from mingpt.ngram import KneserNey, folded_kinds, unseen_prior
from mingpt.parser import Parser
from mingpt.recipe import recipe_for
from mingpt.scoring import bits_per_byte
from mingpt.trainer import Trainer
from mingpt.utils import write_json
from tests.benchmarks.gpt_ablation import VALIDATION_SHARE

PROG = "python -m tests.benchmarks.teacher"
PATH = Path(__file__).parents[2] / "report" / "results" / "ablation_teacher.json"
SEEDS, SHARES, ORDERS = (11,), (0.0, 0.2, 0.4), (3,)


class LeaveOneOut(KneserNey):
    """What the n-grams of a text predict at a place of it, as if the place were not counted."""

    def rows(self, tokens):
        """For each of tokens (N,) int64, the text itself: (ids, probabilities, share of the prior).

        ids of tokens seen (n,) and their probabilities (n,), float64, to be added up where an id
        comes twice; the rest is the prior's.
        """
        self._recent = ()
        for token in tokens.tolist():
            yield self._row(token)
            self._move(token)

    def _row(self, token):
        ids, values, left, counted_once = [], [], 1.0, True
        for length in range(len(self._recent), -1, -1):
            follower = self._followers[length][self._context(length)]
            seen = np.fromiter(follower.counts.keys(), np.int64, len(follower.counts))
            counts = np.fromiter(follower.counts.values(), np.int64, len(seen))
            if counted_once:  # shorter contexts count only what the longer one has seen once
                counts[seen == token] -= 1
                counted_once = follower.counts[token] == 1
            total = counts.sum()
            if total == 0:
                continue
            freed = self._discounts(length)[np.minimum(counts, 3)]
            ids.append(seen)
            values.append(left * (counts - freed) / total)
            left *= freed.sum() / total
        if not ids:
            return np.empty(0, np.int64), np.empty(0), left
        return np.concatenate(ids), np.concatenate(values), left


class Teacher(AbsoluteDiscount):
    """Targets of which a share is what the n-grams predict, the rest as the discount has them."""

    def __init__(self, tokens, encoder, share, order):
        super().__init__(tokens, spelling_groups(encoder))
        self.share *= 1 - share
        prior = unseen_prior(tokens, encoder)
        ngrams = LeaveOneOut(tokens, prior, order, folded_kinds(encoder))
        self.taught, self.of_prior = share, prior.float()
        self.seen = tokens.unique()  # (n,)
        place = {token: i for i, token in enumerate(self.seen.tolist())}
        self.rows = [
            (torch.tensor([place[i] for i in ids.tolist()]), torch.from_numpy(p).float(), left)
            for ids, p, left in tqdm(ngrams.rows(tokens), total=len(tokens), disable=None)
        ]
        self.positions = None  # (N,), of the targets to come

    def predictions(self, positions):
        """What the n-grams predict there: for tokens seen (N, n), and the prior's share (N, 1)."""
        rows = [self.rows[i] for i in positions.tolist()]
        of_seen = torch.zeros(len(rows), len(self.seen))
        for row, (ids, p, _) in zip(of_seen, rows, strict=True):
            row.index_add_(0, ids, p)
        return of_seen, torch.tensor([[left] for _, _, left in rows])

    def add_gradients(self, hidden, weight, targets, grad_hidden, grad_weight):
        added = super().add_gradients(hidden, weight, targets, grad_hidden, grad_weight)
        of_seen, left = self.predictions(self.positions)
        share = self.taught / len(targets)
        expected = of_seen @ weight[self.seen] + left * (self.of_prior @ weight)
        shift = share * (weight[targets] - expected)
        grad_hidden += shift
        moved = share * hidden
        grad_weight.index_add_(0, targets, moved)
        grad_weight.index_add_(0, self.seen, -(of_seen.T @ moved))
        grad_weight.addr_(self.of_prior, (left * moved).sum(dim=0), alpha=-1)
        return added + (hidden * shift).sum()


class TaughtBlocks(BlockDataset):
    """Blocks that tell the teacher where they come from."""

    def __init__(self, tokens, block_size, vocab_size, teacher):
        super().__init__(tokens, block_size, vocab_size)
        self.teacher = teacher

    def batch(self, starts):
        places = torch.as_tensor(starts)[:, None] + torch.arange(1, self.block_size + 1)
        self.teacher.positions = places.flatten()
        return super().batch(starts)


def train(share, order, seed, tokens, evaluate):
    """The default recipe's GPT of tokens (N,) int64 with a teacher; order None is without one."""
    encoder = get_encoder()
    recipe = recipe_for("cpu", model_type="gpt-mini", objective="discounted", seed=seed)
    model = GPT(
        recipe.model_config(encoder.vocab_size), generator=torch.Generator().manual_seed(seed)
    )
    sizes = recipe.block_size, encoder.vocab_size
    if share == 0:
        discount, dataset = recipe.discount(tokens, encoder), BlockDataset(tokens, *sizes)
    else:
        discount = Teacher(tokens, encoder, share, order)
        dataset = TaughtBlocks(tokens, *sizes, discount)
    settings = recipe.trainer_settings(device="cpu", precision="auto")
    trainer = Trainer(settings, model, dataset, evaluate, discount)
    with tqdm(total=settings.max_iters, unit="it", leave=False, disable=None) as bar:
        trainer.set_callback("on_batch_end", lambda _: bar.update())
        trainer.run()
    return model.eval(), trainer.evaluations


def main(argv=None):
    """Train and measure; returns the exit code."""
    return startup.conclude(PROG, lambda: _compare(argv))


def _compare(argv):
    parser = Parser(PROG, description=__doc__.splitlines()[0])
    parser.add_argument("--shares", nargs="+", type=float, default=SHARES)
    parser.add_argument("--orders", nargs="+", type=int, default=ORDERS)
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    args = parser.parse_args(argv)
    whole = load_book().train
    cut = int(len(whole) * (1 - VALIDATION_SHARE))
    tokens, validation = whole[:cut], whole[cut:]
    num_bytes = len(get_encoder().decode_bytes(validation.tolist()))

    def evaluate(model, size=64, stride=32):
        return bits_per_byte(model, tokens, validation, num_bytes, size=size, stride=stride)

    for seed in args.seeds:
        for share in args.shares:
            for order in args.orders if share else (0,):
                model, evaluations = train(share, order, seed, tokens, evaluate)
                row = {
                    "seed": seed, "share_of_the_teacher": share, "order": order,
                    "validation_bits_per_byte": evaluations[-1][1],
                    "the_same_in_windows_of_32": evaluate(model, 32, 16),
                    "validation_bits_per_byte_by_iteration": evaluations,
                }  # fmt: skip
                write(row, len(validation), num_bytes)
                print(*list(row.items())[:5], flush=True)


def write(row, tokens, num_bytes):
    """Put a row into the results, in the place of one of the same setting."""
    rows = json.loads(PATH.read_text(encoding="utf-8"))["rows"] if PATH.exists() else []
    setting = ("seed", "share_of_the_teacher", "order")
    rows = [r for r in rows if any(r[name] != row[name] for name in setting)] + [row]
    write_json(PATH, {"validation_tokens": tokens, "validation_bytes": num_bytes, "rows": rows})


if __name__ == "__main__":
    sys.exit(main())
