"""A simulated judge: a plain rule of the text, and Bradley-Terry noise on what it prefers.

A continuation earns a point for each of three things a told story has, and loses one for a word
that comes three times. The reward r is NATS_PER_POINT times the points, and the first of two texts
is preferred with probability sigmoid(r_1 - r_2) (Bradley and Terry 1952): with one point more a
text wins in 88 of 100 comparisons, as people agree in most but not in all.
"""

import re
from collections import Counter

import torch

NATS_PER_POINT = 2.0
CHARACTERS = (
    "Alice", "Rabbit", "Mouse", "Dodo", "Bill", "Caterpillar", "Duchess", "Cat", "Hatter", "Hare",
    "Dormouse", "Queen", "King", "Knave", "Gryphon", "Turtle", "Dinah",
)  # fmt: skip
SAID_OFTEN = 3  # a word that stands this often makes the text repetitive

_SPEECH = re.compile("`")  # opens a quotation in this edition of the book
_CHARACTER = re.compile(rf"\b({'|'.join(CHARACTERS)})\b")
_SENTENCE_END = re.compile(r"[.!?]")
_WORD = re.compile(r"[A-Za-z]+(?:'[A-Za-z]+)*")  # it's is one

RULE = {"someone speaks": 1, "a character is named": 1, "a sentence ends": 1, "repetitive": -1}


def traits(text):
    """Which parts of the RULE hold for a text: four bools."""
    counts = Counter(word.lower() for word in _WORD.findall(text))
    return (
        bool(_SPEECH.search(text)), bool(_CHARACTER.search(text)),
        bool(_SENTENCE_END.search(text)), max(counts.values(), default=0) >= SAID_OFTEN,
    )  # fmt: skip


def points(traits):
    """The points of traits (N, 4) bool: (N,) float32, from -1 to 3."""
    return traits.float() @ torch.tensor(list(RULE.values()), dtype=torch.float32)


def comparisons(rewards, generator):
    """A judgement of every pair of one prompt: rewards (B, K) -> (B, K (K - 1) / 2) of 0. and 1.

    In the order of itertools.combinations; 1 where the first was preferred.
    """
    first, second = torch.combinations(torch.arange(rewards.shape[1])).T
    chance = (rewards[:, first] - rewards[:, second]).sigmoid()
    return torch.bernoulli(chance, generator=generator)


def accuracy(scores, rewards):
    """How often the judge prefers, of each pair, the one with the higher score: (N,) chances.

    scores, rewards (N, 2). Taken from the judge's own probabilities, so no judgement is drawn; a
    tie of the scores counts one half, and one of the rewards is a coin whatever the scores say.
    """
    chance = (rewards[:, 0] - rewards[:, 1]).double().sigmoid()
    lead = (scores[:, 0] - scores[:, 1]).sign().double()
    return 0.5 + lead * (chance - 0.5)
