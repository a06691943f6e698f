"""Progress: a bar on a terminal, elsewhere a plain line every half minute."""

from __future__ import annotations

import re
import sys

import pytest

from diffusion import progress


@pytest.fixture
def clock(clock_of):
    return clock_of(progress)


def test_lines_come_every_half_minute_and_say_what_is_left(clock, capsys):
    with progress.bar(desc="training", unit="epoch", total=3000) as shown:
        for _ in range(1000):
            clock.now += 0.1
            shown.set_postfix(loss="0.83")
            shown.update()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3  # of 100 seconds
    done = [
        int(re.match(r"training: (\d+) of 3,000 epochs, loss 0.83, ", line)[1]) for line in lines
    ]
    assert done == pytest.approx([300, 600, 900], abs=2)
    assert [int(re.search(r"about (\d+) s left", line)[1]) for line in lines] == pytest.approx(
        [270, 240, 210], abs=2
    )


def test_what_is_short_says_nothing(clock, capsys):
    assert list(progress.bar(range(5), desc="questions", unit="question")) == [0, 1, 2, 3, 4]
    assert capsys.readouterr() == ("", "")


def test_a_resumed_run_counts_its_own_pace(clock, capsys):
    shown = progress.bar(desc="training", unit="epoch", total=100, initial=50)
    clock.now = 40
    shown.update(10)
    assert "60 of 100 epochs, about 160 s left" in capsys.readouterr().err


def test_a_terminal_gets_a_bar(monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    shown = progress.bar(range(3), desc="x", unit="step", leave=False)
    assert type(shown).__name__ == "tqdm"
    shown.close()
