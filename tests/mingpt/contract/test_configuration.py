"""CfgNode, set_seed and setup_logging as scripts for minGPT use them."""

import json
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import mingpt.model
import mingpt.trainer
from mingpt.model import GPT
from mingpt.trainer import Trainer
from mingpt.utils import CfgNode, set_seed, setup_logging


def tree():
    return CfgNode(system=CfgNode(seed=1, work_dir="out"), model=SimpleNamespace(n_layer=2), lr=0.5)


def test_the_short_name_of_the_node_is_there():
    """Both modules import CfgNode as CN, and scripts import it from there."""
    assert mingpt.model.CN is mingpt.trainer.CN is CfgNode


def test_default_settings_of_the_model():
    """A type and sizes to fill in, and three rates of 0.1."""
    config = GPT.get_default_config()
    assert config.model_type == "gpt"
    assert config.embd_pdrop == config.resid_pdrop == config.attn_pdrop == 0.1
    for name in ("n_layer", "n_head", "n_embd", "vocab_size", "block_size"):
        assert getattr(config, name) is None


def test_default_settings_of_the_trainer():
    """minGPT's values; num_workers differs on purpose."""
    config = Trainer.get_default_config()
    assert (config.device, config.max_iters, config.batch_size) == ("auto", None, 64)
    assert (config.learning_rate, config.betas, config.weight_decay) == (3e-4, (0.9, 0.95), 0.1)
    assert config.grad_norm_clip == 1.0


def test_two_default_configurations_share_nothing():
    """Each call makes a new node."""
    GPT.get_default_config().vocab_size = 3
    assert GPT.get_default_config().vocab_size is None


@pytest.mark.parametrize(
    ("config", "text"),
    [
        (CfgNode(), ""),
        (CfgNode(a=1, b="x"), "a: 1\nb: x\n"),
        (CfgNode(m=CfgNode(n=2, o=None), c=3), "m:\n    n: 2\n    o: None\nc: 3\n"),
    ],
)
def test_a_configuration_prints_one_setting_a_line(config, text):
    """str(config): name: value, a node's settings indented by four; an empty node is empty."""
    assert str(config) == text


def test_to_dict_goes_into_nodes_alone():
    """Nodes become dicts, other values stay what they are."""
    config = tree()
    assert config.to_dict() == {
        "system": {"seed": 1, "work_dir": "out"}, "model": config.model, "lr": 0.5,
    }  # fmt: skip


def test_merge_from_dict_adds_names_too():
    """minGPT updates __dict__: any name will do, unlike in merge_from_args."""
    config = CfgNode(a=1)
    config.merge_from_dict({"a": 2, "new": 3})
    assert (config.a, config.new) == (2, 3)


def test_overrides_are_python_values_where_they_read_as_such():
    """--name=value with a dotted name; what is no literal stays text."""
    config = tree()
    config.merge_from_args(["--system.seed=[1, 2]", "--lr=1e-3", "--system.work_dir=elsewhere"])
    assert (config.system.seed, config.lr, config.system.work_dir) == ([1, 2], 1e-3, "elsewhere")


def test_overrides_reach_into_any_object():
    """minGPT follows attributes: a node may be a SimpleNamespace, a module, a model."""
    config = tree()
    config.merge_from_args(["--model.n_layer=5"])
    assert config.model.n_layer == 5


@pytest.mark.parametrize("args", ["lr=1", "--lr", "--nothing=1", "--system.nothing=1"])
def test_bad_overrides_are_assertion_errors_and_value_errors(args):
    """minGPT asserts the form and that the name exists."""
    with pytest.raises(AssertionError) as caught:
        tree().merge_from_args([args])
    assert isinstance(caught.value, ValueError)


def test_set_seed_seeds_all_three_generators():
    """random, NumPy's global generator and PyTorch's."""

    def draws():
        return random.random(), np.random.rand(), torch.rand(1).item()  # noqa: NPY002

    set_seed(4)
    first = draws()
    set_seed(4)
    assert draws() == first


def test_setup_logging_records_arguments_and_settings(tmp_path, monkeypatch):
    """args.txt holds the command line, config.json the configuration, in a folder it makes."""
    monkeypatch.setattr("sys.argv", ["train.py", "--system.seed=3"])
    config = CfgNode(system=CfgNode(work_dir=str(tmp_path / "a" / "b"), seed=3))
    setup_logging(config)
    assert (tmp_path / "a" / "b" / "args.txt").read_text(encoding="utf-8") == (
        "train.py --system.seed=3"
    )
    written = (tmp_path / "a" / "b" / "config.json").read_text(encoding="utf-8")
    assert json.loads(written) == config.to_dict()
