"""The figures of the language model as a compressor."""

import matplotlib.pyplot as plt
import numpy as np

from mingpt.figures.style import BLUE, LINES, STYLE, VERMILLION, new


@plt.rc_context(STYLE)
def compressed_sizes(ours, others):
    """Bits per byte of ours and others, {name: bpb} each, the largest on top."""
    values = dict(sorted((ours | others).items(), key=lambda item: -item[1]))
    figure, axis = new(6.9, 0.22 * len(values) + 0.9)
    rows = np.arange(len(values))[::-1]
    for names, colour, marker, label in (
        (ours, BLUE, "o", "ours"), (others, VERMILLION, "s", "compressors"),
    ):  # fmt: skip
        held = [row for row, name in zip(rows, values, strict=True) if name in names]
        axis.plot(
            [v for name, v in values.items() if name in names], held, marker, ms=6, color=colour,
            label=label,
        )
    for row, value in zip(rows, values.values(), strict=True):
        axis.annotate(f"{value:.3f}", (value, row), xytext=(9, 0), textcoords="offset points",
                      va="center")  # fmt: skip
    axis.set_yticks(rows, values)
    axis.grid(axis="y", alpha=0.4)
    axis.margins(x=0.12)
    axis.set(title="Held-out text, primed with the training part", xlabel="bits per byte")
    axis.legend(frameon=False, loc="lower right")
    return figure


@plt.rc_context(STYLE)
def bits_by_position(starts, curves):
    """starts (B,): bytes into the text at which its blocks begin; curves {name: (B,) bpb}."""
    figure, axis = new(6.9, 2.4)
    for (name, values), style in zip(curves.items(), LINES, strict=False):
        axis.plot(np.array(starts) / 1000, values, label=name, lw=1.8, ms=4, **style)
    axis.set(title="Held-out text, block by block", xlabel="position in the text (kB)",
             ylabel="bits per byte")  # fmt: skip
    axis.legend(frameon=False, ncols=2, fontsize=8)
    return figure


@plt.rc_context(STYLE)
def bits_by_frequency(labels, counts, curves):
    """labels (F): how often tokens occur in training; counts (F): tokens of the text of that
    kind; curves {name: (F,) mean bits per token}, shown beyond those of the first."""
    figure, axis = new(6.9, 2.7)
    x = np.arange(len(labels))
    reference, *_ = curves
    for (name, values), style in zip(curves.items(), LINES, strict=False):
        axis.plot(x, np.subtract(values, curves[reference]), label=name, lw=1.8, ms=5, **style)
    ticks = zip(labels, counts, curves[reference], strict=True)
    axis.set_xticks(x, [f"{label}\n({count})\n{bits:.1f}" for label, count, bits in ticks])
    axis.set(
        title="Which tokens cost fewer bits",
        ylabel=f"bits per token beyond {reference}",
        xlabel="occurrences in the training part, (tokens of the held-out text), "
               f"bits per token of {reference}",
    )  # fmt: skip
    axis.legend(frameon=False)
    return figure
