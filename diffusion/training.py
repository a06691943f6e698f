"""Training: the exercise's loss on the predicted noise, full batch, Adam.

Each epoch draws for every training point a time t ~ U(0, 1) and a noise eps, forms by Eq. 4
(corrected) x_t = x_0 + sigma(t) eps, and with the opposite noise x_0 - sigma(t) eps, and takes one
step on the mean of (eps_theta(x_t, t) - eps)^2 over both.
"""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from diffusion.checks import (
    check_count,
    check_labels,
    check_number,
    check_points,
    check_range,
    check_seed,
    own_mode,
)
from diffusion.denoiser import Denoiser, check_savable
from diffusion.files import FORMAT, WeightsError, fingerprint, unwrapped, write_atomically
from diffusion.progress import bar
from diffusion.schedule import Schedule, check_suits, spread, units
from diffusion.threads import one_thread

# Epochs between two looks at how far a training is.
_STRIDE = 25

Augment = Callable[[Tensor, Tensor | None, torch.Generator], tuple[Tensor, Tensor | None]]


class TrainingError(RuntimeError):
    """The loss became NaN or infinite; `model` holds the last good weights."""

    def __init__(self, message: str, model: Denoiser) -> None:
        super().__init__(message)
        self.model = model


@own_mode(gradients=True)
def build(
    points: Tensor,
    labels: Tensor | None = None,
    *,
    num_classes: int = 0,
    seed: int = 0,
    **architecture,
) -> Denoiser:
    """An untrained denoiser whose scaling fits the points (n, 2), with classes if labels are given.

    The noise levels, too, fit the points, whatever their place and scale; those of the exercise's
    square are the exercise's.

    Args:
        points: (n, 2), the training data: a tensor, an array or lists, of any real type.
        labels: (n,) whole numbers in 0..num_classes-1, or None.
        num_classes: how many classes there are; every one needs at least three points.
        seed: of the initial weights.
        architecture: further arguments of `Denoiser`: width, depth, schedule.

    Raises:
        ValueError: anything else, points that cannot be told apart, or a schedule that does not
            suit them.
    """
    points = check_points(points, "the training points").detach()
    num_classes = check_count("num_classes", num_classes, least=0)
    if labels is not None and not num_classes:
        raise ValueError("labels need num_classes, the number of classes")
    labels = check_labels(labels, len(points), num_classes, points.device)
    counts = [len(points)] if labels is None else labels.bincount(minlength=num_classes).tolist()
    if min(counts) < 3:
        which = "there are" if labels is None else f"class {counts.index(min(counts))} has"
        raise ValueError(f"every class needs at least three points, but {which} {min(counts)}")
    unit = check_place(points)
    if architecture.get("schedule") is not None:
        check_suits(architecture["schedule"], unit)
    points = check_range(points.float(), "the training points")
    groups = [points] if labels is None else [points[labels == k] for k in range(num_classes)]
    return Denoiser(
        torch.stack([group.mean(dim=0) for group in groups]),
        torch.stack([group.T.cov() for group in groups]),
        num_classes=num_classes,
        generator=torch.Generator().manual_seed(check_seed(seed)),
        **architecture,
    )


def check_place(points: Tensor) -> Tensor:
    """The units (2,) of points (n, 2), if float32 can tell them apart where they lie.

    Raises:
        ValueError: points that do not vary, or too little for their distance from 0.
    """
    points = points.detach().double().cpu()
    centre, variance = spread(points.mean(dim=0)[None], points.T.cov()[None])
    unit = units(variance)
    worst = (centre.abs() / unit).argmax()  # of the coordinates
    if centre[worst].abs() > 4096 * unit[worst]:
        raise ValueError(
            f"the points lie {centre[worst].abs():.4g} from 0 but vary by "
            f"{variance[worst].sqrt():.4g}: "
            "too little for float32; subtract their mean first"
        )
    return unit


class Training:
    """One training run, epoch by epoch: model, average, optimiser, random state, losses.

    The learning rate rises linearly over 50 epochs and falls to zero along a cosine. Times are
    stratified, one in each of n equal parts of [0, 1] in random order: still uniform for every
    point, with less spread of the loss. So do opposite noises (antithetic variates): what two of
    them do to the gradient cancels in part. The result is the average of the weights (EMA), which
    takes in weights only after they have produced a finite loss; without averaging, the last ones
    that have.

    Args:
        model: trained in place; see `build`.
        points: (n, 2), all of them in every epoch: a tensor, an array or lists of numbers.
        labels: (n,) whole numbers, for a model with classes.
        epochs: number of updates, at least 1.
        learning_rate: Adam's, at its peak.
        ema_decay: share of the average that survives an epoch, from epoch 1 / (1 - ema_decay) on;
            until then it is the mean of all epochs. 0 averages nothing.
        noise_samples: times that each point gets in every epoch, a noise and its opposite at each.
        augment: applied to points and labels afresh in every epoch, (points, labels, generator)
            -> (points, labels); see `data.random_rotations`.
        seed: of the times, noises and augmentation.

    Raises:
        ValueError: options or data that are not so, points of another scale than the model was
            built for, or a model that no weights file could hold.

    Attributes:
        average: the EMA model, in eval mode.
        losses: mean squared error of every epoch so far, per coordinate.
    """

    WARM_UP = 50
    # Rows of an epoch that one thread does best; more are shared out as PyTorch is set to.
    ONE_THREAD = 16_384

    @own_mode(gradients=True)
    def __init__(
        self,
        model: Denoiser,
        points: Tensor,
        labels: Tensor | None = None,
        *,
        epochs: int = 3000,
        learning_rate: float = 1e-2,
        ema_decay: float = 0.0,
        noise_samples: int = 1,
        augment: Augment | None = None,
        seed: int = 0,
    ) -> None:
        epochs, seed = check_count("epochs", epochs), check_seed(seed)
        noise_samples = check_count("noise_samples", noise_samples)
        learning_rate = check_number("the learning rate", learning_rate)
        ema_decay = check_number("ema_decay", ema_decay)
        if not 0 < learning_rate < math.inf:
            raise ValueError(f"the learning rate must be positive and finite, not {learning_rate}")
        if not 0 <= ema_decay < 1:
            raise ValueError(f"ema_decay must be in [0, 1), not {ema_decay}")
        model = unwrapped(model)
        if isinstance(model, Denoiser):
            points = _checked(model, points)
            if len(points) > 2:
                self._check_levels(model, check_place(points))
        self.model = model.train()
        self.average = copy.deepcopy(model).eval()  # which may be trained again
        labels = model.check_labels(labels, len(points))
        self.points = points.to(model.device).repeat(noise_samples, 1)
        self.labels = None if labels is None else labels.repeat(noise_samples)
        self.augment = augment
        self.epochs, self.learning_rate, self.ema_decay = epochs, learning_rate, ema_decay
        self.optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, fused=True)
        self.seed = seed
        self.generator = torch.Generator().manual_seed(seed)
        self.losses: list[float] = []

    def _check_levels(self, model: Denoiser, unit: Tensor) -> None:
        """Refuse noise levels that do not suit data of these units (2,)."""
        check_suits(model.schedule, unit)

    @own_mode(gradients=True)
    def epoch(self) -> float:
        """One full-batch update; returns its loss.

        Raises:
            TrainingError: the loss is NaN or infinite. Nothing is updated; `average` is still good.
        """
        with one_thread(self._small):
            return self._epoch()

    def _epoch(self) -> float:
        done = len(self.losses)
        points, labels = self._batch()
        if self.augment is not None:
            points, labels = self.augment(points, labels, self.generator)
        loss = self._loss(points, labels)
        if not math.isfinite(loss.item()):
            raise TrainingError(
                f"the loss became {loss.item()} in epoch {done + 1}; "
                f"try a learning rate below {self.learning_rate:g}",
                self.average,
            )
        # At first the plain mean of all weights so far, which forgets the initial ones.
        decay = min(self.ema_decay, done / (done + 1))
        with torch.no_grad():
            torch._foreach_lerp_(
                list(self.average.parameters()), list(self.model.parameters()), 1 - decay
            )
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate * self._rate(done)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.losses.append(loss.item())
        return self.losses[-1]

    @property
    def _small(self) -> bool:
        return isinstance(self.model, Denoiser) and len(self.points) <= self.ONE_THREAD

    def _batch(self) -> tuple[Tensor, Tensor | None]:
        """The data of one epoch."""
        return self.points, self.labels

    def _loss(self, points: Tensor, labels: Tensor | None) -> Tensor:
        """What is minimised; other processes put their own in its place."""
        x_t, sigma, eps = noised(points, self.model.schedule, self.generator)
        # Both noises of a point have its time: (2, n, 2).
        x_t = torch.stack([x_t, points - sigma[:, None] * eps])
        predicted = self.model.noise(x_t, sigma, labels)
        return (predicted - torch.stack([eps, -eps])).square().mean()

    def _rate(self, done: int) -> float:
        warm_up = min(1.0, (done + 1) / self.WARM_UP)
        return warm_up * 0.5 * (1 + math.cos(math.pi * done / self.epochs))

    @own_mode(gradients=True)
    def run(
        self, *, checkpoint: str | Path | None = None, every: int = 500, progress: bool = False
    ) -> Denoiser:
        """Train to the last epoch and return the average.

        Args:
            checkpoint: file that receives the whole state every `every` epochs.
            progress: show how far it is, and the loss, on standard error.
        """
        self.advance(0)  # it may be at its end
        done = len(self.losses)
        with _bar(self.epochs, done, shown=progress) as shown:
            while done < self.epochs:
                self.advance(min(_STRIDE, every - done % every))
                shown.update(len(self.losses) - done)
                done = len(self.losses)
                shown.set_postfix(loss=f"{self.losses[-1]:.4f}")
                if checkpoint is not None and done % every == 0:
                    self.save(checkpoint)
        return self.average

    def advance(self, epochs: int) -> None:
        """So many epochs more, or to the last."""
        try:
            for _ in range(min(epochs, self.epochs - len(self.losses))):
                self.epoch()
        finally:
            self.average.losses = torch.tensor(self.losses, device=self.average.device)

    def save(self, path: str | Path) -> None:
        """Write the whole state of the run, atomically."""
        buffer = io.BytesIO()
        torch.save(
            {
                "settings": self._settings(),
                "model": self.model.state_dict(),
                "average": self.average.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "generator": self.generator.get_state(),
                "losses": self.losses,
            },
            buffer,
        )
        write_atomically(path, buffer.getvalue())

    @own_mode(gradients=True)
    def resume(self, path: str | Path) -> None:
        """Continue from what `save` wrote, to the same bits as a run that was never stopped.

        Raises:
            WeightsError: the file is missing, damaged, or of a run with other settings.
        """
        try:
            state = torch.load(path, weights_only=True)
            settings = state["settings"]
        except FileNotFoundError:
            raise WeightsError(f"no checkpoint at {path}") from None
        except Exception:
            raise WeightsError(f"{path} is damaged or is not a checkpoint") from None
        if settings != self._settings():
            raise WeightsError(
                f"{path} belongs to a run with other settings or data, or of an earlier version"
            )
        self.model.load_state_dict(state["model"])
        self.average.losses = state["average"]["losses"]
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        self.losses = list(state["losses"])

    def _settings(self) -> dict:
        return {
            "format": FORMAT,
            "epochs": self.epochs,
            "learning_rate": self.learning_rate,
            "ema_decay": self.ema_decay,
            "model": self.model.config(),
            "seed": self.seed,
            "augment": getattr(self.augment, "__name__", str(self.augment)),
            "data": fingerprint(self.points, self.labels),
        }


def run_together(trainings: Sequence[Training], *, progress: bool = False) -> list[Denoiser]:
    """Run several trainings to their ends side by side, in one thread each; returns the averages.

    Each comes to the bits that its own `run` gives.

    Raises:
        TrainingError: as `Training.epoch`, for the first whose loss is not finite.
    """
    if len(trainings) == 1:
        return [trainings[0].run(progress=progress)]
    for training in trainings:
        training.advance(0)  # it may be at its end
    left = sum(training.epochs - len(training.losses) for training in trainings)
    with (
        ThreadPoolExecutor(len(trainings)) as pool,
        _bar(left, 0, shown=progress) as shown,
    ):
        while left:
            list(pool.map(lambda training: training.advance(_STRIDE), trainings))
            now = sum(training.epochs - len(training.losses) for training in trainings)
            shown.update(left - now)
            left = now
    return [training.average for training in trainings]


def _bar(total: int, initial: int, *, shown: bool):
    return bar(desc="training", unit="epoch", total=total, initial=initial, shown=shown)


def _checked(model: Denoiser, points: Tensor) -> Tensor:
    """The training points (n, 2) where the model is and of its type, if it can learn them.

    Raises:
        ValueError: it cannot; see `Training`.
    """
    points = check_points(points, "the training points").detach()
    check_savable(model)
    if any(parameter.is_inference() for parameter in model.parameters()):
        raise ValueError("a model made under torch.inference_mode cannot be trained; use `build`")
    return check_range(points.to(model.mean), "the training points")


def noised(
    points: Tensor, schedule: Schedule, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw stratified times and noises for points (n, 2) -> x_t (n, 2), sigma(t) (n,), eps (n, 2).

    Draws are made on the CPU, so that every device sees the same ones.
    """
    n = len(points)
    place = torch.rand(n, generator=generator, dtype=torch.float32)
    t = (torch.randperm(n, generator=generator) + place) / n
    eps = torch.randn(n, 2, generator=generator, dtype=torch.float32).to(points)
    sigma = schedule.sigma(t).to(points)
    return points + sigma[:, None] * eps, sigma, eps
