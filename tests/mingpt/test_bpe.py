import base64
import hashlib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mingpt.bpe import BPETokenizer, get_encoder
from mingpt.merges import load_merges, token_bytes

# The hash tiktoken expects of its r50k_base ranks.
R50K_SHA256 = "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930"


def test_ranks_are_those_of_tiktokens_r50k_base():
    lines = (
        base64.b64encode(token) + f" {rank}\n".encode()
        for rank, token in enumerate(token_bytes(load_merges()))
    )
    assert hashlib.sha256(b"".join(lines)).hexdigest() == R50K_SHA256


@given(st.text())
def test_any_text_survives_the_round_trip(text):
    encoder = get_encoder()
    assert encoder.decode(encoder.encode(text)) == text


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("Hello world", [15496, 995]),
        ("I am a little squirrel holding a walnut",
         [40, 716, 257, 1310, 33039, 4769, 257, 6514, 14930]),
        ("", []),
    ],
)  # fmt: skip
def test_known_encodings(text, ids):
    assert get_encoder().encode(text) == ids


def test_the_special_token_is_ordinary_text_to_encode_and_decodes():
    encoder = get_encoder()
    assert 50256 not in encoder.encode("<|endoftext|>")
    assert encoder.decode([50256]) == "<|endoftext|>"
    assert encoder.vocab_size == 50257


@given(st.text())
def test_the_work_shown_is_that_of_encode(text):
    encoder = get_encoder()
    work = encoder.encode_and_show_work(text)
    assert set(work) == {"bpe_idx", "tokens", "parts"}
    assert work["bpe_idx"] == encoder.encode(text)
    assert "".join(work["tokens"]) == text
    for piece, part in zip(work["tokens"], work["parts"], strict=True):
        assert part["token"] == piece
        assert part["token_bytes"] == piece.encode()
        assert "".join(part["token_merged"]) == part["token_translated"]
        assert [encoder.encoder[token] for token in part["token_merged"]] == part["token_ix"]


def test_the_work_shown_as_mingpt_shows_it():
    work = get_encoder().encode_and_show_work("Hello\n walnut’s")
    assert work["tokens"] == ["Hello", "\n", " walnut", "’", "s"]
    assert work["parts"][2] == {
        "token": " walnut",
        "token_bytes": b" walnut",
        "token_translated": "Ġwalnut",
        "token_merged": ["Ġwal", "nut"],
        "token_ix": [6514, 14930],
    }
    assert work["parts"][3]["token_translated"] == "âĢĻ"


def test_token_strings_and_ids_map_both_ways():
    gpt2 = BPETokenizer().encoder
    known = {"!": 0, "Ċ": 198, "Ġ": 220, "Hello": 15496, "Ġworld": 995, "<|endoftext|>": 50256}
    assert {token: gpt2.encoder[token] for token in known} == known
    assert len(gpt2.encoder) == len(gpt2.decoder) == 50257
    assert all(gpt2.encoder[token] == number for number, token in gpt2.decoder.items())


def test_tokenizer_returns_a_batch_of_one():
    tokenizer = BPETokenizer()
    idx = tokenizer("Hello world")
    assert idx.dtype == torch.int64
    assert idx.tolist() == [[15496, 995]]
    assert tokenizer.decode(idx[0]) == "Hello world"


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="token 50257 out of range"):
        get_encoder().decode([50257])
    with pytest.raises(ValueError, match="one dimension"):
        BPETokenizer().decode(torch.zeros(1, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match="should be a string"):
        BPETokenizer()(["a"])
    with pytest.raises(ValueError, match="only PyTorch tensors"):
        BPETokenizer()("a", return_tensors="np")
