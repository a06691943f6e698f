"""Ctrl-C to the script of Part 1, at any moment: one line, exit code 130, nothing half-written."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import diffusion
from diffusion import startup

ROOT = Path(__file__).parents[2]
# A background shell ignores SIGINT; a terminal's programs do not.
AS_IN_A_TERMINAL = """
import runpy, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
PROGRAM = ["-c", AS_IN_A_TERMINAL, "example_diffusion.py"]
SMALL = ["--epochs", "40", "--points", "1000", "--steps", "20", "--samples", "400"]


def interrupt(
    folder: Path, options: list[str], moment: Callable[[], bool] | str, times: int = 1
) -> None:
    """Start the script, send SIGINT as soon as `moment()` holds, or a line with that text has
    appeared, and see it end well."""
    folders = ["--out", str(folder / "report"), "--save", str(folder / "weights")]
    command = [sys.executable, *PROGRAM, *options, *folders]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, encoding="utf-8")
    if isinstance(moment, str):
        assert any(moment in line for line in process.stderr)
    else:
        deadline = time.monotonic() + 600
        while not moment() and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.002)
    for _ in range(times):
        process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 130
    assert errors.splitlines()[-1] == "example_diffusion.py: interrupted"
    assert errors.count("interrupted") == 1
    assert "Traceback" not in errors


@pytest.mark.parametrize("module", ["numpy", "torch.nn.modules", "tqdm", "diffusion.studies.vp"])
def test_interrupt_during_the_imports(module, tmp_path):
    command = [sys.executable, "-X", "importtime", *PROGRAM, "--out", str(tmp_path)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, encoding="utf-8")
    # Every import adds a line once it is done.
    done = (line.rpartition("|")[2].strip() for line in process.stderr)
    assert module in done
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 130
    assert errors.endswith("example_diffusion.py: interrupted\n")
    assert "Traceback" not in errors
    assert not list(tmp_path.iterdir())


def test_interrupt_leaves_no_half_written_file(tmp_path):
    weights = tmp_path / "weights/diffusion_unconditional.pt"
    interrupt(tmp_path, SMALL, weights.exists)
    assert diffusion.load(weights).num_classes == 0
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    kinds = {".pt", ".svg", ".json"}
    assert all(path.suffix in kinds and not path.name.startswith(".") for path in files)


def test_interrupted_training_leaves_existing_weights_alone(tmp_path):
    weights = tmp_path / "weights/diffusion_unconditional.pt"
    weights.parent.mkdir()
    weights.write_bytes(b"the weights of an earlier run")
    interrupt(tmp_path, ["--epochs", "100000"], "this will take", times=3)
    assert weights.read_bytes() == b"the weights of an earlier run"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [weights]


def test_startup_imports_nothing_slow():
    code = "import sys, diffusion.startup; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, encoding="utf-8", check=True
    ).stdout.split()
    assert "diffusion.startup" in loaded
    assert not {"torch", "numpy", "matplotlib", "tqdm", "diffusion.files"} & set(loaded)


def test_an_old_python_is_refused_in_one_line(monkeypatch, capsys):
    monkeypatch.setattr(startup.sys, "version_info", (3, 10, 4, "final", 0))
    with pytest.raises(SystemExit) as stop:
        startup.prepare("example_diffusion.py")
    assert stop.value.code == 2
    message = "example_diffusion.py: error: Python 3.11 or newer is needed, not 3.10\n"
    assert capsys.readouterr().err == message


def test_interruptible_block_gives_the_handler_back():
    before = signal.getsignal(signal.SIGINT)
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        startup.prepare("script.py")
        ending = signal.getsignal(signal.SIGINT)
        with startup.interruptible():
            assert signal.getsignal(signal.SIGINT) != ending
        assert signal.getsignal(signal.SIGINT) == ending
        with pytest.raises(KeyboardInterrupt), startup.interruptible():
            signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)  # a second one is ignored
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
        startup.prepare("script.py")  # as is every one, where a shell wants it so
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


JOBS = """
import signal, sys, threading, time
from diffusion import startup
startup.prepare("jobs.py")
from diffusion.threads import run_all

def job():
    sys.stdout.write("begun\\n")  # line and end in one piece: three threads write at once
    sys.stdout.flush()
    time.sleep(1200)

sys.exit(startup.conclude("jobs.py", lambda: run_all([job] * 3, "jobs")))
"""


def test_jobs_in_threads_are_not_waited_for():
    first = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
    with subprocess.Popen(
        [sys.executable, "-c", first + JOBS], cwd=ROOT, encoding="utf-8",
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        begun = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=600)
    assert begun == "begun\n"
    assert process.returncode == 130
    assert errors.splitlines()[-1] == "jobs.py: interrupted"
    assert "Traceback" not in errors
