"""Painted sentences stay readable, however long."""

import itertools

import matplotlib.pyplot as plt
import pytest
import torch

from mingpt import figures

SHORT = ["Alice", " thought", " of", " a", " cat", " and", " a", "\n", "dog"]


def painted(tokens, word_tokens):
    rows = [position - 1 for position in word_tokens]
    generator = torch.Generator().manual_seed(0)
    scores = [torch.randn(row + 1, generator=generator) for row in rows]
    weights = [s.softmax(0).tolist() for s in scores]
    figure = figures.painted_attention(
        tokens, rows, word_tokens, [s.tolist() for s in scores], weights,
        {"here": [-0.1] * rows[0], "everywhere": [0.2] * rows[0]}, "Last block",
    )  # fmt: skip
    figure.draw_without_rendering()
    return figure, scores, weights


@pytest.mark.parametrize(
    ("tokens", "word_tokens"), [(SHORT, [8]), (SHORT * 4 + [" wal", "nut"], [36, 37])]
)
def test_nothing_overlaps_or_leaves_the_figure(tokens, word_tokens):
    figure, *_ = painted(tokens, word_tokens)
    for axis in figure.axes[: 2 * len(word_tokens)]:
        boxes = [text.get_window_extent() for text in [*axis.texts, axis.title]]
        width, height = figure.get_size_inches() * figure.dpi
        for box in boxes:
            assert 0 <= box.x0 < box.x1 <= width
            assert 0 <= box.y0 < box.y1 <= height
        assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    plt.close(figure)


@pytest.mark.parametrize("kind", [0, 1])
def test_every_token_has_its_value_and_the_predicted_word_a_white_ground(kind):
    figure, *values = painted(SHORT, [8])
    of_row = [float(value) for value in values[kind][0]]
    axis = figure.axes[kind]
    assert axis.get_title().endswith(f"sum {sum(of_row):.3f}")
    assert [t.get_text() for t in axis.texts if t.get_fontsize() < 8] == [
        f"{value:.2f}" for value in of_row
    ]
    words = [t for t in axis.texts if t.get_fontsize() > 8]
    assert [t.get_text() for t in words] == [figures.visible(token) for token in SHORT]
    assert words[8].get_color() == figures.VERMILLION
    assert words[8].get_bbox_patch().get_facecolor() == (1, 1, 1, 1)
    darkest = min(words, key=lambda t: sum(t.get_bbox_patch().get_facecolor()[:3]))
    assert words.index(darkest) == max(range(8), key=lambda position: of_row[position])
    plt.close(figure)


def test_what_hiding_changes_is_drawn_for_every_earlier_token():
    figure, *_ = painted(SHORT, [8])
    bars = [[bar.get_height() for bar in of] for of in figure.axes[-1].containers]
    assert bars == [[-0.1] * 7, [0.2] * 7]
    plt.close(figure)
