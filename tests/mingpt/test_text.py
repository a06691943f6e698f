import pytest
import torch

from mingpt.bpe import get_encoder
from mingpt.scoring import token_log_probs
from mingpt.text import (
    TooFewWordsError,
    group_by_word,
    opening,
    paint_terminal,
    sampled_sentences,
    sentence_length,
    sure_sentence,
    token_texts,
    word_positions,
)
from tests.mingpt.helpers import small_model


def test_words_of_several_tokens_are_found():
    encoder = get_encoder()
    ids = encoder.encode("I am a little squirrel -- holding a walnut.")
    words = word_positions(encoder, ids)
    assert [w for w, _ in words] == [
        "I", "am", "a", "little", "squirrel", "holding", "a", "walnut.",
    ]  # fmt: skip
    texts = token_texts(encoder, ids)
    for word, positions in words:
        assert word in "".join(texts[p] for p in positions)
    assert len(words[-1][1]) == 3  # " wal", "nut", "."


def test_words_beyond_ascii():
    encoder = get_encoder()
    words = word_positions(encoder, encoder.encode("naïve čas 日本"))
    assert [w for w, _ in words] == ["naïve", "čas", "日本"]


def test_a_sentence_ends_at_its_stop():
    encoder = get_encoder()
    ids = encoder.encode("One. Two three! Four five six")
    assert encoder.decode(ids[: sentence_length(encoder, ids, 0)]) == "One."
    assert encoder.decode(ids[: sentence_length(encoder, ids, 2)]) == "One. Two three!"
    assert encoder.decode(ids[: sentence_length(encoder, ids, 0, least_words=3)]) == (
        "One. Two three!"
    )
    assert sentence_length(encoder, ids, 0, least_words=9) == len(ids)


def test_painting():
    assert paint_terminal(["a", " b\n"], [0.25, 0.75], colour=False) == "a[0.25] b↵[0.75]"
    painted = paint_terminal(["a", " b"], [0.25, 0.75], colour=True)
    assert painted.count("\033[48;5;") == 2
    assert "48;5;232m" in painted


def test_tokens_are_grouped_by_word():
    encoder = get_encoder()
    ids = encoder.encode("Alice thought to herself,\n ` squirrels--walnuts")
    names, groups = group_by_word(word_positions(encoder, ids), token_texts(encoder, ids))
    assert names == ["Alice", "thought", "to", "herself,", "\n", " `", "squirrels--walnuts"]
    assert [position for group in groups for position in group] == list(range(len(ids)))
    assert groups[3:6] == [[3, 4], [5], [6]]
    shared = [("one", [0, 1]), ("two", [1, 2])]
    assert group_by_word(shared, ["o", "n", "t"]) == (["one", "two"], [[0, 1], [2]])


def test_words_are_cut_at_white_space_alone_whatever_their_letters():
    """à ends in the byte 0xA0 and Å in 0x85, which Latin-1 has as white space."""
    encoder = get_encoder()
    text = "voilà… Å là « “ » 春眠"
    ids = encoder.encode(text)
    words = word_positions(encoder, ids)
    assert [word for word, _ in words] == ["voilà…", "Å", "là", "春眠"]
    assert encoder.decode([ids[p] for p in words[0][1]]) == "voilà…"
    broken = word_positions(encoder, ids[:-1])  # half a character
    assert broken[-1][0].startswith("春")
    assert broken[-1][1][-1] == len(ids) - 2


def test_an_opening_is_the_first_words_that_fit():
    encoder = get_encoder()
    assert opening(encoder, "\n one two  three four five six", 16) == "one two three four five"
    assert opening(encoder, "one two three", 2) == "one two"
    assert opening(encoder, "春眠不覺曉" * 99, 6) == "春眠不"  # two tokens each
    assert opening(encoder, " \n", 5) == ""


class Letters:
    """One token a byte."""

    def decode(self, ids):
        return bytes(ids).decode("latin-1")

    def decode_bytes(self, ids):
        return bytes(ids)


def test_the_first_sentence_whose_word_is_sure_enough_is_taken():
    model = small_model(vocab_size=128, block_size=32, scale=5)
    settings = {"model": model, "encoder": Letters(), "prompt": [65, 32], "word": 2}

    def drawn(most):
        generator = torch.Generator().manual_seed(0)
        return list(sampled_sentences(**settings, generator=generator, most=most))

    def chance(each):
        positions = each.words[1][1]
        log_p = token_log_probs(model, each.idx)[0, [p - 1 for p in positions]]
        return log_p.sum().exp().item()

    every = drawn(48)
    assert [each.number for each in every] == sorted(each.number for each in every)
    chances = [chance(each) for each in every]
    least = sorted(chances)[-3]
    found = sure_sentence(
        **settings, generator=torch.Generator().manual_seed(0), least=least * 0.999, most=48
    )
    first = next(n for n, p in enumerate(chances) if p >= least * 0.999)
    assert (found.number, found.sure) == (every[first].number, True)
    assert found.probability == pytest.approx(chances[first], rel=1e-5)
    assert torch.equal(found.idx, every[first].idx)
    surest = sure_sentence(
        **settings, generator=torch.Generator().manual_seed(0), least=2.0, most=48
    )
    assert (surest.probability, surest.sure) == (pytest.approx(max(chances), rel=1e-5), False)


def test_samples_without_the_word_are_refused():
    model = small_model(vocab_size=128, block_size=8)
    with pytest.raises(TooFewWordsError, match="no sample of 8 tokens had 9 words"):
        list(sampled_sentences(model, Letters(), [65], torch.Generator().manual_seed(0), 9))
