"""example_gpt.py end to end at small settings, and its errors."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import example_gpt
import mingpt
from mingpt import data

SMALL = ["--model", "gpt-nano", "--max-iters", "4", "--batch-size", "4", "--starts", "2"]
FIGURES = {
    "gpt_q1_loss.png", "gpt_q2_inversion.png", "gpt_q3_last_block.png", "gpt_q4_first_block.png",
    "gpt_q4_all_blocks.png", "gpt_q5_log_prob.png",
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(folder, results) of one small training run."""
    folder = tmp_path_factory.mktemp("run")
    assert example_gpt.main([*SMALL, "--out", f"{folder}/out", "--save", f"{folder}/save"]) == 0
    return folder, json.loads((folder / "out/results_gpt.json").read_text())


def test_every_figure_and_number_is_written(run):
    folder, results = run
    assert {p.name for p in (folder / "out/figures").iterdir()} == FIGURES
    assert {p.name for p in (folder / "out").iterdir()} == {"figures", "results_gpt.json"}
    assert set(results) == {"settings", "timings", "q1", "q2", "q3", "q4", "q5"}
    assert len(results["q1"]["training_loss_nats_per_token"]) == 4
    assert results["q1"]["vocabulary_tokens"] == 50257
    recipe = results["q1"]["recipe"]
    assert recipe["objective"] == "cross-entropy of targets with an absolute discount"
    assert 0 < recipe["discount"] < 1
    assert (recipe["embedding_init_std"], recipe["embedding_weight_decay"]) == (0.08, 2.0)
    assert results["q2"]["tokens_never_in_training_part"] == [" squirrel", "nut"]
    for question in ("q3", "q4"):
        assert results[question]["sum_of_weights"][0] == pytest.approx(1)
        first = results[question]["word_positions"][0]
        assert results[question]["predicting_positions"][0] == first - 1
        assert len(results[question]["sentence"].split()) >= 11
    q5 = results["q5"]
    assert q5["log_prob_nats"] == pytest.approx(sum(q5["token_log_probs_nats"]))
    assert q5["log_prob_nats"] == pytest.approx(q5["log_prob_brute_force_nats"], abs=1e-3)


def test_the_saved_model_gives_the_same_answers(run, tmp_path):
    folder, results = run
    weights = folder / "save/gpt.pt"
    assert mingpt.load(weights).config.n_layer == 3
    assert example_gpt.main(
        ["--weights", str(weights), "--starts", "1", "--out", str(tmp_path)]
    ) == 0
    again = json.loads((tmp_path / "results_gpt.json").read_text())
    assert {p.name for p in (tmp_path / "figures").iterdir()} == FIGURES
    for question in ("q1", "q3", "q4", "q5"):
        assert again[question] == results[question]


def test_the_books_own_vocabulary_travels_in_the_checkpoint(tmp_path):
    out, save = f"{tmp_path}/out", f"{tmp_path}/save"
    small = [*SMALL, "--vocab", "book"]
    assert example_gpt.main([*small, "--out", out, "--save", save]) == 0
    results = json.loads((tmp_path / "out/results_gpt.json").read_text())
    assert results["q1"]["vocabulary_tokens"] < 4000
    assert results["q2"]["tokens_never_in_training_part"] == []
    weights = ["--weights", f"{save}/gpt.pt", "--starts", "1"]
    assert example_gpt.main([*weights, "--out", f"{tmp_path}/again"]) == 0
    again = json.loads((tmp_path / "again/results_gpt.json").read_text())
    assert again["q2"]["tokens"] == results["q2"]["tokens"]


def exit_code(arguments):
    try:
        return example_gpt.main(arguments)
    except SystemExit as stop:  # argparse's own errors
        return stop.code


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompt", ""], "--prompt is empty"),
        (["--prompt", "word " * 80], "--prompt has"),
        (["--prompt", "one two three four five six seven eight nine ten eleven"], "at most 10"),
        (["--prompt", "Alice said to the Queen that she was very glad `"], "ends in '`', which word 11"),
        (["--prompt", "supercalifragilistic" * 9 + " a"], "more tokens, and the model's block"),
        (["--seed", "99999999999999999999999"], "--seed should be 0 to 4294967295"),
        (["--seed", "-1"], "--seed should be 0 to"),
        (["--sentence", ""], "--sentence is empty"),
        (["--sentence", "walnut " * 80], "--sentence has"),
        (["--model", "gpt-huge"], "unknown model 'gpt-huge'"),
        (["--weights", "none.pt"], "no such weights file"),
        (["--weights", "none.pt", "--max-iters", "3"], "does not go with --max-iters"),
        (["--weights", "none.pt", "--compile"], "does not go with --compile"),
        (["--weights", "none.pt", "--vocab", "book"], "does not go with --vocab"),
        (["--vocab", "book", "--objective", "discounted"], "--objective discounted makes room"),
        (["--objective", "likelihood"], "argument --objective: invalid choice"),
        (["--block-size", "40000"], "larger than the data allow"),
        (["--block-size", "8"], "too small for a sentence of 11 words"),
        (["--batch-size", "99999999999999999999"], "larger than the book: it has 38302 blocks"),
        (["--prompt", "\udcff"], "--prompt is not valid UTF-8"),
        (["--sentence", "a \udcff"], "--sentence is not valid UTF-8"),
        (["--batch-size", "0"], "--batch-size should be at least 1"),
        (["--max-iters", "-3"], "--max-iters should be at least 1"),
        (["--learning-rate", "-1"], "--learning-rate should be above 0"),
        (["--temperature", "-1"], "temperature should be above 0"),
        (["--top-k", "-1"], "--top-k should be at least 0"),
        (["--top-p", "0"], "top-p should be above 0"),
        (["--device", "tpu"], "unknown device 'tpu'"),
        (["--precision", "half"], "unknown precision 'half'"),
        (["--max-iters", "many"], "invalid int value"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(tmp_path, capsys, arguments, message):
    assert exit_code([*arguments, "--out", f"{tmp_path}/out"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("example_gpt.py: error: ")
    assert message in error
    assert list(tmp_path.iterdir()) == []


def test_a_sentence_that_fills_the_block_and_a_later_error_lose_nothing(
    run, tmp_path, capsys, monkeypatch
):
    def fail(*arguments):
        raise ValueError("no such luck")

    monkeypatch.setattr(example_gpt, "q3_attention_last_block", fail)
    sentence = ["--sentence", "the" + " the" * 63, "--starts", "1", "--out", str(tmp_path)]
    assert example_gpt.main(["--weights", f"{run[0]}/save/gpt.pt", *sentence]) == 2
    assert capsys.readouterr().err.endswith("error: no such luck\n")
    results = json.loads((tmp_path / "results_gpt.json").read_text())
    assert len(results["q2"]["tokens"]) == 64
    assert results["q2"]["repeat_after_me"] == []
    assert results["q1"] == run[1]["q1"]


@pytest.mark.parametrize("iterations", ["1", "2"])
def test_diverged_training_saves_nothing(tmp_path, capsys, iterations):
    (tmp_path / "gpt.pt").write_text("a good model")
    small = ["--model", "gpt-nano", "--vocab", "book", "--max-iters", iterations]
    folders = ["--out", f"{tmp_path}/out", "--save", str(tmp_path)]
    assert example_gpt.main([*small, "--learning-rate", "1e30", *folders]) == 2
    error = capsys.readouterr().err
    assert "training diverged at iteration" in error
    assert "lower --learning-rate" in error
    assert (tmp_path / "gpt.pt").read_text() == "a good model"


def test_resuming_with_other_options_is_refused_and_loses_nothing(tmp_path, capsys, monkeypatch):
    def fail(*arguments, **options):
        raise OSError("no space left")

    monkeypatch.setattr(example_gpt, "TRAINING_FILE_INTERVAL", 1)
    monkeypatch.setattr(mingpt, "save", fail)
    small = [*SMALL, "--vocab", "book", "--out", f"{tmp_path}/out", "--save", str(tmp_path)]
    assert example_gpt.main(small) == 2
    before = (tmp_path / "training.pt").read_bytes()
    capsys.readouterr()
    for option, name in (("--learning-rate", "learning_rate"), ("--dropout", "model.embd_pdrop")):
        assert example_gpt.main([*small, "--resume", option, "0.01"]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"example_gpt.py: error: the interrupted training had {name} ")
        assert error.endswith("this one has 0.01\n")
        assert error.count("\n") == 1
    assert (tmp_path / "training.pt").read_bytes() == before


def test_weights_of_another_kind_are_refused(tmp_path, capsys):
    (tmp_path / "other.pt").write_bytes(b"PK\x03\x04 something else")
    assert example_gpt.main(["--weights", f"{tmp_path}/other.pt", "--out", f"{tmp_path}/out"]) == 2
    assert "not a readable weights file" in capsys.readouterr().err


def test_unwritable_output_is_refused(tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    assert example_gpt.main([*SMALL, "--out", f"{tmp_path}/file"]) == 2
    assert "cannot write to" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "in the way"


@pytest.mark.parametrize("file", ["out/results_gpt.json", "save/gpt.pt", "save/training.pt"])
def test_a_folder_in_a_files_place_is_refused_before_any_work(tmp_path, capsys, file):
    (tmp_path / file).mkdir(parents=True)
    assert example_gpt.main([*SMALL, "--out", f"{tmp_path}/out", "--save", f"{tmp_path}/save"]) == 2
    captured = capsys.readouterr()
    assert captured.err.endswith(f"{file}: there is a folder of this name\n")
    assert captured.out == ""
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_cuda_where_there_is_none_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert example_gpt.main(["--device", "cuda", "--out", str(tmp_path)]) == 2
    assert "finds no CUDA GPU" in capsys.readouterr().err


def test_missing_data_are_a_clear_error(tmp_path, capsys, monkeypatch):
    book = data.load_book
    monkeypatch.setattr("example_gpt.load_book", lambda: book(tmp_path))
    assert example_gpt.main([*SMALL, "--out", f"{tmp_path}/out", "--save", f"{tmp_path}/save"]) == 2
    assert "alice.npz is missing" in capsys.readouterr().err


INTERRUPTIBLE = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell ignores it
import example_gpt
sys.exit(example_gpt.main(sys.argv[1:]))
"""


def test_interrupting_before_the_training_is_one_line(tmp_path, capsys, monkeypatch):
    def interrupt():
        raise KeyboardInterrupt

    monkeypatch.setattr("example_gpt.load_book", interrupt)
    assert example_gpt.main(["--out", f"{tmp_path}/out"]) == 130
    assert capsys.readouterr().err == "example_gpt.py: interrupted\n"


INTERRUPTED_IMPORT = """
import os, runpy, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupt())
runpy.run_path("example_gpt.py", run_name="__main__")
"""


def test_interrupting_the_imports_is_quiet():
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_IMPORT], cwd=Path(example_gpt.__file__).parent,
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_interrupting_leaves_no_file_and_no_traceback(tmp_path):
    command = [sys.executable, "-u", "-c", INTERRUPTIBLE, "--model", "gpt-nano"]
    process = subprocess.Popen(
        [*command, "--batch-size", "4", "--out", f"{tmp_path}/out", "--save", f"{tmp_path}/save"],
        cwd=Path(example_gpt.__file__).parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    with process.stdout as output, process.stderr as errors:
        assert output.readline().startswith("Q1  training gpt-nano")
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
        assert "Traceback" not in errors.read()
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []
