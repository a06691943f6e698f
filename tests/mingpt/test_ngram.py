"""Kneser-Ney: distributions that are ones, the published formula, counts that grow."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch

from mingpt.bpe import get_encoder
from mingpt.ngram import KneserNey, folded_kinds, unseen_prior
from tests.mingpt.helpers import tokens

V = 7


def uniform(vocab_size=V):
    return torch.full((vocab_size,), 1 / vocab_size, dtype=torch.float64)


def text(length, seed=0, vocab_size=V):
    """A text with structure: the squares of uniform draws, so that low tokens are frequent."""
    draws = torch.rand(length, generator=torch.Generator().manual_seed(seed))
    return (draws**2 * vocab_size).long()


@pytest.mark.parametrize("order", [1, 2, 3, 5])
@pytest.mark.parametrize("length", [0, 1, 2, 50, 400])
def test_every_context_gives_a_distribution(order, length):
    model = KneserNey(text(length), uniform(), order)
    for context in itertools.product(range(V), repeat=order - 1):
        for token in context:
            model._move(token)
        p = model.predict().exp()
        assert abs(float(p.sum()) - 1) < 1e-9
        assert (p > 0).all()


def reference(counted, prior, order, history):
    """The definition, from lists of n-grams: p (V,) after the history."""
    words = counted.tolist()
    grams = Counter(tuple(words[i : i + order]) for i in range(len(words) - order + 1))
    # At the beginning of a text contexts are shorter: those n-grams were seen as they are.
    tables = {order: grams}
    for n in range(order - 1, 0, -1):
        tables[n] = Counter(gram[1:] for gram in tables[n + 1])
        tables[n][tuple(words[:n])] += 1
    p = prior
    for n in range(1, order + 1):
        count_of = Counter(tables[n].values())
        Y = count_of[1] / (count_of[1] + 2 * count_of[2])
        D = [0] + [c - (c + 1) * Y * count_of[c + 1] / count_of[c] for c in (1, 2, 3)]
        context = tuple(history[len(history) - n + 1 :])
        counts = np.array([tables[n][(*context, w)] for w in range(len(prior))])
        if counts.sum() == 0:
            break
        discounts = np.array([D[min(c, 3)] for c in counts])
        p = (counts - discounts) / counts.sum() + discounts.sum() / counts.sum() * p
    return p


def test_it_is_chen_and_goodmans_formula():
    """On a text whose bigrams and trigrams are counted once, twice, three and four times."""
    vocab_size = 90
    prior = torch.arange(1, vocab_size + 1, dtype=torch.float64)
    prior /= prior.sum()
    words = [0]
    for draw in text(700, vocab_size=9).tolist():
        words.append((3 * words[-1] + draw) % vocab_size)
    counted = torch.tensor(words)
    model = KneserNey(counted, prior, order=3)
    assert all(min(types[1:]) > 0 for types in model._types)
    assert model.matched == 2
    expected = reference(counted, prior.numpy(), 3, counted.tolist())
    assert model.predict().exp().numpy() == pytest.approx(expected, abs=1e-12)


def test_updates_equal_counting_all_at_once():
    whole = text(300)
    grown = KneserNey(whole[:100], uniform(), 4)
    for token in whole[100:].tolist():
        grown.update(token)
    assert torch.equal(grown.predict(), KneserNey(whole, uniform(), 4).predict())


def test_standing_still_it_follows_the_context_alone():
    still = KneserNey(text(200), uniform(), 3, adaptive=False)
    before = still.predict()
    for token in [*[3] * 50, *text(200)[-2:].tolist()]:
        still.update(token)
    assert torch.equal(still.predict(), before)


def test_an_empty_text_gives_the_prior():
    prior = torch.arange(1, V + 1, dtype=torch.float64) / 28
    assert torch.allclose(KneserNey(text(0), prior, 3).predict().exp(), prior, atol=1e-12)


def test_matched_is_the_longest_context_seen():
    model = KneserNey(torch.tensor([0, 1, 2, 3, 0, 1]), uniform(), order=4)
    assert model.matched == 2  # 0 1 was followed by 2; 3 0 1 by nothing yet
    model.update(5)
    assert model.matched == 0


def test_it_learns_a_repeated_text():
    period = tokens(50, vocab_size=V)
    model = KneserNey(period.repeat(4), uniform(), 5)
    assert float(model.predict()[period[0]].exp()) > 0.5


def test_kinds_share_contexts():
    kinds = torch.tensor([0, 0, 2, 3, 4, 5, 6])  # 0 and 1 are alike as contexts
    model = KneserNey(torch.tensor([0, 2] * 20), uniform(), 2, kinds)
    model.update(1)
    assert int(model.predict().argmax()) == 2


def test_the_prior_prefers_unseen_tokens_of_the_texts_spelling():
    encoder = get_encoder()
    ids = torch.tensor(encoder.encode(" the cat and the dog and a mouse"))
    prior = unseen_prior(ids, encoder)
    assert abs(float(prior.sum()) - 1) < 1e-9
    assert (prior > 0).all()
    lower, upper = (encoder.encode(word)[0] for word in (" house", " WARNING"))
    assert prior[lower] > 100 * prior[upper]


def test_folded_kinds_ignore_case_and_white_space():
    encoder = get_encoder()
    kinds = folded_kinds(encoder)
    assert len(kinds) == encoder.vocab_size
    of = {word: int(kinds[encoder.encode(word)[0]]) for word in (" The", "the", " cat", "\n", " ")}
    assert of[" The"] == of["the"] != of[" cat"]
    assert of["\n"] != of[" "]


@pytest.mark.parametrize(
    ("prior", "order", "kinds"),
    [
        (uniform() * 2, 3, None),
        (torch.zeros(V), 3, None),
        (uniform()[None], 3, None),
        (uniform(), 0, None),
        (uniform(), 3, torch.arange(V - 1)),
        (torch.full((V,), math.nan), 3, None),
    ],
)
def test_bad_arguments_are_refused(prior, order, kinds):
    with pytest.raises(ValueError, match=r"prior|order|kinds"):
        KneserNey(text(10), prior, order, kinds)
