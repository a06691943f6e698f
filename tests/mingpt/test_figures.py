import math

import matplotlib.pyplot as plt
import pytest

from mingpt import figures


@pytest.mark.parametrize("vocab_size", [300, 50257])
def test_the_uniform_guess_is_that_of_the_models_vocabulary(vocab_size):
    losses, evaluations = [6.0, 5.0, 4.5], [(1, 2.5), (3, 2.2)]
    figure = figures.training_loss(losses, evaluations, {"xz": 2.4}, vocab_size)
    heights = [line.get_ydata()[0] for line in figure.axes[0].lines if line.get_ls() == ":"]
    plt.close(figure)
    assert heights == [pytest.approx(math.log(vocab_size))]


def test_a_saved_figure_is_a_png_and_closed(tmp_path):
    figure = figures.token_log_probs([" a", "b"], [-1.0, -2.0])
    figures.save(figure, tmp_path / "new/log_prob.svg")
    assert (tmp_path / "new/log_prob.svg").read_bytes().startswith(b"<?xml")
    assert not plt.fignum_exists(figure.number)


@pytest.mark.parametrize("compressors", [{"xz": 2.4, "zpaq": 1.8}, {}])
@pytest.mark.parametrize("values", [[9.0, 2.5, 2.2], [7.0, 6.5, 6.0], [2.0]])
def test_the_end_of_the_heldout_curve_is_in_the_figure(compressors, values):
    figure = figures.training_loss([6.0, 5.0], list(enumerate(values, 1)), compressors, 300)
    low, high = figure.axes[1].get_ylim()
    plt.close(figure)
    assert low < min([values[-1], *compressors.values()])
    assert high > values[-1]
