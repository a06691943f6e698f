"""The figures of attention: a painted sentence, and all blocks side by side."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import LinearSegmentedColormap

from mingpt.figures.exercise import visible
from mingpt.figures.style import BLACK, BLUE, SKY, STYLE, VERMILLION, WIDTH, new

PAINT = LinearSegmentedColormap.from_list("paint", ["#FFFFFF", SKY, BLUE])
TEXT_INCHES, LINE_INCHES = 6.7, 0.38  # of painted text: width, and height of a line
LEAST_INCHES = 0.25  # a token's place: as wide as the number below it


@plt.rc_context(STYLE)
def painted_attention(tokens, rows, word_tokens, scores, weights, changes, title):
    """Q3 and Q4. The sentence painted twice for every row, by score and by weight; below, what
    hiding a token does.

    tokens (T) strings; rows: the positions that predict the word; word_tokens: its positions;
    scores, weights (len(rows), T), averaged over heads, NaN or 0 after the row; changes {name:
    change of log p of the word in nats when each token before the first row is hidden}.
    """
    shown = tokens[: word_tokens[-1] + 1]
    places = _lay_out(shown, word_tokens)
    text_height = (places[-1][0] + 1) * LINE_INCHES
    painted = [kind for row in zip(scores, weights, strict=True) for kind in row]
    figure, axes = new(
        WIDTH, len(painted) * (text_height + 0.24) + 1.5, len(painted) + 1, 1,
        height_ratios=[text_height] * len(painted) + [1.3],
    )
    for number, (axis, values) in enumerate(zip(axes, painted, strict=False)):
        row = rows[number // 2]
        values = np.asarray(values, dtype=float)[: row + 1]
        _paint_text(axis, shown, places, row, word_tokens, values)
        what = ("mean weight", "mean score Q·K/√d")[number % 2 == 0]
        where = f"{title}, “{visible(tokens[row])}” predicts “{visible(tokens[row + 1])}”: "
        axis.set_title((where if number % 2 == 0 else "") + f"{what}, sum {values.sum():.3f}")
    _draw_changes(axes[-1], tokens, changes)
    return figure


def _draw_changes(axis, tokens, changes):
    names = [visible(t) for t in tokens[: len(next(iter(changes.values())))]]
    x, width = np.arange(len(names)), 0.8 / len(changes)
    for number, ((name, values), face) in enumerate(
        zip(changes.items(), (VERMILLION, "white"), strict=True)
    ):
        axis.bar(x + (number - 0.5) * width, values, width, label=name, color=face,
                 edgecolor=VERMILLION, lw=0.8)  # fmt: skip
    axis.axhline(0, color=BLACK, lw=0.8)
    axis.set_xticks(x, names, rotation=60, ha="right")
    axis.set_xlim(-0.6, len(names) - 0.4)
    axis.set(title="Change of log p of the word when it cannot see a token (below 0: the token "
             "supports the word)", ylabel="nats")  # fmt: skip
    axis.legend(loc="best")


def _lay_out(tokens, bold):
    """Line number, left edge and width (inches) of each token; `bold` holds the bold positions."""
    figure = plt.figure()
    renderer = figure.canvas.get_renderer()
    places, line, x = [], 0, 0.0
    for position, token in enumerate(tokens):
        text = figure.text(0, 0, visible(token), **_font(position in bold))
        width = max(text.get_window_extent(renderer).width / figure.dpi, LEAST_INCHES)
        gap = 0.03 if token[:1].isspace() and x > 0 else 0.0
        if x > 0 and x + gap + width > TEXT_INCHES:
            line, x, gap = line + 1, 0.0, 0.0
        places.append((line, x + gap, width))
        x += gap + width + 0.05
    plt.close(figure)
    return places


def _font(bold):
    return {"fontsize": 9, "fontweight": "bold" if bold else "normal"}


def _paint_text(axis, tokens, places, row, word_tokens, values):
    """Write tokens line by line, each on a background as dark as its value, shown below it.

    The darkest has the largest value, white is 0 or the smallest below it.
    """
    axis.axis("off")
    axis.set(xlim=(0, TEXT_INCHES), ylim=(places[-1][0] + 1, 0))
    least = min(0.0, values.min())
    span = max(values.max() - least, 1e-9)
    for position, (token, (line, x, width)) in enumerate(zip(tokens, places, strict=True)):
        shade = (values[position] - least) / span if position <= row else 0.0
        wanted = position in word_tokens
        colour = VERMILLION if wanted else "white" if shade > 0.6 else BLACK
        face = "white" if wanted else PAINT(shade)
        axis.text(
            x + width / 2, line + 0.3, visible(token), ha="center", va="center", color=colour,
            **_font(wanted),
            bbox={"facecolor": face, "edgecolor": "none", "pad": 1.5},
        )
        if position <= row:
            axis.text(
                x + width / 2, line + 0.84, f"{values[position]:.2f}", fontsize=7,
                ha="center", va="center", color="#444444",
            )


@plt.rc_context(STYLE)
def attention_all_blocks(words, weights, entropies, word):
    """Q4. weights (blocks, W) of the predicting position on each word, averaged over heads and
    summed over the word's tokens; entropies (blocks, heads) in bits."""
    figure, (left, right) = new(
        WIDTH, max(2.6, 0.6 + 0.165 * len(words)), 1, 2, width_ratios=[1.5, 1]
    )
    blocks = range(len(weights))
    left.imshow(weights.T, cmap=PAINT, vmin=0, aspect="auto")
    left.set_yticks(range(len(words)), [visible(w) for w in words])
    left.set_xticks(blocks, [str(b + 1) for b in blocks])
    left.set(
        title=f"Attention weight when predicting “{visible(word)}”",
        xlabel="block (mean over heads, sum over a word's tokens)",
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
            block, head, f"{value:.1f}", ha="center", va="center", fontsize=7,
            color="white" if value < middle else BLACK,
        )
    right.spines[:].set_visible(False)
    return figure


