"""The first statements of a script, in processes of their own."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FIRST = "import os, signal, sys\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"


def run(program):
    return subprocess.run(
        [sys.executable, "-c", FIRST + program], cwd=ROOT, capture_output=True, text=True,
        timeout=600,
    )  # fmt: skip


@pytest.mark.parametrize("version", ["(3, 10, 12)", "(2, 7, 18)"])
def test_an_older_python_is_refused_in_one_line(version):
    done = run(f"sys.version_info = {version}\n"
               "from mingpt import startup\nstartup.prepare('script.py')\nprint('on')")
    assert (done.returncode, done.stdout) == (2, "")
    short = ".".join(version.strip("()").split(", ")[:2])
    assert done.stderr == f"script.py: error: Python 3.11 or newer is needed, not {short}\n"


def test_nothing_that_takes_long_is_imported():
    done = run("from mingpt import startup\nstartup.prepare('script.py')\n"
               "print({'torch', 'numpy', 'matplotlib', 'tqdm'} & sys.modules.keys())")
    assert (done.returncode, done.stdout) == (0, "set()\n")


@pytest.mark.parametrize("work", ["pass", "os.kill(os.getpid(), signal.SIGINT)"])
def test_an_interrupt_ends_the_program_outside_of_its_work(work):
    done = run("from mingpt import startup\nstartup.prepare('script.py')\n"
               "with startup.interruptible():\n"
               f"    try:\n        {work}\n        print('done', flush=True)\n"
               "    except KeyboardInterrupt:\n        print('caught', flush=True)\n"
               "os.kill(os.getpid(), signal.SIGINT)\nprint('on')")
    if work == "pass":
        assert (done.returncode, done.stdout) == (130, "done\n")
        assert done.stderr == "script.py: interrupted\n"
    else:  # one interrupt is enough
        assert (done.returncode, done.stdout, done.stderr) == (0, "caught\non\n", "")


def test_where_interrupts_are_ignored_they_stay_so():
    done = run("signal.signal(signal.SIGINT, signal.SIG_IGN)\nfrom mingpt import startup\n"
               "startup.prepare('script.py')\nos.kill(os.getpid(), signal.SIGINT)\nprint('on')")
    assert (done.returncode, done.stdout, done.stderr) == (0, "on\n", "")


def test_outside_a_script_the_handler_is_left_alone():
    from mingpt import startup

    before = signal.getsignal(signal.SIGINT)
    with startup.interruptible():
        assert signal.getsignal(signal.SIGINT) is before
    assert signal.getsignal(signal.SIGINT) is before
