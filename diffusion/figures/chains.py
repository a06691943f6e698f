"""Pictures of the variance-preserving chain, and of all three processes in one loop.

Each function returns a Figure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from diffusion.figures.style import (
    BLACK,
    BLUE,
    CLASS_COLOURS,
    GREEN,
    GREY,
    GRID,
    SERIES_COLOURS,
    VERMILLION,
    WIDTH,
    box,
    dots,
    loss_curve,
    new_figure,
    picture,
    plane,
    styled,
)


@styled
def schedules(curves: Mapping[str, tuple], counts, errors: Mapping[str, Sequence], floor) -> Figure:
    """Schedules {name: (abar, sigma)}, each (T + 1,), and TV10 at every number of stages."""
    figure, axes = new_figure(1, 3, (9.6, 3.0))
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
        ax.grid(**GRID)
    return figure


@styled
def equivalence(path_ve, path_vp, sigma, differences: Mapping[str, Sequence]) -> Figure:
    """The same points' way (s + 1, k, 2) in both processes, and how far they are apart.

    sigma (s + 1,) is the noise level along the way; differences (s + 1,) are maxima over points
    after division by sqrt(abar).
    """
    figure, axes = new_figure(1, 3, (9.6, 3.1))
    titles = ("x of the VE process", "x of the VP process")
    for ax, path, title in zip(axes[0], (path_ve, path_vp), titles, strict=False):
        path = np.asarray(path)
        plane(ax, limit=1.08 * float(np.abs(np.asarray(path_ve)).max()))
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
    axes[0, 2].grid(**GRID)
    axes[0, 2].set_xlabel("noise level σ")
    axes[0, 2].set_ylabel("largest |x_VP / √abar - x_VE|")
    axes[0, 2].set_title("Difference on the schedule linear in σ\n(dotted: 1e-5)")
    axes[0, 2].legend(fontsize=8, loc="center right")
    return figure


@styled
def training(curves: Mapping[str, tuple], samples: Mapping[str, tuple], window: int) -> Figure:
    """DDPM losses {name: (losses, Bayes loss)}, and samples {title: (n, 2)} of those networks."""
    columns = len(samples)
    figure = Figure(figsize=(min(2.4 * columns, WIDTH), 4.8))
    grid = figure.add_gridspec(2, columns)
    span = columns // len(curves)
    for k, (name, (losses, bayes)) in enumerate(curves.items()):
        ax = figure.add_subplot(grid[0, k * span : (k + 1) * span])
        losses = np.asarray(losses)
        width, last = loss_curve(ax, losses, window)
        ax.axhline(bayes, color=BLACK, linestyle="--", linewidth=1)
        top = np.quantile(losses, 0.99)
        ax.set_ylim(losses.min() - 0.01, top + 0.3 * (top - losses.min()))
        ax.set_title(f"{name}: last {width} epochs {last:.4f}\nBayes loss {bayes:.4f}", fontsize=8)
        ax.set_xlabel("epoch")
        ax.set_ylabel("DDPM loss")
    for k, (title, points) in enumerate(samples.items()):
        ax = figure.add_subplot(grid[1, k])
        plane(ax, limit=1.3, ticks=False)
        dots(ax, points, s=2)
        ax.set_title(title, fontsize=8)
    return figure


@styled
def one_loop(planes: Mapping[str, Sequence], pictures: tuple[str, Sequence], titles) -> Figure:
    """Three reverse processes in rows: {name: k times (n, 2)} and (name, k times (h, w))."""
    columns = len(titles)
    figure, axes = new_figure(3, columns, (1.6 * columns + 0.3, 5.2))
    for row, (name, steps) in zip(axes, planes.items(), strict=False):
        for ax, points in zip(row, steps, strict=True):
            ax.set_aspect("equal")
            ax.set_xlim(-2.6, 2.6)
            ax.set_ylim(-2.6, 2.6)
            ax.set_xticks([])
            ax.set_yticks([])
            box(ax, [[-1, -1], [1, 1]], GREY)
            dots(ax, points, s=1.5, color=GREEN if "VP" in name else BLUE)
        row[0].set_ylabel(name)
    name, steps = pictures
    for ax, image in zip(axes[2], steps, strict=True):
        picture(ax, image)
    axes[2, 0].set_ylabel(name)
    for ax, title in zip(axes[0], titles, strict=True):
        ax.set_title(title)
    return figure
