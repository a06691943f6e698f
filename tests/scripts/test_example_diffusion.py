"""The script of Part 1 end to end at small settings: the exercise, and each study."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import diffusion
import example_diffusion
from diffusion import data
from diffusion.cli import parse
from diffusion.images import bitnet, lattice
from diffusion.studies import STUDIES, bitflip
from diffusion.studies.parts import bitmodel, recipe

ROOT = Path(__file__).parents[2]
SMALL = ["--epochs", "40", "--points", "1000", "--steps", "20", "--samples", "400"]


@pytest.fixture(scope="module")
def small_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    options = [*SMALL, "--out", str(folder / "report"), "--save", str(folder / "weights")]
    assert example_diffusion.main([*options, "--save-samples", str(folder / "points.npy")]) == 0
    (folder / "weights/folder.npy").mkdir()
    untrained = diffusion.build(data.training_points())
    diffusion.save(untrained, folder / "weights/untrained.pt")
    return folder


def read(folder: Path, name: str) -> dict:
    return json.loads((folder / f"results/{name}.json").read_text(encoding="utf-8"))


def drawn(folder: Path, name: str) -> set[str]:
    """What follows NAME_ in the names of the figures; there are no others."""
    stems = [path.stem for path in (folder / "figures").iterdir()]
    assert all(stem.startswith(f"{name}_") for stem in stems)
    return {stem.removeprefix(f"{name}_") for stem in stems}


def test_every_question_leaves_a_figure_and_numbers(small_run):
    results = read(small_run / "report", "diffusion")
    figures = {stem.split("_")[0] for stem in drawn(small_run / "report", "diffusion")}
    for question in ("u1", "u2", "u3", "u4", "u5", "u6", "c1", "c3", "c4", "c5", "c6", "bonus"):
        assert question in results
        assert question in figures
    assert results["study"] == "diffusion"
    assert results["options"]["points"] == 1000
    assert {"train_unconditional", "train_conditional", "u1"} <= set(results["timings_seconds"])
    assert results["u6"]["ddim_outputs_identical_to_the_bit"]
    assert len(results["u4"]["tv10"]["model"]) == 10
    assert sum(results["c1"].values()) == 1000
    assert [path.name for path in (small_run / "report/results").iterdir()] == ["diffusion.json"]
    assert (small_run / "report/figures/diffusion_reverse_process.gif").read_bytes()[:3] == b"GIF"


def test_questions_are_in_the_order_of_the_exercise():
    asked = [name for name in example_diffusion.EXERCISE.questions if len(name) == 2]
    # The second question about classes is answered by the architecture.
    assert asked == ["u1", "u2", "u3", "u4", "u5", "u6", "c1", "c3", "c4", "c5", "c6"]


def test_saved_samples_are_those_of_the_saved_weights(small_run):
    points = np.load(small_run / "points.npy")
    model = diffusion.load(small_run / "weights/diffusion_unconditional.pt")
    again = diffusion.sample(model, 400, steps=20, seed=0)
    assert points.shape == (400, 2)
    np.testing.assert_array_equal(points, again.numpy())


def test_vp_leaves_figures_and_numbers(small_run, tmp_path):
    weights = small_run / "weights/diffusion_unconditional.pt"
    options = ["--epochs", "20", "--points", "1000", "--steps", "20", "--samples", "200"]
    options += ["--weights", str(weights), "--out", str(tmp_path), "--study", "vp"]
    assert example_diffusion.main(options) == 0
    vp = read(tmp_path, "vp")
    assert vp["equivalence"]["largest_difference"]["float64"] < 1e-12
    assert vp["equivalence"]["largest_difference"]["float32"] < 1e-5
    assert vp["one_loop"]["bit_flip_output_is_one_of_its_images"]
    assert set(vp["training"]["linear"]["tv10"]) == {"ddpm", "ddim"}
    assert "solver" not in vp["options"]
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["vp.json"]
    assert {stem.split("_")[0] for stem in drawn(tmp_path, "vp")} == {"v1", "v2", "v3", "v4"}


@pytest.fixture(scope="module")
def bitflip_run(tmp_path_factory):
    """A few updates of the network of digits, and every question about it."""
    folder = tmp_path_factory.mktemp("bitflip")
    small_network = bitnet.BitNet(lattice.PROCESS, (3, 3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lattice, "learn", lambda truth: small_network)
        options = ["--study", "bitflip", "--epochs", "3", "--steps", "8", "--samples", "20"]
        folders = ["--out", str(folder / "report"), "--save", str(folder / "weights")]
        assert example_diffusion.main([*options, *folders]) == 0
    return folder


def test_bitflip_leaves_weights_figures_and_numbers(bitflip_run):
    results = read(bitflip_run / "report", "bitflip")
    assert set(bitflip.STUDY.questions) - {"trajectory"} < set(results)
    assert results["loss"]["updates"] == 3
    assert results["posterior"]["largest_difference"] < 1e-12
    stems = {stem.split("_")[0] for stem in drawn(bitflip_run / "report", "bitflip")}
    assert stems == {"e", "f", "g", "h", "k"}
    model = bitmodel.load(bitflip_run / "weights/bitflip.pt", 8)
    assert len(model.losses) == 3


def test_same_command_gives_the_same_weights(small_run, tmp_path):
    _, args = parse("script", example_diffusion.EXERCISE, STUDIES, SMALL)
    again = recipe.training(args, data.training_points(1000, seed=0)).run()
    first = diffusion.load(small_run / "weights/diffusion_unconditional.pt")
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])


# --- Bad input ----------------------------------------------------------------------------------


def refused(arguments: list[str], complaint: str, capsys) -> None:
    """One line, exit code 2."""
    try:
        code = example_diffusion.main(arguments)
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("example_diffusion.py: error: ")
    assert complaint in line


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--solver", "rk4"], "invalid choice"),
        (["--points", "999"], "1000..3000"),
        (["--points", "3001"], "1000..3000"),
        (["--steps", "0"], "--steps must be in 1.."),
        (["--epochs", "none"], "invalid int"),
        (["--lam", "0.5"], "--lam belongs to --solver ddpm"),
        (["--solver", "ddpm", "--lam", "nan"], "--lam must be in 0..10"),
        (["--target", "inf", "0"], "--target must be two numbers in"),
        (["--samples", "1000000000000"], "--samples must be in 2.."),
        (["--save-samples", "{weights}/folder.npy"], "is a folder"),
        (["--save-samples", "README.md/points.npy"], "cannot write into README.md"),
        (["--weights", "{weights}/untrained.pt"], "was never trained"),
        (["--seed", "-1"], "--seed must be in"),
        (["--save-samples", "points.csv"], "must name a .npy file"),
        (["--weights", "{weights}/absent.pt"], "no weights file at"),
        (["--weights", "README.md"], "is damaged or is not a weights file"),
        (["--weights", "{weights}/diffusion_conditional.pt"], "has 5 classes"),
        (["--conditional-weights", "{weights}/diffusion_unconditional.pt"], "has 0 classes"),
        (["--weights", "weights/bitflip.pt"], "holds diffusion.BitNet"),
        (["--weights", "weights/gpt.pt"], "holds mingpt-checkpoint"),
        (["--out", "README.md"], "cannot write into"),
        (["--study", "bits"], "invalid choice: 'bits' (choose from 'vp', 'bitflip',"),
        (["--study"], "expected one argument"),
        (["--study", "bitflip"], "--points belongs to the exercise and --study vp, not to"),
        (["--study", "vp", "--solver", "ddim"], "belongs to the exercise, not to --study vp"),
        (["--study", "vp", "--steps", "1"], "--steps must be in 2.."),
        (["--study", "vp", "--weights", "weights/bitflip.pt"], "holds diffusion.BitNet"),
        (["--process", "vp"], "the exercise has no option --process"),
    ],
)
def test_bad_input_ends_in_one_line_and_exit_code_2(
    options, complaint, small_run, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(ROOT)
    options = [option.format(weights=small_run / "weights") for option in options]
    folders = ["--out", str(tmp_path / "report"), "--save", str(tmp_path / "weights")]
    refused([*SMALL, *folders, *options], complaint, capsys)
    assert not files(tmp_path)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--weights", "weights/diffusion_unconditional.pt"], "holds diffusion.Denoiser"),
        (["--weights", "weights/absent.pt"], "no weights file at"),
        (["--weights", "{folder}/small.pt"], "0 classes and 4 x 4 pixels"),
        (["--weights", "{folder}/untrained.pt", "--steps", "200"], "was never trained"),
        (["--weights", "{folder}/untrained.pt", "--steps", "100"], "has 200 stages, not 100"),
        (["--steps", "4"], "--steps must be in 5..10000"),
        (["--samples", "1"], "--samples must be in 20.."),
        (["--seed", "-1"], "--seed must be in"),
        (["--lam", "0.5"], "--lam belongs to the exercise, not to --study bitflip"),
        (["--out", "README.md"], "cannot write into"),
        (["--out", "{folder}"], "is not a results file"),
    ],
)
def test_bad_input_to_bitflip_ends_in_one_line(options, complaint, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    process = bitnet.BitFlip(0.1, 200)
    bitnet.save(bitnet.BitNet(process, (4, 4)), tmp_path / "small.pt")
    bitnet.save(bitnet.BitNet(process, (28, 28), num_classes=10), tmp_path / "untrained.pt")
    (tmp_path / "results").mkdir()
    (tmp_path / "results/bitflip.json").write_text("[1, 2]", encoding="utf-8")
    before = files(tmp_path)
    folders = ["--out", str(tmp_path / "report"), "--save", str(tmp_path / "weights")]
    options = [option.format(folder=tmp_path) for option in options]
    refused(["--study", "bitflip", *folders, *options], complaint, capsys)
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    ("study", "file"),
    [
        ([], "diffusion_conditional.pt"),
        (["--study", "vp"], "vp_unconditional.pt"),
        (["--study", "bitflip"], "bitflip.pt"),
        (["--study", "vae"], "vae_conv.pt"),
        (["--study", "gan"], "gan.pt"),
    ],
)
def test_a_folder_in_the_place_of_weights_is_refused_before_training(
    study, file, tmp_path, capsys
):
    (tmp_path / "weights" / file).mkdir(parents=True)
    folders = ["--out", str(tmp_path / "report"), "--save", str(tmp_path / "weights")]
    refused([*study, *folders], f"{file}: there is a folder of this name", capsys)
    assert not files(tmp_path)


def test_weights_of_other_points_than_the_squares_are_refused(tmp_path, capsys):
    square = data.training_points(1000)
    points = square + torch.tensor([300.0, -80.0])
    for name, labels, classes in (("one", None, 0), ("five", data.class_of(square), 5)):
        model = diffusion.build(points, labels, num_classes=classes, width=8)
        model.losses = torch.ones(3)
        diffusion.save(model, tmp_path / f"{name}.pt")
    before = files(tmp_path)
    for options in (
        ["--weights", f"{tmp_path}/one.pt"],
        ["--conditional-weights", f"{tmp_path}/five.pt"],
        ["--study", "vp", "--weights", f"{tmp_path}/one.pt"],
    ):
        folders = ["--out", str(tmp_path / "report"), "--save", str(tmp_path / "weights")]
        refused([*options, *folders], "is of points around (", capsys)
    assert files(tmp_path) == before


def test_asking_for_an_absent_cuda_device_says_so(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for study in ([], ["--study", "vp"]):
        refused([*study, "--device", "cuda", "--out", str(tmp_path)], "no CUDA device", capsys)


@pytest.mark.parametrize(
    ("device", "complaint"),
    [("mps", "cannot compute on it here"), ("meta", "cannot compute on it here"),
     ("xpu:3", "cannot compute on it here"), ("gpu", "must be auto or a device of PyTorch")],
)  # fmt: skip
def test_a_device_that_is_not_here_is_refused(device, complaint, tmp_path, capsys):
    for study in ([], ["--study", "vp"]):
        refused([*study, "--device", device, "--out", str(tmp_path)], complaint, capsys)
    assert not files(tmp_path)


def test_a_device_is_passed_on_as_given(monkeypatch):
    given = []
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, device: given.append(device) or self)
    monkeypatch.setattr(recipe, "check_device", lambda args: None)
    _, args = parse("script", example_diffusion.EXERCISE, STUDIES, ["--device", "mps:0"])
    recipe.untrained(args, data.training_points())
    assert given[-1] == "mps:0"


def test_a_target_may_be_written_with_an_exponent():
    given = ["--target", "-1e3", "2"]
    _, args = parse("script", example_diffusion.EXERCISE, STUDIES, given)
    assert args.target == [-1000, 2]


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
