import copy
import math
from functools import partial

import pytest
import torch

from mingpt.data import BlockDataset
from mingpt.devices import resolve_device, resolve_precision
from mingpt.discounting import AbsoluteDiscount
from mingpt.resume import COMPUTING_SETTINGS, ResumeError
from mingpt.trainer import Trainer, TrainingDivergedError
from mingpt.utils import CfgNode
from tests.mingpt.helpers import small_model, tokens

TEXT = tokens(400, seed=5) % 11  # few kinds of tokens: quickly learnt


def trainer(evaluate=None, model=None, dataset=None, **settings):
    config = Trainer.get_default_config()
    config.merge_from_dict(
        {"device": "cpu", "max_iters": 12, "batch_size": 8, "learning_rate": 1e-2, "seed": 3,
         **settings}
    )
    dataset = BlockDataset(TEXT, 16) if dataset is None else dataset
    return Trainer(config, model or small_model(), dataset, evaluate)


def test_training_lowers_the_loss_and_repeats_by_seed():
    first, again, other = trainer(), trainer(), trainer(seed=4)
    state = torch.get_rng_state()
    for t in (first, again, other):
        t.run()
    assert torch.equal(torch.get_rng_state(), state)
    assert first.losses == again.losses
    assert first.losses != other.losses
    assert len(first.losses) == 12
    assert first.losses[-1] < first.losses[0] - 1


def test_the_first_loss_is_the_models_cross_entropy():
    model = small_model(embd_pdrop=0.0, resid_pdrop=0.0, attn_pdrop=0.0)
    before = copy.deepcopy(model)
    run = trainer(model=model, max_iters=1)
    run.run()
    starts = torch.randint(len(run.train_dataset), (8,), generator=torch.Generator().manual_seed(3))
    _, expected = before(*run.train_dataset.batch(starts))
    assert run.losses[0] == pytest.approx(expected.item(), rel=1e-6)


def test_callbacks_see_every_iteration():
    run, seen = trainer(), []
    run.add_callback("on_batch_end", lambda t: seen.append((t.iter_num, t.loss.item())))
    run.set_callback("on_evaluation", lambda t: pytest.fail("no evaluation was asked for"))
    run.run()
    assert [i for i, _ in seen] == list(range(12))
    assert [loss for _, loss in seen] == run.losses


def test_any_pytorch_dataset_will_do():
    plain = list(BlockDataset(TEXT, 16))
    run = trainer(dataset=plain)
    run.run()
    assert run.losses[-1] < run.losses[0] - 1


def test_the_best_averaged_weights_are_kept():
    values = iter([3.0, 1.0, 2.0, 1.5])
    states = []

    def evaluate(model):
        assert not any(torch.equal(model.lm_head.weight, s) for s in states)
        states.append(model.lm_head.weight.detach().clone())
        return next(values)

    run = trainer(evaluate, eval_interval=3, ema_decay=0.9)
    run.run()
    assert run.evaluations == [(3, 3.0), (6, 1.0), (9, 2.0), (12, 1.5)]
    assert run.best == 1.0
    assert torch.equal(run.model.lm_head.weight, states[1])


def test_early_stopping():
    values = iter([3.0, 1.0, 2.0, 1.5, 0.5])
    run = trainer(lambda model: next(values), eval_interval=1, patience=2, max_iters=100)
    run.run()
    assert len(run.losses) == 4


@pytest.mark.parametrize("patience", [1, 3])
def test_early_stopping_on_a_plateau(patience):
    run = trainer(lambda model: 1.0, eval_interval=2, patience=patience, max_iters=100)
    run.run()
    assert len(run.evaluations) == patience + 1
    assert run.iter_num == 2 * (patience + 1)


def test_the_average_is_the_recursion_it_claims():
    model = small_model()
    average = model.lm_head.weight.detach().clone()
    run = trainer(model=model, ema_decay=0.5, max_iters=6)

    def follow(t):
        decay = min(0.5, (1 + t.iter_num) / (10 + t.iter_num))
        average.lerp_(model.lm_head.weight.detach(), 1 - decay)

    run.set_callback("on_batch_end", follow)
    run.run()
    torch.testing.assert_close(run.averaged.lm_head.weight, average)
    assert torch.equal(model.lm_head.weight, run.averaged.lm_head.weight)


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
    ("ema_decay", 0.9), ("eval_interval", 1), ("patience", 2),
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


def test_accumulated_parts_equal_the_whole_batch():
    settings = {"embd_pdrop": 0.0, "resid_pdrop": 0.0, "attn_pdrop": 0.0}
    whole = trainer(model=small_model(**settings))
    parts = trainer(model=small_model(**settings), accumulation_steps=4)
    whole.run()
    parts.run()
    assert parts.losses == pytest.approx(whole.losses, abs=1e-4)


def test_a_compiled_step_gives_the_same_losses_and_keys(monkeypatch):
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    settings = {"embd_pdrop": 0.0, "resid_pdrop": 0.0, "attn_pdrop": 0.0}
    plain = trainer(model=small_model(**settings), max_iters=4)
    compiled = trainer(model=small_model(**settings), max_iters=4, compile=True)
    plain.run()
    compiled.run()
    assert compiled.losses == pytest.approx(plain.losses, abs=1e-5)
    assert list(compiled.state_dict()["model"]) == list(plain.state_dict()["model"])


def test_compiling_where_it_is_impossible_is_refused(monkeypatch):
    def missing(function):
        raise RuntimeError("no C++ compiler\nlong explanation")

    monkeypatch.setattr(torch, "compile", missing)
    with pytest.raises(ValueError, match=r"train without it: no C\+\+ compiler$"):
        trainer(compile=True)


def test_warm_up_and_cosine():
    rates = []
    run = trainer(warmup_iters=4, lr_decay="cosine", min_lr_ratio=0.1, max_iters=12)
    run.set_callback("on_batch_end", lambda t: rates.append(t.optimizer.param_groups[0]["lr"]))
    run.run()
    assert rates[:5] == pytest.approx([0.0025, 0.005, 0.0075, 0.01, 0.01])
    assert rates[8] == pytest.approx(0.0055)  # half way down the cosine
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert rates[-1] > 0.001


def test_a_schedule_of_ones_own_is_kept():
    rates, tables = [], []

    def stop_after_two(t):
        tables.append(t.model.lm_head.weight.detach().clone())
        rates.append([group["lr"] for group in t.optimizer.param_groups])
        if t.iter_num == 1:
            for group in t.optimizer.param_groups:
                group["lr"] = 0.0

    run = trainer(max_iters=4)
    run.set_callback("on_batch_end", stop_after_two)
    run.run()
    assert rates == [[0.01] * 3] * 2 + [[0.0] * 3] * 2
    assert not torch.equal(tables[0], tables[1])
    assert torch.equal(tables[1], tables[3])


def test_gradients_are_clipped():
    model = small_model(scale=8)
    run = trainer(model=model, grad_norm_clip=0.01, max_iters=2)
    norms = []
    run.set_callback(
        "on_batch_end",
        lambda t: norms.append(torch.stack([p.grad.norm() for p in model.parameters()]).norm()),
    )
    run.run()
    assert all(norm.item() == pytest.approx(0.01, rel=1e-3) for norm in norms)


def test_no_norm_to_clip_to_leaves_gradients_alone():
    clipped, free = (trainer(model=small_model(), grad_norm_clip=c) for c in (1e9, None))
    clipped.run()
    free.run()
    assert free.losses == clipped.losses


def test_precision_names():
    assert resolve_precision("float32", "cpu") is None
    assert resolve_precision("auto", "cpu") in (None, torch.bfloat16)
    with pytest.raises(ValueError, match="unknown precision 'half'"):
        resolve_precision("half", "cpu")


def test_bfloat16_on_a_processor_without_it_is_refused(monkeypatch):
    monkeypatch.setattr("mingpt.devices.bfloat16_supported", lambda device: False)
    with pytest.raises(ValueError, match="bfloat16 was asked for"):
        trainer(precision="bfloat16")
    assert resolve_precision("auto", "cpu") is None


def test_bfloat16_keeps_the_loss_within_half_a_percent(monkeypatch):
    monkeypatch.setattr("mingpt.devices.bfloat16_supported", lambda device: True)
    full, half = trainer(max_iters=3), trainer(max_iters=3, precision="bfloat16")
    full.run()
    half.run()
    assert half.losses == pytest.approx(full.losses, rel=5e-3)
    assert half.losses != full.losses


def test_cuda_where_there_is_none_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == "cpu"
    with pytest.raises(ValueError, match="finds no CUDA GPU"):
        resolve_device("cuda")
    with pytest.raises(ValueError, match="unknown device 'tpu'"):
        resolve_device("tpu")


def test_devices_go_by_name_or_as_torch_devices(monkeypatch):
    for device in ("cpu", "cpu:0", torch.device("cpu")):
        run = trainer(device=device, max_iters=1)
        assert run.device == "cpu"
        run.run()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("cuda") == "cuda"
    assert resolve_device(torch.device("cuda", 1)) == resolve_device("cuda:1") == "cuda:1"
    with pytest.raises(ValueError, match="'cuda:2' was asked for, but PyTorch finds 2 CUDA GPUs"):
        resolve_device("cuda:2")
    for unknown in ("meta", "cpu:x", "", None, 0, True):
        with pytest.raises(ValueError, match=f"unknown device '{unknown}'"):
            resolve_device(unknown)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "batch_size should be a whole number of at least 1"),
        ({"batch_size": True}, "batch_size should be"),
        ({"accumulation_steps": 3}, "cannot be divided among 1 processes x 3"),
        ({"accumulation_steps": 0}, "accumulation_steps should be a whole number of at least 1"),
        ({"max_iters": 0}, "max_iters should be a whole number of at least 1"),
        ({"max_iters": 2.5}, "max_iters should be"),
        ({"eval_interval": 0}, "eval_interval should be"),
        ({"patience": 0}, "patience should be"),
        ({"warmup_iters": -3}, "warmup_iters should be a whole number of at least 0"),
        ({"seed": 1.5}, "seed should be"),
        ({"learning_rate": float("nan")}, "learning_rate should be a number of at least 0"),
        ({"weight_decay": -1.0}, "weight_decay should be"),
        ({"grad_norm_clip": -1.0}, "grad_norm_clip should be"),
        ({"ema_decay": 2}, "ema_decay should be a number of at least 0 and below 1"),
        ({"compile": "yes"}, "compile should be True or False"),
        ({"betas": 0.9}, "betas should be two numbers"),
        ({"betas": (0.9, 1.0)}, "each of betas should be"),
        ({"lr_decay": "linear"}, "lr_decay should be"),
        ({"lr_decay": "cosine", "max_iters": None}, "cosine decay needs max_iters"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        trainer(**settings)


def test_data_of_a_larger_vocabulary_are_refused():
    with pytest.raises(ValueError, match="vocabulary of 200 tokens, the model knows 97"):
        trainer(dataset=BlockDataset(TEXT, 16, vocab_size=200))


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (tokens(20, 16) + 90, "target out of range: got 90 to 18"),
        (tokens(20, 8), r"targets should be int64 of shape \(8, 16\)"),
        (tokens(20, 16).int(), "targets should be int64 .*not torch.int32"),
    ],
)
def test_targets_that_are_none_are_refused(targets, message):
    with pytest.raises(ValueError, match=message):
        trainer(dataset=list(zip(tokens(20, 16), targets, strict=True))).run()


def test_diverging_training_stops():
    run = trainer(learning_rate=1e30)
    with pytest.raises(TrainingDivergedError, match="diverged at iteration 2: the loss"):
        run.run()
    run = trainer(lambda model: float("nan"), eval_interval=3)
    with pytest.raises(TrainingDivergedError, match="diverged at iteration 3: the held-out"):
        run.run()


class Bigrams(torch.nn.Module):
    """The least that minGPT's Trainer asks of a model."""

    def __init__(self):
        super().__init__()
        self.table = torch.nn.Parameter(torch.zeros(11, 11))

    def configure_optimizers(self, config):
        return torch.optim.SGD(self.parameters(), lr=config.learning_rate)

    def forward(self, x, y=None):
        logits = self.table[x]
        return logits, torch.nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten())


def test_any_module_with_mingpts_contract_trains():
    run = trainer(model=Bigrams(), learning_rate=10.0, max_iters=30)
    run.run()
    assert run.losses[0] == pytest.approx(math.log(11), rel=1e-6)
    assert run.losses[-1] < run.losses[0] - 0.05


def test_a_forward_of_its_own_is_called():
    class Doubled(type(small_model())):
        def forward(self, idx, targets=None):
            logits, loss = super().forward(idx, targets)
            return logits, 2 * loss

    plain = small_model(embd_pdrop=0.0, resid_pdrop=0.0, attn_pdrop=0.0)
    doubled = Doubled(plain.config)
    doubled.load_state_dict(plain.state_dict())
    replaced = copy.deepcopy(plain)
    replaced.forward = lambda x, y: (None, 3 * type(plain).forward(replaced, x, y)[1])
    first = []
    for model in (plain, doubled, replaced):
        run = trainer(model=model, max_iters=1)
        run.run()
        first.append(run.losses[0])
    assert first[1:] == pytest.approx([2 * first[0], 3 * first[0]], rel=1e-6)
    discount = AbsoluteDiscount(TEXT, torch.zeros(97, dtype=torch.int64))
    with pytest.raises(ValueError, match="a discount needs this package's GPT"):
        Trainer(CfgNode(device="cpu"), doubled, BlockDataset(TEXT, 16), discount=discount)


def test_the_config_may_change_until_the_run():
    config = CfgNode(device="cpu", precision="auto", max_iters=3, batch_size=8, seed=3)
    run = Trainer(config, small_model(), BlockDataset(TEXT, 16))
    assert run.config is config
    assert config.learning_rate == 3e-4
    assert config.precision == "auto"
    config.max_iters = 5
    run.run()
    assert run.iter_num == len(run.losses) == 5
    config.batch_size = 0
    with pytest.raises(ValueError, match="batch_size should be"):
        run.run()


def test_code_written_for_mingpt_runs():
    from mingpt.model import GPT

    config = CfgNode(model=GPT.get_default_config(), trainer=Trainer.get_default_config())
    config.merge_from_args(["--model.model_type=gpt-nano", "--trainer.max_iters=3"])
    config.model.vocab_size, config.model.block_size = 11, 16
    run = Trainer(config.trainer, GPT(config.model), BlockDataset(TEXT, 16))
    run.set_callback("on_batch_end", lambda t: t.iter_num)
    run.run()
    assert run.model.generate(TEXT[None, :4], 3, do_sample=True, top_k=5).shape == (1, 7)
