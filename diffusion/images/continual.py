"""Continual learning: classifiers of permuted digits that learn one task after another.

Task k is MNIST under the k-th fixed permutation of the pixels, the first of them the identity
(Goodfellow et al. 2013). What is done against forgetting is a `Strategy`; `learn` runs one.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from diffusion.checks import check_count, check_seed, own_mode
from diffusion.images import mnist
from diffusion.images.continual_fisher import Parabola, fisher_diagonal
from diffusion.images.model import building, initialise

MIN_TASKS, MAX_TASKS = 2, 20
NETWORKS = ("mlp", "cnn")
_ROWS = 1000  # images classified at once


# --- Tasks --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """Digits under one permutation of their pixels.

    images: (n, 784) uint8 grey values, unpermuted; labels: (n,) int64; permutation: (784,) int64.
    """

    images: Tensor
    labels: Tensor
    permutation: Tensor

    def grey(self, rows) -> Tensor:
        """The permuted images of these rows, uint8."""
        return self.images[rows][:, self.permutation]

    def draw(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """n images (n, 784) uint8 and labels (n,), drawn with replacement."""
        rows = torch.randint(len(self.images), (n,), generator=generator)
        return self.grey(rows), self.labels[rows]


def permutations(tasks: int, seed: int = 0) -> Tensor:
    """(tasks, 784) int64: the identity, then uniform permutations of the pixels.

    Raises:
        ValueError: tasks outside 2..20.
    """
    if not MIN_TASKS <= check_count("tasks", tasks) <= MAX_TASKS:
        raise ValueError(f"tasks must be in {MIN_TASKS}..{MAX_TASKS}, not {tasks}")
    generator = torch.Generator().manual_seed(check_seed(seed))
    drawn = [torch.randperm(mnist.PIXELS, generator=generator) for _ in range(tasks - 1)]
    return torch.stack([torch.arange(mnist.PIXELS), *drawn])


def as_tasks(images: Tensor, labels: Tensor, orders: Tensor) -> list[Task]:
    """One task for every permutation (tasks, 784) of the same images (n, 784) uint8."""
    return [Task(images, labels, order) for order in orders]


# --- Networks -----------------------------------------------------------------------------------


@building()
def network(kind: str, seed: int = 0) -> nn.Sequential:
    """An untrained classifier, images (n, 784) in [0, 1] -> logits (n, 10).

    "mlp": two hidden layers of 256 units. "cnn": two convolutions of stride 2, then one hidden
    layer of as many units as make the parameters of the two equal in number to within 0.2 %.

    Raises:
        ValueError: another kind.
    """
    if kind not in NETWORKS:
        raise ValueError(f"network must be one of {', '.join(NETWORKS)}, not {kind!r}")
    if kind == "mlp":
        layers = [nn.Linear(mnist.PIXELS, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(),
                  nn.Linear(256, mnist.NUM_CLASSES)]  # fmt: skip
    else:
        layers = [nn.Unflatten(1, (1, *mnist.SHAPE)),
                  nn.Conv2d(1, 8, 5, stride=2, padding=2), nn.ReLU(),
                  nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(),
                  nn.Linear(784, 337), nn.ReLU(), nn.Linear(337, mnist.NUM_CLASSES)]  # fmt: skip
    model = nn.Sequential(*layers)
    initialise(model, torch.Generator().manual_seed(check_seed(seed)))
    return model


def scaled(images: Tensor) -> Tensor:
    """Grey values (n, 784) uint8 as float32 in [0, 1]."""
    return images.float() / 255


@torch.no_grad()
def accuracies(model: nn.Module, tasks: Sequence[Task]) -> Tensor:
    """Share of the images of each task that the model classifies rightly, (tasks,) float64."""
    right = [
        (model(scaled(task.grey(rows))).argmax(dim=1) == task.labels[rows]).sum()
        for task in tasks
        for rows in torch.arange(len(task.images)).split(_ROWS)
    ]
    sizes = torch.tensor([len(task.images) for task in tasks])
    parts = torch.stack(right).split([-(-size // _ROWS) for size in sizes.tolist()])
    return torch.stack([part.sum() for part in parts]).double() / sizes


# --- Strategies ---------------------------------------------------------------------------------


class Naive:
    """The loss on the task at hand and nothing else; every other strategy changes a part of this.

    One object serves one sequence of tasks.

    Attributes:
        FRESH: every task starts from the untrained network, not from where the last one ended.
        bytes_kept: what the strategy carries from task to task beside the network.
    """

    FRESH = False
    bytes_kept = 0

    def updates(self, updates: int, k: int) -> int:
        """Updates spent on the k-th task, counted from 1, of `updates` that one task is worth."""
        return updates

    def loss(
        self, model: nn.Module, seen: Sequence[Task], n: int, generator: torch.Generator
    ) -> Tensor:
        """Nats per image over a batch of n images; seen: the tasks so far, the last one at hand."""
        return _cross_entropy(model, *seen[-1].draw(n, generator))

    def consolidate(self, model: nn.Module, task: Task, generator: torch.Generator) -> None:
        """Keep what later tasks need of one that was just learnt."""


class Separate(Naive):
    """A network of its own for every task: nothing to forget, nothing shared."""

    FRESH = True


class Joint(Naive):
    """All tasks so far at once, from scratch: what a learner that keeps all data reaches."""

    FRESH = True

    def updates(self, updates: int, k: int) -> int:
        return k * updates

    def loss(self, model, seen, n, generator) -> Tensor:
        if len(seen) == 1:
            return super().loss(model, seen, n, generator)
        counts = torch.randint(len(seen), (n,), generator=generator).bincount(minlength=len(seen))
        drawn = [
            task.draw(count, generator) for task, count in zip(seen, counts.tolist(), strict=True)
        ]
        return _cross_entropy(model, *map(torch.cat, zip(*drawn, strict=True)))


class EWC(Naive):
    """Elastic weight consolidation: weights that mattered are held near their values.

    Args:
        lam, form: of the penalty; see `Parabola`.
        examples: training images that the Fisher information is taken over.
    """

    def __init__(self, lam: float, form: str = "online", examples: int = 1000) -> None:
        self.parabola = Parabola(lam, form)
        self.examples = check_count("examples", examples)

    def loss(self, model, seen, n, generator) -> Tensor:
        return super().loss(model, seen, n, generator) + self.parabola(list(model.parameters()))

    def consolidate(self, model, task, generator) -> None:
        images, _ = task.draw(self.examples, generator)
        self.parabola.add(list(model.parameters()), fisher_diagonal(model, scaled(images)))

    @property
    def bytes_kept(self) -> int:
        return 4 * sum(map(torch.Tensor.numel, self.parabola.precision + self.parabola.centre))


class Rehearsal(Naive):
    """Some images of every task are kept; each batch is joined by as many of those.

    The loss is (new + (k - 1) old) / k for the k-th task, the mean over tasks as in joint training.

    Args:
        memory: images kept of a task, a reservoir (uniform over its images).

    Raises:
        ValueError: memory below 1.
    """

    def __init__(self, memory: int) -> None:
        self.memory = check_count("the memory of rehearsal", memory)
        self.images: list[Tensor] = []
        self.labels: list[Tensor] = []

    def loss(self, model, seen, n, generator) -> Tensor:
        new = super().loss(model, seen, n, generator)
        if not self.images:
            return new
        kept, rows = self._kept, torch.randint(len(self._kept[0]), (n,), generator=generator)
        old = _cross_entropy(model, kept[0][rows], kept[1][rows].long())
        return new / len(seen) + old * (1 - 1 / len(seen))

    def consolidate(self, model, task, generator) -> None:
        rows = reservoir(len(task.images), self.memory, generator)
        self.images.append(task.grey(rows))
        self.labels.append(task.labels[rows].to(torch.uint8))
        self._kept = torch.cat(self.images), torch.cat(self.labels)

    @property
    def bytes_kept(self) -> int:
        return sum(images.numel() + len(images) for images in self.images)


def reservoir(stream: int, size: int, generator: torch.Generator) -> Tensor:
    """Places (min(size, stream),) of a uniform sample from a stream read once (Vitter 1985, R)."""
    kept = torch.arange(min(size, stream))
    # The i-th item takes a uniform place among i, and is kept if that is in the reservoir.
    place = (torch.rand(stream, generator=generator, dtype=torch.float64)
             * torch.arange(1, stream + 1)).long()  # fmt: skip
    for item in range(size, stream):
        if place[item] < size:
            kept[place[item]] = item
    return kept


def _cross_entropy(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    return cross_entropy(model(scaled(images)), labels)


# --- Learning -----------------------------------------------------------------------------------


@dataclass
class Learnt:
    """A sequence of tasks, learnt.

    models: the network after every task; seconds: CPU time of every task, of the one thread that
    learnt it, without watching; bytes_kept: after the last one.
    """

    models: list[nn.Module] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    bytes_kept: int = 0


def fit(
    model: nn.Module,
    loss: Callable[[], Tensor],
    updates: int,
    learning_rate: float,
    watch: Callable[[], None] = lambda: None,
) -> None:
    """Adam on loss(), its rate falling linearly to zero; watch() is called after every update."""
    optimizer = torch.optim.Adam(model.parameters(), betas=(0.9, 0.99), fused=True)
    for done in range(updates):
        optimizer.param_groups[0]["lr"] = learning_rate * (1 - done / updates)
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
        watch()


def stream(seed: int, place: int) -> torch.Generator:
    """The place-th random stream of a seed, place in 0..63."""
    return torch.Generator().manual_seed(64 * check_seed(seed) + place)


@own_mode(gradients=True)
def learn(
    tasks: Sequence[Task],
    strategy: Naive,
    untrained: nn.Module,
    *,
    updates: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    done: Sequence[nn.Module] = (),
    watch: Callable[[nn.Module], None] = lambda model: None,
) -> Learnt:
    """Learn tasks one after another.

    Args:
        untrained: the network to start from; it is not changed.
        updates: that one task is worth.
        batch_size: images of the tasks in a batch, drawn with replacement.
        learning_rate: Adam's, at the start of every task.
        seed: of the batches and of what a strategy draws; every task has its own stream.
        done: the networks after the first tasks, where these were learnt before. After the first
            task all strategies have the same one, to the bit, so that it is trained only once.
        watch: called with the model after every update.

    Raises:
        ValueError: counts below 1, or a learning rate that is not positive and finite.
    """
    check_count("updates", updates)
    check_count("batch_size", batch_size)
    if not 0 < learning_rate < float("inf"):
        raise ValueError(f"the learning rate must be positive and finite, not {learning_rate}")
    learnt, model = Learnt(), copy.deepcopy(untrained)
    watching = 0.0

    def look() -> None:
        nonlocal watching
        began = time.thread_time()
        watch(model)
        watching += time.thread_time() - began

    for k, task in enumerate(tasks):
        began, watching = time.thread_time(), 0.0
        generator, another = stream(seed, 2 * k), stream(seed, 2 * k + 1)
        if k < len(done):
            model = copy.deepcopy(done[k])
        else:
            model = copy.deepcopy(untrained if strategy.FRESH else model)
            part = partial(strategy.loss, model, tasks[: k + 1], batch_size, generator)
            fit(model, part, strategy.updates(updates, k + 1), learning_rate, look)
        strategy.consolidate(model, task, another)
        learnt.models.append(model)
        learnt.seconds.append(time.thread_time() - began - watching)
    learnt.bytes_kept = strategy.bytes_kept
    return learnt
