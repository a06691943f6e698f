"""The shipped weights are as good as the project says."""

from pathlib import Path

import mingpt
from mingpt.bpe import get_encoder
from mingpt.data import load_book
from mingpt.scoring import bits_per_byte

WEIGHTS = Path(__file__).parents[2] / "weights/gpt.pt"


def test_the_shipped_weights_predict_the_held_out_text():
    book = load_book()
    num_bytes = len(get_encoder().decode_bytes(book.heldout.tolist()))
    bpb = bits_per_byte(mingpt.load(WEIGHTS), book.train, book.heldout, num_bytes, 64, 32)
    assert 1.5 < bpb <= 1.97
