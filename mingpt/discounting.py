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
from torch.autograd.function import once_differentiable

from mingpt.loss import loss_and_gradients, product_dtype, scaled
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

    def losses(self, hidden, weight, targets):
        """The mean cross-entropy of one-hot targets, and that of discounted ones: scalars, nats.

        hidden (N, C), weight (V, C), targets (N,) int64, -1 ignored. Only the second has a
        gradient, once differentiable. Matrix products run in autocast's dtype.
        """
        keep = targets != -1
        if not keep.all():
            hidden, targets = hidden[keep], targets[keep]
        return _Discounted.apply(hidden, weight, targets, self, product_dtype(hidden))

    def add_gradients(self, hidden, weight, targets, grad_hidden, grad_weight):
        """What the discount adds to the mean of N targets (N,) int64, in nats; its gradients are
        added to grad_hidden (N, C) and grad_weight (V, C).

        The normaliser cancels in the difference of the two targets, so no logits are needed beyond
        those of the target and of each group's prior, a mixture of rows of `weight`.
        """
        groups = self.groups[targets]
        share = self.share[targets, None] / len(targets)
        shift = weight[targets] - (self.prior @ weight)[groups]  # (N, C)
        grad_hidden += share * shift
        moved = share * hidden
        grad_weight.index_add_(0, targets, moved)
        by_group = moved.new_zeros(len(self.prior), hidden.shape[1]).index_add_(0, groups, moved)
        grad_weight.addmm_(self.prior.T, by_group, alpha=-1)
        return (moved * shift).sum()


class _Discounted(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, targets, discount, dtype):
        loss, *gradients = loss_and_gradients(hidden, weight, targets, dtype)
        gradients = [g.to(of.dtype) for g, of in zip(gradients, (hidden, weight), strict=True)]
        with torch.autocast(hidden.device.type, enabled=False):
            added = discount.add_gradients(hidden.to(weight.dtype), weight, targets, *gradients)
        ctx.save_for_backward(*gradients)
        ctx.mark_non_differentiable(loss)
        return loss, loss + added

    @staticmethod
    @once_differentiable
    def backward(ctx, _, grad_output):
        of_hidden, of_weight = (scaled(g, grad_output) for g in ctx.saved_tensors)
        return of_hidden, of_weight, None, None, None


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
