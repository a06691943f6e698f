import copy
import math

import pytest
import torch

from mingpt.data import BlockDataset
from mingpt.discounting import AbsoluteDiscount
from mingpt.trainer import Trainer, TrainingDivergedError
from mingpt.utils import CfgNode
from tests.mingpt.helpers import TEXT, small_model, tokens, trainer


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


def test_evaluations_that_are_only_watched_choose_nothing():
    values, states = iter([3.0, 1.0, 2.0, 1.5]), []

    def evaluate(model):
        states.append(model.lm_head.weight.detach().clone())
        return next(values)

    run = trainer(evaluate, eval_interval=3, ema_decay=0.9, keep_best=False)
    run.run()
    assert (run.best, run.best_state) == (1.0, None)
    assert torch.equal(run.model.lm_head.weight, states[-1])
    unwatched = trainer(ema_decay=0.9)
    unwatched.run()
    assert torch.equal(run.model.lm_head.weight, unwatched.model.lm_head.weight)


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
    run = trainer(model=model, ema_decay=0.75, max_iters=8)
    early = []

    def follow(t):
        weights = model.lm_head.weight.detach()
        average.lerp_(weights, max(0.25, 1 / (t.iter_num + 1)))
        early.append(weights.clone())
        if t.iter_num < 4:  # no more than 1 / (1 - 0.75): the mean, without the initial weights
            torch.testing.assert_close(
                t.averaged.lm_head.weight, torch.stack(early).mean(dim=0), atol=1e-6, rtol=0
            )

    run.set_callback("on_batch_end", follow)
    run.run()
    torch.testing.assert_close(run.averaged.lm_head.weight, average)
    assert torch.equal(model.lm_head.weight, run.averaged.lm_head.weight)


def test_accumulated_parts_equal_the_whole_batch():
    settings = {"embd_pdrop": 0.0, "resid_pdrop": 0.0, "attn_pdrop": 0.0}
    whole = trainer(model=small_model(**settings))
    parts = trainer(model=small_model(**settings), accumulation_steps=4)
    whole.run()
    parts.run()
    assert parts.losses == pytest.approx(whole.losses, abs=1e-4)


def uneven_targets():
    """Blocks whose targets count by chance, from none of a block to all."""
    share = torch.rand(40, 1, generator=torch.Generator().manual_seed(1))
    share[::4] = 0
    ignored = torch.rand(40, 16, generator=torch.Generator().manual_seed(2)) >= share
    return list(zip(tokens(40, 16), tokens(40, 16, seed=1).masked_fill(ignored, -1), strict=True))


class Explicit(type(small_model())):
    """A GPT with a forward of its own."""

    def forward(self, idx, targets=None):
        return super().forward(idx, targets)


@pytest.mark.parametrize("kind", ["plain", "subclass", "discount"])
@pytest.mark.parametrize("steps", [2, 4, 8])
def test_any_split_has_the_loss_and_gradient_of_the_whole_batch(kind, steps):
    settings = {"embd_pdrop": 0.0, "resid_pdrop": 0.0, "attn_pdrop": 0.0}
    found = []
    for accumulation_steps in (1, steps):
        model = small_model(scale=2.0, **settings)
        if kind == "subclass":
            plain, model = model, Explicit(model.config)
            model.load_state_dict(plain.state_dict())
        config = CfgNode(
            device="cpu", max_iters=3, batch_size=8, seed=3, grad_norm_clip=None,
            accumulation_steps=accumulation_steps, learning_rate=1e-4,
        )  # fmt: skip
        discount = None
        if kind == "discount":
            discount = AbsoluteDiscount(TEXT[:40], torch.zeros(97, dtype=torch.int64))
        run, gradients = Trainer(config, model, uneven_targets(), discount=discount), []
        run.set_callback(
            "on_batch_end", lambda t, g=gradients: g.append([p.grad.clone() for p in
                                                            t.model.parameters()])
        )
        run.run()
        found.append((run.losses, gradients[0]))
    (whole, whole_gradient), (split, split_gradient) = found
    assert split == pytest.approx(whole, abs=1e-6)
    for a, b in zip(whole_gradient, split_gradient, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-6)


def test_a_batch_without_any_target_is_refused():
    data = [(x, torch.full_like(y, -1)) for x, y in uneven_targets()]
    with pytest.raises(ValueError, match="iteration 1: every target is -1"):
        trainer(dataset=data).run()


def test_items_of_ones_own_are_trained_on():
    class Shifted(BlockDataset):
        def __getitem__(self, i):
            x, y = super().__getitem__(i)
            return x + 50, y + 50

    run = trainer(dataset=Shifted(TEXT, 16), max_iters=1)
    seen = []
    run.model.register_forward_hook(lambda m, x, out: seen.append(int(x[0].min())))
    run.run()
    assert seen[0] >= 50


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
    assert rates == [[0.01] * 2] * 2 + [[0.0] * 2] * 2
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


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "batch_size should be a whole number of at least 1"),
        ({"batch_size": True}, "batch_size should be"),
        ({"accumulation_steps": 3}, "cannot be divided among 1 processes x 3"),
        ({"accumulation_steps": 0}, "accumulation_steps should be a whole number of at least 1"),
        ({"max_iters": -1}, "max_iters should be a whole number of at least 0"),
        ({"keep_best": 1}, "keep_best should be True or False"),
        ({"max_iters": 2.5}, "max_iters should be"),
        ({"eval_interval": -1}, "eval_interval should be"),
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
        (tokens(20, 8), r"each token \(8, 16\), not torch.int64 \(8, 8\)"),
        (tokens(20, 16).float(), "targets should be 128 whole numbers"),
    ],
)
def test_targets_that_are_none_are_refused(targets, message):
    with pytest.raises(ValueError, match=message):
        trainer(dataset=list(zip(tokens(20, 16), targets, strict=True))).run()


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (tokens(20, 17), "17 positions given; this model takes up to 16"),
        (tokens(20, 16) + 90, "token out of range: got 90 to 18"),
        (tokens(20, 16) - 90, "token out of range: got -90 to"),
        (tokens(20, 16).float(), "tokens should be int64 or int32"),
    ],
)
def test_inputs_that_are_no_tokens_are_refused(inputs, message):
    """By InputError, which is minGPT's AssertionError too."""
    data = list(zip(inputs, tokens(20, inputs.shape[1]), strict=True))
    for kind in (ValueError, AssertionError):
        with pytest.raises(kind, match=message):
            trainer(dataset=data).run()


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
