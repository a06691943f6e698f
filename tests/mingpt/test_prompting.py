"""Soft prompts and completions, held to the model's plain forward pass."""

import math

import pytest
import torch
from torch.nn import functional as F

from mingpt import scoring
from mingpt.prompting import complete, finetune, tune
from tests.mingpt.helpers import small_model, tokens

PAIRS = [([1, 2], [3, 4]), ([5], [6, 7, 8]), ([9, 10, 11], [12])]


@pytest.fixture(scope="module")
def model():
    return small_model(scale=8.0)


def prompts(*lengths):
    return [tokens(length, seed=length).tolist() for length in lengths]


# --- complete -----------------------------------------------------------------------------------


def test_completions_are_generates_tokens_whatever_the_lengths(model):
    asked = prompts(3, 5, 3, 1)
    for prompt, found in zip(asked, complete(model, asked, 6), strict=True):
        assert found.tokens == model.generate(torch.tensor([prompt]), 6)[0, len(prompt) :].tolist()


def test_log_probs_are_those_of_the_sequence(model):
    (prompt,) = prompts(4)
    (found,) = complete(model, [prompt], 5)
    whole = torch.tensor([prompt + found.tokens])
    expected = scoring.sequence_log_prob(model, whole, prompt_length=4).item()
    assert sum(found.log_probs) == pytest.approx(expected, abs=1e-5)


def test_vectors_of_real_tokens_are_a_hard_prompt(model):
    front, prompt = tokens(3, seed=1), tokens(4, seed=2)
    (hard,) = complete(model, [torch.cat([front, prompt])], 5)
    (soft,) = complete(model, [prompt], 5, vectors=model.transformer.wte(front).detach())
    assert soft.tokens == hard.tokens
    assert soft.log_probs == pytest.approx(hard.log_probs, abs=1e-6)


def test_a_model_that_is_looked_into_completes_alike(model):
    watched = small_model(scale=8.0)
    watched.transformer.h[0].register_forward_hook(lambda *_: None)
    asked, vectors = prompts(3, 5), torch.randn(2, 24, generator=torch.Generator().manual_seed(0))
    for ours, theirs in zip(
        complete(watched, asked, 4, vectors=vectors),
        complete(model, asked, 4, vectors=vectors), strict=True,
    ):  # fmt: skip
        assert ours.tokens == theirs.tokens
        assert ours.log_probs == pytest.approx(theirs.log_probs, abs=1e-5)


def test_a_completion_stops_behind_the_first_end(model):
    (whole,) = complete(model, prompts(3), 8)
    end = whole.tokens[3]
    (found,) = complete(model, prompts(3), 8, ends=[end])
    assert found.tokens == whole.tokens[: whole.tokens.index(end) + 1]
    assert found.log_probs == pytest.approx(whole.log_probs[: len(found.tokens)])
    assert found.entropies == [0.0] * len(found.tokens)  # nothing is drawn


def test_an_end_has_the_probability_of_all_ends(model):
    (plain,) = complete(model, prompts(4), 1)
    ends = [plain.tokens[0], 3, 60]
    (found,) = complete(model, prompts(4), 5, ends=ends)
    p = model(torch.tensor(prompts(4)))[0][0, -1].double().softmax(dim=-1)
    assert found.tokens == plain.tokens
    assert found.log_probs == pytest.approx([p[ends].sum().log().item()], abs=1e-5)


def test_entropies_and_draws_are_those_of_the_heated_distribution(model):
    (prompt,), n, temperature = prompts(4), 4000, 1.7
    logits = model(torch.tensor([prompt]))[0][0, -1].double() / temperature
    p = logits.softmax(dim=-1)
    found = complete(model, [prompt] * n, 1, temperature=temperature,
                     generator=torch.Generator().manual_seed(0))  # fmt: skip
    entropy = -(p * p.log()).sum().item()
    assert found[0].entropies[0] == pytest.approx(entropy, abs=1e-5)
    seen = torch.bincount(torch.tensor([each.tokens[0] for each in found]), minlength=97) / n
    assert ((seen - p).abs() <= 5 * (p * (1 - p) / n).sqrt() + 1 / n).all()


def test_a_completion_can_fill_the_block(model):
    (found,) = complete(model, prompts(10), model.block_size - 9)
    assert len(found.tokens) == model.block_size - 9


@pytest.mark.parametrize(
    ("asked", "options", "message"),
    [
        ([[]], {}, "the prompt is empty"),
        ([[1] * 14], {}, "a prompt of 14 tokens leaves no room for 5 more in the model's block"),
        ([[1] * 9], {"vectors": torch.zeros(9, 24)}, "a prompt of 18 tokens leaves no room"),
        ([[97]], {}, "token out of range"),
        ([[1]], {"ends": [97]}, "token out of range"),
        ([[1]], {"ends": [-1]}, "token out of range"),
        ([[1]], {"vectors": torch.zeros(2, 23)}, r"vectors should be \(length, 24\), not \(2, 2"),
        ([[1]], {"vectors": torch.zeros(24)}, r"vectors should be \(length, 24\), not \(24,\)"),
        ([[1]], {"temperature": -1.0}, "temperature should be"),
    ],
)
def test_prompts_that_cannot_be_completed(model, asked, options, message):
    with pytest.raises(ValueError, match=message):
        complete(model, asked, 5, **options)


# --- tune and finetune --------------------------------------------------------------------------


def answers_loss(model, vectors, pairs):
    """Mean cross-entropy of the answers' tokens, pair by pair, without padding."""
    losses = []
    for prompt, answer in pairs:
        idx = torch.tensor(prompt + answer)
        x = torch.cat([vectors, model.transformer.wte(idx)])[None]
        logits = model(embeddings=x)[0][0, len(vectors) + len(prompt) - 1 : -1]
        losses += F.cross_entropy(logits, torch.tensor(answer), reduction="none").tolist()
    return sum(losses) / len(losses)


def test_the_loss_is_that_of_the_answers_alone():
    model = small_model(scale=8.0)
    start = tune(model, PAIRS, length=4, seed=2, steps=1, learning_rate=0.0)
    drawn = torch.randint(3, (32,), generator=torch.Generator().manual_seed(2)).tolist()
    expected = answers_loss(model, start.vectors, [PAIRS[place] for place in drawn])
    assert start.losses == pytest.approx([expected], abs=1e-5)
    plain = finetune(model, PAIRS, seed=2, steps=1, learning_rate=0.0)
    expected = answers_loss(model, torch.empty(0, 24), [PAIRS[place] for place in drawn])
    assert plain.losses == pytest.approx([expected], abs=1e-5)


def test_a_soft_prompt_stands_in_for_the_token_that_names_a_task():
    words = range(10, 18)
    named = [([task, word], [word + 20 * task]) for task in (1, 2) for word in words]
    model = finetune(small_model(scale=4.0), named, steps=150, learning_rate=0.01).model
    before = {name: p.clone() for name, p in model.named_parameters()}
    first = []
    for task in (1, 2):
        plain = [([word], [word + 20 * task]) for word in words]
        found = tune(model, plain, length=1, steps=150, learning_rate=0.1)
        assert found.vectors.shape == (1, 24)
        assert found.vectors.dtype == torch.float32
        assert not found.vectors.requires_grad
        assert len(found.losses) == 150
        assert found.losses[-1] < 0.1
        first.append(found.losses[0])
        said = complete(model, [[word] for word in words], 1, vectors=found.vectors)
        assert [each.tokens for each in said] == [[word + 20 * task] for word in words]
    assert max(first) > 1  # the same start cannot name both
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())
    assert all(p.grad is None for p in model.parameters())


def test_fine_tuning_learns_in_a_copy():
    model = small_model()
    before = {name: p.clone() for name, p in model.named_parameters()}
    found = finetune(model, PAIRS, steps=60, learning_rate=0.01)
    assert found.losses[-1] < 0.1
    (said,) = complete(found.model, [[1, 2]], 2)
    assert said.tokens == [3, 4]
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())


def test_the_seed_decides_whatever_the_caller_has_set():
    model = small_model()
    first = tune(model, PAIRS, length=2, seed=1, steps=3)
    model.train()
    with torch.inference_mode():
        second = tune(model, PAIRS, length=2, seed=1, steps=3)
    assert model.training
    assert first.losses == second.losses
    assert torch.equal(first.vectors, second.vectors)
    assert tune(model, PAIRS, length=2, seed=2, steps=3).losses != first.losses


@pytest.mark.parametrize(
    ("pairs", "options", "message"),
    [
        ([], {}, "there should be pairs"),
        ([([], [1])], {}, "at least one token each"),
        ([([1], [])], {}, "at least one token each"),
        ([([1], [97])], {}, "token out of range"),
        (PAIRS, {"length": 14}, "14 vectors and a pair of 4 tokens do not fit the block of 16: it "
                                "leaves room for 13 vectors"),
        (PAIRS, {"length": 0}, "length should be"),
        (PAIRS, {"seed": -1}, "seed should be"),
        (PAIRS, {"steps": 0}, "steps should be"),
        (PAIRS, {"learning_rate": math.nan}, "learning_rate should be"),
    ],
)  # fmt: skip
def test_what_cannot_be_tuned(pairs, options, message):
    with pytest.raises(ValueError, match=message):
        tune(small_model(), pairs, **options)
