"""Two runs of a script with one --out and one --save at the same time: both end well."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

import diffusion
import mingpt

ROOT = Path(__file__).parents[2]
POINTS = [
    "example_diffusion.py", "--study", "vp", "--epochs", "2", "--points", "1000", "--steps", "5",
    "--samples", "20",
]  # fmt: skip
TEXT = [
    "example_gpt.py", "--model", "gpt-nano", "--vocab", "book", "--max-iters", "101",
    "--batch-size", "4", "--block-size", "48", "--starts", "1", "--device", "cpu",
]  # fmt: skip
WORDS = [
    "the", "rabbit,", "a", "queen", "and", "two", "kings", "went", "down", "to", "look", "at",
    "an", "old", "hat",
]  # fmt: skip


@pytest.mark.parametrize(
    ("command", "name", "load", "weights"),
    [
        (POINTS, "vp", diffusion.load, {"vp_unconditional.pt"}),
        (TEXT, "gpt", mingpt.load, {"gpt.pt"}),
    ],
    ids=["diffusion", "gpt"],
)
def test_both_end_well(command, name, load, weights, tmp_path):
    if name == "gpt":  # its state of an interrupted training is written, and taken away, as well
        chosen, text = random.Random(0), tmp_path / "text.txt"
        lines = (" ".join(chosen.choices(WORDS, k=9)) for _ in range(120))
        text.write_text("".join(f"{line}.\n" for line in lines), encoding="utf-8")
        command = [*command, "--text", str(text)]
    folders = ["--out", f"{tmp_path}/out", "--save", f"{tmp_path}/save"]
    runs = [
        subprocess.Popen(
            [sys.executable, *command, *folders], cwd=ROOT, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, text=True, encoding="utf-8",
        )
        for _ in range(2)
    ]  # fmt: skip
    for run in runs:
        _, said = run.communicate(timeout=600)
        assert run.returncode == 0, said
        assert "error" not in said
    found = json.loads((tmp_path / f"out/results/{name}.json").read_text(encoding="utf-8"))
    assert found["study"] == name
    assert {path.name for path in (tmp_path / "save").iterdir()} == weights
    for file in weights:
        load(tmp_path / "save" / file)
    assert [path.name for path in (tmp_path / "out/results").iterdir()] == [f"{name}.json"]
    assert {path.suffix for path in (tmp_path / "out/figures").iterdir()} == {".svg"}
