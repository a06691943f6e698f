"""What the compressor's settings were chosen by: `python -m tests.benchmarks.compression_ablation`.

The held-out part of the book is not touched: a GPT is trained by the default recipe on the first
nine tenths of the training part, and every predictor is primed with them and codes the last tenth,
in prequential bits per byte. One setting changes at a time; then the chosen predictors are mixed.
Writes report/results/ablation_compression.json after every number. Training takes seven minutes
of one core, the rest fifteen.

`--grid` mixes the same GPT's predictors with all weights on a grid, for each theta of the
neighbours, since the best alone need not be the best beside others; it takes four minutes of one
core, and seconds once its predictions lie beside the GPT's file.

`--trials FILE` measures what was tried in the place of a part: other optimisers, a logistic
mixture. It takes a GPT of the nine tenths with a small vocabulary, for a tenth of the time: the
first runs/early_exit_alone_6.pt of `python example_gpt.py --study early-exit`.
"""

from mingpt import startup

if __name__ == "__main__":
    startup.prepare("python -m tests.benchmarks.compression_ablation")

import hashlib
import json
import math
import sys
from pathlib import Path

import torch
from tqdm import tqdm

import mingpt
from mingpt import checkpoint, coding, recipe
from mingpt.bpe import get_encoder
from mingpt.data import BlockDataset, load_book, split_text
from mingpt.mixing import ADAPTIVE_WEIGHTS, ORDER, RATE, STATIC_WEIGHTS
from mingpt.model import GPT
from mingpt.ngram import KneserNey, folded_kinds, unseen_prior
from mingpt.parser import Parser
from mingpt.predictors import DynamicGPT, Neighbours, StaticGPT
from mingpt.scoring import bits_per_byte
from mingpt.studies.compression import mixed
from mingpt.trainer import Trainer
from mingpt.utils import atomic_path, write_json

PROG = "python -m tests.benchmarks.compression_ablation"
PATH = Path(__file__).parents[2] / "report" / "results" / "ablation_compression.json"
SEED = 0  # that of the shipped weights

THETAS = (10, 15, 20, 25)
PREDICTORS = {
    **{f"GPT, windows of {w} moved by {w // 2}": ("static", {"window": w, "segment": w // 2})
       for w in (16, 32, 64)},
    **{f"GPT learning on, rate {rate:g}": ("dynamic", {"learning_rate": rate})
       for rate in (3e-5, 6e-5, 1e-4)},
    **{f"GPT learning on, decay {decay:g}": ("dynamic", {"decay": decay})
       for decay in (0.0, 0.01)},
    **{f"GPT learning on, damping {damping:g}": ("dynamic", {"damping": damping})
       for damping in (0.5, 2.0)},
    **{f"GPT learning on, windows of {w} moved by {w // 2}":
       ("dynamic", {"window": w, "segment": w // 2}) for w in (16, 64)},
    **{f"n-grams of order {n}": ("ngram", {"order": n}) for n in (3, 4, 5, 6)},
    "n-grams of order 5, case and space in contexts": ("ngram", {"order": 5, "kinds": None}),
    "n-grams standing still": ("ngram", {"adaptive": False}),
    **{f"neighbours, theta {theta}": ("neighbours", {"theta": float(theta)}) for theta in THETAS},
    "neighbours standing still": ("neighbours", {"adaptive": False}),
}  # fmt: skip
CHOSEN = {"gpt": "GPT learning on, rate 6e-05", "ngram": f"n-grams of order {ORDER}",
          "neighbours": "neighbours, theta 15"}  # fmt: skip
STILL = {"gpt": "GPT, windows of 32 moved by 16", "ngram": "n-grams standing still",
         "neighbours": "neighbours standing still"}  # fmt: skip
MIXTURES = {
    **{f"learning on, rate {rate:g}": (CHOSEN, ADAPTIVE_WEIGHTS, rate) for rate in
       (0, 0.005, 0.01, RATE, 0.04)},
    "standing still": (STILL, STATIC_WEIGHTS, 0),
}  # fmt: skip
GRID = 20  # weights are multiples of 1 / GRID, none zero
SHORTER = "windows of 16 moved by 8"  # twice as many steps
ON_GRID = {
    **{f"learning on, theta {theta}": CHOSEN | {"neighbours": f"neighbours, theta {theta}"}
       for theta in THETAS},
    f"learning on, {SHORTER}": CHOSEN | {"gpt": f"GPT learning on, {SHORTER}"},
    "standing still": STILL,
}  # fmt: skip
TRIALS = {
    "GPT standing still": ("static", {}),
    **{f"GPT learning on, rate {rate:g}": ("dynamic", {"learning_rate": rate})
       for rate in (6e-5, 1.2e-4)},
    **{f"GPT learning on by SGD, rate {rate:g}": ("sgd", {"learning_rate": rate})
       for rate in (0.01, 0.03, 0.1)},
    **{f"GPT learning on by Adam, rate {rate:g}": ("adam", {"learning_rate": rate})
       for rate in (3e-5, 1e-4, 3e-4)},
}  # fmt: skip
MIXED = {"gpt": "dynamic", "ngram": "ngram", "neighbours": "neighbours"}  # with their defaults
LOGISTIC_RATES = (0.001, 0.003, 0.01)


class BySGD(DynamicGPT):
    """Every weight's step is proportional to its gradient."""

    @torch.no_grad()
    def _end_segment(self):
        gradients = self._gradients(torch.tensor(self._text), self.segment)
        for weight, trained, gradient in zip(self._weights, self._trained, gradients, strict=True):
            weight.sub_(gradient, alpha=self.learning_rate)
            weight.lerp_(trained, self.decay)


class ByAdam(DynamicGPT):
    """One step of Adam, whose moments are of the segments so far."""

    def __init__(self, *args, **settings):
        super().__init__(*args, **settings)
        self._adam = torch.optim.Adam(self._weights, lr=self.learning_rate)

    def _end_segment(self):
        gradients = self._gradients(torch.tensor(self._text), self.segment)
        for weight, gradient in zip(self._weights, gradients, strict=True):
            weight.grad = gradient
        self._adam.step()
        with torch.no_grad():
            torch._foreach_lerp_(self._weights, self._trained, self.decay)


class Logistic:
    """paq's mixture, over a vocabulary: p is proportional to the product of p_k ** w_k.

    After each token the weights of its context, which need not sum to 1, take a step up the
    gradient of its log-probability, log p_k(token) minus the mean of log p_k under p.
    """

    def __init__(self, weights, rate, contexts):
        self.weights = torch.tensor(weights, dtype=torch.float64).repeat(contexts, 1)
        self.rate = rate

    def score(self, by_member, token, context):
        """log p(token) in nats from by_member (K, V) nats; the token is then learnt."""
        weights = self.weights[context]
        log_probs = (weights @ by_member).log_softmax(dim=0)
        weights += self.rate * (by_member[:, token] - by_member @ log_probs.exp())
        return log_probs[token]


def train(tokens, encoder, heldout, num_bytes):
    """The default recipe's GPT of tokens (N,) int64, after its last iteration."""
    made = recipe.recipe_for("cpu", model_type="gpt-mini", objective="discounted", seed=SEED)
    settings = made.trainer_settings(device="cpu", precision="auto")
    settings.eval_interval = settings.max_iters
    generator = torch.Generator().manual_seed(SEED)
    model = GPT(made.model_config(encoder.vocab_size), generator=generator)
    trainer = Trainer(
        settings, model, BlockDataset(tokens, made.block_size, encoder.vocab_size),
        lambda m: bits_per_byte(m, tokens, heldout, num_bytes), made.discount(tokens, encoder),
    )  # fmt: skip
    with tqdm(total=settings.max_iters, unit="it", leave=False, disable=None) as bar:
        trainer.set_callback("on_batch_end", lambda _: bar.update())
        trainer.run()
    return model.eval()


def build(kind, settings, model, encoder, tokens):
    """The predictor of PREDICTORS's entry, primed with tokens (N,) int64."""
    if kind == "ngram":
        defaults = {"order": ORDER, "kinds": folded_kinds(encoder)}
        return KneserNey(tokens, unseen_prior(tokens, encoder), **defaults | settings)
    kinds = {"static": StaticGPT, "dynamic": DynamicGPT, "sgd": BySGD, "adam": ByAdam,
             "neighbours": Neighbours}  # fmt: skip
    return kinds[kind](model, tokens, **settings)


def code(predictor, tokens):
    """(log-probabilities (N,) nats, contexts matched before each) of tokens (N,) int64."""
    scores, matched = [], []
    for token in tokens.tolist():
        matched.append(getattr(predictor, "matched", 0))
        scores.append(float(predictor.predict()[token]))
        predictor.update(token)
    return torch.tensor(scores, dtype=torch.float64), matched


def mixtures(model, encoder, tokens, validation):
    """{name: log-probabilities (N,) nats} of the chosen predictors, mixed in either way."""
    parts = {name: build(kind, {}, model, encoder, tokens) for name, kind in MIXED.items()}
    weights = [ADAPTIVE_WEIGHTS[name] for name in parts]
    tried = {rate: Logistic(weights, rate, ORDER) for rate in LOGISTIC_RATES}
    scores, matched = {rate: [] for rate in LOGISTIC_RATES}, []
    alone = {name: [] for name in parts}
    for token in validation.tolist():
        by_member = torch.stack([part.predict() for part in parts.values()])
        matched.append(parts["ngram"].matched)
        for rate, mixture in tried.items():
            scores[rate].append(mixture.score(by_member, token, matched[-1]))
        for (name, part), nats in zip(parts.items(), by_member[:, token], strict=True):
            alone[name].append(nats)
            part.update(token)
    alone = {name: torch.stack(nats) for name, nats in alone.items()}
    return {"linear mixture": mixed(alone, ADAPTIVE_WEIGHTS, RATE, matched)} | {
        f"logistic mixture, rate {rate:g}": torch.stack(nats) for rate, nats in scores.items()
    }


def main(argv=None):
    """Measure every predictor and mixture; returns the exit code."""
    return startup.conclude(PROG, lambda: _search(argv))


def _search(argv):
    parser = Parser(PROG, description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, default=Path("runs/gpt_nine_tenths.pt"),
                        help="the GPT of the nine tenths; trained and saved where it is missing")
    parser.add_argument("--grid", action="store_true",
                        help="mix with all weights on a grid instead, with the same GPT")
    parser.add_argument("--trials", type=Path, metavar="FILE",
                        help="measure what was tried in the place of a part, with this GPT")
    args = parser.parse_args(argv)
    parts = split_text(get_encoder().decode(load_book().train.tolist()))
    num_bytes = len(parts[1].encode("utf-8"))
    if args.trials is not None:
        with coding.reproducible():
            _try(args.trials, parts, num_bytes)
        return
    encoder = get_encoder()
    tokens, validation = (torch.tensor(encoder.encode(part)) for part in parts)
    if not args.weights.exists():
        model = train(tokens, encoder, validation, num_bytes)
        mingpt.save(model, args.weights, dtype=torch.float16)
    with coding.reproducible():
        if args.grid:
            _search_grid(args.weights, encoder, tokens, validation, num_bytes)
        else:
            _choose(mingpt.load(args.weights), encoder, tokens, validation, num_bytes)


def _choose(model, encoder, tokens, validation, num_bytes):
    note("validation_tokens", len(validation))
    note("validation_bytes", num_bytes)
    kept, matched = {}, None
    for name, (kind, settings) in tqdm(PREDICTORS.items(), disable=None):
        kept[name], contexts = code(build(kind, settings, model, encoder, tokens), validation)
        matched = contexts if name == CHOSEN["ngram"] else matched
        note("bits_per_byte", "predictors", name, bits(kept[name], num_bytes))
    for name, (chosen, weights, rate) in MIXTURES.items():
        scores = {member: kept[setting] for member, setting in chosen.items()}
        nats = mixed(scores, weights, rate, matched)
        note("bits_per_byte", "mixtures", name, bits(nats, num_bytes))
    chosen = {member: kept[setting] for member, setting in CHOSEN.items()}
    nats = mixed(chosen, ADAPTIVE_WEIGHTS, RATE, [0] * len(validation))
    note("bits_per_byte", "mixtures", f"learning on, rate {RATE:g}, one context",
         bits(nats, num_bytes))  # fmt: skip


def _search_grid(weights, encoder, tokens, validation, num_bytes):
    names = dict.fromkeys(name for parts in ON_GRID.values() for name in parts.values())
    names |= {"GPT learning on, damping 0.5": None}
    kept = kept_scores(weights, names, encoder, tokens, validation)
    for name in names:
        note("grid", "alone", name, bits(kept[name], num_bytes))
    for mixture, parts in ON_GRID.items():
        scores = {member: kept[name] for member, name in parts.items()}
        search_weights(mixture, scores, parts is not STILL, kept["matched"], num_bytes)


def kept_scores(weights, names, encoder, tokens, validation):
    """{name: log-probabilities (N,) nats} of predictors with the GPT of the file `weights`, and the
    n-grams' "matched"; kept in a file beside it, which holds for these weights alone."""
    path, checksum = weights.with_suffix(".scores.pt"), hashlib.sha256(weights.read_bytes())
    kept = torch.load(path, weights_only=True) if path.exists() else {}
    if kept.get("of") != checksum.hexdigest():
        kept = {"of": checksum.hexdigest()}
    model = mingpt.load(weights)
    for name in tqdm(names, disable=None):
        if name in kept:
            continue
        kind, settings = PREDICTORS[name]
        predictor = build(kind, settings, model, encoder, tokens)
        if "theta" in settings:
            kept |= code_by_theta(predictor, validation)
        else:
            kept[name], contexts = code(predictor, validation)
            kept |= {"matched": contexts} if name == CHOSEN["ngram"] else {}
        with atomic_path(path) as temporary:
            torch.save(kept, temporary)
    return kept


def code_by_theta(neighbours, tokens):
    """{name: log-probabilities (N,) nats} of the neighbours weighed with each of THETAS."""
    found = {f"neighbours, theta {theta}": [] for theta in THETAS}
    for token in tokens.tolist():
        for theta, nats in zip(THETAS, found.values(), strict=True):
            neighbours.theta = float(theta)
            nats.append(float(neighbours.predict()[token]))
        neighbours.update(token)
    return {name: torch.tensor(nats, dtype=torch.float64) for name, nats in found.items()}


def search_weights(name, scores, adaptive, matched, num_bytes):
    """Note the bits per byte of the best initial weights on the grid, and of those chosen."""
    shares = [(first, second, GRID - first - second)
              for first in range(1, GRID - 1) for second in range(1, GRID - first)]  # fmt: skip
    rate = RATE if adaptive else 0
    tried = mixed_by_all(scores, torch.tensor(shares) / GRID, rate, matched)
    best = int(tried.sum(dim=1).argmax())
    chosen = ADAPTIVE_WEIGHTS if adaptive else STATIC_WEIGHTS
    note("grid", "mixed", name, {
        "tried": len(shares),
        "best": dict(zip(scores, (share / GRID for share in shares[best]), strict=True)),
        "bits_per_byte_of_the_best": bits(tried[best], num_bytes),
        "chosen": chosen,
        "bits_per_byte_of_the_chosen": bits(mixed(scores, chosen, rate, matched), num_bytes),
    })  # fmt: skip


def mixed_by_all(scores, weights, rate, matched):
    """`mixed` with each row of weights (W, K) to begin with, at once: (W, N) nats."""
    p = torch.stack([*scores.values()], dim=1).exp()  # (N, K)
    weights = weights.double()[:, None].repeat(1, ORDER, 1)  # (W, contexts, K)
    found = []
    for p_of_token, context in zip(p, matched, strict=True):
        joint = weights[:, context] * p_of_token
        total = joint.sum(dim=1, keepdim=True)
        weights[:, context] = weights[:, context].lerp(joint / total, rate)
        found.append(total[:, 0].log())
    return torch.stack(found, dim=1)


def _try(file, parts, num_bytes):
    content = checkpoint.read(file)
    model, encoder = checkpoint.build(content), checkpoint.encoder(content)
    tokens, validation = (torch.tensor(encoder.encode(part)) for part in parts)
    note("trials", "vocabulary_tokens", encoder.vocab_size)
    note("trials", "validation_tokens", len(validation))
    for name, (kind, settings) in tqdm(TRIALS.items(), disable=None):
        nats, _ = code(build(kind, settings, model, encoder, tokens), validation)
        note("trials", "bits_per_byte", name, bits(nats, num_bytes))
    for name, nats in mixtures(model, encoder, tokens, validation).items():
        note("trials", "bits_per_byte", name, bits(nats, num_bytes))


def bits(nats, num_bytes):
    return -float(nats.sum()) / math.log(2) / num_bytes


def note(*keys_and_value):
    """Print a value, and write it under its keys into the results, which keep all others."""
    *keys, value = keys_and_value
    print(*keys, f"{value:.4f}" if isinstance(value, float) else value, sep="  ", flush=True)
    content = json.loads(PATH.read_text(encoding="utf-8")) if PATH.exists() else {}
    place = content
    for key in keys[:-1]:
        place = place.setdefault(key, {})
    place[keys[-1]] = value
    write_json(PATH, content)


if __name__ == "__main__":
    sys.exit(main())
