"""Arithmetic coding and the compressed file: exact, short, and refused when anything differs."""

import copy
import math
import subprocess
import sys
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import mingpt
from mingpt import coding
from mingpt.arithmetic import ArithmeticDecoder, ArithmeticEncoder, frequencies, interval
from mingpt.data import load_book
from mingpt.vocabulary import BookVocabulary
from tests.mingpt.helpers import small_model

TEXT = "Alice was beginning to get very tired of sitting by her sister on the bank.\r\n"


def arithmetic_round_trip(rows, symbols):
    """Code symbols (N,) under frequencies rows (N, V); returns the bytes, decoded again equal."""
    encoder = ArithmeticEncoder()
    for row, symbol in zip(rows, symbols, strict=True):
        encoder.encode(*interval(row, symbol))
    code = encoder.to_bytes()
    decoder = ArithmeticDecoder(code)
    assert [decoder.decode(row) for row in rows] == symbols
    return code


@given(st.lists(st.tuples(st.lists(st.integers(1, 2**29), min_size=2, max_size=7),
                          st.integers(0, 6)), max_size=60))  # fmt: skip
def test_any_symbols_under_any_frequencies_come_back(steps):
    rows = [torch.tensor(row) for row, _ in steps]
    symbols = [symbol % len(row) for row, symbol in steps]
    code = arithmetic_round_trip(rows, symbols)
    bits = sum(math.log2(int(r.sum()) / int(r[s])) for r, s in zip(rows, symbols, strict=True))
    assert 8 * len(code) <= bits + 2 + 7 + 1e-6 * len(rows)


def test_the_code_is_as_long_as_the_entropy_says():
    generator = torch.Generator().manual_seed(0)
    log_probs = torch.randn(2000, 50, generator=generator, dtype=torch.float64).log_softmax(dim=1)
    symbols = torch.multinomial(log_probs.exp(), 1, generator=generator)[:, 0].tolist()
    code = arithmetic_round_trip([frequencies(row) for row in log_probs], symbols)
    bits = -float(log_probs[torch.arange(2000), symbols].sum()) / math.log(2)
    assert len(code) == pytest.approx(bits / 8, abs=2)


def test_frequencies_are_positive_and_close():
    log_probs = torch.linspace(0, -800, 50257, dtype=torch.float64).log_softmax(dim=0)
    whole = frequencies(log_probs)
    assert int(whole.min()) >= 1
    assert int(whole.sum()) <= 2**32
    assert np.allclose(whole / whole.sum(), log_probs.exp(), atol=3e-5)


@pytest.fixture(scope="module")
def setting():
    """A small model, its encoder, and a short primer."""
    vocabulary = BookVocabulary(torch.arange(256))
    model = small_model(vocab_size=256, block_size=16)
    primer = torch.tensor(vocabulary.encode(TEXT * 3))
    return model, {"encoder": vocabulary, "primer": primer}


@pytest.mark.parametrize("method", ["static", "adaptive"])
@pytest.mark.parametrize("text", ["", "a", "\x00", TEXT, "日本語 Größe\r\n \U0001f600", "a" * 30])
def test_texts_come_back(setting, method, text):
    model, options = setting
    content = coding.compress(text, model, method, **options)
    assert coding.decompress(content, model, **options) == text
    header, _ = coding.parse(content)
    assert header.tokens == len(options["encoder"].encode(text))


@pytest.mark.parametrize("kind", [list, bytes, np.array, lambda p: np.array(p, np.uint8),
                                  lambda p: torch.tensor(p, dtype=torch.int32)])  # fmt: skip
def test_a_primer_is_tokens_of_any_kind(setting, kind):
    model, options = setting
    primer = kind(options["primer"].tolist())
    content = coding.compress("Alice", model, "static", options["encoder"], primer)
    assert content == coding.compress("Alice", model, "static", **options)
    assert coding.decompress(content, model, options["encoder"], primer) == "Alice"
    for none in ([0.5] * 40, "text" * 10, [[1, 2]] * 40):
        with pytest.raises(ValueError, match="tokens should be whole numbers"):
            coding.compress("Alice", model, "static", options["encoder"], none)


def test_the_caller_s_settings_decide_nothing_and_stay(setting):
    model, options = setting
    expected = coding.compress(TEXT, model, **options)
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    model.train()
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(threads + 1)
    torch.set_float32_matmul_precision("medium")
    torch.set_default_device("meta")
    try:
        with torch.inference_mode():
            assert coding.compress(TEXT, model, **options) == expected
            assert coding.decompress(expected, model, **options) == TEXT
        assert torch.get_num_threads() == threads + 1
        assert torch.get_default_dtype() == torch.float64
        assert torch.get_float32_matmul_precision() == "medium"
        assert torch.get_default_device().type == "meta"
        assert model.training
    finally:
        torch.set_default_device(None)
        torch.set_float32_matmul_precision(precision)
        torch.set_default_dtype(torch.float32)
        torch.set_num_threads(threads)
        model.eval()


@pytest.mark.parametrize("precision", ["ieee", "tf32", "bf16"])
def test_products_are_in_float32_inside_and_as_the_caller_has_them_after(precision):
    """PyTorch's newer setting, which its older functions refuse to read where the two differ."""
    products = torch.backends.mkldnn.matmul
    before, products.fp32_precision = products.fp32_precision, precision
    try:
        with coding.reproducible():
            assert products.fp32_precision == "ieee"
        assert products.fp32_precision == precision
    finally:
        products.fp32_precision = before


@pytest.mark.parametrize("frozen", ["", "transformer.wte", "lm_head"])
def test_frozen_weights_learn_on_the_way_in_a_copy(setting, frozen):
    model, options = setting
    expected = coding.compress(TEXT, model, **options)
    asked = copy.deepcopy(model)
    asked.get_submodule(frozen).requires_grad_(False)
    trainable = [parameter.requires_grad for parameter in asked.parameters()]
    assert coding.compress(TEXT, asked, **options) == expected
    assert [parameter.requires_grad for parameter in asked.parameters()] == trainable


def test_overhead_is_small(setting):
    model, options = setting
    assert len(coding.compress("", model, **options)) <= 40


def test_every_truncation_and_alteration_is_refused(setting):
    model, options = setting
    content = coding.compress("Alice", model, "static", **options)
    for length in range(len(content)):
        with pytest.raises(coding.CodingError, match=r"damaged|not a text"):
            coding.decompress(content[:length], model, **options)
    for position in range(len(content)):
        altered = bytearray(content)
        altered[position] ^= 16
        with pytest.raises(coding.CodingError, match=r"damaged|not a text"):
            coding.decompress(bytes(altered), model, **options)
    with pytest.raises(coding.CodingError, match="not a text"):
        coding.decompress(b"PK\x03\x04 something else", model, **options)


def resealed(content, position, value):
    """A file with one byte of its header changed and a checksum that fits."""
    content = bytearray(content[:-4])
    content[position] = value
    return bytes(content) + zlib.crc32(content).to_bytes(4, "little")


def test_another_model_primer_version_or_machine_is_refused(setting):
    model, options = setting
    content = coding.compress(TEXT, model, "static", **options)
    with pytest.raises(coding.CodingError, match="another model"):
        coding.decompress(content, small_model(seed=1, vocab_size=256, block_size=16), **options)
    with pytest.raises(coding.CodingError, match="another model or primer"):
        coding.decompress(content, model, options["encoder"], options["primer"][1:])
    with pytest.raises(coding.CodingError, match=r"version 9"):
        coding.decompress(resealed(content, 4, 9), model, **options)
    with pytest.raises(coding.CodingError, match=r"method 7"):
        coding.decompress(resealed(content, 5, 7), model, **options)
    with pytest.raises(coding.CodingError, match=r"PyTorch 9\."):
        coding.decompress(resealed(content, 6, 9), model, **options)
    with pytest.raises(coding.CodingError, match=r"NumPy 9\.\d+\.\d+; here are PyTorch"):
        coding.decompress(resealed(content, 9, 9), model, **options)
    with pytest.raises(coding.CodingError, match="machine whose arithmetic"):
        coding.decompress(resealed(content, 18, content[18] ^ 1), model, **options)
    with pytest.raises(coding.CodingError, match="went astray"):
        coding.decompress(resealed(content, 22, content[22] ^ 1), model, **options)


def test_wrong_arguments_are_refused(setting):
    model, options = setting
    with pytest.raises(ValueError, match="unknown method 'zip'"):
        coding.compress(TEXT, model, "zip", **options)
    with pytest.raises(ValueError, match="surrogates"):
        coding.compress("\ud800", model, **options)
    with pytest.raises(ValueError, match="256 tokens, its encoder 50257"):
        coding.compress(TEXT, model)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    vocabulary = BookVocabulary.of(load_book().train)
    model = small_model(vocab_size=vocabulary.vocab_size, n_embd=12, n_layer=1)
    path = tmp_path_factory.mktemp("coding") / "small.pt"
    mingpt.save(model, path, vocabulary=vocabulary.ids)
    return path


def test_fresh_processes_give_the_text_back(weights, tmp_path):
    plain, packed, back = (tmp_path / name for name in ("text", "text.mgpt", "back"))
    plain.write_bytes((TEXT * 2).encode())
    for command in (["compress", plain], ["decompress", packed, "--out", back]):
        done = subprocess.run(
            [sys.executable, "-m", "mingpt.coding", *map(str, command), "--weights", str(weights)],
            capture_output=True, text=True, encoding="utf-8",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    assert back.read_bytes() == plain.read_bytes()
    assert packed.stat().st_size < plain.stat().st_size


def run(capsys, *arguments):
    code = coding.main(list(map(str, arguments)))
    return code, capsys.readouterr().err


def test_mistakes_are_one_line_and_leave_nothing(weights, tmp_path, capsys):
    (tmp_path / "latin1").write_bytes("Größe".encode("latin-1"))
    (tmp_path / "noise.mgpt").write_bytes(b"noise")
    (tmp_path / "taken").write_text("keep me", encoding="utf-8")
    before = sorted(tmp_path.iterdir())
    for arguments, message in [
        (["compress", tmp_path / "latin1"], "not UTF-8 text: byte 2"),
        (["compress", tmp_path / "missing"], "no such file"),
        (["compress", tmp_path], "no such file"),
        (["compress", tmp_path / "latin1", "--out", tmp_path / "taken"], "exists"),
        (["decompress", tmp_path / "noise.mgpt"], "not a text compressed"),
        (["compress", tmp_path / "taken", "--weights", tmp_path / "none.pt"], "no such weights"),
    ]:
        options = [] if "--weights" in arguments else ["--weights", weights]
        code, error = run(capsys, *arguments, *options)
        assert code == 2
        assert message in error
        assert error.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "taken").read_text(encoding="utf-8") == "keep me"


def test_an_interrupt_leaves_no_file(weights, tmp_path, monkeypatch, capsys):
    (tmp_path / "text").write_text(TEXT, encoding="utf-8")

    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(coding, "frequencies", interrupted)
    code, _ = run(capsys, "compress", tmp_path / "text", "--weights", weights)
    assert code == 130
    assert [path.name for path in tmp_path.iterdir()] == ["text"]


def test_results_lie_beside_their_file(tmp_path):
    assert coding.default_out(tmp_path / "a.txt", True) == tmp_path / "a.txt.mgpt"
    assert coding.default_out(tmp_path / "a.txt.mgpt", False) == tmp_path / "a.txt"
    assert coding.default_out(tmp_path / "a", False) == tmp_path / "a.txt"
