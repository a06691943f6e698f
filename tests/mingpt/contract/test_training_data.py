"""The datasets and settings that minGPT's Trainer takes."""

import dataclasses
import math
from collections import namedtuple
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import IterableDataset, TensorDataset

from mingpt.model import GPT
from mingpt.trainer import Trainer
from tests.mingpt.contract import plain
from tests.mingpt.contract.conftest import build, training_config
from tests.mingpt.contract.training import Blocks, batches, losses_of, pairs


class Stream(IterableDataset):
    def __iter__(self):
        return iter(pairs())


@pytest.mark.parametrize(
    "batch", [32, None, "a name", lambda self, split: None],
    ids=["number", "none", "name", "method"],
)
def test_a_dataset_may_call_something_of_its_own_batch(model, batch):
    """minGPT asks for __len__ and __getitem__ alone."""

    class Own(Blocks):
        pass

    Own.batch = batch
    assert len(losses_of(Trainer(training_config(), model, Own()))) == 3


@pytest.mark.parametrize(
    "vocabulary", [10**6, "utf-8", lambda self: 13, ["a", "b"]],
    ids=["larger", "name", "method", "list"],
)  # fmt: skip
def test_a_dataset_may_call_something_of_its_own_vocab_size(model, vocabulary):
    """It is read by scripts, not by minGPT."""

    class Own(Blocks):
        pass

    Own.vocab_size = vocabulary
    assert len(losses_of(Trainer(training_config(), model, Own()))) == 3


@pytest.mark.parametrize(
    "data",
    [
        Blocks(), Blocks(plain.BLOCK + 1), pairs(),
        TensorDataset(plain.tokens(9, 8), plain.tokens(9, 8, seed=1)),
        torch.utils.data.Subset(Blocks(), [0, 3, 5]),
        torch.utils.data.ConcatDataset([Blocks(), Blocks()]),
        [(x.numpy(), y.numpy()) for x, y in pairs()], [[x, y] for x, y in pairs()],
    ],
    ids=["blocks", "one", "list", "tensors", "subset", "concatenated", "arrays", "lists"],
)  # fmt: skip
def test_map_datasets_of_every_kind(model, data):
    """Whatever PyTorch's loader makes two tensors of; drawn with replacement."""
    assert len(losses_of(Trainer(training_config(), model, data))) == 3


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8])
def test_targets_of_other_integer_types_are_trained_on(model, dtype):
    """Ours takes them all; minGPT's cross-entropy wants int64 or uint8."""
    data = [(x, y.to(dtype)) for x, y in pairs()]
    assert len(losses_of(Trainer(training_config(), model, data))) == 3


def test_targets_that_are_ignored_in_part(model, config, state):
    """-1 for the positions of a question: minGPT's adder and sorter."""
    data = [(x, torch.cat([torch.full((5,), -1), y[5:]])) for x, y in pairs()]
    torch.manual_seed(1)
    expected = plain.train(plain.trainable(state), config, batches(data, 3), 1e-2)
    torch.manual_seed(1)
    assert losses_of(Trainer(training_config(), model, data)) == pytest.approx(expected, rel=1e-4)


class Signs(GPT):
    """A loss of one's own, for labels of -1 and 1."""

    def forward(self, idx, targets=None):
        logits, _ = super().forward(idx)
        return logits, nn.functional.softplus(-targets.float() * logits[..., 0]).mean()


@pytest.mark.parametrize("label", [-1, -1.0, -1.5])
def test_a_loss_of_ones_own_may_give_every_target_a_meaning(config, label):
    """minGPT's Trainer never looks at y: a batch of labels -1 is learnt."""
    torch.manual_seed(0)
    model = Signs(config)
    x = plain.tokens(plain.BLOCK)
    data = [(x, torch.full(x.shape, label))] * 4
    expected = model(x[None], data[0][1][None])[1].item()
    run = Trainer(training_config(max_iters=1), model, data)
    assert losses_of(run) == pytest.approx([expected], rel=1e-5)


def test_max_iters_0_makes_the_one_step_mingpts_loop_makes(model):
    """minGPT looks at the limit after a step: 0 and 1 are the same."""
    assert len(losses_of(Trainer(training_config(max_iters=0), model, Blocks()))) == 1


def test_an_infinite_max_iters_is_none(model):
    """minGPT compares the count with it, and goes on."""
    run = Trainer(training_config(max_iters=math.inf), model, Blocks())
    run.add_callback("on_batch_end", lambda trainer: trainer.iter_num < 4 or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run.run()
    assert run.iter_num == 4


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "the dataset is empty"),
        ([{"x": pair[0], "y": pair[1]} for pair in pairs()], r"pairs \(x, y\).*a dict of 2"),
        ([(*pair, 1) for pair in pairs()], r"pairs \(x, y\).*a list of 3"),
        (Stream(), "not be an IterableDataset"),
    ],
    ids=["empty", "dicts", "triples", "stream"],
)
def test_a_dataset_that_gives_no_pairs_is_an_assertion_error_and_a_value_error(
    model, data, message
):
    """minGPT stops at each of these too, in torch or where it takes the batch apart."""
    for kind in (ValueError, AssertionError):
        with pytest.raises(kind, match=message):
            Trainer(training_config(max_iters=1), model, data).run()


@pytest.mark.parametrize("bound", [math.inf, np.float32("inf"), torch.tensor(math.inf)])
def test_an_infinite_grad_norm_clip_does_not_clip(config, state, bound):
    """minGPT scales by min(1, bound / norm): how its users leave gradients alone."""
    losses = []
    for grad_norm_clip in (bound, 1e9):
        run = Trainer(training_config(grad_norm_clip=grad_norm_clip), build(config, state), pairs())
        torch.manual_seed(0)
        losses.append(losses_of(run))
    assert losses[0] == losses[1]


def test_false_and_0_ask_for_none_of_our_settings(config, state):
    """minGPT ignores lr_decay and eval_interval, which ours has; both may say that they are off."""
    losses = []
    for ours in ({}, {"lr_decay": False, "eval_interval": 0}):
        run = Trainer(training_config(**ours), build(config, state), pairs())
        torch.manual_seed(0)
        losses.append(losses_of(run))
    assert losses[0] == losses[1]


@pytest.mark.parametrize("number", [float, np.int64, np.float64, torch.tensor])
def test_max_iters_may_be_any_whole_number(model, number):
    """3.0, as --trainer.max_iters=3e0 gives, NumPy's and 0-d tensors."""
    assert len(losses_of(Trainer(training_config(max_iters=number(3)), model, Blocks()))) == 3


@pytest.mark.parametrize("number", [torch.tensor, np.float32, np.float64])
def test_rates_may_be_any_number(config, state, number):
    """learning_rate, weight_decay, grad_norm_clip and betas as 0-d tensors or NumPy floats."""
    losses = []
    for kind in (float, number):
        model = build(config, state)
        run = Trainer(
            training_config(
                learning_rate=kind(1e-2), weight_decay=kind(0.1), grad_norm_clip=kind(1.0),
                betas=[float(kind(0.9)), float(kind(0.95))],
            ), model, Blocks(),
        )  # fmt: skip
        torch.manual_seed(0)
        losses.append(losses_of(run))
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.parametrize("kind", [torch.tensor, np.array])
def test_betas_may_be_a_tensor_or_an_array(config, state, kind):
    """minGPT hands them to AdamW, which takes the two apart."""
    losses = []
    for betas in ((0.5, 0.75), kind([0.5, 0.75])):
        run = Trainer(training_config(betas=betas), build(config, state), pairs())
        torch.manual_seed(0)
        losses.append(losses_of(run))
    assert losses[0] == losses[1]


def test_a_configuration_of_mingpts_fields_on_any_object(model):
    """The Trainer reads attributes."""
    fields = ("device", "num_workers", "max_iters", "batch_size", "learning_rate", "betas",
              "weight_decay", "grad_norm_clip")
    config = SimpleNamespace(**{name: getattr(training_config(), name) for name in fields})
    assert len(losses_of(Trainer(config, model, Blocks()))) == 3


FIELDS = ("max_iters", "batch_size", "learning_rate", "betas", "weight_decay", "grad_norm_clip",
          "num_workers", "device")  # fmt: skip


@pytest.mark.parametrize(
    "kind",
    [
        dataclasses.make_dataclass("Frozen", FIELDS, frozen=True), namedtuple("Named", FIELDS),
        dataclasses.make_dataclass("Slots", FIELDS, slots=True),
    ],
    ids=["dataclass", "tuple", "slots"],
)  # fmt: skip
def test_a_configuration_that_takes_no_attributes_is_used(config, state, kind):
    """minGPT only reads; ours fills in a copy."""
    given = training_config(max_iters=3.0)  # a number that is made Python's
    frozen, losses = kind(*(getattr(given, name) for name in FIELDS)), []
    for settings in (given, frozen):
        run = Trainer(settings, build(config, state), Blocks())
        torch.manual_seed(0)
        losses.append(losses_of(run))
    assert losses[0] == losses[1]
    assert run.config.max_iters == 3
    assert not hasattr(frozen, "ema_decay")


def test_settings_may_be_changed_between_construction_and_run(model):
    """run reads trainer.config."""
    run = Trainer(training_config(), model, Blocks())
    run.config.max_iters = 2
    run.config.batch_size = 5
    shapes = []
    model.register_forward_hook(lambda m, x, out: shapes.append(tuple(x[0].shape)))
    run.run()
    assert shapes == [(5, plain.BLOCK)] * 2


def test_a_device_is_any_that_pytorch_knows(config):
    """The string goes to model.to: here the device of shapes without memory."""
    run = Trainer(training_config(device="meta"), GPT(config), Blocks())
    assert run.model.lm_head.weight.device.type == "meta"
    assert torch.device(run.device).type == "meta"
