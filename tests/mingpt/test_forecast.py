"""mingpt/studies/parts/forecast.py: how long the exercise will take, and that asking is free."""

import random

import numpy as np
import pytest
import torch

import example_gpt
from mingpt import cli, running
from mingpt.cli import Run
from mingpt.data import Book
from mingpt.studies import exercise
from mingpt.studies.exercise import TrainedGPT
from mingpt.studies.parts import forecast
from tests.mingpt.helpers import TEXT, small_model

OPTIONS = ["--model", "gpt-nano", "--vocab", "book", "--batch-size", "2", "--block-size", "32",
           "--max-iters", "10", "--starts", "10", "--device", "cpu"]  # fmt: skip


class Letters:
    """A tokeniser of few tokens."""

    def encode(self, text):
        return [ord(letter) % 97 for letter in text]


def to_train(tmp_path):
    """A Run whose model is to be trained."""
    given = [*OPTIONS, "--save", str(tmp_path / "save"), "--out", str(tmp_path / "out")]
    _, args = cli.parse("example_gpt.py", example_gpt.EXERCISE, (), given)
    exercise.check(args)
    return Run(example_gpt.EXERCISE, args, {"gpt": None})


def loaded(tmp_path):
    """A Run with a model, whose sentence fits the block."""
    run = to_train(tmp_path)
    run.args.sentence = "walnut"
    run.models["gpt"] = TrainedGPT(small_model(), Letters(), Book(TEXT, TEXT), {}, None, None)
    return run


def generators():
    return torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate()  # noqa: NPY002


def test_a_forecast_changes_nothing(tmp_path):
    run, before = loaded(tmp_path), generators()
    options = dict(vars(run.args))
    model = run.models["gpt"].model.train()
    weights = [p.detach().clone() for p in model.parameters()]
    assert forecast.forecast(run) > 0
    assert vars(run.args) == options
    assert run.seconds == {}
    assert model.training
    for old, new in zip(weights, model.parameters(), strict=True):
        assert torch.equal(old, new)
        assert new.grad is None
    assert generators() == before
    assert list(tmp_path.iterdir()) == []


def test_seconds_are_those_of_a_step_times_the_steps_that_will_be(tmp_path, clock_of):
    clock_of(forecast, step=0.25)  # looked at once a step
    questions = 0.25 * (forecast.STEPS + forecast.OTHERS)  # of ten starts, two times
    assert forecast.forecast(loaded(tmp_path)) == pytest.approx(questions)


def test_a_training_says_how_long_all_of_it_takes(tmp_path, capsys, monkeypatch, clock_of):
    clock_of(running, step=2.0)  # seconds an iteration
    monkeypatch.setattr(exercise, "questions_seconds", lambda *of: 1000.0)
    run = to_train(tmp_path)
    assert forecast.forecast(run) is None
    run.args.save.mkdir()
    exercise.train(run, "gpt")
    (said,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("this")]
    assert said == f"this will take about {10 * 2 + 1000} s here"
