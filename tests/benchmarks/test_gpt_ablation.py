"""tests/benchmarks/gpt_ablation.py at tiny settings, so that it keeps working."""

import json

import pytest

from mingpt.bpe import get_encoder
from mingpt.data import load_book
from tests.benchmarks import gpt_ablation

TINY = {"max_iters": 4, "batch_size": 2}


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
    evaluations, not_averaged = gpt_ablation.train(
        changes, 11, book.train[:2000], validation, num_bytes
    )
    assert [iteration for iteration, _ in evaluations] == [4]
    assert 3 < gpt_ablation.final(evaluations) < 8  # a uniform guess takes 15.6 bits per token
    averages = "averaged_share" not in changes["recipe"]
    assert (not_averaged != gpt_ablation.final(evaluations)) is averages


def test_runs_that_were_asked_for_are_kept(tmp_path, monkeypatch, capsys):
    asked = []

    def train(changes, seed, *data):
        asked.append((changes, seed))
        return [(25, 2.0 + len(changes)), (50, 1.5 + len(changes))], 1.75

    path, reference = tmp_path / "results.json", gpt_ablation.REFERENCE
    monkeypatch.setattr(gpt_ablation, "PATH", path)
    monkeypatch.setattr(gpt_ablation, "train", train)
    runs = "validation_bits_per_byte_by_iteration"
    assert gpt_ablation.main([reference, "--seeds", "11", "12"]) == 0
    of_reference = {str(seed): [[25, 2.0], [50, 1.5]] for seed in (11, 12)}
    not_averaged = {str(seed): [[50, 1.75]] for seed in (11, 12)}
    assert json.loads(path.read_text(encoding="utf-8"))[runs] == {
        reference: of_reference, gpt_ablation.NOT_AVERAGED: not_averaged,
    }  # fmt: skip
    assert gpt_ablation.main([]) == 0  # all, with one seed; those it has are not run again
    found = json.loads(path.read_text(encoding="utf-8"))[runs]
    assert found[reference] == of_reference
    assert set(found) == {*gpt_ablation.VARIANTS, gpt_ablation.NOT_AVERAGED}
    assert len(asked) == 2 + len(gpt_ablation.VARIANTS) - 1
    assert gpt_ablation.main(["no such thing"]) == 2
    assert "no variant 'no such thing'; there are: " in capsys.readouterr().err


def test_the_committed_averages_are_of_todays_rule_and_change_the_result():
    committed = json.loads(gpt_ablation.PATH.read_text(encoding="utf-8"))
    assert committed["averaging"] == gpt_ablation.AVERAGING
    runs = committed["validation_bits_per_byte_by_iteration"]
    assert gpt_ablation.NOT_AVERAGED in runs
    for name in runs.keys() & {gpt_ablation.NOT_AVERAGED, "average over a sixth"}:
        for seed, evaluations in runs[name].items():
            averaged = gpt_ablation.final(runs[gpt_ablation.REFERENCE][seed])
            assert abs(gpt_ablation.final(evaluations) - averaged) > 1e-3
