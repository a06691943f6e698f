"""How every program here begins and ends: its options, its error lines, Ctrl-C, its exit code.

A program calls `prepare` first of all, before imports that take seconds, and runs its work under
`conclude`. Imports the standard library alone, and runs on any Python 3, so that an old one can be
refused in words.
"""

import argparse
import os
import signal
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

LEAST_PYTHON = (3, 11)  # numpy 2.4 has no wheels for less
REFUSED, INTERRUPTED = 2, 130  # exit codes
MINUS = "\v-"  # of a negative number on the command line: white space to float() and int()


def prepare(prog):
    """Refuse an old Python; from here on Ctrl-C ends the process with one line and exit code 130.

    Work that has something to tidy up runs under `conclude`. Where SIGINT is ignored, as a shell
    does for what it starts in the background, it stays so.
    """
    if sys.version_info < LEAST_PYTHON:
        needed, found = (".".join(map(str, v[:2])) for v in (LEAST_PYTHON, sys.version_info))
        complain(prog, "Python " + needed + " or newer is needed, not " + found)
        sys.exit(REFUSED)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _Ending(prog))


def conclude(prog, work, report=None):
    """Do a program's work and end it well; returns its exit code.

    ValueError and OSError are the user's to know: one line on stderr, exit code 2. Ctrl-C is one
    line, exit code 130. Whatever else is raised is a mistake of ours, and goes on.

    work(): returns the exit code, or None for 0.
    report(prog, message): writes the line of an error, in place of `complain`.
    """
    print_anything()
    try:
        with interruptible():
            return work() or 0
    except (ValueError, OSError) as error:
        (report or complain)(prog, str(error))
        return REFUSED
    except KeyboardInterrupt:
        say(prog + ": interrupted")
        return INTERRUPTED


def complain(prog, message):
    """The one line of an error."""
    say(prog + ": error: " + in_one_line(message))


def in_one_line(message):
    """Without line breaks; bytes of a file's name that are no UTF-8 are written as escapes."""
    return " ".join(message.splitlines()).encode("utf-8", "backslashreplace").decode()


def say(line):
    """A line on stderr, under torchrun from the first process alone."""
    sys.stdout.flush()
    if os.environ.get("RANK", "0") != "0":
        return
    print(line, file=sys.stderr, flush=True)


def print_anything():
    """Let a character that standard output lacks (cp1252, ASCII) show as "?", not end the run."""
    if hasattr(sys.stdout, "reconfigure"):  # not where a notebook or a test took it
        sys.stdout.reconfigure(errors="replace")


@contextmanager
def interruptible():
    """Ctrl-C inside raises KeyboardInterrupt, so that files and processes are left clean.

    After one, every other is ignored until the process ends. A caller that did not `prepare` keeps
    its own handling.
    """
    ending = signal.getsignal(signal.SIGINT)
    if not isinstance(ending, _Ending) or threading.current_thread() is not threading.main_thread():
        yield
        return
    interrupted = False

    def interrupt(number, frame):
        nonlocal interrupted
        interrupted = True
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        if not interrupted:
            signal.signal(signal.SIGINT, ending)


class _Ending:
    """A signal handler that ends the program at once, whatever it was importing."""

    def __init__(self, prog):
        self.prog = prog

    def __call__(self, number, frame):
        if os.environ.get("RANK", "0") == "0":
            os.write(2, (self.prog + ": interrupted\n").encode())
        os._exit(INTERRUPTED)


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong with an option, and exits with code 2.

    A number may be negative, in exponent form too; a text or a file's name may look like one.
    Options are not abbreviated.
    """

    def __init__(self, prog, **settings):
        super().__init__(prog, allow_abbrev=False, **settings)
        for kind in (None, str):
            self.register("type", kind, _as_given)
        self.register("type", Path, lambda text: Path(_as_given(text)))

    def parse_known_args(self, args=None, namespace=None):
        print_anything()  # --help
        given = sys.argv[1:] if args is None else args
        return super().parse_known_args([_as_value(argument) for argument in given], namespace)

    def error(self, message):
        complain(self.prog.partition(" --study ")[0], _as_given(message))
        sys.exit(REFUSED)


def _as_value(argument):
    """The argument; a negative number so that argparse does not take it for an option."""
    try:
        float(argument)
    except ValueError:
        return argument
    return argument.replace("-", MINUS, 1) if argument.startswith("-") else argument


def _as_given(text):
    return text.replace(MINUS, "-").replace(repr(MINUS)[1:-1], "-")
