"""Question 1's training with GPT-2's plain cross-entropy beside that with discounted targets.

The two runs differ in what is minimised and in nothing else: same seed, same batches, same dropout.
Both report the plain cross-entropy. The held-out part chooses nothing: each run ends at its last
iteration.
"""

import math

import torch

from mingpt import checkpoint, figures, recipe, scoring
from mingpt.bpe import get_encoder
from mingpt.cli import Answer, Run, Study
from mingpt.data import load_book
from mingpt.devices import resolve_precision
from mingpt.processes import process_count
from mingpt.running import run_trainer
from mingpt.studies import exercise

DISCOUNTED, PLAIN = "discounted", "cross-entropy"
SHARED = ("--model", "--max-iters", "--batch-size", "--seed", "--precision")
OPTIONS = tuple(entry for entry in exercise.OPTIONS if entry.flag in SHARED)
FREQUENCIES = (0, 1, 2, 4, 8, 16, 64, 256)  # lower ends of the bins


def check(args):
    """Fill in what depends on the device. Raises ValueError for a model or precision unknown."""
    reduced = resolve_precision(args.precision, args.device) is not None
    args.precision = "bfloat16" if reduced else "float32"
    exercise.resolve_recipe(args, ("max_iters", "batch_size"))
    if args.batch_size % process_count():
        raise ValueError(
            f"--batch-size {args.batch_size} cannot be divided among {process_count()} processes"
        )


def load(args):
    """Nothing to load: the two models are to be trained."""
    return {DISCOUNTED: None, PLAIN: None}


def train(run: Run, name):
    """Train by the exercise's recipe with the objective `name`; saved as objective_NAME.pt."""
    args, book, encoder = run.args, load_book(), get_encoder()
    plan = recipe.recipe_for(
        torch.device(args.device).type, model_type=args.model, objective=name, seed=args.seed,
        max_iters=args.max_iters, batch_size=args.batch_size,
    )  # fmt: skip
    trainer = plan.trainer(
        book.train, encoder, lambda model: scoring.heldout_bits_per_byte(model, book, encoder),
        device=args.device, precision=args.precision,
    )  # fmt: skip
    print(f"    training with {recipe.describe(plan.record(trainer))}", flush=True)
    run_trainer(trainer)
    history = exercise.history_of(trainer)
    checkpoint.save(
        trainer.model, args.save / f"objective_{name}.pt", dtype=torch.float16, history=history,
        recipe=plan.record(trainer),
    )  # fmt: skip
    return exercise.TrainedGPT(
        trainer.model.eval(), encoder, book, history, plan.record(trainer), None
    )


def a_losses(run: Run) -> Answer:
    """a: loss of every iteration and held-out bits per byte of both runs."""
    numbers = {
        name: {
            "heldout_bits_per_byte": gpt.history["heldout_bits_per_byte_by_iteration"][-1][1],
            "recipe": gpt.recipe,
            **gpt.history,
        }
        for name, gpt in run.models.items()
    }
    drawn = figures.two_trainings(
        {name: of["training_loss_nats_per_token"] for name, of in numbers.items()},
        {name: of["heldout_bits_per_byte_by_iteration"] for name, of in numbers.items()},
        run.models[PLAIN].model.config.vocab_size,
    )
    ours, plain = (numbers[name]["heldout_bits_per_byte"] for name in (DISCOUNTED, PLAIN))
    return Answer(
        numbers, {"a_losses": drawn},
        f"a   held-out text: {ours:.4f} bits per byte with the discount, {plain:.4f} without",
    )  # fmt: skip


def b_tokens(run: Run) -> Answer:
    """b: held-out bits per token of both runs, by how often the training part has the token."""
    book = run.models[PLAIN].book
    counts = torch.bincount(book.train, minlength=int(book.heldout.max()) + 1)[book.heldout]
    ends = [*FREQUENCIES[1:], math.inf]
    bins = [(counts >= low) & (counts < end) for low, end in zip(FREQUENCIES, ends, strict=True)]
    bits = {
        name: -scoring.heldout_log_probs(gpt.model, book) / math.log(2)
        for name, gpt in run.models.items()
    }
    numbers = {
        "occurrences_at_least": FREQUENCIES,
        "heldout_tokens": [int(chosen.sum()) for chosen in bins],
        "bits_per_token": {
            name: [values[chosen].mean().item() for chosen in bins] for name, values in bits.items()
        },
        "bits_of_all": {name: values.sum().item() for name, values in bits.items()},
    }
    gain = bits[PLAIN] - bits[DISCOUNTED]
    unseen, seen = gain[counts == 0].sum().item(), gain[counts > 0].sum().item()
    numbers |= {"bits_saved_on_unseen_tokens": unseen, "bits_saved_on_seen_tokens": seen}
    means = (numbers["bits_per_token"][name] for name in (PLAIN, DISCOUNTED))
    drawn = figures.saved_bits(
        FREQUENCIES, numbers["heldout_tokens"],
        [n * (without - with_it) for n, without, with_it in
         zip(numbers["heldout_tokens"], *means, strict=True)],
    )  # fmt: skip
    return Answer(
        numbers, {"b_tokens": drawn},
        f"b   the discount saves {unseen:+.0f} bits on tokens never seen in training, "
        f"{seen:+.0f} on the others",
    )  # fmt: skip


STUDY = Study(
    name="objective",
    description="Question 1 with GPT-2's plain cross-entropy beside the default's discount.",
    options=OPTIONS,
    small="--model gpt-nano --max-iters 12 --batch-size 8",
    check=check,
    load=load,
    train=train,
    questions={"a": a_losses, "b": b_tokens},
)
