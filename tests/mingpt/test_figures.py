import math

import matplotlib.pyplot as plt
import pytest

from mingpt import figures


@pytest.mark.parametrize("vocab_size", [300, 50257])
def test_the_uniform_guess_is_that_of_the_models_vocabulary(tmp_path, monkeypatch, vocab_size):
    drawn = []
    monkeypatch.setattr(figures, "_save", lambda figure, path: drawn.append(figure))
    losses, evaluations = [6.0, 5.0, 4.5], [(1, 2.5), (3, 2.2)]
    figures.training_loss(losses, evaluations, {"xz": 2.4}, vocab_size, tmp_path / "loss.png")
    heights = [line.get_ydata()[0] for line in drawn[0].axes[0].lines if line.get_ls() == ":"]
    plt.close(drawn[0])
    assert heights == [pytest.approx(math.log(vocab_size))]
