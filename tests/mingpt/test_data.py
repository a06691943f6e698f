import hashlib
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest
import torch

from mingpt import data
from mingpt.bpe import get_encoder
from mingpt.data import BlockDataset, load_book
from mingpt.discounting import AbsoluteDiscount
from mingpt.merges import DataError, load_merges
from mingpt.scoring import windows
from mingpt.vocabulary import BookVocabulary
from tests.mingpt.helpers import tokens


def test_the_book_is_cut_where_the_design_says():
    book, encoder = load_book(), get_encoder()
    train = encoder.decode(book.train.tolist())
    heldout = encoder.decode(book.heldout.tolist())
    assert len(heldout.encode()) == 14_833
    assert data.split_text(train + heldout) == (train, heldout)
    assert heldout.startswith("\n")
    assert hashlib.sha256((train + heldout).encode()).hexdigest() == data.TEXT_SHA256
    assert book.train.dtype == torch.int64


def test_merges_join_earlier_ids():
    merges = load_merges()
    assert merges.shape == (50_000, 2)
    assert (merges.max(axis=1) < 256 + np.arange(50_000)).all()


def published_merges():
    """vocab.bpe as published, rebuilt from the shipped array."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(b) for b in printable] + [chr(256 + i) for i in range(256 - len(printable))]
    lines = ["#version: 0.2"]
    for left, right in load_merges().tolist():
        lines.append(f"{letters[left]} {letters[right]}")
        letters.append(letters[left] + letters[right])
    return ("\n".join(lines) + "\n").encode()


def book_text():
    book = load_book()
    return get_encoder().decode(torch.cat(list(book)).tolist()).encode()


@pytest.fixture
def server():
    """A local HTTP server of {path: content}; returns (address, files)."""
    files = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            content = files.get(self.path)
            self.send_response(200 if content is not None else 404)
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, *args):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}", files
        http.shutdown()
        thread.join()


def test_download_builds_the_shipped_arrays(server, tmp_path, capsys):
    address, files = server
    files.update({"/alice.txt": book_text(), "/vocab.bpe": published_merges()})
    urls = ["--text-url", f"{address}/alice.txt", "--merges-url", f"{address}/vocab.bpe"]
    assert data.main([*urls, "--out", str(tmp_path)]) == 0
    for name in ("alice.npz", "gpt2_merges.npy"):
        assert (tmp_path / name).read_bytes() == (data.DATA_DIR / name).read_bytes()
    assert "wrote" in capsys.readouterr().out


def test_local_files_build_the_shipped_arrays(tmp_path):
    (tmp_path / "alice.txt").write_bytes(book_text())
    (tmp_path / "vocab.bpe").write_bytes(published_merges())
    arguments = ["--text", str(tmp_path / "alice.txt"), "--merges", str(tmp_path / "vocab.bpe")]
    assert data.main([*arguments, "--out", str(tmp_path / "out")]) == 0
    assert torch.equal(load_book(tmp_path / "out").heldout, load_book().heldout)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "404"),
        ({"/alice.txt": b"Alice was", "/vocab.bpe": b""}, "text has a wrong checksum"),
        ({"/alice.txt": None, "/vocab.bpe": b"#version: 0.2\n"}, "merge list has a wrong checksum"),
    ],
)
def test_a_wrong_download_writes_nothing(server, tmp_path, capsys, files, message):
    address, served = server
    served.update({k: book_text() if v is None else v for k, v in files.items()})
    urls = ["--text-url", f"{address}/alice.txt", "--merges-url", f"{address}/vocab.bpe"]
    assert data.main([*urls, "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_no_network_is_a_clear_error(tmp_path, capsys):
    assert data.main(["--text-url", "http://127.0.0.1:9/alice.txt", "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "cannot download http://127.0.0.1:9/alice.txt" in error
    assert "--text and --merges" in error


def test_a_missing_local_file_is_a_clear_error(tmp_path, capsys):
    assert data.main(["--text", str(tmp_path / "none.txt")]) == 2
    assert "cannot read" in capsys.readouterr().err


def test_missing_damaged_or_altered_arrays_are_refused(tmp_path):
    with pytest.raises(DataError, match="missing"):
        load_book(tmp_path)
    whole = (data.DATA_DIR / "alice.npz").read_bytes()
    (tmp_path / "alice.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="cannot be read"):
        load_book(tmp_path)
    train, heldout = (part.numpy().astype(np.uint16) for part in load_book())
    train[100] += 1
    np.savez(tmp_path / "alice.npz", train=train, heldout=heldout)
    with pytest.raises(DataError, match="wrong checksum"):
        load_book(tmp_path)


def test_blocks_are_shifted_by_one():
    dataset = BlockDataset(torch.arange(20), block_size=5)
    assert len(dataset) == 15
    x, y = dataset[3]
    assert (x.tolist(), y.tolist()) == ([3, 4, 5, 6, 7], [4, 5, 6, 7, 8])
    assert dataset[-1][1][-1] == 19
    xs, ys = dataset.batch(torch.tensor([0, 14]))
    assert torch.equal(xs[1], dataset[14][0])
    assert torch.equal(ys[0], dataset[0][1])
    with pytest.raises(IndexError):
        dataset[15]


def test_a_block_larger_than_the_data_is_refused():
    with pytest.raises(ValueError, match="block size 20 is larger than the data allow"):
        BlockDataset(torch.arange(20), block_size=20)
    with pytest.raises(ValueError, match="at least 1"):
        BlockDataset(torch.arange(20), block_size=0)


def test_tokens_of_any_integer_kind_give_the_same_blocks(tmp_path):
    numbers = [(7 * i) % 50_000 for i in range(100)]
    np.array(numbers, dtype=np.uint16).tofile(tmp_path / "train.bin")
    mapped = np.memmap(tmp_path / "train.bin", dtype=np.uint16, mode="r")
    kinds = [
        numbers, mapped, np.array(numbers), np.array(numbers, dtype=np.int32),
        torch.tensor(numbers, dtype=torch.int32), torch.tensor(numbers),
    ]  # fmt: skip
    for kind in kinds:
        dataset = BlockDataset(kind, np.int64(5))
        x, y = dataset.batch(torch.tensor([0, 94]))
        assert (x.dtype, y.dtype) == (torch.int64, torch.int64)
        assert x[1].tolist() == numbers[94:99]
        assert y.tolist() == [numbers[1:6], numbers[95:100]]
        assert dataset.vocab_size == max(numbers) + 1
        assert dataset[np.int64(3)][0].tolist() == numbers[3:8]
    for none in ([0.5, 1.0] * 10, np.zeros((4, 5), dtype=int), torch.zeros(20)):
        with pytest.raises(ValueError, match="tokens should be whole numbers"):
            BlockDataset(none, 5)


def test_a_text_without_a_late_newline_is_cut_at_its_last_tenth():
    assert data.split_text("a" * 18 + "bc") == ("a" * 18, "bc")
    assert data.split_text("a\n" + "b" * 18) == ("a\n" + "b" * 16, "bb")
    assert data.split_text("") == ("", "")


def test_bytes_are_tokens():
    text = "Zoë was".encode()
    for kind in (text, bytearray(text), memoryview(text), np.frombuffer(text, np.uint8)):
        x, y = BlockDataset(kind, 3).batch(torch.tensor([0]))
        assert (x.tolist(), y.tolist()) == ([[*text[:3]]], [[*text[1:4]]])
    with pytest.raises(ValueError, match="bytes, not text"):
        BlockDataset("Zoë was", 3)


@pytest.mark.parametrize("kind", [list, np.array, lambda t: np.array(t, "uint16"),
                                  lambda t: torch.tensor(t, dtype=torch.int32)])  # fmt: skip
def test_tokens_of_every_kind_mean_the_same_everywhere(kind):
    text = (tokens(300) % 7 * 13).tolist()
    expected = torch.tensor(text)
    ids = BookVocabulary.of(expected).ids
    assert torch.equal(BookVocabulary.of(kind(text)).ids, ids)
    groups = torch.arange(97) % 3
    share = AbsoluteDiscount(expected, groups).share
    assert torch.equal(AbsoluteDiscount(kind(text), groups).share, share)
    for found, wanted in zip(windows(kind(text), kind(text[:50])), windows(expected, expected[:50]),
                             strict=True):  # fmt: skip
        assert torch.equal(found, wanted)
    with pytest.raises(ValueError, match="tokens should be whole numbers"):
        BookVocabulary.of([0.5])


def test_a_text_is_cut_at_a_line_end_where_its_last_tenth_has_one_soon():
    line = "a" * 9 + "\n"
    train, heldout = data.split_text(line * 20)
    assert (len(train), len(heldout)) == (189, 11)
    for text in ("a" * 100, "a" * 99 + "\n", "\n" + "a" * 99):
        assert [len(part) for part in data.split_text(text)] == [90, 10]
    assert data.split_text("") == ("", "")


def test_a_text_is_cut_at_the_line_end_before_its_last_tenth_where_that_has_none_soon():
    early = "a" * 9 + "\n"
    for end in ("b" * 10, "b" * 9 + "\n"):  # a newline in the second half of the last tenth
        assert data.split_text(early * 9 + end) == (early * 8 + "a" * 9, "\n" + end)
    text = early * 8 + "a" * 20  # the last newline comes before the last fifth
    assert data.split_text(text) == (text[:90], text[90:])
    text = early * 9 + "b" * 4 + "\n" + "b" * 5  # a newline after the mark comes first
    assert data.split_text(text) == (text[:94], text[94:])
