"""Hooks of PyTorch on a model's modules: they see and change what minGPT would show them."""

import pytest
import torch
from torch import nn
from torch.nn.modules import module as global_hooks
from torch.utils.data import TensorDataset

from mingpt.model import Block, CausalSelfAttention
from mingpt.trainer import Trainer
from tests.mingpt.contract import plain
from tests.mingpt.contract.conftest import build, training_config


class Record:
    """A hook that keeps what it saw; use `forward`, `pre` or `backward` as the callable."""

    def __init__(self):
        self.inputs, self.outputs = [], []

    def forward(self, module, inputs, output):
        self.inputs.append(inputs)
        self.outputs.append(output)

    def pre(self, module, inputs):
        self.inputs.append(inputs)

    def backward(self, module, grad_input, grad_output):
        self.outputs.append(grad_output)


def close(found, expected, tolerance=2e-5):
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def training(model, iterations=3):
    data = TensorDataset(plain.tokens(20, plain.BLOCK), plain.tokens(20, plain.BLOCK, seed=1))
    return Trainer(training_config(max_iters=iterations), model, data)


def test_a_hook_on_the_attention_dropout_sees_the_weights(model, state, idx):
    """attn_dropout is called with the softmax (B, nh, T, T): how attention maps are recorded."""
    seen = Record()
    model.transformer.h[0].attn.attn_dropout.register_forward_hook(seen.forward)
    model(idx)
    x = state["transformer.wte.weight"][idx] + state["transformer.wpe.weight"]
    weights, _ = plain.attention_weights(
        state, 0, plain.norm(state, "transformer.h.0.ln_1", x), plain.HEADS
    )
    close(seen.outputs[0], weights)


def test_what_a_hook_on_the_attention_dropout_returns_is_used(model, state, idx):
    """Knocking out all attention leaves c_proj's bias: as with a dropout of everything."""
    for block in model.transformer.h:
        block.attn.attn_dropout.register_forward_hook(lambda m, x, out: torch.zeros_like(out))
    close(model(idx)[0], plain.logits(state, idx, attn_pdrop=1.0))


def test_a_hook_on_the_position_embedding_sees_positions(model, idx):
    """wpe is called once, with the positions (1, T) int64."""
    seen = Record()
    model.transformer.wpe.register_forward_hook(seen.forward)
    model(idx[:, :5])
    ((positions,),) = seen.inputs
    assert positions.tolist() == [[0, 1, 2, 3, 4]]
    assert seen.outputs[0].shape == (1, 5, plain.WIDTH)


def test_the_modules_before_the_blocks_are_called_in_mingpts_order(model, idx):
    """wte, wpe, drop: as a record of shapes or of random draws shows them."""
    seen = []
    for name in ("drop", "wpe", "wte"):
        model.transformer[name].register_forward_hook(
            lambda m, x, out, name=name: seen.append(name)
        )
    model(idx)
    assert seen == ["wte", "wpe", "drop"]


def test_what_a_hook_on_the_position_embedding_returns_is_used(model, state, idx):
    """A model without positions, by a hook."""
    model.transformer.wpe.register_forward_hook(lambda m, x, out: 0 * out)
    without = {**state, "transformer.wpe.weight": torch.zeros(plain.BLOCK, plain.WIDTH)}
    close(model(idx)[0], plain.logits(without, idx))


def test_a_pre_hook_on_a_block_changes_its_input(model, state, idx):
    """Steering: a vector added to what enters block 0."""
    vector = torch.linspace(-1, 1, plain.WIDTH)
    model.transformer.h[0].register_forward_pre_hook(lambda m, x: (x[0] + vector,))
    moved = state["transformer.wpe.weight"] + vector
    close(model(idx)[0], plain.logits({**state, "transformer.wpe.weight": moved}, idx))


def test_a_hook_on_the_head_changes_the_loss(model, state, idx, targets):
    """Logits times two by a hook: the loss is that of what the hook returned."""
    model.lm_head.register_forward_hook(lambda m, x, out: 2 * out)
    doubled = {**state, "lm_head.weight": 2 * state["lm_head.weight"]}
    close(model(idx, targets)[1], plain.loss(doubled, idx, targets))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("transformer.wte", (3, 8, 16)), ("transformer.drop", (3, 8, 16)),
        ("transformer.h.1", (3, 8, 16)), ("transformer.h.0.ln_1", (3, 8, 16)),
        ("transformer.h.0.attn", (3, 8, 16)), ("transformer.h.0.attn.c_attn", (3, 8, 48)),
        ("transformer.h.0.attn.c_proj", (3, 8, 16)), ("transformer.h.0.mlp.c_fc", (3, 8, 64)),
        ("transformer.h.0.mlp.act", (3, 8, 64)), ("transformer.h.0.mlp.dropout", (3, 8, 16)),
        ("transformer.h.0.attn.resid_dropout", (3, 8, 16)), ("transformer.ln_f", (3, 8, 16)),
        ("lm_head", (3, 8, 13)), ("transformer.h.0.attn.attn_dropout", (3, 2, 8, 8)),
    ],
)  # fmt: skip
def test_a_hook_on_any_module_is_called_once_a_pass(model, idx, targets, name, shape):
    """Every module of minGPT's is called, with whole sequences."""
    seen = Record()
    model.get_submodule(name).register_forward_hook(seen.forward)
    model(idx, targets)
    assert [tuple(output.shape) for output in seen.outputs] == [shape]


def test_a_hook_on_the_model_sees_logits_and_loss_in_training_too(model):
    """The Trainer calls model(x, y): the hook's output is (logits, loss), logits a tensor."""
    seen = Record()
    model.register_forward_hook(seen.forward)
    training(model).run()
    assert len(seen.outputs) == 3
    for (x, y), (logits, loss) in zip(seen.inputs, seen.outputs, strict=True):
        assert x.shape == y.shape
        assert logits.shape == (*x.shape, plain.VOCAB)
        assert loss.shape == ()


@pytest.mark.parametrize("part", ["transformer.h.0", "lm_head", "transformer.h.0.attn.attn_dropout",
                                  "transformer.wpe", "transformer.ln_f"])
@pytest.mark.parametrize(
    ("register", "kind"),
    [("register_forward_hook", "forward"), ("register_forward_pre_hook", "pre"),
     ("register_full_backward_hook", "backward")],
)  # fmt: skip
def test_hooks_are_called_in_every_training_iteration(model, part, register, kind):
    """Activation and gradient statistics during Trainer.run."""
    if kind == "backward" and part == "transformer.wpe":
        part = "transformer.drop"  # PyTorch warns where a module's input has no gradient
    seen = Record()
    getattr(model.get_submodule(part), register)(getattr(seen, kind))
    training(model).run()
    assert len(seen.inputs or seen.outputs) == 3


def test_full_backward_hooks_see_the_gradient_of_the_blocks_output(model, state, idx, targets):
    """grad_output of the last block: the gradient that ln_f passes down."""
    seen = Record()
    model.transformer.h[-1].register_full_backward_hook(seen.backward)
    kept = []
    model.transformer.ln_f.register_forward_pre_hook(
        lambda m, x: kept.append(x[0]) or x[0].retain_grad()
    )
    model(idx, targets)[1].backward()
    close(seen.outputs[0][0], kept[0].grad)


def test_full_backward_pre_hooks_scale_gradients(model, idx, targets):
    """What the hook returns goes on backwards."""
    model(idx, targets)[1].backward()
    expected = 3 * model.transformer.wte.weight.grad
    model.zero_grad()
    model.transformer.drop.register_full_backward_pre_hook(lambda m, grad: (3 * grad[0],))
    model(idx, targets)[1].backward()
    close(model.transformer.wte.weight.grad, expected)


def test_hooks_on_parameters_are_called_in_training(model):
    """Tensor.register_hook sees the gradient of each step."""
    seen = []
    model.lm_head.weight.register_hook(lambda grad: seen.append(grad.shape))
    training(model).run()
    assert seen == [(plain.VOCAB, plain.WIDTH)] * 3


@pytest.mark.parametrize(
    ("part", "shape"),
    [("transformer.h.0", (plain.WIDTH,)), ("lm_head", (plain.VOCAB,)),
     ("transformer.wte", (plain.WIDTH,)), ("transformer.h.1.attn.c_attn", (3 * plain.WIDTH,))],
)  # fmt: skip
def test_hooks_see_the_whole_window_at_every_generated_token(model, part, shape):
    """generate calls the model on all positions anew: 3, 4, ... tokens, the block at most."""
    seen = Record()
    model.get_submodule(part).register_forward_hook(seen.forward)
    model.generate(plain.tokens(2, 3), 8)
    lengths = [3, 4, 5, 6, 7, 8, 8, 8]
    assert [tuple(o.shape) for o in seen.outputs] == [(2, T, *shape) for T in lengths]


def test_what_hooks_keep_during_generation_can_be_trained_on(model):
    """minGPT generates under no_grad: tensors are ordinary, not of inference mode."""
    seen = Record()
    model.transformer.h[0].register_forward_hook(seen.forward)
    model.generate(plain.tokens(2, 3), 2)
    probe = nn.Linear(plain.WIDTH, 1)
    probe(seen.outputs[-1]).sum().backward()
    assert probe.weight.grad.abs().sum() > 0
    assert not seen.outputs[-1].requires_grad


def test_a_hook_that_changes_a_block_changes_the_generated_tokens(model, state):
    """The same tokens as a model whose positions carry the vector."""
    vector = 3 * torch.linspace(-1, 1, plain.WIDTH)
    model.transformer.h[0].register_forward_pre_hook(lambda m, x: (x[0] + vector,))
    moved = {**state, "transformer.wpe.weight": state["transformer.wpe.weight"] + vector}
    prompt = plain.tokens(2, 3)
    assert torch.equal(model.generate(prompt, 8), plain.generate(moved, prompt, 8))


def test_global_forward_hooks_see_every_module(model, idx):
    """register_module_forward_hook: each class as often as minGPT calls it."""
    classes = []
    handle = global_hooks.register_module_forward_hook(
        lambda module, x, out: classes.append(type(module))
    )
    try:
        model(idx)
    finally:
        handle.remove()
    assert classes.count(nn.Dropout) == 1 + 3 * plain.LAYERS
    assert classes.count(nn.Linear) == 1 + 4 * plain.LAYERS
    assert classes.count(nn.Embedding) == 2
    assert classes.count(Block) == classes.count(CausalSelfAttention) == plain.LAYERS


def test_global_pre_hooks_can_change_inputs_and_are_gone_when_removed(model, state, idx):
    """Only while registered."""

    def muted(module, inputs):
        return (torch.zeros_like(inputs[0]),) if type(module) is CausalSelfAttention else None

    before = model(idx)[0]
    handle = global_hooks.register_module_forward_pre_hook(muted)
    try:
        changed = model(idx)[0]
        drawn = model.generate(idx[:, :3], 4)
    finally:
        handle.remove()
    assert not torch.allclose(changed, before, atol=1e-3)
    assert torch.equal(model(idx)[0], before)
    assert drawn.shape == (3, 7)


@pytest.mark.filterwarnings("ignore:Full backward hook:UserWarning")
def test_global_backward_hooks_see_every_module_of_a_training_step(model):
    """register_module_full_backward_hook."""
    classes = []
    handle = global_hooks.register_module_full_backward_hook(
        lambda module, grad_input, grad_output: classes.append(type(module))
    )
    try:
        training(model, iterations=1).run()
    finally:
        handle.remove()
    assert classes.count(nn.Dropout) == 1 + 3 * plain.LAYERS
    assert classes.count(Block) == plain.LAYERS


def test_hooks_registered_after_a_first_pass_count_and_so_does_their_removal(model, state, idx):
    """No memory of how the model was before."""
    first = model(idx)[0]
    model.generate(idx[:, :2], 2)
    for _ in range(2):
        handle = model.transformer.h[1].attn.attn_dropout.register_forward_hook(
            lambda m, x, out: torch.zeros_like(out)
        )
        assert not torch.allclose(model(idx)[0], first, atol=1e-3)
        handle.remove()
        assert torch.equal(model(idx)[0], first)


def test_hooks_registered_in_a_callback_see_the_next_iterations(model):
    """A hook set after the second step sees the steps that follow."""
    seen, run = Record(), training(model, iterations=5)

    def hook_late(trainer):
        if trainer.iter_num == 1:
            trainer.model.lm_head.register_forward_hook(seen.forward)

    run.set_callback("on_batch_end", hook_late)
    run.run()
    assert len(seen.outputs) == 3


def test_hooks_with_keywords_see_how_the_model_was_called(model, idx, targets):
    """with_kwargs=True: what the caller wrote, and blocks called with x alone."""
    seen = []
    for module in (model, model.transformer.h[0], model.transformer.h[0].attn):
        module.register_forward_hook(
            lambda m, args, kwargs, out: seen.append((len(args), list(kwargs))), with_kwargs=True
        )
    model(idx, targets=targets)
    assert seen == [(1, []), (1, []), (1, ["targets"])]


def test_training_with_hooks_gives_the_losses_without(config, state):
    """Looking on changes nothing but the rounding."""
    looked_at, alone = build(config, state), build(config, state)
    for module in looked_at.modules():
        module.register_forward_hook(lambda *_: None)
    runs = [training(m) for m in (looked_at, alone)]
    losses = []
    for run in runs:
        torch.manual_seed(0)
        run.set_callback("on_batch_end", lambda trainer: losses.append(trainer.loss.item()))
        run.run()
    assert losses[:3] == pytest.approx(losses[3:], rel=1e-5)
