"""Leaving early, held to slow computations of the same, and its MACs to a count of the products."""

import math

import pytest
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from mingpt import early_exit, macs
from mingpt.model import GPT
from mingpt.modes import evaluating
from tests.mingpt.helpers import small_model, tokens

BLOCK, BLOCKS, WIDTH, VOCABULARY = 16, 3, 24, 97


@pytest.fixture(scope="module")
def model():
    return small_model(scale=20.0)  # its tokens leave after one, two and three blocks


def slow(model, idx, threshold, confidence):
    """(logits, exits) with every block run for all; what has left gets its state back."""
    with evaluating(model):
        x = model.embed(idx)
        exits = torch.full(idx.shape, BLOCKS)
        for number, block in enumerate(model.transformer.h, 1):
            left = exits < number
            x = torch.where(left[..., None], x, block(x))
            answers = model.lm_head(model.transformer.ln_f(x))
            if number < BLOCKS:
                exits[~left & (confidence(answers) > threshold)] = number
    return answers, exits


def top(logits):
    return logits.softmax(dim=-1).max(dim=-1).values


def doubt(logits):
    p = logits.softmax(dim=-1)
    return 1 + (p * p.log()).sum(dim=-1) / math.log(VOCABULARY)


@pytest.mark.parametrize("threshold", [0.1, 0.2, 0.35, 0.5])
@pytest.mark.parametrize(("name", "confidence"), [("probability", top), ("entropy", doubt)])
def test_tokens_that_left_keep_their_state(model, threshold, name, confidence):
    idx = tokens(5, BLOCK)
    logits, exits = early_exit.forward(model, idx, threshold, name)
    expected, expected_exits = slow(model, idx, threshold, confidence)
    assert torch.equal(exits, expected_exits)
    assert torch.allclose(logits, expected, atol=1e-5)


def test_tokens_leave_at_every_block(model):
    _, exits = early_exit.forward(model, tokens(5, BLOCK), 0.2)
    assert exits.dtype == torch.int64
    assert set(exits.unique().tolist()) == {1, 2, 3}


def test_threshold_1_runs_all_and_0_the_first_block_alone(model):
    idx = tokens(2, BLOCK)
    logits, exits = early_exit.forward(model, idx, 1)
    assert torch.allclose(logits, model(idx)[0], atol=1e-5)
    assert (exits == BLOCKS).all()
    logits, exits = early_exit.forward(model, idx, 0)
    assert torch.allclose(logits, early_exit.exit_logits(model, idx)[0], atol=1e-5)
    assert (exits == 1).all()


def test_a_sure_model_runs_all_blocks_at_threshold_1():
    sure = small_model(scale=20.0)
    with torch.no_grad():
        sure.lm_head.weight.mul_(1000)  # probabilities round to 1
    idx = tokens(1, BLOCK)
    assert early_exit.top_probability(sure(idx)[0]).max() == 1
    assert (early_exit.forward(sure, idx, 1.0)[1] == BLOCKS).all()


def test_the_answers_of_all_exits_end_in_the_models_own(model):
    idx = tokens(2, BLOCK)
    assert torch.allclose(early_exit.exit_logits(model, idx)[-1], model(idx)[0], atol=1e-5)


def test_confidence_is_0_for_a_guess_and_1_without_doubt():
    logits = torch.stack([torch.zeros(50), F.one_hot(torch.tensor(7), 50) * 1e4])
    assert early_exit.top_probability(logits).tolist() == pytest.approx([1 / 50, 1])
    assert early_exit.certainty(logits).tolist() == pytest.approx([0, 1], abs=1e-6)


@pytest.mark.parametrize("new", [BLOCK - 5, BLOCK + 3])
def test_writing_without_early_exits_is_plain_writing(model, new):
    prompt = tokens(3, 5)
    idx, exits = early_exit.generate(model, prompt, new, threshold=1)
    assert torch.equal(idx, model.generate(prompt, new))
    assert exits.shape == (3, new)
    assert (exits == BLOCKS).all()
    drawing = {"do_sample": True, "temperature": 0.7, "top_k": 9}
    ours, theirs = (torch.Generator().manual_seed(4) for _ in range(2))
    idx, _ = early_exit.generate(model, prompt, new, 1, generator=ours, **drawing)
    assert torch.equal(idx, model.generate(prompt, new, generator=theirs, **drawing))


@pytest.mark.parametrize("threshold", [0.15, 0.2, 0.5])
def test_kept_keys_and_values_are_those_of_the_whole_sequence(model, threshold):
    idx, exits = early_exit.generate(model, tokens(3, 5), BLOCK + 2, threshold)
    for number in range(BLOCK + 2):
        logits, ran = early_exit.forward(model, idx[:, : 5 + number][:, -BLOCK:], threshold)
        assert torch.equal(ran[:, -1], exits[:, number])
        assert torch.equal(logits[:, -1].argmax(dim=-1), idx[:, 5 + number])


def test_nothing_depends_on_the_callers_modes(model):
    idx = tokens(2, BLOCK)
    expected, _ = early_exit.forward(model, idx, 0.2)
    model.train()
    with torch.autocast("cpu", torch.bfloat16):
        logits, _ = early_exit.forward(model, idx, 0.2)
    assert torch.equal(logits, expected)
    assert not logits.requires_grad
    assert model.training
    model.eval()


@pytest.mark.parametrize("threshold", [0.2, 0.35, 1.0])
def test_macs_are_the_products_that_are_computed(model, threshold, monkeypatch):
    """Token by token with kept keys and values, so that nothing hidden is computed."""
    monkeypatch.setattr(early_exit, "pristine", lambda model: True)  # a counter looks in
    monkeypatch.setattr(early_exit, "head_of_last", lambda model, x: model.lm_head(x))
    prompt, new = tokens(1, 1), BLOCK - 1
    with FlopCounterMode(display=False) as counter:
        _, exits = early_exit.generate(model, prompt, new, threshold)
    counted = macs.count(
        model.config, exits, torch.arange(new), heads=1 if threshold == 1 else None
    )
    assert 2 * int(counted.total.sum()) == counter.get_total_flops()
    assert torch.equal(counted.total, counted.blocks + counted.head)


def test_macs_of_a_full_network_count_its_weights(model):
    """A position sees one other: every weight of a linear layer once, and two attention sums."""
    counted = macs.count(model.config, torch.tensor(BLOCKS), torch.tensor(1), heads=1)
    weights = sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear))
    assert counted.total == weights + BLOCKS * 2 * 2 * WIDTH
    assert counted.filling == 0


def test_joint_training_minimises_the_weighted_mean_of_all_exits(model):
    joint = early_exit.JointlyTrained(model.config)
    joint.load_state_dict(model.state_dict())
    idx, targets = tokens(2, BLOCK), tokens(2, BLOCK, seed=1)
    losses = [
        F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        for logits in early_exit.exit_logits(model, idx)
    ]
    joint.eval()
    _, loss = joint(idx, targets)
    assert loss.item() == pytest.approx(float(losses[0] + 2 * losses[1] + 3 * losses[2]) / 6)
    loss.backward()
    assert all(p.grad is not None for p in joint.parameters())
    plain = joint.plain()
    assert type(plain) is GPT
    assert torch.equal(plain(idx)[0], model(idx)[0])


def test_mistakes_are_refused(model):
    idx = tokens(1, BLOCK)
    for threshold in (-0.1, 1.1, math.nan, "0.5", True):
        with pytest.raises(ValueError, match="threshold"):
            early_exit.forward(model, idx, threshold)
    with pytest.raises(ValueError, match="known: probability, entropy"):
        early_exit.forward(model, idx, confidence="margin")
    with pytest.raises(ValueError, match="takes up to 16"):
        early_exit.forward(model, tokens(1, BLOCK + 1))
    with pytest.raises(ValueError, match="out of range"):
        early_exit.generate(model, idx + VOCABULARY, 1)
    with pytest.raises(ValueError, match="prompt"):
        early_exit.generate(model, idx[:, :0], 1)
    with pytest.raises(ValueError, match="max_new_tokens"):
        early_exit.generate(model, idx, -1)
    changed = small_model()
    changed.transformer.h[0].register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match="as it was built"):
        early_exit.forward(changed, idx)
