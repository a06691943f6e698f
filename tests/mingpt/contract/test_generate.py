"""generate: minGPT's tokens, draws and gradient mode."""

import numpy as np
import pytest
import torch

from mingpt.model import GPT
from tests.mingpt.contract import plain
from tests.mingpt.contract.conftest import build


@pytest.fixture
def prompt():
    return plain.tokens(3, 2)


@pytest.mark.parametrize("length", [1, 5, plain.BLOCK, plain.BLOCK + 5])
def test_greedy_tokens_are_mingpts(model, state, length):
    """The likeliest token of the whole window each time, the window at most block_size."""
    prompt = plain.tokens(2, length)
    assert torch.equal(model.generate(prompt, 12), plain.generate(state, prompt, 12))


@pytest.mark.parametrize(
    "settings", [{}, {"temperature": 0.7}, {"top_k": 3}, {"temperature": 1.5, "top_k": 1}], ids=str
)
def test_a_seed_draws_mingpts_tokens(model, state, prompt, settings):
    """softmax of logits / temperature among the top_k, by torch.multinomial, globally seeded."""
    torch.manual_seed(0)
    expected = plain.generate(state, prompt, 12, do_sample=True, **settings)
    torch.manual_seed(0)
    assert torch.equal(model.generate(prompt, 12, do_sample=True, **settings), expected)


def test_the_generator_is_left_where_mingpt_leaves_it(model, state, prompt):
    """One draw a token, nothing else."""
    torch.manual_seed(0)
    plain.generate(state, prompt, 5, do_sample=True)
    expected = torch.rand(3)
    torch.manual_seed(0)
    model.generate(prompt, 5, do_sample=True)
    assert torch.equal(torch.rand(3), expected)


def test_greedy_generation_draws_nothing(model, prompt):
    """do_sample False takes minGPT's torch.topk and leaves the global generator as it was."""
    torch.manual_seed(0)
    before = torch.get_rng_state()
    model.generate(prompt, 3)
    assert torch.equal(torch.get_rng_state(), before)


def test_arguments_have_mingpts_names_and_order(model, prompt):
    """generate(idx, max_new_tokens, temperature, do_sample, top_k)."""
    torch.manual_seed(0)
    by_place = model.generate(prompt, 4, 0.9, True, 5)
    torch.manual_seed(0)
    assert torch.equal(by_place, model.generate(
        idx=prompt, max_new_tokens=4, temperature=0.9, do_sample=True, top_k=5
    ))


def test_the_result_begins_with_the_prompt_which_stays_as_it_was(model, prompt):
    """torch.cat((idx, idx_next), dim=1): a new int64 tensor (B, T + max_new_tokens)."""
    before = prompt.clone()
    out = model.generate(prompt, 6)
    assert out.dtype == torch.int64
    assert out.shape == (3, 8)
    assert torch.equal(out[:, :2], before)
    assert torch.equal(prompt, before)


def test_no_new_tokens_give_the_prompt(model, prompt):
    """max_new_tokens 0: minGPT's loop over range(0) returns idx."""
    assert torch.equal(model.generate(prompt, 0), prompt)


def test_generated_tokens_can_be_trained_on(model, prompt):
    """Under no_grad, not inference_mode: the tensor is an ordinary one."""
    out = model.generate(prompt, 5)
    assert not out.is_inference()
    model(out, out)[1].backward()
    assert model.lm_head.weight.grad.abs().sum() > 0


def test_the_model_is_called_without_gradients_and_outside_inference_mode(config, state, prompt):
    """What a forward of one's own finds, and what the caller finds afterwards."""
    modes = []

    class Own(GPT):
        def forward(self, idx, targets=None):
            modes.append((torch.is_grad_enabled(), torch.is_inference_mode_enabled()))
            return super().forward(idx, targets)

    model = Own(config)
    model.load_state_dict(state)
    model.generate(prompt, 2)
    assert modes == [(False, False)] * 2
    assert torch.is_grad_enabled()


def test_a_subclass_forward_gets_whole_windows_by_place(config, state, prompt):
    """`logits, _ = self(idx_cond)`: one positional argument."""
    calls = []

    class Own(GPT):
        def forward(self, *args, **kwargs):
            calls.append((len(args), kwargs, tuple(args[0].shape)))
            return super().forward(*args, **kwargs)

    model = Own(config)
    model.load_state_dict(state)
    model.generate(prompt, 8)
    assert calls == [(1, {}, (3, T)) for T in (2, 3, 4, 5, 6, 7, 8, 8)]


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_the_callers(model, prompt, training):
    """minGPT neither enters eval mode nor leaves it."""
    model.train(training)
    model.generate(prompt, 3)
    assert model.training == training
    assert model.transformer.h[0].attn.attn_dropout.training == training


def test_dropout_acts_in_train_mode(state, prompt):
    """Drawn anew for the whole window at every token."""
    model = build(plain.settings(embd_pdrop=0.5), state).train()
    torch.manual_seed(3)
    found = model.generate(prompt, 6)
    torch.manual_seed(3)
    idx = prompt
    for _ in range(6):
        last = plain.logits(state, idx[:, -plain.BLOCK :], embd_pdrop=0.5)[:, -1]
        idx = torch.cat([idx, last.argmax(-1, keepdim=True)], dim=1)
    assert torch.equal(found, idx)


def test_the_window_is_the_models_block_size(model, state):
    """block_size is read when generating."""
    model.block_size = 3
    prompt = plain.tokens(2, 2)
    assert torch.equal(model.generate(prompt, 8), plain.generate(state, prompt, 8, block_size=3))


@pytest.mark.parametrize("number", [np.int64, np.int32, torch.tensor])
def test_counts_may_be_any_integer(model, prompt, number):
    """NumPy integers and 0-d tensors are numbers to range and topk."""
    expected = model.generate(prompt, 3)
    assert torch.equal(model.generate(prompt, number(3)), expected)
    assert torch.equal(model.generate(prompt, 3, do_sample=True, top_k=number(1)), expected)


@pytest.mark.parametrize("number", [np.float64, np.float32, torch.tensor])
def test_temperatures_may_be_any_number(model, prompt, number):
    """minGPT divides the logits by it: NumPy's numbers and 0-d tensors do as well as Python's."""
    torch.manual_seed(0)
    expected = model.generate(prompt, 6, temperature=0.5, do_sample=True)
    torch.manual_seed(0)
    assert torch.equal(
        model.generate(prompt, 6, temperature=number(0.5), do_sample=True), expected
    )


@pytest.mark.parametrize("do_sample", [True, False])
def test_temperature_0_is_greedy(model, prompt, do_sample):
    """On purpose unlike minGPT, which divides by it: the limit, as other libraries have it."""
    found = model.generate(prompt, 6, temperature=0, do_sample=do_sample)
    assert torch.equal(found, model.generate(prompt, 6))


def test_an_int32_prompt_is_continued(model, prompt):
    """The result is int64, as torch.cat promotes it."""
    found = model.generate(prompt.int(), 3)
    assert found.dtype == torch.int64
    assert torch.equal(found, model.generate(prompt, 3))


@pytest.mark.parametrize("do_sample", [True, False])
def test_a_batch_of_no_prompts_stays_one(model, do_sample):
    """B = 0."""
    empty = torch.zeros(0, 3, dtype=torch.long)
    assert model.generate(empty, 4, do_sample=do_sample).shape == (0, 7)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_models_of_other_types_generate(model, state, prompt, dtype):
    """In double precision the very tokens of the plain computation."""
    model.to(dtype)
    found = model.generate(prompt, 8)
    assert found.shape == (3, 10)
    if dtype is torch.float64:
        doubled = {name: value.double() for name, value in state.items()}
        assert torch.equal(found, plain.generate(doubled, prompt, 8))


def test_weights_changed_between_calls_count(model, state, prompt):
    """Generate, train a step, generate: nothing is remembered."""
    model.generate(prompt, 4)
    other = plain.varied_state(plain.settings(), seed=6)
    model.load_state_dict(other)
    assert torch.equal(model.generate(prompt, 10), plain.generate(other, prompt, 10))
