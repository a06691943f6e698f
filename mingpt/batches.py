"""The batches a Trainer draws: endless, with replacement, and continued where they were left."""

from collections import deque

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from mingpt import draws
from mingpt.data import BlockDataset
from mingpt.utils import InputError


class Batches:
    """An endless iterator of (x, y) from a map-style dataset.

    The order is minGPT's: numbers from the generator as a RandomSampler draws them. A
    BlockDataset cuts its blocks itself; of any other a DataLoader fetches the items. What items
    draw at random in a worker process follows from the batch they are of, so that it comes again
    when the batches are continued.
    """

    def __init__(self, dataset, batch_size, generator, num_workers=0, pin_memory=False, state=None):
        """generator: None takes the global one. state: an earlier `state`, to go on from there.

        Raises InputError for a dataset without items, or whose items have no numbers.
        """
        if isinstance(dataset, IterableDataset):
            raise InputError("the dataset should have items by number, not be an IterableDataset")
        if len(dataset) == 0:
            raise InputError("the dataset is empty")
        self.dataset, self.batch_size, self.generator = dataset, batch_size, generator
        self._drawn = deque()  # generator states behind the batches drawn and not yet handed out
        self._state = state
        self._loader = None
        if state is not None:
            self.generator = self.generator or torch.Generator()
            self.generator.set_state(state)
        if not cuts_blocks(dataset):
            self._loader = iter(
                DataLoader(
                    _SeededItems(dataset) if num_workers else dataset,
                    batch_sampler=_Numbers(self, seeds=num_workers > 0), num_workers=num_workers,
                    pin_memory=pin_memory,
                )
            )  # fmt: skip

    def __iter__(self):
        return self

    def __next__(self):
        if self._loader is None:
            batch = self.dataset.batch(self._draw())
            self._state = None if self.generator is None else self.generator.get_state()
            return batch
        batch = next(self._loader)
        if not isinstance(batch, list | tuple) or len(batch) != 2:
            raise InputError(
                f"a dataset's items should be pairs (x, y); a batch of them is a "
                f"{type(batch).__name__} of {len(batch)}"
            )
        self._state = self._drawn.popleft()
        return batch

    def state(self):
        """Behind the last batch that was handed out: a ByteTensor, or None where the global
        generator says it all."""
        return self._state

    def close(self):
        """Let the loader's worker processes end; `state` stays."""
        self._loader = None

    def _draw(self):
        return torch.randint(len(self.dataset), (self.batch_size,), generator=self.generator)


class _Numbers:
    """The DataLoader's batch sampler: it draws ahead of what the loader hands out.

    A batch is a list of numbers, with seeds a pair of a seed and that list.
    """

    def __init__(self, batches, seeds):
        self.batches = batches
        self.seeds = seeds

    def __iter__(self):
        batches = self.batches
        if batches.generator is None:  # as a RandomSampler makes its own
            seed = int(torch.empty((), dtype=torch.int64).random_().item())
            batches.generator = torch.Generator().manual_seed(seed)
        while True:
            before = batches.generator.get_state()
            numbers = batches._draw().tolist()
            batches._drawn.append(batches.generator.get_state())
            yield (draws.digest(before.numpy().tobytes()), numbers) if self.seeds else numbers


class _SeededItems(Dataset):
    """A dataset in a worker process: all that it may draw from is seeded for every batch."""

    def __init__(self, dataset):
        self.dataset = dataset
        self.generators = None  # of this process

    def __getitems__(self, batch):
        seed, numbers = batch
        self.generators = self.generators or draws.generators(self.dataset)
        draws.seed(self.generators, seed)
        if hasattr(self.dataset, "__getitems__"):
            return self.dataset.__getitems__(numbers)
        return [self.dataset[number] for number in numbers]


def cuts_blocks(dataset):
    """Whether `dataset.batch` gives what its items are: a BlockDataset with its own items."""
    return (
        isinstance(dataset, BlockDataset) and type(dataset).__getitem__ is BlockDataset.__getitem__
    )
