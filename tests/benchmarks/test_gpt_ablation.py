"""tests/benchmarks/gpt_ablation.py at tiny settings, so that it keeps working."""

import json
import sys

import pytest

from mingpt.bpe import get_encoder
from mingpt.data import load_book
from tests.benchmarks import gpt_ablation

TINY = {"max_iters": 2, "batch_size": 2}


@pytest.mark.parametrize(
    "name",
    ["the default recipe", "tokens split at random, 10 %", "minGPT's recipe"],
)
def test_a_variant_trains(name):
    changes = gpt_ablation.VARIANTS[name]
    changes = changes | {
        "recipe": changes.get("recipe", {}) | TINY,
        "model": changes.get("model", {}) | {"model_type": "gpt-nano"},
    }
    book = load_book()
    validation = book.train[-80:]
    num_bytes = len(get_encoder().decode_bytes(validation.tolist()))
    evaluations = gpt_ablation.train(changes, 11, book.train[:2000], validation, num_bytes)
    assert [iteration for iteration, _ in evaluations] == [2]
    assert 3 < gpt_ablation.final(evaluations) < 8  # a uniform guess takes 15.6 bits per token


def test_variants_are_screened_finalists_repeated_and_runs_kept(tmp_path, monkeypatch, capsys):
    asked = []

    def train(changes, seed, *data):
        asked.append((changes, seed))
        return [(25, 2.0 + len(changes)), (50, 1.5 + len(changes))]

    monkeypatch.setattr(gpt_ablation, "PATH", tmp_path / "results.json")
    monkeypatch.setattr(gpt_ablation, "train", train)
    monkeypatch.setattr(sys, "argv", ["gpt_ablation"])
    assert gpt_ablation.main() == 0
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    runs = results["validation_bits_per_byte_by_iteration"]
    assert set(runs) == set(gpt_ablation.VARIANTS)
    assert runs[gpt_ablation.REFERENCE] == {str(s): [[25, 2.0], [50, 1.5]] for s in (11, 12, 13)}
    finalists = 1 + gpt_ablation.FINALISTS
    assert sorted(map(len, runs.values())) == [1] * (len(runs) - finalists) + [3] * finalists
    assert len(asked) == len(runs) + 2 * finalists
    assert gpt_ablation.main() == 0
    assert len(asked) == len(runs) + 2 * finalists
