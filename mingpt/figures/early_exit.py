"""The figures of leaving early."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import FuncFormatter, NullFormatter

from mingpt.figures.style import BLACK, BLUE, LINES, STYLE, VERMILLION, new


@plt.rc_context(STYLE)
def cascade(at_half, stops):
    """at_half {stage: {"probability", "simulated", "standard_error"}}; stops: rows by confidence
    with "confidence", "stages", "wrong" and the like simulated, with their standard errors."""
    figure, (left, middle, right) = new(6.9, 1.65, 1, 3)
    stages, rows = list(at_half), list(at_half.values())
    left.plot(stages, [r["probability"] for r in rows], color=BLUE, label="closed form")
    left.errorbar(stages, [r["simulated"] for r in rows],
                  [2 * r["standard_error"] for r in rows], fmt="o", ms=4, color=VERMILLION,
                  label="simulation, ± 2 SE")  # fmt: skip
    left.set(title="P(Y ≤ 0 | Y_k = 0.5)", xlabel="stage k", ylabel="probability", yscale="log",
             xticks=stages)  # fmt: skip
    left.legend()
    doubt = np.array([1 - s["confidence"] for s in stops])
    middle.plot(doubt, [s["stages"] for s in stops], color=BLUE)
    middle.errorbar(doubt, [s["stages_simulated"] for s in stops],
                    [2 * s["stages_standard_error"] for s in stops], fmt="o", ms=4,
                    color=VERMILLION)  # fmt: skip
    middle.set(title="Expected stages", ylabel="stages", ylim=(0, None))
    right.plot(doubt, [s["wrong"] for s in stops], color=BLUE)
    right.errorbar(doubt, [s["wrong_simulated"] for s in stops],
                   [2 * s["wrong_standard_error"] for s in stops], fmt="o", ms=4,
                   color=VERMILLION)  # fmt: skip
    right.plot(doubt, doubt, color=BLACK, ls="--", lw=1, label="allowed")
    right.set(title="Wrong signs", ylabel="probability", yscale="log")
    right.legend()
    left.yaxis.set_minor_formatter(NullFormatter())
    left.set_yticks([0.1, 0.2, 0.3], ["0.1", "0.2", "0.3"])
    right.yaxis.set_major_formatter(FuncFormatter(_power_of_ten))
    for axis in (middle, right):
        axis.set(xscale="log", xlabel="1 − confidence")
        axis.set_xticks([1e-1, 1e-3, 1e-5, 1e-7, 1e-9])
        axis.xaxis.set_major_formatter(FuncFormatter(_power_of_ten))
        axis.invert_xaxis()
    return figure


def _power_of_ten(value, _position):
    return f"1e{np.log10(value):.0f}".replace("-", "−")


@plt.rc_context(STYLE)
def exits(networks):
    """networks {name: rows with "blocks", "accuracy", "accuracy_standard_error",
    "bits_per_byte"}: all tokens answered after so many blocks."""
    figure, (left, right) = new(6.9, 1.5, 1, 2)
    for (name, rows), style in zip(networks.items(), LINES, strict=False):
        blocks = [r["blocks"] for r in rows]
        left.errorbar(blocks, [100 * r["accuracy"] for r in rows],
                      [100 * r["accuracy_standard_error"] for r in rows], label=name, lw=1.4,
                      ms=3.5, **style)  # fmt: skip
        right.plot(blocks, [r["bits_per_byte"] for r in rows], lw=1.4, ms=3.5, **style)
        for axis in (left, right):
            axis.set(xlabel="blocks", xticks=blocks)
    left.set(title="Accuracy, ± SE", ylabel="top-1 accuracy (%)", ylim=(0, None))
    right.set(title="Held-out text", ylabel="bits per byte")
    left.legend()
    return figure


@plt.rc_context(STYLE)
def thresholds(sweeps):
    """sweeps {name: rows by "threshold"}: accuracy, share that leaves early, MACs."""
    figure, axes = new(6.9, 1.65, 1, 3)
    for (name, rows), style in zip(sweeps.items(), LINES, strict=False):
        x = [r["threshold"] for r in rows]
        for axis, key in zip(axes[:2], ("accuracy", "share_early"), strict=True):
            axis.plot(x, [100 * r[key] for r in rows], label=name, lw=1.4, ms=3.5, **style)
        axes[2].plot(x, [r["macs_ratio_blocks"] for r in rows], lw=1.4, ms=3.5, **style)
        axes[2].plot(x, [r["macs_ratio"] for r in rows], lw=1.2, ls=":", color=style["color"])
    axes[0].set(title="Accuracy", ylabel="top-1 accuracy (%)", ylim=(0, None))
    axes[1].set(title="Tokens that leave early", ylabel="share (%)")
    axes[2].set(title="MACs", ylabel="of the full network", ylim=(0, None))
    axes[2].axhline(1, color=BLACK, lw=0.8, ls="--")
    axes[2].plot([], [], color=BLACK, label="blocks alone")
    axes[2].plot([], [], color=BLACK, ls=":", label="with heads")
    axes[0].legend()
    axes[2].legend()
    for axis in axes:
        axis.set_xlabel("threshold")
    return figure


@plt.rc_context(STYLE)
def agreement(sweeps):
    """sweeps as in `thresholds`: how often the early answer is the one of all blocks."""
    figure, (left, right) = new(6.9, 1.5, 1, 2)
    for (name, rows), style in zip(sweeps.items(), LINES, strict=False):
        some = [r for r in rows if r["agreement_early"] is not None]
        x = [r["threshold"] for r in some]
        left.plot(x, [100 * r["agreement_early"] for r in some], label=name, lw=1.4, ms=3.5,
                  **style)  # fmt: skip
        right.plot([100 * r["confidence_early"] for r in some],
                   [100 * r["accuracy_early"] for r in some], lw=1.4, ms=3.5, **style)  # fmt: skip
    left.set(title="Early answer = late answer", xlabel="threshold",
             ylabel="agreement (%)", ylim=(0, 103))  # fmt: skip
    right.plot([0, 100], [0, 100], color=BLACK, ls="--", lw=1, label="calibrated")
    right.set(title="Tokens that leave early", xlabel="mean top probability (%)",
              ylabel="top-1 accuracy (%)")  # fmt: skip
    left.legend(loc="lower right")
    right.legend()
    return figure


@plt.rc_context(STYLE)
def accuracy_by_macs(rows, networks):
    """rows by threshold with "accuracy" and "against" {count: {"macs", ...}}; networks: rows with
    "blocks", "accuracy", "macs_blocks_alone", "macs_with_heads"."""
    figure, axes = new(6.9, 1.8, 1, 2, sharey=True)
    for axis, (counted, title) in zip(
        axes, (("with_heads", "MACs with heads"), ("blocks_alone", "MACs of the blocks alone")),
        strict=True,
    ):  # fmt: skip
        x = [n[f"macs_{counted}"] / 1e6 for n in networks]
        axis.plot(x, [100 * n["accuracy"] for n in networks], label="networks of 1, 2, ... blocks",
                  lw=1.4, ms=4, **LINES[1])  # fmt: skip
        early = [(r["against"][counted]["macs"] / 1e6, 100 * r["accuracy"]) for r in rows]
        axis.plot(*zip(*early, strict=True), label="leaving early, by threshold", lw=1.4, ms=4,
                  **LINES[3])  # fmt: skip
        for row, place in zip(rows, early, strict=True):
            if round(100 * row["threshold"]) in (0, 20, 40, 60, 80, 100):
                axis.annotate(f"{row['threshold']:g}", place, xytext=(3, -11),
                              textcoords="offset points", fontsize=7, color=BLUE)  # fmt: skip
        axis.set(title=title, xlabel="million MACs a token")
        axis.margins(0.08)
    axes[0].set_ylabel("top-1 accuracy (%)")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure
