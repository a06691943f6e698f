"""Figures of the bit-flip and the variance-preserving process, in the language of `figures`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from diffusion.figures import (
    BLACK,
    BLUE,
    CLASS_COLOURS,
    GREEN,
    GREY,
    SERIES_COLOURS,
    SKY,
    VERMILLION,
    _box,
    _dots,
    _figure,
    _plane,
    _styled,
)

_GRID = {"color": "#E6E6E6", "linewidth": 0.6}


def _picture(axes: Axes, pixels) -> None:
    """An array of -1 (paper) and +1 (ink)."""
    axes.imshow(-np.asarray(pixels), cmap="gray", vmin=-1, vmax=1, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def _sheet(images, shape: tuple[int, int], columns: int, gap: int = 0) -> np.ndarray:
    """Images (n, m) side by side in rows, with a margin of `gap` pixels around each."""
    images = np.pad(
        np.asarray(images).reshape(-1, *shape), ((0, 0), (gap, gap), (gap, gap)), constant_values=-1
    )
    height, width = images.shape[1:]
    images = images.reshape(-1, columns, height, width)
    return images.transpose(0, 2, 1, 3).reshape(-1, columns * width)


@_styled
def image_grid(images, shape: tuple[int, int], columns: int, names: Sequence = ()) -> Figure:
    """Samples (n, m) in rows of `columns`, with a name for every row if there are names."""
    rows = len(images) // columns
    figure, ((axes,),) = _figure(1, 1, (0.34 * columns + 0.2, 0.34 * rows + 0.35))
    _picture(axes, _sheet(images, shape, columns))
    if len(names):
        axes.set_yticks((np.arange(rows) + 0.5) * shape[0], [str(name) for name in names])
        axes.tick_params(length=0)
        axes.set_title(f"{columns} samples of each class")
    else:
        axes.set_title(f"{len(images)} samples of any class, none left out")
    return figure


@_styled
def image_rows(rows, shape: tuple[int, int], titles: Sequence[str]) -> Figure:
    """Images (r, k, m), a row for each of r, with a title above each of the k columns."""
    count, columns = np.asarray(rows).shape[:2]
    figure, ((axes,),) = _figure(1, 1, (0.62 * columns + 0.2, 0.62 * count + 0.4))
    gap = 2
    images = np.asarray(rows).reshape(count * columns, -1)
    _picture(axes, _sheet(images, shape, columns, gap))
    axes.set_xticks((np.arange(columns) + 0.5) * (shape[1] + 2 * gap), titles, fontsize=8)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    return figure


@_styled
def bit_loss(losses, window: int) -> Figure:
    """Bits per pixel of every update, raw and averaged over `window` updates."""
    figure, ((axes,),) = _figure(1, 1, (4.8, 3.0))
    losses = np.asarray(losses)
    update = np.arange(1, len(losses) + 1)
    width = min(window, len(losses))
    smooth = np.convolve(losses, np.full(width, 1 / width), mode="valid")
    axes.plot(update, losses, color=SKY, linewidth=0.4, alpha=0.7)
    axes.plot(update[width - 1 :], smooth, color=BLUE, linewidth=1.4)
    axes.set_yscale("log")
    axes.set_yticks([0.05, 0.1, 0.2, 0.5, 1])
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_ylim(0.8 * losses.min(), 1.5 * losses.max())
    axes.grid(**_GRID)
    axes.set_xlabel("update (64 images each)")
    axes.set_ylabel("loss, bits per pixel")
    axes.set_title(f"pale: every update; blue: mean of {width}, at the end {smooth[-1]:.4f}")
    return figure


@_styled
def bits(bars: Mapping[str, float], stages: Mapping[str, np.ndarray], images: int) -> Figure:
    """Bits per pixel of every model, and of every stage (T,) of the bounds."""
    figure, ((left, right),) = _figure(1, 2, (8.6, 3.0), width_ratios=(1.25, 1))
    names, values = list(bars), list(bars.values())
    colours = [BLUE if name.startswith("bit-flip") else GREY for name in names]
    left.barh(names, values, color=colours, height=0.65)
    for row, value in enumerate(values):
        left.text(value + 0.015, row, f"{value:.4f}", va="center", fontsize=8)
    left.invert_yaxis()
    left.set_xlim(0, 1.2 * max(values))
    left.set_xlabel("bits per pixel (less is better)")
    left.set_title(f"{images} held-out digits")
    for (name, value), colour, style in zip(
        stages.items(), (BLUE, VERMILLION), ("-", "--"), strict=True
    ):
        t = np.arange(1, len(value) + 1)
        right.plot(t, np.asarray(value), color=colour, linestyle=style, linewidth=1.4, label=name)
    right.set_xscale("log")
    right.set_yscale("log")
    right.grid(**_GRID)
    right.set_xlabel("stage t")
    right.set_ylabel("bits per pixel")
    right.set_title("Share of each stage in the bound")
    right.legend(fontsize=8)
    return figure


@_styled
def probabilities(truth, learnt, distances: Mapping[str, float]) -> Figure:
    """Learnt against true probabilities (512,), with total variation distances."""
    figure, ((axes,),) = _figure(1, 1, (4.2, 4.0))
    ends = [0.5 * float(min(truth.min(), learnt.min())), 2 * float(max(truth.max(), learnt.max()))]
    axes.plot(ends, ends, color=BLACK, linestyle="--", linewidth=1)
    axes.scatter(truth, learnt, s=7, color=BLUE, linewidths=0, alpha=0.7)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_aspect("equal")
    text = "\n".join(f"{name}: {value:.4f}" for name, value in distances.items())
    axes.text(
        0.04, 0.96, f"total variation from the truth\n{text}", transform=axes.transAxes, va="top"
    )
    axes.set_xlabel("true probability")
    axes.set_ylabel("probability of the learnt chain")
    axes.set_title("All 512 images of 3 x 3 pixels")
    return figure


@_styled
def chains(curves: Mapping[str, tuple], counts, errors: Mapping[str, Sequence], floor) -> Figure:
    """Schedules {name: (abar, sigma)}, each (T + 1,), and TV10 at every number of stages."""
    figure, axes = _figure(1, 3, (9.6, 3.0))
    for (name, (abar, sigma)), colour in zip(curves.items(), SERIES_COLOURS, strict=False):
        place = np.linspace(0, 1, len(abar))
        axes[0, 0].plot(place, abar, color=colour, linewidth=1.4, label=name)
        axes[0, 1].plot(place[1:], np.asarray(sigma)[1:], color=colour, linewidth=1.4, label=name)
        for solver, style in (("ddpm", "-"), ("ddim", "--")):
            values = errors[f"{name}, {solver}"]
            axes[0, 2].plot(counts, values, color=colour, linestyle=style, marker="o", ms=3)
    axes[0, 0].set_ylabel("abar, share of variance kept")
    axes[0, 0].legend()
    axes[0, 1].set_yscale("log")
    axes[0, 1].set_ylabel("σ of the equivalent VE process")
    for ax in axes[0, :2]:
        ax.set_xlabel("t / T, T = 1000")
    axes[0, 2].axhline(floor, color=GREY, linestyle=":")
    axes[0, 2].set_xscale("log")
    axes[0, 2].set_yscale("log")
    axes[0, 2].set_xticks(counts, [str(count) for count in counts])
    axes[0, 2].set_yticks([0.03, 0.05, 0.1, 0.2, 0.5])
    axes[0, 2].yaxis.set_major_formatter("{x:g}")
    axes[0, 2].xaxis.set_minor_locator(NullLocator())
    axes[0, 2].yaxis.set_minor_locator(NullLocator())
    axes[0, 2].set_xlabel("stages T")
    axes[0, 2].set_ylabel("TV10, distance from uniform")
    axes[0, 2].set_title("exact score; solid DDPM, dashed DDIM\ndotted: uniform points", fontsize=8)
    for ax in axes.flat:
        ax.grid(**_GRID)
    return figure


@_styled
def equivalence(path_ve, path_vp, sigma, differences: Mapping[str, Sequence]) -> Figure:
    """The same points' way (s + 1, k, 2) in both processes, and how far they are apart.

    sigma (s + 1,) is the noise level along the way; differences (s + 1,) are maxima over points
    after division by sqrt(abar).
    """
    figure, axes = _figure(1, 3, (9.6, 3.1))
    titles = ("x of the VE process", "x of the VP process")
    for ax, path, title in zip(axes[0], (path_ve, path_vp), titles, strict=False):
        path = np.asarray(path)
        _plane(ax, limit=1.08 * float(np.abs(np.asarray(path_ve)).max()))
        for k in range(path.shape[1]):
            colour = CLASS_COLOURS[k % len(CLASS_COLOURS)]
            ax.plot(path[:, k, 0], path[:, k, 1], color=colour, linewidth=1)
            ax.plot(*path[0, k], "x", color=colour, ms=5, mew=1.5)
            ax.plot(*path[-1, k], "o", mfc=colour, mec=BLACK, ms=5, zorder=4)
        ax.set_title(f"{title}: × start, ● output")
    for (name, values), colour in zip(differences.items(), (BLUE, VERMILLION), strict=True):
        axes[0, 2].plot(sigma, np.maximum(np.asarray(values), 1e-17), color=colour, label=name)
    axes[0, 2].axhline(1e-5, color=GREY, linestyle=":")
    axes[0, 2].set_yscale("log")
    axes[0, 2].set_ylim(1e-17, 1e-3)
    axes[0, 2].set_xlim(max(sigma), 0)
    axes[0, 2].grid(**_GRID)
    axes[0, 2].set_xlabel("noise level σ")
    axes[0, 2].set_ylabel("largest |x_VP / √abar - x_VE|")
    axes[0, 2].set_title("Difference on the schedule linear in σ\n(dotted: 1e-5)")
    axes[0, 2].legend(fontsize=8, loc="center right")
    return figure


@_styled
def chain_training(
    curves: Mapping[str, tuple], samples: Mapping[str, tuple], window: int
) -> Figure:
    """DDPM losses {name: (losses, Bayes loss)}, and samples {title: (n, 2)} of those networks."""
    columns = len(samples)
    figure = Figure(figsize=(2.4 * columns, 4.8))
    grid = figure.add_gridspec(2, columns)
    span = columns // len(curves)
    for k, (name, (losses, bayes)) in enumerate(curves.items()):
        ax = figure.add_subplot(grid[0, k * span : (k + 1) * span])
        losses = np.asarray(losses)
        width = min(window, len(losses))
        smooth = np.convolve(losses, np.full(width, 1 / width), mode="valid")
        epoch = np.arange(1, len(losses) + 1)
        ax.plot(epoch, losses, color=SKY, linewidth=0.3, alpha=0.6)
        ax.plot(epoch[width - 1 :], smooth, color=BLUE, linewidth=1.4)
        ax.axhline(bayes, color=BLACK, linestyle="--", linewidth=1)
        top = np.quantile(losses, 0.99)
        ax.set_ylim(losses.min() - 0.01, top + 0.3 * (top - losses.min()))
        ax.set_title(
            f"{name}: last {width} epochs {smooth[-1]:.4f}\nBayes loss {bayes:.4f}", fontsize=8
        )
        ax.set_xlabel("epoch")
        ax.set_ylabel("DDPM loss")
    for k, (title, points) in enumerate(samples.items()):
        ax = figure.add_subplot(grid[1, k])
        _plane(ax, limit=1.3, ticks=False)
        _dots(ax, points, s=2)
        ax.set_title(title, fontsize=8)
    return figure


@_styled
def one_loop(planes: Mapping[str, Sequence], pictures: tuple[str, Sequence], titles) -> Figure:
    """Three reverse processes in rows: {name: k times (n, 2)} and (name, k times (h, w))."""
    columns = len(titles)
    figure, axes = _figure(3, columns, (1.6 * columns + 0.3, 5.2))
    for row, (name, steps) in zip(axes, planes.items(), strict=False):
        for ax, points in zip(row, steps, strict=True):
            ax.set_aspect("equal")
            ax.set_xlim(-2.6, 2.6)
            ax.set_ylim(-2.6, 2.6)
            ax.set_xticks([])
            ax.set_yticks([])
            _box(ax, [[-1, -1], [1, 1]], GREY)
            _dots(ax, points, s=1.5, color=GREEN if "VP" in name else BLUE)
        row[0].set_ylabel(name)
    name, steps = pictures
    for ax, image in zip(axes[2], steps, strict=True):
        _picture(ax, image)
    axes[2, 0].set_ylabel(name)
    for ax, title in zip(axes[0], titles, strict=True):
        ax.set_title(title)
    return figure
