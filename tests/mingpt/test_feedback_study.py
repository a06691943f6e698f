"""The study of learning from preferences, put to a tiny model; its options refuse mistakes."""

import json

import pytest
import torch

import example_gpt
import mingpt
from mingpt.data import load_book
from mingpt.vocabulary import BookVocabulary
from tests.mingpt.helpers import small_model

QUESTIONS = ("gradient", "closed_form", "reward_model", "policy", "over_optimisation")
SMALL = ("--prompts", 4, "--steps", 2, "--test-prompts", 3, "--estimates", 3, "--exact-steps", 2)


def save_model(path, **settings):
    vocabulary = BookVocabulary.of(torch.cat(load_book()))
    model = small_model(vocab_size=vocabulary.vocab_size, n_embd=12, n_layer=1, **settings)
    mingpt.save(model, path, vocabulary=vocabulary.ids)
    return path


def study(*arguments):
    try:
        return example_gpt.main(["--study", "feedback", *map(str, arguments)])
    except SystemExit as stop:
        return stop.code


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("feedback")
    weights = save_model(out / "small.pt", block_size=32)
    assert study("--weights", weights, "--out", out, *SMALL) == 0
    return out, weights


@pytest.fixture(scope="module")
def results(made):
    return json.loads((made[0] / "results/feedback.json").read_text(encoding="utf-8"))


def test_every_question_has_its_numbers_and_figures(made, results):
    assert set(QUESTIONS) <= set(results)
    names = {path.stem for path in (made[0] / "figures").iterdir()}
    kinds = ("gradient", "closed_form", "reward_model", "over_optimisation")
    assert names == {f"feedback_{kind}" for kind in kinds}


def test_the_cross_entropy_gradient_differs_in_no_bit(results):
    assert results["gradient"]["difference_from_cross_entropy"] == 0


def test_the_baseline_lowers_the_exact_variance_in_every_group(results):
    without, with_ = (results["gradient"][f"{kind}_baseline"]["variance_exact"]
                      for kind in ("without", "with"))  # fmt: skip
    assert all(a > b for a, b in zip(without, with_, strict=True))


def test_the_reference_stands_where_it_is_measured_from(results):
    reference = results["policy"]["policies"]["reference"]
    assert reference["kl_nats_per_sequence"] == pytest.approx(0, abs=1e-5)
    assert reference["gain_nats"] == reference["learnt_reward_nats"] == 0


def test_accuracy_stays_below_that_of_bayes(results):
    found = results["reward_model"]
    assert 0.5 <= found["bayes_accuracy"] <= 1
    assert found["accuracy"] <= found["bayes_accuracy"]


def test_the_same_command_gives_the_same_numbers(made, results, tmp_path):
    assert study("--weights", made[1], "--out", tmp_path, *SMALL) == 0
    again = json.loads((tmp_path / "results/feedback.json").read_text(encoding="utf-8"))
    for name in QUESTIONS:
        assert again[name] == results[name]


def test_mistakes_are_one_line(made, tmp_path, capsys):
    short = save_model(tmp_path / "short.pt", block_size=31)
    before = sorted(tmp_path.iterdir())
    for arguments, message in [
        (["--beta", 0], "beta, the KL weight, should be above 0"),
        (["--beta", "-1"], "beta"),
        (["--beta", "nan"], "beta"),
        (["--beta", "inf"], "beta"),
        (["--prompts", 0], "--prompts should be at least 1"),
        (["--steps", 0], "--steps should be at least 1"),
        (["--test-prompts", 1], "--test-prompts should be at least 2"),
        (["--weights", short], "leaves no room for prompts of 12"),
        (["--weights", tmp_path / "none.pt"], "no such weights file"),
        (["--weights", "weights/vae.pt"], "weights/vae.pt"),
        (["--threshold", "3"], "has no option --threshold"),
    ]:
        assert study("--out", tmp_path / "out", "--weights", made[1], *arguments) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before
