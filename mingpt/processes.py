"""Several processes that train together, one per GPU or CPU share, as torchrun starts them."""

import gc
import os
import sys
import time
from contextlib import contextmanager
from datetime import timedelta

import torch.distributed.nn.functional  # before any process group: its defaults would keep one
from torch import distributed

from mingpt import startup

PROCESS_TIMEOUT = timedelta(minutes=5)  # of a process that waits for the others
REPORT_SECONDS = 10  # that the other processes leave the first to report the error of all


def launched_rank():
    """This process's number under torchrun, known before the processes join; else 0."""
    return int(os.environ.get("RANK", "0"))


def process_rank():
    """This process's number among those of torch.distributed, 0 without it."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def process_count():
    """How many processes train together, 1 without torch.distributed."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def meet():
    """Under torchrun, the store that its processes share; None for a single process."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return None
    store, _, _ = next(distributed.rendezvous("env://", timeout=PROCESS_TIMEOUT))
    return store


@contextmanager
def together(store, device):
    """Inside, the processes of `store` train together on `device`; nothing for a single process.

    Each takes its own GPU where that is CUDA. After, no thread of the group is left: one that
    still ends its work while Python shuts down would abort the process. Raises ValueError for more
    processes than GPUs, and ConnectionError where another process ends before its time.
    """
    if store is None:
        yield
        return
    _join(store, device)
    try:
        yield
    except RuntimeError as error:
        if not _lost_contact(error):
            raise
        raise ConnectionError("another process of this training ended") from None
    finally:
        distributed.destroy_process_group()
        gc.collect()  # a wrapped model, a cycle of objects, holds the group


def _join(store, device):
    if torch.device(device).type == "cuda":
        number, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if number >= gpus:
            raise ValueError(f"one process per GPU: torchrun started more than the {gpus} here")
        torch.cuda.set_device(number)
    distributed.init_process_group(
        "nccl" if torch.device(device).type == "cuda" else "gloo",
        store=store, rank=launched_rank(),
        world_size=int(os.environ["WORLD_SIZE"]), timeout=PROCESS_TIMEOUT,
    )  # fmt: skip


def report_error(prog, message, store):
    """One line on stderr; what the first process says too, the others leave to it."""
    message = startup.in_one_line(message)
    if store is None or launched_rank() == 0:
        startup.complain(prog, message)
        if store is not None:
            store.set("error", message)
        return
    deadline = time.monotonic() + REPORT_SECONDS
    try:
        while not store.check(["error"]) and time.monotonic() < deadline:
            time.sleep(0.1)
        said = store.check(["error"]) and store.get("error").decode() == message
    except RuntimeError:  # the store ended with the first process
        said = False
    if not said:
        line = f"{prog}: error in process {launched_rank()}: {message}"
        print(line, file=sys.stderr, flush=True)


def _lost_contact(error):
    """Whether a RuntimeError says that another process is gone; gloo has no class for it."""
    return isinstance(error, distributed.DistError) or "gloo" in str(error)
