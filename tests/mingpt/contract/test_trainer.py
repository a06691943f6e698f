"""Trainer: minGPT's loop, its callbacks, and models and loops of one's own."""

import copy
from collections import defaultdict

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from mingpt.data import BlockDataset
from mingpt.discounting import AbsoluteDiscount
from mingpt.model import GPT
from mingpt.trainer import Trainer
from mingpt.utils import CfgNode
from tests.mingpt.contract import plain
from tests.mingpt.contract.conftest import build, training_config
from tests.mingpt.contract.training import Blocks, batches, losses_of
from tests.mingpt.helpers import TEXT, small_model, trainer


def test_the_losses_are_those_of_mingpts_loop(model, config, state):
    """Same seed, same batches: forward, zero_grad, backward, clip, AdamW step."""
    data, leaves = Blocks(), plain.trainable(state)
    torch.manual_seed(1)
    expected = plain.train(leaves, config, batches(data, 6), 1e-2)
    torch.manual_seed(1)
    found = losses_of(Trainer(training_config(max_iters=6), model, data))
    assert found == pytest.approx(expected, rel=1e-4)


def test_attributes_before_running(model):
    """What minGPT's constructor sets."""
    config, data = training_config(), Blocks()
    run = Trainer(config, model, data)
    assert run.config is config
    assert run.model is model
    assert run.train_dataset is data
    assert run.optimizer is None
    assert isinstance(run.callbacks, defaultdict)
    assert (run.iter_num, run.iter_time, run.iter_dt) == (0, 0.0, 0.0)
    assert torch.device(run.device) == torch.device("cpu")


def test_callbacks_are_called_after_the_step_and_before_the_count(model):
    """iter_num is 0 in the first on_batch_end, max_iters when run returns."""
    run, seen = Trainer(training_config(), model, Blocks()), []
    run.add_callback("on_batch_end", lambda trainer: seen.append(trainer.iter_num))
    run.run()
    assert seen == [0, 1, 2]
    assert run.iter_num == 3
    assert run.iter_dt > 0


def test_set_callback_replaces_and_add_callback_appends(model):
    """In the order they were added, each with the trainer."""
    run, seen = Trainer(training_config(max_iters=1), model, Blocks()), []
    run.add_callback("on_batch_end", lambda trainer: seen.append("replaced"))
    run.set_callback("on_batch_end", lambda trainer: seen.append("first"))
    run.add_callback("on_batch_end", lambda trainer: seen.append(trainer))
    run.run()
    assert seen == ["first", run]


def test_events_of_ones_own_are_triggered_by_name(model):
    """trigger_callbacks(name) calls what was added under it; unknown names do nothing."""
    run, seen = Trainer(training_config(), model, Blocks()), []
    run.add_callback("on_mine", lambda trainer: seen.append(1))
    run.trigger_callbacks("on_mine")
    run.trigger_callbacks("on_nothing")
    assert seen == [1]
    assert "on_nothing" not in run.callbacks


def test_the_optimiser_may_be_changed_in_callbacks(model):
    """Own schedules set param_groups' rates: with rate 0 nothing moves any more."""
    run, heads = Trainer(training_config(weight_decay=0.0), model, Blocks()), []

    def stop(trainer):
        heads.append(trainer.model.lm_head.weight.detach().clone())
        for group in trainer.optimizer.param_groups:
            group["lr"] = 0.0

    run.set_callback("on_batch_end", stop)
    run.run()
    assert torch.equal(heads[0], heads[2])


def test_generating_in_a_callback_leaves_the_training_as_it_is(config, state):
    """The pattern of chargpt: eval, generate, train; losses as without."""
    losses = []
    for generates in (True, False):
        run = Trainer(training_config(max_iters=4), build(config, state), Blocks())

        def sample(trainer):
            trainer.model.eval()
            trainer.model.generate(plain.tokens(1, 2), 4)
            trainer.model.train()

        if generates:
            run.add_callback("on_batch_end", sample)
        torch.manual_seed(0)
        losses.append(losses_of(run))
    assert losses[0] == losses[1]


def test_an_exception_in_a_callback_ends_the_run(model):
    """How scripts stop early: it passes through, and the weights stay as they are."""

    class Enough(Exception):
        pass

    def stop(trainer):
        if trainer.iter_num == 2:
            raise Enough

    run = Trainer(training_config(max_iters=None), model, Blocks())
    run.set_callback("on_batch_end", stop)
    with pytest.raises(Enough):
        run.run()
    assert run.iter_num == 2


def test_the_model_is_in_train_mode_during_the_run(model):
    """run() calls model.train(), whatever mode it was given in."""
    run, modes = Trainer(training_config(), model.eval(), Blocks()), []
    run.set_callback("on_batch_end", lambda trainer: modes.append(trainer.model.training))
    run.run()
    assert modes == [True] * 3


def test_a_second_run_starts_again_from_0_with_a_new_optimiser(model):
    """run() sets the optimiser and iter_num anew and goes on with the weights."""
    run = Trainer(training_config(), model, Blocks())
    run.run()
    first, seen = run.optimizer, []
    run.set_callback("on_batch_end", lambda trainer: seen.append(trainer.iter_num))
    run.run()
    assert seen == [0, 1, 2]
    assert run.optimizer is not first


class AnyModel(nn.Module):
    """No GPT: two methods are what the loop needs."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(plain.VOCAB, plain.VOCAB)

    def configure_optimizers(self, train_config):
        return torch.optim.SGD(self.parameters(), lr=train_config.learning_rate)

    def forward(self, x, y=None):
        logits = self.table(x)
        return logits, nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten())


def test_any_module_with_two_methods_is_trained():
    """model(x, y) -> (logits, loss) and configure_optimizers(config)."""
    torch.manual_seed(0)
    model = AnyModel()
    before = model.table.weight.detach().clone()
    run = Trainer(training_config(learning_rate=1.0, grad_norm_clip=1e9), model, Blocks())
    assert len(losses_of(run)) == 3
    assert isinstance(run.optimizer, torch.optim.SGD)
    assert not torch.equal(model.table.weight, before)


@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_another_model_may_be_put_in_its_place(ema_decay):
    """Between two runs, or before the first; as if the trainer had been built with it."""
    expected = trainer(model=small_model(seed=1), ema_decay=ema_decay, max_iters=3)
    expected.run()
    first, other = small_model(), small_model(seed=1)
    run = trainer(model=first, ema_decay=ema_decay, max_iters=3)
    before = copy.deepcopy(first.state_dict())
    run.model = other
    run.run()
    assert run.model is other
    assert (run.averaged is other) == (ema_decay is None)
    assert run.losses == expected.losses
    for found, wanted in zip(other.parameters(), expected.model.parameters(), strict=True):
        assert torch.equal(found, wanted)
    for name, value in first.state_dict().items():
        assert torch.equal(value, before[name])
    run.model = AnyModel()
    run.run()
    assert torch.is_tensor(run.model.table.weight.grad)


def test_another_model_that_a_discount_cannot_take_is_refused():
    """run trains whatever stands in `model`; our discount, which minGPT lacks, refuses others."""
    discount = AbsoluteDiscount(TEXT, torch.zeros(97, dtype=torch.int64))
    config = CfgNode(device="cpu", max_iters=1, batch_size=8)
    run = Trainer(config, small_model(), BlockDataset(TEXT, 16), discount=discount)
    run.model = AnyModel()
    with pytest.raises(ValueError, match="a discount needs this package's GPT"):
        run.run()


def test_an_optimiser_of_ones_own_is_used(config):
    """configure_optimizers overridden in a subclass."""

    class Own(GPT):
        def configure_optimizers(self, train_config):
            return torch.optim.SGD([self.lm_head.weight], lr=train_config.learning_rate)

    torch.manual_seed(0)
    model = Own(config)
    wte = model.transformer.wte.weight.detach().clone()
    run = Trainer(training_config(), model, Blocks())
    run.run()
    assert isinstance(run.optimizer, torch.optim.SGD)
    assert torch.equal(model.transformer.wte.weight, wte)


def test_gradients_are_clipped_to_the_norm(model):
    """grad_norm_clip is the largest norm of all gradients together, as seen after the step."""
    run, norms = Trainer(training_config(grad_norm_clip=1e-3), model, Blocks()), []
    run.set_callback(
        "on_batch_end",
        lambda trainer: norms.append(
            torch.stack([p.grad.norm() for p in trainer.model.parameters()]).norm().item()
        ),
    )
    run.run()
    assert norms == pytest.approx([1e-3] * 3, rel=1e-2)


class OwnLoop(Trainer):
    """run overridden: minGPT's loop with what the constructor left."""

    def run(self):
        model, config = self.model, self.config
        self.optimizer = model.configure_optimizers(config)
        loader = DataLoader(self.train_dataset, batch_size=config.batch_size)
        model.train()
        self.iter_num = 0
        for x, y in loader:
            _, self.loss = model(x.to(self.device), y.to(self.device))
            model.zero_grad(set_to_none=True)
            self.loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.grad_norm_clip)
            self.optimizer.step()
            self.trigger_callbacks("on_batch_end")
            self.iter_num += 1
            if config.max_iters is not None and self.iter_num >= config.max_iters:
                break


def test_a_subclass_may_override_run(model):
    """self.loss, self.iter_num, self.optimizer and self.trigger_callbacks are its to use."""
    run, seen = OwnLoop(training_config(), model, Blocks()), []
    run.set_callback("on_batch_end", lambda trainer: seen.append((trainer.iter_num,
                                                                  trainer.loss.item())))
    run.run()
    assert [number for number, _ in seen] == [0, 1, 2]
    assert seen[-1][1] < seen[0][1]


def test_a_subclass_may_add_to_the_constructor(model):
    """super().__init__(config, model, train_dataset) and fields of its own."""

    class Own(Trainer):
        def __init__(self, config, model, train_dataset, note):
            super().__init__(config, model, train_dataset)
            self.note = note

    assert len(losses_of(Own(training_config(), model, Blocks(), "x"))) == 3


def test_the_loss_is_a_tensor_in_callbacks_and_after(model):
    """trainer.loss.item(); its graph is let go on purpose."""
    run, shapes = Trainer(training_config(), model, Blocks()), []
    run.set_callback("on_batch_end", lambda trainer: shapes.append(trainer.loss.shape))
    run.run()
    assert shapes == [()] * 3
    assert run.loss.item() > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("hooked", [False, True])
def test_the_loss_has_the_models_dtype(model, dtype, hooked):
    """trainer.loss is what the model returned."""
    run = Trainer(training_config(), model.to(dtype), Blocks())
    if hooked:
        model.register_forward_hook(lambda m, x, out: out)
    run.run()
    assert run.loss.dtype == dtype


def test_gradients_are_there_in_callbacks(model):
    """on_batch_end comes before the next zero_grad."""
    run, norms = Trainer(training_config(), model, Blocks()), []
    run.set_callback(
        "on_batch_end",
        lambda trainer: norms.append(trainer.model.transformer.wte.weight.grad.norm().item()),
    )
    run.run()
    assert min(norms) > 0


def test_a_configuration_tree_drives_a_whole_script(tmp_path):
    """minGPT's projects: one tree for system, model and trainer, overridden from arguments."""
    config = CfgNode(
        system=CfgNode(seed=3407, work_dir=str(tmp_path)),
        model=GPT.get_default_config(), trainer=Trainer.get_default_config(),
    )  # fmt: skip
    config.model.model_type = "gpt-nano"
    config.merge_from_args(
        ["--trainer.max_iters=2", "--trainer.batch_size=3", "--trainer.device=cpu",
         "--model.block_size=8", "--model.vocab_size=13"]
    )
    model = GPT(config.model)
    assert len(losses_of(Trainer(config.trainer, model, Blocks()))) == 2
