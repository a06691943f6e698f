"""The figures of prompting: shares with their standard errors, in per cent."""

import matplotlib.pyplot as plt
import numpy as np

from mingpt.figures.style import (
    BLACK,
    BLUE,
    GREEN,
    ORANGE,
    SKY,
    STYLE,
    VERMILLION,
    new,
)  # fmt: skip

KIND_COLOURS = {"right": BLUE, "wrong choice": ORANGE, "invalid": VERMILLION}
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<")
COLOURS = (SKY, ORANGE, GREEN, BLUE, VERMILLION, BLACK)


def _values(shares):
    """Values and standard errors of shares, dicts, in per cent."""
    shares = list(shares)
    return (100 * np.array([share[key] for share in shares])
            for key in ("value", "standard_error"))  # fmt: skip


def _curve(axis, x, shares, label, number, **style):
    values, errors = _values(shares)
    axis.errorbar(
        x, values, errors, label=label, capsize=2,
        **{"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)],
           "lw": 1.4, "ms": 4} | style,
    )  # fmt: skip


def _per_cent(axis, title, xlabel="", ylabel="right answers (%)"):
    axis.set(title=title, xlabel=xlabel, ylabel=ylabel, ylim=(-3, 103))
    axis.grid(axis="y", alpha=0.3)


@plt.rc_context(STYLE)
def shots(accuracy, mean, best):
    """accuracy {task: {shots: share}}; mean {shots: share} of the trained tasks; best: the values
    of both that are possible, "accuracy" (of the trained tasks) and "mean_of_trained_tasks"."""
    figure, (left, right) = new(6.9, 2.4, 1, 2, sharey=True)
    x = range(len(mean))
    for number, (name, shares) in enumerate(accuracy.items()):
        axis = left if name in best["accuracy"] else right
        _curve(axis, x, shares.values(), name, number, color=COLOURS[number % 5])
    _curve(left, x, mean.values(), "mean", 5, marker="None", lw=3, color=BLACK)
    _best(left, x, best["mean_of_trained_tasks"], label="best possible mean")
    for axis, title in ((left, "Trained tasks"), (right, "Rare (plural) and unseen (double)")):
        axis.set_xticks(x, list(mean))
        _per_cent(axis, title, "examples in the prompt")
    right.set_ylabel("")
    figure.legend(loc="outside lower center", ncols=5)
    return figure


def _best(axis, x, shares, label="best possible"):
    """A line of the best possible shares {shots: value}."""
    values = [100 * share["value"] for share in shares.values()]
    axis.plot(x, values, color=BLACK, ls="--", lw=1, label=label)


@plt.rc_context(STYLE)
def strategies(kinds):
    """kinds {strategy: {task: {kind of reply: share}}}: stacked bars, an axis a strategy."""
    figure, axes = new(6.9, 2.0, 1, len(kinds), sharey=True)
    for axis, (strategy, by_task) in zip(axes, kinds.items(), strict=True):
        rows = np.arange(len(by_task))[::-1]
        start = np.zeros(len(by_task))
        for kind, colour in KIND_COLOURS.items():
            width = np.array([100 * shares[kind]["value"] for shares in by_task.values()])
            label = "invalid output" if kind == "invalid" else kind
            axis.barh(rows, width, left=start, color=colour, label=label, height=0.75)
            start += width
        axis.set_yticks(rows, list(by_task))
        axis.set(title=strategy, xlim=(0, 100))
    axes[len(axes) // 2].set_xlabel("replies (%)")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


@plt.rc_context(STYLE)
def temperature(found):
    """found {temperature: entropy_bits_per_token, its error, accuracy, same_answer_twice}."""
    figure, (left, right) = new(6.2, 1.9, 1, 2)
    x = [float(t) for t in found]
    left.errorbar(
        x, [row["entropy_bits_per_token"] for row in found.values()],
        [row["standard_error_of_entropy"] for row in found.values()],
        color=BLUE, marker="o", capsize=2, lw=1.6,
    )  # fmt: skip
    left.set(title="Entropy of a token", xlabel="temperature", ylabel="bits")
    left.grid(axis="y", alpha=0.3)
    _curve(right, x, [row["accuracy"] for row in found.values()], "right", 3)
    _curve(right, x, [row["same_answer_twice"] for row in found.values()], "same answer twice", 4,
           ls="--")  # fmt: skip
    _per_cent(right, "Answers", "temperature", "replies (%)")
    right.legend()
    return figure


@plt.rc_context(STYLE)
def sizes(found, best):
    """found {size: parameters, accuracy {task: {shots: share}}, mean_of_trained_tasks}; best
    {shots: value}, the best possible mean."""
    figure, (left, right) = new(6.9, 1.65, 1, 2, width_ratios=[1, 1.6])
    tasks = list(next(iter(found.values()))["accuracy"])
    width = 0.8 / len(found)
    for number, (size, row) in enumerate(found.items()):
        label = f"{size} ({row['parameters'] / 1e6:.2f} M)"
        shots_given = row["mean_of_trained_tasks"]
        wrong = ({**share, "value": 1 - share["value"]} for share in shots_given.values())
        _curve(left, range(len(shots_given)), wrong, label, number)
        values, errors = _values(by_shots["8"] for by_shots in row["accuracy"].values())
        x = np.arange(len(tasks)) + (number - (len(found) - 1) / 2) * width
        right.bar(x, values, width, yerr=errors, color=COLOURS[number], label=label, capsize=2)
    wrong = {key: {"value": 1 - share["value"]} for key, share in best.items()}
    _best(left, range(len(best)), wrong)
    left.set_xticks(range(len(shots_given)), list(shots_given))
    left.set(title="Mean of the trained tasks", xlabel="examples in the prompt", yscale="log",
             ylabel="wrong answers (%)")  # fmt: skip
    left.yaxis.set_major_formatter("{x:g}")
    left.grid(axis="y", alpha=0.3)
    _per_cent(right, "Every task, 8 examples")
    right.set_xticks(range(len(tasks)), tasks, rotation=30, ha="right")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


@plt.rc_context(STYLE)
def labels(found):
    """found {task: shares "right", "random", "none", and chance}."""
    figure, axis = new(6.4, 2.0)
    width = 0.26
    for number, (key, label, colour) in enumerate((
        ("right", "8 examples, right answers", BLUE),
        ("random", "8 examples, random answers", ORANGE), ("none", "no example", SKY),
    )):  # fmt: skip
        values, errors = _values(row[key] for row in found.values())
        x = np.arange(len(found)) + (number - 1) * width
        axis.bar(x, values, width, yerr=errors, color=colour, label=label, capsize=2)
    for x, row in enumerate(found.values()):
        if row["chance"]:
            axis.hlines(100 * row["chance"], x - 0.42, x + 0.42, color=BLACK, ls="--", lw=1)
    axis.set_xticks(range(len(found)), list(found))
    _per_cent(axis, "Do the examples' answers have to be right? (dashed: a guess among the labels)")
    figure.legend(loc="outside lower center", ncols=3)
    return figure


@plt.rc_context(STYLE)
def confidence(found):
    """found {strategy: auroc, reliability [{confidence, accuracy}], ...}, "all" the last."""
    figure, axis = new(3.5, 2.15)
    axis.plot([0, 100], [0, 100], color=BLACK, lw=0.8, ls=":")
    for number, (strategy, row) in enumerate(found.items()):
        bins = row["reliability"]
        style = {"color": BLACK, "lw": 3, "marker": "None"} if strategy == "all" else {}
        auroc = "" if row["auroc"] is None else f" ({row['auroc']:.2f})"
        _curve(axis, [100 * b["confidence"] for b in bins], [b["accuracy"] for b in bins],
               strategy + auroc, number, **style)  # fmt: skip
    _per_cent(axis, "Reliability (AUROC in brackets)", "probability of the reply (%)")
    figure.legend(loc="outside lower center", ncols=2)
    return figure


@plt.rc_context(STYLE)
def digits(frequencies, pairs, fair):
    """frequencies (10) and pairs (10, 10) of the model's digits; fair: a fair source's numbers."""
    figure, (left, right) = new(6.2, 2.0, 1, 2, width_ratios=[1.3, 1])
    left.bar(range(10), 100 * np.array(frequencies), color=BLUE, label="model")
    left.axhline(10, color=BLACK, lw=1, ls="--", label="fair")
    left.set_xticks(range(10))
    left.set(title="Frequency of the digits", xlabel="digit", ylabel="%")
    left.set_ylim(0, 1.3 * max(10, 100 * max(frequencies)))
    left.legend(ncols=2, loc="upper right")
    shown = 100 * np.array(pairs)
    image = right.imshow(shown, cmap="cividis", vmin=0, vmax=max(2, shown.max()))
    right.set_xticks(range(10))
    right.set_yticks(range(10))
    right.set(title="Pairs of neighbours (%; fair: 1)", xlabel="next digit", ylabel="digit")
    right.spines[:].set_visible(False)
    figure.colorbar(image, ax=right)
    return figure


@plt.rc_context(STYLE)
def soft_prompts(*found):
    """found, of two tasks: soft {length: accuracy, losses}, hard, finetuned (see the study)."""
    figure, axes = new(6.9, 1.8, 1, 3, width_ratios=[1, 1.1, 1.1])
    for number, (length, prompt) in enumerate(found[0]["soft"].items()):
        losses = np.array(prompt["losses"])
        window = max(1, len(losses) // 20)
        smooth = np.convolve(losses, np.ones(window) / window, mode="valid")
        axes[0].plot(np.arange(len(smooth)) + window, smooth, label=length, lw=1.6,
                     color=COLOURS[number % len(COLOURS)])  # fmt: skip
    axes[0].set(title="Learning a soft prompt for plural", xlabel="step", yscale="log",
                ylabel="nats per token")  # fmt: skip
    axes[0].yaxis.set_major_formatter("{x:g}")
    axes[0].yaxis.set_minor_formatter("")
    axes[0].set_ylim(top=8)
    axes[0].legend(title="vectors", ncols=3, loc="upper right", handlelength=1)
    for axis, task, row in zip(axes[1:], ("plural (rare)", "double (unseen)"), found, strict=True):
        _soft_and_hard(axis, task, row)
    axes[2].set_ylabel("")
    figure.legend(*axes[1].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def _soft_and_hard(axis, task, row):
    places = {0: 0, 1: 1, 2: 2, 4: 3, 5: 3.3, 8: 4, 10: 4.3, 16: 5, 20: 5.3}  # log2, but for 0
    for number, (name, shares) in enumerate((
        ("soft prompt, vectors", {k: v["accuracy"] for k, v in row["soft"].items()}),
        ("hard prompt, examples", row["hard"]["examples_drawn_for_each_question"]),
    )):  # fmt: skip
        x = [places[int(k)] for k in shares]
        _curve(axis, x, shares.values(), name, number, color=(BLUE, ORANGE)[number])
    for name, share, colour, style in (
        ("best of 8 fixed hard prompts", row["hard"]["best_fixed"]["accuracy"], ORANGE, "--"),
        ("everything fine-tuned", row["finetuned"]["accuracy"], BLACK, ":"),
    ):  # fmt: skip
        axis.axhline(100 * share["value"], color=colour, ls=style, lw=1.4, label=name)
    axis.set_xticks([0, 1, 2, 3, 4, 5], ["0", "1", "2", "4", "8", "16"])
    _per_cent(axis, task, "examples or vectors")
