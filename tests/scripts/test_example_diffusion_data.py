"""The script of Part 1 about points from a file: answers, what is said instead, and bad files."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

import diffusion
import example_diffusion
from diffusion import cli, distances, steering
from diffusion.studies import STUDIES, owndata
from diffusion.studies.parts import ownpoints

ROOT = Path(__file__).parents[2]
SMALL = ["--epochs", "30", "--steps", "10", "--samples", "60"]
RANDOM = np.random.default_rng(0)


def ring(n: int) -> np.ndarray:
    """Points (n, 2) near the unit circle."""
    angle, radius = 2 * np.pi * RANDOM.random(n), 1 + 0.05 * RANDOM.standard_normal(n)
    return radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def classed(n: int, *labels: int) -> np.ndarray:
    return np.column_stack([ring(n), np.resize(labels, n)])


def run(folder, array, *options: str) -> dict:
    """Runs the script on the array; returns the results file."""
    np.save(folder / "points.npy", array)
    folders = ["--out", str(folder / "out"), "--save", str(folder / "weights")]
    arguments = ["--data", str(folder / "points.npy"), *folders, *SMALL, *options]
    assert example_diffusion.main(arguments) == 0
    return json.loads((folder / "out/results/diffusion.json").read_text(encoding="utf-8"))


def figures(folder) -> set[str]:
    return {path.stem.removeprefix("diffusion_") for path in (folder / "out/figures").iterdir()}


@pytest.fixture(autouse=True)
def _one_way_to_the_target(monkeypatch):
    monkeypatch.setattr(example_diffusion, "WAYS", {"inverted flow": steering.invert})


def test_every_question_is_answered_or_says_why_not_without_classes(tmp_path, capsys):
    results = run(tmp_path, ring(150), "--save-samples", str(tmp_path / "samples.npy"))
    printed = capsys.readouterr().out
    for question in ("c1", "c3", "c4", "c5"):
        assert results[question] == {"note": owndata.NO_CLASSES}
        assert f"{question}: {owndata.NO_CLASSES}" in printed
    for question in ("u1", "u2", "u3", "u4", "u5", "u6", "start_mismatch", "c6", "bonus"):
        assert len(results[question]) > 1
    assert f"u3: {results['u3']['note']}" in printed
    assert results["study"] == "diffusion"
    assert results["u3"]["held_out_points"] == 15
    assert results["u3"]["samples"] == 60
    assert results["u6"]["ddim_outputs_identical_to_the_bit"]
    assert len(results["u3"]["p_value_of_the_same_law"]) == 9
    measures = {"energy_distance", "p_value_of_the_same_law", "w2_ratio"}
    for measure in measures:
        assert len(results["u4"][measure]) == 10
    assert results["u4"]["points_in_each_w2"] == 15
    assert len(results["u5"]["scores"]) == 4
    for scores in results["u5"]["scores"].values():
        assert set(scores) == measures
        assert {len(values) for values in scores.values()} == {6}
    assert results["u4"]["w2_ratio"][0] > results["u4"]["w2_ratio"][-1] > 0.5
    assert measures <= set(results["start_mismatch"]["model, matched start"])
    assert set(results["bonus"]) >= {"target", "unconditional"}
    assert "conditional" not in results["bonus"]
    assert not any(stem.startswith(("c1", "c3", "c4", "c5")) for stem in figures(tmp_path))
    assert {"u1_forward", "u4_distance", "c6_density", "reverse_process"} <= figures(tmp_path)
    assert np.load(tmp_path / "samples.npy").shape == (60, 2)
    assert [path.name for path in (tmp_path / "weights").iterdir()] == [
        "diffusion_unconditional.pt"
    ]


def test_every_question_is_answered_with_classes(tmp_path):
    results = run(tmp_path, classed(200, 3, 8), "--target", "2", "-1")
    assert results["c1"] == {name: {"training": 90, "held_out": 10} for name in ("3", "8")}
    assert {"3", "8"} <= set(results["c3"])
    assert set(results["c5"]["classes"]) == {"3", "8"}
    assert results["c4"]["samples"] == 2000
    assert results["bonus"]["target"] == [2, -1]
    assert results["bonus"]["conditional"]["inverted flow"]["reached"]
    assert results["c6"]["conditional"]["points"]["G"]["class"] in {"3", "8"}
    assert {"c1_classes", "c3_trajectories", "c4_samples", "bonus_conditional"} <= figures(tmp_path)
    model = diffusion.load(tmp_path / "weights/diffusion_conditional.pt")
    assert model.num_classes == 2


def options_of(path, *more: str):
    arguments = ["--data", str(path), *more]
    return cli.parse("script", example_diffusion.OWN_DATA, STUDIES, arguments)[1]


def trained(folder, array, *options: str):
    """The run, its model trained, of the unconditional part."""
    np.save(folder / "points.npy", array)
    args = options_of(folder / "points.npy", "--save", str(folder), *options)
    ownpoints.check(args)
    run = cli.Run(example_diffusion.OWN_DATA, args, {})
    run.models["unconditional"] = ownpoints.train(run, "unconditional")
    return run


def w2_of_samples(run) -> float:
    points = ownpoints.split(run)
    samples = diffusion.sample(run.models["unconditional"], 300, steps=30, solver="dpm++", seed=0)
    return distances.w2_ratio(samples, points.held_out, points.training)[0]


def test_a_ring_is_learnt_at_any_scale(tmp_path, monkeypatch):
    """The same points far from the unit scale are learnt as well as at it."""
    monkeypatch.setattr(ownpoints, "ROWS", 3000)
    points, ratios = ring(2000), []
    for name, scale, centre in (("near", 1.0, 0.0), ("far", 50.0, [300.0, -80.0])):
        (tmp_path / name).mkdir()
        ratios.append(
            w2_of_samples(trained(tmp_path / name, scale * points + centre, "--epochs", "300"))
        )
    near, far = ratios
    assert near < 1.5
    assert far < 1.3 * near


def test_the_target_lies_to_the_points_as_the_exercises_to_the_square(tmp_path):
    square = 50 * RANDOM.uniform(-1, 1, (5000, 2)) + [300, -80]
    np.save(tmp_path / "points.npy", square)
    args = options_of(tmp_path / "points.npy")
    ownpoints.check(args)
    np.testing.assert_allclose(args.target, [300 + 4 * 50, -80 + 5.5 * 50], atol=1)


def test_many_points_are_seen_in_batches(tmp_path, monkeypatch):
    monkeypatch.setattr(ownpoints, "ROWS", 500)
    first = trained(tmp_path, ring(2000), "--epochs", "5")
    second = trained(tmp_path, np.load(tmp_path / "points.npy"), "--epochs", "5")
    first, second = (some.models["unconditional"].state_dict() for some in (first, second))
    assert all(torch.equal(first[name], second[name]) for name in first)
    training = ownpoints.Batches(diffusion.build(torch.randn(900, 2)), torch.randn(900, 2))
    points, labels = training._batch()
    assert points.shape == (500, 2)
    assert labels is None


def test_held_out_loss_is_that_of_the_ideal_denoiser_of_a_gaussian():
    """eps_theta = sigma x / (sigma^2 + 1) is wrong by eps with mean square 1 / (1 + sigma^2)."""

    class Ideal:
        schedule = diffusion.schedule.Exponential()

        def noise(self, x, sigma, labels):
            return sigma[:, None] * x / (sigma[:, None] ** 2 + 1)

    points = torch.from_numpy(RANDOM.standard_normal((20_000, 2)))
    value, error = owndata.denoising_loss(Ideal(), points, None)
    t = torch.linspace(0, 1, 10_001, dtype=torch.float64)
    expected = torch.trapezoid(1 / (1 + Ideal.schedule.sigma(t) ** 2), t).item()
    assert 0 < error < 0.01
    assert abs(value - expected) < 4 * error


# --- Bad input ----------------------------------------------------------------------------------


def bad_files(folder) -> dict:
    with_nan, with_hole = ring(200), classed(200, 0, 1)
    with_nan[17, 1], with_hole[3, 2] = np.nan, np.nan
    arrays = {
        "nan": with_nan,
        "hole": with_hole,
        "flat": np.zeros(200),
        "wide": np.zeros((200, 4)),
        "few": ring(99),
        "words": np.full((200, 2), "a"),
        "complex": ring(200).astype(complex),
        "constant": np.column_stack([np.zeros(200), np.arange(200.0)]),
        "offset": ring(200) + 1e7,
        "huge": 1e20 * ring(200),
        "fractions": classed(200, 0, 1) + np.array([0, 0, 0.5]),
        "negative": classed(200, 0, -1),
        "one_class": classed(200, 4),
        "rare": np.vstack([classed(200, 0, 1), classed(3, 9)]),
    }
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    np.save(folder / "objects.npy", np.array([{}] * 200), allow_pickle=True)
    np.savez(folder / "several.npy.npz", ring(200))
    (folder / "pickled.npy").write_bytes(pickle.dumps(ring(200)))
    (folder / "empty.npy").write_bytes(b"")
    (folder / "cut.npy").write_bytes((folder / "flat.npy").read_bytes()[:300])
    (folder / "folder.npy").mkdir()
    return {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("missing.npy", "there is no file"),
        ("folder.npy", "is a folder"),
        ("several.npy.npz", "not a .npy file"),
        ("pickled.npy", "not a .npy file"),
        ("empty.npy", "not a .npy file"),
        ("cut.npy", "damaged"),
        ("objects.npy", "Python objects"),
        ("words.npy", "must hold real numbers"),
        ("complex.npy", "must hold real numbers"),
        ("flat.npy", "must have shape (n, 2)"),
        ("wide.npy", "must have shape (n, 2)"),
        ("few.npy", "must hold 100 to 1,000,000 points, not 99"),
        ("nan.npy", "NaN or infinite, in row 17"),
        ("constant.npy", "hardly vary"),
        ("offset.npy", "hardly vary"),
        ("huge.npy", "scale them"),
        ("hole.npy", "not whole numbers"),
        ("fractions.npy", "not whole numbers"),
        ("negative.npy", "negative class, -1"),
        ("one_class.npy", "one class only"),
        ("rare.npy", "3 points of class 9"),
    ],
)
def test_a_bad_file_ends_in_one_line_and_leaves_no_trace(tmp_path, capsys, name, complaint):
    before = bad_files(tmp_path)
    folders = ["--out", str(tmp_path / "out"), "--save", str(tmp_path / "weights")]
    assert example_diffusion.main([f"--data={tmp_path / name}", *folders]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("example_diffusion.py: error: ")
    assert complaint in line
    after = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    assert after == before
    assert not (tmp_path / "out").exists()


def test_options_that_do_not_belong_to_a_file_of_points_are_refused(tmp_path, capsys):
    np.save(tmp_path / "points.npy", ring(200))
    data = ["--data", str(tmp_path / "points.npy"), "--out", str(tmp_path / "out")]
    weights = ["--conditional-weights", "weights/diffusion_conditional.pt"]
    for options, complaint in (
        (["--points", "1000"], "--points belongs to the square's points"),
        (weights, "--conditional-weights needs classes"),
        (["--samples", "1"], "--samples must be in 2.."),
        (["--study", "vp"], "--data belongs to the exercise, not to --study vp"),
    ):
        try:
            code = example_diffusion.main([*data, *options])
        except SystemExit as stop:
            code = stop.code
        assert code == 2
        assert complaint in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_shipped_weights_are_refused_for_points_elsewhere(tmp_path, capsys):
    np.save(tmp_path / "points.npy", classed(200, *range(5)) * [50, 50, 1] + [300, -80, 0])
    arguments = ["--data", str(tmp_path / "points.npy"), "--out", str(tmp_path / "out")]
    for option, kind in (("--weights", "unconditional"), ("--conditional-weights", "conditional")):
        weights = ROOT / f"weights/diffusion_{kind}.pt"
        assert example_diffusion.main([*arguments, option, str(weights)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "is of points around (" in line
    assert [path.name for path in tmp_path.iterdir()] == ["points.npy"]


def test_help_names_the_option(capsys):
    with pytest.raises(SystemExit) as stop:
        example_diffusion.main(["--help"])
    assert stop.value.code == 0
    assert "--data FILE.npy" in capsys.readouterr().out
