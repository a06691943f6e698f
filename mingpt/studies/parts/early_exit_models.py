"""The models of the study of leaving early: how they are trained, and scored on a text."""

import math
import time
from pathlib import Path
from typing import NamedTuple

import torch

from mingpt import checkpoint, early_exit, macs, recipe, scoring
from mingpt.bpe import get_encoder
from mingpt.cli import option
from mingpt.data import BlockDataset, load_book, split_text
from mingpt.model import GPT
from mingpt.model_config import MODEL_TYPES
from mingpt.progress import bar
from mingpt.studies.exercise import LARGEST_SEED, MANY
from mingpt.trainer import Trainer, TrainingDivergedError
from mingpt.vocabulary import BookVocabulary

JOINT, ALONE = "joint", "alone"  # names of models; those with the usual loss end in their blocks
BATCH = 32  # windows of 64 tokens, moved by 32, that are scored at once
TRAINING = {"batch_size": 16, "dropout": 0.1}  # chosen on the last tenth of the training part

OPTIONS = (
    option("--weights", "folder of an earlier run's --save: its models instead of training",
           metavar="DIR", type=Path),
    option("--model", "the full model's size", choices=tuple(MODEL_TYPES), default="gpt-mini"),
    option("--max-iters", "training iterations of each model", within=(1, MANY), type=int,
           default=300),
    option("--seed", "seed of everything random", within=(0, LARGEST_SEED), type=int, default=0),
)  # fmt: skip


class Texts(NamedTuple):
    """The parts of the book, int64 tokens of `encoder`."""

    encoder: BookVocabulary
    fit: torch.Tensor
    validation: torch.Tensor
    heldout: torch.Tensor


class Scored(NamedTuple):
    """Every token of a text, scored once: (N,) each."""

    right: torch.Tensor  # float64, 1 where the likeliest token is the one that came
    nats: torch.Tensor  # float64, its negative log-probability
    answers: torch.Tensor  # the likeliest token
    confidence: torch.Tensor  # its probability
    exits: torch.Tensor  # blocks that ran
    positions: torch.Tensor  # in the window
    seconds: float  # of the forward passes


# --- Models -------------------------------------------------------------------------------------


def load(args):
    """{name: model}, None for those to be trained. Raises ValueError for files of other models."""
    full = MODEL_TYPES[args.model]["n_layer"]
    names = [JOINT, *(f"{ALONE}_{blocks}" for blocks in range(full, 0, -1))]
    if args.weights is None:
        return dict.fromkeys(names)
    vocabulary, models = texts().encoder.ids, {}
    for name in names:
        path = args.weights / file_of(name)
        content = checkpoint.read_of_the_book(path)
        model, ids = checkpoint.build(content, args.device), content.get("vocabulary")
        sizes = {"n_layer": blocks_of(name, args), "n_embd": MODEL_TYPES[args.model]["n_embd"]}
        found = {key: getattr(model.config, key) for key in sizes}
        if ids is None or not torch.equal(torch.as_tensor(ids), vocabulary) or found != sizes:
            raise ValueError(f"{path} is no model of this study with --model {args.model}")
        models[name] = model
    return models


def file_of(name):
    return f"early_exit_{name}.pt"


def blocks_of(name, args):
    full = MODEL_TYPES[args.model]["n_layer"]
    return full if name == JOINT else int(name.rpartition("_")[2])


def train(run, name):
    """One model after its last iteration, by the exercise's recipe but for TRAINING.

    The objective is the plain cross-entropy, which every exit can have.
    """
    args, (encoder, fit, *_) = run.args, run.once(texts)
    plan = recipe.recipe_for(
        "cpu", model_type=args.model, objective="cross-entropy", max_iters=args.max_iters,
        seed=args.seed, **TRAINING,
    )  # fmt: skip
    config = plan.model_config(encoder.vocab_size)
    sizes = MODEL_TYPES[args.model] | {"n_layer": blocks_of(name, args)}
    config.merge_from_dict({"model_type": None, **sizes})
    kind = early_exit.JointlyTrained if name == JOINT else GPT
    model = kind(config, generator=torch.Generator().manual_seed(args.seed))
    settings = plan.trainer_settings(device=args.device, precision="auto")
    trainer = Trainer(settings, model, BlockDataset(fit, plan.block_size, encoder.vocab_size))
    path = args.save / file_of(name)
    with bar(total=args.max_iters, desc=f"training {name}") as shown:
        trainer.set_callback("on_batch_end", lambda _: shown.update())
        try:
            trainer.run()
        except TrainingDivergedError as error:
            raise ValueError(f"{name}: {error}") from None
    model = model.plain() if name == JOINT else model.eval()
    content = checkpoint.save(
        model, path, dtype=torch.float16, recipe=plan.record(trainer), vocabulary=encoder.ids
    )
    return checkpoint.build(content, args.device)  # as anyone will load it, rounded to float16


def texts(run=None):
    """The Texts: the training part cut as the book is, and the held-out part."""
    book, gpt2 = load_book(), get_encoder()
    fit, validation = (gpt2.encode(t) for t in split_text(gpt2.decode(book.train.tolist())))
    encoder = BookVocabulary.of(fit)
    parts = (fit, validation, book.heldout.tolist())
    return Texts(encoder, *(torch.tensor(encoder.from_gpt2(part)) for part in parts))


# --- Measuring ----------------------------------------------------------------------------------


def score(run, model, part, threshold=1.0, confidence="probability"):
    """The Scored text of a part, "validation" or "heldout", by a model that leaves early."""
    found, all_texts = [], run.once(texts)
    before = all_texts.fit
    if part == "heldout":
        before = torch.cat([before, all_texts.validation])
    x, y = scoring.windows(before, getattr(all_texts, part))
    seconds = 0.0
    for inputs, targets in zip(x.split(BATCH), y.split(BATCH), strict=True):
        began = time.perf_counter()
        logits, exits = early_exit.forward(model, inputs.to(run.args.device), threshold, confidence)
        seconds += time.perf_counter() - began
        counted = targets != -1
        log_probs = logits.cpu()[counted].log_softmax(dim=-1)
        best, answers = log_probs.max(dim=-1)
        truth = targets[counted]
        nats = -log_probs.gather(-1, truth[:, None])[:, 0].double()
        positions = torch.arange(x.shape[1]).expand_as(targets)[counted]
        right = (answers == truth).double()
        found.append((right, nats, answers, best.exp(), exits.cpu()[counted], positions))
    return Scored(*map(torch.cat, zip(*found, strict=True)), seconds)


def cost(run, model, scored, exits_tested=True):
    """The Macs of every token; exits_tested False: the head is applied once, at the end."""
    heads = None if exits_tested else 1
    return macs.count(model.config, scored.exits, scored.positions, heads)


def mean_macs(counted):
    """Mean MACs a token, by kind."""
    kinds = {name: float(getattr(counted, name).mean()) for name in counted._fields}
    return kinds | {"blocks_total": float(counted.blocks.mean()),
                    "total": float(counted.total.mean())}  # fmt: skip


def bits_per_byte(run, part, nats):
    """Of all tokens of a part, nats (N,)."""
    all_texts = run.once(texts)
    num_bytes = len(all_texts.encoder.decode_bytes(getattr(all_texts, part).tolist()))
    return float(nats.sum()) / math.log(2) / num_bytes


def mean_and_error(values):
    """The mean of values (N,) and its standard error, from the means of 32 neighbours each."""
    groups = torch.stack([group.mean() for group in values.split(32)])
    return float(values.mean()), float(groups.std()) / math.sqrt(len(groups))


def alone(run):
    """The models with the usual loss, from one block to all."""
    return dict(sorted((blocks_of(name, run.args), model)
                       for name, model in run.models.items() if name != JOINT))  # fmt: skip


def full_scores(run):
    """{blocks: Scored held-out text} of the models with the usual loss, all blocks run."""
    return {blocks: score(run, model, "heldout") for blocks, model in alone(run).items()}
