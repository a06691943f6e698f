"""What users hand in: NumPy's numbers, tokens in lists and arrays, embeddings of any dtype."""

import copy

import numpy as np
import pytest
import torch

from mingpt import cascade, early_exit, feedback, predictors, prompting, replies, tasks
from mingpt.attention import attention, explain_word, knockout
from mingpt.inversion import invert
from mingpt.scoring import bits_per_byte, brute_force_log_prob, token_log_probs
from mingpt.utils import InputError
from tests.mingpt.helpers import TEXT, small_model, tokens

IDX = tokens(1, 12)
POOL = ["cat", "dog", "house", "apple", "tree"]
WORDS = tasks.Words(POOL, ["bird"], ["mouse", "horse"])
MODEL = small_model()


def reward(idx):
    return (idx == 3).sum(dim=1).float()


def tuned(i, f):
    policy = copy.deepcopy(MODEL)
    settings = {"samples": i(4), "steps": i(2), "length": i(3), "learning_rate": f(0.25)}
    list(feedback.tune(policy, MODEL, lambda g: IDX[:, :6], reward, f(0.5), seed=i(1), **settings))
    return policy.lm_head.weight


def adapted(i, f):
    settings = {"window": i(12), "segment": i(4), "learning_rate": f(0.25), "batches": i(2)}
    return predictors.DynamicGPT(MODEL, TEXT, **settings, seed=i(1)).predict()


# Called with what makes a whole number, and what makes a real one (of those that float32 has).
NUMBERS = {
    "cascade's sums": lambda i, f: cascade.simulated_log_prob_nonpositive(
        f(0.5), i(3), i(50), True, seed=i(1), more=i(5)
    ),
    "cascade's stops": lambda i, f: cascade.simulated_stopping(f(0.75), i(50), seed=i(1))[0],
    "an adaptive predictor": adapted,
    "policy gradient": lambda i, f: feedback.policy_gradient(
        MODEL, IDX[:, :6], reward, samples=i(4), seed=i(1), length=i(3)
    )[-1],
    "tuning by rewards": tuned,
    "a soft prompt": lambda i, f: prompting.tune(
        MODEL, [([1], [2])], length=i(2), seed=i(1), steps=i(2), batch_size=i(2),
        learning_rate=f(0.25),
    ).vectors,
    "early exit": lambda i, f: early_exit.forward(MODEL, IDX, f(0.5))[0],
    "early exit's generation": lambda i, f: early_exit.generate(
        MODEL, IDX, i(3), f(0.5), temperature=f(0.5), top_k=i(5), top_p=f(0.75), do_sample=True,
        generator=torch.Generator().manual_seed(0),
    )[0],
    "words": lambda i, f: tasks.words(i(1)).test,
    "rows of tasks": lambda i, f: tasks.rows(i(2), i(30), POOL, seed=i(1))[0],
    "questions": lambda i, f: [
        question.prompt for question in replies.questions("copy", WORDS, i(3), shots=i(1),
                                                          seed=i(1))
    ],
    "inversion": lambda i, f: invert(
        MODEL, IDX[0, :4], seed=i(1), max_steps=i(3), learning_rate=f(0.25), margin=f(0.0)
    ).vectors,
    "knockout": lambda i, f: knockout(MODEL, IDX, i(1), [i(4)]),
    "bits per byte": lambda i, f: bits_per_byte(MODEL, TEXT, TEXT[:40], i(100)),
}  # fmt: skip


@pytest.mark.parametrize("called", NUMBERS)
def test_numpys_numbers_do_what_pythons_do(called):
    ours, theirs = NUMBERS[called](int, float), NUMBERS[called](np.int64, np.float32)
    if isinstance(ours, torch.Tensor):
        assert torch.equal(ours, theirs)
    else:
        assert ours == theirs


@pytest.mark.parametrize("seed", [-1, 1.5, True, "1", None])
@pytest.mark.parametrize("called", [
    lambda seed: cascade.simulated_stopping(0.9, 5, seed=seed),
    lambda seed: tasks.rows(2, 30, POOL, seed=seed),
    lambda seed: replies.questions("copy", WORDS, 3, seed=seed),
    lambda seed: feedback.policy_gradient(MODEL, IDX[:, :6], reward, samples=2, seed=seed),
    lambda seed: invert(MODEL, IDX[0, :4], seed=seed),
])  # fmt: skip
def test_a_seed_is_a_whole_number(called, seed):
    with pytest.raises(InputError, match="seed should be a whole number of at least 0"):
        called(seed)


TOKENS = {
    "attention": lambda idx: attention(MODEL, idx)[1],
    "knockout": lambda idx: knockout(MODEL, idx, 1, [4]),
    "explain_word": lambda idx: explain_word(MODEL, idx, [6], 1).weights,
    "token_log_probs": lambda idx: token_log_probs(MODEL, idx),
    "brute_force": lambda idx: brute_force_log_prob(MODEL, idx, 3),
    "early_exit": lambda idx: early_exit.forward(MODEL, idx)[0],
    "early_exit_generation": lambda idx: early_exit.generate(MODEL, idx, 3)[0],
    "policy_gradient": lambda idx: feedback.policy_gradient(MODEL, idx, reward, samples=4)[-1],
    "tuning": lambda idx: next(
        feedback.tune(copy.deepcopy(MODEL), MODEL, lambda g: idx, reward, 0.5, samples=2)
    ).idx,
}
every_reader = pytest.mark.parametrize("read", TOKENS)


@pytest.mark.parametrize("kind", [
    torch.Tensor.tolist, torch.Tensor.numpy, torch.Tensor.int, lambda idx: idx.byte(),
], ids=["lists", "array", "int32", "uint8"])  # fmt: skip
@every_reader
def test_tokens_in_other_forms_are_read(read, kind):
    found, expected = TOKENS[read](kind(IDX)), TOKENS[read](IDX)
    assert torch.equal(torch.as_tensor(found), torch.as_tensor(expected))


@pytest.mark.parametrize("given", [[[1, 2], [3]], [1, 2, 3], [[0.5, 1.0]], "text"])
@every_reader
def test_what_is_no_rectangle_of_tokens_is_refused(read, given):
    """Prompts of different lengths too: `GPT.generate` and `prompting.complete` take those."""
    with pytest.raises(InputError, match="tokens should be whole numbers"):
        TOKENS[read](given)


@pytest.mark.parametrize("own", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("given", [torch.float64, torch.float32, torch.float16, torch.int64])
def test_embeddings_take_the_models_dtype(own, given):
    model = small_model().to(own)
    embeddings = (3 * tokens(2, 5, 24) / 97).round().to(given)  # all of these dtypes have them
    logits, _ = model(embeddings=embeddings)
    assert logits.dtype == own
    assert torch.equal(logits, model(embeddings=embeddings.to(own))[0])
    if given.is_floating_point:
        leaf = embeddings.clone().requires_grad_()
        model(embeddings=leaf, targets=tokens(2, 5))[1].backward()
        assert leaf.grad.dtype == given
        assert leaf.grad.isfinite().all()
