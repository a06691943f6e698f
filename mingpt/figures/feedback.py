"""The figures of learning from preferences."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import FuncFormatter, NullFormatter

from mingpt.figures.style import BLACK, BLUE, GREEN, LINES, ORANGE, STYLE, VERMILLION, new


@plt.rc_context(STYLE)
def gradient_estimates(estimators, limit):
    """estimators {name: (z (G,), measured (G,), exact (G,))} of G parameter groups: distance of
    the mean from the exact gradient in standard errors, and the variance; limit: of |z|."""
    figure, (left, right) = new(6.9, 2.9, 1, 2)
    for (name, (z, measured, exact)), style in zip(estimators.items(), LINES[1:], strict=False):
        groups = np.arange(1, len(z) + 1)
        left.plot(groups, z, label=name, lw=0, ms=4, **style)
        right.plot(groups, measured, label=f"{name}, measured", lw=0, ms=5, **style)
        right.plot(groups, exact, color=BLACK, lw=0.9, label=None)
    right.plot([], [], color=BLACK, lw=0.9, label="exact, by enumeration")
    for y in (-limit, limit):
        left.axhline(y, color=BLACK, lw=0.8, ls="--")
    left.set(title="Mean of the estimates less the exact gradient", xlabel="parameter group",
             ylabel="standard errors", ylim=(-1.5 * limit, 1.5 * limit))  # fmt: skip
    right.set(title="Variance of an estimate", xlabel="parameter group", yscale="log",
              ylabel="sum over the group's numbers")  # fmt: skip
    _plain(right)
    left.legend(ncols=2, loc="upper center")
    low, high = right.get_ylim()
    right.set_ylim(low, high * 30)
    right.legend(loc="upper right")
    return figure


def _plain(axis):
    """Ticks of a logarithmic axis as plain numbers."""
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())


@plt.rc_context(STYLE)
def closed_form(paths, frontier, ends, target):
    """paths {method: ((steps,), (steps,) total variation)}; frontier (kl, reward) of the exact
    best policies; ends {method: [(kl, reward)]}; target: the total variation to reach."""
    figure, (left, right) = new(6.9, 3, 1, 2)
    right.plot(*frontier, color=BLACK, lw=1.2, label="exact frontier")
    for (name, path), style, size in zip(paths.items(), LINES[1:], (11, 8, 5), strict=True):
        left.plot(*path, label=name, color=style["color"], lw=1.6)
        right.plot(*np.array(ends[name]).T, lw=0, label=name, ms=size, mew=1.4, mfc="none", **style)
    left.axhline(target, color=BLACK, lw=0.8, ls="--")
    left.text(0, target, "target", va="bottom")
    left.set(title="Distance from the best policy", xlabel="batch of sequences", yscale="log",
             ylabel="total variation")  # fmt: skip
    left.set_yticks([0.5, 0.2, 0.1, 0.05, 0.02, 0.01])
    _plain(left)
    left.legend()
    right.set(title="What the reward costs", xlabel="KL from the reference (nats a sequence)",
              ylabel="mean reward")  # fmt: skip
    right.legend(loc="lower right")
    return figure


@plt.rc_context(STYLE)
def reward_model(losses, validation, bayes, points, scores):
    """losses (U,) nats a comparison; validation pairs (update, loss); bayes: the loss of the
    judge's own reward there; points (P) and, for each, the scores (n,) of test texts."""
    figure, (left, right) = new(6.9, 2.9, 1, 2)
    left.plot(range(1, len(losses) + 1), losses, color=LINES[0]["color"], lw=0.9, label="training")
    left.plot(*np.array(validation).T, color=BLUE, marker="D", ms=4, lw=1.6, label="validation")
    left.axhline(bayes, color=BLACK, lw=1, ls="--", label="the judge's own reward")
    left.set(title="Learning from comparisons", xlabel="update", ylabel="nats a comparison")
    left.legend()
    violins = right.violinplot(scores, points, widths=0.8, showextrema=False)
    for body in violins["bodies"]:
        body.set(facecolor=GREEN, alpha=0.5)
    right.plot(points, [np.mean(s) for s in scores], color=GREEN, marker="o", lw=1.6)
    right.set(title="Learnt reward of fresh texts", xlabel="points by the judge's rule",
              ylabel="learnt reward (nats)", xticks=points)  # fmt: skip
    return figure


@plt.rc_context(STYLE)
def over_optimisation(runs):
    """runs {title: dict of updates, true, learnt, error, kl (W,), and parting, the index of the
    window with the highest true reward}: gains over the reference in windows of updates."""
    figure, (above, below) = new(
        6.9, 4.4, 2, len(runs), sharex="col", sharey="row", height_ratios=[2, 1]
    )
    for top, bottom, (title, run) in zip(above, below, runs.items(), strict=True):
        updates, true, error = (np.array(run[key]) for key in ("updates", "true", "error"))
        top.plot(updates, run["learnt"], color=ORANGE, marker="s", ms=4, label="learnt reward")
        top.plot(updates, true, color=BLUE, marker="D", ms=4, label="true reward, ± 2 SE")
        top.fill_between(updates, true - 2 * error, true + 2 * error, color=BLUE, alpha=0.2, lw=0)
        top.axhline(0, color=BLACK, lw=0.6)
        bottom.plot(updates, run["kl"], color=VERMILLION, marker="o", ms=4)
        for axis in (top, bottom):
            axis.axvline(updates[run["parting"]], color=BLACK, lw=0.9, ls=":",
                         label="true reward highest")  # fmt: skip
        top.set_title(title)
        bottom.set_xlabel("update")
    above[0].set_ylabel("gain (nats a sequence)")
    below[0].set_ylabel("KL (nats)")
    above[0].legend(loc="lower right")
    return figure
