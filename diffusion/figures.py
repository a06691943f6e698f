"""Every figure of Part 1. Functions take arrays and numbers, know no model, and return a Figure.

One visual language: classes keep their colours everywhere, the model is blue, the truth black and
dashed, what cannot be beaten dotted grey. Colours are those of Okabe and Ito (2008), which stay
apart for colour-blind readers. The plane always has equal axes, with the square drawn in.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.animation import FuncAnimation, PillowWriter
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import NullLocator

from diffusion.files import write_atomically

BLUE, ORANGE, GREEN, VERMILLION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, SKY, BLACK, GREY = "#CC79A7", "#56B4E9", "#000000", "#8C8C8C"
CLASS_COLOURS = (BLUE, ORANGE, GREEN, PURPLE, VERMILLION)
SERIES_COLOURS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY)
TIME_COLOURS = "viridis"

_STYLE = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}


_SOLVER_NAMES = {
    "ddim": "DDIM",
    "ddpm": "DDPM, λ = 1",
    "heun": "Heun",
    "heun+churn": "Heun, churn 0.1",
    "dpm++": "DPM-Solver++(2M)",
}

# A white rim keeps labels readable on top of lines and dots.
_HALO = {"path_effects": [withStroke(linewidth=2.5, foreground="white")]}

_styled = mpl.rc_context(_STYLE)


def save(figure: Figure, path: str | Path) -> None:
    """Write a figure as PNG, atomically; equal figures give equal files."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=200, metadata={"Software": None})
    write_atomically(path, buffer.getvalue())


def _figure(rows: int, columns: int, size: tuple[float, float], **options):
    figure = Figure(figsize=size)
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def _plane(axes: Axes, limit: float = 1.25, ticks: bool = True) -> None:
    axes.set_aspect("equal")
    axes.set_xlim(-limit, limit)
    axes.set_ylim(-limit, limit)
    if ticks:
        axes.set_xlabel("x")
        axes.set_ylabel("y")
    else:
        axes.set_xticks([])
        axes.set_yticks([])
    _box(axes, [[-1, -1], [1, 1]], GREY)


def _box(axes: Axes, rectangle, colour: str, **options) -> None:
    (left, bottom), (right, top) = np.asarray(rectangle)
    style = {"fill": False, "edgecolor": colour, "linewidth": 0.8, "zorder": 1.5} | options
    axes.add_patch(Rectangle((left, bottom), right - left, top - bottom, **style))


def _dots(axes: Axes, points, **options) -> None:
    points = np.asarray(points)
    style = {"s": 3, "linewidths": 0, "color": BLUE} | options
    axes.scatter(points[:, 0], points[:, 1], **style)


def _timed_path(axes: Axes, path, t) -> LineCollection:
    """A path (n, 2) coloured by its times (n,)."""
    path = np.asarray(path)
    segments = np.stack([path[:-1], path[1:]], axis=1)
    lines = LineCollection(segments, cmap=TIME_COLOURS, linewidths=0.6, alpha=0.5, zorder=2)
    lines.set_array(np.asarray(t)[:-1])
    axes.add_collection(lines)
    return axes.scatter(path[:, 0], path[:, 1], c=t, cmap=TIME_COLOURS, s=5, linewidths=0, zorder=3)


def _mark(axes: Axes, point, text: str, offset=(6, 6), **options) -> None:
    style = {"textcoords": "offset points", "fontsize": 8, "zorder": 5, **_HALO} | options
    axes.annotate(text, np.asarray(point), xytext=offset, **style)
    axes.plot(*np.asarray(point), "o", ms=4, mfc="white", mec=BLACK, zorder=4)


@_styled
def forward_process(path, t) -> Figure:
    """U1: one point's way from data to noise, (n, 2) and times (n,)."""
    figure, ((axes,),) = _figure(1, 1, (4.8, 3.6))
    path = np.asarray(path)
    _plane(axes)
    dots = _timed_path(axes, path, t)
    low, high = np.minimum(path.min(axis=0), -1), np.maximum(path.max(axis=0), 1)
    axes.set_xlim(low[0] - 0.3, high[0] + 0.3)
    axes.set_ylim(low[1] - 0.3, high[1] + 0.5)
    _mark(axes, path[0], "t = 0", offset=(-14, 8))
    _mark(axes, path[-1], "t = 1", offset=(-12, -16))
    axes.text(0, 0, "the data's square", color=GREY, fontsize=8, ha="center", va="center")
    figure.colorbar(dots, ax=axes, label="time t")
    axes.set_title("Forward process of a point outside the square")
    return figure


@_styled
def training_loss(curves: Mapping[str, tuple], window: int) -> Figure:
    """U2: for each model (losses (epochs,), Bayes loss), raw and averaged over `window` epochs."""
    figure, axes = _figure(1, len(curves), (3.4 * len(curves), 2.9))
    for ax, (name, (losses, bayes)) in zip(axes[0], curves.items(), strict=True):
        losses = np.asarray(losses)
        epoch = np.arange(1, len(losses) + 1)
        ax.plot(epoch, losses, color=SKY, linewidth=0.3, alpha=0.6)
        width = min(window, len(losses))
        smooth = np.convolve(losses, np.full(width, 1 / width), mode="valid")
        ax.plot(epoch[width - 1 :], smooth, color=BLUE, linewidth=1.4)
        ax.axhline(bayes, color=BLACK, linestyle="--", linewidth=1)
        top = np.quantile(losses, 0.995)
        ax.set_ylim(losses.min() - 0.01, top + 0.8 * (top - losses.min()))
        ax.text(
            0.98,
            0.95,
            f"blue: mean of {width} epochs\npale: every epoch\n"
            f"dashed: Bayes loss {bayes:.4f}\nlast {width} epochs: {smooth[-1]:.4f}",
            transform=ax.transAxes,
            ha="right",
            va="top",
            fontsize=8,
        )
        ax.set_xlabel("epoch (one full batch each)")
        ax.set_ylabel("loss per coordinate")
        ax.set_title(name)
    return figure


@_styled
def sample_grid(samples: Sequence, titles: Sequence[str], columns: int, note: str = "") -> Figure:
    """U3, U4: many samplings (n, 2) side by side, in the plane [-1.45, 1.45]^2."""
    rows = -(-len(samples) // columns)
    figure, axes = _figure(rows, columns, (1.75 * columns, 1.9 * rows))
    for ax in axes.flat[len(samples) :]:
        ax.set_axis_off()
    for ax, points, title in zip(axes.flat, samples, titles, strict=False):
        _plane(ax, limit=1.45, ticks=False)
        _dots(ax, points, s=2)
        ax.set_title(title, fontsize=8)
    if note:
        figure.suptitle(note, fontsize=9)
    return figure


@_styled
def steps_against_truth(steps, model, exact, floor: float, samples: int) -> Figure:
    """U4: TV10 of the model and of the exact score against T, and the floor of uniform points."""
    figure, ((axes,),) = _figure(1, 1, (5.0, 3.1))
    axes.plot(steps, model, color=BLUE, marker="o", ms=3.5)
    axes.plot(steps, exact, color=BLACK, linestyle="--", linewidth=1.1)
    axes.axhline(floor, color=GREY, linestyle=":", linewidth=1.2)
    _log_axes(axes, steps)
    axes.set_ylim(0.65 * floor, 1.3)
    middle = len(steps) // 2
    label = {"textcoords": "offset points", "fontsize": 9}
    axes.annotate("model", (steps[middle], model[middle]), xytext=(8, 6), color=BLUE, **label)
    axes.annotate(
        "exact score", (steps[middle], exact[middle]), xytext=(-6, -10), ha="right", **label
    )
    axes.text(steps[0], 0.93 * floor, "truly uniform points", color=GREY, va="top")
    axes.set_xlabel("sampling steps T")
    axes.set_ylabel("TV10, distance from uniform")
    axes.set_title(f"DDIM, {samples:,} samples")
    return figure


@_styled
def start_mismatch(levels, scores: Mapping[str, Sequence[float]], floor: float) -> Figure:
    """TV10 with the exact score against sigma(1), for each way to draw the start."""
    figure, ((axes,),) = _figure(1, 1, (4.6, 2.9))
    names = {"matched": (BLUE, "matched start"), "standard": (VERMILLION, "start N(0, σ(1)² I)")}
    for name, values in scores.items():
        colour, text = names[name]
        axes.plot(levels, values, color=colour, marker="o", ms=3.5)
        axes.annotate(
            text,
            (levels[0], values[0]),
            xytext=(8, 4),
            textcoords="offset points",
            color=colour,
        )
    axes.axhline(floor, color=GREY, linestyle=":")
    axes.text(levels[-1], floor * 0.97, "truly uniform points", color=GREY, ha="right", va="top")
    _log_axes(axes, levels)
    axes.set_ylim(0.8 * floor, 1.4 * max(map(max, scores.values())))
    axes.set_xlabel("largest noise level σ(1)")
    axes.set_ylabel("TV10, distance from uniform")
    axes.set_title("Exact score: what is left is the start")
    return figure


@_styled
def quality_against_cost(evaluations, curves: Mapping[str, Sequence], floor, ylabel) -> Figure:
    """Quality of samples against network evaluations, a panel for each solver.

    curves: "solver, spacing" or "solver, spacing: exact score" -> one value per evaluations entry.
    """
    solvers = list(dict.fromkeys(name.split(", ")[0] for name in curves))
    spacings = list(dict.fromkeys(name.split(", ")[1].split(":")[0] for name in curves))
    figure, axes = _figure(1, len(solvers), (2.5 * len(solvers), 3.0), sharey=True)
    for ax, solver in zip(axes[0], solvers, strict=True):
        for spacing, colour in zip(spacings, SERIES_COLOURS, strict=False):
            name = f"{solver}, {spacing}"
            ax.plot(evaluations, curves[name], color=colour, marker="o", ms=3, label=spacing)
            if f"{name}: exact score" in curves:
                exact = curves[f"{name}: exact score"]
                ax.plot(evaluations, exact, color=colour, linestyle="--", linewidth=0.9)
        ax.axhline(floor, color=GREY, linestyle=":")
        _log_axes(ax, evaluations)
        ax.set_xlabel("network evaluations")
        ax.set_ylim(0.85 * floor, 1.2 * max(map(max, curves.values())))
        ax.set_title(_SOLVER_NAMES[solver])
    axes[0, 0].set_ylabel(ylabel)
    axes[0, 0].legend(
        fontsize=7,
        title="dashed: exact score\ndotted: uniform points\nsteps even in",
        title_fontsize=7,
    )
    return figure


def _log_axes(axes: Axes, ticks: Sequence[int]) -> None:
    """Both axes logarithmic with plain numbers."""
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_yticks([0.03, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10])
    axes.yaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_minor_locator(NullLocator())
    axes.grid(color="#E6E6E6", linewidth=0.6)


@_styled
def schedules(t, sigmas: Mapping[str, np.ndarray], steps, errors: Mapping[str, tuple]) -> Figure:
    """U5: sigma(t) of each schedule, and TV10 of model and exact score against T."""
    figure, ((left, right),) = _figure(1, 2, (7.4, 3.2))
    for (name, sigma), colour in zip(sigmas.items(), SERIES_COLOURS, strict=False):
        left.plot(t, sigma, color=colour, linewidth=1.4, marker="o", ms=2.5)
        model, exact = errors[name]
        right.plot(steps, model, color=colour, linewidth=1.4, marker="o", ms=3, label=name)
        right.plot(steps, exact, color=colour, linewidth=0.9, linestyle="--")
    left.set_yscale("log")
    left.set_xlabel("time t")
    left.set_ylabel("noise level σ(t)")
    left.set_title("Schedules, one dot per step at T = 20")
    _log_axes(right, steps)
    right.set_ylim(0.025, 1)
    right.set_xlabel("sampling steps T")
    right.set_ylabel("TV10, distance from uniform")
    right.set_title("DDIM samples; dashed: exact score")
    right.legend(fontsize=8)
    left.grid(color="#E6E6E6", linewidth=0.6)
    return figure


@_styled
def repeated_outputs(starts, outputs: Mapping[str, tuple]) -> Figure:
    """U6: ten outputs (10, k, 2) from the same k starts (k, 2), with the spread of each solver."""
    figure, axes = _figure(1, len(outputs), (2.1 * len(outputs), 2.5))
    for ax, (name, (points, spread)) in zip(axes[0], outputs.items(), strict=True):
        _plane(ax, limit=float(np.abs(np.asarray(starts)).max()) * 1.1, ticks=False)
        for k, colour in zip(range(len(starts)), CLASS_COLOURS, strict=False):
            ax.plot(*np.asarray(starts[k]), "x", color=colour, ms=5, mew=1.5)
            _dots(ax, points[:, k], color=colour, s=12, alpha=0.8)
        ax.set_title(f"{name}\nspread {spread:.3g}", fontsize=8)
    axes[0, 0].set_ylabel("× the noise, • ten outputs", fontsize=8)
    return figure


@_styled
def trajectories(paths: Mapping[str, np.ndarray], t) -> Figure:
    """U6: reverse trajectories (steps + 1, k, 2) of each solver, coloured by time."""
    figure, axes = _figure(1, len(paths), (3.6 * len(paths), 3.2))
    for ax, (name, path) in zip(axes[0], paths.items(), strict=True):
        _plane(ax, limit=float(max(np.abs(np.asarray(p)).max() for p in paths.values())) * 1.08)
        for k in range(path.shape[1]):
            dots = _timed_path(ax, path[:, k], t)
        for k in range(path.shape[1]):
            ax.plot(*path[0, k], "x", color=BLACK, ms=5, zorder=4)
            ax.plot(*path[-1, k], "o", mfc="white", mec=BLACK, ms=5, zorder=4)
        ax.set_title(name)
    figure.colorbar(dots, ax=list(axes[0]), label="time t (× start, ○ output)")
    return figure


@_styled
def classes(points, labels, names: Sequence[str], rectangles, title: str) -> Figure:
    """C1, C4: points coloured by class, with the classes' rectangles."""
    figure, ((axes,),) = _figure(1, 1, (4.2, 4.2))
    _plane(axes)
    labels = np.asarray(labels)
    for k, name in enumerate(names):
        _box(axes, rectangles[k], CLASS_COLOURS[k], linewidth=1.2)
        _dots(axes, np.asarray(points)[labels == k], color=CLASS_COLOURS[k], s=4)
        axes.text(
            *np.asarray(rectangles[k]).mean(axis=0),
            name,
            ha="center",
            va="center",
            color=CLASS_COLOURS[k],
            weight="bold",
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.5},
        )
    axes.set_title(title)
    return figure


@_styled
def class_trajectories(path, names: Sequence[str], rectangles, inside: Sequence[bool]) -> Figure:
    """C3: one trajectory (steps + 1, k, 2) per class, in its class's colour."""
    figure, ((axes,),) = _figure(1, 1, (4.6, 4.4))
    path = np.asarray(path)
    _plane(axes, limit=float(np.abs(path).max()) * 1.1)
    for k, name in enumerate(names):
        colour = CLASS_COLOURS[k]
        _box(axes, rectangles[k], colour, fill=True, facecolor=colour, alpha=0.12)
        axes.plot(path[:, k, 0], path[:, k, 1], color=colour, linewidth=1.3)
        axes.plot(*path[0, k], "x", color=colour, ms=6, mew=1.5)
        axes.plot(*path[-1, k], "o", mfc=colour, mec=BLACK, ms=6, zorder=4)
        axes.annotate(
            f"{name} {'✓' if inside[k] else '✗'}",
            path[0, k],
            xytext=(5, 5),
            textcoords="offset points",
            color=colour,
            fontsize=8,
            zorder=5,
            **_HALO,
        )
    axes.set_title("One point of each class: × noise, ● output\n✓ ends in its class's rectangle")
    return figure


@_styled
def save_reverse_process(path: str | Path, paths, labels, names, sigmas) -> None:
    """Write the reverse process as an animated GIF: one frame per noise level, the last one held.

    paths: two trajectories (frames, n, 2), of the unconditional and the conditional model.
    labels: (n,) classes of the second. sigmas: (frames,) noise levels.
    """
    figure, (axes,) = _figure(1, 2, (7.0, 3.8))
    colours = [np.array([BLUE] * len(labels)), np.array(CLASS_COLOURS)[np.asarray(labels)]]
    dots = []
    for ax, name, colour in zip(axes, names, colours, strict=True):
        _plane(ax, limit=2.5)
        ax.set_title(name)
        dots.append(ax.scatter(*np.zeros((2, len(labels))), s=4, c=colour, linewidths=0))
    title = figure.suptitle(" ", fontsize=10, family="monospace")

    def draw(frame: int) -> None:
        for scatter, trajectory in zip(dots, paths, strict=True):
            scatter.set_offsets(np.asarray(trajectory[frame]))
        title.set_text(f"noise level σ = {sigmas[frame]:.3f}")

    draw(0)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # lay out once, so that nothing moves but the points
    order = [*range(len(sigmas)), *[len(sigmas) - 1] * 12]
    movie = FuncAnimation(figure, draw, frames=order, cache_frame_data=False)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "movie.gif"
        movie.save(file, PillowWriter(fps=12), dpi=100)
        write_atomically(path, file.read_bytes())


@_styled
def border_profiles(distance_bins, ratios: Mapping[str, np.ndarray], blurred) -> Figure:
    """C5: samples over uniform points by distance from the border of their rectangle.

    distance_bins (b + 1,), ratios {class: (b,)}; blurred (b,) is the ratio of uniform points that
    carry noise sigma(0), the best that sampling down to sigma(0) can reach.
    """
    figure, ((axes,),) = _figure(1, 1, (5.2, 3.1))
    middle = 0.5 * (np.asarray(distance_bins)[1:] + np.asarray(distance_bins)[:-1])
    for (name, ratio), colour in zip(ratios.items(), CLASS_COLOURS, strict=True):
        axes.plot(middle, ratio, color=colour, marker="o", ms=3, label=name)
    axes.plot(
        middle, blurred, color=BLACK, linestyle="--", linewidth=1, label="uniform + σ(0) noise"
    )
    axes.axhline(1, color=GREY, linestyle=":", linewidth=1)
    axes.set_ylim(0.5, 1.5)
    axes.set_xlabel("distance from the border of the class's rectangle")
    axes.set_ylabel("samples / uniform points")
    axes.set_title("No piling up at the borders")
    axes.legend(fontsize=8, ncols=3)
    axes.grid(color="#E6E6E6", linewidth=0.6)
    return figure


@_styled
def probabilities(data, data_labels, points, names: Sequence[str], rows: Sequence[str]) -> Figure:
    """C6: marked points over the data, with the rows of a table beside."""
    figure, ((axes, table),) = _figure(1, 2, (8.8, 3.4), width_ratios=(1, 1.5))
    _plane(axes, limit=float(max(1.25, np.abs(np.asarray(points)).max() * 1.2)))
    data, data_labels = np.asarray(data), np.asarray(data_labels)
    for k, colour in enumerate(CLASS_COLOURS):
        _dots(axes, data[data_labels == k], color=colour, s=3, alpha=0.45)
    seen: dict[tuple, list[str]] = {}
    for name, point in zip(names, np.asarray(points).tolist(), strict=True):
        seen.setdefault(tuple(point), []).append(name)
    for point, here in seen.items():
        _mark(axes, point, ", ".join(here), offset=(0, 5), ha="center", weight="bold")
    table.set_axis_off()
    table.text(
        0, 0.5, "\n".join(rows), family="monospace", fontsize=7.5, va="center", linespacing=1.6
    )
    return figure


@_styled
def density_maps(densities, names: Sequence[str], areas, integrals, extent: float) -> Figure:
    """C6: densities (k, m, m) on [-extent, extent]^2 times the area they should fill."""
    columns = (len(names) + 1) // 2
    figure, axes = _figure(2, columns, (2.5 * columns, 5.0))
    for ax, density, name, area, integral in zip(
        axes.flat, densities, names, areas, integrals, strict=False
    ):
        image = ax.imshow(
            area * np.asarray(density),
            origin="lower",
            extent=(-extent, extent, -extent, extent),
            cmap="cividis",
            vmin=0,
            vmax=1.3,
        )
        ax.set_title(f"{name}: integral {integral:.3f}", fontsize=8)
        ax.set_xticks([-1, 0, 1])
        ax.set_yticks([-1, 0, 1])
        ax.set_xlim(-1.5, 1.5)
        ax.set_ylim(-1.5, 1.5)
    for ax in axes.flat[len(names) :]:
        ax.set_axis_off()
    label = "density × area of the class (truth: 1 inside, 0 outside)"
    figure.colorbar(image, ax=axes, label=label, shrink=0.8, extend="max")
    return figure


@_styled
def steering(paths: Mapping[str, np.ndarray], target) -> Figure:
    """Bonus: each way to the target, in the plane and over time; paths (steps + 1, 2)."""
    figure, axes = _figure(2, len(paths), (2.4 * len(paths), 4.4), height_ratios=(1.4, 1))
    for (plane, time), (name, path) in zip(axes.T, paths.items(), strict=True):
        path = np.asarray(path)
        t = np.linspace(1, 0, len(path))
        _box(plane, [[-1, -1], [1, 1]], GREY)
        _timed_path(plane, path, t)
        plane.plot(*target, "*", color=VERMILLION, ms=10, zorder=4)
        plane.plot(*path[0], "x", color=BLACK, ms=6, zorder=4)
        everything = np.concatenate([path, [target], [[-1, -1], [1, 1]]])
        low, high = everything.min(axis=0), everything.max(axis=0)
        middle, half = (low + high) / 2, 0.56 * (high - low).max()
        plane.set_xlim(middle[0] - half, middle[0] + half)
        plane.set_ylim(middle[1] - half, middle[1] + half)
        plane.set_aspect("equal")
        plane.set_title(name, fontsize=8)
        plane.set_xlabel("x")
        for axis, colour, style in ((0, BLUE, "-"), (1, GREEN, "--")):
            time.plot(t, path[:, axis], color=colour, linestyle=style, linewidth=1.4)
            time.axhline(target[axis], color=colour, linestyle=":", linewidth=1)
        time.set_xlim(1, 0)
        time.set_xlabel("time t")
    axes[0, 0].set_ylabel("y   (× start, ★ target)")
    axes[1, 0].set_ylabel("x (blue), y (green)")
    return figure
