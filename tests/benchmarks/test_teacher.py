"""tests/benchmarks/teacher.py: its targets and their gradient, and that it keeps working."""

import json

import pytest
import torch

from mingpt.bpe import get_encoder
from mingpt.data import load_book
from mingpt.ngram import KneserNey
from tests.benchmarks import teacher
from tests.benchmarks.teacher import LeaveOneOut, Teacher

TEXT = torch.randint(7, (60,), generator=torch.Generator().manual_seed(0))
PRIOR = torch.full((9,), 1 / 9, dtype=torch.float64)


def dense(row, prior):
    ids, p, left = row
    return (left * prior).index_add(0, torch.from_numpy(ids), torch.from_numpy(p))


def test_a_place_is_predicted_as_if_it_were_not_counted():
    """The text's last token: what n-grams of the text before it predict, with their discounts."""
    ngrams, before = LeaveOneOut(TEXT, PRIOR, 3), KneserNey(TEXT[:-1], PRIOR, 3)
    before._discounts = ngrams._discounts
    *_, last = ngrams.rows(TEXT)
    torch.testing.assert_close(dense(last, PRIOR), before.predict().exp())


def test_every_prediction_is_a_distribution():
    rows = [dense(row, PRIOR) for row in LeaveOneOut(TEXT, PRIOR, 3).rows(TEXT)]
    assert len(rows) == len(TEXT)
    assert all(float(row.min()) > 0 for row in rows)
    assert torch.stack(rows).sum(dim=1).tolist() == pytest.approx([1.0] * len(TEXT))


def test_the_loss_and_its_gradient_are_those_of_the_mixed_targets():
    tokens = load_book().train[:400]
    taught = Teacher(tokens, get_encoder(), 0.3, 3)
    taught.positions = torch.arange(5, 45)
    targets = tokens[taught.positions]
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(n, 4, generator=generator, dtype=torch.float64) for n in
                      (40, get_encoder().vocab_size))  # fmt: skip
    for name in ("prior", "share", "of_prior"):
        setattr(taught, name, getattr(taught, name).double())
    taught.rows = [(places, p.double(), left) for places, p, left in taught.rows]
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        of_seen, left = taught.predictions(taught.positions)
        wanted = 0.3 * left * taught.of_prior
        wanted[:, taught.seen] += 0.3 * of_seen
        share = taught.share[targets, None]
        wanted += share * taught.prior[taught.groups[targets]]
        wanted[torch.arange(40), targets] += 0.7 - share[:, 0]
        assert wanted.sum(dim=1).tolist() == pytest.approx([1.0] * 40, abs=1e-6)
        hidden.requires_grad_()
        weight.requires_grad_()
        expected = -(wanted * (hidden @ weight.T).log_softmax(dim=1)).sum(dim=1).mean()
        _, found = taught.losses(hidden, weight, targets)
    finally:
        torch.set_default_dtype(dtype)
    torch.testing.assert_close(found, expected)
    for a, b in zip(torch.autograd.grad(found, (hidden, weight)),
                    torch.autograd.grad(expected, (hidden, weight)), strict=True):  # fmt: skip
        torch.testing.assert_close(a, b)


def test_it_trains_and_writes(tmp_path, monkeypatch):
    book = load_book().train
    monkeypatch.setattr(teacher, "PATH", tmp_path / "ablation_teacher.json")
    monkeypatch.setattr(teacher, "load_book", lambda: book_of(book[:2000]))
    monkeypatch.setattr(teacher, "recipe_for", tiny_recipe)
    arguments = ["--shares", "0", "0.2", "--orders", "2", "--seeds", "5"]
    assert teacher.main(arguments) == 0
    assert teacher.main(["--shares", "0.2", "--orders", "2", "--seeds", "5"]) == 0
    rows = json.loads((tmp_path / "ablation_teacher.json").read_text(encoding="utf-8"))["rows"]
    assert [(r["share_of_the_teacher"], r["order"]) for r in rows] == [(0.0, 0), (0.2, 2)]
    assert all(2 < r["validation_bits_per_byte"] < 9 for r in rows)


def book_of(tokens):
    return type("Book", (), {"train": tokens})


def tiny_recipe(kind, **given):
    small = {"model_type": "gpt-nano", "max_iters": 3, "batch_size": 2}
    return RECIPE_FOR(kind, **given | small)


RECIPE_FOR = teacher.recipe_for
