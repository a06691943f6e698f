"""The figures of the exercise's five questions."""

import math
from functools import lru_cache

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.font_manager import findfont
from matplotlib.ft2font import FT2Font

from mingpt.figures.style import BLACK, BLUE, FONT, GREEN, ORANGE, SKY, STYLE, VERMILLION, new

PAINT = LinearSegmentedColormap.from_list("paint", ["#FFFFFF", SKY, BLUE])
TEXT_INCHES, LINE_INCHES = 5.5, 0.42  # of painted text: width, and height of a line


@lru_cache
def _drawable():
    """The characters the figures' font has, as a set of code points."""
    return set(FT2Font(findfont(FONT)).get_charmap())


def visible(token):
    """A token's text in one line of drawable characters: ↵ for a newline, □ for the unknown."""
    text = token.replace("\n", "↵").strip() or "␣"
    return "".join(c if c.isprintable() and ord(c) in _drawable() else "□" for c in text)


@plt.rc_context(STYLE)
def training_loss(losses, evaluations, compressors, vocab_size):
    """Q1. losses (nats per token, one per iteration); evaluations [(iteration, bpb)];
    compressors {name: bpb}, perhaps none; vocab_size of the model, whose uniform guess costs its
    logarithm."""
    figure, (left, right) = new(9, 3.8, 1, 2)
    iterations = np.arange(1, len(losses) + 1)
    left.plot(iterations, losses, color=SKY, lw=0.8)
    width = max(1, len(losses) // 25)
    smooth = np.convolve(losses, np.ones(width) / width, mode="valid")
    left.plot(iterations[width - 1 :], smooth, color=BLUE, lw=1.8)
    left.set(
        title="Training loss", xlabel="iteration", ylabel="cross-entropy (nats per token)"
    )
    left.text(
        0.97, 0.86, f"thin: every iteration\nbold: mean of {width}", transform=left.transAxes,
        ha="right", va="top", color=BLUE,
    )
    uniform = math.log(vocab_size)
    left.axhline(uniform, color=BLACK, lw=0.8, ls=":")
    left.text(len(losses), uniform, "uniform guess", ha="right", va="bottom", fontsize=9)

    steps, values = np.array(evaluations).T
    right.plot(steps, values, color=VERMILLION, marker="o", ms=3.5, lw=1.8)
    shown = [*values, *compressors.values()]
    most = max(min(shown) + 1.4, values[-1])  # the first values may be far above
    high = min(max(shown), most) + 0.1
    room = 0.17 * (high - values[-1])  # for the words below the end
    right.set_ylim(min(min(shown) - 0.06, values[-1] - room), high)
    span = steps[-1] - (0 if len(steps) == 1 else steps[0])
    right.set_xlim(0, steps[-1] + 0.32 * max(span, 1))
    right.annotate(
        f"at the end {values[-1]:.3f}", (steps[-1], values[-1]), xytext=(0, -16),
        textcoords="offset points", ha="center", va="top", color=VERMILLION,
        arrowprops={"arrowstyle": "-", "color": VERMILLION, "lw": 0.8},
    )
    for name, value in compressors.items():
        right.axhline(value, color=BLACK, lw=0.8, ls="--", alpha=0.6)
        right.text(right.get_xlim()[1], value, name, ha="right", va="bottom", fontsize=9)
    right.set(title="Held-out text", xlabel="iteration", ylabel="bits per byte")
    return figure


@plt.rc_context(STYLE)
def inversion(losses, tokens, margins, distances, typical_distance):
    """Q2. losses: one list (nats per step) per start; tokens (T) strings; margins (T) logits
    and distances (T) to the nearest real token embedding, both of the first start."""
    figure, (left, middle, right) = new(10.5, 3.8, 1, 3, width_ratios=[1.3, 1, 1])
    for curve in losses[1:]:
        left.plot(curve, color=SKY, lw=0.7)
    left.plot(losses[0], color=BLUE, lw=1.8)
    left.set(
        title="Inversion loss", xlabel="optimiser step", ylabel="cross-entropy (nats per token)"
    )
    left.text(
        0.97, 0.95, f"bold: first start\nthin: {len(losses) - 1} other starts",
        transform=left.transAxes, ha="right", va="top", color=BLUE,
    )
    rows = np.arange(len(tokens))[::-1]
    middle.barh(rows, margins, color=GREEN)
    middle.set_yticks(rows, [visible(t) for t in tokens])
    middle.axvline(0, color=BLACK, lw=0.8)
    middle.set(title="Margin of the target", xlabel="logit lead over the runner-up")
    right.barh(rows, distances, color=ORANGE)
    right.set_yticks(rows, [visible(t) for t in tokens])
    right.axvline(typical_distance, color=BLACK, lw=1, ls="--")
    right.set(
        title="Distance to the nearest token",
        xlabel="Euclidean distance\n(dashed: between the book's tokens)",
        xlim=(0, max(*distances, typical_distance) * 1.25),
    )
    return figure


@plt.rc_context(STYLE)
def painted_attention(tokens, rows, word_tokens, scores, weights, title):
    """Q3 and Q4. The sentence painted by attention weight, and scores and weights as bars.

    tokens (T) strings; rows: the positions that predict the word; word_tokens: its positions;
    scores, weights (len(rows), T), averaged over heads, NaN or 0 after the row.
    """
    shown = tokens[: word_tokens[-1] + 1]
    places = _lay_out(shown, word_tokens)
    lines = places[-1][0] + 1
    text_height = lines * LINE_INCHES
    figure, axes = new(
        TEXT_INCHES + 1.6, len(rows) * (text_height + 0.3) + 2.8, len(rows) + 1, 1,
        height_ratios=[text_height] * len(rows) + [2.2],
    )
    for axis, row, row_weights in zip(axes, rows, weights, strict=False):
        _paint_text(axis, shown, places, row, word_tokens, row_weights)
        target = visible(tokens[row + 1])
        axis.set_title(f"{title}: position “{visible(tokens[row])}” predicts “{target}”")
    bars = axes[-1]
    row = rows[0]
    x = np.arange(row + 1)
    bars.bar(x, weights[0][: row + 1], color=BLUE, width=0.7)
    bars.set_xticks(x, [visible(t) for t in tokens[: row + 1]], rotation=60, ha="right")
    bars.set_ylabel("mean weight", color=BLUE)
    bars.set_xlim(-0.6, row + 0.6)
    twin = bars.twinx()
    twin.plot(x, scores[0][: row + 1], color=VERMILLION, marker="o", ms=4, lw=0)
    twin.set_ylabel("mean score Q·K/√d", color=VERMILLION)
    twin.spines["right"].set_visible(True)
    bars.set_title(
        f"weights (bars, sum {np.nansum(weights[0]):.3f}) and scores (dots) of the "
        f"position that predicts “{visible(tokens[row + 1])}”"
    )
    return figure


def _lay_out(tokens, bold):
    """Line number, left edge and width (inches) of each token; `bold` holds the bold positions."""
    figure = plt.figure()
    renderer = figure.canvas.get_renderer()
    places, line, x = [], 0, 0.0
    for position, token in enumerate(tokens):
        text = figure.text(0, 0, visible(token), **_font(position in bold))
        width = text.get_window_extent(renderer).width / figure.dpi
        gap = 0.1 if token[:1].isspace() and x > 0 else 0.0
        if x > 0 and x + gap + width > TEXT_INCHES:
            line, x, gap = line + 1, 0.0, 0.0
        places.append((line, x + gap, width))
        x += gap + width + 0.08
    plt.close(figure)
    return places


def _font(bold):
    return {"fontsize": 10.5, "fontweight": "bold" if bold else "normal"}


def _paint_text(axis, tokens, places, row, word_tokens, weights):
    """Write tokens line by line, each on a background as dark as its weight, shown below it."""
    axis.axis("off")
    axis.set(xlim=(0, TEXT_INCHES), ylim=(places[-1][0] + 1, 0))
    largest = max(float(np.nanmax(weights)), 1e-9)
    for position, (token, (line, x, width)) in enumerate(zip(tokens, places, strict=True)):
        weight = float(weights[position]) if position <= row else 0.0
        shade, wanted = weight / largest, position in word_tokens
        colour = VERMILLION if wanted else "white" if shade > 0.6 else BLACK
        face = "white" if wanted else PAINT(shade)
        axis.text(
            x, line + 0.35, visible(token), va="center", color=colour, **_font(wanted),
            bbox={"facecolor": face, "edgecolor": "none", "pad": 2.0},
        )
        if position <= row:
            axis.text(
                x + width / 2, line + 0.83, f"{weight:.2f}", fontsize=7, ha="center",
                va="center", color="#444444",
            )


@plt.rc_context(STYLE)
def attention_all_blocks(words, weights, entropies, word):
    """Q4. weights (blocks, W) of the predicting position on each word, averaged over heads and
    summed over the word's tokens; entropies (blocks, heads) in bits."""
    figure, (left, right) = new(
        10.5, max(3.2, 1.2 + 0.25 * len(words)), 1, 2, width_ratios=[1.5, 1]
    )
    blocks = range(len(weights))
    left.imshow(weights.T, cmap=PAINT, vmin=0, aspect="auto")
    left.set_yticks(range(len(words)), [visible(w) for w in words])
    left.set_xticks(blocks, [str(b + 1) for b in blocks])
    left.set(
        title=f"Attention weight when predicting “{visible(word)}”",
        xlabel="block (mean over heads, sum over a word's tokens)", ylabel="word",
    )
    threshold = 0.6 * weights.max()
    for (block, position), weight in np.ndenumerate(weights):
        left.text(
            block, position, f"{weight:.2f}", ha="center", va="center", fontsize=7,
            color="white" if weight > threshold else BLACK,
        )
    left.spines[:].set_visible(False)
    right.imshow(entropies.T, cmap="cividis", vmin=0, aspect="auto")
    right.set_xticks(blocks, [str(b + 1) for b in blocks])
    right.set_yticks(range(entropies.shape[1]), [str(h + 1) for h in range(entropies.shape[1])])
    right.set(title="Entropy of each head (bits)", xlabel="block", ylabel="head")
    middle = entropies.max() / 2
    for (block, head), value in np.ndenumerate(entropies):
        right.text(
            block, head, f"{value:.1f}", ha="center", va="center", fontsize=8,
            color="white" if value < middle else BLACK,
        )
    right.spines[:].set_visible(False)
    return figure


@plt.rc_context(STYLE)
def token_log_probs(tokens, log_probs):
    """Q5. tokens (T) strings and their log-probabilities (T) in nats."""
    lines = math.ceil(len(tokens) / 32)
    per_line = math.ceil(len(tokens) / lines)
    figure, axes = new(
        max(6, 0.32 * per_line + 1), 0.9 + 2.6 * lines, lines, 1, squeeze=False, sharey=True
    )
    mean = np.mean(log_probs)
    for line, axis in enumerate(axes[:, 0]):
        part = slice(line * per_line, (line + 1) * per_line)
        shown = tokens[part]
        axis.bar(np.arange(len(shown)), log_probs[part], color=BLUE, width=0.75)
        axis.set_xticks(range(len(shown)), [visible(t) for t in shown], rotation=60, ha="right")
        axis.set_xlim(-0.6, per_line - 0.4)
        axis.axhline(mean, color=VERMILLION, lw=1.2, ls="--")
        axis.set_ylabel("log-probability (nats)")
    axes[0, 0].set_title(
        f"log p(sentence | prompt) = {np.sum(log_probs):.2f} nats, "
        f"dashed: mean {mean:.2f} per token"
    )
    return figure
