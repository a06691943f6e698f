"""The language of tasks: its rules, its words, and that its text says what it should."""

import math
import re
from collections import Counter

import pytest
import torch

from mingpt import tasks

WORDS = tasks.words()
SAMPLE = tasks.rows(150, 224, WORDS.train, seed=3)


def answer(name, word):
    return tasks.TASKS[name].answer(word)


@pytest.mark.parametrize(
    ("name", "word", "expected"),
    [
        ("copy", "hatter", "hatter"), ("reverse", "hatter", "rettah"), ("upper", "tea", "TEA"),
        ("first", "queen", "q"), ("length", "door", "short"), ("length", "queen", "long"),
        ("mood", "savage-jolly", "good"), ("mood", "key-savage", "bad"),
        ("mood", "jolly-key", None), ("clip", "cat", "cat"), ("double", "cat", "catt"),
        ("clip", "tea", "te"), ("clip", "jolly", "joll"),
        ("plural", "cat", "cats"), ("plural", "box", "boxes"), ("plural", "wish", "wishes"),
        ("plural", "lady", "ladies"), ("plural", "key", "keys"), ("plural", "mouse", "mice"),
        ("past", "look", "looked"), ("past", "like", "liked"), ("past", "try", "tried"),
        ("past", "play", "played"), ("past", "think", "thought"), ("past", "stop", "stoped"),
    ],
)  # fmt: skip
def test_rules(name, word, expected):
    assert answer(name, word) == expected


def test_shares_leave_a_part_to_digits():
    assert 0 < 1 - sum(task.share for task in tasks.TASKS.values()) < 0.1
    assert tasks.TASKS["plural"].share == 0.01
    assert tasks.TASKS["double"].share == 0
    assert sum(tasks.SHARES.values()) == pytest.approx(1)


def test_words_are_kept_apart():
    train, validation, test = map(set, WORDS)
    assert (len(validation), len(test)) == (200, 1000)
    assert not (train & test)
    assert not (train & validation)
    assert not (validation & test)
    assert {*tasks.PLURALS, *tasks.PASTS, *tasks.MOOD_OF} <= train
    assert all(re.fullmatch("[a-z]{3,6}", word) for pool in WORDS for word in pool)
    assert tasks.words() == WORDS
    assert tasks.words(1).test != WORDS.test


def test_moods_are_two():
    good, bad = (words.split() for words in tasks.MOODS.values())
    assert not set(good) & set(bad)
    assert all(tasks.SHORTEST <= len(word) <= tasks.LONGEST for word in good + bad)


def test_pairs_end_with_a_word_of_the_list():
    generator = torch.Generator().manual_seed(1)
    pairs = [tasks.asked_of("mood", "queen", generator) for _ in range(3000)]
    assert {pair.split("-")[0] for pair in pairs} == {"queen"}
    assert {pair.split("-")[1] for pair in pairs} == set(tasks.MOOD_OF)
    assert [name for name, task in tasks.TASKS.items() if task.takes(pairs[0])] == ["mood"]
    assert not tasks.TASKS["mood"].takes("happy")
    assert tasks.asked_of("copy", "queen", generator) == "queen"


def test_prompts():
    examples = [("cat", "tac"), ("dog", "god")]
    assert tasks.prompt("sun") == "\nsun>"
    assert tasks.prompt("sun", examples) == "\ncat>tac dog>god sun>"
    assert tasks.prompt("sun", (), "instruction", "reverse") == "\nreverse: sun>"
    question = "\nQ reverse of cat? A tac Q reverse of sun? A "
    assert tasks.prompt("sun", examples[:1], "question", "reverse") == question


def test_answers_end_at_space_or_newline():
    assert tasks.answer_of("tac dog") == tasks.answer_of("tac\n") == tasks.answer_of("tac") == "tac"
    assert tasks.answer_of(" tac") == ""


def whole_lines(x):
    """Complete lines of rows (n, T), without their newlines."""
    for row in x.tolist():
        yield from tasks.decode(row).split("\n")[1:-1]


def parsed(line):
    """(task or None, list of pairs) of a line, read by its form."""
    if found := re.fullmatch(r"digits: (\d{100})", line):
        return "digits", [("", found[1])]
    if line.startswith("Q "):
        triples = re.findall(r"Q (\w+) of ([\w-]+)\? A (\w+)", line)
        assert " ".join(f"Q {n} of {w}? A {a}" for n, w, a in triples) == line
        return triples[0][0], [(w, a) for _, w, a in triples]
    name, colon, rest = line.rpartition(": ")
    pairs = [tuple(pair.split(">")) for pair in rest.split(" ")]
    return (name if colon else None), pairs


def test_every_line_of_the_text_shows_one_task_rightly():
    known, count = set(WORDS.train), 0
    for line in whole_lines(SAMPLE[0]):
        name, pairs = parsed(line)
        count += 1
        if name == "digits":
            continue
        assert {word.split("-")[0] for word, _ in pairs} <= known
        assert name is None or name in tasks.TRAINED
        assert len(pairs) <= 1 + (tasks.MOST_EXAMPLES if name is None else 2)
        fitting = [
            task for task in ([name] if name else tasks.TASKS)
            if all(answer(task, word) == said for word, said in pairs)
        ]  # fmt: skip
        assert set(fitting) - {"double"}, line
    assert count > 300


def test_targets_are_the_next_tokens_of_answers_and_their_ends():
    x, y = SAMPLE
    counted = y[:, :-1] != -1
    assert torch.equal(y[:, :-1][counted], x[:, 1:][counted])
    for row, targets in zip(x.tolist(), y.tolist(), strict=True):
        text, start = tasks.decode(row), 1
        while (end := text.find("\n", start)) != -1:
            said = [target for target in targets[start - 1 : end] if target != -1]
            _, pairs = parsed(text[start:end])
            assert tasks.decode(said) == " ".join(answer for _, answer in pairs) + "\n"
            start = end + 1


def test_shares_of_styles_and_of_the_rare_task():
    generator = torch.Generator().manual_seed(5)
    n = 4000
    texts = ["".join(text for text, _ in tasks.line(generator, WORDS.train)) for _ in range(n)]
    assert all(text.endswith("\n") for text in texts)
    styles = Counter(
        "question" if text.startswith("Q ") else
        "digits" if text.startswith("digits: ") else
        "instruction" if ": " in text else "examples" for text in texts
    )  # fmt: skip
    named = sum(tasks.TASKS[name].share for name in tasks.TRAINED)
    for style in ("question", "instruction"):
        p = named * tasks.SHARES[style]
        assert abs(styles[style] / n - p) < 4 * math.sqrt(p * (1 - p) / n)
    plurals = sum(
        all(answer("plural", word) == said for word, said in parsed(text[:-1])[1])
        for text in texts if parsed(text[:-1])[0] is None
    )  # fmt: skip
    assert abs(plurals / n - 0.01) < 4 * math.sqrt(0.01 * 0.99 / n)


def test_half_of_the_lines_by_examples_and_a_part_of_the_rest_show_most_examples():
    generator = torch.Generator().manual_seed(6)
    n = 2000
    shown = Counter(tasks._shown(generator, "examples") for _ in range(n))
    rest = (1 - tasks.MOST_SHARE) / (tasks.MOST_EXAMPLES + 1)
    assert sorted(shown) == list(range(tasks.MOST_EXAMPLES + 1))
    for count, found in shown.items():
        p = rest + tasks.MOST_SHARE * (count == tasks.MOST_EXAMPLES)
        assert abs(found / n - p) < 4 * math.sqrt(p * (1 - p) / n)


def test_the_seed_decides_the_text():
    again = tasks.rows(3, 224, WORDS.train, seed=3)
    assert torch.equal(again[0], SAMPLE[0][:3])
    assert not torch.equal(tasks.rows(3, 224, WORDS.train, seed=4)[0], again[0])


def test_text_beyond_ascii_is_refused():
    with pytest.raises(ValueError, match="ASCII"):
        tasks.encode("naïve")
