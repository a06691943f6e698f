"""Interpolated modified Kneser-Ney over tokens, whose counts may grow while it predicts.

Chen & Goodman 1999, "An empirical study of smoothing techniques for language modeling", section
3.3. With c(h w) the count of token w after the context h, and at the shorter contexts the number
of different tokens seen in front of h w,

    p(w | h) = max(c(h w) - D(c(h w)), 0) / c(h .) + gamma(h) p(w | h without its first token),

where gamma(h) is the share that the discounts D free, and D(1), D(2), D(3 and more) follow from
how many n-grams were seen once, twice, three and four times. The shortest context is the empty
one; what its discounts free goes to a given prior, which so decides about tokens never seen.
"""

import numpy as np
import torch

from mingpt.discounting import AbsoluteDiscount, spelling_groups
from mingpt.utils import check_integer

TINY = 1e-9  # of the prior, for every token


class _Context:
    """What followed one context: counts by token, their sum, and how many tokens have which count.

    by_count: the number of tokens counted once, twice, and three times or more.
    """

    __slots__ = ("by_count", "counts", "total")

    def __init__(self):
        self.counts = {}
        self.total = 0
        self.by_count = [0, 0, 0]

    def add(self, token):
        """Count the token; returns its count before."""
        before = self.counts.get(token, 0)
        self.counts[token] = before + 1
        self.total += 1
        if before < 3:
            self.by_count[before] += 1
            if before:
                self.by_count[before - 1] -= 1
        return before


class KneserNey:
    """Next-token distributions from the counts of a text, which grows with every `update`.

    A predictor (see mingpt/predictors.py).
    """

    def __init__(self, tokens, prior, order=5, kinds=None, adaptive=True):
        """Count a text.

        tokens (N,) int64, the text so far; prior (V,) positive, sums to 1; order: the longest
        n-gram, n >= 1; kinds (V,) int64: contexts tell tokens apart by these alone (None: all
        tokens are of their own kind); adaptive: whether `update` counts, or only moves on.
        Raises ValueError for another order, and for a prior or kinds that are none.
        """
        check_integer("order", order, at_least=1)
        prior = torch.as_tensor(prior, dtype=torch.float64)
        if prior.ndim != 1 or not (prior > 0).all() or abs(float(prior.sum()) - 1) > 1e-9:
            raise ValueError("a prior is a positive (V,) that sums to 1")
        if kinds is not None and kinds.shape != prior.shape:
            raise ValueError(f"{len(prior)} tokens need as many kinds, not {tuple(kinds.shape)}")
        self.order = order
        self._prior = prior.numpy()
        self._kinds = range(len(prior)) if kinds is None else kinds.tolist()
        self._followers = [{} for _ in range(order)]  # by the context's length: {context: _Context}
        self._types = [[0] * 5 for _ in range(order)]  # n-grams counted 1, 2, 3 and 4 times
        self._recent = ()
        for token in tokens.tolist():
            self._count(token)
            self._move(token)
        self._adaptive = adaptive

    @property
    def matched(self):
        """Length of the longest context seen before, 0 to order - 1."""
        lengths = range(len(self._recent), 0, -1)
        return next((n for n in lengths if self._context(n) in self._followers[n]), 0)

    def update(self, token):
        """The token follows."""
        if self._adaptive:
            self._count(token)
        self._move(token)

    def predict(self):
        """Log-probabilities of the next token, (V,) float64 nats."""
        p = self._prior
        for length in range(len(self._recent) + 1):
            follower = self._followers[length].get(self._context(length))
            if follower is None:
                break
            D = self._discounts(length)
            gamma = sum(d * n for d, n in zip(D[1:], follower.by_count, strict=True))
            p = p * (gamma / follower.total)
            n = len(follower.counts)
            seen = np.fromiter(follower.counts.keys(), np.int64, n)
            counts = np.fromiter(follower.counts.values(), np.int64, n)
            p[seen] += (counts - D[np.minimum(counts, 3)]) / follower.total
        return torch.from_numpy(p).log()

    def _context(self, length):
        return self._recent[len(self._recent) - length :]

    def _count(self, token):
        """Count the longest n-gram; the next shorter one only where the longer is a new one."""
        for length in range(len(self._recent), -1, -1):
            followers = self._followers[length]
            context = self._context(length)
            if context not in followers:
                followers[context] = _Context()
            before = followers[context].add(token)
            types = self._types[length]
            if before < 4:
                types[before + 1] += 1
            if 0 < before <= 4:
                types[before] -= 1
            if before:
                break

    def _move(self, token):
        recent = (*self._recent, self._kinds[token])
        self._recent = recent[max(0, len(recent) - self.order + 1) :]

    def _discounts(self, length):
        """D(0), D(1), D(2) and D(3 and more) of n-grams whose context has this length."""
        n = self._types[length]
        D = np.array([0.0, 0.5, 1.0, 1.5])  # of a text too short to estimate them
        if min(n[1:]) > 0:
            Y = n[1] / (n[1] + 2 * n[2])
            for c in (1, 2, 3):
                D[c] = min(max(c - (c + 1) * Y * n[c + 1] / n[c], 0.05), c)
        return D


def unseen_prior(tokens, encoder):
    """A prior (V,) float64 for `KneserNey`: how a text's tokens share out what they free.

    tokens (N,) int64, the text. As in `AbsoluteDiscount`, every kind of token that occurs frees
    its discount for tokens that do not: those of its spelling group, by their id.
    """
    groups = spelling_groups(encoder)
    occurs = torch.bincount(tokens, minlength=len(groups)) > 0
    types = torch.bincount(groups[occurs], minlength=int(groups.max()) + 1)
    prior = types.double() @ AbsoluteDiscount(tokens, groups).prior.double() + TINY
    return prior / prior.sum()


def folded_kinds(encoder):
    """Kinds (V,) int64 for `KneserNey`: tokens alike but for case and outer white space are one."""
    numbers = {}
    folded = []
    for token in range(encoder.vocab_size):
        text = encoder.decode([token])
        key = text.strip().lower() or text
        folded.append(numbers.setdefault(key, len(numbers)))
    return torch.tensor(folded)
