"""Questions to a model have the same answers whatever its caller set, and leave it as it was."""

from contextlib import nullcontext

import pytest
import torch

from mingpt.attention import attention, explain_word, knockout
from mingpt.inversion import invert, nearest_tokens
from mingpt.scoring import bits_per_byte, brute_force_log_prob, token_log_probs
from mingpt.text import sure_sentence
from tests.mingpt.helpers import TEXT, small_model, tokens

IDX = tokens(1, 12)


class Bytes:
    """Tokens that are bytes."""

    def decode(self, ids):
        return bytes(ids).decode("utf-8", "replace")

    def decode_bytes(self, ids):
        return bytes(ids)


QUESTIONS = {
    "attention": lambda model: attention(model, IDX)[1],
    "knockout": lambda model: knockout(model, IDX, 1, [4, 5]),
    "explain_word": lambda model: torch.tensor(explain_word(model, IDX, [6], 1).changes),
    "token_log_probs": lambda model: token_log_probs(model, tokens(1, 20)),
    "brute_force": lambda model: torch.tensor(brute_force_log_prob(model, IDX, 3)),
    "bits_per_byte": lambda model: torch.tensor(bits_per_byte(model, TEXT, TEXT[:40], 100)),
    "invert": lambda model: invert(model, IDX[0, :5], max_steps=5).vectors,
    "sure_sentence": lambda model: sure_sentence(
        model, Bytes(), [65, 66, 32], torch.Generator().manual_seed(0), 1, 0.0
    )[0],
    "nearest": lambda model: nearest_tokens(model, torch.ones(3, 24), TEXT).distances,
}
SURROUNDINGS = {
    "plain": nullcontext,
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
}


@pytest.mark.parametrize("around", SURROUNDINGS)
@pytest.mark.parametrize("question", QUESTIONS)
def test_answers_do_not_depend_on_what_the_caller_set(question, around):
    ask = QUESTIONS[question]
    expected = ask(small_model())
    model = small_model().train()
    model.transformer.h[1].eval()  # a mixture of modes
    modes = [module.training for module in model.modules()]
    with SURROUNDINGS[around]():
        found = ask(model)
    assert torch.equal(found, expected)
    assert [module.training for module in model.modules()] == modes
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


@pytest.mark.parametrize("around", SURROUNDINGS)
def test_a_bfloat16_model_is_inverted(around):
    model = small_model(scale=4.0).bfloat16()
    with SURROUNDINGS[around]():
        found = invert(model, IDX[0, :3], max_steps=200)
        nearest_tokens(model, found.vectors, TEXT)
    assert found.vectors.dtype == torch.float32
    assert found.losses[-1] < found.losses[0]
    assert model.lm_head.weight.dtype == torch.bfloat16
