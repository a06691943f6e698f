"""How every program here begins and ends: error lines, Ctrl-C, exit codes.

A program calls `prepare` first of all, before imports that take seconds, and runs its work under
`conclude`. Imports what Python itself has imported, and little more, and runs on any Python 3, so
that Ctrl-C is heard early and an old Python is refused in words.
"""

import os
import signal
import sys
from contextlib import contextmanager

LEAST_PYTHON = (3, 11)  # numpy 2.4 has no wheels for less
REFUSED, INTERRUPTED, UNREAD = 2, 130, 141  # exit codes


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
            code = work() or 0
            sys.stdout.flush()
            return code
    except BrokenPipeError:  # who read what is printed, `head` say, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return UNREAD
    except (ValueError, OSError) as error:
        (report or complain)(prog, str(error))
        return REFUSED
    except KeyboardInterrupt:
        say(prog + ": interrupted")
        return INTERRUPTED
    except (MemoryError, RuntimeError) as error:  # PyTorch has no class of its own on the CPU
        message = (str(error).splitlines() or [""])[0]
        if not (isinstance(error, MemoryError) or ("allocate" in message and "memory" in message)):
            raise
        (report or complain)(prog, "there is not enough memory. " + message)
        return REFUSED


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
    import threading

    ending = signal.getsignal(signal.SIGINT)
    if not isinstance(ending, _Ending) or threading.current_thread() is not threading.main_thread():
        yield
        return
    interrupted = False

    def interrupt(number, frame):
        nonlocal interrupted
        if not interrupted:
            interrupted = True
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN if interrupted else ending)


class _Ending:
    """A signal handler that ends the program at once, whatever it was importing."""

    def __init__(self, prog):
        self.prog = prog

    def __call__(self, number, frame):
        if os.environ.get("RANK", "0") == "0":
            os.write(2, (self.prog + ": interrupted\n").encode())
        os._exit(INTERRUPTED)
