"""Progress of what takes a while: a bar on a terminal, elsewhere a plain line every half minute."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 30


class Lines:
    """What a run uses of `tqdm`, its state on a line of its own every half minute."""

    def __init__(
        self,
        iterable: Iterable | None = None,
        *,
        desc: str,
        total: int | None = None,
        initial: int = 0,
        unit: str = "step",
        leave: bool = True,
    ) -> None:
        self.iterable, self.desc, self.unit = iterable, desc, unit
        self.total = len(iterable) if total is None else total
        self.done = self.initial = initial
        self.note = ""
        self.began = self.said = time.monotonic()

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *error) -> None:
        pass

    def __iter__(self) -> Iterator:
        for item in self.iterable:
            yield item
            self.update()

    def set_postfix(self, **values: str) -> None:
        self.note = "".join(f", {name} {value}" for name, value in values.items())

    def update(self, count: int = 1) -> None:
        self.done += count
        now = time.monotonic()
        if now - self.said < SECONDS_BETWEEN_LINES:
            return
        self.said = now
        left = (now - self.began) * (self.total - self.done) / (self.done - self.initial)
        state = f"{self.done:,} of {self.total:,} {self.unit}s{self.note}, about {left:.0f} s left"
        print(f"{self.desc}: {state}", file=sys.stderr, flush=True)


def bar(*args, shown: bool = True, **options) -> tqdm | Lines:
    """A `tqdm`, or `Lines` where standard error is no terminal; shown: False for neither."""
    if shown and not sys.stderr.isatty():
        return Lines(*args, **options)
    return tqdm(*args, disable=not shown, **options)
