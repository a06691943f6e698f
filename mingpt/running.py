"""A training run as its user sees it: how long it takes, how far it is, a state to go on from."""

import time
from concurrent.futures import ThreadPoolExecutor

import torch
from tqdm import tqdm

from mingpt import startup
from mingpt.processes import process_rank
from mingpt.progress import LINE_SECONDS
from mingpt.trainer import TrainingDivergedError
from mingpt.trainer_settings import last_iteration
from mingpt.utils import atomic_path

STATE_INTERVAL = 100  # iterations between two states
MEASURED = 3  # iterations that the estimate is made of, after a first one


def run_trainer(trainer, state_file=None, afterwards=None):
    """Run a trainer; its state goes into `state_file` every STATE_INTERVAL iterations.

    afterwards: seconds that the program will take once the training has ended; where they are
    known, its first iterations say how long all of it takes. Of several processes the first
    reports and writes. Raises ValueError where the training diverges, and OSError where a state
    could not be written.
    """
    if process_rank() != 0:
        _run(trainer)
        return
    total = last_iteration(trainer.config)
    with StateFile(state_file) as states, Progress(total, afterwards) as progress:

        def report(trainer):
            progress.show(trainer)
            states.keep(trainer)

        trainer.set_callback("on_iteration_end", report)
        _run(trainer)


def _run(trainer):
    try:
        trainer.run()
    except TrainingDivergedError as error:
        raise ValueError(f"{error}: lower --learning-rate") from None


class StateFile:
    """Writes a trainer's state now and then, beside the training: from a copy, by a thread.

    A file is replaced when the new one is complete, so a process that is killed leaves the last.
    """

    def __init__(self, path):
        """path: of the file; None writes nothing."""
        self.path = path
        self.thread = ThreadPoolExecutor(max_workers=1)
        self.pending = None

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        self.thread.shutdown()
        if kind is None:
            self._raise_what_failed()

    def keep(self, trainer):
        """Begin to write the state where one is due. Raises OSError where the last one failed."""
        done = trainer.iter_num
        if self.path is None or done % STATE_INTERVAL or done >= last_iteration(trainer.config):
            return
        self._raise_what_failed()
        self.pending = self.thread.submit(self._write, trainer.state_dict())

    def _write(self, state):
        with atomic_path(self.path) as temporary:
            torch.save(state, temporary)

    def _raise_what_failed(self):
        if self.pending is not None:
            self.pending.result()


class Progress:
    """Says how long a training will take here, then how far it is: a bar, or lines in a file."""

    def __init__(self, total, afterwards=None):
        """total: iterations of the training, None for no end; afterwards: see `run_trainer`."""
        self.total, self.afterwards = total, afterwards
        self.bar = tqdm(total=total, desc="training", unit="it", disable=None)
        self.began = self.said = time.monotonic()
        self.ends = []  # seconds at which the first iterations ended

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.bar.close()

    def show(self, trainer):
        """After an iteration of the trainer."""
        now = time.monotonic()
        shown = {"loss": f"{trainer.losses[-1]:.3f}"}
        if trainer.evaluations:
            shown["heldout_bpb"] = f"{trainer.evaluations[-1][1]:.3f}"
        self.bar.set_postfix(shown, refresh=False)
        self.bar.update(trainer.iter_num - self.bar.n)
        if len(self.ends) <= MEASURED:
            self.ends.append(now)
            if len(self.ends) == MEASURED + 1 and self.total is not None:
                self._estimate(self.total - trainer.iter_num)
        elif self.bar.disable and now - self.said >= LINE_SECONDS:
            self.said = now
            values = ", ".join(f"{name} {value}" for name, value in shown.items())
            of_all = "" if self.total is None else f" of {self.total}"
            minutes = (now - self.began) / 60
            print(f"    iteration {trainer.iter_num}{of_all}: {values}, {minutes:.1f} min",
                  flush=True)  # fmt: skip

    def _estimate(self, left):
        seconds = (self.ends[-1] - self.ends[0]) / MEASURED
        more = max(left, 0) * seconds
        tqdm.write(
            f"    {seconds:.2f} s an iteration here: the training takes about "
            f"{more / 60:.1f} min more"
        )
        self.said = self.ends[-1]
        if self.afterwards is not None:
            whole = self.said - self.began + more + self.afterwards
            with tqdm.external_write_mode():
                startup.say(f"this will take about {whole:.0f} s here")
