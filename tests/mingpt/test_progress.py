"""mingpt/progress.py: a bar on a terminal, elsewhere a plain line every half minute."""

import re
import sys

import pytest
import torch

from mingpt import inversion, progress
from tests.mingpt.helpers import small_model, tokens


@pytest.fixture
def clock(clock_of):
    return clock_of(progress)


def test_lines_come_every_half_minute_and_say_what_is_left(clock, capsys):
    for _ in progress.bar(range(2000), desc="tuning"):
        clock.now += 0.05
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3  # of 100 seconds
    for number, line in enumerate(lines, start=1):
        done, left = re.fullmatch(r"tuning: (.*) of 2,000 steps, about (\d+) s left", line).groups()
        assert int(done.replace(",", "")) == pytest.approx(600 * number, abs=3)
        assert int(left) == pytest.approx(100 - 30 * number, abs=1)


def test_what_is_short_says_nothing(clock, capsys):
    assert list(progress.bar("abc", desc="letters")) == ["a", "b", "c"]
    assert capsys.readouterr() == ("", "")


def test_before_the_first_item_a_note_is_said_and_no_guess(clock, capsys):
    with progress.bar(total=40, desc="inversion", unit="start") as shown:
        clock.now = 31
        shown.set_postfix(step=7)
    assert capsys.readouterr().err == "inversion: 0 of 40 starts, step 7\n"


def test_an_unknown_total_is_left_out(clock, capsys):
    shown = progress.bar(total=None, desc="merges", unit="byte", unit_scale=True)
    clock.now = 30
    shown.update(12_345)
    assert capsys.readouterr().err == "merges: 12,345 bytes\n"


def test_neither_is_shown_where_none_is_wanted(clock, capsys):
    for _ in progress.bar(range(3), desc="tuning", shown=False):
        clock.now += 40
    assert capsys.readouterr() == ("", "")


def test_a_terminal_gets_a_bar(monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    shown = progress.bar(range(3), desc="x", unit="task", leave=False)
    assert type(shown).__name__ == "tqdm"
    shown.close()


def test_a_slow_inversion_is_not_silent_before_its_first_starts_end(clock_of, capsys):
    clock_of(progress, step=5.0)  # seconds a step
    targets = [tokens(4, seed=seed) for seed in (1, 2, 3)]
    model = small_model()
    found = inversion.invert_many(model, targets, seed=0, margin=0.5, group=3)
    lines = capsys.readouterr().err.splitlines()
    steps = max(each.steps for each in found)
    assert [line.split(", about")[0] for line in lines[: steps // 6]] == [
        f"inversion: 0 of 3 starts, step {step}" for step in range(6, steps + 1, 6)
    ]
    alone = inversion.invert_all(model, targets, range(3), margin=0.5)
    assert all(torch.equal(a.vectors, b.vectors) for a, b in zip(found, alone, strict=True))
