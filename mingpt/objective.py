"""What a Trainer's step minimises: the loss of a batch's parts, weighted by their targets."""

import torch
from torch import nn

from mingpt import fast
from mingpt.loss import linear_cross_entropy
from mingpt.model_arguments import check_length, check_targets, check_tokens
from mingpt.pristine import pristine


def parts_of(x, y, share, steps):
    """What one process computes of a global batch, in so many parts.

    x, y (B, T); share: the slice of B that is the process's. Returns a list of (x, y, the part's
    share of all targets that count), [] where every target of the batch is -1.
    """
    total = _counted(y)
    if total == 0:
        return []
    parts = []
    for part_x, part_y in zip(x[share].chunk(steps), y[share].chunk(steps), strict=True):
        counted = _counted(part_y)
        if counted == 0:  # any targets, with the weight 0: a mean over none is not a number
            part_y = part_y.new_zeros(part_y.shape)
        parts.append((part_x, part_y, counted / total))
    return parts


def _counted(targets):
    """How many targets are not -1."""
    return int((targets.long() != -1).sum())


class Objective(nn.Module):
    """A batch's cross-entropy, and what training minimises: the same, discounted.

    Any module that returns (logits, loss) for (x, y) will do, as in minGPT; our GPT's loss
    comes from the hidden states without all logits, where no hook or head asks for them. A
    discount takes that.
    """

    def __init__(self, model, discount, compiled):
        super().__init__()
        self.model = model
        self.discount = discount
        self.call = model.__call__
        self.hidden_states = lambda x: fast.hidden_states(model, fast.embed_to_train(model, x))
        if compiled:  # functions, not modules: no new keys
            self.call = torch.compile(self.call)
            self.hidden_states = torch.compile(
                lambda x: fast.hidden_states(model, model.embed(x))
            )

    def forward(self, x, y):
        as_built = pristine(self.model)
        if self.discount is None and not as_built:
            _, loss = self.call(x, y)
            return loss.detach(), loss
        if as_built:
            check_length(x, self.model.block_size)
            check_tokens(x, len(self.model.transformer.wte.weight))
        check_targets(y, x.shape, len(self.model.lm_head.weight))
        hidden_states = self.hidden_states if as_built else self.model.hidden_states
        hidden, targets = hidden_states(x).flatten(0, 1), y.flatten().long()
        weight = self.model.lm_head.weight
        if self.discount is not None:
            return self.discount.losses(hidden, weight, targets)
        loss = linear_cross_entropy(hidden, weight, targets)
        return loss.detach(), loss
