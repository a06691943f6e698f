"""What a script does before its slow imports: refuse an old Python, and end well on Ctrl-C.

Imports the standard library alone, and runs on any Python 3, so that the refusal can be read.
"""

import os
import signal
import sys
import threading

LEAST_PYTHON = (3, 11)


def prepare(prog):
    """To be called first of all in a script whose name is `prog`.

    From here on Ctrl-C ends the process at once with one line and exit code 130; work that has
    something to tidy up runs under `Interruptible`.
    """
    if sys.version_info < LEAST_PYTHON:
        needed, found = (".".join(map(str, v[:2])) for v in (LEAST_PYTHON, sys.version_info))
        sys.stderr.write(f"{prog}: error: Python {needed} or newer is needed, not {found}\n")
        sys.exit(2)

    def end(number, frame):
        os.write(2, f"{prog}: interrupted\n".encode())
        os._exit(130)

    signal.signal(signal.SIGINT, end)


class Interruptible:
    """A block that Ctrl-C leaves by KeyboardInterrupt, with its `finally` clauses undisturbed.

    A second Ctrl-C is ignored, as is every later one until the process ends.
    """

    def __init__(self):
        self.interrupted = False

    def __enter__(self):
        self.ours = threading.current_thread() is threading.main_thread()
        if self.ours:
            self.before = signal.signal(signal.SIGINT, self._interrupt)
        return self

    def _interrupt(self, number, frame):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self.interrupted = True
        raise KeyboardInterrupt

    def __exit__(self, *error):
        if self.ours and not self.interrupted:
            signal.signal(signal.SIGINT, self.before)
