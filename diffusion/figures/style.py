"""The look of every figure: colours, axes, dots, paths, loss curves, and how files are written.

One visual language: classes keep their colours everywhere, the model is blue, the truth black and
dashed, what cannot be beaten dotted grey. Colours are those of Okabe and Ito (2008), which stay
apart for colour-blind readers. The plane always has equal axes, with the place of the data drawn in
(`Frame`): the square, or points.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.animation import PillowWriter
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import NullLocator

from diffusion.files import write_atomically

BLUE, ORANGE, GREEN, VERMILLION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, SKY, BLACK, GREY = "#CC79A7", "#56B4E9", "#000000", "#8C8C8C"
PALE = "#D0D0D0"
CLASS_COLOURS = (BLUE, ORANGE, GREEN, PURPLE, VERMILLION)
SERIES_COLOURS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY)
TIME_COLOURS = "viridis"
GRID = {"color": "#E6E6E6", "linewidth": 0.6}

# A white rim keeps labels readable on top of lines and dots.
HALO = {"path_effects": [withStroke(linewidth=2.5, foreground="white")]}

WIDTH = 6.9  # inches, of the report's text: no figure is wider, so that it prints at its own size
HALF = 3.35  # of one of two figures side by side

# Decorates every function that draws.
styled = mpl.rc_context(
    {
        "font.family": "STIXGeneral",
        "mathtext.fontset": "stix",
        "font.size": 9,
        "axes.titlesize": 9,
        "axes.labelsize": 9,
        "xtick.labelsize": 8,
        "ytick.labelsize": 8,
        "legend.fontsize": 8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "legend.frameon": False,
        "figure.constrained_layout.use": True,
    }
)


# --- Files --------------------------------------------------------------------------------------


def save(figure: Figure, path: str | Path) -> None:
    """Write a figure as SVG, atomically; equal figures give equal files.

    Words stay words in the fonts that matplotlib ships; clouds of dots are pictures inside.
    """
    buffer = io.BytesIO()
    settings = {"svg.fonttype": "none", "svg.hashsalt": Path(path).stem}
    with mpl.rc_context(settings):
        figure.savefig(buffer, format="svg", dpi=220, metadata={"Date": None})
    write_atomically(path, buffer.getvalue())


_MOVIE_DPI = 100


class _Writer(PillowWriter):
    """Holds the last picture, so that it need not be drawn again and again."""

    hold = 0.0

    def finish(self) -> None:
        pace = round(1000 / self.fps)
        durations = [pace] * (len(self._frames) - 1) + [pace + round(1000 * self.hold)]
        first, *others = self._frames
        options = {"save_all": True, "append_images": others, "loop": 0}
        first.save(self.outfile, duration=durations, **options)


@dataclass(frozen=True)
class Movie:
    """A figure whose content moves.

    moving: what changes from frame to frame; all else is drawn once. draw: changes it to what a
    frame shows. frames: numbers of frames, in order; the last one stays for `hold` seconds more.
    """

    figure: Figure
    moving: Sequence[Artist]
    draw: Callable[[int], None]
    frames: Sequence[int]
    hold: float = 0.0

    @styled
    def save(self, path: str | Path) -> None:
        """Write it as an animated GIF, atomically."""
        writer = _Writer(fps=12)
        writer.hold = self.hold
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "movie.gif"
            with writer.saving(self.figure, file, dpi=_MOVIE_DPI):
                self._freeze()
                for number in self.frames:
                    self.draw(number)
                    writer.grab_frame()
            write_atomically(path, file.read_bytes())

    def _freeze(self) -> None:
        """Put a picture of what does not move in the place of it."""
        for artist in self.moving:
            artist.set_visible(False)
        self.figure.set_dpi(_MOVIE_DPI)
        canvas = FigureCanvasAgg(self.figure)
        canvas.draw()
        still = np.array(canvas.buffer_rgba())
        for axes in self.figure.axes:
            for artist in axes.get_children():
                artist.set_visible(False)
        for artist in self.moving:
            artist.set_visible(True)
        self.figure.figimage(still, zorder=-1)


# --- Axes ---------------------------------------------------------------------------------------


def new_figure(rows: int, columns: int, size: tuple[float, float], **options):
    """A figure of that size in inches, at most WIDTH wide, and its axes (rows, columns)."""
    figure = Figure(figsize=(min(size[0], WIDTH), size[1]))
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


@dataclass(frozen=True, eq=False)
class Frame:
    """Where the data are: the square centre +- half, which planes measure their limits by.

    points: (n, 2), drawn in pale where the data are not the square's uniform points.
    """

    centre: tuple[float, float] = (0.0, 0.0)
    half: float = 1.0
    points: np.ndarray | None = None

    @classmethod
    def around(cls, points) -> Frame:
        """The smallest one about points (n, 2); it draws up to 2000 of them."""
        points = np.asarray(points, dtype=np.float64)
        low, high = points.min(axis=0), points.max(axis=0)
        shown = points[:: -(-len(points) // 2000)]
        return cls(tuple(((low + high) / 2).tolist()), float((high - low).max()) / 2, shown)

    @property
    def corners(self) -> np.ndarray:
        """(2, 2), rows (low, high)."""
        return np.add(self.centre, [[-self.half] * 2, [self.half] * 2])

    def place(self, x: float, y: float) -> tuple[float, float]:
        """The point with these coordinates in the frame, whose corners are at +-1."""
        return self.centre[0] + self.half * x, self.centre[1] + self.half * y

    def reach(self, *paths) -> float:
        """The largest coordinate in the frame of points (..., 2)."""
        offsets = [np.abs(np.asarray(path) - np.asarray(self.centre)).max() for path in paths]
        return float(max(offsets)) / self.half

    def draw(self, axes: Axes) -> None:
        if self.points is None:
            box(axes, self.corners, GREY)
        else:
            dots(axes, self.points, color=PALE, s=2, zorder=1)


SQUARE = Frame()


def plane(axes: Axes, limit: float = 1.25, ticks: bool = True, frame: Frame = SQUARE) -> None:
    """The frame's plane, `limit` of its half-widths to either side, with the data in it."""
    axes.set_aspect("equal")
    x_limits, y_limits = zip(frame.place(-limit, -limit), frame.place(limit, limit), strict=True)
    axes.set_xlim(x_limits)
    axes.set_ylim(y_limits)
    if ticks:
        axes.set_xlabel("x")
        axes.set_ylabel("y")
    else:
        axes.set_xticks([])
        axes.set_yticks([])
    frame.draw(axes)


def log_axes(axes: Axes, ticks: Sequence[int]) -> None:
    """Both axes logarithmic with plain numbers."""
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_yticks([0.03, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10])
    axes.yaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_minor_locator(NullLocator())
    axes.grid(**GRID)


# --- What is drawn into them --------------------------------------------------------------------


def box(axes: Axes, rectangle, colour: str, **options) -> None:
    """The outline of a rectangle (2, 2), rows (low, high)."""
    (left, bottom), (right, top) = np.asarray(rectangle)
    style = {"fill": False, "edgecolor": colour, "linewidth": 0.8, "zorder": 1.5} | options
    axes.add_patch(Rectangle((left, bottom), right - left, top - bottom, **style))


def dots(axes: Axes, points, **options) -> None:
    """Points (n, 2)."""
    points = np.asarray(points)
    style = {"s": 3, "linewidths": 0, "color": BLUE, "rasterized": len(points) > 200} | options
    axes.scatter(points[:, 0], points[:, 1], **style)


def timed_path(axes: Axes, path, t):
    """A path (n, 2) coloured by its times (n,); returns what a colour bar needs."""
    path = np.asarray(path)
    segments = np.stack([path[:-1], path[1:]], axis=1)
    dense = {"cmap": TIME_COLOURS, "rasterized": len(path) > 200}
    lines = LineCollection(segments, linewidths=0.6, alpha=0.5, zorder=2, **dense)
    lines.set_array(np.asarray(t)[:-1])
    axes.add_collection(lines)
    return axes.scatter(path[:, 0], path[:, 1], c=t, s=5, linewidths=0, zorder=3, **dense)


def mark(axes: Axes, point, text: str, offset=(6, 6), **options) -> None:
    """A ring at a point (2,), and a text beside it."""
    style = {"textcoords": "offset points", "fontsize": 8, "zorder": 5, **HALO} | options
    axes.annotate(text, np.asarray(point), xytext=offset, **style)
    axes.plot(*np.asarray(point), "o", ms=4, mfc="white", mec=BLACK, zorder=4)


def loss_curve(axes: Axes, losses, window: int, **pale) -> tuple[int, float]:
    """Losses (n,) in pale, and their mean over `window` of them.

    Returns:
        the width of the window, which is at most n, and the last mean.
    """
    losses = np.asarray(losses)
    count = np.arange(1, len(losses) + 1)
    width = min(window, len(losses))
    smooth = np.convolve(losses, np.full(width, 1 / width), mode="valid")
    pale = {"linewidth": 0.3, "alpha": 0.6, "rasterized": True} | pale
    axes.plot(count, losses, color=SKY, **pale)
    middle = count[: len(smooth)] + (width - 1) / 2  # of each mean's own epochs
    axes.plot(middle, smooth, color=BLUE, linewidth=1.4)
    return width, smooth[-1]


def picture(axes: Axes, pixels) -> None:
    """An image (height, width) of -1 (paper) to +1 (ink)."""
    axes.imshow(-np.asarray(pixels), cmap="gray", vmin=-1, vmax=1, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
