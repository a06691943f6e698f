"""The byte-pair encoder's functions, constructor and attributes."""

import copy
import functools
import http.server
import subprocess
import sys
import threading

import pytest
import regex
import torch

from mingpt import bpe
from mingpt.bpe import BPETokenizer, Encoder, get_encoder

TEXT = "Hello!! I'm here. It's 2022. w00t :D \U0001f917"
IDS = [15496, 3228, 314, 1101, 994, 13, 632, 338, 33160, 13, 266, 405, 83, 1058, 35, 12520, 97, 245]


@pytest.fixture(scope="module")
def gpt2():
    return get_encoder()


@pytest.fixture
def small():
    """An encoder of bytes and three merges, built as minGPT builds one."""
    characters = bpe.bytes_to_unicode()
    merges = [("l", "o"), ("lo", "w"), ("Ġ", "low")]
    tokens = [*characters.values(), *("".join(pair) for pair in merges)]
    return Encoder({token: i for i, token in enumerate(tokens)}, merges)


def test_bytes_to_unicode_writes_every_byte_as_one_character():
    """188 printable Latin-1 bytes are themselves, the other 68 come from 256 on."""
    table = bpe.bytes_to_unicode()
    assert sorted(table) == list(range(256))
    assert len(set(table.values())) == 256
    assert (table[33], table[32], table[0], table[10], table[255]) == ("!", "Ġ", "Ā", "Ċ", "ÿ")
    assert sum(chr(byte) == written for byte, written in table.items()) == 188
    assert list(table)[:3] == [33, 34, 35]


def test_get_pairs_gives_the_set_of_neighbours():
    """Of a word's parts, a string or a tuple of strings; a single part has none."""
    assert bpe.get_pairs("hello") == {("h", "e"), ("e", "l"), ("l", "l"), ("l", "o")}
    assert bpe.get_pairs(("ab", "c", "ab", "c")) == {("ab", "c"), ("c", "ab")}
    assert bpe.get_pairs("a") == set()


def test_gpt2s_encoding(gpt2):
    """Ids of GPT-2, text there and back."""
    assert gpt2.encode(TEXT) == IDS
    assert gpt2.decode(IDS) == TEXT


def test_an_encoder_of_ones_own_merges_in_their_order(small):
    """Encoder(encoder, bpe_merges): a dict of token strings to ids, a list of pairs."""
    ids = small.encode("low slow")
    assert [small.decoder[i] for i in ids] == ["low", "Ġ", "s", "low"]
    assert [small.decoder[i] for i in small.encode("low low")] == ["low", "Ġlow"]
    assert small.decode(ids) == "low slow"


def test_the_attributes_of_an_encoder(small):
    """encoder, decoder, byte_encoder, byte_decoder, bpe_ranks, pat, cache."""
    assert small.byte_encoder == bpe.bytes_to_unicode()
    assert small.byte_decoder == {c: b for b, c in small.byte_encoder.items()}
    assert small.bpe_ranks == {("l", "o"): 0, ("lo", "w"): 1, ("Ġ", "low"): 2}
    assert small.decoder == {i: token for token, i in small.encoder.items()}
    assert small.pat.findall("I'm low, 12 x") == ["I", "'m", " low", ",", " 12", " x"]
    assert isinstance(small.cache, dict)


def test_the_attributes_of_gpt2s_encoder(gpt2):
    """50,257 tokens and 50,000 ranked merges, the first of them a space and a t."""
    assert len(gpt2.encoder) == len(gpt2.decoder) == 50257
    assert len(gpt2.bpe_ranks) == 50000
    assert gpt2.bpe_ranks["Ġ", "t"] == 0
    assert gpt2.encoder["<|endoftext|>"] == 50256
    assert gpt2.byte_encoder[ord(" ")] == "Ġ"
    assert gpt2.byte_decoder["Ġ"] == ord(" ")
    assert gpt2.pat.findall("It's") == ["It", "'s"]


def test_bpe_merges_one_word_and_joins_by_spaces(small, gpt2):
    """The word in characters for bytes; a single character is itself."""
    assert small.bpe("slow") == "s low"
    assert small.bpe("Ġlow") == "Ġlow"
    assert small.bpe("x") == "x"
    assert gpt2.bpe("ĠAndrej") == "ĠAndre j"


def test_the_encoder_of_gpt2_can_be_built_from_its_two_files(gpt2):
    """What get_encoder of minGPT does with encoder.json and vocab.bpe."""
    merges = sorted(gpt2.bpe_ranks, key=gpt2.bpe_ranks.get)
    assert Encoder(dict(gpt2.encoder), merges).encode(TEXT) == IDS


def test_an_overridden_bpe_is_what_encode_uses(gpt2):
    """BPE dropout and the like: a subclass changes how a word is merged."""

    class Characters(Encoder):
        def bpe(self, token):
            return " ".join(token)

    merges = [("l", "o")]
    tokens = [*bpe.bytes_to_unicode().values(), "lo"]
    own = Characters({token: i for i, token in enumerate(tokens)}, merges)
    assert [own.decoder[i] for i in own.encode("lo lo")] == ["l", "o", "Ġ", "l", "o"]


def test_ids_added_to_the_decoder_decode(small):
    """Special tokens of one's own: encoder and decoder are ordinary dicts."""
    small.encoder["<|pad|>"] = 5000
    small.decoder[5000] = "<|pad|>"
    assert small.decode([*small.encode("low"), 5000]) == "low<|pad|>"


def test_ids_added_to_gpt2s_decoder_decode():
    """minGPT's decode looks every id up in `decoder`, an ordinary dict."""
    encoder = bpe.BPETokenizer().encoder
    encoder.decoder[50257] = "<|pad|>"
    try:
        assert encoder.decode([*IDS, 50257]) == TEXT + "<|pad|>"
    finally:
        del encoder.decoder[50257]
    assert encoder.decode(IDS) == TEXT


def test_each_encoder_of_gpt2_has_tables_of_its_own():
    """minGPT builds one at each call: what is written to one is in no other."""
    first, second = bpe.BPETokenizer().encoder, get_encoder()
    first.decoder[50257] = first.byte_encoder[0] = first.cache["Hello"] = "<|pad|>"
    first.encoder["<|pad|>"] = first.bpe_ranks["<|", "|>"] = first.byte_decoder["<"] = 50257
    for other in (second, bpe.BPETokenizer().encoder):
        assert 50257 not in other.decoder
        assert other.encode_and_show_work(TEXT)["bpe_idx"] == other.encode(TEXT) == IDS
        assert other.byte_encoder == bpe.bytes_to_unicode()
        assert "<|pad|>" not in other.encoder
        assert ("<|", "|>") not in other.bpe_ranks
        assert "<" in other.byte_decoder != first.byte_decoder


def test_the_special_token_is_text_when_encoded_and_an_id_when_decoded(gpt2):
    """minGPT's encode knows no special tokens; 50256 is in its decoder."""
    assert 50256 not in gpt2.encode("<|endoftext|>")
    assert gpt2.decode([50256]) == "<|endoftext|>"


def test_bytes_that_are_no_text_are_replaced(gpt2):
    """decode never fails on known ids: half a character becomes U+FFFD."""
    assert gpt2.decode(IDS[-3:-1]) == " \ufffd"


def test_the_work_shown(small):
    """bpe_idx, tokens, and for each part five stages."""
    work = small.encode_and_show_work("low é")
    assert set(work) == {"bpe_idx", "tokens", "parts"}
    assert work["tokens"] == ["low", " é"]
    assert work["bpe_idx"] == small.encode("low é")
    first, second = work["parts"]
    assert first == {
        "token": "low", "token_bytes": b"low", "token_translated": "low",
        "token_merged": ["low"], "token_ix": [small.encoder["low"]],
    }  # fmt: skip
    assert second["token_bytes"] == b" \xc3\xa9"
    assert second["token_translated"] == "ĠÃ©"
    assert second["token_merged"] == ["Ġ", "Ã", "©"]


def test_the_tokeniser_gives_a_batch_of_one(gpt2):
    """tokenizer(text) -> int64 (1, T); decode takes one dimension."""
    tokenizer = BPETokenizer()
    idx = tokenizer(TEXT)
    assert idx.dtype == torch.int64
    assert idx.tolist() == [IDS]
    assert tokenizer.decode(idx[0]) == TEXT
    assert isinstance(tokenizer.encoder, Encoder)


@pytest.mark.parametrize(
    "call",
    [
        lambda tokenizer: tokenizer("a", return_tensors="np"),
        lambda tokenizer: tokenizer(["a", "b"]),
        lambda tokenizer: tokenizer.decode(torch.zeros(1, 2, dtype=torch.long)),
    ],
)
def test_misuse_of_the_tokeniser_is_an_assertion_error_and_a_value_error(call):
    """minGPT asserts 'pt', a string, and one dimension."""
    with pytest.raises(AssertionError) as caught:
        call(BPETokenizer())
    assert isinstance(caught.value, ValueError)


@pytest.fixture
def server(tmp_path):
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "merges.txt").write_bytes("Ġ t\n".encode())

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    handler = functools.partial(Quiet, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as served:
        thread = threading.Thread(target=served.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{served.server_port}/merges.txt"
        served.shutdown()
        thread.join()


def test_get_file_fetches_what_is_not_there(server, tmp_path):
    """get_file(local_file, remote_file)."""
    local = tmp_path / "merges.txt"
    bpe.get_file(str(local), server)
    assert local.read_bytes() == "Ġ t\n".encode()


def test_get_file_leaves_what_is_there(tmp_path):
    """No request for a file that exists."""
    local = tmp_path / "merges.txt"
    local.write_text("mine", encoding="utf-8")
    bpe.get_file(str(local), "http://127.0.0.1:9/nothing")
    assert local.read_text(encoding="utf-8") == "mine"


def test_a_file_that_is_not_there_is_not_written(server, tmp_path):
    """On purpose unlike minGPT, which saves the server's error page."""
    local = tmp_path / "nothing"
    with pytest.raises(OSError, match="404"):
        bpe.get_file(str(local), server.replace("merges.txt", "nothing"))
    assert not local.exists()


def test_the_module_shows_an_example():
    """python -m mingpt.bpe prints an encoding in its stages."""
    shown = subprocess.run(
        [sys.executable, "-X", "utf8", "-m", "mingpt.bpe"], capture_output=True, text=True,
        encoding="utf-8", check=True, timeout=600,
    )  # fmt: skip
    assert "token_translated" in shown.stdout
    assert "15496" in shown.stdout
    assert shown.stderr == ""


LETTERS = regex.compile("(?s:.)")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("pat", lambda pattern: LETTERS),
        ("byte_encoder", lambda table: {**table, ord("a"): "b"}),
        ("bpe_ranks", lambda ranks: {}),
        ("cache", lambda cache: {"Ġhere": "Ġ h e r e"}),
        ("encoder", lambda numbers: {**numbers, "Hello": 7}),
    ],
)
def test_an_attribute_replaced_on_gpt2s_encoder_is_what_encode_uses(gpt2, name, change):
    """minGPT's encode reads pat, byte_encoder, bpe_ranks, cache and encoder anew each time."""
    own = copy.copy(gpt2)
    own.cache = {}
    setattr(own, name, change(getattr(gpt2, name)))
    plain = Encoder(dict(gpt2.encoder), sorted(gpt2.bpe_ranks, key=gpt2.bpe_ranks.get))
    setattr(plain, name, change(getattr(plain, name)))
    text = "Hello a here"
    assert own.encode(text) == plain.encode(text) != gpt2.encode(text)
    setattr(own, name, getattr(gpt2, name))
    own.cache = gpt2.cache
    assert own.encode(text) == gpt2.encode(text)


def test_a_copy_of_gpt2s_encoder_encodes_alike(gpt2):
    """All its attributes are copies."""
    assert copy.deepcopy(gpt2).encode(TEXT) == IDS
