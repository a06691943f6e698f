import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mingpt.utils import CfgNode, atomic_path, setup_logging


def config():
    return CfgNode(system=CfgNode(work_dir="out", seed=1), trainer=CfgNode(rate=0.1, name="a"))


def test_overrides_from_the_command_line():
    node = config()
    node.merge_from_args(["--trainer.rate=3e-4", "--system.seed=7", "--trainer.name=long text"])
    assert node.trainer.rate == 3e-4
    assert node.system.seed == 7
    assert node.trainer.name == "long text"


@pytest.mark.parametrize(
    ("arg", "message"),
    [
        ("trainer.rate=1", "should read --name=value"),
        ("--trainer.rate", "should read --name=value"),
        ("--trainer.rat=1", "not a setting"),
        ("--train.rate=1", "no node 'train'"),
        ("--trainer.rate.x=1", "not a setting"),
    ],
)
def test_wrong_overrides_are_refused(arg, message):
    with pytest.raises(ValueError, match=message):
        config().merge_from_args([arg])


def test_to_dict_and_text():
    assert config().to_dict()["trainer"] == {"rate": 0.1, "name": "a"}
    assert "trainer:\n    rate: 0.1" in str(config())
    node = config()
    node.merge_from_dict({"extra": 3})
    assert node.extra == 3


def test_setup_logging_records_command_and_config(tmp_path, monkeypatch):
    node = config()
    node.system.work_dir = str(tmp_path / "run")
    monkeypatch.setattr(sys, "argv", ["train.py", "--x=1"])
    setup_logging(node)
    assert (tmp_path / "run/args.txt").read_text(encoding="utf-8") == "train.py --x=1"
    assert json.loads((tmp_path / "run/config.json").read_text(encoding="utf-8")) == node.to_dict()


def test_what_is_recorded_may_hold_numpys_numbers_and_names_of_any_bytes(tmp_path, monkeypatch):
    node = CfgNode(
        system=CfgNode(work_dir=str(tmp_path)), rate=np.float32(0.25), count=np.int64(3),
        betas=np.array([0.5, 0.75]), bound=torch.tensor(2), device=torch.device("cpu"),
        data=Path("a") / "b", seed=None,
    )  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["train.py", "caf\udce9.txt"])
    setup_logging(node)
    assert (tmp_path / "args.txt").read_text(encoding="utf-8") == "train.py caf?.txt"
    assert json.loads((tmp_path / "config.json").read_text(encoding="utf-8")) == {
        "system": {"work_dir": str(tmp_path)}, "rate": 0.25, "count": 3, "betas": [0.5, 0.75],
        "bound": 2, "device": "cpu", "data": str(Path("a") / "b"), "seed": None,
    }  # fmt: skip


def test_a_failed_write_keeps_the_old_content(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old", encoding="utf-8")

    def fail():
        with atomic_path(path) as temporary:
            temporary.write_text("half of the n", encoding="utf-8")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]
    with atomic_path(path) as temporary:
        temporary.write_text("new", encoding="utf-8")
    assert path.read_text(encoding="utf-8") == "new"
    assert list(tmp_path.iterdir()) == [path]


