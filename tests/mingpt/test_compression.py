"""The study of compression: its numbers agree with each other, its options refuse mistakes."""

import json
import math
from argparse import Namespace
from pathlib import Path

import pytest
import torch

import example_gpt
import mingpt
from mingpt import coding
from mingpt.cli import Run, run_questions
from mingpt.data import Book, load_book
from mingpt.mixing import ADAPTIVE_WEIGHTS, RATE, adaptive_mixture
from mingpt.studies import compression
from mingpt.vocabulary import BookVocabulary
from tests.mingpt.helpers import small_model

TOKENS = 96  # of the held-out text: with a tiny model and few tokens the study takes seconds


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    vocabulary = BookVocabulary.of(torch.cat(load_book()))
    model = small_model(vocab_size=vocabulary.vocab_size, n_embd=12, n_layer=1)
    path = tmp_path_factory.mktemp("compression") / "small.pt"
    mingpt.save(model, path, vocabulary=vocabulary.ids)
    return path


@pytest.fixture(scope="module")
def run(weights, tmp_path_factory):
    """The whole study, put to a tiny model and the beginning of the held-out text."""
    out = tmp_path_factory.mktemp("out")
    gpt = compression.load(Namespace(weights=weights))["gpt"]
    gpt = gpt._replace(book=Book(gpt.book.train, gpt.book.heldout[:TOKENS]))
    run = Run(compression.STUDY, Namespace(out=out), {"gpt": gpt})
    (out / "results").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(compression.COMPRESSORS, "not installed", (["no-such-program"], 3.5))
        run_questions(run, out / "results" / "compression.json")
    return run


def test_the_results_file_holds_every_question(run):
    content = json.loads((run.args.out / "results/compression.json").read_text(encoding="utf-8"))
    assert set(compression.STUDY.questions) <= content.keys()
    names = {path.stem for path in (run.args.out / "figures").iterdir()}
    assert names == {f"compression_{n}" for n in ("bits_per_byte", "position", "frequency")}


def test_a_compressor_that_is_missing_keeps_its_published_figure(run):
    found = run.results["compressors"]
    assert found["bits_per_byte"]["not installed"] == 3.5
    assert "not installed" not in found["measured_here"]


def test_replayed_members_mix_as_the_real_ones(run):
    gpt = run.models["gpt"]
    mixture = adaptive_mixture(gpt.model, gpt.encoder, gpt.book.train)
    scores = []
    for token in gpt.book.heldout.tolist():
        scores.append(mixture.predict()[token])
        mixture.update(token)
    replayed = compression.learning(run.once(compression.predictions))
    assert torch.allclose(replayed, torch.stack(scores), atol=1e-9)


def test_the_file_is_as_long_as_the_prediction_says(run):
    found = run.results["file"]
    assert found["decodes_byte_for_byte_in_a_fresh_process"]
    assert 0 < found["bytes_beyond_the_prequential_bits"] <= 40


def test_blocks_and_frequencies_add_up_to_the_whole(run):
    where, bpb = run.results["where"], run.results["predictors"]["bits_per_byte"]
    blocks = compression.blocks(run)
    total = blocks[-1][1]
    assert total == run.results["file"]["text_bytes"]
    for name in (compression.ALL, compression.LEARNING["ngram"]):
        by_block = where["bits_per_byte_by_block"][name]
        bits = sum(b * (end - start) for b, (start, end, _) in zip(by_block, blocks, strict=True))
        assert bits == pytest.approx(bpb[name] * total)
        by_kind = where["bits_per_token_by_occurrences"][name]
        bits = sum(b * n for b, n in zip(by_kind, where["heldout_tokens"], strict=True))
        assert bits == pytest.approx(bpb[name] * total)


def test_the_ablation_is_against_all_together(run):
    everything = run.results["predictors"]["bits_per_byte"][compression.ALL]
    for found in run.results["ablation"]["variants"].values():
        assert found["cost_bits_per_byte"] == pytest.approx(found["bits_per_byte"] - everything)
        assert 0 < found["standard_error"] < math.inf


def test_without_the_gpts_predictions_its_states_are_still_compared(run):
    made = run.once(compression.predictions)
    two = {name: made.learning[name] for name in ("ngram", "neighbours")}
    nats = compression.mixed(two, ADAPTIVE_WEIGHTS, RATE, made.matched)
    name = "without GPT's own predictions (neighbours keep its states)"
    found = run.results["ablation"]["variants"][name]["bits_per_byte"]
    assert found == pytest.approx(compression.bits_per_byte(run, nats))


def test_a_mixture_of_one_is_that_one():
    scores = torch.tensor([-1.0, -2.0, -3.0], dtype=torch.float64)
    mixed = compression.mixed({"gpt": scores}, ADAPTIVE_WEIGHTS, RATE, [0, 1, 2])
    assert torch.allclose(mixed, scores)


def study(*arguments):
    try:
        return example_gpt.main(["--study", "compression", *map(str, arguments)])
    except SystemExit as stop:
        return stop.code


def test_a_file_goes_through_the_script_and_back(weights, tmp_path, capsys):
    plain = tmp_path / "poem.txt"
    plain.write_bytes("Größe,\r\n“curiouser”".encode())
    assert study("--compress", plain, "--weights", weights) == 0
    back = tmp_path / "back"
    packed = tmp_path / "poem.txt.mgpt"
    assert study("--decompress", packed, "--to", back, "--weights", weights) == 0
    assert back.read_bytes() == plain.read_bytes()
    size, text_size = packed.stat().st_size, plain.stat().st_size
    first, second, third, fourth = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{plain} will take about ")
    assert third.startswith(f"{packed} will take about ")
    assert [second, fourth] == [
        f"wrote {packed}: {size} bytes, {8 * size / text_size:.3f} bits per byte",
        f"wrote {back}: {text_size} bytes",
    ]


def test_mistakes_are_one_line(weights, tmp_path, capsys):
    damaged = tmp_path / f"damaged{coding.SUFFIX}"
    damaged.write_bytes(b"mGPT\x01")
    before = sorted(tmp_path.iterdir())
    for arguments, message in [
        (["--to", tmp_path / "x"], "--to goes with"),
        (["--compress", tmp_path / "a", "--decompress", tmp_path / "b"], "not both"),
        (["--compress", tmp_path / "none"], "no such file"),
        (["--compress", damaged, "--to", damaged], "exists"),
        (["--decompress", damaged, "--weights", weights], "damaged: truncated or altered"),
        (["--weights", tmp_path / "none.pt"], "no such weights file"),
        (["--order", "3"], "has no option --order"),
    ]:
        assert study(*arguments) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


def test_the_default_weights_are_the_shipped_ones():
    root = Path(example_gpt.__file__).parent
    assert (root / coding.WEIGHTS).is_file()
