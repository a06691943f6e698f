"""What examples tell about an answer, against counting every line that the language can write."""

from collections import Counter, defaultdict
from itertools import product

import pytest
import torch

from mingpt import replies, task_posterior, tasks

POOL = ["pen", "noon", "tea", "offers"]
PAIRS = ["pen-happy", "noon-war"]
WORDS = tasks.words()


def open_lines(shots):
    """(probability, examples, word, answer) of all lines by examples of words of POOL or PAIRS,
    `shots` before the last, up to one factor."""
    for task in tasks.TASKS.values():
        weight = task.share * (tasks.SHARES["examples"] if task.named else 1)
        taken = [word for word in POOL + PAIRS if task.takes(word)]
        for words in product(taken, repeat=shots + 1) if weight else ():
            said = tuple(map(task.answer, words))
            chance = weight / len(taken) ** (shots + 1)
            yield chance, tuple(zip(words[:-1], said[:-1], strict=True)), words[-1], said[-1]


@pytest.mark.parametrize("shots", [0, 1, 2, 3])
def test_answers_are_the_shares_of_the_lines_that_begin_alike(shots):
    by_beginning = defaultdict(Counter)
    for weight, examples, word, answer in open_lines(shots):
        by_beginning[examples, word][answer] += weight
    for (examples, word), counted in by_beginning.items():
        expected = {answer: weight / counted.total() for answer, weight in counted.items()}
        found = task_posterior.answers(examples, word)
        assert found.keys() == expected.keys()
        assert all(abs(found[key] - share) < 1e-9 for key, share in expected.items())


@pytest.mark.parametrize("shots", [0, 1, 2])
def test_no_reply_to_a_beginning_is_right_more_often(shots):
    """Over all lines, the best chance is the accuracy of the commonest answer to each beginning."""
    by_beginning, ours = defaultdict(Counter), 0.0
    for weight, examples, word, answer in open_lines(shots):
        by_beginning[examples, word][answer] += weight
        asked = replies.Question("any", word, "", answer, examples)
        ours += weight * task_posterior.best_chance(asked)
    assert ours == pytest.approx(sum(max(each.values()) for each in by_beginning.values()))


def test_the_text_goes_on_like_this():
    generator, n = torch.Generator().manual_seed(2), 3000
    texts = ["".join(text for text, _ in tasks.line(generator, ["offers"])) for _ in range(n)]
    said = Counter(text[7:-1].split(" ")[0] for text in texts if text.startswith("offers>"))
    expected = task_posterior.answers((), "offers")
    assert set(said) <= set(expected)
    for answer, p in expected.items():
        assert abs(said[answer] - p * said.total()) < 4 * (p * (1 - p) * said.total()) ** 0.5


@pytest.mark.parametrize("shots", [1, 2, 4, 8])
def test_copy_or_clip_is_told_by_the_first_word_that_ends_in_a_vowel(shots):
    """Before it the two shares of the text decide, and for other words there is nothing to tell."""
    for each in replies.questions("copy", WORDS, 300, shots=shots):
        endings = {word[-1] in "aeiouy" for word, _ in each.examples}
        answers = task_posterior.answers(each.examples, each.word)
        if each.word[-1] in "aeiouy" and endings == {False} and shots > 2:
            copied, clipped = tasks.TASKS["copy"].share, tasks.TASKS["clip"].share
            assert answers[each.word] == pytest.approx(copied / (copied + clipped))
            assert answers[each.word[:-1]] == pytest.approx(clipped / (copied + clipped))
        elif True in endings:
            assert answers.most_common(1)[0][0] == each.word


@pytest.mark.parametrize("name", [name for name in tasks.TRAINED if name not in ("copy", "clip")])
def test_two_examples_tell_all_of_a_rule(name):
    """All but words that several tasks answer alike, such as palindromes."""
    asked = replies.questions(name, WORDS, 200, shots=2, seed=1)
    assert sum(map(task_posterior.best_chance, asked)) / len(asked) > 0.99


def test_equally_probable_answers_share_the_chance(monkeypatch):
    for name in tasks.TASKS:
        share = 0.1 if name in ("copy", "upper") else 0.0
        monkeypatch.setitem(tasks.TASKS, name, tasks.TASKS[name]._replace(share=share))
    asked = replies.Question("copy", "tea", "\ntea>", "tea")
    assert task_posterior.best_chance(asked) == 0.5
    assert task_posterior.best_chance(asked._replace(answer="aet")) == 0


@pytest.mark.parametrize(
    ("examples", "word"),
    [
        ([("cat", "dog")], "sun"), ([("cat", "tac")], "queen-happy"),
        ([("tea", "tea"), ("pie", "pi")], "cat"),
    ],
)  # fmt: skip
def test_examples_of_no_task_are_refused(examples, word):
    with pytest.raises(ValueError, match="no line by examples"):
        task_posterior.answers(examples, word)
