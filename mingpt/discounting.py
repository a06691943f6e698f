"""Room for tokens the training text never shows: absolute discounting as a training target.

A book of 38,000 tokens uses 3,700 of GPT-2's 50,257, yet 6.8 % of the tokens of its last
tenth do not occur in the nine before it. Maximum likelihood drives their probability towards
zero. Absolute discounting, the heart of Kneser-Ney smoothing (Ney, Essen & Kneser 1994), takes
D = n1 / (n1 + 2 n2) occurrences from every token type (n1, n2: number of types seen once,
twice) and gives them to the unseen ones. Here the target at a position whose token was seen
c times becomes (1 - D/c) on the token and D/c on unseen tokens of like spelling: rare words
mark the places where new words are to be expected.
"""

import re

import torch

from mingpt.tokens import token_tensor

ZIPF_OFFSET = 1000
_CASES = ("[a-z]+", "[A-Z][a-z]*", "[A-Z]+")


class AbsoluteDiscount:
    """Turns the cross-entropy of one-hot targets into that of discounted ones."""

    def __init__(self, tokens, groups):
        """tokens (N,) whole numbers, the training text; groups (V,) int64, the kind of every token.

        Within its group an unseen token weighs 1 / (id + 1000): ids of a byte-pair
        vocabulary ascend as frequency in the vocabulary's own corpus falls.
        """
        counts = torch.bincount(token_tensor(tokens), minlength=len(groups))
        once, twice = int((counts == 1).sum()), int((counts == 2).sum())
        self.discount = once / (once + 2 * twice) if once else 0.0
        unseen = (counts == 0) / (torch.arange(len(groups)) + ZIPF_OFFSET)
        rows = torch.stack([unseen * (groups == g) for g in range(int(groups.max()) + 1)])
        rows[rows.sum(dim=1) == 0] = unseen  # a group without unseen tokens: any of them
        total = rows.sum(dim=1, keepdim=True)
        self.prior = rows / total.clamp(min=torch.finfo(total.dtype).tiny)  # (G, V)
        self.share = self.discount / counts.clamp(min=1)  # (V,), D/c
        if not unseen.any():
            self.share.zero_()
        self.groups = groups

    def to(self, device):
        """Move the tables; returns self."""
        for name in ("prior", "share", "groups"):
            setattr(self, name, getattr(self, name).to(device))
        return self

    def penalty(self, hidden, weight, targets):
        """What to add to the mean cross-entropy of one-hot targets, a scalar in nats.

        hidden (N, C), weight (V, C), targets (N,) int64, -1 ignored. The normaliser cancels
        in the difference of the two targets, so no logits are needed beyond those of the
        target and of each group's prior, a mixture of rows of `weight`.
        """
        keep = targets != -1
        y = targets.clamp(min=0)
        with torch.autocast(hidden.device.type, enabled=False):
            of_target = torch.nn.functional.embedding(y, weight)
            of_prior = (self.prior @ weight)[self.groups[y]]
            gap = (hidden.float() * (of_target - of_prior)).sum(dim=1)
            return (self.share[y] * gap * keep).sum() / keep.sum()


def spelling_groups(encoder):
    """The kind of every token, (V,) int64: letter case (lower, Capital, UPPER, other) and
    whether it begins with a space, as 2 * case + space."""
    groups = []
    for token in range(encoder.vocab_size):
        text = encoder.decode([token])
        word = text.strip()
        case = next(
            (i for i, kind in enumerate(_CASES) if re.fullmatch(kind, word)), len(_CASES)
        )
        groups.append(2 * case + text.startswith(" "))
    return torch.tensor(groups)
