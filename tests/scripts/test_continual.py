"""The study of continual learning, end to end at small settings, and what it says to bad input."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch

import example_diffusion
from diffusion.figures import continual as figures
from diffusion.images import mnist
from diffusion.studies import continual
from diffusion.studies.parts import continual_digits, continual_runs

SMALL = ["--tasks", "2", "--seeds", "2", "--updates", "8", "--vae-updates", "2", "--classes", "2",
         "--lambdas", "1", "100", "--memories", "20"]  # fmt: skip


def test_the_study_answers_every_question(tmp_path, monkeypatch):
    monkeypatch.setattr(continual_digits, "LAMBDAS", (1.0,))
    monkeypatch.setattr(continual_runs, "RATES", {"mlp": (0.001, 0.01), "cnn": (0.01, 0.02)})
    whole = mnist.load
    monkeypatch.setattr(mnist, "load", lambda part: tuple(rows[:500] for rows in whole(part)))
    drawn = {}
    curves = figures.curves
    monkeypatch.setattr(figures, "curves", lambda by, n: drawn.update(by) or curves(by, n))
    folders = ["--out", str(tmp_path), "--save", str(tmp_path / "weights")]
    assert example_diffusion.main(["--study", "continual", *SMALL, *folders]) == 0
    # The curves run through both tasks, and all strategies share the first one.
    assert {tuple(curve.shape) for curve in drawn.values()} == {(2, 2 * 8, 2)}
    naive, *others = drawn.values()
    assert all(torch.equal(curve[:, :8], naive[:, :8]) for curve in others)
    found = json.loads((tmp_path / "results/continual.json").read_text(encoding="utf-8"))
    assert set(continual.STUDY.questions) - {"tasks"} < set(found)
    for what, counted in (
        ("mlp", ["separate"]), ("cnn", ["separate"]),
        ("sequences", ["EWC 100", "rehearsal 20", "joint"]),
    ):  # fmt: skip
        scores = found["choices"][what]["validation_accuracy"]
        best = max(
            scores[counted[0]], key=lambda rate: sum(scores[name][rate]["mean"] for name in counted)
        )
        assert found["choices"][what]["learning_rate"] == float(best)
    matrix = found["forgetting"]["naive"]["matrix"]
    assert [len(row) for row in matrix] == [2, 2]
    assert max(found["regression"]["relative_error_whole_online"]) < 1e-6
    assert found["lambda"]["online_minus_one_a_task"]["mean"] == 0  # the same with two tasks
    names = {path.stem.removeprefix("continual_") for path in (tmp_path / "figures").iterdir()}
    assert names == {
        "a_tasks", "a_matrices", "a_curves", "a_averages", "a_networks", "a_line", "a_distance",
        "b_lambda", "c_rehearsal", "e_nats", "e_samples",
    }  # fmt: skip


@pytest.mark.parametrize(("seeds", "tried"), [(1, (2.0,)), (2, (1.0, 2.0, 3.0, 4.0))])
def test_a_run_of_one_seed_takes_the_second_of_a_range(seeds, tried):
    run = SimpleNamespace(args=SimpleNamespace(seeds=seeds))
    assert continual_runs.candidates(run, (1.0, 2.0, 3.0, 4.0)) == tried


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--tasks", "1"], "--tasks must be in 2..20, not 1"),
        (["--tasks", "21"], "--tasks must be in 2..20, not 21"),
        (["--lambdas", "-1"], "--lambdas must be finite and not negative, not -1"),
        (["--lambdas", "1", "inf"], "--lambdas must be finite and not negative, not inf"),
        (["--lambdas", "nan"], "--lambdas must be finite and not negative, not nan"),
        (["--lambdas", "1", "1"], "--lambdas names a value twice"),
        (["--memories", "0"], "--memories must be in 1..50000, not 0"),
        (["--memories", "50001"], "--memories must be in 1..50000, not 50001"),
        (["--seeds", "0"], "--seeds must be in"),
        (["--classes", "11"], "--classes must be in 2..10"),
        (["--updates", "0"], "--updates must be in"),
    ],
)
def test_bad_input_ends_in_one_line_and_exit_code_2(options, complaint, tmp_path, capsys):
    folders = ["--out", str(tmp_path / "report"), "--save", str(tmp_path / "weights")]
    try:
        code = example_diffusion.main(["--study", "continual", *options, *folders])
    except SystemExit as stop:
        code = stop.code
    error = capsys.readouterr().err
    assert code == 2
    assert complaint in error
    assert error.count("\n") == 1
    assert not (tmp_path / "report").exists()
