"""mingpt/running.py: what a user sees of a training, and the state that is written beside it."""

import threading

import pytest
import torch

from mingpt import running
from mingpt.running import Progress, StateFile, run_trainer
from tests.mingpt.helpers import trainer


def weights(trainer):
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


def test_a_state_on_disk_leads_to_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(running, "STATE_INTERVAL", 2)
    whole, kept = trainer(max_iters=6), tmp_path / "training.pt"
    run_trainer(whole, kept)
    state = torch.load(kept, weights_only=True)
    assert state["iter_num"] == 4  # none for the last iteration
    again = trainer(max_iters=6)
    again.load_state_dict(state)
    run_trainer(again)
    assert torch.equal(weights(again), weights(whole))
    assert again.losses == whole.losses
    assert list(tmp_path.iterdir()) == [kept]


def test_training_goes_on_while_a_state_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(running, "STATE_INTERVAL", 1)
    go_on, save, seen = threading.Event(), torch.save, []

    def slow_save(state, path):
        assert go_on.wait(timeout=600)
        seen.append(state["iter_num"])
        save(state, path)

    monkeypatch.setattr(torch, "save", slow_save)
    of = trainer(max_iters=3)
    of.set_callback("on_batch_end", lambda t: go_on.set() if t.iter_num == 1 else None)
    run_trainer(of, tmp_path / "training.pt")  # the first state is not complete before step 2
    assert seen == [1, 2]


def test_a_failed_write_is_raised_and_leaves_the_last_state(tmp_path, monkeypatch):
    monkeypatch.setattr(running, "STATE_INTERVAL", 1)
    path = tmp_path / "training.pt"
    path.write_bytes(b"the last good one")

    def fail(state, path):
        path.write_bytes(b"half of it")
        raise OSError("no space left")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="no space left"):
        run_trainer(trainer(), path)
    assert path.read_bytes() == b"the last good one"
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupted_training_finishes_the_state_it_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(running, "STATE_INTERVAL", 2)
    of, path = trainer(max_iters=6), tmp_path / "training.pt"

    def interrupt(t):
        if t.iter_num == 3:
            raise KeyboardInterrupt

    of.set_callback("on_batch_end", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_trainer(of, path)
    assert torch.load(path, weights_only=True)["iter_num"] == 2


def test_nothing_is_written_without_a_path():
    with StateFile(None) as states:
        states.keep(trainer())


def test_how_long_it_takes_and_how_far_it_is(capsys, monkeypatch):
    clock = iter(range(0, 10_000, 20))  # an iteration takes twenty seconds
    monkeypatch.setattr(running.time, "monotonic", lambda: next(clock))
    of = trainer(max_iters=7)
    with Progress(7, afterwards=500) as progress:
        of.set_callback("on_iteration_end", progress.show)
        of.run()
    out, err = capsys.readouterr()
    assert err == "this will take about 640 s here\n"
    lines = out.splitlines()
    assert lines[0] == "    20.00 s an iteration here: the training takes about 1.0 min more"
    assert [line.split(":")[0].strip() for line in lines[1:]] == ["iteration 6 of 7"]
    assert f"loss {of.losses[5]:.3f}, 2.0 min" in lines[1]
