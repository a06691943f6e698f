"""A model of ours and the same model as a plain state dict."""

import pytest

from mingpt.model import GPT
from mingpt.trainer import Trainer
from tests.mingpt.contract import plain


@pytest.fixture
def config():
    return plain.settings()


@pytest.fixture
def state(config):
    """A state dict under minGPT's keys, every number of which matters."""
    return plain.varied_state(config)


@pytest.fixture
def model(config, state):
    """Ours with that state, in eval mode, its dropout 0."""
    return build(config, state)


def build(config, state):
    default = GPT.get_default_config()
    default.merge_from_dict(vars(config))
    model = GPT(default)
    model.load_state_dict(state)
    return model.eval()


def training_config(**changes):
    """minGPT's settings of a trainer: short, on the CPU."""
    config = Trainer.get_default_config()
    config.merge_from_dict(
        {"device": "cpu", "num_workers": 0, "max_iters": 3, "batch_size": 4,
         "learning_rate": 1e-2, **changes}
    )  # fmt: skip
    return config


@pytest.fixture
def idx():
    return plain.tokens(3, plain.BLOCK)


@pytest.fixture
def targets():
    return plain.tokens(3, plain.BLOCK, seed=1)
