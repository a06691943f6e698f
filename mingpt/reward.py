"""A reward model: a GPT with a scalar head, learnt from which of two texts a judge preferred.

Under Bradley and Terry's model (1952) the first is preferred with probability sigmoid(r_1 - r_2),
so the loss of a comparison is a cross-entropy. The K texts of a prompt make K (K - 1) / 2
comparisons, which share their forward passes (Ouyang et al. 2022).
"""

import copy
import math
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from mingpt.modes import evaluating
from mingpt.progress import bar
from mingpt.utils import drawing_from, seeded

CHUNK = 256  # sequences that are scored at once


class RewardModel(nn.Module):
    """r(x, y) in nats of a preference's log-odds: a linear head on the hidden states of a GPT.

    The head sees the last hidden state of the continuation, and the mean and the largest of all.
    Dropout is off, and the token embedding keeps its weights.
    """

    def __init__(self, gpt, start):
        """gpt: is copied; start: tokens of a prompt, after which the continuation begins."""
        super().__init__()
        self.gpt, self.start = copy.deepcopy(gpt).eval(), start
        self.gpt.transformer.wte.weight.requires_grad_(False)
        with drawing_from(torch.Generator()):  # leaves the global one as it is
            self.head = nn.Linear(3 * gpt.transformer.wte.weight.shape[1], 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, idx):
        """idx (N, T + L) int64 -> (N,)."""
        x = self.gpt.hidden_states(idx)[:, self.start :]  # (N, L, C)
        pooled = torch.cat([x[:, -1], x.mean(dim=1), x.amax(dim=1)], dim=1)
        return self.head(pooled)[:, 0]

    def score(self, idx):
        """`forward` in chunks and without gradients."""
        with evaluating(self):
            return torch.cat([self(part) for part in idx.split(CHUNK)])


def comparison_loss(scores, preferred):
    """Bradley-Terry cross-entropy in nats: scores (B, K), preferred as of `judge.comparisons`."""
    first, second = torch.combinations(torch.arange(scores.shape[1])).T
    return F.binary_cross_entropy_with_logits(scores[:, first] - scores[:, second], preferred)


class Fit(NamedTuple):
    """How the fit went, in nats a comparison."""

    losses: list  # of every update
    validation: list  # pairs (update, loss)
    kept: int  # the update whose weights were kept


def fit(model, idx, preferred, validation, *, learning_rate=6e-4, batch=16, every=16, seed=0):
    """Learn from comparisons in one pass over the prompts; the weights best in validation stay.

    idx (B, K, T + L) int64, preferred (B, K (K - 1) / 2); validation: the same two of other
    prompts. AdamW with three times the rate for the head, falling along a cosine. Returns a Fit.
    """
    head = set(model.head.parameters())
    body = [p for p in model.parameters() if p.requires_grad and p not in head]
    optimizer = torch.optim.AdamW(
        [{"params": body}, {"params": list(head), "lr": 3 * learning_rate}], lr=learning_rate,
        betas=(0.9, 0.99),
    )  # fmt: skip
    order = torch.randperm(len(idx), generator=seeded(seed))
    batches = order.split(batch)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda i: min(1, (i + 1) / 10) * (1 + math.cos(math.pi * i / len(batches))) / 2
    )
    losses, checks, best = [], [], (math.inf, 0, None)
    for number, rows in enumerate(bar(batches, desc="reward model"), 1):
        with evaluating(model, gradients=True):
            scores = model(idx[rows].flatten(0, 1)).view(len(rows), -1)
            loss = comparison_loss(scores, preferred[rows])
            optimizer.zero_grad()
            loss.backward()
        nn.utils.clip_grad_norm_([*body, *head], 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if number % every == 0 or number == len(batches):
            scores = model.score(validation[0].flatten(0, 1)).view(len(validation[0]), -1)
            checks.append((number, comparison_loss(scores, validation[1]).item()))
            if checks[-1][1] < best[0]:
                best = checks[-1][1], number, copy.deepcopy(model.state_dict())
    model.load_state_dict(best[2])
    return Fit(losses, checks, best[1])
