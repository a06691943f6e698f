"""Several predictors as one: a mixture whose weights learn, and the two that `coding` offers.

All numbers here were chosen on the last tenth of the training part, with a GPT trained on the nine
before it; report/results/ablation_compression.json holds what else was tried.
"""

import torch

from mingpt.ngram import KneserNey, folded_kinds, unseen_prior
from mingpt.predictors import SEGMENT, WINDOW, DynamicGPT, InThread, Neighbours, StaticGPT
from mingpt.utils import check_number

ORDER = 5  # of the n-grams
STATIC_WEIGHTS = {"gpt": 0.42, "ngram": 0.39, "neighbours": 0.19}
ADAPTIVE_WEIGHTS = {"gpt": 0.45, "ngram": 0.35, "neighbours": 0.20}  # to begin with
RATE = 0.02
NEVER = -1e3  # nats, of a weight that is zero


class Mixture:
    """A weighted mean of predictors whose weights, one set a context, move towards who was right.

    After each token the weights w_k of its context become (1 - rate) w_k + rate times the
    posterior w_k p_k / p, a step of the stochastic EM algorithm. rate 0 keeps them.
    """

    def __init__(self, members, weights, rate=0.02, context=None, contexts=1):
        """members: predictors; weights (K,) positive, to begin with; context: a function that
        gives the number of the next token's context, 0 to contexts - 1 (None: always 0).
        Raises ValueError for weights or a rate that are none."""
        weights = torch.as_tensor(weights, dtype=torch.float64)
        if weights.shape != (len(members),) or not (weights >= 0).all() or not weights.sum() > 0:
            raise ValueError(f"{len(members)} members need as many weights, none negative")
        check_number("rate", rate, at_least=0, below=1)
        self.members, self.rate = members, rate
        self.weights = (weights / weights.sum()).repeat(contexts, 1)  # (contexts, K)
        self._context = context or (lambda: 0)

    def predict(self):
        """Log-probabilities of the next token, (V,) float64 nats."""
        self._by_member = torch.stack([member.predict() for member in self.members])  # (K, V)
        return (self.weights[self._context()] @ self._by_member.exp()).log()

    def update(self, token):
        """The token follows; it was predicted before."""
        weights = self.weights[self._context()]
        posterior = (self._by_member[:, token] + weights.log().clamp(min=NEVER)).softmax(dim=0)
        weights.lerp_(posterior, self.rate)
        for member in self.members:
            member.update(token)


def members(model, encoder, tokens, adaptive, names=tuple(ADAPTIVE_WEIGHTS)):
    """The predictors of these names, dict, primed with tokens (N,) int64.

    adaptive: whether they learn from what follows. Where there are several, the GPT computes in a
    thread beside the others. Raises ValueError for fewer tokens than a window of the GPT takes.
    """
    window = min(WINDOW, model.block_size)
    windows = {"window": window, "segment": min(SEGMENT, max(1, window // 2))}
    if len(tokens) <= window:
        raise ValueError(f"the primer should hold more than {window} tokens, not {len(tokens)}")
    build = {
        "gpt": lambda: (DynamicGPT if adaptive else StaticGPT)(model, tokens, **windows),
        "ngram": lambda: KneserNey(
            tokens, unseen_prior(tokens, encoder), ORDER, folded_kinds(encoder), adaptive
        ),
        "neighbours": lambda: Neighbours(model, tokens, adaptive=adaptive, **windows),
    }
    found = {name: build[name]() for name in names}
    if len(names) > 1 and "gpt" in names:
        found["gpt"] = InThread(found["gpt"])
    return found


def static_mixture(model, encoder, tokens):
    """The GPT, the n-grams and the neighbours of the tokens (N,) int64; none of them learns."""
    parts = members(model, encoder, tokens, adaptive=False)
    return Mixture([*parts.values()], [STATIC_WEIGHTS[name] for name in parts], rate=0)


def adaptive_mixture(model, encoder, tokens, names=tuple(ADAPTIVE_WEIGHTS)):
    """The same, or those of these names, learning from every token that follows.

    The weights depend on the length of the longest context that the n-grams know.
    """
    parts = members(model, encoder, tokens, adaptive=True, names=names)
    ngram = parts.get("ngram")
    return Mixture(
        [*parts.values()], [ADAPTIVE_WEIGHTS[name] for name in parts], RATE,
        context=ngram and (lambda: ngram.matched), contexts=ORDER,
    )  # fmt: skip


METHODS = {"static": static_mixture, "adaptive": adaptive_mixture}
