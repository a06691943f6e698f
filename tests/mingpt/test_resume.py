"""An interrupted training goes on as if nothing had happened, or says why it cannot."""

from types import SimpleNamespace

import pytest
import torch

from mingpt import resume
from mingpt.data import BlockDataset
from mingpt.discounting import AbsoluteDiscount
from mingpt.resume import COMPUTING_SETTINGS, ResumeError
from mingpt.trainer import Trainer
from tests.mingpt.helpers import TEXT, small_model, trainer


@pytest.mark.parametrize("interrupted_after", [5, 6])
def test_resuming_equals_an_uninterrupted_run(interrupted_after, tmp_path):
    def complete():
        return trainer(
            lambda model: model.lm_head.weight.sum().item(), lr_decay="cosine", eval_interval=3,
            ema_decay=0.9,
        )

    whole = complete()
    whole.run()

    class Killed(Exception):
        pass

    def interrupt(t):
        if t.iter_num == interrupted_after:
            torch.save(t.state_dict(), tmp_path / "training.pt")
            raise Killed

    first = complete()
    first.set_callback("on_iteration_end", interrupt)
    with pytest.raises(Killed):
        first.run()
    second = complete()
    second.load_state_dict(torch.load(tmp_path / "training.pt", weights_only=True))
    second.run()
    assert second.losses == whole.losses
    assert second.evaluations == whole.evaluations
    assert torch.equal(second.model.lm_head.weight, whole.model.lm_head.weight)


@pytest.fixture(scope="module")
def finished():
    run = trainer(lambda model: 1.0, max_iters=2)
    run.run()
    return run.state_dict()


OTHER_SETTINGS = [
    ("batch_size", 4), ("max_iters", 3), ("seed", 4), ("learning_rate", 2e-2),
    ("weight_decay", 0.2), ("embedding_weight_decay", 0.1), ("betas", (0.8, 0.95)),
    ("grad_norm_clip", None), ("warmup_iters", 1), ("lr_decay", "cosine"), ("min_lr_ratio", 0.2),
    ("ema_decay", 0.9), ("eval_interval", 1), ("patience", 2), ("keep_best", False),
]  # fmt: skip


def test_every_setting_that_decides_a_run_is_compared_on_resuming():
    names = {name for name, _ in OTHER_SETTINGS} | set(COMPUTING_SETTINGS) | {"precision"}
    assert names == set(Trainer.get_default_config().to_dict())


@pytest.mark.parametrize(("name", "value"), OTHER_SETTINGS)
def test_resuming_with_another_setting_is_refused(finished, name, value):
    other = trainer(**{"max_iters": 2, name: value})
    with pytest.raises(ResumeError, match=f"training had {name} .*, this one has "):
        other.load_state_dict(finished)


def test_resuming_another_model_or_other_data_is_refused(finished):
    with pytest.raises(ResumeError, match=r"had model\.block_size 16, this one has 17"):
        trainer(model=small_model(block_size=17), max_iters=2).load_state_dict(finished)
    with pytest.raises(ResumeError, match=r"had model\.attn_pdrop 0.1, this one has 0.2"):
        trainer(model=small_model(attn_pdrop=0.2), max_iters=2).load_state_dict(finished)
    shorter = trainer(dataset=BlockDataset(TEXT[:100], 16), max_iters=2)
    with pytest.raises(ResumeError, match="had training blocks 384, this one has 84"):
        shorter.load_state_dict(finished)
    plain = trainer(max_iters=2)
    discount = AbsoluteDiscount(TEXT, torch.zeros(97, dtype=torch.int64))
    discounted = Trainer(plain.config, small_model(), plain.train_dataset, discount=discount)
    with pytest.raises(ResumeError, match="had discount None, this one has 0"):
        discounted.load_state_dict(finished)
    with pytest.raises(ResumeError, match="of another model"):
        plain.load_state_dict({**finished, "model": {}})


def test_an_incomplete_or_damaged_state_is_refused(finished):
    for key in finished:
        incomplete = {name: value for name, value in finished.items() if name != key}
        with pytest.raises(ResumeError, match=f"lacks .*{key}"):
            trainer(max_iters=2).load_state_dict(incomplete)
    with pytest.raises(ResumeError, match="lacks"):
        trainer(max_iters=2).load_state_dict([1, 2])
    for damage in ({"iter_num": "2"}, {"losses": 3}, {"optimizer": {}}, {"evaluations": [1]},
                   {"best": None}, {"batch_generator": 1}):  # fmt: skip
        run = trainer(max_iters=2)
        run.load_state_dict({**finished, **damage})
        with pytest.raises(ResumeError, match="state is damaged"):
            run.run()


def test_how_a_run_is_computed_may_change_on_resuming(finished):
    run = trainer(max_iters=2, accumulation_steps=2)
    run.load_state_dict(finished)
    run.run()
    assert run.losses == finished["losses"]


def test_a_file_without_an_interrupted_training_is_refused(tmp_path):
    with pytest.raises(ResumeError, match=r"training\.pt is missing"):
        resume.read(tmp_path / "training.pt")
    (tmp_path / "training.pt").write_bytes(b"half of it")
    with pytest.raises(ResumeError, match=r"training\.pt is damaged"):
        resume.read(tmp_path / "training.pt")


class Pairs(torch.utils.data.Dataset):
    """Blocks that only have __len__ and __getitem__."""

    def __init__(self):
        self.blocks = BlockDataset(TEXT, 16)

    def __len__(self):
        return len(self.blocks)

    def __getitem__(self, i):
        return self.blocks[i]


def interrupted(event, done, **settings):
    """The state in the callback of `event` that comes after so many steps."""
    run, states = trainer(**settings), []

    def keep(t):
        if len(t.losses) == done:
            states.append(t.state_dict())

    run.set_callback(event, keep)
    run.run()
    return states[0], run


@pytest.mark.parametrize("seed", [3, None])
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", ["list", "map", "blocks"])
def test_the_batches_go_on_where_they_were_left(kind, workers, seed):
    data = {"list": list(BlockDataset(TEXT, 16)), "map": Pairs(), "blocks": BlockDataset(TEXT, 16)}
    settings = {"dataset": data[kind], "num_workers": workers, "seed": seed}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(8)
        state, whole = interrupted("on_iteration_end", 5, **settings)
        torch.manual_seed(9)
        resumed = trainer(model=small_model(seed=1), **settings)
        resumed.load_state_dict(state)
        resumed.run()
    assert resumed.losses == whole.losses
    for a, b in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("event", ["on_batch_end", "on_evaluation", "on_iteration_end"])
@pytest.mark.parametrize("done", [3, 6, 12])
def test_a_state_of_any_callback_leaves_the_steps_that_were_left(event, done):
    settings = {
        "evaluate": lambda model: model.lm_head.weight.sum().item(), "eval_interval": 3,
        "lr_decay": "cosine", "warmup_iters": 2, "ema_decay": 0.9,
    }  # fmt: skip
    state, whole = interrupted(event, done, **settings)
    resumed, rates = trainer(**settings), []
    resumed.load_state_dict(state)
    resumed.set_callback(
        "on_batch_end", lambda t: rates.append(t.optimizer.param_groups[0]["lr"])
    )
    resumed.run()
    assert len(rates) == 12 - done
    assert resumed.losses == whole.losses
    assert resumed.evaluations == whole.evaluations
    assert torch.equal(resumed.model.lm_head.weight, whole.model.lm_head.weight)


def test_there_is_no_state_before_the_run():
    with pytest.raises(ValueError, match="call state_dict in a callback"):
        trainer().state_dict()


def test_a_second_run_keeps_its_own_records():
    run = trainer(lambda model: 1.0, max_iters=2)
    run.run()
    first = list(run.losses)
    run.run()
    assert len(run.losses) == 2
    assert run.losses != first
    assert run.evaluations == [(2, 1.0)]


def test_a_state_of_another_training_is_not_discarded(tmp_path):
    """Of two that write into one file, each takes away its own."""
    file = tmp_path / "training.pt"
    ours, other = SimpleNamespace(losses=[3.0, 2.5, 2.0]), SimpleNamespace(losses=[3.0, 2.6, 2.1])
    resume.discard(file, ours)  # none is there
    torch.save({"losses": [3.0, 2.5]}, file)
    resume.discard(file, other)
    assert file.exists()
    resume.discard(file, ours)
    assert not file.exists()
