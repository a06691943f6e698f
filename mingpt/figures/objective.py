"""The figures of two trainings side by side."""

import math

import matplotlib.pyplot as plt
import numpy as np

from mingpt.figures.exercise import running_mean
from mingpt.figures.style import BLACK, BLUE, ORANGE, STYLE, WIDTH, new


@plt.rc_context(STYLE)
def two_trainings(losses, evaluations, vocab_size):
    """losses {name: nats per token, one per iteration}; evaluations {name: [(iteration, bpb)]},
    of the same two names; vocab_size, whose uniform guess costs its logarithm."""
    figure, (left, right) = new(WIDTH, 2.3, 1, 2)
    for (name, values), colour in zip(losses.items(), (BLUE, ORANGE), strict=True):
        left.plot(*running_mean(values), color=colour, lw=1.6, label=name)
        right.plot(*np.array(evaluations[name]).T, color=colour, marker="o", ms=4, label=name)
        last, value = evaluations[name][-1]
        right.annotate(f"{value:.3f}", (last, value), xytext=(6, 0), textcoords="offset points",
                       color=colour, va="center")  # fmt: skip
    left.axhline(math.log(vocab_size), color=BLACK, lw=0.8, ls=":")
    left.text(len(values), math.log(vocab_size), "uniform guess", ha="right", va="bottom")
    left.set(title="Training loss, running mean", xlabel="iteration",
             ylabel="cross-entropy (nats per token)")  # fmt: skip
    ends = [of[-1][1] for of in evaluations.values()]
    every = [value for of in evaluations.values() for _, value in of]
    right.set(title="Held-out text", xlabel="iteration", ylabel="bits per byte",
              ylim=(min(every) - 0.05, min(max(every), max(ends) + 0.6) + 0.05))  # fmt: skip
    right.margins(x=0.12)
    left.legend(frameon=False, title="minimised")
    return figure


@plt.rc_context(STYLE)
def saved_bits(labels, counts, saved):
    """labels (F): least occurrences in training of a bin's tokens; counts (F): how many tokens of
    the held-out text are in it; saved (F): bits that the discount saves on all of them."""
    figure, axis = new(WIDTH, 2.2)
    x = np.arange(len(labels))
    axis.bar(x, saved, color=BLUE, width=0.65)
    axis.axhline(0, color=BLACK, lw=0.8)
    axis.set_xticks(x, [f"{label}\n({n})" for label, n in zip(labels, counts, strict=True)])
    axis.set(
        title="Bits that the discount saves on held-out text", ylabel="bits",
        xlabel="occurrences in the training part, at least (tokens of the held-out text)",
    )  # fmt: skip
    return figure
