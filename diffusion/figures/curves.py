"""Curves: losses (U2), schedules (U5), and quality against steps (U4), start, cost and place (C5).

Each function returns a Figure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

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
    figure, axes = new_figure(1, len(curves), (3.4 * len(curves), 2.9))
    for ax, (name, (losses, height)) in zip(axes[0], curves.items(), strict=True):
        losses = np.asarray(losses)
        width, last = loss_curve(ax, losses, window)
        ax.axhline(height, color=BLACK, linestyle="--", linewidth=1)
        top = np.quantile(losses, 0.995)
        ax.set_ylim(losses.min() - 0.01, top + 0.8 * (top - losses.min()))
        ax.text(
            0.98,
            0.95,
            f"blue: mean of {width} epochs\npale: every epoch\n"
            f"dashed: {level} {height:.4f}\nlast {width} epochs: {last:.4f}",
            transform=ax.transAxes,
            ha="right",
            va="top",
            fontsize=8,
        )
        ax.set_xlabel("epoch (one full batch each)")
        ax.set_ylabel("loss per coordinate")
        ax.set_title(name)
    return figure


@styled
def steps_against_truth(steps, model, exact, floor: float, samples: int) -> Figure:
    """U4: TV10 of the model and of the exact score against T, and the floor of uniform points."""
    figure, ((axes,),) = new_figure(1, 1, (5.0, 3.1))
    axes.plot(steps, model, color=BLUE, marker="o", ms=3.5)
    axes.plot(steps, exact, color=BLACK, linestyle="--", linewidth=1.1)
    axes.axhline(floor, color=GREY, linestyle=":", linewidth=1.2)
    log_axes(axes, steps)
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


@styled
def schedules(t, sigmas: Mapping[str, np.ndarray], steps, errors: Mapping[str, tuple]) -> Figure:
    """U5: sigma(t) of each schedule, and TV10 of model and exact score against T."""
    figure, ((left, right),) = new_figure(1, 2, (7.4, 3.2))
    for (name, sigma), colour in zip(sigmas.items(), SERIES_COLOURS, strict=False):
        left.plot(t, sigma, color=colour, linewidth=1.4, marker="o", ms=2.5)
        model, exact = errors[name]
        right.plot(steps, model, color=colour, linewidth=1.4, marker="o", ms=3, label=name)
        right.plot(steps, exact, color=colour, linewidth=0.9, linestyle="--")
    left.set_yscale("log")
    left.set_xlabel("time t")
    left.set_ylabel("noise level σ(t)")
    left.set_title("Schedules, one dot per step at T = 20")
    log_axes(right, steps)
    right.set_ylim(0.025, 1)
    right.set_xlabel("sampling steps T")
    right.set_ylabel("TV10, distance from uniform")
    right.set_title("DDIM samples; dashed: exact score")
    right.legend(fontsize=8)
    left.grid(**GRID)
    return figure


@styled
def start_mismatch(levels, scores: Mapping[str, Sequence[float]], floor: float) -> Figure:
    """TV10 with the exact score against sigma(1), for each way to draw the start."""
    figure, ((axes,),) = new_figure(1, 1, (4.6, 2.9))
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
def border_profiles(distance_bins, ratios: Mapping[str, np.ndarray], blurred) -> Figure:
    """C5: samples over uniform points by distance from the border of their rectangle.

    distance_bins (b + 1,), ratios {class: (b,)}; blurred (b,) is the ratio of uniform points that
    carry noise sigma(0), the best that sampling down to sigma(0) can reach.
    """
    figure, ((axes,),) = new_figure(1, 1, (5.2, 3.1))
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
    axes.grid(**GRID)
    return figure


@styled
def quality_against_cost(evaluations, curves: Mapping[str, Sequence], floor, ylabel) -> Figure:
    """Quality of samples against network evaluations, a panel for each solver.

    curves: "solver, spacing" or "solver, spacing: exact score" -> one value per evaluations entry.
    """
    solvers = list(dict.fromkeys(name.split(", ")[0] for name in curves))
    spacings = list(dict.fromkeys(name.split(", ")[1].split(":")[0] for name in curves))
    figure, axes = new_figure(1, len(solvers), (2.5 * len(solvers), 3.0), sharey=True)
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
    axes[0, 0].legend(
        fontsize=7,
        title="dashed: exact score\ndotted: uniform points\nsteps even in",
        title_fontsize=7,
    )
    return figure
