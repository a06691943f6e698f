"""Predictors: distributions, agreement with the plain model, learning, mixtures."""

import math

import pytest
import torch

from mingpt import predictors
from mingpt.mixing import METHODS, Mixture, members
from mingpt.ngram import KneserNey
from mingpt.predictors import DynamicGPT, InThread, Neighbours, StaticGPT
from mingpt.vocabulary import BookVocabulary
from tests.mingpt.helpers import small_model, tokens

PREDICTORS = {
    "static": lambda model, ids: StaticGPT(model, ids, 16, 8),
    "dynamic": lambda model, ids: DynamicGPT(model, ids, 16, 8),
    "neighbours": lambda model, ids: Neighbours(model, ids, window=16, segment=8),
    "mixture": lambda model, ids: Mixture(
        [StaticGPT(model, ids, 16, 8),
         KneserNey(ids, torch.full((97,), 1 / 97, dtype=torch.float64), 3)], [0.5, 0.5]
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def model():
    return small_model(scale=3.0)


def walk(predictor, ids):
    """Log-probability of each token in turn, (N,) float64."""
    scores = []
    for token in ids.tolist():
        log_probs = predictor.predict()
        scores.append(log_probs[token])
        predictor.update(token)
    return torch.stack(scores)


@pytest.mark.parametrize("name", PREDICTORS)
def test_distributions_sum_to_one_and_repeat_bit_for_bit(model, name):
    before = {key: value.clone() for key, value in model.state_dict().items()}
    runs = []
    for _ in range(2):
        predictor = PREDICTORS[name](model, tokens(60))
        runs.append([])
        for token in tokens(20, seed=1).tolist():
            log_probs = predictor.predict()
            assert log_probs.dtype == torch.float64
            assert abs(float(log_probs.exp().sum()) - 1) < 1e-9
            runs[-1].append(log_probs)
            predictor.update(token)
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_static_gpt_is_the_model_in_windows(model):
    ids, following = tokens(30), tokens(20, seed=1)
    text = torch.cat([ids, following])
    scores = walk(StaticGPT(model, ids, 16, 8), following)
    with torch.no_grad():
        for start in (0, 8):  # windows begin where their segment ends 16 inputs later
            end = len(ids) + start + 7
            logits, _ = model(text[None, end - 16 : end])
            expected = logits[0, -8:].double().log_softmax(-1)
            rows = text[end - 7 : end + 1]
            expected = expected.gather(1, rows[:, None])[:, 0]
            assert torch.allclose(scores[start : start + 8], expected, atol=1e-5)


def test_without_a_step_the_dynamic_gpt_is_the_static_one(model):
    ids, following = tokens(60), tokens(40, seed=1)
    still = walk(DynamicGPT(model, ids, 16, 8, learning_rate=0), following)
    assert torch.equal(still, walk(StaticGPT(model, ids, 16, 8), following))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("as_built", [True, False])
def test_one_step_is_krauses(tied, as_built, monkeypatch):
    monkeypatch.setattr(predictors, "ROWS", 40)  # of 97: in three parts
    model = small_model(scale=3.0, tied_head=tied)
    if not as_built:
        model.transformer.drop.register_forward_hook(lambda *_: None)
    ids, following = tokens(60), tokens(8, seed=1)
    predictor = DynamicGPT(model, ids, 16, 8, learning_rate=1e-3, damping=2.0, decay=0.25)
    rms = [r.clone() for r in predictor._rms]
    walk(predictor, following)
    text = torch.cat([ids, following])[-17:]
    targets = text[1:].clone()
    targets[:8] = -1
    plain = small_model(scale=3.0, tied_head=tied)
    _, loss = plain(text[None, :-1], targets[None])
    loss.backward()
    for weight, moved, r in zip(plain.parameters(), predictor.model.parameters(), rms, strict=True):
        expected = weight - (1 - 0.25) * 1e-3 * weight.grad / r
        assert torch.allclose(moved, expected, atol=1e-6)


def test_dynamic_evaluation_learns_a_text_that_repeats_itself(model):
    ids, following = tokens(60), tokens(24, seed=1).repeat(8)
    learnt = walk(DynamicGPT(model, ids, 16, 8, learning_rate=3e-3, decay=0.0), following)
    plain = walk(StaticGPT(model, ids, 16, 8), following)
    assert learnt[-24:].mean() > plain[-24:].mean() + 0.5


def test_weights_that_leave_the_finite_numbers_return(model):
    predictor = DynamicGPT(model, tokens(60), 16, 8, learning_rate=1e30)
    walk(predictor, tokens(40, seed=1))
    assert predictor.predict().isfinite().all()


def test_neighbours_find_what_followed_the_same_context(model):
    phrase = tokens(20, seed=1)
    predictor = Neighbours(model, torch.cat([phrase.repeat(8), phrase[:8]]), theta=200.0,
                           window=16, segment=8)  # fmt: skip
    assert int(predictor.predict().argmax()) == int(phrase[8])


def test_neighbours_remember_every_state_once(model):
    for length in range(17, 36):
        predictor = Neighbours(model, tokens(length), window=16, segment=8)
        complete = (length - 17) // 8 + 1
        assert predictor._count == 8 * complete
        walk(predictor, tokens(5, seed=1))
        assert predictor._count == 8 * complete + 5


@pytest.mark.parametrize("name", ["dynamic", "neighbours"])
def test_in_a_thread_of_its_own_a_predictor_gives_the_same_bits(model, name):
    following = tokens(20, seed=1)
    alone = PREDICTORS[name](model, tokens(60))
    beside = InThread(PREDICTORS[name](model, tokens(60)))
    for token in following.tolist():
        assert torch.equal(beside.predict(), alone.predict())
        assert torch.equal(beside.predict(), alone.predict())
        for predictor in (alone, beside):
            predictor.update(token)


def test_what_goes_wrong_in_a_thread_is_raised_where_it_is_waited_for(model):
    beside = InThread(StaticGPT(model, tokens(60), 16, 8))
    beside.predict()
    beside.update(97)  # of 0 to 96
    with pytest.raises(IndexError, match="out of range"):
        beside.predict()


class Fixed:
    """Always the same distribution."""

    def __init__(self, p):
        self.p = torch.tensor(p, dtype=torch.float64)

    def predict(self):
        return self.p.log()

    def update(self, token):
        pass


def test_a_mixture_is_the_weighted_mean_and_moves_towards_the_posterior():
    mixture = Mixture([Fixed([0.8, 0.2]), Fixed([0.3, 0.7])], [1, 3], rate=0.1)
    assert torch.allclose(mixture.predict().exp(), torch.tensor([0.425, 0.575]).double())
    mixture.update(0)
    posterior = 0.25 * 0.8 / 0.425
    assert float(mixture.weights[0, 0]) == pytest.approx(0.9 * 0.25 + 0.1 * posterior)
    assert float(mixture.weights.sum()) == pytest.approx(1)


def test_a_mixtures_weights_belong_to_their_context():
    context = [0]
    mixture = Mixture([Fixed([0.9, 0.1]), Fixed([0.1, 0.9])], [1, 1], 0.1, lambda: context[0], 2)
    for _ in range(60):
        mixture.predict()
        mixture.update(context[0])
        context[0] = 1 - context[0]
    assert mixture.weights[0, 0] > 0.9
    assert mixture.weights[1, 1] > 0.9


def test_a_member_of_no_weight_says_nothing():
    mixture = Mixture([Fixed([0.9, 0.1]), Fixed([0.5, 0.5])], [1, 0], rate=0)
    assert torch.allclose(mixture.predict().exp(), torch.tensor([0.9, 0.1]).double())
    mixture.update(1)
    assert mixture.weights.tolist() == [[1, 0]]


@pytest.mark.parametrize("method", METHODS)
def test_both_methods_predict_better_than_any_part_alone_would_uniformly(method):
    vocabulary = BookVocabulary(torch.arange(256))
    network = small_model(vocab_size=256, block_size=16)
    ids = torch.tensor(vocabulary.encode("the cat sat on the mat. " * 20))
    predictor = METHODS[method](network, vocabulary, ids)
    scores = walk(predictor, torch.tensor(vocabulary.encode("the cat sat on the mat. ")))
    assert scores.mean() > -math.log(256) / 2


def test_bad_arguments_are_refused(model):
    vocabulary = BookVocabulary(torch.arange(256))
    for window, segment in ((17, 8), (8, 9), (0, 1)):
        with pytest.raises(ValueError, match=r"window|segment"):
            StaticGPT(model, tokens(60), window, segment)
    with pytest.raises(ValueError, match="at least one token"):
        StaticGPT(model, tokens(0), 16, 8)
    with pytest.raises(ValueError, match="more than 16 tokens"):
        DynamicGPT(model, tokens(16), 16, 8)
    with pytest.raises(ValueError, match="more than 16 tokens"):
        members(small_model(vocab_size=256), vocabulary, tokens(16), adaptive=False)
    for weights, rate in (([1], 0.1), ([-1, 2], 0.1), ([0, 0], 0.1), ([1, 1], 1.0)):
        with pytest.raises(ValueError, match=r"weights|rate"):
            Mixture([Fixed([1.0]), Fixed([1.0])], weights, rate)
