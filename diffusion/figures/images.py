"""Pictures of binary images, of their training loss and of their bits.

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
    GRID,
    HALF,
    loss_curve,
    new_figure,
    picture,
    styled,
)


def sheet(images, shape: tuple[int, int], columns: int, gap: int = 0) -> np.ndarray:
    """Images (n, m) side by side in rows, with a margin of `gap` pixels around each."""
    images = np.pad(
        np.asarray(images).reshape(-1, *shape), ((0, 0), (gap, gap), (gap, gap)), constant_values=-1
    )
    height, width = images.shape[1:]
    images = images.reshape(-1, columns, height, width)
    return images.transpose(0, 2, 1, 3).reshape(-1, columns * width)


@styled
def grid(images, shape: tuple[int, int], columns: int, names: Sequence = ()) -> Figure:
    """Samples (n, m) in rows of `columns`, with a name for every row if there are names."""
    rows = len(images) // columns
    figure, ((axes,),) = new_figure(1, 1, (0.34 * columns + 0.2, 0.34 * rows + 0.35))
    picture(axes, sheet(images, shape, columns))
    if len(names):
        axes.set_yticks((np.arange(rows) + 0.5) * shape[0], [str(name) for name in names])
        axes.tick_params(length=0)
        axes.set_title(f"{columns} samples of each class")
    else:
        axes.set_title(f"{len(images)} samples of any class, none left out")
    return figure


@styled
def rows(images, shape: tuple[int, int], titles: Sequence[str]) -> Figure:
    """Images (r, k, m), a row for each of r, with a title above each of the k columns."""
    count, columns = np.asarray(images).shape[:2]
    figure, ((axes,),) = new_figure(1, 1, (0.62 * columns + 0.2, 0.62 * count + 0.4))
    gap = 2
    images = np.asarray(images).reshape(count * columns, -1)
    picture(axes, sheet(images, shape, columns, gap))
    axes.set_xticks((np.arange(columns) + 0.5) * (shape[1] + 2 * gap), titles, fontsize=8)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    return figure


@styled
def loss(losses, window: int) -> Figure:
    """Bits per pixel of every update, raw and averaged over `window` updates."""
    figure, ((axes,),) = new_figure(1, 1, (4.8, 3.0))
    losses = np.asarray(losses)
    width, last = loss_curve(axes, losses, window, linewidth=0.4, alpha=0.7)
    axes.set_yscale("log")
    axes.set_yticks([0.05, 0.1, 0.2, 0.5, 1])
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_ylim(0.8 * losses.min(), 1.5 * losses.max())
    axes.grid(**GRID)
    axes.set_xlabel("update (64 images each)")
    axes.set_ylabel("loss, bits per pixel")
    axes.set_title(f"pale: every update; blue: mean of {width}, at the end {last:.4f}")
    return figure


@styled
def stages(t: Sequence[int], nats: Sequence[float], images: int) -> Figure:
    """What each of some stages t adds to the bound of an image, nats, mean of so many images."""
    figure, ((axes,),) = new_figure(1, 1, (HALF, 3.3))
    axes.plot(t, nats, "o-", color=BLUE, linewidth=1.2, markersize=2.5)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.grid(**GRID)
    axes.set_xlabel("stage t")
    axes.set_ylabel("KL, nats per image")
    axes.set_title(f"Mean of {images} test images")
    return figure


@styled
def probabilities(truth, learnt, distances: Mapping[str, float]) -> Figure:
    """Learnt against true probabilities (512,), with total variation distances."""
    figure, ((axes,),) = new_figure(1, 1, (HALF, 3.3))
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
