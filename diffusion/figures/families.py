"""Pictures of VAEs and GANs, and of the families of image models side by side.

Each function returns a Figure. Images are (n, m) in [0, 1], 0 paper and 1 ink.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from diffusion.figures import images as sheets
from diffusion.figures.style import (
    BLACK,
    BLUE,
    GREY,
    GRID,
    HALF,
    SERIES_COLOURS,
    VERMILLION,
    dots,
    new_figure,
    picture,
    plane,
    styled,
)


def _smooth(values, window: int = 100) -> tuple[np.ndarray, np.ndarray]:
    """The mean over `window` values, and the number of the last of them."""
    values = np.asarray(values, dtype=float)
    width = min(window, len(values))
    mean = np.convolve(values, np.full(width, 1 / width), mode="valid")
    return np.arange(width, len(values) + 1), mean


@styled
def losses(curves: Mapping[str, Sequence[float]], name: str) -> Figure:
    """Losses (updates,) of some runs, averaged over 100 updates."""
    figure, ((axes,),) = new_figure(1, 1, (HALF, 2.6))
    means = [_smooth(curve) for curve in curves.values()]
    for label, (count, mean), colour in zip(curves, means, SERIES_COLOURS, strict=False):
        axes.plot(count, mean, color=colour, linewidth=1.2, label=label)
    # The first tenth falls from far above and would flatten the rest.
    settled = np.concatenate([mean[len(mean) // 10 :] for _, mean in means])
    margin = 0.1 * (settled.max() - settled.min()) + 1e-3
    axes.set_ylim(settled.min() - margin, settled.max() + margin)
    axes.grid(**GRID)
    axes.set_xlabel("update")
    axes.set_ylabel(name)
    axes.set_title("Mean of 100 updates")
    axes.legend(fontsize=8)
    return figure


@styled
def importance(samples: Sequence[int], curves: Mapping[str, Sequence[float]], n: int) -> Figure:
    """Importance-weighted bounds in nats over the number of samples, of some models."""
    figure, ((axes,),) = new_figure(1, 1, (HALF, 3.35))
    for (name, values), colour in zip(curves.items(), SERIES_COLOURS, strict=False):
        axes.plot(samples, values, "o-", color=colour, linewidth=1.2, label=name)
        for x, value in zip(samples, values, strict=True):
            axes.annotate(
                f"{value:.1f}", (x, value), xytext=(0, 6), textcoords="offset points",
                fontsize=8, ha="center",
            )  # fmt: skip
    axes.set_xscale("log")
    axes.margins(0.1, 0.2)
    axes.grid(**GRID)
    axes.set_xlabel("samples of z per image (1: the ELBO)")
    axes.set_ylabel("bound on -log p(x), nats")
    axes.set_title(f"Importance-weighted bounds, {n} test images")
    axes.legend(fontsize=8)
    return figure


@styled
def named_rows(images, shape: tuple[int, int], names: Sequence[str], title: str = "") -> Figure:
    """Images (rows, k, m), a name for every row."""
    images = np.asarray(images)
    rows, columns = images.shape[:2]
    figure, ((axes,),) = new_figure(1, 1, (0.5 * columns + 1.4, 0.5 * rows + 0.4))
    pixels = images.reshape(rows, columns, *shape).transpose(0, 2, 1, 3)
    picture(axes, 2 * pixels.reshape(rows * shape[0], columns * shape[1]) - 1)
    axes.set_yticks((np.arange(rows) + 0.5) * shape[0], list(names))
    axes.tick_params(length=0)
    axes.set_title(title)
    return figure


@styled
def plane_of(images, shape: tuple[int, int], points: Sequence[float], names) -> Figure:
    """Images (k * k, m) decoded over a grid of two latent dimensions, (k,) points on each."""
    count = len(points)
    figure, ((axes,),) = new_figure(1, 1, (HALF, HALF))
    picture(axes, sheets.sheet(2 * np.asarray(images) - 1, shape, count))
    shown = [0, count // 2, count - 1]
    places = [(k + 0.5) * shape[0] for k in shown]
    axes.set_xticks(places, [f"{round(points[k], 2) + 0:g}" for k in shown])
    axes.set_yticks(places, [f"{round(-points[k], 2) + 0:g}" for k in shown])
    axes.set_xlabel(f"latent dimension {names[0] + 1}")
    axes.set_ylabel(f"latent dimension {names[1] + 1}")
    axes.set_title("Decoded; the other dimensions are 0")
    return figure


@styled
def quadrature(log_p, elbo, weighted) -> Figure:
    """Bounds on log p(x) of 3 x 3 images against its value by quadrature, all (512,) nats."""
    figure, ((axes,),) = new_figure(1, 1, (HALF, 3.3))
    log_p, elbo = np.asarray(log_p), np.asarray(elbo)
    low, high = elbo.min(), log_p.max()
    axes.plot([low, high], [low, high], "--", color=BLACK, linewidth=1)
    axes.scatter(log_p, elbo, s=8, color=VERMILLION, linewidths=0, label="ELBO")
    axes.scatter(log_p, weighted, s=8, color=BLUE, linewidths=0, label="1000 weighted samples")
    axes.set_aspect("equal")
    axes.grid(**GRID)
    axes.set_xlabel("log p(x) by quadrature, nats")
    axes.set_ylabel("bound, nats")
    axes.set_title("All 512 images of 3 x 3 pixels")
    axes.legend(fontsize=8)
    return figure


@styled
def discriminator(best, found) -> Figure:
    """D(x) of a trained discriminator against the best one, both (n,)."""
    figure, ((axes,),) = new_figure(1, 1, (HALF, 3.3))
    axes.plot([0, 1], [0, 1], "--", color=BLACK, linewidth=1)
    axes.scatter(best, found, s=3, color=BLUE, linewidths=0, alpha=0.4)
    axes.set_aspect("equal")
    axes.grid(**GRID)
    error = np.abs(np.asarray(found) - np.asarray(best)).mean()
    axes.set_xlabel("p_data / (p_data + p_theta)")
    axes.set_ylabel("D(x), trained")
    axes.set_title(f"Mean difference {error:.4f}")
    return figure


@styled
def gradients(mean_d, minimax, non_saturating) -> Figure:
    """Norms of the generator's gradients over the mean of D(G(z)), all (k,)."""
    figure, ((axes,),) = new_figure(1, 1, (HALF, 2.6))
    order = np.argsort(mean_d)  # in which D is trained is not quite the same
    for values, colour, name in (
        (non_saturating, BLUE, "non-saturating"),
        (minimax, VERMILLION, "minimax"),
    ):
        x, y = (np.asarray(part)[order] for part in (mean_d, values))
        axes.plot(x, y, "o-", ms=3, color=colour, label=name)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.grid(**GRID)
    axes.set_xlabel("mean D(G(z)); smaller as D is trained on")
    axes.set_ylabel("norm of the gradient")
    axes.legend(fontsize=8)
    return figure


@styled
def classes(shares: Mapping[str, Sequence[float]], n: int) -> Figure:
    """Shares of the ten classes among n samples of each of some models."""
    figure, ((axes,),) = new_figure(1, 1, (5.6, 3.0))
    width = 0.8 / len(shares)
    for k, ((name, values), colour) in enumerate(zip(shares.items(), SERIES_COLOURS, strict=False)):
        axes.bar(np.arange(10) + (k + 0.5) * width - 0.4, values, width, color=colour, label=name)
    axes.axhline(0.1, linestyle="--", color=BLACK, linewidth=1)
    axes.set_xticks(range(10))
    axes.set_xlabel("class that the classifier sees")
    axes.set_ylabel(f"share of {n} samples")
    axes.legend(fontsize=8)
    return figure


@styled
def compared(bars: Mapping[str, Mapping[str, float]]) -> Figure:
    """A panel for every measure: its name and unit -> {family: value}."""
    figure, (row,) = new_figure(1, len(bars), (2.7 * len(bars), 2.6))
    for axes, (measure, values) in zip(row, bars.items(), strict=True):
        colours = [GREY if name.startswith("real") else BLUE for name in values]
        axes.barh(list(values), list(values.values()), color=colours, height=0.65)
        largest = max(values.values())
        for place, value in enumerate(values.values()):
            axes.text(value + 0.03 * largest, place, f"{value:.3g}", va="center", fontsize=8)
        axes.invert_yaxis()
        axes.set_xlim(0, 1.3 * largest)
        axes.set_title(measure)
    return figure


@styled
def squares(points: Mapping[str, np.ndarray]) -> Figure:
    """Samples (n, 2) of models of the square, a panel each."""
    figure, (row,) = new_figure(1, len(points), (2.6 * len(points), 2.8))
    for axes, (name, values) in zip(row, points.items(), strict=True):
        plane(axes, ticks=False)
        dots(axes, values, s=1.5)
        axes.set_title(name)
    return figure
