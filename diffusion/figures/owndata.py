"""Pictures of points from a file: any number of classes, any scale, distances to held-out points.

Each function returns a Figure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from diffusion.figures.style import (
    BLACK,
    BLUE,
    GREY,
    GRID,
    HALO,
    SERIES_COLOURS,
    Frame,
    dots,
    mark,
    new_figure,
    plane,
    styled,
)

MARKERS = ("o", "^", "s", "P")  # tell classes apart that share a colour


def class_colours(count: int) -> tuple[str, ...]:
    """A colour for each class; from the seventh class on they repeat, with another marker."""
    return tuple(SERIES_COLOURS[k % len(SERIES_COLOURS)] for k in range(count))


def _class_style(k: int) -> dict:
    colours = len(SERIES_COLOURS)
    return {
        "color": SERIES_COLOURS[k % colours],
        "marker": MARKERS[k // colours % len(MARKERS)],
    }


def _legend(figure: Figure, axes: Axes) -> None:
    entries = axes.get_legend_handles_labels()
    columns = -(-len(entries[0]) // 12)
    figure.legend(
        *entries, loc="outside right center", ncols=columns, fontsize=8, title="class",
        markerscale=2.5,
    )  # fmt: skip


@styled
def classes(points, labels, names: Sequence[str], title: str, frame: Frame) -> Figure:
    """C1, C4: points (n, 2) by class."""
    figure, ((axes,),) = new_figure(1, 1, (5.4, 4.4))
    points, labels = np.asarray(points), np.asarray(labels)
    plane(axes, limit=max(1.15, 1.05 * frame.reach(points)), frame=frame)
    for k, name in enumerate(names):
        dots(axes, points[labels == k], s=6, label=name, **_class_style(k))
    axes.set_title(title)
    _legend(figure, axes)
    return figure


@styled
def class_trajectories(path, names: Sequence[str], own: Sequence[bool], frame: Frame) -> Figure:
    """C3: one trajectory (steps + 1, k, 2) per class; own: which end at their own class."""
    figure, ((axes,),) = new_figure(1, 1, (5.4, 4.4))
    path = np.asarray(path)
    plane(axes, limit=frame.reach(path) * 1.1, frame=frame)
    for k, (name, arrived) in enumerate(zip(names, own, strict=True)):
        style = _class_style(k)
        axes.plot(path[:, k, 0], path[:, k, 1], color=style["color"], linewidth=1.1)
        axes.plot(*path[0, k], "x", color=style["color"], ms=5, mew=1.3)
        label = f"{name} ✓" if arrived else f"{name}, elsewhere"
        axes.plot(*path[-1, k], mec=BLACK, ms=6, linestyle="none", zorder=4, label=label, **style)
    axes.set_title("One point of each class: × noise, filled: output\n✓ ends at its class's points")
    entries = axes.get_legend_handles_labels()
    figure.legend(
        *entries, loc="outside right center", ncols=-(-len(names) // 12), fontsize=8, title="class"
    )
    return figure


MEASURES = {  # name in the results -> axis label, and the name of what true points reach
    "energy_distance": (
        "energy distance to held-out points\n(units of the data)",
        "energy_distance_of_training_points",
    ),
    "w2_ratio": ("W2 to held-out points\n(1: that of training points)", None),
}


def _against_steps(axes: Axes, measure: str, counts: Sequence[int], truth: Mapping) -> None:
    """What the axes of a measure against T have in common."""
    label, name_of_truth = MEASURES[measure]
    reached = 1.0 if name_of_truth is None else truth[name_of_truth]
    axes.axhline(reached, color=GREY, linestyle=":", linewidth=1.2, label="training points")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(**GRID)
    axes.set_xlabel("sampling steps T")
    axes.set_ylabel(label)


@styled
def steps(counts: Sequence[int], found: Mapping, truth: Mapping, title: str) -> Figure:
    """U4: the distances in MEASURES against T, found (one a T), and those of true points."""
    figure, (row,) = new_figure(1, 2, (7.6, 3.1))
    for axes, measure in zip(row, MEASURES, strict=True):
        values = np.array(found[measure], dtype=float)
        axes.plot(counts, values, color=BLUE, marker="o", ms=3.5, label="samples")
        _against_steps(axes, measure, counts, truth)
        axes.set_title(title)
    row[0].legend(fontsize=8)
    return figure


@styled
def schedules(
    t, sigmas: Mapping[str, np.ndarray], counts, found: Mapping[str, Mapping], truth: Mapping
) -> Figure:
    """U5: sigma(t) of each schedule, and the distances of its samples against T."""
    figure, ((left, *others),) = new_figure(1, 3, (10.4, 3.9))
    for (name, sigma), colour in zip(sigmas.items(), SERIES_COLOURS, strict=False):
        left.plot(t, sigma, color=colour, linewidth=1.4, marker="o", ms=2.5)
        for axes, measure in zip(others, MEASURES, strict=True):
            values = np.array(found[name][measure], dtype=float)
            axes.plot(counts, values, color=colour, linewidth=1.4, marker="o", ms=3, label=name)
    for axes, measure in zip(others, MEASURES, strict=True):
        _against_steps(axes, measure, counts, truth)
        axes.set_title("DDIM samples")
    figure.legend(
        *others[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=8
    )
    left.set_yscale("log")
    left.set_xlabel("time t")
    left.set_ylabel("noise level σ(t)\n(units of the data)")
    left.set_title("dots: the steps of T = 20")
    left.grid(**GRID)
    return figure


@styled
def probabilities(table: Sequence[tuple[str, Mapping]], frame: Frame) -> Figure:
    """C6: marked points over the data, with the estimates of log p beside.

    table: for each point its name, and its "location", "class" (or None) and three estimates.
    """
    figure, ((axes, beside),) = new_figure(1, 2, (8.8, 3.4), width_ratios=(1, 1.5))
    seen: dict[tuple, set[str]] = {}
    for name, found in table:
        seen.setdefault(tuple(found["location"]), set()).add(name)
    plane(axes, limit=max(1.25, 1.2 * frame.reach(*seen)), frame=frame)
    for point, here in seen.items():
        mark(axes, point, ", ".join(sorted(here)), offset=(0, 5), ha="center", weight="bold")
    rows = [f"{'log-probability, nats':<33}{'class':<7}  Eq. 9 (± s.e.)  full bound    density"]
    for name, found in table:
        x, y = found["location"]
        given = "none" if found["class"] is None else found["class"]
        rows.append(
            f"{f'{name} ({x:.4g}, {y:.4g})':<33}{given[:6]:<7}"
            f"{found['eq9_nats']:>8.2f} ±{found['eq9_standard_error_nats']:<6.2f}"
            f"{found['bound_nats']:>11.2f}{found['log_density_nats']:>11.2f}"
        )
    beside.set_axis_off()
    beside.text(0, 0.5, "\n".join(rows), family="monospace", fontsize=7, va="center",
                linespacing=1.6)  # fmt: skip
    return figure


@styled
def density_maps(densities, names: Sequence[str], integrals, extent) -> Figure:
    """C6: log-densities (k, m, m) on the extent (left, right, bottom, top), 10 nats shown of each.

    They are drawn relative to the largest one of the panel.
    """
    columns = min(4, len(names))
    rows = -(-len(names) // columns)
    figure, axes = new_figure(rows, columns, (max(4.2, 2.4 * columns), 2.7 * rows + 0.3))
    for ax, density, name, integral in zip(axes.flat, densities, names, integrals, strict=False):
        density = np.asarray(density)
        image = ax.imshow(
            density - density.max(),
            origin="lower",
            extent=extent,
            cmap="cividis",
            vmin=-10,
            vmax=0,
        )
        ax.set_title(f"{name}\nintegral {integral:.3f}", fontsize=8, **HALO)
        ax.tick_params(labelsize=7)
    for ax in axes.flat[len(names) :]:
        ax.set_axis_off()
    label = "log-density below its maximum, nats"
    figure.colorbar(image, ax=axes, label=label, shrink=0.9, extend="min")
    return figure
