"""--study prompting: what it refuses, and its bookkeeping."""

import math
from collections import Counter
from pathlib import Path

import pytest
import torch

import example_gpt
from mingpt import replies, task_model, tasks
from mingpt.studies import prompting
from mingpt.studies.parts import next_tokens, soft_prompts, task_shares

ROOT = Path(example_gpt.__file__).parent


def exit_code(*arguments):
    try:
        return example_gpt.main(["--study", "prompting", *map(str, arguments)])
    except SystemExit as stop:  # argparse's own errors
        return stop.code


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--weights", "none.pt"], "none.pt: no such weights file"),
        (["--weights", ROOT / "weights" / "gpt.pt"], "was not trained on the language of the task"),
        (["--sizes", "huge"], "argument --sizes: invalid choice"),
        (["--prompts", "9"], "--prompts should be at least 10, not 9"),
        (["--tokens", "0"], "--tokens should be at least 1, not 0"),
        (["--tune-steps", "0"], "--tune-steps should be at least 1, not 0"),
        (["--shots", "4"], "--study prompting has no option --shots"),
    ],
)
def test_bad_input_ends_in_one_line(arguments, message, capsys, tmp_path):
    folders = ["--out", tmp_path / "out", "--save", tmp_path / "save"]
    assert exit_code(*arguments, *folders) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def nano(tmp_path):
    path = tmp_path / "nano.pt"
    task_model.save(
        task_model.Trained(task_model.build("nano"), {"tokens": 1, "losses": [1.0], "seed": 0}, {}),
        path,
    )
    return path


def test_two_models_of_one_size_are_refused(nano, capsys, tmp_path):
    assert exit_code("--weights", nano, nano, "--out", tmp_path / "out") == 2
    assert "two models of the size nano" in capsys.readouterr().err


def test_a_model_that_learnt_the_test_words_is_refused(nano, capsys, tmp_path):
    assert exit_code("--weights", nano, "--seed", "1", "--out", tmp_path / "out") == 2
    assert "learnt words that are test words here: give its own --seed 0" in capsys.readouterr().err


def test_models_are_loaded_or_left_to_be_trained(nano):
    args = type("Args", (), {"weights": [nano], "sizes": None, "device": "cpu", "seed": 0})
    assert list(prompting.load(args)) == ["nano"]
    args.sizes = ["mini", "nano"]
    assert [(size, model is None) for size, model in prompting.load(args).items()] == [
        ("nano", False), ("mini", True),
    ]  # fmt: skip
    args.weights = args.sizes = None
    assert prompting.load(args) == {"micro": None}


def test_the_mean_of_tasks_has_the_error_of_independent_shares():
    shares = [{"value": 0.2, "standard_error": 0.03}, {"value": 0.6, "standard_error": 0.04}]
    assert task_shares.mean_of(shares) == pytest.approx({"value": 0.4, "standard_error": 0.025})


def test_gains_are_of_the_same_questions():
    """Three tasks of four questions: +1, +1, 0, -1 in one, no change in the others."""
    names = task_shares.tasks.TRAINED

    def replied(*right):
        return [reply("copy", str(n), str(n) if hit else "x") for n, hit in enumerate(right)]

    same = replied(True, False, True, False)
    tested = {name: {1: same, 2: same} for name in names}
    tested[names[0]] = {1: replied(False, False, True, True), 2: replied(True, True, True, False)}
    (step,) = task_shares.gains(tested)
    assert (step["from"], step["to"]) == (1, 2)
    assert step["value"] == pytest.approx(0.25 / len(names))
    variance = sum((d - 0.25) ** 2 for d in (1, 1, 0, -1)) / 3
    assert step["standard_error"] == pytest.approx(math.sqrt(variance / 4) / len(names))


def test_the_best_possible_is_that_of_the_prompts():
    def asked(name, answer, examples):
        question = replies.Question(name, "tea", "", answer, examples)
        return [replies.Reply(question, "", "invalid", 0.0, [])]

    shown = (("pie", "pi"),) * 8
    tested = {name: {0: asked(name, "aet", ()), 8: asked(name, "te", shown)}
              for name in task_shares.tasks.TRAINED}  # fmt: skip
    tested["clip"][0] = asked("clip", "te", ())  # the most probable answer is that of `reverse`
    found = task_shares.best_possible(tested)
    assert found["accuracy"]["clip"] == {"0": {"value": 0.0}, "8": {"value": 1.0}}
    means = found["mean_of_trained_tasks"]
    assert means["0"]["value"] == pytest.approx(1 - 1 / len(tested))
    assert means["8"]["value"] == 1


def test_reliability_bins():
    confidence = torch.tensor([0.05] * 10 + [0.95] * 20 + [0.5] * 3)
    right = torch.tensor([True] * 2 + [False] * 8 + [True] * 20 + [False] * 3)
    low, high = prompting.reliability(confidence, right)  # three replies make no bin
    assert (low["confidence"], low["accuracy"]["value"]) == pytest.approx((0.05, 0.2))
    assert (high["confidence"], high["accuracy"]["value"]) == pytest.approx((0.95, 1.0))


def test_digits_are_counted():
    found = next_tokens.randomness(["0123456789" * 10, "x"])
    assert (found["sequences"], found["digits"]) == (2, 100)
    assert found["sequences_that_break_off"] == 1
    assert found["frequencies"] == pytest.approx([0.1] * 10)
    assert found["pair_frequencies"][3][4] == pytest.approx(10 / 99)
    assert found["independence_rejected_at_5_percent"]["value"] == 1
    assert found["uniformity_rejected_at_5_percent"]["value"] == 0
    assert next_tokens.randomness(["x"]) == {
        "sequences": 1, "sequences_that_break_off": 1, "digits": 0,
    }  # fmt: skip


def test_digits_after_a_break_are_left_out():
    broken = next_tokens.randomness(["0123456789" * 10, "012e999999"])
    whole = next_tokens.randomness(["0123456789" * 10, "0123456789" * 10])
    assert broken["digits"] == 103
    assert broken["frequencies"] == pytest.approx([11 / 103] * 3 + [10 / 103] * 7)
    assert broken["uniformity_rejected_at_5_percent"]["count"] == 1
    assert broken["pair_frequencies"][9][9] == 0
    assert whole["uniformity_rejected_at_5_percent"]["count"] == 2


def test_entropy_among_digits_is_of_the_ten_before_the_break():
    model, prompt = task_model.build("nano", 0).double(), tasks.encode("\ndigits: ")
    texts = ["0123", "4x56", "y789"]
    found = next_tokens.entropy_among_digits(model, prompt, texts)
    expected = []
    for text, count in zip(texts, (4, 1, 0), strict=True):
        for place in range(count):
            logits, _ = model.eval()(torch.tensor([prompt + tasks.encode(text[:place])]))
            p = logits[0, -1, ord("0") : ord("9") + 1].softmax(dim=-1)
            expected.append(-(p * p.log2()).sum().item())
    assert found == pytest.approx(sum(expected) / 5, rel=1e-9)
    assert next_tokens.entropy_among_digits(model, prompt, ["yyyy"]) is None


def reply(task, word, said, answer=None):
    asked = replies.Question(task, word, f"\n{word}>", answer or word)
    kind = "right" if said == asked.answer else "invalid"
    return replies.Reply(asked, said, kind, 0.0, [])


def test_wrong_replies_are_weighed_letter_by_letter():
    bits = torch.full((128,), 7.0)
    bits[ord("e")] = 2.0
    said = [reply("copy", "tea", "eee"), reply("copy", "cup", "ee"), reply("copy", "cat", "cat")]
    found = next_tokens.said_instead(said, bits, Counter({"tea": 3, "eee": 1}))
    assert (found["replies"], found["wrong"]) == (3, 2)
    assert found["said_bits_per_letter"] == 2
    assert found["right_bits_per_letter"] == pytest.approx((16 / 3 + 7) / 2)
    assert found["difference_standard_error"] == pytest.approx((7 - 16 / 3) / 2 / math.sqrt(2))
    assert found["most_frequent"] == [
        {"said": "eee", "replies": 1, "share_of_training_answers": 0.25},
        {"said": "ee", "replies": 1, "share_of_training_answers": 0.0},
    ]
    assert found["commonest_of_training"] == [
        {"said": "tea", "replies": 0, "share_of_training_answers": 0.75},
        {"said": "eee", "replies": 1, "share_of_training_answers": 0.25},
    ]


def test_capitals_weigh_as_small_letters():
    bits = torch.full((128,), 5.0)
    bits[ord("A") : ord("Z") + 1] = 20.0
    said = [reply("upper", "cat", "tac", "CAT")]
    found = next_tokens.said_instead(said, bits, Counter("x"))
    assert (found["said_bits_per_letter"], found["right_bits_per_letter"]) == (5, 5)


def test_a_prompt_that_comes_again_adds_no_trial():
    bits = torch.arange(128.0)
    once = [reply("mood", "joy", "bad", "good"), reply("mood", "hate", "x", "bad")]
    first, again = (
        next_tokens.said_instead(said, bits, Counter(["good"])) for said in (once, once * 4)
    )
    assert (again["wrong"], again["different_prompts"]) == (8, {"mood": 2})
    key = "difference_standard_error"
    assert first[key] > 0
    assert again[key] == pytest.approx(first[key])


@pytest.mark.parametrize(
    ("task", "word", "said", "source"),
    [
        ("copy", "cat", "tac", "another task's answer"),
        ("copy", "cat", "short", "another task's answer"),
        ("copy", "cat", "good", "another label"),
        ("mood", "tea-joy", "bad", "another label"),
        ("mood", "tea-joy", "yoj-aet", "another task's answer"),
        ("copy", "cat", "act", "neither"),
    ],
)
def test_where_wrong_replies_come_from(task, word, said, source):
    assert next_tokens.source(reply(task, word, said, "right")) == source


def test_soft_and_hard_prompts_are_compared_in_standard_errors():
    def share(value):
        return {"value": value, "standard_error": 0.03}

    found = soft_prompts.against_the_best_hard_prompt({
        "soft": {"1": {"accuracy": share(0.95), "validation": 0.8},
                 "5": {"accuracy": share(0.9), "validation": 0.9}},
        "hard": {"examples_drawn_for_each_question": {"0": share(0.1), "8": share(0.6)},
                 "best_fixed": {"accuracy": share(0.7)}},
    })  # fmt: skip
    assert found["best_soft_length"] == 5
    assert found["best_hard"] == "best fixed"
    assert found["soft_minus_hard"] == pytest.approx(0.2)
    assert found["difference_in_standard_errors"] == pytest.approx(0.2 / (0.03 * math.sqrt(2)))


def test_pairs_end_with_a_newline():
    assert soft_prompts.pairs_of("plural", ["tea"]) == [
        (list(b"\ntea>"), list(b"teas\n")),
    ]  # fmt: skip
