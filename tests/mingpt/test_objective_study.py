"""mingpt/studies/objective.py: two trainings that differ in what is minimised, at a small size."""

import json
import math

import pytest
import torch

import example_gpt
import mingpt
from mingpt import scoring
from mingpt.data import load_book
from mingpt.studies import objective


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("objective")
    arguments = ["--model", "gpt-nano", "--max-iters", "2", "--batch-size", "4", "--precision",
                 "float32", "--out", f"{folder}/out", "--save", str(folder)]  # fmt: skip
    assert example_gpt.main(["--study", "objective", *arguments]) == 0
    path = folder / "out/results/objective.json"
    return folder, json.loads(path.read_text(encoding="utf-8"))


def test_both_report_the_plain_loss_of_the_same_start(run):
    ours, plain = (run[1]["a"][name] for name in (objective.DISCOUNTED, objective.PLAIN))
    first, second = (of["training_loss_nats_per_token"] for of in (ours, plain))
    assert first[0] == pytest.approx(second[0], rel=1e-5)  # the same weights, batch and dropout
    assert first[1] != pytest.approx(second[1], rel=1e-5)
    assert {**ours["recipe"], **dict.fromkeys(
        ("objective", "discount", "discount_prior_of_unseen_tokens"))} == {
        **plain["recipe"], "objective": None}  # fmt: skip


def test_bits_by_kind_of_token_add_up_to_the_held_out_figure(run):
    folder, results = run
    book = load_book()
    for name in (objective.DISCOUNTED, objective.PLAIN):
        model = mingpt.load(folder / f"objective_{name}.pt")
        bits = -scoring.heldout_log_probs(model, book).sum().item() / math.log(2)
        per_byte = bits / 14833
        assert results["a"][name]["heldout_bits_per_byte"] == pytest.approx(per_byte, rel=1e-3)
        b = results["b"]
        counts = zip(b["heldout_tokens"], b["bits_per_token"][name], strict=True)
        assert sum(n * mean for n, mean in counts) == pytest.approx(b["bits_of_all"][name])
    assert sum(b["heldout_tokens"]) == len(book.heldout)
    assert b["heldout_tokens"][0] == int((~torch.isin(book.heldout, book.train)).sum())
    saved = b["bits_saved_on_unseen_tokens"] + b["bits_saved_on_seen_tokens"]
    plain, ours = (b["bits_of_all"][name] for name in (objective.PLAIN, objective.DISCOUNTED))
    assert saved == pytest.approx(plain - ours)
