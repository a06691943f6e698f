"""Questions to a model have the same answers whatever its caller set, and leave it as it was."""

import copy
from contextlib import contextmanager, nullcontext

import pytest
import torch

from mingpt import coding, early_exit, feedback, predictors, prompting
from mingpt.attention import attention, explain_word, knockout
from mingpt.inversion import invert, nearest_tokens
from mingpt.scoring import bits_per_byte, brute_force_log_prob, token_log_probs
from mingpt.text import sure_sentence
from mingpt.vocabulary import BookVocabulary
from tests.mingpt.helpers import TEXT, small_model, tokens

IDX, VECTORS = tokens(1, 12), torch.ones(3, 24)


class Bytes:
    """Tokens that are bytes."""

    def decode(self, ids):
        return bytes(ids).decode("utf-8", "replace")

    def decode_bytes(self, ids):
        return bytes(ids)


def doubles(numbers):
    return torch.tensor(numbers, dtype=torch.float64)


def flat(tensors):
    return torch.cat([tensor.flatten() for tensor in tensors])


def reward(idx):
    return (idx == 3).sum(dim=1).float()


def policy_gradient(model):
    return flat(feedback.policy_gradient(model, IDX[:, :6], reward, samples=4, length=3))


def tuned_by_rewards(model, method):
    with torch.inference_mode(False):  # weights made in inference mode cannot be trained
        policy = copy.deepcopy(model)
    settings = {"beta": 0.5, "method": method, "samples": 4, "steps": 2, "length": 3}
    steps = list(feedback.tune(policy, model, lambda generator: IDX[:, :6], reward, **settings))
    assert [module.training for module in policy.modules()] == [
        module.training for module in model.modules()
    ]
    return flat([*policy.parameters(), steps[1].log_ratios])


def predicted(kind):
    """The log-probabilities after some tokens that the predictor has seen come."""

    def ask(model):
        predictor = kind(model, TEXT[:60], window=12, segment=4)
        for token in TEXT[60:72].tolist():
            predictor.update(token)
        return predictor.predict()

    return ask


QUESTIONS = {
    "attention": lambda model: attention(model, IDX)[1],
    "knockout": lambda model: knockout(model, IDX, 1, [4, 5]),
    "explain_word": lambda model: doubles(explain_word(model, IDX, [6], 1).changes),
    "token_log_probs": lambda model: token_log_probs(model, tokens(1, 20)),
    "brute_force": lambda model: doubles(brute_force_log_prob(model, IDX, 3)),
    "bits_per_byte": lambda model: doubles(bits_per_byte(model, TEXT, TEXT[:40], 100)),
    "invert": lambda model: invert(model, IDX[0, :5], max_steps=5).vectors,
    "sure_sentence": lambda model: sure_sentence(
        model, Bytes(), [65, 66, 32], torch.Generator().manual_seed(0), 1, 0.0
    )[0],
    "early_exit": lambda model: early_exit.forward(model, IDX, 0.02)[0],
    "exits": lambda model: early_exit.forward(model, IDX, 0.02, "entropy")[1],
    "exit_logits": lambda model: early_exit.exit_logits(model, IDX),
    "early_exit_generation": lambda model: early_exit.generate(
        model, IDX, 6, 0.02, do_sample=True, generator=torch.Generator().manual_seed(0)
    )[0],
    "tune": lambda model: prompting.tune(
        model, [([1, 2], [3]), ([4], [5, 6])], length=2, steps=3, batch_size=2
    ).vectors,
    "finetune": lambda model: flat(
        prompting.finetune(model, [([1, 2], [3])], steps=2, batch_size=2).model.parameters()
    ),
    "complete": lambda model: doubles(prompting.complete(model, [[1, 2, 3]], 5)[0].log_probs),
    "static predictor": predicted(predictors.StaticGPT),
    "dynamic predictor": predicted(predictors.DynamicGPT),
    "neighbours": predicted(predictors.Neighbours),
    "policy_gradient": policy_gradient,
    "REINFORCE": lambda model: tuned_by_rewards(model, "REINFORCE"),
    "PPO": lambda model: tuned_by_rewards(model, "PPO"),
    "DPO": lambda model: tuned_by_rewards(model, "DPO"),
    "nearest": lambda model: nearest_tokens(model, VECTORS, TEXT).distances,
}
@contextmanager
def double_by_default():
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


SURROUNDINGS = {
    "plain": nullcontext,
    "default_dtype": double_by_default,
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
@pytest.mark.parametrize("method", ["static", "adaptive"])
def test_a_compressed_text_does_not_depend_on_what_the_caller_set(method, around):
    vocabulary, text = BookVocabulary(torch.arange(256)), "Alice was beginning"
    options = {"encoder": vocabulary, "primer": TEXT}

    def model():
        return small_model(vocab_size=256)

    expected = coding.compress(text, model(), method, **options)
    asked = model().train()
    with SURROUNDINGS[around]():
        assert coding.compress(text, asked, method, **options) == expected
        assert coding.decompress(expected, asked, **options) == text
    assert all(module.training for module in asked.modules())
    assert all(torch.equal(a, b) for a, b in zip(asked.parameters(), model().parameters(),
                                                  strict=True))  # fmt: skip


BFLOAT16 = (
    "early_exit", "exits", "exit_logits", "tune", "finetune", "complete", "policy_gradient",
    "REINFORCE", "PPO", "DPO",
)  # fmt: skip


@pytest.mark.parametrize("around", ["plain", "inference_mode", "default_dtype"])
@pytest.mark.parametrize("question", BFLOAT16)
def test_a_bfloat16_model_is_asked(question, around):
    """The answers are finite, and near those in float32 where nothing is drawn."""
    model = small_model().bfloat16()
    with SURROUNDINGS[around]():
        found = QUESTIONS[question](model)
    assert found.isfinite().all()
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    if question in {"early_exit", "exit_logits", "tune"}:
        expected = QUESTIONS[question](small_model())
        torch.testing.assert_close(found.float(), expected, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("around", SURROUNDINGS)
def test_a_bfloat16_model_is_inverted(around):
    model = small_model(scale=4.0).bfloat16()
    with SURROUNDINGS[around]():
        found = invert(model, IDX[0, :3], max_steps=200)
        nearest_tokens(model, found.vectors, TEXT)
    assert found.vectors.dtype == torch.float32
    assert found.losses[-1] < found.losses[0]
    assert model.lm_head.weight.dtype == torch.bfloat16
