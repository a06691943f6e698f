"""How far something long is: a bar on a terminal, elsewhere a plain line every half minute."""

import sys
import time

from tqdm import tqdm

LINE_SECONDS = 30  # between two lines


def bar(iterable=None, *, shown=True, **options):
    """A `tqdm`, or `Lines` where standard error is no terminal.

    shown: False for neither; options: desc, total, unit, unit_scale and leave, as tqdm has them.
    """
    if shown and not sys.stderr.isatty():
        return Lines(iterable, **options)
    return tqdm(iterable, disable=not shown, **options)


class Lines:
    """As much of `tqdm` as is used here; where an update or a note finds a line due, it is written
    to standard error.

    A line says how many of the items are done, the note, and how long the rest will take if it
    goes on like this: unknown before the first item and without a total.
    """

    def __init__(
        self, iterable=None, *, desc, total=None, unit="step", unit_scale=False, leave=True
    ):
        """unit: one item's name; unit_scale and leave are of the bar alone."""
        if total is None and hasattr(iterable, "__len__"):
            total = len(iterable)
        self.iterable, self.desc, self.total, self.unit = iterable, desc, total, unit
        self.n = 0
        self.note = ""
        self.began = self.said = time.monotonic()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def __iter__(self):
        for item in self.iterable:
            yield item
            self.update()

    def update(self, n=1):
        self.n += n
        self._say_if_due()

    def set_postfix(self, **values):
        self.note = "".join(f", {name} {value}" for name, value in values.items())
        self._say_if_due()

    def _say_if_due(self):
        now = time.monotonic()
        if now - self.said < LINE_SECONDS:
            return
        self.said = now
        of_all = "" if self.total is None else f" of {self.total:,}"
        left = ""
        if self.n and self.total is not None:
            left = f", about {(now - self.began) * (self.total - self.n) / self.n:.0f} s left"
        print(f"{self.desc}: {self.n:,}{of_all} {self.unit}s{self.note}{left}",
              file=sys.stderr, flush=True)  # fmt: skip
