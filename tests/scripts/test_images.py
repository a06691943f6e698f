"""The studies of images, end to end at small settings, and what they say to bad input."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import example_diffusion
from diffusion.cli import Run
from diffusion.images import bitnet, classifier, gan, mnist, vae
from diffusion.images.bitnet import BitNet
from diffusion.images.classifier import Classifier
from diffusion.images.gan import GAN
from diffusion.images.vae import VAE
from diffusion.studies import bitflip, families
from diffusion.studies import gan as gan_study
from diffusion.studies import vae as vae_study
from diffusion.studies.parts import bitmodel

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = ROOT / "weights"


def run(name: str, folder: Path, *options: str) -> dict:
    """The study's results; models go to folder/weights."""
    folders = ["--out", str(folder / "report"), "--save", str(folder / "weights")]
    assert example_diffusion.main(["--study", name, *options, *folders]) == 0
    return json.loads((folder / f"report/results/{name}.json").read_text(encoding="utf-8"))


def figures(name: str, folder: Path) -> set[str]:
    return {path.stem.removeprefix(f"{name}_") for path in (folder / "report/figures").iterdir()}


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """A folder of hardly trained models of every family."""
    folder = tmp_path_factory.mktemp("small")
    generator = torch.Generator().manual_seed(0)
    process = bitmodel.process(bitmodel.STAGES)
    bits = BitNet(process, (28, 28), num_classes=10, width=8, generator=generator)
    bits.losses = torch.ones(3)
    bitnet.save(bits, folder / "bitflip.pt")
    for name, model in (
        ("vae", VAE(hidden=(8,), losses=torch.ones(3), generator=generator)),
        ("vae_conv", VAE(network="convolutional", hidden=(8,), losses=torch.ones(3),
                         generator=generator)),
        ("gan", GAN(hidden=(8,), latent=4, losses=torch.ones(3, 2), generator=generator)),
        ("classifier", Classifier(width=4, generator=generator)),
    ):  # fmt: skip
        model.save(folder / f"{name}.pt")
    VAE(hidden=(8,), generator=generator).save(folder / "untrained.pt")
    VAE(pixels=9, hidden=(8,), generator=generator).save(folder / "nine.pt")
    points = (WEIGHTS / "diffusion_unconditional.pt").read_bytes()
    (folder / "diffusion_unconditional.pt").write_bytes(points)
    return folder


def test_vae_trains_its_runs_and_answers_every_question(tmp_path, monkeypatch):
    monkeypatch.setattr(vae_study, "LATTICE_UPDATES", 20)
    monkeypatch.setattr(vae_study, "LINEAR_UPDATES", 20)
    monkeypatch.setattr(vae_study, "SAMPLES", (1, 5))
    options = ["--runs", "2", "--epochs", "3", "--conv-epochs", "2", "--samples", "2"]
    results = run("vae", tmp_path, *options)
    assert set(vae_study.STUDY.questions) < set(results)
    assert len(results["bound"]["each_run"]) == 2
    assert results["bound"]["negative_elbo"]["standard_error"] > 0
    assert results["sample_gaussian"]["largest_deviation_of_a_mean_in_standard_errors"] < 4
    assert results["quadrature"]["largest_error_of_gap_against_kl_nats"] < 1e-3
    expected = {"b_loss", "c_importance", "d_sheet", "d_conv", "d_reconstructions", "d_plane"}
    assert figures("vae", tmp_path) == expected | {"f_quadrature"}
    assert len(vae.load(tmp_path / "weights/vae_1.pt").losses) == 3


def test_gan_trains_and_answers_every_question(tmp_path, monkeypatch):
    monkeypatch.setattr(gan_study, "MARKS", (0, 2))
    monkeypatch.setattr(gan_study, "PERFECTED", (0, 2))
    monkeypatch.setattr(gan_study, "YOUNG", 2)
    monkeypatch.setattr(gan_study, "COLLAPSE", 2)
    monkeypatch.setattr(gan_study, "PLANE_UPDATES", 20)
    results = run("gan", tmp_path, "--epochs", "2", "--samples", "100")
    assert set(gan_study.STUDY.questions) - {"progress"} < set(results)
    assert abs(results["theory"]["difference"]) < 1e-3
    assert results["gradients"]["largest_relative_error_of_the_closed_form"] < 1e-3
    before, after = results["gradients"]["discriminator_loss_nats"]
    assert after < before
    expected = {"a_gradients", "b_discriminator", "c_samples", "c_losses", "d_progress"}
    assert figures("gan", tmp_path) == expected | {"e_classes"}
    assert gan.load(tmp_path / "weights/gan.pt").losses.shape == (2, 2)


def test_bitflip_trains_on_from_a_file(small, tmp_path):
    args = SimpleNamespace(
        start=small / "bitflip.pt", blocks=2, epochs=2, steps=8, seed=0, precision="bfloat16",
        save=tmp_path,
    )  # fmt: skip
    bitflip.train(Run(bitflip.STUDY, args, {}), "bitflip")
    model = bitmodel.load(tmp_path / "bitflip.pt", 8)
    assert (model.blocks, model.width) == (2, 8)
    assert model.losses[:3].eq(1).all()  # those of the file
    assert len(model.losses) == 3 + 2
    args.start = None
    first = bitflip.digits_training(args)
    args.start = tmp_path / "bitflip.pt"
    second = bitflip.digits_training(args)
    assert not torch.equal(first._batch()[0], second._batch()[0])


def test_families_compares_all_of_them(small, tmp_path, monkeypatch):
    monkeypatch.setattr(families, "SQUARE_UPDATES", 20)
    monkeypatch.setattr(families, "SQUARE_SAMPLES", 500)
    monkeypatch.setattr(families, "NEIGHBOURS", 50)
    monkeypatch.setattr(families.bitflip, "_ROWS", 100)
    monkeypatch.setattr(bitmodel, "STEPS", 5)
    options = ["--weights", str(small), "--samples", "100", "--bitflip-samples", "100"]
    results = run("families", tmp_path, *options)
    rows = {"bit flips", "VAE (sheet)", "VAE (conv.)", "GAN", "real images, 100"}
    assert set(results["table"]) == rows
    assert 0.5 < results["table"]["real images, 100"]["neighbour_ratio"] < 1.1
    assert "nats" not in results["table"]["GAN"]
    assert results["square"]["uniform"]["outside"] == 0
    assert figures("families", tmp_path) == {"a_table", "b_rows", "c_square"}


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["vae", "--weights", "{small}/gan.pt"], "holds diffusion.images.GAN"),
        (["vae", "--weights", "{small}/vae_conv.pt"], "a dense one of 784 is needed"),
        (["vae", "--weights", "{small}/nine.pt"], "network of 9 pixels"),
        (["vae", "--weights", "{small}/untrained.pt"], "was never trained"),
        (["vae", "--conv-weights", "{small}/absent.pt"], "no weights file"),
        (["vae", "--samples", "0"], "--samples must be in 2..10000"),
        (["vae", "--runs", "0"], "--runs must be in"),
        (["gan", "--weights", "{small}/vae.pt"], "holds diffusion.images.VAE"),
        (["gan", "--classifier", "{small}/vae.pt"], "not the weights of a"),
        (["gan", "--samples", "0"], "--samples must be in 100.."),
        (["families", "--weights", "{small}/absent"], "no weights file"),
        (["families", "--bitflip-samples", "0"], "--bitflip-samples must be in"),
        (["bitflip", "--weights", "{small}/vae.pt"], "holds diffusion.images.VAE"),
        (["bitflip", "--weights", "{small}/bitflip.pt", "--steps", "9"], "has 1000 stages, not 9"),
        (["bitflip", "--start", "{small}/vae.pt"], "holds diffusion.images.VAE"),
        (["bitflip", "--classifier", "{small}/vae.pt"], "not the weights of a"),
        (["bitflip", "--precision", "float16"], "invalid choice"),
        (["bitflip", "--samples", "1"], "--samples must be in 20.."),
    ],
)
def test_bad_input_ends_in_one_line_and_exit_code_2(options, complaint, small, tmp_path, capsys):
    options = [option.format(small=small) for option in options]
    folders = ["--out", str(tmp_path / "report"), "--save", str(tmp_path / "weights")]
    try:
        code = example_diffusion.main(["--study", *options, *folders])
    except SystemExit as stop:
        code = stop.code
    error = capsys.readouterr().err
    assert code == 2
    assert complaint in error
    assert error.count("\n") == 1
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize("name", ["bitflip", "vae", "gan", "families", "vp"])
@pytest.mark.parametrize("array", ["train_labels", "test_images"])
def test_other_digits_leave_earlier_results_alone(name, array, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(mnist._FILES, array, (*mnist._FILES[array][:2], "0" * 64))
    path = tmp_path / f"report/results/{name}.json"
    path.parent.mkdir(parents=True)
    earlier = json.dumps({"study": name, "bound": 1})
    path.write_text(earlier, encoding="utf-8")
    weights = {
        "bitflip": ("--weights", "bitflip.pt"),
        "vae": ("--weights", "vae.pt", "--conv-weights", "vae_conv.pt"),
        "gan": ("--weights", "gan.pt"),
        "vp": ("--weights", "diffusion_unconditional.pt"),
    }.get(name, ())
    options = [part if part.startswith("-") else str(WEIGHTS / part) for part in weights]
    folders = ["--out", str(tmp_path / "report"), "--save", str(tmp_path / "weights")]
    assert example_diffusion.main(["--study", name, *options, *folders]) == 2
    assert "does not hold MNIST's" in capsys.readouterr().err
    assert path.read_text(encoding="utf-8") == earlier


def test_shipped_models_are_small_and_good():
    sizes = {name: (WEIGHTS / f"{name}.pt").stat().st_size for name in
             ("bitflip", "vae", "vae_conv", "gan", "classifier")}  # fmt: skip
    assert max(sizes.values()) < 4_000_000
    assert sizes["classifier"] < 1_000_000
    assert sum(sizes.values()) < 12_000_000
    images, labels = classifier.mnist.load("validation")
    logits, _ = classifier.evaluate(classifier.load(WEIGHTS / "classifier.pt"), images / 255)
    assert (logits.argmax(dim=1) == labels).double().mean() > 0.99
    drawn = classifier.mnist.binarise(images[:2000], seed=0)
    for name, most in (("vae", 100.0), ("vae_conv", 97.0)):
        assert vae.load(WEIGHTS / f"{name}.pt").negative_elbo_bound(drawn).nelbo < most
