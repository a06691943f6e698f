"""The figure of two trainings side by side."""

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
