"""The first statements of a script: the Python it needs, and Ctrl-C while the imports run.

Nothing but the standard library is imported here, and every Python 3 can read it: importing
PyTorch takes seconds, in which an interrupt should already end the script in one line.
"""

import os
import signal
import sys
from contextlib import contextmanager

NEEDED = (3, 11)  # numpy 2.4 has no wheels for less
INTERRUPTED = 130  # the exit code of a program that Ctrl-C ended


def prepare(prog):
    """Refuse an older Python, exit code 2; from now on Ctrl-C ends the program in one line."""
    if sys.version_info < NEEDED:
        needed, here = (".".join(map(str, version[:2])) for version in (NEEDED, sys.version_info))
        say("{}: error: this needs Python {} or later, not {}".format(prog, needed, here))  # noqa: UP032
        sys.exit(2)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where it is ignored
        signal.signal(signal.SIGINT, _Ending(prog))


@contextmanager
def interruptible():
    """Ctrl-C inside raises KeyboardInterrupt again, so that files and processes are left clean."""
    ending = signal.getsignal(signal.SIGINT)
    if not isinstance(ending, _Ending):
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, ending)


def print_anything():
    """From now on a character that standard output cannot encode is printed as "?", where it would
    end the program; standard error escapes such characters by itself."""
    if hasattr(sys.stdout, "reconfigure"):  # not where a notebook or a test took it
        sys.stdout.reconfigure(errors="replace")


def say_interrupted(prog):
    say(prog + ": interrupted")


def say(line):
    """A line on stderr, under torchrun from the first process alone."""
    if os.environ.get("RANK", "0") == "0":
        os.write(2, (line + "\n").encode())


class _Ending:
    """A signal handler that ends the program at once, whatever it was importing."""

    def __init__(self, prog):
        self.prog = prog

    def __call__(self, number, frame):
        say_interrupted(self.prog)
        os._exit(INTERRUPTED)
