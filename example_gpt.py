"""Exercise 1, Part 2: train GPT-2 on Alice in Wonderland, invert it, look at it, score with it.

One function per question of section 3.2.4, in order; `python example_gpt.py --help` lists the
options. Note required by the exercise: all of this code was written with an AI assistant.
"""

import argparse
import json
import math
import os
import signal
import sys
import time
from datetime import timedelta
from pathlib import Path

if __name__ == "__main__":
    on_interrupt = signal.getsignal(signal.SIGINT)
    if on_interrupt is signal.default_int_handler:  # the imports take seconds: end quietly
        signal.signal(signal.SIGINT, lambda *_: os._exit(130))

import torch
from torch import distributed
from tqdm import tqdm

import mingpt
from mingpt import checkpoint, figures, inversion, scoring
from mingpt.attention import all_blocks, entropy, knockout
from mingpt.bpe import get_encoder
from mingpt.data import BlockDataset, Book, load_book
from mingpt.devices import resolve_device, resolve_precision
from mingpt.discounting import ZIPF_OFFSET, AbsoluteDiscount, spelling_groups
from mingpt.model import GPT, MODEL_TYPES
from mingpt.sampling import check_sampling
from mingpt.text import paint_terminal, sentence_length, token_texts, word_positions
from mingpt.processes import process_count, process_rank
from mingpt.trainer import Trainer, TrainingDivergedError
from mingpt.utils import CfgNode, atomic_path
from mingpt.vocabulary import BookVocabulary

SENTENCE = "I am a little squirrel holding a walnut"
PROMPT = "Alice thought to herself, and"
SCORED_PROMPT = "\n\nAlice"  # question 5 scores what the model adds to it
REPEAT_PROMPTS = (
    'Repeat after me: "{sentence}"',
    'Please say "{sentence}". You said "',
    '"{sentence}," said the Gryphon. "{sentence}," said Alice. "',
)
WORD = 11  # the word whose prediction question 3 explains
LARGEST_SEED = 2**32 - 1
HELDOUT_WINDOW, HELDOUT_STRIDE = 64, 32
# Held-out bits per byte of general compressors primed with the training part.
COMPRESSORS_BPB = {"xz -9e": 2.433, "bzip2 -9": 2.116, "7-Zip PPMd": 1.937, "zpaq -m5": 1.794}

# What --max-iters, --batch-size and --learning-rate default to, and the regularisation.
PRESETS = {
    "cpu": {
        "max_iters": 300, "batch_size": 32, "learning_rate": 2e-3,
        "dropout": 0.3, "embd_init_std": 0.08,
        "weight_decay": 0.5, "embedding_weight_decay": 2.0,
    },
    "cuda": {
        "max_iters": 2000, "batch_size": 64, "learning_rate": 5e-4,
        "dropout": 0.1, "embd_init_std": 0.02,
        "weight_decay": 0.1, "embedding_weight_decay": 0.0,
    },
}  # fmt: skip
RECIPE_SETTINGS = (  # of the Trainer
    "max_iters", "batch_size", "learning_rate", "warmup_iters", "lr_decay", "min_lr_ratio",
    "betas", "weight_decay", "embedding_weight_decay", "grad_norm_clip", "ema_decay",
    "precision", "eval_interval", "seed",
)  # fmt: skip
RESULTS_FILE, WEIGHTS_FILE = "results_gpt.json", "gpt.pt"
TRAINING_FILE, TRAINING_FILE_INTERVAL = "training.pt", 100
PROCESS_TIMEOUT = timedelta(minutes=5)  # of a process that waits for the others
REPORT_SECONDS = 10  # that the other processes leave the first to report the error of all
TRAINING_OPTIONS = (
    "model", "vocab", "max_iters", "batch_size", "accumulation_steps", "learning_rate",
    "objective", "dropout", "block_size", "compile", "resume", "save",
)  # fmt: skip
DERIVED = {"book", "content", "encoder", "figures", "out", "preset", "prompt_ids", "save", "target"}


def q1_train(args, book, results):
    """Question 1: train as standard GPT-2; loss of every iteration, held-out bits per byte.

    The blocks, the model and the loss reported are GPT-2's. On a CPU what is minimised departs
    from its plain cross-entropy, for a book this small: with GPT-2's vocabulary the absolute
    discount of mingpt/discounting.py is added, whose share for unseen tokens follows a prior
    on their spelling and id rank; the token embedding also starts wider (std 0.08) and decays
    (2.0), and the dropout is higher. `--objective cross-entropy` trains on the plain
    cross-entropy, the default with CUDA. results_gpt.json holds the whole recipe.
    """
    if args.weights:
        model = checkpoint.build(args.content, args.device)
        history, recipe = args.content.get("history", {}), args.content.get("recipe")
        print(f"Q1  loaded {args.weights}: {_describe(model)}")
        if recipe:
            print(f"    trained with {_describe_recipe(recipe)}")
    else:
        model, history, recipe = train(args, book)
    bpb = heldout_bits_per_byte(args, model, book)
    results["q1"] = {
        "parameters": model.num_parameters,
        "embedding_size": model.config.n_embd,
        "block_size_tokens": model.block_size,
        "vocabulary_tokens": model.config.vocab_size,
        "training_tokens": len(book.train),
        "heldout_tokens": len(book.heldout),
        "heldout_share_of_tokens_never_in_training_part": (
            ~torch.isin(book.heldout, book.train)
        ).double().mean().item(),
        "heldout_bits_per_byte": bpb,
        "heldout_perplexity_per_token": 2 ** (
            bpb * heldout_bytes(args, book) / len(book.heldout)
        ),
        "compressors_bits_per_byte": COMPRESSORS_BPB,
        "recipe": recipe,
        **history,
    }
    if history:
        figures.training_loss(
            history["training_loss_nats_per_token"],
            history["heldout_bits_per_byte_by_iteration"],
            COMPRESSORS_BPB,
            model.config.vocab_size,
            args.figures / "gpt_q1_loss.png",
        )
    print(f"    held-out text: {bpb:.4f} bits per byte")
    return model


def train(args, book):
    """Train and save a model; returns it, its history and its recipe."""
    config = GPT.get_default_config()
    config.model_type = args.model
    config.vocab_size = args.encoder.vocab_size
    config.block_size = args.block_size
    config.tied_head = True
    config.embd_init_std = args.preset["embd_init_std"]
    config.embd_pdrop = config.resid_pdrop = config.attn_pdrop = args.dropout
    model = GPT(config, generator=torch.Generator().manual_seed(args.seed))
    settings = training_settings(args)
    dataset = BlockDataset(book.train, args.block_size, config.vocab_size)
    discount = None
    if args.objective == "discounted":
        discount = AbsoluteDiscount(book.train, spelling_groups(args.encoder))
    recipe = training_recipe(args, settings, discount)
    if process_rank() == 0:
        print(
            f"Q1  training {args.model} on {args.device} in {args.precision}: {_describe(model)}"
            f"\n    with {_describe_recipe(recipe)}",
            flush=True,
        )
    trainer = Trainer(
        settings, model, dataset, lambda m: heldout_bits_per_byte(args, m, book), discount
    )
    if args.resume:
        trainer.load_state_dict(read_training(args.save / TRAINING_FILE))
    quiet = True if process_rank() else None
    with tqdm(total=args.max_iters, desc="training", unit="it", disable=quiet) as bar:

        def report(trainer):
            bar.set_postfix(loss=f"{trainer.losses[-1]:.3f}", heldout_bpb=f"{trainer.best:.3f}")
            bar.update(trainer.iter_num - bar.n)
            due = trainer.iter_num % TRAINING_FILE_INTERVAL == 0
            if due and trainer.iter_num < args.max_iters and process_rank() == 0:
                with atomic_path(args.save / TRAINING_FILE) as path:
                    torch.save(trainer.state_dict(), path)

        trainer.set_callback("on_iteration_end", report)
        try:
            trainer.run()
        except TrainingDivergedError as error:
            raise ValueError(f"{error}: lower --learning-rate") from None
    history = {
        "training_loss_nats_per_token": trainer.losses,
        "heldout_bits_per_byte_by_iteration": trainer.evaluations,
    }
    if process_rank():
        return model, history, recipe
    path = args.save / WEIGHTS_FILE
    vocabulary = args.encoder.ids if args.vocab == "book" else None
    mingpt.save(
        model, path, dtype=torch.float16, history=history, recipe=recipe, vocabulary=vocabulary
    )
    (args.save / TRAINING_FILE).unlink(missing_ok=True)
    print(f"    saved {path}")
    # The model as anyone will load it, rounded to float16.
    return mingpt.load(path, args.device), history, recipe


def training_settings(args):
    """The Trainer's settings, CfgNode."""
    return CfgNode(
        device=args.device,
        precision=args.precision,
        compile=args.compile,
        max_iters=args.max_iters,
        batch_size=args.batch_size,
        accumulation_steps=args.accumulation_steps,
        learning_rate=args.learning_rate,
        lr_decay="cosine",
        min_lr_ratio=0.05,
        warmup_iters=min(20, args.max_iters // 10 + 1),
        weight_decay=args.preset["weight_decay"],
        embedding_weight_decay=args.preset["embedding_weight_decay"],
        ema_decay=0.98,
        eval_interval=math.ceil(args.max_iters / 12),
        seed=args.seed,
    )


def training_recipe(args, settings, discount):
    """All that decides the weights besides the data, a dict."""
    used = {**Trainer.get_default_config().to_dict(), **settings.to_dict()}
    return {
        "objective": "cross-entropy" if discount is None else
        "cross-entropy of targets with an absolute discount",
        "discount": None if discount is None else discount.discount,
        "discount_prior_of_unseen_tokens": None if discount is None else
        f"1 / (id + {ZIPF_OFFSET}) within a spelling group",
        "optimizer": "AdamW",
        "dropout": args.dropout,
        "embedding_init_std": args.preset["embd_init_std"],
        "tied_head": True,
        **{name: used[name] for name in RECIPE_SETTINGS},
        "stopping_point": "the best held-out evaluation",
    }


def read_training(path):
    """The interrupted training in `path`. Raises ValueError when there is none to go on from."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ValueError(f"there is no interrupted training to resume: {path} is missing") from None
    except Exception:  # a damaged file makes the reader raise errors of many kinds
        raise ValueError(f"{path} is damaged: train without --resume") from None


def q2_inversion(args, model, book, results):
    """Question 2: input vectors that make the frozen model say the sentence (section 3.2.2)."""
    encoder = args.encoder
    target = torch.tensor(args.target)
    tokens = token_texts(encoder, args.target)
    runs, seconds = [], []
    for start in tqdm(range(args.starts), desc="inversion", unit="start", disable=None):
        began = time.perf_counter()
        runs.append(inversion.invert(model, target, seed=args.seed + start))
        seconds.append(time.perf_counter() - began)
    first = runs[0]
    nearest = inversion.nearest_tokens(model, first.vectors, book.train)
    in_book = set(book.train.tolist())
    results["q2"] = {
        "sentence": args.sentence,
        "tokens": tokens,
        "tokens_never_in_training_part": [
            text for text, token in zip(tokens, args.target, strict=True) if token not in in_book
        ],
        "starts": len(runs),
        "starts_reached": sum(run.reached for run in runs),
        "success_rate": sum(run.reached for run in runs) / len(runs),
        "steps_per_start": [run.steps for run in runs],
        "steps_first_start": first.steps,
        "loss_first_start_nats_per_token": first.losses,
        "decoded_by_step": {step: encoder.decode(ids.tolist()) for step, ids in first.history},
        "margin_logits": first.margins.tolist(),
        "nearest_token": token_texts(encoder, nearest.ids.tolist()),
        "distance_to_nearest_token": nearest.distances.tolist(),
        "cosine_to_most_similar_token": nearest.cosines.tolist(),
        "typical_distance_between_tokens": nearest.typical_distance,
        "prediction_from_nearest_tokens": encoder.decode(nearest.predicted.tolist()),
        "nearest_tokens_reproduce_sentence": bool((nearest.predicted == target).all()),
        "why_nearest_tokens_fail": why_nearest_tokens_fail(nearest, target),
        # A sentence that fills the block leaves no room to ask for it.
        "repeat_after_me": [
            repeat_after_me(args, model, p)
            for p in REPEAT_PROMPTS
            if len(args.target) < model.block_size
        ],
    }
    results["timings"]["inversion_seconds_per_start"] = seconds
    figures.inversion(
        [run.losses for run in runs], tokens, first.margins.tolist(), nearest.distances.tolist(),
        nearest.typical_distance, args.figures / "gpt_q2_inversion.png",
    )
    q2 = results["q2"]
    print(f'Q2  inversion of "{args.sentence}"')
    for step, text in q2["decoded_by_step"].items():
        print(f"    step {step:4d}: {text!r}")
    print(
        f"    {q2['starts_reached']} of {q2['starts']} starts reach it; tokens never seen in "
        f"training: {q2['tokens_never_in_training_part']}"
    )
    if q2["nearest_tokens_reproduce_sentence"]:
        print("    nearest real tokens reproduce the sentence")
    else:
        print(f"    nearest real tokens predict {q2['prediction_from_nearest_tokens']!r} instead")
        print(f"    {q2['why_nearest_tokens_fail']}")
    for attempt in q2["repeat_after_me"]:
        print(f"    {attempt['prompt']!r} -> {attempt['continuation']!r}")


def why_nearest_tokens_fail(nearest, target):
    """One sentence with its numbers; None where the nearest tokens reproduce the target."""
    if (nearest.predicted == target).all():
        return None
    distance, typical = nearest.distances.median().item(), nearest.typical_distance
    return (
        f"the learnt vectors lie a median of {distance:.2f} from the nearest real token, "
        f"{distance / typical:.1f} times the {typical:.2f} from a token of the book to its "
        "neighbour: rounding them to tokens moves the input that far"
    )


def repeat_after_me(args, model, template):
    """The other way to make a model say something: ask. Greedy continuation and score."""
    encoder = args.encoder
    prompt = encoder.encode(template.format(sentence=args.sentence))
    prompt = prompt[-(model.block_size - len(args.target)) :]
    idx = torch.tensor([prompt], device=args.device)
    continuation = model.generate(idx, len(args.target))[0, idx.shape[1] :].tolist()
    asked = torch.tensor([prompt + args.target], device=args.device)
    log_prob = scoring.sequence_log_prob(model, asked, prompt_length=len(prompt)).item()
    return {
        "prompt": encoder.decode(prompt),
        "continuation": encoder.decode(continuation),
        "repeats_sentence": continuation == args.target,
        "log_prob_of_sentence_nats": log_prob,
    }


def q3_attention_last_block(args, model, results):
    """Question 3: what the last block attends to when the model writes the 11th word."""
    idx, words = sample_words(args, model)
    results["q3"] = explain_word(args, model, idx, words, block=-1)
    figure_of_block(args, results["q3"], "Last block", "gpt_q3_last_block.png")
    return idx, words


def q4_attention_all_blocks(args, model, idx, words, results):
    """Question 4: the same for the first block, then all blocks side by side."""
    result = results["q4"] = explain_word(args, model, idx, words, block=0)
    figure_of_block(args, result, "First block", "gpt_q4_first_block.png")

    row = result["predicting_positions"][0]
    _, weights = all_blocks(model, idx)  # (blocks, 1, heads, T, T)
    of_row = weights[:, 0, :, row, : row + 1].double().cpu()  # (blocks, heads, row + 1)
    mean_weight, entropies = of_row.mean(dim=1), entropy(of_row)
    names, groups = group_by_word(words, result["tokens"][: row + 1])
    by_word = torch.stack([mean_weight[:, group].sum(dim=1) for group in groups], dim=1)
    result["all_blocks_mean_weight"] = mean_weight.tolist()
    result["all_blocks_words"] = names
    result["all_blocks_mean_weight_by_word"] = by_word.tolist()
    result["all_blocks_entropy_bits_per_head"] = entropies.tolist()
    result["all_blocks_entropy_bits"] = entropies.mean(dim=1).tolist()
    result["largest_possible_entropy_bits"] = math.log2(row + 1)
    figures.attention_all_blocks(
        names, by_word.numpy(), entropies.numpy(), result["word"],
        args.figures / "gpt_q4_all_blocks.png",
    )
    means = result["all_blocks_entropy_bits"]
    print("    mean entropy per block (bits): " + " ".join(f"{m:.2f}" for m in means))


def group_by_word(words, tokens):
    """Texts and positions of the words in `tokens`; a token outside all words is its own group.

    words: what `word_positions` returns. A token that two words share counts to the first.
    """
    names, groups, word_of = [], [], {}
    for number, (_, positions) in enumerate(words):
        for position in positions:
            word_of.setdefault(position, number)
    for position, token in enumerate(tokens):
        number = word_of.get(position)
        if number is not None and number == word_of.get(position - 1):
            groups[-1].append(position)
        else:
            names.append(token if number is None else words[number][0])
            groups.append([position])
    return names, groups


def sample_words(args, model):
    """A sampled continuation of the prompt with at least WORD words: ids (1, T), its words."""
    encoder = args.encoder
    prompt = torch.tensor([args.prompt_ids], device=args.device)
    room = model.block_size - prompt.shape[1]
    generator = torch.Generator(device=args.device).manual_seed(args.seed)
    for _ in range(20):
        idx = generate(args, model, prompt, room, generator)[0].tolist()
        idx = idx[: sentence_length(encoder, idx, prompt.shape[1], least_words=WORD)]
        words = word_positions(encoder, idx)
        # The last token of a word is certain only when another token follows.
        if len(words) >= WORD and words[WORD - 1][1][-1] < len(idx) - 1:
            return torch.tensor([idx], device=args.device), words
    raise ValueError(
        f"no sample of {model.block_size} tokens had {WORD} words: use a shorter prompt or a "
        "larger --block-size"
    )


def generate(args, model, prompt, length, generator, on_token=None):
    return model.generate(
        prompt, length, temperature=args.temperature, do_sample=True, top_k=args.top_k,
        top_p=args.top_p, generator=generator, on_token=on_token,
    )


def explain_word(args, model, idx, words, block):
    """Scores and weights of one block for the positions that predict the 11th word.

    The claim "the top-attended token made the model say this" is checked: each earlier token
    in turn is hidden from those positions, and the word's log-probability measured. A position
    cannot be hidden from itself: where it attends to itself most, the "top token" hidden is the
    strongest before it.
    """
    encoder = args.encoder
    word, positions = words[WORD - 1]
    rows = [position - 1 for position in positions]
    scores, weights = (t[0].double().mean(dim=0).cpu() for t in mingpt.attention.attention(
        model, idx, block
    ))  # fmt: skip
    first = rows[0]
    top, hidden = int(weights[first].argmax()), int(weights[first, :first].argmax())
    tokens = token_texts(encoder, idx[0].tolist())

    def effect(key, blocks):
        return knockout(model, idx, key, rows, blocks).sum().item()

    everywhere = [effect(key, None) for key in range(first)]
    result = {
        "sentence": encoder.decode(idx[0].tolist()),
        "tokens": tokens,
        "word": word,
        "word_positions": positions,
        "predicting_positions": rows,
        "mean_score": [scores[row, : row + 1].tolist() for row in rows],
        "mean_weight": [weights[row, : row + 1].tolist() for row in rows],
        "sum_of_weights": [weights[row].sum().item() for row in rows],
        "sum_of_scores": [scores[row, : row + 1].sum().item() for row in rows],
        "top_token": tokens[top],
        "top_position": top,
        "hidden_token": tokens[hidden],
        "hidden_position": hidden,
        "word_log_prob_nats": scoring.token_log_probs(model, idx)[0, rows].sum().item(),
        "word_log_prob_change_hiding_top_token_in_this_block_nats": effect(hidden, [block]),
        "word_log_prob_change_hiding_top_token_in_all_blocks_nats": everywhere[hidden],
        "word_log_prob_change_hiding_each_token_in_all_blocks_nats": everywhere,
        "correlation_of_weight_with_loss_of_log_prob": correlation(
            weights[first, :first], -torch.tensor(everywhere)
        ),
    }
    name = "first" if block == 0 else "last"
    question = "Q4" if block == 0 else "Q3"
    print(f"{question}  {name} block, predicting {word!r} in {result['sentence']!r}")
    for row, row_weights in zip(rows, result["mean_weight"], strict=True):
        print("    " + paint_terminal(tokens[: row + 1], row_weights, sys.stdout.isatty()))
    it = "it"
    if hidden != top:
        it = f"it from itself is impossible; hiding the next, {tokens[hidden]!r},"
    print(
        f"    weights sum to {result['sum_of_weights'][0]:.6f}; top token {tokens[top]!r}: hiding "
        f"{it} changes log p({word!r}) by "
        f"{result['word_log_prob_change_hiding_top_token_in_all_blocks_nats']:+.3f} nats"
    )
    return result


def correlation(a, b):
    """Pearson correlation of two vectors, None where one is constant or too short."""
    if len(a) < 3 or a.std() == 0 or b.std() == 0:
        return None
    return torch.corrcoef(torch.stack([a, b.to(a)]))[0, 1].item()


def figure_of_block(args, result, title, name):
    figures.painted_attention(
        result["tokens"], result["predicting_positions"], result["word_positions"],
        result["mean_score"], result["mean_weight"], title, args.figures / name,
    )


def q5_log_probability(args, model, results):
    """Question 5: log-probability of a sampled sentence, the sum over its tokens."""
    encoder = args.encoder
    prompt = torch.tensor([encoder.encode(SCORED_PROMPT)], device=args.device)
    start = prompt.shape[1]
    generator = torch.Generator(device=args.device).manual_seed(args.seed)

    def stream(column):
        print(encoder.decode(column.tolist()), end="", flush=True)

    idx = generate(
        args, model, prompt, model.block_size - start, generator,
        on_token=stream if sys.stdout.isatty() else None,
    )
    length = sentence_length(encoder, idx[0].tolist(), start, least_words=5)
    idx = idx[:, :length]
    log_probs = scoring.token_log_probs(model, idx)[0, start - 1 :].cpu()
    tokens = token_texts(encoder, idx[0, start:].tolist())
    results["q5"] = {
        "prompt": SCORED_PROMPT,
        "sentence": encoder.decode(idx[0, start:].tolist()),
        "tokens": tokens,
        "token_log_probs_nats": log_probs.tolist(),
        "log_prob_nats": log_probs.sum().item(),
        "log_prob_brute_force_nats": brute_force_log_prob(model, idx, start),
        "perplexity_per_token": scoring.perplexity(log_probs).item(),
        "probability": math.exp(log_probs.sum().item()),
    }
    figures.token_log_probs(tokens, log_probs.tolist(), args.figures / "gpt_q5_log_prob.png")
    q5 = results["q5"]
    print(f"Q5  sampled sentence after {SCORED_PROMPT!r}: {q5['sentence']!r}")
    print(
        f"    log-probability {q5['log_prob_nats']:.3f} nats (brute force "
        f"{q5['log_prob_brute_force_nats']:.3f}), perplexity {q5['perplexity_per_token']:.2f}"
    )


@torch.no_grad()
def brute_force_log_prob(model, idx, start):
    """The same number the slow way: one forward pass per token, probabilities multiplied."""
    log_product = 0.0
    for end in range(start, idx.shape[1]):
        probabilities = model(idx[:, :end])[0][0, -1].double().softmax(dim=-1)
        log_product += math.log(probabilities[idx[0, end]])
    return log_product


def heldout_bits_per_byte(args, model, book):
    size = min(HELDOUT_WINDOW, model.block_size)
    return scoring.bits_per_byte(
        model, book.train, book.heldout, heldout_bytes(args, book), size,
        min(HELDOUT_STRIDE, max(1, size // 2)),
    )


def heldout_bytes(args, book):
    return len(args.encoder.decode_bytes(book.heldout.tolist()))


def _describe(model):
    c = model.config
    return (
        f"{c.n_layer} layers x {c.n_embd}, {c.n_head} heads, vocabulary {c.vocab_size}, "
        f"{model.num_parameters / 1e6:.1f}M parameters"
    )


def _describe_recipe(recipe):
    discount, prior = recipe["discount"], recipe["discount_prior_of_unseen_tokens"]
    shares = "" if discount is None else f" ({discount:.3f}, prior {prior})"
    return (
        f"{recipe['objective']}{shares}; {recipe['optimizer']}, rate {recipe['learning_rate']}, "
        f"{recipe['max_iters']} iterations of {recipe['batch_size']} blocks, "
        f"dropout {recipe['dropout']}, weight decay {recipe['weight_decay']}, of embeddings "
        f"{recipe['embedding_weight_decay']}, embedding std {recipe['embedding_init_std']}, "
        f"averaged by {recipe['ema_decay']}"
    )


class OneLineParser(argparse.ArgumentParser):
    """Reports an error as one line, without the usage."""

    def error(self, message):
        self.exit(2, None if launched_rank() else f"{self.prog}: error: {message}\n")


class DefaultsFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults, except where there is none to show."""

    def _get_help_string(self, action):
        if action.default is None or action.default is False:
            return action.help
        return super()._get_help_string(action)


def parse_arguments(argv):
    """The options, Namespace, and the names of those about training that were given."""
    parser = OneLineParser(
        prog="example_gpt.py",
        description="Part 2: train GPT-2 on Alice in Wonderland and answer the five questions.",
        formatter_class=DefaultsFormatter,
    )
    add = parser.add_argument
    add("--weights", metavar="PATH", help="load this model instead of training one")
    add("--model", default="auto", help="auto (gpt2 with CUDA, else gpt-mini) or one of "
        + ", ".join(MODEL_TYPES))
    add("--vocab", choices=("gpt2", "book"), default="gpt2",
        help="GPT-2's 50,257 tokens, or only those the training part uses and all bytes")
    add("--max-iters", type=int, help="training iterations (default: 300 on CPU, 2000 on CUDA)")
    add("--batch-size", type=int, help="blocks per iteration (default: 32 on CPU, 64 on CUDA)")
    add("--accumulation-steps", type=int, default=1,
        help="parts each batch is computed in, to save memory")
    add("--compile", action="store_true", help="compile the training step with torch.compile")
    add("--learning-rate", type=float, help="peak rate (default: 2e-3 on CPU, 5e-4 on CUDA)")
    add("--objective", choices=("discounted", "cross-entropy"),
        help="GPT-2's cross-entropy, or that of targets with an absolute discount (default: "
        "discounted on CPU with --vocab gpt2, else cross-entropy)")
    add("--dropout", type=float, help="dropout rate (default: 0.3 on CPU, 0.1 on CUDA)")
    add("--block-size", type=int, default=64, help="tokens per block")
    add("--seed", type=int, default=0, help="seed of everything random")
    add("--device", default="auto", help="auto, cpu or cuda")
    add("--precision", default="auto",
        help="float32, bfloat16, or auto: bfloat16 products in training where the device has them")
    add("--prompt", default=PROMPT, help="start of the sentence of questions 3 and 4")
    add("--temperature", type=float, default=0.8, help="sampling temperature")
    add("--top-k", type=int, default=40, help="sample from the k likeliest tokens; 0 for all")
    add("--top-p", type=float, default=1.0, help="sample from the smallest set of this probability")
    add("--sentence", default=SENTENCE, help="sentence to invert in question 2")
    add("--starts", type=int, default=20, help="random starts of the inversion")
    add("--resume", action="store_true",
        help=f"go on from {TRAINING_FILE} in the --save folder, written every "
        f"{TRAINING_FILE_INTERVAL} iterations")
    add("--save", metavar="DIR", default="runs", help="folder for the trained model, gpt.pt")
    add("--out", metavar="DIR", default="report", help="folder for figures/ and results_gpt.json")
    args = parser.parse_args(argv)
    return args, [
        name for name in TRAINING_OPTIONS if getattr(args, name) != parser.get_default(name)
    ]


def validate(args, training_options):
    """Check every option before any work; fill in what depends on others."""
    kind = torch.device(args.device).type
    if resolve_precision(args.precision, args.device) is None:
        args.precision = "float32"
    else:
        args.precision = "bfloat16"
    if args.weights and training_options:
        option = "--" + training_options[0].replace("_", "-")
        raise ValueError(f"--weights loads a trained model: it does not go with {option}")
    if args.model == "auto":
        args.model = "gpt2" if kind == "cuda" else "gpt-mini"
    if args.model not in MODEL_TYPES:
        raise ValueError(
            f"--model: unknown model {args.model!r}; allowed: auto, {', '.join(MODEL_TYPES)}"
        )
    args.preset = PRESETS[kind]
    for name in ("max_iters", "batch_size", "learning_rate", "dropout"):
        if getattr(args, name) is None:
            setattr(args, name, args.preset[name])
    if args.objective is None:
        discounted = kind == "cpu" and args.vocab == "gpt2"
        args.objective = "discounted" if discounted else "cross-entropy"
    if args.objective == "discounted" and args.vocab == "book":
        raise ValueError(
            "--objective discounted makes room for tokens that training never shows: "
            "it does not go with --vocab book"
        )
    for name in ("max_iters", "batch_size", "block_size", "starts", "accumulation_steps"):
        if getattr(args, name) < 1:
            option = name.replace("_", "-")
            raise ValueError(f"--{option} should be at least 1, not {getattr(args, name)}")
    if not 0 <= args.seed <= LARGEST_SEED:
        raise ValueError(f"--seed should be 0 to {LARGEST_SEED}, not {args.seed}")
    if not (args.learning_rate > 0 and math.isfinite(args.learning_rate)):
        raise ValueError(f"--learning-rate should be above 0, not {args.learning_rate}")
    if not 0 <= args.dropout < 1:
        raise ValueError(f"--dropout should be at least 0 and below 1, not {args.dropout}")
    parts = process_count() * args.accumulation_steps
    if args.batch_size % parts:
        raise ValueError(
            f"--batch-size {args.batch_size} cannot be divided among {process_count()} processes "
            f"x {args.accumulation_steps} accumulation steps"
        )
    if args.top_k < 0:
        raise ValueError(f"--top-k should be at least 0, not {args.top_k}")
    args.top_k = args.top_k or None
    check_sampling(args.temperature, args.top_k, args.top_p)

    book = load_book()
    if args.weights:
        args.content = checkpoint.read(args.weights)
        block_size = checkpoint.build(args.content).block_size
        encoder = args.encoder = checkpoint.encoder(args.content)
    else:
        block_size = args.block_size
        blocks = len(BlockDataset(book.train, block_size))
        if args.batch_size > blocks:
            raise ValueError(
                f"--batch-size {args.batch_size} is larger than the book: it has {blocks} blocks"
            )
        encoder = args.encoder = {
            "gpt2": get_encoder, "book": lambda: BookVocabulary.of(book.train)
        }[args.vocab]()
    args.book = book if encoder is get_encoder() else Book(
        *(torch.tensor(encoder.from_gpt2(part.tolist())) for part in book)
    )
    if block_size < 2 * WORD:
        raise ValueError(
            f"--block-size {block_size} is too small for a sentence of {WORD} words: "
            f"give at least {2 * WORD}"
        )
    for option, text in (("--prompt", args.prompt), ("--sentence", args.sentence)):
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise ValueError(f"{option} is not valid UTF-8: {text!r}")
    args.prompt_ids = encoder.encode(args.prompt)
    args.target = encoder.encode(args.sentence)
    for option, ids in (("--prompt", args.prompt_ids), ("--sentence", args.target)):
        if not ids:
            raise ValueError(f"{option} is empty")
        if len(ids) > block_size:
            raise ValueError(
                f"{option} has {len(ids)} tokens; the model's block holds {block_size}"
            )
    prompt_words = len(word_positions(encoder, args.prompt_ids))
    if prompt_words >= WORD:
        raise ValueError(
            f"--prompt has {prompt_words} words; the model is to write word {WORD}: "
            f"give at most {WORD - 1}"
        )
    continued = word_positions(encoder, args.prompt_ids + encoder.encode("a"))
    if len(continued) >= WORD and continued[WORD - 1][1][0] < len(args.prompt_ids):
        raise ValueError(
            f"--prompt ends in {args.prompt.split()[-1]!r}, which word {WORD} would begin with; "
            "the model is to write that word: leave it out"
        )
    needed = WORD - prompt_words + 1  # a token per missing word, and one to end the last
    if len(args.prompt_ids) + needed > block_size:
        raise ValueError(
            f"--prompt has {len(args.prompt_ids)} tokens and {prompt_words} words; word {WORD} "
            f"takes at least {needed} more tokens, and the model's block holds {block_size}"
        )
    args.out, args.save = Path(args.out), Path(args.save)
    args.figures = args.out / "figures"


def check_output(args):
    """Check before any work that the files can be written."""
    files, folders = [args.out / RESULTS_FILE], [args.figures]
    if not args.weights:
        files += [args.save / WEIGHTS_FILE, args.save / TRAINING_FILE]
        folders.append(args.save)
    for file in files:
        if file.is_dir():
            raise ValueError(f"cannot write {file}: there is a folder of this name")
    for folder in folders:
        _check_writable(folder)


def _check_writable(folder):
    try:
        with atomic_path(folder / "gpt.probe"):
            pass
        (folder / "gpt.probe").unlink()
    except OSError as error:
        raise ValueError(f"cannot write to {folder}: {error.strerror}") from None


def launched_rank():
    """This process's number under torchrun, known before the processes join; else 0."""
    return int(os.environ.get("RANK", "0"))


def meet_processes():
    """Under torchrun, the store that its processes share; None for a single process."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return None
    store, _, _ = next(distributed.rendezvous("env://", timeout=PROCESS_TIMEOUT))
    return store


def join_processes(store, device):
    """Let the processes train together on `device`, each with its own GPU where that is CUDA."""
    if torch.device(device).type == "cuda":
        number, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if number >= gpus:
            raise ValueError(f"one process per GPU: torchrun started more than the {gpus} here")
        torch.cuda.set_device(number)
    distributed.init_process_group(
        "nccl" if torch.device(device).type == "cuda" else "gloo",
        store=store, rank=launched_rank(),
        world_size=int(os.environ["WORLD_SIZE"]), timeout=PROCESS_TIMEOUT,
    )  # fmt: skip


def report_error(message, store):
    """One line on stderr; what the first process says too, the others leave to it."""
    message = " ".join(message.splitlines())
    if store is None or launched_rank() == 0:
        print(f"example_gpt.py: error: {message}", file=sys.stderr, flush=True)
        if store is not None:
            store.set("error", message)
        return
    deadline = time.monotonic() + REPORT_SECONDS
    try:
        while not store.check(["error"]) and time.monotonic() < deadline:
            time.sleep(0.1)
        said = store.check(["error"]) and store.get("error").decode() == message
    except RuntimeError:  # the store ended with the first process
        said = False
    if not said:
        line = f"example_gpt.py: error in process {launched_rank()}: {message}"
        print(line, file=sys.stderr, flush=True)


def lost_contact(error):
    """Whether a RuntimeError says that another process is gone; gloo has no class for it."""
    return isinstance(error, distributed.DistError) or "gloo" in str(error)


def main(argv=None):
    """Run with the given command line; returns the exit code."""
    store = None
    try:
        args, training_options = parse_arguments(argv)
        store = meet_processes()
        args.device = resolve_device(args.device)
        if store is not None:
            join_processes(store, args.device)
        validate(args, training_options)
        if process_rank() == 0:
            check_output(args)
        answer_all(args)
    except (ValueError, OSError) as error:
        report_error(str(error), store)
        return 2
    except RuntimeError as error:
        if not lost_contact(error):
            raise
        report_error("another process of this training ended", store)
        return 2
    except KeyboardInterrupt:
        if launched_rank() == 0:
            print("example_gpt.py: interrupted", file=sys.stderr)
        return 130
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()
    return 0


def answer_all(args):
    """Train or load, then answer the questions in order."""
    results = {
        "settings": {
            name: str(value) if isinstance(value, Path) else value
            for name, value in vars(args).items()
            if name not in DERIVED
        },
        "timings": {},
    }
    if args.weights:
        for name in (*TRAINING_OPTIONS, "precision"):
            results["settings"].pop(name, None)

    def timed(name, question, *arguments):
        began = time.perf_counter()
        answer = question(args, *arguments, results)
        results["timings"][f"{name}_seconds"] = time.perf_counter() - began
        write_results(args, results)
        return answer

    began = time.perf_counter()
    book = args.book
    if process_rank():  # the first process alone answers and writes
        train(args, book)
        return
    model = timed("q1", q1_train, book)
    timed("q2", q2_inversion, model, book)
    idx, words = timed("q3", q3_attention_last_block, model)
    timed("q4", q4_attention_all_blocks, model, idx, words)
    timed("q5", q5_log_probability, model)
    results["timings"]["total_seconds"] = time.perf_counter() - began
    write_results(args, results)
    print(f"wrote {args.out / RESULTS_FILE} and {args.figures}/gpt_*.png "
          f"in {results['timings']['total_seconds']:.0f} s")


def write_results(args, results):
    """Write the answers so far: an error in a later question loses none of them."""
    with atomic_path(args.out / RESULTS_FILE) as path:
        path.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    signal.signal(signal.SIGINT, on_interrupt)
    sys.exit(main())
