"""Questions with known answers, and what kind of reply each is."""

import pytest

from mingpt import replies, task_model, tasks
from tests.mingpt.helpers import small_model

WORDS = tasks.words()


def question(name, word):
    return replies.Question(name, word, f"\n{word}>", tasks.TASKS[name].answer(word))


@pytest.mark.parametrize(
    ("name", "word", "said", "kind"),
    [
        ("reverse", "cat", "tac", "right"), ("reverse", "cat", "cat", "wrong choice"),
        ("reverse", "cat", "CAT", "wrong choice"), ("reverse", "cat", "cats", "wrong choice"),
        ("reverse", "cat", "cta", "invalid"), ("reverse", "cat", "", "invalid"),
        ("length", "cat", "short", "right"), ("length", "cat", "long", "wrong choice"),
        ("length", "cat", "good", "invalid"), ("length", "cat", "cat", "invalid"),
        ("mood", "tea-jolly", "bad", "wrong choice"), ("mood", "tea-jolly", "long", "invalid"),
    ],
)  # fmt: skip
def test_kinds_of_reply(name, word, said, kind):
    assert replies.kind(question(name, word), said) == kind


def test_questions_ask_every_test_word_once_before_any_twice():
    asked = replies.questions("upper", WORDS, 1100, shots=2)
    assert {each.word for each in asked[:1000]} == set(WORDS.test)
    assert len({each.word for each in asked[1000:]}) == 100
    assert all(each.answer == each.word.upper() for each in asked)
    again = replies.questions("upper", WORDS, 1100, shots=8)
    assert [each.word for each in again] == [each.word for each in asked]
    assert replies.questions("upper", WORDS, 1100, shots=2) == asked


def test_fewer_examples_are_the_first_of_more():
    for name in ("upper", "mood", "clip"):
        asked = {shots: replies.questions(name, WORDS, 20, shots=shots) for shots in (0, 3, 8)}
        for none, three, eight in zip(*asked.values(), strict=True):
            assert none.word == three.word == eight.word
            assert none.answer == three.answer == eight.answer
            assert (none.examples, three.examples) == ((), eight.examples[:3])
            assert all(each.prompt == tasks.prompt(each.word, each.examples)
                       for each in (none, three, eight))  # fmt: skip


@pytest.mark.parametrize("name", tasks.TASKS)
def test_a_cell_has_as_many_prompts_as_questions(name):
    for shots in (0, 8):
        asked = replies.questions(name, WORDS, 500, shots=shots)
        assert len({each.prompt for each in asked}) == 500
    if name == "mood":
        assert {each.word.split("-")[0] for each in asked} <= set(WORDS.test)


def test_examples_are_training_words_with_right_answers():
    train = set(WORDS.train)
    for each in replies.questions("past", WORDS, 50, shots=4):
        *shown, last = each.prompt.removeprefix("\n").split(" ")
        pairs = [pair.split(">") for pair in shown]
        assert last == each.word + ">"
        assert len(pairs) == 4
        assert all(word in train and tasks.past(word) == said for word, said in pairs)


@pytest.mark.parametrize(("name", "chance"), [("length", 0.5), ("upper", 0.0)])
def test_random_labels_keep_the_form_alone(name, chance):
    right = replies.questions(name, WORDS, 250, shots=4)
    random = replies.questions(name, WORDS, 250, shots=4, labels="random")
    pairs = [pair.split(">") for each in random for pair in each.prompt[1:].split(" ")[:-1]]
    assert [each.word for each in random] == [each.word for each in right]
    kept = sum(tasks.TASKS[name].answer(word) == said for word, said in pairs) / len(pairs)
    assert abs(kept - chance) < 4 * (0.25 / len(pairs)) ** 0.5
    labels = set(tasks.TASKS[name].labels)
    assert all(said in labels if labels else said.isupper() for _, said in pairs)


def test_nobody_can_name_a_task_without_a_name():
    with pytest.raises(ValueError, match="the task plural has no name"):
        replies.questions("plural", WORDS, 5, style="instruction")


def test_replies_come_in_the_order_of_the_questions():
    model = small_model(vocab_size=128, block_size=64, scale=8.0)
    asked = replies.questions("copy", WORDS, 12, shots=1)
    together = replies.generate(model, asked)
    alone = [replies.generate(model, [each])[0] for each in asked]
    assert [r.question for r in together] == asked
    assert [r.said for r in together] == [r.said for r in alone]
    assert [r.log_prob for r in together] == pytest.approx([r.log_prob for r in alone], abs=1e-4)


def test_sixteen_examples_fit_the_block_of_the_language():
    for each in replies.questions("plural", WORDS, 600, shots=16):
        assert each.prompt.count(">") == 17
        assert len(each.prompt) + replies.LONGEST_REPLY <= task_model.BLOCK_SIZE + 1


def test_examples_that_do_not_fit_are_refused():
    model = small_model(vocab_size=128, block_size=64)
    with pytest.raises(ValueError, match="leaves no room for 12 more in the model's block of 64"):
        replies.generate(model, replies.questions("copy", WORDS, 3, shots=16))


@pytest.mark.parametrize(
    ("name", "how", "message"),
    [
        ("shout", {}, "task should be one of copy, .*, not 'shout'"),
        ("copy", {"style": "song"}, "style should be one of examples, .*, not 'song'"),
        ("copy", {"labels": "wrong"}, "labels should be one of right, random, not 'wrong'"),
    ],
)
def test_other_tasks_styles_and_labels_are_refused(name, how, message):
    with pytest.raises(ValueError, match=message):
        replies.questions(name, tasks.words(), 3, **how)
