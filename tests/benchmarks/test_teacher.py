"""tests/benchmarks/teacher.py: its targets and their gradient, and that it keeps working."""

import json

import pytest
import torch

from mingpt.data import load_book
from mingpt.ngram import KneserNey
from mingpt.vocabulary import BookVocabulary
from tests.benchmarks import teacher
from tests.benchmarks.teacher import LeaveOneOut, Teacher

TEXT = torch.randint(7, (60,), generator=torch.Generator().manual_seed(0))
PRIOR = torch.full((9,), 1 / 9, dtype=torch.float64)


def dense(ngrams, place):
    """The distribution (V,) at a place."""
    p = place.of_prior * PRIOR + place.of_single * torch.from_numpy(ngrams.single)
    return p.index_add(0, torch.from_numpy(place.ids), torch.from_numpy(place.probabilities))


@pytest.mark.parametrize("order", [1, 2, 3])
def test_a_place_is_predicted_as_if_it_were_not_counted(order):
    """The text's last token: what n-grams of the text before it predict, with their discounts."""
    ngrams, before = LeaveOneOut(TEXT, PRIOR, order), KneserNey(TEXT[:-1], PRIOR, order)
    before._discounts = ngrams._discounts
    *_, last = ngrams.places(TEXT)
    torch.testing.assert_close(dense(ngrams, last), before.predict().exp())


def test_every_prediction_is_a_distribution():
    ngrams = LeaveOneOut(TEXT, PRIOR, 3)
    rows = torch.stack([dense(ngrams, place) for place in ngrams.places(TEXT)])
    assert len(rows) == len(TEXT)
    assert float(rows.min()) > 0
    assert rows.sum(dim=1).tolist() == pytest.approx([1.0] * len(TEXT))


def test_the_loss_and_its_gradient_are_those_of_the_mixed_targets():
    tokens = load_book().train[:400]
    vocabulary = BookVocabulary.of(tokens)
    tokens = torch.tensor(vocabulary.from_gpt2(tokens.tolist()))
    taught = Teacher(tokens, vocabulary, 0.3, 3)
    taught.positions = torch.arange(5, 45)
    targets = tokens[taught.positions]
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (
        torch.randn(n, 4, generator=generator).requires_grad_()
        for n in (40, vocabulary.vocab_size)
    )
    wanted = 0.3 * taught.predictions(taught.positions)
    share = taught.share[targets, None]
    wanted += share * taught.prior[taught.groups[targets]]
    wanted[torch.arange(40), targets] += 0.7 - share[:, 0]
    assert wanted.sum(dim=1).tolist() == pytest.approx([1.0] * 40, abs=1e-5)
    expected = -(wanted * (hidden @ weight.T).log_softmax(dim=1)).sum(dim=1).mean()
    _, found = taught.losses(hidden, weight, targets)
    torch.testing.assert_close(found, expected)
    for a, b in zip(torch.autograd.grad(found, (hidden, weight)),
                    torch.autograd.grad(expected, (hidden, weight)), strict=True):  # fmt: skip
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_it_trains_and_writes(tmp_path, monkeypatch):
    book = load_book().train
    monkeypatch.setattr(teacher, "PATH", tmp_path / "ablation_teacher.json")
    monkeypatch.setattr(teacher, "load_book", lambda: book_of(book[:2000]))
    monkeypatch.setattr(teacher, "recipe_for", tiny_recipe)
    options = ["--orders", "2", "--seeds", "5", "--save", str(tmp_path)]
    assert teacher.main(["--shares", "0", "0.2", *options]) == 0
    assert teacher.main(["--shares", "0.2", *options]) == 0
    assert (tmp_path / "teacher_0.2.pt").exists()
    rows = json.loads((tmp_path / "ablation_teacher.json").read_text(encoding="utf-8"))["rows"]
    assert [(r["share_of_the_teacher"], r["order"]) for r in rows] == [(0.0, 0), (0.2, 2)]
    assert all(2 < r["validation_bits_per_byte"] < 9 for r in rows)


def book_of(tokens):
    return type("Book", (), {"train": tokens})


def tiny_recipe(kind, **given):
    small = {"model_type": "gpt-nano", "max_iters": 3, "batch_size": 2}
    return RECIPE_FOR(kind, **given | small)


RECIPE_FOR = teacher.recipe_for
