"""Datasets that draw at random: an interrupted training sees what an uninterrupted one sees."""

import random
from operator import itemgetter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, Dataset, Subset

from mingpt import draws
from mingpt.data import BlockDataset
from tests.mingpt.helpers import TEXT, trainer

BLOCKS = BlockDataset(TEXT, 16)


class Masked(Dataset):
    """Some tokens are replaced at random, as augmentation does, by the draws of one generator."""

    def __init__(self, draw):
        self.draw = draw

    def __len__(self):
        return len(BLOCKS)

    def __getitem__(self, number):
        x, y = BLOCKS[number]
        x = x.clone()
        x[:8] = torch.tensor([self.number() for _ in range(8)])
        return x, y

    def number(self):
        return int(self.draw(11))


class Own(Masked):
    """The generator is the dataset's own."""

    def __init__(self, generator):
        self.generator = generator

    def number(self):
        if isinstance(self.generator, torch.Generator):
            return int(torch.randint(11, (), generator=self.generator))
        draw = getattr(self.generator, "integers", None) or self.generator.randint
        return int(draw(0, 10))


class Holding(Own):
    """The generator is in what the dataset holds."""

    def __init__(self, held, find):
        self.held, self.find = held, find

    @property
    def generator(self):
        return self.find(self.held)


def of_torch(high):
    return torch.randint(high, ())


def of_python(high):
    return random.randrange(high)


def of_numpy(high):
    return np.random.randint(high)  # noqa: NPY002 - the global state is the point


DATASETS = {
    "torch": lambda: Masked(of_torch),
    "python": lambda: Masked(of_python),
    "numpy": lambda: Masked(of_numpy),
    "own torch": lambda: Own(torch.Generator().manual_seed(4)),
    "own python": lambda: Own(random.Random(4)),
    "own numpy": lambda: Own(np.random.default_rng(4)),
    "own old numpy": lambda: Own(np.random.RandomState(4)),
    "within others": lambda: ConcatDataset(
        [Subset(Own(np.random.default_rng(4)), range(90)), Own(torch.Generator())]
    ),
    "a transform's": lambda: Holding(
        SimpleNamespace(share=0.5, generator=np.random.default_rng(4)), lambda held: held.generator
    ),
    "in a dict": lambda: Holding({"share": 0.5, "mask": torch.Generator()}, itemgetter("mask")),
    "in a list": lambda: Holding([torch.Generator().manual_seed(4)], itemgetter(0)),
    "transforms": lambda: Holding(
        ({}, SimpleNamespace(steps=[SimpleNamespace(generator=random.Random(4))])),
        lambda held: held[1].steps[0].generator,
    ),
}
every_dataset = pytest.mark.parametrize("kind", DATASETS)


def move_all(seed):
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002


@pytest.fixture(autouse=True)
def _the_global_generators_are_as_before():
    kept = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=[]):
        yield
    random.setstate(kept[0])
    np.random.set_state(kept[1])  # noqa: NPY002


@pytest.mark.parametrize("workers", [0, 2])
@every_dataset
def test_a_training_goes_on_to_the_bit(kind, workers, tmp_path):
    def run(seed, state=None):
        move_all(seed)
        this = trainer(dataset=DATASETS[kind](), num_workers=workers, max_iters=7)
        if state is not None:
            this.load_state_dict(state)
        this.set_callback("on_batch_end", keep)
        this.run()
        return this

    def keep(t):
        if t.iter_num == 3:
            torch.save(t.state_dict(), tmp_path / "training.pt")

    whole = run(1)
    resumed = run(2, torch.load(tmp_path / "training.pt", weights_only=True))
    assert resumed.losses == whole.losses
    for ours, theirs in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("kind", ["torch", "own numpy"])
def test_batches_of_workers_depend_on_the_seed_and_not_on_their_number(kind):
    def losses(workers, seed):
        this = trainer(dataset=DATASETS[kind](), num_workers=workers, max_iters=5, seed=seed)
        this.run()
        return this.losses

    assert losses(1, seed=3) == losses(2, seed=3) != losses(1, seed=4)


def test_items_of_a_batch_and_batches_differ_in_what_they_draw():
    """Seeding a batch does not make every batch, or every item, draw the same."""
    this, seen = trainer(dataset=DATASETS["torch"](), num_workers=2, max_iters=4), []
    this.model.register_forward_pre_hook(lambda module, args: seen.extend(args[0][:, :8].tolist()))
    this.run()
    assert len(set(map(tuple, seen))) == 4 * 8


@every_dataset
def test_seeding_and_restoring_decide_all_that_is_drawn(kind):
    def drawn(dataset):
        return torch.stack([dataset[number][0] for number in (0, 1, 100)])

    dataset = DATASETS[kind]()
    draws.seed(draws.generators(dataset), 8)
    first, kept, torch_state = drawn(dataset), draws.states(dataset), torch.get_rng_state()
    second = drawn(dataset)
    assert not torch.equal(first, second)
    move_all(5)
    draws.seed(draws.generators(dataset), 8)
    assert torch.equal(drawn(dataset), first)
    move_all(6)
    draws.restore(dataset, kept)
    torch.set_rng_state(torch_state)
    assert torch.equal(drawn(dataset), second)


def test_a_state_of_a_dataset_with_other_generators_is_refused():
    kept = draws.states(DATASETS["own numpy"]())
    with pytest.raises(ValueError, match="the dataset has 0 generators, had 1"):
        draws.restore(DATASETS["torch"](), kept)


def test_a_generator_that_is_met_twice_is_one_and_circles_end():
    generator = np.random.default_rng(4)
    held = {"again": generator, "global": random.getstate.__self__}
    dataset = SimpleNamespace(generator=generator, held=held)
    dataset.itself = [dataset]
    assert draws.generators(dataset)[2:] == [generator]


def test_long_lists_of_plain_items_are_not_read_and_those_of_generators_are():
    class Counted(list):
        read = 0

        def __iter__(self):
            for item in super().__iter__():
                self.read += 1
                yield item

    items = Counted(list(BLOCKS))
    assert draws.generators(SimpleNamespace(items=items))[2:] == []
    assert items.read == 1
    generators = [np.random.default_rng(number) for number in range(len(items))]
    assert draws.generators(SimpleNamespace(generators=generators))[2:] == generators


def test_a_dataset_without_draws_leaves_nothing_to_keep():
    assert len(draws.generators(BLOCKS)) == 2
    assert len(draws.generators(list(BLOCKS))) == 2
