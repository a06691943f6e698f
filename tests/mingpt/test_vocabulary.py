import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mingpt.bpe import get_encoder
from mingpt.data import load_book
from mingpt.vocabulary import BookVocabulary

BOOK = BookVocabulary.of(load_book().train)


@given(st.text())
def test_any_text_survives_the_round_trip(text):
    assert BOOK.decode(BOOK.encode(text)) == text


def test_the_training_part_keeps_its_tokens():
    train = load_book().train.tolist()
    ours = BOOK.from_gpt2(train)
    assert BOOK.ids[ours].tolist() == train
    assert BOOK.encode(get_encoder().decode(train)) == ours


def test_it_is_small_and_holds_every_byte():
    used = load_book().train.unique()
    assert BOOK.vocab_size == len(set(used.tolist()) | set(range(256)))
    assert BOOK.vocab_size < 4000


def test_an_unknown_token_is_taken_apart_at_its_last_merge():
    squirrel = get_encoder().encode(" squirrel")
    pieces = BOOK.encode(" squirrel")
    assert len(squirrel) == 1
    assert len(pieces) > 1
    assert BOOK.decode_bytes(pieces) == b" squirrel"
    known = BOOK.ids[BOOK.encode(" Alice")].tolist()
    assert known == get_encoder().encode(" Alice")


def test_heldout_bytes_are_the_same():
    heldout = load_book().heldout.tolist()
    assert BOOK.decode_bytes(BOOK.from_gpt2(heldout)) == get_encoder().decode_bytes(heldout)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (torch.arange(100), "all bytes included"),
        (torch.tensor([*range(256), 900, 800]), "ascending order"),
        (torch.tensor([*range(256), 50256]), "not a token of text"),
    ],
)
def test_bad_vocabularies_are_refused(ids, message):
    with pytest.raises(ValueError, match=message):
        BookVocabulary(ids)


def test_ids_out_of_range_are_refused():
    with pytest.raises(ValueError, match="out of range"):
        BOOK.decode([BOOK.vocab_size])


@pytest.mark.parametrize("token", [50256, -1])
def test_ids_that_are_no_text_are_refused(token):
    vocabulary = BookVocabulary(torch.arange(256))
    with pytest.raises(ValueError, match=f"GPT-2 id {token} is not a token of text"):
        vocabulary.from_gpt2([token])
