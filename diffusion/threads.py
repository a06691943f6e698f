"""How many threads PyTorch computes with: set where the work is done, and put back.

The networks of the plane are so small that the threads of one operation mostly wait for each other,
and beside another busy program for a processor as well. They compute with one thread, and several
computations go `side_by_side`; no bit of a result depends on the number of processors. Only epochs
of more rows than `Training.ONE_THREAD` are shared out.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch
from tqdm import tqdm

_LINE_EVERY = 30  # seconds between lines where no bar can be shown


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
    """[function(*each) for each in zip(*arguments)], as many at once as PyTorch has threads.

    Each computes with one thread.
    """
    with ThreadPoolExecutor(torch.get_num_threads()) as pool, one_thread():
        return list(pool.map(function, *arguments))


def run_all(jobs: Sequence[Callable], name: str) -> list:
    """The results of long jobs, in their order; as many run at once as PyTorch has threads.

    Each computes with one thread. Progress goes to standard error: a bar on a terminal, a line
    every half minute elsewhere. Jobs must not share anything that one of them changes.

    Raises:
        whatever a job raised, the first in their order; jobs that have not begun are dropped.
    """
    pool, results, said = ThreadPoolExecutor(torch.get_num_threads()), [], time.monotonic()
    with one_thread():
        try:
            waiting = [pool.submit(job) for job in jobs]
            for job in tqdm(waiting, desc=name, disable=None):
                results.append(job.result())
                if not sys.stderr.isatty() and time.monotonic() - said > _LINE_EVERY:
                    print(f"{name}: {len(results)} of {len(jobs)}", file=sys.stderr, flush=True)
                    said = time.monotonic()
            return results
        finally:  # who pressed Ctrl-C does not want to wait for the jobs that have begun
            wait = not isinstance(sys.exc_info()[1], KeyboardInterrupt)
            pool.shutdown(wait=wait, cancel_futures=True)
