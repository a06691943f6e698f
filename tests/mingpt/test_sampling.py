import math

import numpy as np
import pytest
import torch

from mingpt.sampling import next_token
from mingpt.scoring import token_log_probs
from tests.mingpt.helpers import small_model, tokens


def draws(logits, count, **settings):
    generator = torch.Generator().manual_seed(0)
    many = torch.tensor(logits).expand(count, -1)
    return next_token(many, do_sample=True, generator=generator, **settings)[:, 0]


def test_sampling_follows_the_softmax_with_temperature():
    logits = [0.0, 1.0, 2.0]
    found = draws(logits, 20_000, temperature=0.5).bincount(minlength=3) / 20_000
    expected = (torch.tensor(logits) / 0.5).softmax(0)
    sigma = (expected * (1 - expected) / 20_000).sqrt()
    assert ((found - expected).abs() < 4.5 * sigma).all()


@pytest.mark.parametrize("temperature", [1e-40, 1e-300])
def test_a_tiny_temperature_takes_the_likeliest(temperature):
    found = draws([-3.0, 1.0, 2.0, 1.99], 100, temperature=temperature, top_k=3, top_p=0.9)
    assert set(found.tolist()) == {2}


def test_top_k_keeps_the_k_likeliest():
    assert set(draws([0.0, 3.0, 2.9, 1.0], 2000, top_k=2).tolist()) == {1, 2}
    assert set(draws([0.0, 3.0, 2.9, 1.0], 2000, top_k=99).tolist()) == {0, 1, 2, 3}


def test_top_p_keeps_the_smallest_set_that_reaches_p():
    logits = [math.log(p) for p in (0.5, 0.3, 0.15, 0.05)]
    assert set(draws(logits, 2000, top_p=0.5).tolist()) == {0}
    assert set(draws(logits, 2000, top_p=0.6).tolist()) == {0, 1}
    assert set(draws(logits, 2000, top_p=0.9).tolist()) == {0, 1, 2}
    assert set(draws(logits, 2000, top_p=1.0).tolist()) == {0, 1, 2, 3}


def test_generation_is_reproducible_by_seed_and_leaves_the_global_state():
    model, prompt = small_model(scale=4), tokens(2, 3)
    state = torch.get_rng_state()

    def sample(seed):
        generator = torch.Generator().manual_seed(seed)
        return model.generate(prompt, 20, do_sample=True, generator=generator)

    assert torch.equal(sample(1), sample(1))
    assert not torch.equal(sample(1), sample(2))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("do_sample", [False, True])
@pytest.mark.parametrize("prompt_length", [1, 5, 16, 23])
def test_cached_generation_equals_uncached_also_past_the_block(do_sample, prompt_length):
    model, prompt = small_model(scale=4), tokens(3, prompt_length)

    def generate(use_cache):
        generator = torch.Generator().manual_seed(7)
        return model.generate(
            prompt, 40, do_sample=do_sample, top_k=20, generator=generator, use_cache=use_cache
        )

    assert torch.equal(generate(True), generate(False))


def test_greedy_generation_follows_the_argmax():
    model, idx = small_model(scale=4), tokens(1, 4)
    out = model.generate(idx, 6)
    for end in range(4, 10):
        assert out[0, end] == model(out[:, :end])[0][0, -1].argmax()


def test_tokens_stream_as_they_are_made():
    seen = []
    out = small_model().generate(tokens(2, 3), 5, on_token=lambda column: seen.append(column))
    assert torch.equal(torch.stack(seen, dim=1), out[:, 3:])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -1.0}, "temperature should be a number of at least 0"),
        ({"temperature": float("nan")}, "temperature should be a number of at least 0"),
        ({"top_k": 0}, "top-k should be a whole number of at least 1"),
        ({"top_p": 1.5}, "top-p should be above 0"),
        ({"top_p": "0.9"}, "top-p should be above 0"),
        ({"temperature": True}, "temperature should be a number of at least 0"),
        ({"top_k": 2.5}, "top-k should be a whole number"),
        ({"top_k": True}, "top-k should be a whole number"),
        ({"top_p": float("nan")}, "top-p should be above 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        small_model().generate(tokens(1, 3), 2, do_sample=True, **settings)


@pytest.mark.parametrize("do_sample", [False, True])
def test_prompts_of_different_lengths_are_each_continued_as_alone(do_sample):
    model = small_model(scale=4)
    prompts = [tokens(length, seed=length) for length in (1, 5, 20, 5)]

    def generator(number):
        return torch.Generator().manual_seed(number)

    together = model.generate(
        prompts, 20, do_sample=do_sample, generator=[generator(n) for n in range(4)]
    )
    for number, (prompt, found) in enumerate(zip(prompts, together, strict=True)):
        alone = model.generate(
            prompt[None], 20, do_sample=do_sample, generator=generator(number)
        )
        assert torch.equal(found, alone[0])


def test_one_generator_draws_for_the_prompts_in_turn():
    model, prompts = small_model(), [tokens(2), tokens(4)]
    one, same = (torch.Generator().manual_seed(3) for _ in range(2))
    together = model.generate(prompts, 5, do_sample=True, generator=one)
    for prompt, found in zip(prompts, together, strict=True):
        alone = model.generate(prompt[None], 5, do_sample=True, generator=same)
        assert torch.equal(found, alone[0])


@pytest.mark.parametrize("form", [list, np.asarray, lambda v: np.asarray(v, np.uint16), bytes])
def test_prompts_may_be_lists_arrays_or_bytes(form):
    model, prompts = small_model(), [[5, 6, 7], [1]]
    found = model.generate([form(prompt) for prompt in prompts], 4)
    expected = model.generate([torch.tensor(prompt) for prompt in prompts], 4)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    scores = token_log_probs(model, [prompts[0]])
    assert torch.equal(scores, token_log_probs(model, torch.tensor([prompts[0]])))


@pytest.mark.parametrize(
    ("prompts", "generator", "message"),
    [
        ([1, 2, 3], None, "bytes, not 1"),
        (["Alice"], None, "bytes, not text"),
        ([[1.5, 2.0], [3.0]], None, r"whole numbers \(N,\), not torch.float32"),
        ([tokens(2, 3)], None, "list of prompts should hold tokens"),
        ([tokens(2), tokens(3)], [None], "1 generators given for 2 prompts"),
        ([tokens(0)], None, "prompt is empty"),
        ("text", None, "not str"),
    ],
)
def test_what_is_no_list_of_prompts_is_refused(prompts, generator, message):
    with pytest.raises(ValueError, match=message):
        small_model().generate(prompts, 2, generator=generator)


def test_temperature_0_is_the_likeliest_token():
    assert set(draws([0.0, 2.0, 1.9], 100, temperature=0).tolist()) == {1}


@pytest.mark.parametrize("count", [-5, 2.5, True])
def test_a_number_of_tokens_that_is_none_is_refused(count):
    with pytest.raises(ValueError, match="max_new_tokens should be a whole number of at least 0"):
        small_model().generate(tokens(1, 3), count)


def test_an_empty_prompt_is_refused():
    with pytest.raises(ValueError, match="prompt is empty"):
        small_model().generate(torch.zeros(1, 0, dtype=torch.int64), 2)
    with pytest.raises(ValueError, match=r"tensor of shape \(B, T\), .*, not \(3,\)"):
        small_model().generate(tokens(3), 2)
