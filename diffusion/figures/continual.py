"""Pictures of continual learning: what is remembered, at which price.

Each function returns a Figure. Accuracies are shares in [0, 1] and are drawn in percent. Spreads
are standard errors over seeds: values (seeds, ...) come as they are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from diffusion.figures.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    GRID,
    ORANGE,
    PALE,
    PURPLE,
    SKY,
    VERMILLION,
    WIDTH,
    new_figure,
    styled,
)

COLOURS = {
    "naive": VERMILLION,
    "EWC": BLUE,
    "rehearsal": GREEN,
    "rehearsal, real": GREEN,
    "rehearsal, own": PURPLE,
    "joint": BLACK,
    "separate": GREY,
}
TASK_COLOURS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY)


MARKERS = ("v", "o", "s", "^", "D", "P")


def _colour(name: str) -> str:
    """Of a strategy, whatever is said of it after a comma."""
    return COLOURS.get(name) or COLOURS[name.partition(",")[0]]


def _mean(values) -> tuple[np.ndarray, np.ndarray]:
    """Mean over the first axis and its standard error, 0 for a single seed."""
    values = np.asarray(values, dtype=float)
    error = values.std(axis=0, ddof=1) / math.sqrt(len(values)) if len(values) > 1 else 0
    return values.mean(axis=0), error + np.zeros(values.shape[1:])


def _line(axes: Axes, x, values, colour: str, label: str, style: str = "o-") -> None:
    mean, error = _mean(values)
    axes.errorbar(x, mean, error, fmt=style, ms=3.5, color=colour, linewidth=1.3, capsize=2,
                  label=label)  # fmt: skip


@styled
def matrices(found: Mapping[str, np.ndarray]) -> Figure:
    """Accuracy matrices (tasks, tasks) by strategy, rows: after task k, columns: on task i."""
    size = len(next(iter(found.values())))
    figure, (row,) = new_figure(1, len(found), (WIDTH, 2.3))
    for axes, (name, matrix) in zip(row, found.items(), strict=True):
        percent = 100 * np.asarray(matrix)
        shown = axes.imshow(percent, cmap="cividis", vmin=0, vmax=100)
        if size <= 10:
            for k, i in np.ndindex(percent.shape):
                axes.text(i, k, f"{percent[k, i]:.0f}", ha="center", va="center", fontsize=7,
                          color="white" if percent[k, i] < 60 else "black")  # fmt: skip
        ticks = range(0, size, max(1, size // 5))
        axes.set_xticks(ticks, [t + 1 for t in ticks])
        axes.set_yticks(ticks, [t + 1 for t in ticks])
        axes.set_xlabel("on task")
        axes.set_title(name)
    row[0].set_ylabel("after task")
    figure.colorbar(shown, ax=list(row), label="accuracy, %", fraction=0.02, pad=0.01)
    return figure


@styled
def curves(found: Mapping[str, np.ndarray], tasks: int) -> Figure:
    """Learning curves (seeds, marks, tasks) through all tasks, a panel a strategy."""
    figure, (row,) = new_figure(1, len(found), (WIDTH, 2.5), sharey=True)
    for axes, (name, values) in zip(row, found.items(), strict=True):
        mean, error = (100 * value for value in _mean(values))
        marks = len(mean) // tasks
        x = 1 + (np.arange(len(mean)) + 1) / marks
        for k in range(tasks):
            learnt = x > k + 1
            colour = TASK_COLOURS[k % len(TASK_COLOURS)]
            axes.plot(x[learnt], mean[learnt, k], color=colour, label=f"task {k + 1}")
            axes.fill_between(x[learnt], (mean - error)[learnt, k], (mean + error)[learnt, k],
                              color=colour, alpha=0.2, linewidth=0)  # fmt: skip
        for k in range(2, tasks + 1):
            axes.axvline(k, color=PALE, linewidth=0.8, zorder=0)
        axes.set_xticks([k + 0.5 for k in range(1, tasks + 1)], range(1, tasks + 1))
        axes.tick_params(axis="x", length=0)
        axes.set_xlabel("task being learnt")
        axes.set_title(name)
    row[0].set_ylabel("test accuracy, %")
    if tasks <= 6:
        row[-1].legend(fontsize=7, loc="lower left")
    return figure


@styled
def averages(found: Mapping[str, np.ndarray]) -> Figure:
    """Average accuracy (seeds, tasks) on the tasks so far, by strategy."""
    figure, ((axes,),) = new_figure(1, 1, (3.4, 2.5))
    for k, (name, values) in enumerate(found.items()):
        tasks = np.arange(1, np.asarray(values).shape[1] + 1)
        style = MARKERS[k % len(MARKERS)] + (":" if name in {"joint", "separate"} else "-")
        _line(axes, tasks, 100 * np.asarray(values), _colour(name), name, style)
    axes.set_xticks(tasks[:: max(1, len(tasks) // 10)])
    axes.grid(**GRID)
    axes.set_xlabel("tasks learnt")
    axes.set_ylabel("mean accuracy on them, %")
    axes.set_title("Average accuracy, standard errors over seeds")
    axes.legend(fontsize=8, loc="lower left")
    return figure


@styled
def networks(apart: Mapping[str, np.ndarray], naive: Mapping[str, np.ndarray]) -> Figure:
    """An MLP against a CNN: test accuracies (seeds, tasks) of separate networks, task 1 unpermuted.

    naive: of one network after the last task.
    """
    figure, ((left, right),) = new_figure(1, 2, (WIDTH, 2.1))
    styles = {"mlp": (BLUE, "o-", -0.06), "cnn": (VERMILLION, "s-", 0.06)}
    for axes, found, title in (
        (left, apart, "A network for each task"),
        (right, naive, "One network, naive, after the last"),
    ):
        for kind, values in found.items():
            colour, style, shift = styles[kind]
            tasks = np.arange(1, np.asarray(values).shape[1] + 1)
            _line(axes, tasks + shift, 100 * np.asarray(values), colour, kind.upper(), style)
        names = ["1\nplain", *map(str, tasks[1:])]
        if len(tasks) <= 10:
            axes.set_xticks(tasks, names)
        axes.grid(**GRID)
        axes.set_xlabel("task (2 on: permuted)")
        axes.set_title(title)
    left.set_ylabel("test accuracy, %")
    left.legend(fontsize=8)
    return figure


@styled
def lambdas(values: Sequence[float], old, new, both, naive: tuple, chosen: float) -> Figure:
    """Accuracy (seeds, lambdas) after the last task on old tasks, on the last, and on all.

    naive: the same three at lambda = 0, (seeds,) each.
    """
    figure, ((axes,),) = new_figure(1, 1, (3.4, 2.5))
    series = (("old tasks", old, BLUE), ("last task", new, VERMILLION), ("all tasks", both, BLACK))
    for (label, found, colour), zero in zip(series, naive, strict=True):
        _line(axes, values, 100 * np.asarray(found), colour, label)
        axes.axhline(100 * np.asarray(zero).mean(), color=colour, linestyle=":", linewidth=1)
    axes.axvline(chosen, color=PALE, linewidth=5, zorder=0)
    axes.set_xscale("log")
    axes.grid(**GRID)
    axes.set_xlabel("lambda (band: chosen)")
    axes.set_ylabel("final test accuracy, %")
    axes.set_title("EWC; dotted: naive")
    axes.legend(fontsize=8)
    return figure


@styled
def memories(kept: Sequence[int], accuracy, seconds, bytes_kept, bounds: Mapping) -> Figure:
    """Rehearsal: accuracy and CPU seconds (seeds, memories) over the images kept of a task.

    bytes_kept: (memories,); bounds: name -> ((seeds,) accuracy, (seeds,) seconds), drawn as lines.
    """
    figure, (row,) = new_figure(1, 2, (WIDTH, 2.2))
    for axes, values, pick, scale in ((row[0], accuracy, 0, 100), (row[1], seconds, 1, 1)):
        _line(axes, kept, scale * np.asarray(values), GREEN, "rehearsal")
        for name, bound in bounds.items():
            axes.axhline(scale * np.asarray(bound[pick]).mean(), linestyle=":", label=name,
                         color=_colour(name))  # fmt: skip
        axes.set_xscale("log")
        ticks = [f"{k}\n{b / 1e6:.2g} MB" for k, b in zip(kept, bytes_kept, strict=True)]
        axes.set_xticks(kept, ticks)
        axes.minorticks_off()
        axes.grid(**GRID)
        axes.set_xlabel("images kept of a task, bytes of all")
    row[0].set_ylabel("mean test accuracy, %")
    row[1].set_ylabel("CPU seconds")
    row[1].set_ylim(bottom=0)
    row[0].legend(fontsize=8)
    return figure


@styled
def valleys(places: Sequence[float], found: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """Losses (seeds, places) on the straight line from the weights after task 1 to those after 2.

    found: strategy -> {"task 1": losses, "task 2": losses}.
    """
    figure, (row,) = new_figure(1, len(found), (WIDTH, 2.1), sharey=True)
    for axes, (name, losses) in zip(row, found.items(), strict=True):
        for (task, values), colour in zip(losses.items(), TASK_COLOURS, strict=False):
            _line(axes, places, values, colour, task, "-")
        axes.set_xticks([0, 0.5, 1], ["after task 1", "half way", "after task 2"])
        axes.grid(**GRID)
        axes.set_title(name)
    row[0].set_yscale("log")
    row[0].set_yticks([0.1, 0.2, 0.5, 1, 2, 5], ["0.1", "0.2", "0.5", "1", "2", "5"])
    row[0].minorticks_off()
    row[0].set_ylabel("loss on test images, nats")
    row[0].legend(fontsize=8)
    return figure


@styled
def distances(found: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """Distance travelled in every task after the first (seeds, tasks - 1): plain, and by Fisher."""
    figure, (row,) = new_figure(1, 2, (WIDTH, 2.1))
    for name, pair in found.items():
        for axes, values in zip(row, pair, strict=True):
            tasks = np.arange(2, 2 + np.asarray(values).shape[1])
            _line(axes, tasks, values, _colour(name), name)
            axes.set_xticks(tasks[:: max(1, len(tasks) // 10)])
    for axes, title in zip(row, ("Weights", "Weighted by the Fisher information"), strict=True):
        axes.grid(**GRID)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("task")
        axes.set_title(title)
    row[0].set_ylabel("distance travelled in it")
    row[0].legend(fontsize=8)
    return figure


@styled
def generations(found: Mapping[str, np.ndarray]) -> Figure:
    """Nats per image (seeds, steps, classes) of a VAE: the mean over classes seen, and the end."""
    figure, ((left, right),) = new_figure(1, 2, (WIDTH, 2.5))
    for name, values in found.items():
        values = np.asarray(values)
        steps = np.arange(1, values.shape[1] + 1)
        seen = np.stack([values[:, k, : k + 1].mean(axis=1) for k in range(len(steps))], axis=1)
        _line(left, steps, seen, COLOURS[name], name)
        _line(right, steps - 1, values[:, -1], COLOURS[name], name)
    for axes in (left, right):
        axes.grid(**GRID)
        axes.set_xticks(steps if axes is left else steps - 1)
    left.set_xlabel("digits learnt")
    left.set_ylabel("-ELBO, nats per image")
    left.set_title("Mean over the digits learnt so far")
    right.set_xlabel("digit")
    right.set_title("Each digit after the last step")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=len(found))
    return figure
