"""The script of Part 1, end to end at small settings, and what it says to bad input."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import diffusion.images.bitflip
import example_diffusion

ROOT = Path(__file__).parents[1]
SMALL = ["--epochs", "40", "--points", "1000", "--steps", "20", "--samples", "400"]


@pytest.fixture(scope="module")
def small_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    options = [*SMALL, "--out", str(folder / "report"), "--save", str(folder / "weights")]
    assert example_diffusion.main([*options, "--save-samples", str(folder / "points.npy")]) == 0
    (folder / "weights/folder.npy").mkdir()
    untrained = diffusion.build(example_diffusion.data.training_points())
    diffusion.save(untrained, folder / "weights/untrained.pt")
    return folder


def test_every_question_leaves_a_figure_and_numbers(small_run):
    results = json.loads((small_run / "report/results_diffusion.json").read_text())
    drawn = {path.stem.split("_")[1] for path in (small_run / "report/figures").iterdir()}
    for question in ("u1", "u2", "u3", "u4", "u5", "u6", "c1", "c3", "c4", "c5", "c6", "bonus"):
        assert question in results
        assert question in drawn
    assert results["u6"]["ddim_outputs_identical_to_the_bit"]
    assert len(results["u4"]["tv10"]["model"]) == 10
    assert sum(results["c1"].values()) == 1000


def test_saved_samples_are_those_of_the_saved_weights(small_run):
    points = np.load(small_run / "points.npy")
    model = diffusion.load(small_run / "weights/diffusion_unconditional.pt")
    again = diffusion.sample(model, 400, steps=20, seed=0)
    assert points.shape == (400, 2)
    np.testing.assert_array_equal(points, again.numpy())


def test_results_of_the_other_processes_survive(small_run, tmp_path):
    path = tmp_path / "results.json"
    kept = {"vp": {"a": 1}, "bitflip": {"b": 2}}
    path.write_text(json.dumps({"u1": "old", "u9": "old"} | kept))
    merged = example_diffusion.merged
    assert merged(path, "ve", {"u1": "new"}) == {"u1": "new"} | kept
    assert merged(path, "vp", {"c": 3}) == {"u1": "old", "u9": "old"} | kept | {"vp": {"c": 3}}
    assert merged(tmp_path / "none.json", "vp", {"c": 3}) == {"vp": {"c": 3}}
    assert "process" not in json.loads((small_run / "report/results_diffusion.json").read_text())


def test_vp_process_leaves_figures_and_numbers(small_run, tmp_path):
    weights = small_run / "weights/diffusion_unconditional.pt"
    earlier = (small_run / "report/results_diffusion.json").read_bytes()
    (tmp_path / "results_diffusion.json").write_bytes(earlier)
    options = ["--epochs", "20", "--points", "1000", "--steps", "20", "--samples", "200"]
    options += ["--weights", str(weights), "--out", str(tmp_path), "--process", "vp"]
    assert example_diffusion.main(options) == 0
    results = json.loads((tmp_path / "results_diffusion.json").read_text())
    vp = results.pop("vp")
    assert results == json.loads(earlier)
    assert vp["equivalence"]["largest_difference"]["float64"] < 1e-12
    assert vp["equivalence"]["largest_difference"]["float32"] < 1e-5
    assert vp["one_loop"]["bit_flip_output_is_one_of_its_images"]
    assert set(vp["training"]["linear"]["tv10"]) == {"ddpm", "ddim"}
    drawn = {path.stem.split("_")[2] for path in (tmp_path / "figures").iterdir()}
    assert drawn == {"v1", "v2", "v3", "v4"}


@pytest.fixture(scope="module")
def bitflip_run(tmp_path_factory):
    """A few updates of the network of digits, and every question about it."""
    folder = tmp_path_factory.mktemp("bitflip")
    recipe = example_diffusion.bitflip_demo
    small_network = example_diffusion.images.bitnet.BitNet(recipe.SMALL_PROCESS, (3, 3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipe, "TRAINING_IMAGES", 1000)
        patch.setattr(recipe, "learn_lattice", lambda truth: small_network)
        options = ["--process", "bitflip", "--epochs", "3", "--steps", "8", "--samples", "4"]
        folders = ["--out", str(folder / "report"), "--save", str(folder / "weights")]
        assert example_diffusion.main([*options, *folders]) == 0
    return folder


def test_bitflip_process_leaves_weights_figures_and_numbers(bitflip_run):
    results = json.loads((bitflip_run / "report/results_diffusion.json").read_text())["bitflip"]
    assert set(results["bits_per_pixel"]["bound"]) == {"without label", "given the label"}
    assert results["loss"]["updates"] == 3
    drawn = {path.stem.split("_")[2] for path in (bitflip_run / "report/figures").iterdir()}
    assert drawn == {"b1", "b2", "b3", "b4", "b5", "b6"}
    model = example_diffusion.bitflip_demo.load(bitflip_run / "weights/bitflip.pt", 8)
    assert len(model.losses) == 3


def test_same_command_gives_the_same_weights(small_run, tmp_path):
    args = example_diffusion.parse(SMALL)
    points = example_diffusion.data.training_points(1000, seed=0)
    again = example_diffusion.train(args, points, None, tmp_path / "again.pt")
    first = diffusion.load(small_run / "weights/diffusion_unconditional.pt")
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--solver", "euler"], "invalid choice"),
        (["--points", "999"], "1000..3000"),
        (["--points", "3001"], "1000..3000"),
        (["--steps", "0"], "--steps must be in 1.."),
        (["--epochs", "none"], "invalid int"),
        (["--lam", "0.5"], "--lam belongs to --solver ddpm"),
        (["--solver", "ddpm", "--lam", "nan"], "--lam must be in 0..10"),
        (["--target", "inf", "0"], "--target must be two numbers in"),
        (["--samples", "1000000000000"], "--samples must be in 2.."),
        (["--save-samples", "{weights}/folder.npy"], "is a folder"),
        (["--weights", "{weights}/untrained.pt"], "was never trained"),
        (["--seed", "-1"], "--seed must be in"),
        (["--save-samples", "points.csv"], "must name a .npy file"),
        (["--weights", "{weights}/absent.pt"], "no weights file at"),
        (["--weights", "README.md"], "is damaged or is not a weights file"),
        (["--weights", "{weights}/diffusion_conditional.pt"], "has 5 classes"),
        (["--conditional-weights", "{weights}/diffusion_unconditional.pt"], "has 0 classes"),
        (["--out", "README.md"], "cannot write into"),
        (["--process", "bits"], "invalid choice"),
        (["--process", "bitflip"], "--points belongs to --process ve or vp, not to bitflip"),
        (["--process", "vp", "--solver", "ddim"], "--solver belongs to --process ve, not to vp"),
        (["--process", "vp", "--steps", "1"], "--steps must be in 2.."),
        (["--process", "vp", "--weights", "weights/bitflip.pt"], "holds diffusion.BitNet"),
    ],
)
def test_bad_input_ends_in_one_line_and_exit_code_2(
    options, complaint, small_run, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(ROOT)
    options = [option.format(weights=small_run / "weights") for option in options]
    folders = ["--out", str(tmp_path / "report"), "--save", str(tmp_path / "weights")]
    try:
        code = example_diffusion.main([*SMALL, *folders, *options])
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("example_diffusion.py: error: ")
    assert complaint in line
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--weights", "weights/diffusion_unconditional.pt"], "holds diffusion.Denoiser"),
        (["--weights", "weights/absent.pt"], "no weights file at"),
        (["--weights", "{folder}/small.pt"], "0 classes and 4 x 4 pixels"),
        (["--weights", "{folder}/untrained.pt"], "was never trained"),
        (["--weights", "{folder}/untrained.pt", "--steps", "100"], "has 200 stages, not 100"),
        (["--steps", "4"], "--steps must be in 5..10000"),
        (["--samples", "1"], "--samples must be in 2.."),
        (["--seed", "-1"], "--seed must be in"),
        (["--lam", "0.5"], "--lam belongs to --process ve"),
        (["--out", "README.md"], "cannot write into"),
        (["--out", "{folder}"], "is not a results file"),
    ],
)
def test_bad_input_to_bitflip_ends_in_one_line(options, complaint, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    process = diffusion.images.bitflip.BitFlip(0.1, 200)
    bitnet = example_diffusion.images.bitnet
    bitnet.save(bitnet.BitNet(process, (4, 4)), tmp_path / "small.pt")
    bitnet.save(bitnet.BitNet(process, (28, 28), num_classes=10), tmp_path / "untrained.pt")
    (tmp_path / "results_diffusion.json").write_text("[1, 2]")
    before = sorted(tmp_path.rglob("*"))
    folders = ["--out", str(tmp_path / "report"), "--save", str(tmp_path / "weights")]
    options = [option.format(folder=tmp_path) for option in options]
    try:
        code = example_diffusion.main(["--process", "bitflip", *folders, *options])
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("example_diffusion.py: error: ")
    assert complaint in line
    assert [path for path in sorted(tmp_path.rglob("*")) if path.is_file()] == [
        path for path in before if path.is_file()
    ]


def test_asking_for_an_absent_cuda_device_says_so(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert example_diffusion.main(["--device", "cuda", "--out", str(tmp_path)]) == 2
    assert "no CUDA device" in capsys.readouterr().err


def test_diverging_training_keeps_the_last_good_weights(tmp_path, capsys, monkeypatch):
    epoch = diffusion.Training.epoch

    def poisoned(self):
        if len(self.losses) == 10:
            with torch.no_grad():
                self.model.output_layer.bias.fill_(torch.nan)
        return epoch(self)

    monkeypatch.setattr(diffusion.Training, "epoch", poisoned)
    folders = ["--out", str(tmp_path / "report"), "--save", str(tmp_path / "weights")]
    assert example_diffusion.main([*SMALL, *folders]) == 2
    assert "the loss became nan in epoch 11" in capsys.readouterr().err
    (saved,) = (tmp_path / "weights").iterdir()
    assert saved.name == "diffusion_unconditional_last_good.pt"
    model = diffusion.load(saved)
    assert len(model.losses) == 10
    assert all(tensor.isfinite().all() for tensor in model.state_dict().values())


def interrupted(folder: Path, options: list[str], when) -> subprocess.Popen:
    """Start the script, send SIGINT as soon as `when()` holds, and return the ended process."""
    folders = ["--out", str(folder / "report"), "--save", str(folder / "weights")]
    command = [sys.executable, "example_diffusion.py", *options, *folders]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not when() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    return process


def test_interrupt_leaves_no_half_written_file(tmp_path):
    weights = tmp_path / "weights/diffusion_unconditional.pt"
    interrupted(tmp_path, SMALL, weights.exists)
    assert diffusion.load(weights).num_classes == 0
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert all(path.suffix in {".pt", ".png"} and not path.name.startswith(".") for path in files)


def test_interrupted_training_leaves_existing_weights_alone(tmp_path):
    weights = tmp_path / "weights/diffusion_unconditional.pt"
    weights.parent.mkdir()
    weights.write_bytes(b"the weights of an earlier run")
    figures = tmp_path / "report/figures"
    interrupted(tmp_path, ["--epochs", "100000"], figures.exists)
    assert weights.read_bytes() == b"the weights of an earlier run"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [weights]
