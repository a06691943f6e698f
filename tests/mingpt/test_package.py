"""The package's names, imported on first use."""

import subprocess
import sys
from pathlib import Path

import pytest

import mingpt

ROOT = Path(__file__).resolve().parents[2]
USE = """
import mingpt
assert callable(mingpt.attention.attention) and callable(mingpt.inversion.invert)
assert mingpt.scoring.perplexity and mingpt.load is mingpt.checkpoint.load
assert mingpt.DataError is mingpt.data.DataError
from mingpt import *
assert issubclass(CheckpointError, ValueError)
"""


def test_names_are_there_after_importing_the_package_alone():
    subprocess.run([sys.executable, "-W", "error", "-c", USE], cwd=ROOT, check=True)


def test_every_module_is_an_attribute():
    modules = {path.stem for path in Path(mingpt.__file__).parent.glob("[!_]*.py")}
    assert modules | set(mingpt.__all__) <= set(dir(mingpt))
    for name in modules:
        assert getattr(mingpt, name).__name__ == f"mingpt.{name}"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        mingpt.nothing  # noqa: B018 - the access is the test


def test_building_the_data_prints_only_its_own_error(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "mingpt.data", "--text", str(tmp_path / "missing")],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("python -m mingpt.data: error: cannot read")
