"""Exercise 1, Part 2: train GPT-2 on Alice in Wonderland, invert it, look at it, score with it.

One function per question of section 3.2.4, in order; `python example_gpt.py --help` lists the
options, mingpt/studies/exercise.py holds them and the training.

All of this code was written with an AI assistant. Tests hold each formula to a closed form, an
enumeration or an independent implementation, and each claim to a measurement.
"""

if __name__ == "__main__":
    from mingpt import startup

    startup.prepare("example_gpt.py")  # before the imports that take seconds

import math
import sys

import torch
from tqdm import tqdm

from mingpt import cli, figures, inversion, scoring
from mingpt.attention import all_blocks, entropy, explain_word
from mingpt.cli import Answer, Run, Study
from mingpt.compressors import COMPRESSORS
from mingpt.recipe import describe
from mingpt.studies import STUDIES, exercise
from mingpt.studies.exercise import WORD
from mingpt.studies.parts.forecast import forecast
from mingpt.text import (
    TooFewWordsError,
    group_by_word,
    paint_terminal,
    sentence_length,
    sure_sentence,
    token_texts,
)

# Question 5 scores what the model adds to this; with --text, to a new line.
SCORED_PROMPT, SCORED_PROMPT_OF_TEXT = "\n\nAlice", "\n"
MARGIN = 1.0  # logits by which the inverted sentence leads, so that no rounding undoes it
# Questions 3 and 4 explain a word that the model is sure of: of the sentences sampled one after
# another, the first whose 11th word has at least this probability.
SURE = 0.5
PAINTED_ROWS = 3  # in figures: a word without spaces may have as many tokens as the block
REPEAT_PROMPTS_OF_ANY_TEXT = (
    'Repeat after me: "{sentence}"',
    'Please say "{sentence}". You said "',
)
REPEAT_PROMPTS = (
    *REPEAT_PROMPTS_OF_ANY_TEXT,
    '"{sentence}," said the Gryphon. "{sentence}," said Alice. "',
)
COMPRESSORS_BPB = {name: bpb for name, (_, bpb) in COMPRESSORS.items()}


# --- Question 1: training -----------------------------------------------------------------------


def q1_train(run: Run) -> Answer:
    """Question 1: train as standard GPT-2; loss of every iteration, held-out bits per byte.

    The blocks, the model and the loss reported are GPT-2's. On a CPU what is minimised departs
    from its plain cross-entropy, for a book this small: with GPT-2's vocabulary the absolute
    discount of mingpt/discounting.py is added, whose share for unseen tokens follows a prior
    on their spelling and id rank; the token embedding also starts wider (std 0.08) and decays
    (2.0), and the dropout is higher. `--objective cross-entropy` trains on the plain
    cross-entropy, the default with CUDA. The recipe is mingpt/recipe.py; the results hold it.
    With `--text FILE` that text is the book. `--study objective` runs the plain cross-entropy
    beside it.

    The first loss lies above ln V, what a uniform guess costs: the untrained logits of a position
    vary over the vocabulary, and log sum exp of V numbers of variance s^2 is about ln V + s^2 / 2
    (more here: the head shares the embedding, so the token that was read has a large logit).
    """
    gpt = run.models["gpt"]  # trained by mingpt.studies.exercise.train, or loaded
    model, book, history = gpt.model, gpt.book, gpt.history
    bpb = scoring.heldout_bits_per_byte(model, book, gpt.encoder)
    bits = bpb * scoring.heldout_bytes(book, gpt.encoder)
    numbers = {
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
        "heldout_perplexity_per_token": 2 ** (bits / len(book.heldout)),
        **({"compressors_bits_per_byte": COMPRESSORS_BPB} if gpt.text is None else
           {"text": gpt.text}),
        "recipe": gpt.recipe,
        **history,
    }  # fmt: skip
    drawn = {}
    if gpt.recipe is not None:
        numbers["start"] = exercise.untrained_loss(gpt)
    if history:
        drawn["q1_loss"] = figures.training_loss(
            history["training_loss_nats_per_token"],
            history["heldout_bits_per_byte_by_iteration"],
            numbers.get("compressors_bits_per_byte", {}),
            model.config.vocab_size,
        )
    lines = [f"    held-out text: {bpb:.4f} bits per byte"]
    if run.args.weights:
        if gpt.recipe:
            lines.insert(0, f"    trained with {describe(gpt.recipe)}")
        lines.insert(0, f"Q1  loaded {run.args.weights}: {exercise.describe(model)}")
    return Answer(numbers, drawn, "\n".join(lines))


# --- Question 2: inversion ----------------------------------------------------------------------


def q2_inversion(run: Run) -> Answer:
    """Question 2: input vectors that make the frozen model say the sentence (section 3.2.2)."""
    model, encoder, *_ = run.models["gpt"]
    target = torch.tensor(encoder.encode(run.args.sentence))
    found = inversion.invert_many(model, [target] * run.args.starts, run.args.seed, MARGIN)
    numbers = inversion_numbers(run, found, target)
    figure = figure_of_inversion(numbers, found)
    return Answer(numbers, {"q2_inversion": figure}, inversion_text(numbers))


def inversion_numbers(run, found, target):
    """What the Inversions of the sentence, its tokens (T,), came to, as numbers."""
    model, encoder, book, *_, text = run.models["gpt"]
    sentence, ids, first = run.args.sentence, target.tolist(), found[0]
    tokens, in_book = token_texts(encoder, ids), set(book.train.tolist())
    nearest = inversion.nearest_tokens(model, first.vectors, book.train)
    # A sentence that fills the block leaves no room to ask for it.
    prompts = REPEAT_PROMPTS if text is None else REPEAT_PROMPTS_OF_ANY_TEXT
    if len(ids) == model.block_size:
        prompts = ()
    return {
        "sentence": sentence,
        "tokens": tokens,
        "tokens_never_in_training_part": [
            text for text, token in zip(tokens, ids, strict=True) if token not in in_book
        ],
        "stops_at_margin_logits": MARGIN,
        **inversion.success_of(found),
        "steps_per_start": [each.steps for each in found],
        "steps_first_start": first.steps,
        "loss_first_start_nats_per_token": first.losses,
        "decoded_by_step": {step: encoder.decode(said.tolist()) for step, said in first.history},
        "margin_logits": first.margins.tolist(),
        "nearest_token": token_texts(encoder, nearest.ids.tolist()),
        "cosine_to_most_similar_token": nearest.cosines.tolist(),
        **inversion.way_of(model, found, target),
        "typical_distance_between_tokens": nearest.typical_distance,
        "prediction_from_nearest_tokens": encoder.decode(nearest.predicted.tolist()),
        "nearest_tokens_reproduce_sentence": bool((nearest.predicted == target).all()),
        "random_targets": random_targets(run, len(ids)),
        "repeat_after_me": [
            inversion.prompt_to_repeat(model, encoder, sentence, prompt)._asdict()
            for prompt in prompts
        ],
    }


def figure_of_inversion(numbers, found):
    distances = (numbers[f"distance_to_nearest_token{end}"] for end in ("_at_start", ""))
    return figures.inversion(
        [each.losses for each in found], numbers["tokens"], numbers["margin_logits"], MARGIN,
        list(zip(*distances, strict=True)), numbers["nearest_token_is_the_target"],
        numbers["typical_distance_between_tokens"],
    )  # fmt: skip


def random_targets(run, length):
    """Can any output be reached? Sequences of tokens drawn uniformly from the vocabulary."""
    model, seed = run.models["gpt"].model, run.args.seed
    generator = torch.Generator().manual_seed(seed)
    shape = (run.args.starts, length)
    targets = torch.randint(model.config.vocab_size, shape, generator=generator)
    found = inversion.invert_many(model, list(targets), seed, MARGIN)
    steps = torch.tensor([each.steps for each in found]).double()
    numbers = inversion.success_of(found)
    return {"tokens_each": length, **numbers, "median_steps": steps.median().item()}


def inversion_text(q2):
    """What question 2 prints of its numbers."""
    lines = [f'Q2  inversion of "{q2["sentence"]}"']
    for step, text in q2["decoded_by_step"].items():
        lines.append(f"    step {step:4d}: {text!r}")
    lines.append(
        f"    {q2['starts_reached']} of {q2['starts']} starts reach it by {MARGIN:g} logit; tokens "
        f"never seen in training: {q2['tokens_never_in_training_part']}"
    )
    there = q2["random_targets"]
    lines.append(
        f"    random tokens: {there['starts_reached']} of {there['starts']} sequences are reached"
    )
    lines.append(
        f"    the target is the nearest real token of {sum(q2['nearest_token_is_the_target'])} of "
        f"{len(q2['tokens'])} vectors; median distance to the nearest "
        f"{q2['median_distance_to_nearest_token_at_start']:.2f} at the start, "
        f"{q2['median_distance_to_nearest_token']:.2f} at the end, after a way of "
        f"{q2['median_distance_from_start']:.2f}"
    )
    if q2["nearest_tokens_reproduce_sentence"]:
        lines.append("    nearest real tokens reproduce the sentence")
    else:
        said = q2["prediction_from_nearest_tokens"]
        lines.append(f"    nearest real tokens predict {said!r} instead")
    for attempt in q2["repeat_after_me"]:
        lines.append(f"    {attempt['prompt']!r} -> {attempt['continuation']!r}")
    return "\n".join(lines)


# --- Questions 3 and 4: attention ---------------------------------------------------------------


def q3_attention_last_block(run: Run) -> Answer:
    """Question 3: what the last block attends to when the model writes the 11th word."""
    try:
        numbers = explained_word(run, block=-1)
    except TooFewWordsError as error:
        return not_answered("Q3", error)
    figure = figure_of_block(numbers, "Last block")
    return Answer(numbers, {"q3_last_block": figure}, word_text("Q3  last block", numbers))


def q4_attention_all_blocks(run: Run) -> Answer:
    """Question 4: the same for the first block, then all blocks side by side."""
    try:
        numbers = explained_word(run, block=0)
    except TooFewWordsError as error:
        return not_answered("Q4", error)
    drawn = {"q4_first_block": figure_of_block(numbers, "First block")}

    idx, words, *_ = run.once(sampled_sentence)
    row = numbers["predicting_positions"][0]
    _, weights = all_blocks(run.models["gpt"].model, idx)  # (blocks, 1, heads, T, T)
    of_row = weights[:, 0, :, row, : row + 1].double().cpu()  # (blocks, heads, row + 1)
    mean_weight, entropies = of_row.mean(dim=1), entropy(of_row)
    names, groups = group_by_word(words, numbers["tokens"][: row + 1])
    by_word = torch.stack([mean_weight[:, group].sum(dim=1) for group in groups], dim=1)
    means = entropies.mean(dim=1).tolist()
    numbers |= {
        "all_blocks_mean_weight": mean_weight.tolist(),
        "all_blocks_words": names,
        "all_blocks_mean_weight_by_word": by_word.tolist(),
        "all_blocks_entropy_bits_per_head": entropies.tolist(),
        "all_blocks_entropy_bits": means,
        "largest_possible_entropy_bits": math.log2(row + 1),
    }
    drawn["q4_all_blocks"] = figures.attention_all_blocks(
        names, by_word.numpy(), entropies.numpy(), numbers["word"]
    )
    text = word_text("Q4  first block", numbers)
    shown = " ".join(f"{mean:.2f}" for mean in means)
    return Answer(numbers, drawn, f"{text}\n    mean entropy per block (bits): {shown}")


def not_answered(name, error):
    """The Answer to a question that has no sentence to look at."""
    return Answer({"not_answered": str(error)}, {}, f"{name}  not answered: {error}")


def sampled_sentence(run: Run):
    """What questions 3 and 4 look at, a SureSentence: the first sampled sentence whose 11th word
    has a probability of at least SURE."""
    args, gpt = run.args, run.models["gpt"]
    generator = torch.Generator(device=args.device).manual_seed(args.seed)
    prompt = gpt.encoder.encode(args.prompt)
    return sure_sentence(
        gpt.model, gpt.encoder, prompt, generator, WORD, SURE, **sampling(args)
    )


def sampling(args):
    """The options of `GPT.generate` that say how tokens are drawn."""
    return {"temperature": args.temperature, "top_k": args.top_k, "top_p": args.top_p}


def explained_word(run: Run, block):
    """Scores, weights and effects of one block where it predicts the 11th word, as numbers."""
    gpt = run.models["gpt"]
    chosen = run.once(sampled_sentence)
    idx = chosen.idx
    word, positions = chosen.words[WORD - 1]
    why = explain_word(gpt.model, idx, positions, block)
    tokens = token_texts(gpt.encoder, idx[0].tolist())
    return {
        "sentence": gpt.encoder.decode(idx[0].tolist()),
        "token_ids": idx[0].tolist(),
        "tokens": tokens,
        "word": word,
        "word_positions": positions,
        "predicting_positions": why.rows,
        "mean_score": [why.scores[row, : row + 1].tolist() for row in why.rows],
        "mean_weight": [why.weights[row, : row + 1].tolist() for row in why.rows],
        "sum_of_weights": [why.weights[row].sum().item() for row in why.rows],
        "sum_of_scores": [why.scores[row, : row + 1].sum().item() for row in why.rows],
        "top_token": tokens[why.top],
        "top_position": why.top,
        "hidden_token": tokens[why.hidden],
        "hidden_position": why.hidden,
        "rule": f"the first sampled sentence whose word {WORD} has p >= {SURE}",
        "rule_met": chosen.sure,
        "number_of_the_sample": chosen.number,
        "word_probability": chosen.probability,
        "word_log_prob_nats": why.log_prob,
        "word_log_prob_change_hiding_top_token_in_this_block_nats":
            why.changes_in_block[why.hidden],
        "word_log_prob_change_hiding_top_token_in_all_blocks_nats": why.changes[why.hidden],
        "word_log_prob_change_hiding_each_token_in_this_block_nats": why.changes_in_block,
        "word_log_prob_change_hiding_each_token_in_all_blocks_nats": why.changes,
        "correlation_of_weight_with_loss_of_log_prob_in_this_block":
            why.correlation_in_block and why.correlation_in_block._asdict(),
        "correlation_of_weight_with_loss_of_log_prob_in_all_blocks":
            why.correlation and why.correlation._asdict(),
    }  # fmt: skip


def word_text(name, result):
    """What questions 3 and 4 print of an explained word."""
    lines = [
        f"{name}, predicting {result['word']!r} (p = {result['word_probability']:.3f}) in "
        f"{result['sentence']!r}"
    ]
    tokens, rows = result["tokens"], result["predicting_positions"]
    for row, weights in zip(rows, result["mean_weight"], strict=True):
        lines.append("    " + paint_terminal(tokens[: row + 1], weights, sys.stdout.isatty()))
    it = "it"
    if result["hidden_position"] != result["top_position"]:
        it = f"it from itself is impossible; hiding the next, {result['hidden_token']!r},"
    here, everywhere = (
        result[f"word_log_prob_change_hiding_top_token_in_{where}_nats"]
        for where in ("this_block", "all_blocks")
    )
    lines.append(
        f"    weights sum to {result['sum_of_weights'][0]:.6f}, scores to "
        f"{result['sum_of_scores'][0]:.3f}; top token {result['top_token']!r}: hiding {it} "
        f"changes log p({result['word']!r}) by {here:+.3f} nats in this block, "
        f"{everywhere:+.3f} in all"
    )
    for where in ("this_block", "all_blocks"):
        found = result[f"correlation_of_weight_with_loss_of_log_prob_in_{where}"]
        if found is not None:
            lines.append(
                f"    weight and loss of log p where hidden in {where.replace('_', ' ')}: r = "
                f"{found['r']:+.2f}, n = {found['n']}, 95 % {found['low']:+.2f} to "
                f"{found['high']:+.2f}"
            )
    return "\n".join(lines)


def figure_of_block(result, title):
    return figures.painted_attention(
        result["tokens"], result["predicting_positions"][:PAINTED_ROWS], result["word_positions"],
        result["mean_score"][:PAINTED_ROWS], result["mean_weight"][:PAINTED_ROWS],
        {f"hidden in {name}":
             result[f"word_log_prob_change_hiding_each_token_in_{key}_nats"]
         for name, key in (("this block", "this_block"), ("all blocks", "all_blocks"))}, title,
    )  # fmt: skip


# --- Question 5: log-probability ----------------------------------------------------------------


def q5_log_probability(run: Run) -> Answer:
    """Question 5: log-probability of a sampled sentence, the sum over its tokens."""
    model, encoder, *_ = run.models["gpt"]
    prompt = scored_prompt(run)
    start = len(encoder.encode(prompt))
    idx = written_sentence(run)
    length = sentence_length(encoder, idx[0].tolist(), start, least_words=5)
    idx = idx[:, :length]
    log_probs = scoring.token_log_probs(model, idx)[0, start - 1 :].cpu()
    tokens = token_texts(encoder, idx[0, start:].tolist())
    q5 = {
        "prompt": prompt,
        "sentence": encoder.decode(idx[0, start:].tolist()),
        "tokens": tokens,
        "token_log_probs_nats": log_probs.tolist(),
        "log_prob_nats": log_probs.sum().item(),
        "log_prob_brute_force_nats": scoring.brute_force_log_prob(model, idx, start),
        "perplexity_per_token": scoring.perplexity(log_probs).item(),
        "probability": math.exp(log_probs.sum().item()),
    }
    text = (
        f"Q5  sampled sentence after {prompt!r}: {q5['sentence']!r}\n"
        f"    log-probability {q5['log_prob_nats']:.3f} nats (brute force "
        f"{q5['log_prob_brute_force_nats']:.3f}), perplexity {q5['perplexity_per_token']:.2f}"
    )
    figure = figures.token_log_probs(tokens, log_probs.tolist())
    return Answer(q5, {"q5_log_prob": figure}, text)


def scored_prompt(run: Run):
    return SCORED_PROMPT if run.models["gpt"].text is None else SCORED_PROMPT_OF_TEXT


def written_sentence(run: Run):
    """A sample that fills the block, ids (1, T); on a terminal it appears token by token."""
    args, (model, encoder, *_) = run.args, run.models["gpt"]
    prompt = torch.tensor([encoder.encode(scored_prompt(run))], device=args.device)

    def show(column):
        print(encoder.decode(column.tolist()), end="", flush=True)

    terminal = sys.stdout.isatty()
    with tqdm.external_write_mode():  # the progress bar makes room
        idx = model.generate(
            prompt, model.block_size - prompt.shape[1], do_sample=True,
            generator=torch.Generator(device=args.device).manual_seed(args.seed),
            on_token=show if terminal else None, **sampling(args),
        )  # fmt: skip
        if terminal:
            print()
    return idx


EXERCISE = Study(
    name="gpt",
    description="Part 2: train GPT-2 on Alice in Wonderland and answer the five questions.",
    options=exercise.OPTIONS,
    small="--model gpt-nano --max-iters 20 --starts 2",
    check=exercise.check,
    forecast=forecast,
    subject=lambda args: args.text,
    load=exercise.load,
    train=exercise.train,
    questions={
        "q1": q1_train,
        "q2": q2_inversion,
        "q3": q3_attention_last_block,
        "q4": q4_attention_all_blocks,
        "q5": q5_log_probability,
    },
)


def main(argv=None):
    """Run with the given command line; returns the exit code."""
    return cli.main("example_gpt.py", EXERCISE, STUDIES, argv)


if __name__ == "__main__":
    sys.exit(main())
