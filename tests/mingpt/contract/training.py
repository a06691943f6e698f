"""Data for a Trainer, and the losses of its run."""

from torch.utils.data import DataLoader, Dataset, RandomSampler

from tests.mingpt.contract import plain


class Blocks(Dataset):
    """Blocks of a text, as minGPT's projects write them."""

    def __init__(self, length=40):
        self.data = plain.tokens(length)

    def __len__(self):
        return len(self.data) - plain.BLOCK

    def __getitem__(self, start):
        chunk = self.data[start : start + plain.BLOCK + 1]
        return chunk[:-1], chunk[1:]


def pairs():
    data = Blocks()
    return [data[start] for start in range(len(data))]


def losses_of(run):
    losses = []
    run.add_callback("on_batch_end", lambda trainer: losses.append(trainer.loss.item()))
    run.run()
    return losses


def batches(data, count, batch_size=4):
    """The batches minGPT's loader draws from the global generator."""
    sampler = RandomSampler(data, replacement=True, num_samples=int(1e10))
    loader = iter(DataLoader(data, sampler=sampler, batch_size=batch_size))
    return [next(loader) for _ in range(count)]
