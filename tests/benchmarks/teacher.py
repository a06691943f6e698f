"""Kneser-Ney as the GPT's teacher: `python -m tests.benchmarks.teacher`.

The default recipe gives every token's target a little of what an absolute discount frees, whatever
precedes it. Here a share of every target is the whole distribution that n-grams predict there, with
the place itself not counted. Trained are models of the book's small vocabulary, otherwise by the
default recipe, on the first nine tenths of the training part; the bits per byte are of its last
tenth, after the last iteration, scored as in question 1 and in windows of 32 as the compressor
reads. `--shares` and `--orders` choose what is trained; share 0 has no teacher. Writes
report/results/ablation_teacher.json after every run, which takes two to three minutes of one core.
"""

from mingpt import startup

if __name__ == "__main__":
    startup.prepare("python -m tests.benchmarks.teacher")

import json
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

import mingpt
from mingpt.bpe import get_encoder
from mingpt.data import BlockDataset, load_book, split_text
from mingpt.discounting import AbsoluteDiscount, spelling_groups
from mingpt.model import GPT
from mingpt.ngram import KneserNey, folded_kinds, unseen_prior
from mingpt.parser import Parser
from mingpt.recipe import recipe_for
from mingpt.scoring import bits_per_byte
from mingpt.trainer import Trainer
from mingpt.utils import write_json
from mingpt.vocabulary import BookVocabulary

PROG = "python -m tests.benchmarks.teacher"
PATH = Path(__file__).parents[2] / "report" / "results" / "ablation_teacher.json"
SEEDS, SHARES, ORDERS = (11,), (0.0, 0.3), (3,)


class Place(NamedTuple):
    """What n-grams predict at a place: the sum of what three parts give."""

    ids: np.ndarray  # (n,) tokens, of which one may come twice
    probabilities: np.ndarray  # (n,), to be added up
    of_single: float  # times the vector of LeaveOneOut.single
    of_prior: float  # times the prior


class LeaveOneOut(KneserNey):
    """What the n-grams of a text predict at a place of it, as if the place were not counted."""

    def places(self, tokens):
        """A Place for each of tokens (N,) int64, the text itself."""
        without_context = self._followers[0][()]
        self.single = np.zeros(len(self._prior))  # discounted counts without a context
        self._single_counts = np.zeros(len(self._prior), np.int64)
        for token, count in without_context.counts.items():
            self._single_counts[token] = count
        self.single = self._single_counts - self._discount(self._single_counts, 0)
        self._freed = self._discount(self._single_counts, 0).sum()
        self._recent = ()
        for token in tokens.tolist():
            yield self._place(token)
            self._move(token)

    def _discount(self, counts, length):
        return self._discounts(length)[np.minimum(counts, 3)]

    def _place(self, token):
        ids, values, left, counted_once = [], [], 1.0, True
        for length in range(len(self._recent), 0, -1):
            follower = self._followers[length][self._context(length)]
            seen = np.fromiter(follower.counts.keys(), np.int64, len(follower.counts))
            counts = np.fromiter(follower.counts.values(), np.int64, len(seen))
            if counted_once:  # shorter contexts count only what the longer one has seen once
                counts[seen == token] -= 1
                counted_once = follower.counts[token] == 1
            if (total := counts.sum()) == 0:
                continue
            freed = self._discount(counts, length)
            ids.append(seen)
            values.append(left * (counts - freed) / total)
            left *= freed.sum() / total
        scale, freed = left / self._single_counts.sum(), self._freed
        if counted_once:
            scale = left / (self._single_counts.sum() - 1)
            count = self._single_counts[token]
            less = self._discount(np.array([count - 1, count]), 0)
            freed += less[0] - less[1]
            ids.append(np.array([token]))
            values.append(scale * np.array([(count - 1 - less[0]) - (count - less[1])]))
        return Place(
            np.concatenate([*ids, np.empty(0, np.int64)]), np.concatenate([*values, np.empty(0)]),
            scale, scale * freed,
        )  # fmt: skip


class Teacher(AbsoluteDiscount):
    """Targets of which a share is what the n-grams predict, the rest as the discount has them."""

    def __init__(self, tokens, encoder, share, order):
        super().__init__(tokens, spelling_groups(encoder))
        self.share *= 1 - share
        prior = unseen_prior(tokens, encoder)
        ngrams = LeaveOneOut(tokens, prior, order, folded_kinds(encoder))
        self.places = list(ngrams.places(tokens))
        self.taught, self.of_prior = share, prior.to(self.prior.dtype)
        self.of_single = torch.from_numpy(ngrams.single).to(self.prior.dtype)
        self.positions = None  # (N,), of the targets to come

    def predictions(self, positions):
        """What the n-grams predict there, (N, V)."""
        places = [self.places[i] for i in positions.tolist()]
        of_single, of_prior = (
            torch.tensor([place[i] for place in places], dtype=self.of_prior.dtype) for i in (2, 3)
        )
        rows = torch.outer(of_prior, self.of_prior).addr_(of_single, self.of_single)
        number = torch.arange(len(places)).repeat_interleave(
            torch.tensor([len(place.ids) for place in places])
        )
        ids, p = (torch.from_numpy(np.concatenate([place[i] for place in places])) for i in (0, 1))
        return rows.index_put_((number, ids), p.to(rows.dtype), accumulate=True)

    def add_gradients(self, hidden, weight, targets, grad_hidden, grad_weight):
        added = super().add_gradients(hidden, weight, targets, grad_hidden, grad_weight)
        wanted, share = self.predictions(self.positions), self.taught / len(targets)
        shift = share * (weight[targets] - wanted @ weight)
        grad_hidden += shift
        moved = share * hidden
        grad_weight.index_add_(0, targets, moved)
        grad_weight.addmm_(wanted.T, moved, alpha=-1)
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


def train(share, order, seed, tokens, encoder, evaluate):
    """The default recipe's GPT of tokens (N,) int64, after its last iteration, with a teacher."""
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
    parser.add_argument("--save", type=Path, default=Path("runs"), help="folder of the models")
    args = parser.parse_args(argv)
    parts = split_text(get_encoder().decode(load_book().train.tolist()))
    num_bytes = len(parts[1].encode("utf-8"))
    encoder = BookVocabulary.of(torch.tensor(get_encoder().encode(parts[0])))
    tokens, validation = (torch.tensor(encoder.encode(part)) for part in parts)

    def evaluate(model, size=64, stride=32):
        return bits_per_byte(model, tokens, validation, num_bytes, size=size, stride=stride)

    for seed in args.seeds:
        for share in args.shares:
            for order in args.orders if share else (0,):
                model, evaluations = train(share, order, seed, tokens, encoder, evaluate)
                row = {
                    "seed": seed, "share_of_the_teacher": share, "order": order,
                    "validation_bits_per_byte": evaluations[-1][1],
                    "the_same_in_windows_of_32": evaluate(model, 32, 16),
                    "validation_bits_per_byte_by_iteration": evaluations,
                }  # fmt: skip
                write(row, encoder.vocab_size, num_bytes)
                mingpt.save(model, args.save / f"teacher_{share:g}.pt", vocabulary=encoder.ids)
                print(*list(row.items())[:5], flush=True)


def write(row, vocabulary, num_bytes):
    """Put a row into the results, in the place of one of the same setting."""
    rows = json.loads(PATH.read_text(encoding="utf-8"))["rows"] if PATH.exists() else []
    setting = ("seed", "share_of_the_teacher", "order")
    rows = [r for r in rows if any(r[name] != row[name] for name in setting)] + [row]
    write_json(PATH, {"vocabulary_tokens": vocabulary, "validation_bytes": num_bytes, "rows": rows})


if __name__ == "__main__":
    sys.exit(main())
