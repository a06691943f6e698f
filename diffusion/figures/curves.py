"""Curves: losses (U2), schedules (U5), and quality against steps (U4), start, cost and place (C5).

Each function returns a Figure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from diffusion.figures.style import (
    BLACK,
    BLUE,
    CLASS_COLOURS,
    GREY,
    GRID,
    SERIES_COLOURS,
    VERMILLION,
    log_axes,
    loss_curve,
    new_figure,
    styled,
)

SOLVER_NAMES = {
    "ddim": "DDIM",
    "ddpm": "DDPM, λ = 1",
    "heun": "Heun",
    "heun+churn": "Heun, churn 0.1",
    "dpm++": "DPM-Solver++(2M)",
}


@styled
def training_loss(curves: Mapping[str, tuple], window: int, level: str = "Bayes loss") -> Figure:
    """U2: for each model (losses (epochs,), a level), raw and averaged over `window` epochs.

    level: what the level of both models is called.
    """
    figure, axes = new_figure(1, len(curves), (3.45 * len(curves), 1.55))
    for ax, (name, (losses, height)) in zip(axes[0], curves.items(), strict=True):
        losses = np.asarray(losses)
        width, last = loss_curve(ax, losses, window)
        ax.axhline(height, color=BLACK, linestyle="--", linewidth=1)
        top = np.quantile(losses, 0.995)
        ax.set_ylim(losses.min() - 0.01, top + 0.2 * (top - losses.min()))
        ax.set_xlabel("epoch (one full batch each)")
        ax.set_ylabel("loss per coordinate")
        ax.set_title(
            f"{name}: mean of last {width} epochs {last:.4f}, {level} {height:.4f}", fontsize=8
        )
    return figure


@styled
def steps_against_truth(
    steps, tv10: Mapping[str, Sequence[float]], floor: float, samples: int
) -> Figure:
    """U4: TV10 against T, a line for each of tv10 (of the first so many steps), and the floor."""
    figure, ((axes,),) = new_figure(1, 1, (3.2, 2.1))
    styles = (
        {"color": BLUE, "marker": "o", "ms": 3.5},
        {"color": BLACK, "linestyle": "--", "linewidth": 1.1},
        {"color": VERMILLION, "marker": "s", "ms": 3, "linewidth": 1.1},
        {"color": VERMILLION, "marker": "s", "ms": 3, "linewidth": 1.1, "linestyle": ":",
         "mfc": "white"},
    )  # fmt: skip
    for (name, values), style in zip(tv10.items(), styles, strict=True):
        axes.plot(steps[: len(values)], values, label=name, **style)
    axes.axhline(floor, color=GREY, linestyle=":", linewidth=1.2, label="truly uniform points")
    log_axes(axes, steps)
    axes.set_ylim(0.8 * floor, 2)
    axes.set_xlabel("sampling steps T")
    axes.set_ylabel("TV10")
    axes.set_title(f"DDIM, {samples:,} samples")
    axes.legend(fontsize=7, borderpad=0, labelspacing=0.25, loc="upper right")
    return figure


@styled
def schedules(t, sigmas: Mapping[str, np.ndarray], steps, scores: Mapping[str, Mapping]) -> Figure:
    """U5: sigma(t) of each schedule, and for each formula of a step TV10 against T.

    scores: schedule -> formula -> "model" and "exact score" -> measure -> values by steps.
    """
    formulas = list(next(iter(scores.values())))
    figure, ((left, *others),) = new_figure(1, 1 + len(formulas), (6.9, 2.2))
    for (name, sigma), colour in zip(sigmas.items(), SERIES_COLOURS, strict=False):
        left.plot(t, sigma, color=colour, linewidth=1.4, marker="o", ms=2.5, label=name)
        for axes, formula in zip(others, formulas, strict=True):
            found = scores[name][formula]
            model, exact = found["model"]["tv10"], found["exact score"]["tv10"]
            axes.plot(steps, model, color=colour, linewidth=1.4, marker="o", ms=3)
            axes.plot(steps, exact, color=colour, linewidth=0.9, linestyle="--")
    left.set_yscale("log")
    left.set_xlabel("time t")
    left.set_ylabel("noise level σ(t)")
    left.set_title("one dot per step at T = 20")
    others[0].legend(*left.get_legend_handles_labels(), loc="upper right", fontsize=7.5)
    left.grid(**GRID)
    for axes, formula in zip(others, formulas, strict=True):
        log_axes(axes, steps)
        axes.set_ylim(0.025, 1)
        axes.set_xlabel("sampling steps T")
        axes.set_title(f"steps of {formula}")
    others[0].set_ylabel("TV10 (dashed: exact score)")
    return figure


@styled
def start_mismatch(levels, scores: Mapping[str, Sequence[float]], floor: float) -> Figure:
    """TV10 with the exact score against sigma(1), for each way to draw the start."""
    figure, ((axes,),) = new_figure(1, 1, (3.2, 2.1))
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
    log_axes(axes, levels)
    axes.set_ylim(0.8 * floor, 1.4 * max(map(max, scores.values())))
    axes.set_xlabel("largest noise level σ(1)")
    axes.set_ylabel("TV10, distance from uniform")
    axes.set_title("Exact score: what is left is the start")
    return figure


@styled
def border_profiles(distance_bins, profiles: Mapping[str, tuple]) -> Figure:
    """C5: samples over uniform points by distance from the border of their rectangle.

    distance_bins (b + 1,); profiles {class: ((b,) of the model, (b,) of the exact score)}.
    """
    figure, ((left, right),) = new_figure(1, 2, (6.9, 2.0))
    middle = 0.5 * (np.asarray(distance_bins)[1:] + np.asarray(distance_bins)[:-1])
    for (name, (model, exact)), colour in zip(profiles.items(), CLASS_COLOURS, strict=True):
        model, exact = np.asarray(model), np.asarray(exact)
        left.plot(middle, model, color=colour, marker="o", ms=3, label=name)
        left.plot(middle, exact, color=colour, linestyle="--", linewidth=0.9)
        right.plot(middle, model / exact, color=colour, marker="o", ms=3)
    left.set_ylabel("samples / uniform points")
    left.set_title("Model; dashed: exact score, same solver")
    right.set_ylabel("model / exact score")
    right.set_title("What is the model's own")
    left.legend(fontsize=7, ncols=3, labelspacing=0.25)
    for axes in (left, right):
        axes.axhline(1, color=GREY, linestyle=":", linewidth=1)
        axes.set_xlabel("distance from the border")
        axes.grid(**GRID)
    return figure


@styled
def borders_of_seeds(distance_bins, profiles: Mapping[str, Sequence]) -> Figure:
    """C5: samples of the model over those of the exact score, mean and spread of training seeds.

    distance_bins (b + 1,); profiles {class: (seeds, b)}; the bars are standard deviations.
    """
    figure, ((axes,),) = new_figure(1, 1, (3.4, 2.2))
    middle = 0.5 * (np.asarray(distance_bins)[1:] + np.asarray(distance_bins)[:-1])
    for k, (name, ratios) in enumerate(profiles.items()):
        ratios = np.asarray(ratios)
        axes.errorbar(
            middle + 0.002 * (k - 2),
            ratios.mean(axis=0),
            ratios.std(axis=0, ddof=1),
            color=CLASS_COLOURS[k],
            marker="o",
            ms=3,
            linewidth=1,
            capsize=2,
            label=name,
        )
    axes.axhline(1, color=GREY, linestyle=":", linewidth=1)
    axes.set_xlabel("distance from the border")
    axes.set_ylabel("model / exact score")
    axes.legend(ncols=3)
    axes.grid(**GRID)
    return figure


@styled
def quality_against_cost(evaluations, curves: Mapping[str, Sequence], floor, ylabel) -> Figure:
    """Quality of samples against network evaluations, a panel for each solver.

    curves: "solver, spacing" or "solver, spacing: exact score" -> one value per evaluations entry.
    """
    solvers = list(dict.fromkeys(name.split(", ")[0] for name in curves))
    spacings = list(dict.fromkeys(name.split(", ")[1].split(":")[0] for name in curves))
    figure, axes = new_figure(1, len(solvers), (1.38 * len(solvers), 2.5), sharey=True)
    for ax, solver in zip(axes[0], solvers, strict=True):
        for spacing, colour in zip(spacings, SERIES_COLOURS, strict=False):
            name = f"{solver}, {spacing}"
            ax.plot(evaluations, curves[name], color=colour, marker="o", ms=3, label=spacing)
            if f"{name}: exact score" in curves:
                exact = curves[f"{name}: exact score"]
                ax.plot(evaluations, exact, color=colour, linestyle="--", linewidth=0.9)
        ax.axhline(floor, color=GREY, linestyle=":")
        log_axes(ax, evaluations)
        ax.set_xlabel("network evaluations")
        ax.set_ylim(0.85 * floor, 1.2 * max(map(max, curves.values())))
        ax.set_title(SOLVER_NAMES[solver])
    axes[0, 0].set_ylabel(ylabel)
    figure.legend(
        *axes[0, 0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=len(spacings),
        title="steps even in (dashed: exact score; dotted: uniform points)",
    )
    return figure


@styled
def learning(rows: Mapping[str, Mapping[str, float]], used: int) -> Figure:
    """Excess risk and TV10 against the number of training points: means and standard errors.

    rows: by number of points; used: how many the exercise's models have.
    """
    figure, axes = new_figure(1, 2, (5.8, 2.1))
    sizes = [int(size) for size in rows]
    shown = (("excess_risk", "excess risk, 0.0001s", 1e4), ("tv10", "TV10 of 500,000 samples", 1))
    for ax, (name, label, factor) in zip(axes[0], shown, strict=True):
        means = [factor * row[name] for row in rows.values()]
        errors = [factor * row[f"{name}_standard_error"] for row in rows.values()]
        ax.errorbar(sizes, means, errors, color=BLUE, marker="o", ms=3.5, capsize=2.5)
        ax.axvline(used, color=GREY, linestyle=":", linewidth=1)
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.set_xlabel("training points")
        ax.set_ylabel(label)
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_locator(NullLocator())
        ax.grid(**GRID)
    return figure
