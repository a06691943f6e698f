"""What the distribution over next tokens shows: digits drawn "at random", and wrong answers.

Two questions of `--study prompting`; see prompting.py.
"""

import math
import re
from collections import Counter

import torch

from mingpt import statistics, task_model, tasks
from mingpt.cli import Answer
from mingpt.figures import prompting as figures
from mingpt.modes import evaluating
from mingpt.prompting import complete

SEQUENCES, FAIR_SEQUENCES = 100, 2000  # of random digits: the model's, and a fair source's
FREQUENCY_ROWS = 400  # of training text, for the tokens' frequencies
SOURCES = ("another task's answer", "another label", "neither")  # of wrong replies


# --- a vi: random digits ------------------------------------------------------------------------


def q7_digits(run, model) -> Answer:
    """a vi: "write 100 random digits": are they uniform, are neighbours independent?"""
    prompt = tasks.encode("\n" + tasks.DIGITS_PROMPT)
    generator = torch.Generator().manual_seed(run.args.seed)
    sampled = complete(model, [prompt] * SEQUENCES, tasks.DIGITS, temperature=1.0,
                       generator=generator, progress=True)  # fmt: skip
    texts = [tasks.decode(each.tokens) for each in sampled]
    (greedy,) = complete(model, [prompt], tasks.DIGITS)
    fair = torch.randint(10, (FAIR_SEQUENCES, tasks.DIGITS), generator=generator)
    fair_texts = ["".join(map(str, row)) for row in fair.tolist()]
    written, expected = (randomness(part) for part in (texts, fair_texts))
    numbers = {
        "model": written,
        "fair_source": expected,
        "first_sequence": texts[0],
        "greedy_sequence": tasks.decode(greedy.tokens),
        "entropy_bits_among_digits": entropy_among_digits(model, prompt, texts),
        "entropy_of_fair_digits_bits": math.log2(10),
    }
    lines = ["Q7  digits: sequences that fail at 5 % (uniformity, neighbours), repeated neighbours"]
    if "frequencies" not in written:
        return Answer(numbers, text="Q7  digits: the model writes no whole sequence")
    for name, row in (("model", written), ("fair source", expected)):
        shown = ("uniformity_rejected_at_5_percent", "independence_rejected_at_5_percent",
                 "equal_neighbours")  # fmt: skip
        lines.append(f"    {name:<12}" + statistics.percent(row[key] for key in shown))
    figure = figures.digits(written["frequencies"], written["pair_frequencies"], expected)
    return Answer(numbers, {"a_digits": figure}, "\n".join(lines))


def entropy_among_digits(model, prompt, texts):
    """Mean entropy of the next character in bits, given that it is a digit, before the digits that
    each text begins with; None where no text begins with any. prompt: tokens before the texts."""
    rows = torch.tensor([prompt + tasks.encode(text) for text in texts])
    with evaluating(model):
        logits = model(rows[:, :-1].to(next(model.parameters()).device))[0].cpu()
    kept = [logits[place, len(prompt) - 1 :][: len(until_a_break(text))]
            for place, text in enumerate(texts)]  # fmt: skip
    chances = torch.cat(kept)[:, tasks.encode("0123456789")].double().softmax(dim=-1)
    bits = torch.special.entr(chances).sum(dim=-1) / math.log(2)
    return bits.mean().item() if len(bits) else None


def until_a_break(text):
    """The digits that a text begins with."""
    return re.match("[0-9]*", text)[0]


def randomness(texts):
    """Chi-square tests of texts of digits, one by one and all together, as a dict.

    A text breaks off at its first other character, and what follows is left out; it is not tested
    by itself. Where all break off there are no tests.
    """
    digits = [until_a_break(text) for text in texts]
    whole = [len(part) == len(text) for part, text in zip(digits, texts, strict=True)]
    counted = {"sequences": len(texts), "sequences_that_break_off": len(texts) - sum(whole),
               "digits": sum(map(len, digits))}  # fmt: skip
    if not any(whole):
        return counted
    rows = [torch.tensor([int(digit) for digit in part], dtype=torch.int64) for part in digits]
    pairs = [torch.stack([row[:-1], row[1:]], dim=1) for row in rows]
    uniform = [statistics.uniformity(row) for row, all_of_it in zip(rows, whole, strict=True)
               if all_of_it]  # fmt: skip
    independent = [statistics.independence(pair) for pair, all_of_it in
                   zip(pairs, whole, strict=True) if all_of_it]  # fmt: skip
    table = torch.bincount(torch.cat(pairs) @ torch.tensor([10, 1]), minlength=100)
    everything = torch.cat(rows)
    return counted | {
        "frequencies": (torch.bincount(everything, minlength=10) / len(everything)).tolist(),
        "pair_frequencies": (table / table.sum()).view(10, 10).tolist(),
        "first_sequence": {"uniformity": uniform[0]._asdict(),
                           "independence": independent[0]._asdict()},
        "uniformity_rejected_at_5_percent": statistics.share(
            [test.p_value < 0.05 for test in uniform])._asdict(),
        "independence_rejected_at_5_percent": statistics.share(
            [test.p_value < 0.05 for test in independent])._asdict(),
        "equal_neighbours": statistics.share(
            torch.cat([pair[:, 0] == pair[:, 1] for pair in pairs]))._asdict(),
        "all_digits_uniformity": statistics.uniformity(everything)._asdict(),
        "all_pairs_independence": statistics.independence(torch.cat(pairs))._asdict(),
    }  # fmt: skip


# --- b vi: what a failing model says ------------------------------------------------------------


def q8_failures(run, few_shot) -> Answer:
    """b vi: is what the model says instead of the right answer frequent in its text?"""
    text, targets = tasks.rows(
        FREQUENCY_ROWS, task_model.BLOCK_SIZE, tasks.words(run.args.seed).train, run.args.seed
    )
    lower = torch.tensor(tasks.encode(tasks.decode(range(tasks.VOCAB_SIZE)).lower()))
    counts = torch.bincount(lower[text].flatten(), minlength=tasks.VOCAB_SIZE).double()
    bits = -((counts + 1) / (counts + 1).sum()).log2()  # of each token, by its frequency alone
    answers = Counter(
        answer for row in targets for answer in tasks.decode(row[row != -1].tolist()).split()
    )
    asked = {
        "bare prompts": [reply for name in tasks.TRAINED for reply in few_shot[name][0]],
        "plural, 8 examples": few_shot["plural"][8],
        "double, 8 examples": few_shot["double"][8],
    }
    found = {name: said_instead(said, bits, answers) for name, said in asked.items()}
    lines = [f"Q8  wrong replies (%): {', '.join(SOURCES)}; bits a letter by frequency: said, "
             "right"]  # fmt: skip
    lines += [
        f"    {name:<20}{statistics.percent(row['sources'].values())}  "
        f"{row['said_bits_per_letter']:.2f} {row['right_bits_per_letter']:.2f}  "
        f"often: {', '.join(each['said'] for each in row['most_frequent'][:4])}"
        for name, row in found.items() if row["wrong"]
    ]  # fmt: skip
    return Answer({"by_prompt": found}, {}, "\n".join(lines))


def said_instead(said, bits, answers):
    """What wrong Replies say and how frequent that is in the training text.

    bits (V,): -log2 of the tokens' frequencies, capitals counted as small letters: they are rare,
    and the answers of one task; answers: Counter of the text's answers. Each word's replies are
    one trial in the standard error of the difference: tasks share words, bare prompts and replies.
    """
    wrong = [reply for reply in said if not reply.right and reply.said]
    prompts = Counter(task for task, _ in {(r.question.task, r.question.prompt) for r in said})
    numbers = {"replies": len(said), "wrong": len(wrong),
               "empty": sum(not reply.said for reply in said),
               "different_prompts": dict(sorted(prompts.items()))}  # fmt: skip
    if not wrong:
        return numbers
    ours, theirs = (
        torch.tensor([bits[tasks.encode(text.lower())].mean().item() for text in texts])
        for texts in ([r.said for r in wrong], [r.question.answer for r in wrong])
    )
    difference = theirs - ours
    number = {word: place for place, word in enumerate({r.question.word: None for r in wrong})}
    places = torch.tensor([number[reply.question.word] for reply in wrong])
    sums = torch.zeros(len(number)).index_add(0, places, difference - difference.mean())
    counted = Counter(reply.said for reply in wrong)

    def listed(texts):
        return [{"said": text, "replies": counted[text],
                 "share_of_training_answers": answers[text] / answers.total()}
                for text, _ in texts]  # fmt: skip

    sources = [source(reply) for reply in wrong]
    return numbers | {
        "sources": {name: statistics.share([each == name for each in sources])._asdict()
                    for name in SOURCES},
        "answers_of": {name: sum(reply.said == task.answer(reply.question.word) for reply in wrong)
                       for name, task in tasks.TASKS.items()},
        "most_frequent": listed(counted.most_common(8)),
        "commonest_of_training": listed(answers.most_common(8)),
        "said_bits_per_letter": ours.mean().item(),
        "right_bits_per_letter": theirs.mean().item(),
        "difference_standard_error": (sums.square().sum().sqrt() / len(wrong)).item(),
    }  # fmt: skip


def source(reply):
    """Where a wrong Reply comes from, one of SOURCES: another task's answer to the word, else a
    label of any task, else neither."""
    word, own = reply.question.word, reply.question.task
    if reply.said in {task.answer(word) for name, task in tasks.TASKS.items() if name != own}:
        return "another task's answer"
    labels = {label for task in tasks.TASKS.values() for label in task.labels}
    return "another label" if reply.said in labels else "neither"
