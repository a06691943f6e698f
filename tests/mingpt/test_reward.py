"""The judge's rule and noise, the reward model that learns them, and the restricted policy."""

import copy

import pytest
import torch

from mingpt import judge, reward
from mingpt.bpe import get_encoder
from mingpt.vocabulary import BookVocabulary, restricted
from tests.mingpt.helpers import small_model, tokens


@pytest.mark.parametrize(("text", "held"), [
    ("", (0, 0, 0, 0)),
    ("`Off with his head!' said the Queen", (1, 1, 1, 0)),
    ("it's Alice's, and nobody's", (0, 1, 0, 0)),
    ("the cats of the Kings", (0, 0, 0, 0)),
    ("The cat, the hat, the mat?", (0, 0, 1, 1)),
    ("round and round", (0, 0, 0, 0)),
])  # fmt: skip
def test_the_rule_of_the_judge(text, held):
    assert judge.traits(text) == held
    wanted = held[0] + held[1] + held[2] - held[3]
    assert judge.points(torch.tensor([held])).tolist() == [wanted]


def test_comparisons_follow_bradley_and_terry():
    rewards = torch.tensor([[0.0, 2.0, -1.0]]).expand(4000, 3)
    shares = judge.comparisons(rewards, torch.Generator().manual_seed(0)).mean(dim=0)
    wanted = torch.tensor([-2.0, 1.0, 3.0]).sigmoid()  # pairs (0, 1), (0, 2), (1, 2)
    error = (wanted * (1 - wanted) / 4000).sqrt()
    assert ((shares - wanted).abs() < 4 * error).all()


def test_nobody_agrees_with_the_judge_more_than_his_own_reward():
    generator = torch.Generator().manual_seed(0)
    rewards = torch.randint(3, (200, 2), generator=generator).float()
    scores = torch.randn(200, 2, generator=generator)
    best = judge.accuracy(rewards, rewards)
    tied = rewards[:, 0] == rewards[:, 1]
    gap = (rewards[:, 0] - rewards[:, 1]).abs()
    assert torch.allclose(best, gap.double().sigmoid())
    assert (judge.accuracy(scores, rewards) <= best).all()
    assert (judge.accuracy(scores, rewards)[tied] == 0.5).all()
    assert torch.allclose(judge.accuracy(-rewards, rewards), 1 - best)
    assert (judge.accuracy(torch.zeros(200, 2), rewards) == 0.5).all()


def test_a_reward_model_learns_which_texts_have_a_token():
    gpt = small_model(vocab_size=20)
    before = copy.deepcopy(gpt.state_dict())
    idx = tokens(160, 4, 9, vocab_size=20, seed=1)
    truth = 3.0 * (idx[:, :, 3:] < 3).any(dim=2)
    preferred = judge.comparisons(truth, torch.Generator().manual_seed(0))
    model = reward.RewardModel(gpt, start=3)
    assert not model.score(idx[0]).any()
    fit = reward.fit(model, idx[:128], preferred[:128], (idx[128:], preferred[128:]),
                     learning_rate=3e-3, batch=8, every=4)  # fmt: skip
    held = model.score(idx[128:].flatten(0, 1)).view(-1, 4)
    loss = float(reward.comparison_loss(held, preferred[128:]))
    assert loss == pytest.approx(min(value for _, value in fit.validation))  # those were kept
    assert dict(fit.validation)[fit.kept] == pytest.approx(loss)
    pairs, scores = truth[128:].view(-1, 2), held.view(-1, 2)
    assert judge.accuracy(pairs, pairs).mean() - judge.accuracy(scores, pairs).mean() < 0.03
    assert all(torch.equal(before[key], value) for key, value in gpt.state_dict().items())
    assert torch.equal(model.gpt.transformer.wte.weight, gpt.transformer.wte.weight)


def test_the_loss_of_comparisons_is_theirs():
    scores = torch.tensor([[1.0, 0.0, -2.0]])
    preferred = torch.tensor([[1.0, 0.0, 1.0]])
    wanted = -torch.tensor([1.0, -3.0, 2.0]).sigmoid().log().mean()
    assert torch.allclose(reward.comparison_loss(scores, preferred), wanted)


def test_a_restricted_model_writes_what_the_whole_one_would_among_its_tokens():
    whole = small_model(vocab_size=get_encoder().vocab_size, tied_head=True, scale=2.0)
    vocabulary = BookVocabulary.of(torch.tensor([300, 5000, 50000]))
    small = restricted(whole, vocabulary)
    idx = torch.tensor([[256, 65, 258, 0]])
    given = whole(vocabulary.ids[idx])[0][..., vocabulary.ids].log_softmax(dim=-1)
    assert torch.allclose(small(idx)[0].log_softmax(dim=-1), given, atol=1e-5)
    assert small.lm_head.weight is small.transformer.wte.weight
    with pytest.raises(ValueError, match="knows 97 tokens"):
        restricted(small_model(), vocabulary)
