"""How many threads PyTorch computes with: set where the work is done, and put back.

The networks of the plane are so small that the threads of one operation mostly wait for each other,
and beside another busy program for a processor as well. They compute with one thread, and several
computations go `side_by_side`; no bit of a result depends on the number of processors.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch


@contextmanager
def one_thread(wanted: bool = True) -> Iterator[None]:
    """Computes with one thread per operation inside, if wanted; also a decorator."""
    before = torch.get_num_threads()
    if not wanted or before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def side_by_side(function: Callable, *arguments: Iterable) -> list:
    """[function(*each) for each in zip(*arguments)], as many at once as there are processors."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(function, *arguments))
