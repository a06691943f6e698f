"""The figures of the exercise's five questions."""

import math
from functools import lru_cache

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.font_manager import findfont
from matplotlib.ft2font import FT2Font

from mingpt.figures.style import BLACK, BLUE, FONT, ORANGE, SKY, STYLE, WIDTH, new


@lru_cache
def _drawable():
    """The characters the figures' font has, as a set of code points."""
    return set(FT2Font(findfont(FONT)).get_charmap())


def visible(token):
    """A token's text in one line of drawable characters: ↵ for a newline, □ for the unknown."""
    text = token.replace("\n", "↵").strip() or "␣"
    return "".join(c if c.isprintable() and ord(c) in _drawable() else "□" for c in text)


def running_mean(losses):
    """Means of a twenty-fifth of the losses (N,), and the iterations, counted from 1, that they
    are centred on."""
    width = max(1, len(losses) // 25)
    smooth = np.convolve(losses, np.ones(width) / width, mode="valid")
    return np.arange(len(smooth)) + (width + 1) / 2, smooth


@plt.rc_context(STYLE)
def training_loss(losses, evaluations, compressors, vocab_size):
    """Q1. losses (nats per token, one per iteration); evaluations [(iteration, bpb)];
    compressors {name: bpb}, perhaps none; vocab_size of the model, whose uniform guess costs its
    logarithm."""
    figure, (left, right) = new(WIDTH, 2.3, 1, 2)
    left.plot(np.arange(1, len(losses) + 1), losses, color=SKY, lw=0.8)
    iterations, smooth = running_mean(losses)
    width = len(losses) - len(smooth) + 1
    left.plot(iterations, smooth, color=BLUE, lw=1.8)
    left.set(
        title="Training loss", xlabel="iteration", ylabel="cross-entropy (nats per token)"
    )
    left.text(
        0.97, 0.86, f"thin: every iteration\nbold: mean of {width}", transform=left.transAxes,
        ha="right", va="top", color=BLUE,
    )
    uniform = math.log(vocab_size)
    left.axhline(uniform, color=BLACK, lw=0.8, ls=":")
    left.text(len(losses), uniform, "uniform guess", ha="right", va="bottom", fontsize=8)

    steps, values = np.array(evaluations).T
    right.plot(steps, values, color=BLUE, marker="o", ms=3.5, lw=1.8)
    shown = [*values, *compressors.values()]
    most = max(min(shown) + 1.4, values[-1])  # the first values may be far above
    high = min(max(shown), most) + 0.1
    right.set_ylim(min(shown) - 0.08, high)
    span = steps[-1] - (0 if len(steps) == 1 else steps[0])
    right.set_xlim(0, steps[-1] + 0.32 * max(span, 1))
    right.annotate(f"{values[-1]:.3f}", (steps[-1], values[-1]), xytext=(4, 1),
                   textcoords="offset points", va="top", color=BLUE)  # fmt: skip
    for name, value in compressors.items():
        right.axhline(value, color=BLACK, lw=0.8, ls="--", alpha=0.6)
        right.text(right.get_xlim()[1], value, name, ha="right", va="bottom", fontsize=8)
    right.set(title="Held-out text", xlabel="iteration", ylabel="bits per byte")
    return figure


@plt.rc_context(STYLE)
def inversion(losses, tokens, margins, asked, distances, is_target, typical_distance):
    """Q2. losses: one list (nats per step) per start; tokens (T) strings; margins (T) logits of the
    first start, and the margin asked for; its distances (T, 2) to the nearest real token embedding
    at its start and its end; is_target (T): whether that token is the target at the end."""
    figure, (left, middle, right) = new(WIDTH, 2.5, 1, 3, width_ratios=[1.2, 1, 1.1])
    for curve in losses[1:]:
        left.plot(curve, color=SKY, lw=0.6)
    left.plot(losses[0], color=BLUE, lw=1.6)
    left.set(
        title="Inversion loss", xlabel="optimiser step", ylabel="cross-entropy (nats per token)"
    )
    left.text(
        0.97, 0.95, f"bold: first start\nthin: {len(losses) - 1} other starts",
        transform=left.transAxes, ha="right", va="top", color=BLUE,
    )
    rows = np.arange(len(tokens))[::-1]
    middle.barh(rows, margins, color=BLUE, height=0.65)
    middle.set_yticks(rows, [visible(t) for t in tokens])
    middle.axvline(asked, color=BLACK, lw=0.8, ls="--")
    middle.set(title="Margin at the end", xlabel=f"logit lead (dashed: {asked:g}, asked for)")
    (start, end), is_target = np.array(distances).T, np.array(is_target)
    right.hlines(rows, start, end, color=SKY, lw=1)
    right.plot(start, rows, "o", ms=5, mfc="white", mec=ORANGE, label="start")
    for chosen, marker, label in ((is_target, "o", "end, nearest is the target"),
                                  (~is_target, "X", "end, another is")):  # fmt: skip
        right.plot(end[chosen], rows[chosen], marker, ms=5.5, color=BLUE, ls="", label=label)
    right.axvline(typical_distance, color=BLACK, lw=0.8, ls=":")
    right.set_yticks(rows, [visible(t) for t in tokens])
    right.set(title="Distance to the nearest token", ylim=(-0.6, len(tokens) - 0.4),
              xlabel="Euclidean (dotted: between tokens)",
              xlim=(0, max(*end, *start, typical_distance) * 1.1))  # fmt: skip
    figure.legend(*right.get_legend_handles_labels(), loc="outside lower right", ncols=3)
    return figure


@plt.rc_context(STYLE)
def token_log_probs(tokens, log_probs):
    """Q5. tokens (T) strings and their log-probabilities (T) in nats."""
    lines = math.ceil(len(tokens) / 32)
    per_line = math.ceil(len(tokens) / lines)
    figure, axes = new(
        WIDTH, 0.3 + 1.8 * lines, lines, 1, squeeze=False, sharey=True
    )
    mean = np.mean(log_probs)
    for line, axis in enumerate(axes[:, 0]):
        part = slice(line * per_line, (line + 1) * per_line)
        shown = tokens[part]
        axis.bar(np.arange(len(shown)), log_probs[part], color=BLUE, width=0.75)
        axis.set_xticks(range(len(shown)), [visible(t) for t in shown], rotation=60, ha="right")
        axis.set_xlim(-0.6, per_line - 0.4)
        axis.axhline(mean, color=BLACK, lw=1, ls="--")
        axis.set_ylabel("log-probability (nats)")
    axes[0, 0].set_title(
        f"log p(sentence | prompt) = {np.sum(log_probs):.2f} nats, "
        f"dashed: mean {mean:.2f} per token"
    )
    return figure
