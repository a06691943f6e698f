"""Ctrl-C in example_gpt.py at any moment: one line, exit code 130, no traceback, no file."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import example_gpt
from mingpt.studies import exercise

ROOT = Path(example_gpt.__file__).parent
LINE = "example_gpt.py: interrupted\n"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}

# A background shell ignores SIGINT; a terminal's programs do not.
AS_IN_A_TERMINAL = """
import runpy, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
AT_IMPORT = """
import os, signal, sys
class AtImport:
    def find_spec(self, name, path=None, target=None):
        if name == MODULE:
            ACT
sys.meta_path.insert(0, AtImport())
"""


def program(module, act):
    """example_gpt.py as a terminal runs it, with a statement at the import of a module."""
    hook = AT_IMPORT.replace("MODULE", repr(module)).replace("ACT", act)
    return [sys.executable, "-u", "-c", hook + AS_IN_A_TERMINAL, "example_gpt.py"]


INTERRUPT = "os.kill(os.getpid(), signal.SIGINT)"


def test_interrupting_before_the_training_is_one_line(tmp_path, capfd, monkeypatch):
    def interrupt():
        raise KeyboardInterrupt

    monkeypatch.setattr(exercise, "load_book", interrupt)
    assert example_gpt.main(["--out", f"{tmp_path}/out"]) == 130
    assert capfd.readouterr().err == LINE


@pytest.mark.parametrize("module", ["torch", "numpy", "matplotlib.pyplot", "mingpt.model"])
def test_interrupting_the_imports_is_one_line(module):
    done = subprocess.run(
        program(module, INTERRUPT), cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True,
        timeout=600,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (130, "", LINE)


def test_only_the_first_of_several_processes_says_it():
    done = subprocess.run(
        program("torch", INTERRUPT), cwd=ROOT, env={**ENVIRONMENT, "RANK": "1"},
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def start(command):
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=ENVIRONMENT,
    )  # fmt: skip


@pytest.mark.parametrize("seconds", [0, 0.3, 1])
def test_a_signal_from_outside_during_the_imports_is_one_line(tmp_path, seconds):
    folders = ["--out", f"{tmp_path}/out", "--save", f"{tmp_path}/save"]
    process = start([*program("torch", "print('importing')"), *folders])
    with process.stdout as output, process.stderr as errors:
        assert output.readline() == "importing\n"
        time.sleep(seconds)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=600) == 130
        *forecast, line = errors.read().splitlines(keepends=True)  # said if it came that far
        assert all(said.startswith("this will take about ") for said in forecast)
        assert line == LINE


def test_interrupting_the_training_leaves_no_file_and_no_traceback(tmp_path):
    folders = ["--out", f"{tmp_path}/out", "--save", f"{tmp_path}/save"]
    command = [*program("", "pass"), "--model", "gpt-nano", "--batch-size", "8"]
    command += ["--max-iters", "3000"]
    process = start([*command, *folders])
    with process.stdout as output, process.stderr as errors:
        assert output.readline().startswith("Q1  training gpt-nano")
        assert any("s an iteration here" in line for line in output)  # the first 4 of 3000
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=600) == 130
        *forecast, line = errors.read().splitlines(keepends=True)  # said with the fourth iteration
        assert all(said.startswith("this will take about ") for said in forecast)
        assert line == LINE
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []
