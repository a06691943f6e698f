from mingpt.bpe import get_encoder
from mingpt.text import (
    group_by_word,
    opening,
    paint_terminal,
    sentence_length,
    token_texts,
    word_positions,
)


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
