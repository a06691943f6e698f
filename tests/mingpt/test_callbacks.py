"""The trainer's callbacks: when they fire, and how they are added."""

from mingpt.data import BlockDataset
from mingpt.trainer import Trainer
from mingpt.utils import CfgNode
from tests.mingpt.helpers import small_model, tokens


def trainer(**settings):
    dataset = BlockDataset(tokens(60), 8, vocab_size=97)
    config = CfgNode(device="cpu", max_iters=5, batch_size=2, seed=0, **settings)
    return Trainer(config, small_model(), dataset, evaluate=lambda model: 1.0)


def test_on_evaluation_fires_after_each_evaluation():
    training, seen = trainer(eval_interval=2), []
    training.set_callback("on_evaluation", lambda t: seen.append((t.iter_num, len(t.evaluations))))
    training.run()
    assert seen == [(2, 1), (4, 2), (5, 3)]


def test_add_callback_appends_and_set_callback_replaces():
    training, calls = trainer(), []
    training.add_callback("on_batch_end", lambda _: calls.append("replaced"))
    training.set_callback("on_batch_end", lambda t: calls.append(("first", t)))
    training.add_callback("on_batch_end", lambda t: calls.append(("second", t)))
    training.run()
    assert calls == [("first", training), ("second", training)] * 5
