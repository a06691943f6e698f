"""Pictures of points and their paths in the plane: questions U1, U3, U4, U6, C1, C3, C4, C6, bonus.

Each function returns a Figure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from textwrap import fill

import numpy as np
from matplotlib.figure import Figure

from diffusion.figures.style import (
    BLACK,
    BLUE,
    CLASS_COLOURS,
    GREEN,
    GREY,
    HALO,
    PURPLE,
    SKY,
    SQUARE,
    VERMILLION,
    WIDTH,
    Frame,
    Movie,
    box,
    dots,
    mark,
    new_figure,
    plane,
    styled,
    timed_path,
)


@styled
def forward_process(path, t, frame: Frame = SQUARE) -> Figure:
    """U1: one point's way from data to noise, (n, 2) and times (n,)."""
    figure, ((axes,),) = new_figure(1, 1, (3.0, 1.9))
    path = np.asarray(path)
    plane(axes, frame=frame)
    coloured = timed_path(axes, path, t)
    (least, most), margin = frame.corners, 0.3 * frame.half
    low, high = np.minimum(path.min(axis=0), least), np.maximum(path.max(axis=0), most)
    axes.set_xlim(low[0] - margin, high[0] + margin)
    axes.set_ylim(low[1] - margin, high[1] + 0.5 * frame.half)
    mark(axes, path[0], "t = 0", offset=(-14, 8))
    mark(axes, path[-1], "t = 1", offset=(-12, -16))
    if frame is SQUARE:
        axes.text(0, 0, "the data's square", color=GREY, fontsize=8, ha="center", va="center")
    beside = axes.inset_axes((1.04, 0, 0.05, 1))
    figure.colorbar(coloured, cax=beside, label="time t")
    where = "square" if frame is SQUARE else "data"
    axes.set_title(f"A point outside the {where}")
    return figure


@styled
def sample_grid(
    samples: Sequence,
    titles: Sequence[str],
    columns: int,
    note: str = "",
    frame: Frame = SQUARE,
    side: float = 1.0,
) -> Figure:
    """U3, U4: many samplings (n, 2) side by side, 1.45 times as wide as the frame, in inches."""
    rows, side = -(-len(samples) // columns), min(side, WIDTH / columns)
    height = (side + 0.1 * titles[0].count("\n")) * rows + 0.3 * bool(note)
    figure, axes = new_figure(rows, columns, (side * columns, height))
    for ax in axes.flat[len(samples) :]:
        ax.set_axis_off()
    for ax, points, title in zip(axes.flat, samples, titles, strict=False):
        plane(ax, limit=1.45, ticks=False, frame=frame)
        dots(ax, points, s=2)
        ax.set_title(title, fontsize=8)
    if note:
        figure.suptitle(note, fontsize=9)
    return figure


# Colour and shape of each start in U6, and of all that comes of it.
STARTS = tuple(zip((SKY, VERMILLION, GREEN, PURPLE), "osD^", strict=True))


@styled
def repeated_outputs(starts, outputs: Mapping[str, tuple], frame: Frame = SQUARE) -> Figure:
    """U6: ten outputs (10, k, 2) from the same k <= 4 starts (k, 2), with each solver's spread."""
    figure, axes = new_figure(1, len(outputs), (1.72 * len(outputs), 1.95))
    for ax, (name, (points, spread)) in zip(axes[0], outputs.items(), strict=True):
        plane(ax, limit=frame.reach(starts) * 1.15, ticks=False, frame=frame)
        for k, (start, (colour, shape)) in enumerate(zip(starts, STARTS, strict=False)):
            ax.plot(*np.asarray(start), "x", color=colour, ms=5, mew=1.5)
            ax.annotate(
                f"{k + 1}",
                np.asarray(start),
                xytext=(4, 4),
                textcoords="offset points",
                color=colour,
                fontsize=8,
                **HALO,
            )
            dots(ax, points[:, k], color=colour, marker=shape, s=14, alpha=0.8)
        ax.set_title(f"{name}\nspread {spread:.3g}", fontsize=8)
    axes[0, 0].set_ylabel("× start, filled: its ten outputs", fontsize=8)
    return figure


@styled
def trajectories(paths: Mapping[str, np.ndarray], t, frame: Frame = SQUARE) -> Figure:
    """U6: reverse trajectories (steps + 1, k, 2), k <= 4, of each solver; times t (steps + 1,)."""
    figure, axes = new_figure(1, len(paths), (2.4 * len(paths), 2.1), sharey=True)
    marks = [int(np.abs(np.asarray(t) - time).argmin()) for time in (0.8, 0.6, 0.4, 0.2)]
    for ax, (name, path) in zip(axes[0], paths.items(), strict=True):
        plane(ax, limit=frame.reach(*paths.values()) * 1.1, frame=frame)
        for k, (colour, shape) in zip(range(path.shape[1]), STARTS, strict=False):
            ax.plot(*path[:, k].T, color=colour, linewidth=1, alpha=0.7)
            ax.plot(*path[marks, k].T, "o", color=colour, ms=2.5)
            ax.plot(*path[0, k], "x", color=colour, ms=6, mew=1.5)
            ax.plot(*path[-1, k], shape, mfc=colour, mec=BLACK, ms=6, zorder=4)
            ax.annotate(
                f"{k + 1}",
                path[0, k],
                xytext=(4, 4),
                textcoords="offset points",
                color=colour,
                fontsize=9,
                zorder=5,
                **HALO,
            )
        ax.set_title(name)
    figure.supxlabel(
        "× start, t = 1; dots at t = 0.8, 0.6, 0.4, 0.2; filled: output, t = 0", size=8
    )
    return figure


@styled
def classes(points, labels, names: Sequence[str], rectangles, title: str) -> Figure:
    """C1, C4: points coloured by class, with the classes' rectangles."""
    figure, ((axes,),) = new_figure(1, 1, (2.25, 2.3))
    plane(axes)
    labels = np.asarray(labels)
    for k, name in enumerate(names):
        box(axes, rectangles[k], CLASS_COLOURS[k], linewidth=1.2)
        dots(axes, np.asarray(points)[labels == k], color=CLASS_COLOURS[k], s=4)
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


@styled
def class_trajectories(path, names: Sequence[str], rectangles, inside: Sequence[bool]) -> Figure:
    """C3: one trajectory (steps + 1, k, 2) per class, in its class's colour."""
    figure, ((axes,),) = new_figure(1, 1, (2.25, 2.3))
    path = np.asarray(path)
    plane(axes, limit=float(np.abs(path).max()) * 1.1)
    for k, name in enumerate(names):
        colour = CLASS_COLOURS[k]
        box(axes, rectangles[k], colour, fill=True, facecolor=colour, alpha=0.12)
        axes.plot(path[:, k, 0], path[:, k, 1], color=colour, linewidth=1.3)
        axes.plot(*path[0, k], "x", color=colour, ms=6, mew=1.5)
        axes.plot(*path[-1, k], "o", mfc=colour, mec=BLACK, ms=6, zorder=4)
        axes.annotate(
            f"{name} ✓" if inside[k] else f"{name}, outside",
            path[0, k],
            xytext=(5, 5),
            textcoords="offset points",
            color=colour,
            fontsize=8,
            zorder=5,
            **HALO,
        )
    axes.set_title("× noise, ● output; ✓ in its class", fontsize=8)
    return figure


@styled
def reverse_process(
    paths, labels, names: Sequence[str], sigmas, frame: Frame = SQUARE, colours=CLASS_COLOURS
) -> Movie:
    """The reverse process as a movie: one picture per noise level, the last one held.

    paths: trajectories (pictures, n, 2), of the unconditional model and, with classes, the
    conditional one. labels: (n,) classes of the second, each with its colour in `colours`.
    sigmas: (pictures,) noise levels.
    """
    figure, (axes,) = new_figure(1, len(paths), (3.5 * len(paths), 3.8))
    n = len(paths[0][0])
    by_model = [np.array([BLUE] * n)]
    if len(paths) > 1:
        by_model.append(np.array(colours)[np.asarray(labels)])
    scatters = []
    for ax, name, colour in zip(axes, names, by_model, strict=True):
        plane(ax, limit=2.5, frame=frame)
        ax.set_title(name)
        scatters.append(ax.scatter(*np.zeros((2, n)), s=4, c=colour, linewidths=0))
    title = figure.suptitle(" ", fontsize=10, family="monospace")
    decimals = max(0, 3 - math.floor(math.log10(frame.half)))

    def draw(number: int) -> None:
        for scatter, trajectory in zip(scatters, paths, strict=True):
            scatter.set_offsets(np.asarray(trajectory[number]))
        title.set_text(f"noise level σ = {sigmas[number]:.{decimals}f}")

    draw(0)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # lay out once, so that nothing moves but the points
    return Movie(figure, (*scatters, title), draw, range(len(sigmas)), hold=1.0)


@styled
def probabilities(data, data_labels, points, names: Sequence[str]) -> Figure:
    """C6: marked points (k, 2) over the data (n, 2), which have their classes' colours."""
    figure, ((axes,),) = new_figure(1, 1, (2.5, 2.4))
    plane(axes, limit=float(max(1.25, np.abs(np.asarray(points)).max() * 1.2)))
    data, data_labels = np.asarray(data), np.asarray(data_labels)
    for k, colour in enumerate(CLASS_COLOURS):
        dots(axes, data[data_labels == k], color=colour, s=3, alpha=0.45)
    seen: dict[tuple, list[str]] = {}
    for name, point in zip(names, np.asarray(points).tolist(), strict=True):
        seen.setdefault(tuple(point), []).append(name)
    for point, here in seen.items():
        mark(axes, point, ", ".join(here), offset=(0, 5), ha="center", weight="bold")
    return figure


@styled
def density_maps(densities, names: Sequence[str], areas, integrals, extent: float) -> Figure:
    """C6: densities (k, m, m) on [-extent, extent]^2 times the area they should fill."""
    columns = (len(names) + 1) // 2
    figure, axes = new_figure(2, columns, (1.53 * columns, 3.1))
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


@styled
def steering(paths: Mapping[str, np.ndarray], target, frame: Frame = SQUARE) -> Figure:
    """Bonus: each way to the target, in the plane and over time; paths (steps + 1, 2)."""
    figure, axes = new_figure(2, len(paths), (1.38 * len(paths), 3.0), height_ratios=(1.4, 1))
    for (place, time), (name, path) in zip(axes.T, paths.items(), strict=True):
        path = np.asarray(path)
        t = np.linspace(1, 0, len(path))
        frame.draw(place)
        timed_path(place, path, t)
        place.plot(*target, "*", color=VERMILLION, ms=10, zorder=4)
        place.plot(*path[0], "x", color=BLACK, ms=6, zorder=4)
        everything = np.concatenate([path, [target], frame.corners])
        low, high = everything.min(axis=0), everything.max(axis=0)
        middle, half = (low + high) / 2, 0.56 * (high - low).max()
        place.set_xlim(middle[0] - half, middle[0] + half)
        place.set_ylim(middle[1] - half, middle[1] + half)
        place.set_aspect("equal")
        place.set_title("\n".join(fill(line, 19) for line in name.split("\n")), fontsize=8)
        place.set_xlabel("x")
        for axis, colour, style in ((0, BLUE, "-"), (1, GREEN, "--")):
            time.plot(t, path[:, axis], color=colour, linestyle=style, linewidth=1.4)
            time.axhline(target[axis], color=colour, linestyle=":", linewidth=1)
        time.set_xlim(1, 0)
        time.set_xlabel("time t")
    axes[0, 0].set_ylabel("y   (× start, ★ target)")
    axes[1, 0].set_ylabel("x (blue), y (green)")
    return figure
