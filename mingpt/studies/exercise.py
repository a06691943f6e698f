"""The exercise's options, and the GPT that its five questions are put to: trained, or loaded."""

import math
from pathlib import Path
from typing import Any, NamedTuple

import torch

from mingpt import checkpoint, recipe, resume
from mingpt.bpe import Encoder, get_encoder
from mingpt.cli import FOLDERS, option
from mingpt.data import BOOK_ARRAYS_SHA256, BlockDataset, Book, load_book, read_book
from mingpt.devices import forked_generator, resolve_precision
from mingpt.model import GPT, MODEL_TYPES
from mingpt.processes import process_count, process_rank
from mingpt.running import STATE_INTERVAL, run_trainer
from mingpt.sampling import check_sampling
from mingpt.scoring import heldout_bits_per_byte
from mingpt.studies.parts.forecast import questions_seconds
from mingpt.text import opening, word_positions
from mingpt.utils import check_file
from mingpt.vocabulary import BookVocabulary

SENTENCE = "I am a little squirrel holding a walnut"
PROMPT = "Alice thought to herself, and"
WORD = 11  # the word whose prediction questions 3 and 4 explain
LARGEST_SEED = 2**32 - 1
WEIGHTS_FILE = "gpt.pt"
TRAINING_FILE = "training.pt"
MANY = math.inf

OPTIONS = (
    option("--weights", "load this model instead of training one", metavar="PATH"),
    option("--text", "a UTF-8 text that takes the book's place; its last tenth is held out",
           metavar="FILE"),
    option("--model", f"auto (gpt2 with CUDA, else gpt-mini) or one of {', '.join(MODEL_TYPES)}",
           default="auto"),
    option("--vocab", "GPT-2's 50,257 tokens, or only those the training part uses and all bytes",
           choices=("gpt2", "book"), default="gpt2"),
    option("--max-iters", "training iterations (default: 300 on CPU, 2000 on CUDA)",
           within=(1, MANY), type=int),
    option("--batch-size", "blocks per iteration (default: 32 on CPU, 64 on CUDA)",
           within=(1, MANY), type=int),
    option("--accumulation-steps", "parts each batch is computed in, to save memory",
           within=(1, MANY), type=int, default=1),
    option("--compile", "compile the training step with torch.compile", action="store_true"),
    option("--learning-rate", "peak rate (default: 2e-3 on CPU, 5e-4 on CUDA)", type=float),
    option("--objective", "GPT-2's cross-entropy, or that of targets with an absolute discount "
           "(default: discounted on CPU with --vocab gpt2, else cross-entropy)",
           choices=("discounted", "cross-entropy")),
    option("--dropout", "dropout rate (default: 0.3 on CPU, 0.1 on CUDA)", type=float),
    option("--block-size", "tokens per block", within=(1, MANY), type=int, default=64),
    option("--seed", "seed of everything random", within=(0, LARGEST_SEED), type=int, default=0),
    option("--precision", "float32, bfloat16, or auto: bfloat16 products in training where the "
           "device has them", default="auto"),
    option("--prompt", f"start of the sentence of questions 3 and 4 (default: {PROMPT!r}, with "
           "--text the first words of its last tenth)"),
    option("--temperature", "sampling temperature", type=float, default=0.8),
    option("--top-k", "sample from the k likeliest tokens; 0 for all", within=(0, MANY), type=int,
           default=40),
    option("--top-p", "sample from the smallest set of this probability", type=float, default=1.0),
    option("--sentence", "sentence to invert in question 2", default=SENTENCE),
    option("--starts", "random starts of the inversion", within=(1, MANY), type=int, default=20),
    option("--resume", f"go on from {TRAINING_FILE} in the --save folder, written every "
           f"{STATE_INTERVAL} iterations", action="store_true"),
)  # fmt: skip
OF_TRAINING = (  # options that decide nothing where a model is loaded
    "model", "vocab", "max_iters", "batch_size", "accumulation_steps", "learning_rate",
    "objective", "dropout", "block_size", "compile", "resume", "save", "precision",
)  # fmt: skip


class TrainedGPT(NamedTuple):
    """What the questions are put to."""

    model: GPT  # in eval mode
    encoder: Any  # the tokeniser it was trained with
    book: Book  # in that tokeniser's tokens
    history: dict  # losses and held-out values by iteration; empty where they are unknown
    recipe: dict | None  # what `Recipe.record` gave
    text: dict | None  # name and sha256 of the text in the book's place; None for the book


# --- Options ------------------------------------------------------------------------------------


def check(args):
    """Refuse what the options' bounds cannot express; fill in what depends on others.

    Where a model is loaded, the options about training are dropped. Raises ValueError.
    """
    reduced = resolve_precision(args.precision, args.device) is not None
    args.precision = "bfloat16" if reduced else "float32"
    if not args.top_k:
        args.top_k = None
    check_sampling(args.temperature, args.top_k, args.top_p)
    for flag, text in (("--prompt", args.prompt), ("--sentence", args.sentence)):
        if text and any("\ud800" <= character <= "\udfff" for character in text):
            raise ValueError(f"{flag} is not valid UTF-8: {text!r}")
    if args.weights:
        _drop_training_options(args)
    else:
        _check_training_options(args)


def _drop_training_options(args):
    defaults = {entry.name: entry for entry in (*OPTIONS, *FOLDERS)}
    for name in OF_TRAINING:
        entry = defaults[name]
        if name != "precision" and getattr(args, name) != entry.default:
            raise ValueError(
                f"--weights loads a trained model: it does not go with {entry.flag}"
            )
    for name in OF_TRAINING:
        if name != "save":
            delattr(args, name)


def _check_training_options(args):
    kind = torch.device(args.device).type
    resolve_recipe(args, ("max_iters", "batch_size", "learning_rate", "dropout"))
    if args.objective is None:
        discounted = kind != "cuda" and args.vocab == "gpt2"
        args.objective = "discounted" if discounted else "cross-entropy"
    if args.objective == "discounted" and args.vocab == "book":
        raise ValueError(
            "--objective discounted makes room for tokens that training never shows: "
            "it does not go with --vocab book"
        )
    if not (args.learning_rate > 0 and math.isfinite(args.learning_rate)):
        raise ValueError(f"--learning-rate should be above 0, not {args.learning_rate}")
    if not 0 <= args.dropout < 1:
        raise ValueError(f"--dropout should be at least 0 and below 1, not {args.dropout}")
    if args.batch_size % (process_count() * args.accumulation_steps):
        raise ValueError(
            f"--batch-size {args.batch_size} cannot be divided among {process_count()} processes "
            f"x {args.accumulation_steps} accumulation steps"
        )


def resolve_recipe(args, names):
    """Fill in --model and the named options of the recipe. Raises ValueError for other models."""
    kind = torch.device(args.device).type
    if args.model == "auto":
        args.model = "gpt2" if kind == "cuda" else "gpt-mini"
    if args.model not in MODEL_TYPES:
        raise ValueError(
            f"--model: unknown model {args.model!r}; allowed: auto, {', '.join(MODEL_TYPES)}"
        )
    for name in names:
        if getattr(args, name) is None:
            setattr(args, name, recipe.preset(kind)[name])


def check_texts(args, encoder, block_size):
    """Refuse a prompt or sentence that the block cannot hold, and a prompt with too many words.

    Raises ValueError.
    """
    if block_size < 2 * WORD:
        raise ValueError(
            f"--block-size {block_size} is too small for a sentence of {WORD} words: "
            f"give at least {2 * WORD}"
        )
    prompt = encoder.encode(args.prompt)
    for flag, ids in (("--prompt", prompt), ("--sentence", encoder.encode(args.sentence))):
        if not ids:
            raise ValueError(f"{flag} is empty")
        if len(ids) > block_size:
            raise ValueError(f"{flag} has {len(ids)} tokens; the model's block holds {block_size}")
    words = len(word_positions(encoder, prompt))
    if words >= WORD:
        raise ValueError(
            f"--prompt has {words} words; the model is to write word {WORD}: "
            f"give at most {WORD - 1}"
        )
    continued = word_positions(encoder, prompt + encoder.encode("a"))
    if len(continued) >= WORD and continued[WORD - 1][1][0] < len(prompt):
        raise ValueError(
            f"--prompt ends in {args.prompt.split()[-1]!r}, which word {WORD} would begin with; "
            "the model is to write that word: leave it out"
        )
    needed = WORD - words + 1  # a token per missing word, and one to end the last
    if len(prompt) + needed > block_size:
        raise ValueError(
            f"--prompt has {len(prompt)} tokens and {words} words; word {WORD} "
            f"takes at least {needed} more tokens, and the model's block holds {block_size}"
        )


# --- The model ----------------------------------------------------------------------------------


def load(args):
    """{"gpt": the TrainedGPT of --weights, or None where one has to be trained}.

    Raises ValueError for a file that holds no GPT or was trained on another text, for a text too
    short, and for a prompt or sentence that does not fit the model.
    """
    book = book_of(args)
    if args.weights:
        content = checkpoint.read(args.weights)
        model, encoder = checkpoint.build(content, args.device), checkpoint.encoder(content)
        check_text_of_weights(args, content, book)
        history, record = content.get("history", {}), content.get("recipe")
        text = text_of(args, book)
        book = book_in(encoder, book)
        prepare_texts(args, encoder, book, model.block_size)
        return {"gpt": TrainedGPT(model, encoder, book, history, record, text)}
    encoder = encoder_of(args.vocab, book)
    prepare_texts(args, encoder, book_in(encoder, book), args.block_size)
    blocks = len(BlockDataset(book.train, args.block_size))
    if args.batch_size > blocks:
        raise ValueError(
            f"--batch-size {args.batch_size} is larger than the book: it has {blocks} blocks"
        )
    for file in (WEIGHTS_FILE, TRAINING_FILE):
        check_file(args.save / file)
    return {"gpt": None}


def book_of(args):
    """The Book, or the text of --text in its place, in GPT-2's tokens."""
    return load_book() if args.text is None else read_book(args.text)


def encoder_of(vocab, book):
    """The tokeniser by its name, "gpt2" or "book"."""
    return get_encoder() if vocab == "gpt2" else BookVocabulary.of(book.train)


def book_in(encoder, book=None):
    """A Book of GPT-2's tokens, by default the shipped one, in the tokens of an encoder."""
    book = load_book() if book is None else book
    if isinstance(encoder, Encoder):
        return book
    return Book(*(torch.tensor(encoder.from_gpt2(part.tolist())) for part in book))


def text_of(args, book):
    """What weights and results remember of a text in the book's place; None for the book."""
    return None if args.text is None else {"name": Path(args.text).name, "sha256": book.sha256()}


def check_text_of_weights(args, content, book):
    """Refuse to ask a model about another text than it was trained on.

    A file that says nothing of its training is taken at the user's word. Raises ValueError.
    """
    trained_on, known = content.get("text"), content.get("recipe") is not None
    if trained_on is not None and args.text is None:
        raise ValueError(
            f"{args.weights} was trained on {trained_on['name']}: give that text with --text FILE"
        )
    if args.text is None or not (trained_on or known):
        return
    expected, name = BOOK_ARRAYS_SHA256, "the book (leave --text out)"
    if trained_on is not None:
        expected, name = trained_on["sha256"], f"another one, {trained_on['name']}"
    if book.sha256() != expected:
        raise ValueError(f"--text {args.text}: {args.weights} was trained on {name}")


def prepare_texts(args, encoder, book, block_size):
    """Check the text, the prompt and the sentence; fill in the prompt where none was given.

    Raises ValueError for what does not fit, and for a text of less than two blocks in either part.
    """
    if args.text is not None:
        _check_length(args.text, book, block_size)
    if args.prompt is None:
        args.prompt = PROMPT if args.text is None else _own_prompt(encoder, book, block_size)
    check_texts(args, encoder, block_size)


def _check_length(path, book, block_size):
    for part, tokens in (("first nine tenths", book.train), ("last tenth", book.heldout)):
        if len(tokens) < 2 * block_size:
            raise ValueError(
                f"--text {path} is too short: its {part} are {len(tokens)} tokens, two blocks of "
                f"{block_size} are {2 * block_size}"
            )


def _own_prompt(encoder, book, block_size):
    start = encoder.decode(book.heldout[: 2 * block_size].tolist())
    return opening(encoder, start, block_size // 4) or start[:1]


def train(run, name):
    """Train a TrainedGPT by the options, and save it in the --save folder."""
    args = run.args
    book = book_of(args)
    text, encoder = text_of(args, book), encoder_of(args.vocab, book)
    book = book_in(encoder, book)
    plan = recipe_of(args)
    trainer = plan.trainer(
        book.train, encoder, lambda model: heldout_bits_per_byte(model, book, encoder),
        device=args.device, precision=args.precision, compile=args.compile,
        accumulation_steps=args.accumulation_steps,
    )  # fmt: skip
    record = plan.record(trainer)
    if process_rank() == 0:
        print(
            f"Q1  training {args.model} on {args.device} in {args.precision}: "
            f"{describe(trainer.model)}\n    with {recipe.describe(record)}",
            flush=True,
        )
    if args.resume:
        trainer.load_state_dict(resume.read(args.save / TRAINING_FILE))
    one = process_count() == 1
    afterwards = questions_seconds(trainer.model, encoder, args) if one else None
    run_trainer(trainer, args.save / TRAINING_FILE, afterwards)
    history = history_of(trainer)
    model = trainer.model
    if process_rank() == 0:
        path = args.save / WEIGHTS_FILE
        content = checkpoint.save(
            model, path, dtype=torch.float16, history=history, recipe=record,
            vocabulary=encoder.ids if args.vocab == "book" else None,
            **({} if text is None else {"text": text}),
        )
        resume.discard(args.save / TRAINING_FILE, trainer)
        print(f"    saved {path}")
        model = checkpoint.build(content, args.device)  # as anyone will load it: float16
    return TrainedGPT(model, encoder, book, history, record, text)


def recipe_of(args):
    """The Recipe that checked options ask for."""
    return recipe.recipe_for(
        torch.device(args.device).type,
        model_type=args.model,
        objective=args.objective,
        max_iters=args.max_iters,
        batch_size=args.batch_size,
        learning_rate=args.learning_rate,
        dropout=args.dropout,
        block_size=args.block_size,
        seed=args.seed,
    )


def untrained_loss(gpt):
    """Why the first loss is not ln V: what it is made of, measured on the untrained model of a
    TrainedGPT's recipe, with dropout, on eight blocks spread over the training part. Mean nats per
    token: the loss is uniform_guess + spread_of_logits - mean_logit_of_the_target.
    """
    record, sizes = gpt.recipe, gpt.model.config
    config = GPT.get_default_config()
    config.merge_from_dict(
        {name: getattr(sizes, name) for name in
         ("n_layer", "n_head", "n_embd", "vocab_size", "block_size")}
        | dict.fromkeys(("embd_pdrop", "resid_pdrop", "attn_pdrop"), record["dropout"])
        | {"embd_init_std": record["embedding_init_std"], "tied_head": record["tied_head"]}
    )  # fmt: skip
    config.model_type = None
    seed = record["seed"] or 0
    model = GPT(config, generator=torch.Generator().manual_seed(seed)).train()
    blocks = BlockDataset(gpt.book.train, config.block_size)
    x, y = blocks.batch(torch.linspace(0, len(blocks) - 1, 8).long())
    with torch.no_grad(), forked_generator(seed, "cpu"):
        logits = model(x)[0].flatten(0, 1)
    return {
        "uniform_guess_nats": math.log(config.vocab_size),
        "spread_of_logits_nats": logits.logsumexp(dim=1).mean().item() - math.log(len(logits[0])),
        "half_the_variance_of_logits": logits.var(dim=1).mean().item() / 2,
        "mean_logit_of_the_target": logits.gather(1, y.reshape(-1, 1)).mean().item(),
    }


def history_of(trainer):
    """What weights and results remember of a training that has ended."""
    return {
        "training_loss_nats_per_token": trainer.losses,
        "heldout_bits_per_byte_by_iteration": trainer.evaluations,
    }


def describe(model):
    """A GPT's sizes in one line."""
    c = model.config
    return (
        f"{c.n_layer} layers x {c.n_embd}, {c.n_head} heads, vocabulary {c.vocab_size}, "
        f"{model.num_parameters / 1e6:.1f}M parameters"
    )
