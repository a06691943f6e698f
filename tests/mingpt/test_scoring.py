import math

import pytest
import torch
from torch.nn import functional as F

from mingpt.data import Book
from mingpt.scoring import (
    bits_per_byte,
    brute_force_log_prob,
    heldout_bits_per_byte,
    perplexity,
    sequence_log_prob,
    token_log_probs,
    windows,
)
from tests.mingpt.helpers import small_model, tokens


def test_scores_equal_cross_entropy():
    model, idx = small_model(scale=4), tokens(3, 16)
    logits, _ = model(idx[:, :-1])
    expected = -F.cross_entropy(logits.flatten(0, 1), idx[:, 1:].flatten(), reduction="none")
    found = token_log_probs(model, idx)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found.flatten().float(), expected)


def test_sequence_log_prob_is_the_log_of_the_product():
    model, idx = small_model(scale=4), tokens(1, 8)
    product = 1.0
    for end in range(3, 8):
        probabilities = model(idx[:, :end])[0][0, -1].double().softmax(-1)
        product *= probabilities[idx[0, end]].item()
    found = sequence_log_prob(model, idx, prompt_length=3)
    assert found.item() == pytest.approx(math.log(product), rel=1e-6)


def test_past_the_block_the_window_slides():
    model, idx = small_model(scale=4), tokens(2, 30)
    found = token_log_probs(model, idx)
    for t in (0, 14, 15, 16, 28):
        window = idx[:, max(0, t + 1 - 16) : t + 1]
        expected = model(window)[0][:, -1].double().log_softmax(-1).gather(1, idx[:, t + 1, None])
        torch.testing.assert_close(found[:, t], expected[:, 0], rtol=1e-5, atol=1e-6)


def test_perplexity_of_a_uniform_guess_is_the_number_of_choices():
    assert perplexity(torch.full((7,), -math.log(13.0))).item() == pytest.approx(13.0, rel=1e-6)


@pytest.mark.parametrize("length", [1, 31, 32, 33, 64, 200])
def test_every_token_is_scored_once_from_what_precedes_it(length):
    context, text = torch.arange(100, 150), torch.arange(1000, 1000 + length)
    x, y = windows(context, text, size=64, stride=32)
    assert x.shape == y.shape
    assert x.shape[1] == 64
    assert y[y != -1].tolist() == text.tolist()
    whole = torch.cat([context, text]).tolist()
    for row_x, row_y in zip(x.tolist(), y.tolist(), strict=True):
        for t in range(64):
            if row_y[t] != -1:
                before = whole[: whole.index(row_y[t])]
                assert row_x[: t + 1] == before[-(t + 1) :]
                assert t >= 32


def test_bits_per_byte_adds_up_and_leaves_the_model_as_it_was():
    model = small_model(scale=4).train()
    context, text = tokens(40), tokens(50, seed=1)
    found = bits_per_byte(model, context, text, num_bytes=123)
    assert model.training
    model.eval()
    x, y = windows(context, text, 16, 8)
    logits = model(x)[0]
    nats = F.cross_entropy(
        logits.flatten(0, 1), y.flatten(), ignore_index=-1, reduction="sum"
    ).item()
    assert found == pytest.approx(nats / math.log(2) / 123, rel=1e-6)


def test_too_little_text_is_refused():
    with pytest.raises(ValueError, match="at least two tokens"):
        token_log_probs(small_model(), tokens(1, 1))
    with pytest.raises(ValueError, match="context should hold more than 8"):
        bits_per_byte(small_model(), tokens(8), tokens(20), num_bytes=10)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stride": 0}, "stride should be a whole number of at least 1"),
        ({"stride": 17}, "stride should be at most the size 16"),
        ({"size": 0}, "size should be a whole number of at least 1"),
        ({"size": True, "stride": 1}, "size should be"),
        ({"size": 20}, "20 positions given; this model takes up to 16"),
        ({"num_bytes": 0}, "num_bytes should be"),
        ({"tokens": tokens(0)}, "there should be tokens"),
        ({"context": tokens(0)}, "context should hold more than 8"),
    ],
)
def test_windows_out_of_range_are_refused(settings, message):
    settings = {"context": tokens(40), "tokens": tokens(20), "num_bytes": 10, **settings}
    with pytest.raises(ValueError, match=message):
        bits_per_byte(small_model(), **settings)


@pytest.mark.parametrize("prompt_length", [0, -1, 2.0, True, 8, 9])
def test_a_prompt_without_start_or_continuation_is_refused(prompt_length):
    with pytest.raises(ValueError, match="prompt_length"):
        sequence_log_prob(small_model(), tokens(1, 8), prompt_length)


def test_multiplying_probabilities_gives_the_same_log_probability():
    model, idx = small_model(scale=4), tokens(1, 12)
    slow = brute_force_log_prob(model, idx, 5)
    assert slow == pytest.approx(sequence_log_prob(model, idx, 5).item(), abs=1e-4)


class Bytes:
    """An encoder whose tokens are two bytes each."""

    def decode_bytes(self, ids):
        return bytes(2 * len(ids))


def test_held_out_text_is_scored_in_windows_of_the_block():
    model, book = small_model(scale=4), Book(tokens(100), tokens(70, seed=1))
    expected = bits_per_byte(model, *book, num_bytes=140, size=16, stride=8)
    assert heldout_bits_per_byte(model, book, Bytes()) == expected
