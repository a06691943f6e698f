"""Policy gradients and the objectives that tune a policy, against sums over all sequences."""

import copy
import math
from itertools import product

import pytest
import torch

from mingpt import enumeration, feedback
from mingpt.scoring import sequence_log_prob
from tests.mingpt.helpers import small_model, tokens

VOCABULARY, LENGTH = 4, 3


@pytest.fixture(scope="module")
def policy():
    return small_model(
        vocab_size=VOCABULARY, block_size=LENGTH + 1, n_layer=1, n_head=2, n_embd=8, scale=5.0
    )


@pytest.fixture(scope="module")
def idx():
    return enumeration.all_sequences(torch.zeros(1, dtype=torch.int64), VOCABULARY, LENGTH)


@pytest.fixture(scope="module")
def log_ref(policy, idx):
    return enumeration.distribution(policy, idx, start=1)


def rises(idx):
    return (idx[:, 1:] > idx[:, :-1]).sum(dim=1).float()


PROMPT = torch.zeros(1, 1, dtype=torch.int64)
ESTIMATES = 80


def test_all_sequences_are_there_once_and_their_probabilities_add_up(idx, log_ref):
    assert len(idx.unique(dim=0)) == len(idx) == VOCABULARY**LENGTH
    assert float(log_ref.exp().sum()) == pytest.approx(1, abs=1e-6)


def test_log_probs_are_those_of_the_scoring_module():
    model, rows = small_model(), tokens(3, 9)
    ours = feedback.sequence_log_probs(model, rows, start=4)
    assert torch.allclose(ours.double(), sequence_log_prob(model, rows, 4), atol=1e-5)


def test_the_exact_gradient_is_the_sum_of_p_r_grad_log_p(policy, idx, log_ref):
    """H12.4 a: automatic differentiation of the expectation against the formula."""
    truth = enumeration.exact_gradient(policy, idx, rises(idx), start=1)
    scores = enumeration.scores(policy, idx, start=1)
    for wanted, score in zip(truth, scores, strict=True):
        formula = -(log_ref.exp() * rises(idx)) @ score
        assert torch.allclose(wanted.flatten().double(), formula, atol=1e-6)


@pytest.fixture(scope="module", params=[False, True], ids=["without baseline", "with baseline"])
def estimates(request, policy):
    """By parameter group ESTIMATES estimates of the gradient (ESTIMATES, numbers)."""
    found = [feedback.policy_gradient(policy, PROMPT, rises, 32, request.param, seed)
             for seed in range(ESTIMATES)]  # fmt: skip
    return [torch.stack([g.flatten() for g in group]) for group in zip(*found, strict=True)]


def test_the_estimate_is_unbiased_in_every_parameter_group(policy, idx, estimates):
    truth = enumeration.exact_gradient(policy, idx, rises(idx), start=1)
    for draws, wanted in zip(estimates, truth, strict=True):
        parts = draws @ (wanted.flatten() / wanted.norm())  # along the gradient
        error = float(parts.std()) / math.sqrt(ESTIMATES)
        assert abs(float(parts.mean() - wanted.norm())) < 4 * error


def test_the_estimate_is_unbiased_in_every_coordinate(policy, idx, estimates):
    """Student's t beyond 5 anywhere has a chance below 1 % (Bonferroni, 1,000 coordinates).

    What float32 rounds is allowed on top: some coordinates are 0 for every sequence.
    """
    truth = enumeration.exact_gradient(policy, idx, rises(idx), start=1)
    for draws, wanted in zip(estimates, truth, strict=True):
        error = draws.std(dim=0) / math.sqrt(ESTIMATES)
        off = (draws.mean(dim=0) - wanted.flatten()).abs()
        assert (off < 5 * error + 1e-6).all()


@pytest.mark.parametrize("baseline", [False, True])
def test_the_variance_formula_is_that_of_all_possible_samples(baseline):
    generator = torch.Generator().manual_seed(0)
    score = torch.randn(3, 2, generator=generator, dtype=torch.float64)
    p = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    score -= p @ score  # the mean of grad log P is 0
    rewards = torch.tensor([1.0, -2.0, 4.0], dtype=torch.float64)
    mean, square, samples = 0, 0, 3
    for chosen in product(range(3), repeat=samples):
        rows = list(chosen)
        weights = rewards[rows]
        if baseline:
            weights = feedback.advantages(weights[None])[0]
        estimate = weights @ score[rows] / samples
        mean = mean + p[rows].prod() * estimate
        square = square + p[rows].prod() * estimate.square().sum()
    assert torch.allclose(mean, (p * rewards) @ score)
    variance = enumeration.estimator_variance(score, p.log(), rewards, samples, baseline)
    assert variance == pytest.approx(float(square - mean.square().sum()))


def test_with_data_and_reward_one_it_is_the_gradient_of_the_cross_entropy():
    """H12.4 b, to the last bit: 8 sequences of 8 tokens, so that their mean rounds nothing."""
    model, rows, start, length = small_model(), tokens(8, 12), 4, 8
    ours = feedback.weighted_gradient(model, rows, torch.ones(8), start)
    targets = rows[:, 1:].clone()
    targets[:, : start - 1] = -1
    loss = model(rows[:, :-1], targets)[1] * length
    theirs = torch.autograd.grad(loss, list(model.parameters()))
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a, b)


def test_a_constant_reward_moves_nothing_with_the_baseline(policy):
    found = feedback.policy_gradient(policy, PROMPT, lambda idx: torch.full((len(idx),), 3.0), 8)
    assert all(not gradient.any() for gradient in found)


def test_the_model_and_the_global_state_are_left_as_they_were():
    model = small_model().train()
    state, before = torch.get_rng_state(), copy.deepcopy(model.state_dict())
    prompts = tokens(2, 5)
    with torch.inference_mode():
        first = feedback.policy_gradient(model, prompts, lambda idx: idx[:, -1], 4, length=3)
    again = feedback.policy_gradient(model, prompts, lambda idx: idx[:, -1], 4, length=3)
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    for a, b, p in zip(first, again, model.parameters(), strict=True):
        assert a.shape == p.shape
        assert torch.equal(a, b)


def test_frozen_parameters_get_zeros():
    model = small_model()
    model.transformer.wte.weight.requires_grad_(False)
    found = feedback.policy_gradient(model, tokens(1, 5), lambda idx: idx[:, -1], 4, length=2)
    assert not found[0].any()
    assert found[1].any()


# --- The best policy ----------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [0.1, 1.0, 10.0])
def test_no_policy_beats_the_best_one(log_ref, idx, beta):
    """E[r] - beta KL(P || P_ref) = beta log Z - beta KL(P || P*) for any P."""
    rewards = rises(idx).double()
    best = enumeration.best_policy(log_ref, rewards, beta)
    log_z = float((log_ref + rewards / beta).logsumexp(dim=0))
    generator = torch.Generator().manual_seed(1)
    other = torch.randn(len(idx), generator=generator, dtype=torch.float64).log_softmax(dim=0)
    for log_p in (best, log_ref, other):
        kl, reward = enumeration.point(log_p, log_ref, rewards)
        from_best = enumeration.point(log_p, best, rewards).kl
        assert reward - beta * kl == pytest.approx(beta * (log_z - from_best))


@pytest.mark.parametrize("name", feedback.OBJECTIVES)
def test_the_best_policy_is_where_every_objective_stands_still(name, log_ref, idx):
    rewards, beta = rises(idx).double(), 0.7
    best = enumeration.best_policy(log_ref, rewards, beta)[:, None]
    new = best.clone().requires_grad_()
    loss = feedback.OBJECTIVES[name](new, best, log_ref[:, None], rewards, len(idx), beta)
    (gradient,) = torch.autograd.grad(loss, [new])
    assert gradient.abs().max() < 1e-9


def test_before_the_first_update_ppo_is_reinforce():
    generator = torch.Generator().manual_seed(2)
    old, reference = torch.randn(2, 6, 3, generator=generator)
    rewards = torch.randn(6, generator=generator)
    found = []
    for name in ("REINFORCE", "PPO"):
        new = old.clone().requires_grad_()
        loss = feedback.OBJECTIVES[name](new, old, reference, rewards, 3, 0.5)
        found += torch.autograd.grad(loss, [new])
    assert torch.allclose(*found)


def test_ppo_pulls_no_further_beyond_its_clip():
    old = torch.zeros(2, 1)
    new = torch.tensor([[0.3], [0.3]], requires_grad=True)  # ratio 1.35
    loss = feedback.ppo_loss(new, old, old, torch.tensor([1.0, -1.0]), 2, 1.0)
    (gradient,) = torch.autograd.grad(loss, [new])
    assert gradient[0] == 0  # better than the other, but already likelier than the clip allows
    assert gradient[1] > 0  # worse, and still pushed down


def test_dpo_is_the_cross_entropy_of_the_judge():
    new, reference = torch.tensor([[-1.0], [-2.0]]), torch.tensor([[-1.5], [-1.0]])
    rewards, beta = torch.tensor([2.0, 1.0]), 0.4
    margin = beta * (0.5 - -1.0)
    p = 1 / (1 + math.exp(-1))
    wanted = -(p * math.log(1 / (1 + math.exp(-margin)))
               + (1 - p) * math.log(1 / (1 + math.exp(margin))))  # fmt: skip
    found = float(feedback.dpo_loss(new, new, reference, rewards, 2, beta))
    assert found == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("name", feedback.OBJECTIVES)
def test_tuning_leads_to_the_best_policy(name, policy, idx, log_ref):
    tuned, beta = copy.deepcopy(policy), 1.0
    best = enumeration.best_policy(log_ref, rises(idx).double(), beta)
    steps = list(feedback.tune(tuned, policy, lambda g: PROMPT, rises, beta, method=name,
                               samples=64, steps=120, learning_rate=1e-2))  # fmt: skip
    found = enumeration.distribution(tuned, idx, start=1)
    far = enumeration.total_variation(log_ref, best)
    assert enumeration.total_variation(found, best) < 0.2 * far
    assert not steps[0].log_ratios.any()  # the policy begins as its reference
    assert torch.equal(steps[0].rewards, rises(steps[0].idx))


# --- Bad input ----------------------------------------------------------------------------------


def tune(policy, **settings):
    given = {"beta": 1.0, "samples": 2, "steps": 1} | settings
    return list(feedback.tune(policy, policy, lambda g: PROMPT, rises, **given))


@pytest.mark.parametrize("beta", [0, -1.0, math.nan, math.inf, True, "1"])
def test_beta_is_above_zero(policy, idx, log_ref, beta):
    with pytest.raises(ValueError, match="beta"):
        tune(policy, beta=beta)
    with pytest.raises(ValueError, match="beta"):
        enumeration.best_policy(log_ref, rises(idx), beta)


@pytest.mark.parametrize(("settings", "message"), [
    ({"method": "SARSA"}, "there are REINFORCE, PPO, DPO"),
    ({"method": "DPO", "samples": 3}, "even"),
    ({"samples": 1}, "at least 2"),
    ({"length": LENGTH + 1}, "more than the 3 tokens"),
])  # fmt: skip
def test_settings_of_tuning_out_of_range(policy, settings, message):
    with pytest.raises(ValueError, match=message):
        tune(policy, **settings)


@pytest.mark.parametrize(("arguments", "message"), [
    ((tokens(1, 4, vocab_size=4), rises), "leave no room"),
    ((tokens(4, vocab_size=4), rises), r"\(B, T\)"),
    ((PROMPT[:0], rises), r"\(B, T\)"),
    ((PROMPT, rises, 1), "at least 2"),
    ((PROMPT, rises, 0, False), "at least 1"),
    ((PROMPT, rises, 4, True, -1), "seed"),
    ((PROMPT, lambda idx: idx), "4 finite numbers"),
    ((PROMPT, lambda idx: torch.full((len(idx),), math.nan)), "finite"),
])  # fmt: skip
def test_what_policy_gradient_refuses(policy, arguments, message):
    arguments = (*arguments, *(() if len(arguments) > 2 else (4,)))
    with pytest.raises(ValueError, match=message):
        feedback.policy_gradient(policy, *arguments)
