"""The study of leaving early: its numbers agree with each other, its options refuse mistakes."""

import json
from argparse import Namespace

import pytest
import torch

import example_gpt
import mingpt
from mingpt.cli import Run, run_questions
from mingpt.studies import early_exit as study
from mingpt.studies.parts import early_exit_models as models
from tests.mingpt.helpers import small_model

BLOCKS = 3
TOKENS = 96  # of the texts: with tiny models and few tokens the study takes seconds


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The whole study, put to tiny models and the beginning of each text."""
    out = tmp_path_factory.mktemp("out")
    (out / "results").mkdir()
    all_texts = models.texts()
    short = all_texts._replace(
        validation=all_texts.validation[:TOKENS], heldout=all_texts.heldout[:TOKENS]
    )
    sizes = {"vocab_size": all_texts.encoder.vocab_size, "block_size": 64, "scale": 20.0}
    names = {f"alone_{n}": n for n in range(BLOCKS, 0, -1)}
    found = {name: small_model(n_layer=n, **sizes) for name, n in names.items()}
    found["joint"] = small_model(seed=1, **sizes)
    args = Namespace(out=out, device="cpu", seed=0, model="gpt-nano")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "NEXT_DRAWS", 2000)
        patch.setattr(study, "STOPPING_DRAWS", 2000)
        patch.setattr(study, "PROMPTS", 1)
        run = Run(study.STUDY, args, found)
        run._kept[models.texts] = short
        run_questions(run, out / "results" / "early-exit.json")
    return run


def test_the_results_file_holds_every_question(run):
    content = json.loads((run.args.out / "results/early-exit.json").read_text(encoding="utf-8"))
    assert set(study.STUDY.questions) <= content.keys()
    names = {path.stem for path in (run.args.out / "figures").iterdir()}
    assert names == {f"early-exit_{n}" for n in
                     ("cascade", "exits", "thresholds", "agreement", "macs")}  # fmt: skip


def test_the_ends_of_a_sweep_are_the_first_and_the_last_exit(run):
    rows = run.results["thresholds"]["sweeps"]["trained jointly"]
    by_blocks = run.results["exits"]["by_blocks"]["trained jointly"]
    for row, network in ((rows[0], by_blocks[0]), (rows[-1], by_blocks[-1])):
        for key in ("accuracy", "bits_per_byte"):
            assert row[key] == pytest.approx(network[key], abs=1e-5)
    assert rows[0]["mean_blocks"] == 1
    assert rows[-1]["mean_blocks"] == BLOCKS
    assert rows[-1]["macs_ratio"] == rows[-1]["macs_ratio_blocks"] == 1
    assert rows[-1]["agreement_late"] == 1


def test_shares_and_means_of_a_row_add_up(run):
    for rows in run.results["thresholds"]["sweeps"].values():
        for row in rows:
            exits = row["tokens_by_exit"]
            assert sum(exits) == TOKENS
            assert row["share_early"] == pytest.approx(sum(exits[:-1]) / TOKENS)
            both = sum(row[f"accuracy_{kind}"] * share for kind, share in
                       (("early", row["share_early"]), ("late", 1 - row["share_early"]))
                       if share > 1e-9)  # fmt: skip
            assert row["accuracy"] == pytest.approx(both)


def test_networks_by_lot_cost_what_was_asked():
    costs = {1: 10.0, 2: 16.0, 5: 40.0}
    for ours in (10.0, 12.0, 16.0, 39.0, 40.0):
        share = study.shares(costs, ours)
        assert sum(share.values()) == pytest.approx(1)
        assert sum(costs[b] * w for b, w in share.items()) == pytest.approx(ours)
    assert study.shares(costs, 3.0) == {1: 1.0}
    assert study.shares(costs, 99.0) == {5: 1.0}


def test_the_full_network_neither_gains_nor_loses_against_itself(run):
    same = dict(run.models) | {"joint": run.models[f"alone_{BLOCKS}"]}
    other = Run(run.study, run.args, same)
    other._kept[models.texts] = run.once(models.texts)
    row = study.compare(other, "heldout")[-1]
    for against in row["against"].values():
        assert against["accuracy"] == against["nats"] == 0
        assert against["blocks"] == BLOCKS


def test_the_chosen_threshold_is_the_smallest_that_gains_on_the_validation_part(run):
    smaller = run.results["smaller"]
    for counted, measures in smaller["smallest_threshold"].items():
        gains = [(row["threshold"], row["against"][counted]["accuracy"])
                 for row in smaller["search"]["validation"]]  # fmt: skip
        better = [threshold for threshold, gain in gains if gain > 0]
        assert measures["accuracy"]["threshold"] == min(better, default=None)


def test_writing_at_threshold_1_is_plain(run):
    rows = run.results["generation"]["rows"]
    assert rows[0]["threshold"] == 1
    assert rows[0]["same_tokens_as_plain"] == 1
    assert all(1 <= row["mean_blocks"] <= BLOCKS for row in rows)


def test_mean_and_error_of_equal_groups():
    values = torch.tensor([0.0, 1.0]).repeat_interleave(32).double()
    assert models.mean_and_error(values) == pytest.approx((0.5, 0.5))


def command(*arguments):
    try:
        return example_gpt.main(["--study", "early-exit", *map(str, arguments)])
    except SystemExit as stop:
        return stop.code


def test_models_are_trained_saved_and_loaded(tmp_path):
    args = Namespace(model="gpt-nano", max_iters=2, seed=0, device="cpu", save=tmp_path,
                     weights=None)  # fmt: skip
    names = models.load(args)
    assert list(names) == ["joint", "alone_3", "alone_2", "alone_1"]
    again = Run(study.STUDY, args, {})
    trained = {name: models.train(again, name) for name in ("joint", "alone_1")}
    assert trained["joint"].config.n_layer == 3
    assert trained["alone_1"].config.n_layer == 1
    for name in ("alone_2", "alone_3"):
        mingpt.save(trained["joint"], tmp_path / models.file_of(name))
    args.weights = tmp_path
    with pytest.raises(ValueError, match=r"alone_3\.pt is no model of this study"):
        models.load(args)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--weights", "none"], "no such weights file"),
        (["--max-iters", "0"], "--max-iters should be at least 1"),
        (["--model", "gpt-huge"], "invalid choice"),
        (["--threshold", "0.5"], "has no option --threshold"),
    ],
)
def test_mistakes_are_one_line(arguments, message, tmp_path, capsys):
    assert command(*arguments, "--out", tmp_path / "out", "--save", tmp_path / "save") == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
