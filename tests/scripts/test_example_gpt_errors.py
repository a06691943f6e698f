"""example_gpt.py given what it cannot use: one line, exit code 2, nothing written or lost."""

from pathlib import Path

import pytest

import example_gpt
from mingpt import checkpoint, data, running
from mingpt.studies import exercise

ROOT = Path(example_gpt.__file__).parent
SMALL = ["--model", "gpt-nano", "--max-iters", "4", "--batch-size", "4", "--starts", "2"]


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
        (["--prompt", "Alice said to the Queen that she was very glad `"], "ends in '`', which"),
        (["--prompt", "supercalifragilistic" * 9 + " a"], "more tokens, and the model's block"),
        (["--seed", "99999999999999999999999"], "--seed should be 0 to 4294967295"),
        (["--seed", "-1"], "--seed should be 0 to"),
        (["--sentence", ""], "--sentence is empty"),
        (["--sentence", "walnut " * 80], "--sentence has"),
        (["--model", "gpt-huge"], "unknown model 'gpt-huge'"),
        (["--weights", "none.pt"], "no such weights file"),
        (["--weights", "none.pt", "--max-iters", "3"], "does not go with --max-iters"),
        (["--weights", "none.pt", "--compile"], "does not go with --compile"),
        (["--weights", "none.pt", "--objective", "discounted"], "does not go with --objective"),
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
        (["--temperature", "-1"], "temperature should be a number of at least 0"),
        (["--top-k", "-1"], "--top-k should be at least 0"),
        (["--top-p", "0"], "top-p should be above 0"),
        (["--device", "tpu"], "unknown device 'tpu'"),
        (["--precision", "half"], "unknown precision 'half'"),
        (["--max-iters", "many"], "invalid int value"),
        (["--starts", "0"], "--starts should be at least 1, not 0"),
        (["--dropout", "1"], "--dropout should be at least 0 and below 1"),
        (["--study", "painting"], "unknown study 'painting'; there are: "),
        (["--process", "vp"], "the exercise has no option --process"),
        (["--weights", "weights/diffusion_unconditional.pt"], "(it holds diffusion.Denoiser)"),
        (["--weights", "weights/bitflip.pt"], "(it holds diffusion.BitNet)"),
        (["--study", "compression", "--weights", "weights/vae.pt"], "holds diffusion.images.VAE"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    tmp_path, capsys, monkeypatch, arguments, message
):
    monkeypatch.chdir(ROOT)
    assert exit_code([*arguments, "--out", f"{tmp_path}/out"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("example_gpt.py: error: ")
    assert message in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("iterations", ["1", "2"])
def test_diverged_training_saves_nothing(tmp_path, capsys, iterations):
    (tmp_path / "gpt.pt").write_text("a good model", encoding="utf-8")
    small = ["--model", "gpt-nano", "--vocab", "book", "--max-iters", iterations]
    folders = ["--out", f"{tmp_path}/out", "--save", str(tmp_path)]
    assert example_gpt.main([*small, "--learning-rate", "1e30", *folders]) == 2
    error = capsys.readouterr().err
    assert "training diverged at iteration" in error
    assert "lower --learning-rate" in error
    assert (tmp_path / "gpt.pt").read_text(encoding="utf-8") == "a good model"


def test_resuming_with_other_options_is_refused_and_loses_nothing(tmp_path, capsys, monkeypatch):
    def fail(*arguments, **options):
        raise OSError("no space left")

    monkeypatch.setattr(running, "STATE_INTERVAL", 1)
    monkeypatch.setattr(checkpoint, "save", fail)
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
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    assert example_gpt.main([*SMALL, "--out", f"{tmp_path}/file"]) == 2
    assert "cannot write into" in capsys.readouterr().err
    assert (tmp_path / "file").read_text(encoding="utf-8") == "in the way"


@pytest.mark.parametrize("file", ["out/results/gpt.json", "save/gpt.pt", "save/training.pt"])
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
    monkeypatch.setattr(exercise, "load_book", lambda: book(tmp_path))
    assert example_gpt.main([*SMALL, "--out", f"{tmp_path}/out", "--save", f"{tmp_path}/save"]) == 2
    assert "alice.npz is missing" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["[1, 2]", '{"study": "vp"}', "not JSON", '{"q1": {}}'])
def test_a_results_file_of_another_program_is_left_alone(tmp_path, capsys, content):
    file = tmp_path / "out/results/gpt.json"
    file.parent.mkdir(parents=True)
    file.write_text(content, encoding="utf-8")
    folders = ["--out", f"{tmp_path}/out", "--save", f"{tmp_path}/save"]
    assert example_gpt.main([*SMALL, *folders]) == 2
    captured = capsys.readouterr()
    assert captured.err.endswith("gpt.json is not a results file of gpt; move it away first\n")
    assert (captured.err.count("\n"), captured.out) == (1, "")
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [file]
    assert file.read_text(encoding="utf-8") == content
