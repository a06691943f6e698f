"""What examples tell about an answer, against counting every line that the language can write."""

from collections import Counter, defaultdict
from itertools import product

import pytest
import torch

from mingpt import replies, task_posterior, tasks

POOL = ["pen", "noon", "happy", "war"]  # with the words of `mood`, as in the language
MOODS = {"happy": "good", "war": "bad"}
WORDS = tasks.words()


@pytest.fixture
def few_moods(monkeypatch):
    """Two words of `mood`, so that all lines can be counted."""
    monkeypatch.setattr(tasks, "MOOD_OF", MOODS)
    monkeypatch.setitem(tasks.TASKS, "mood", tasks.TASKS["mood"]._replace(answer=MOODS.get))


def open_lines(shots):
    """(probability, examples, word, answer) of all lines by examples of words of POOL or MOODS,
    `shots` before the last, up to one factor."""
    for name, task in tasks.TASKS.items():
        weight = task.share * (tasks.SHARES["examples"] if task.named else 1)
        asked = list(MOODS) if name == "mood" else POOL
        for words in product(asked, repeat=shots + 1):
            if weight:
                examples = tuple((word, task.answer(word)) for word in words[:-1])
                weight_each = weight / len(asked) ** (shots + 1)
                yield weight_each, examples, words[-1], task.answer(words[-1])


@pytest.mark.usefixtures("few_moods")
@pytest.mark.parametrize("shots", [0, 1, 2, 3])
def test_answers_are_the_shares_of_the_lines_that_begin_alike(shots):
    by_beginning = defaultdict(Counter)
    for weight, examples, word, answer in open_lines(shots):
        by_beginning[examples, word][answer] += weight
    for (examples, word), counted in by_beginning.items():
        expected = {answer: weight / counted.total() for answer, weight in counted.items()}
        assert task_posterior.answers(examples, word, len(POOL)) == pytest.approx(expected)


@pytest.mark.usefixtures("few_moods")
@pytest.mark.parametrize("shots", [0, 1, 2])
def test_no_reply_to_a_beginning_is_right_more_often(shots):
    """Over all lines, the best chance is the accuracy of the commonest answer to each beginning."""
    by_beginning, ours = defaultdict(Counter), 0.0
    for weight, examples, word, answer in open_lines(shots):
        by_beginning[examples, word][answer] += weight
        asked = replies.Question("any", word, "", answer, examples)
        ours += weight * task_posterior.best_chance(asked, len(POOL))
    assert ours == pytest.approx(sum(max(each.values()) for each in by_beginning.values()))


def test_the_text_goes_on_like_this():
    generator, n = torch.Generator().manual_seed(2), 3000
    texts = ["".join(text for text, _ in tasks.line(generator, ["offers"])) for _ in range(n)]
    said = Counter(text[7:-1].split(" ")[0] for text in texts if text.startswith("offers>"))
    expected = task_posterior.answers((), "offers", 1)
    assert set(said) <= set(expected)
    for answer, p in expected.items():
        assert abs(said[answer] - p * said.total()) < 4 * (p * (1 - p) * said.total()) ** 0.5


@pytest.mark.parametrize("name", tasks.TRAINED)
def test_two_examples_tell_all(name):
    """All but words that several tasks answer alike, such as palindromes."""
    asked = replies.questions(name, WORDS, 200, shots=2, seed=1)
    chances = [task_posterior.best_chance(each, len(WORDS.train)) for each in asked]
    assert sum(chances) / len(chances) > 0.99


def test_equally_probable_answers_share_the_chance(monkeypatch):
    for name in tasks.TASKS:
        share = 0.1 if name in ("copy", "upper") else 0.0
        monkeypatch.setitem(tasks.TASKS, name, tasks.TASKS[name]._replace(share=share))
    asked = replies.Question("copy", "tea", "\ntea>", "tea")
    assert task_posterior.answers((), "tea", 9) == pytest.approx({"tea": 0.5, "TEA": 0.5})
    assert task_posterior.best_chance(asked, 9) == 0.5
    assert task_posterior.best_chance(asked._replace(answer="aet"), 9) == 0


def test_examples_of_no_task_are_refused():
    with pytest.raises(ValueError, match="no line by examples"):
        task_posterior.answers([("cat", "dog")], "sun", 9)
