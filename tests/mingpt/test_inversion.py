import pytest
import torch

from mingpt.bpe import get_encoder
from mingpt.inversion import invert, invert_all, nearest_tokens, prompt_to_repeat, way_of
from mingpt.scoring import sequence_log_prob
from tests.mingpt.helpers import small_model, tokens


@pytest.fixture(scope="module")
def model():
    return small_model(scale=6)


def test_the_vectors_found_spell_the_target(model):
    target = tokens(6, seed=3)
    result = invert(model, target, seed=0)
    assert result.reached
    logits = model(embeddings=result.vectors[None])[0][0]
    assert torch.equal(logits.argmax(-1), target)
    assert torch.equal(result.history[-1][1], target)
    assert result.vectors.shape == (6, 24)
    assert len(result.losses) == result.steps + 1
    assert result.losses[-1] < result.losses[0]


def test_margins_are_the_lead_over_the_runner_up(model):
    target = tokens(6, seed=3)
    result = invert(model, target, seed=0, margin=0.5)
    logits = model(embeddings=result.vectors[None])[0][0].detach()
    for row, wanted, margin in zip(logits, target, result.margins, strict=True):
        others = torch.cat([row[:wanted], row[wanted + 1 :]])
        assert margin.item() == pytest.approx((row[wanted] - others.max()).item(), abs=1e-5)
        assert margin > 0.5


def test_the_model_stays_frozen_and_seeds_repeat(model):
    before = {k: v.clone() for k, v in model.state_dict().items()}
    first, again = (invert(model, tokens(4), seed=5) for _ in range(2))
    other = invert(model, tokens(4), seed=6)
    assert torch.equal(first.vectors, again.vectors)
    assert not torch.equal(first.vectors, other.vectors)
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in before.items())
    assert all(p.grad is None for p in model.parameters())


def test_side_by_side_each_is_inverted_as_alone(model):
    targets = [tokens(4, seed=3), tokens(4, seed=4), tokens(4, seed=3)]
    together = invert_all(model, targets, [0, 1, 2], margin=0.5, max_steps=60)
    alone = [
        invert(model, target, seed, margin=0.5, max_steps=60)
        for target, seed in zip(targets, range(3), strict=True)
    ]
    assert len({each.steps for each in alone}) > 1  # each stops for itself
    for a, b in zip(together, alone, strict=True):
        assert (a.steps, a.reached) == (b.steps, b.reached)
        torch.testing.assert_close(a.vectors, b.vectors, rtol=1e-4, atol=1e-4)
        assert a.losses == pytest.approx(b.losses, rel=1e-4)
        assert torch.equal(a.start, b.start)
        assert [step for step, _ in a.history] == [step for step, _ in b.history]


def test_targets_side_by_side_have_one_length(model):
    with pytest.raises(ValueError, match="of one length"):
        invert_all(model, [tokens(3), tokens(4)], [0, 1])


def test_the_way_leads_from_the_start_to_the_end(model):
    target = tokens(4, seed=3)
    table = model.transformer.wte.weight.detach()
    (found,) = invert_all(model, [target], [0], max_steps=0)
    resting = way_of(model, [found], target)
    assert resting["distance_from_start"] == [0.0] * 4
    arrived = found._replace(vectors=table[target].clone())
    way = way_of(model, [found, arrived], target)
    share = way["share_of_nearest_tokens_that_are_the_target"]
    assert share == (sum(resting["nearest_token_is_the_target"]) + 4) / 8
    to_target = (found.vectors - table[target]).norm(dim=1).tolist()
    assert way["distance_to_target_token"] == pytest.approx(to_target)


def test_giving_up_is_reported(model):
    result = invert(model, tokens(6, seed=3), max_steps=1, record_every=1)
    assert not result.reached
    assert result.steps == 1
    assert [step for step, _ in result.history] == [0, 1]


def test_real_embeddings_are_their_own_nearest_tokens(model):
    ids = tokens(5)
    nearest = nearest_tokens(model, model.transformer.wte(ids).detach(), tokens(20))
    assert torch.equal(nearest.ids, ids)
    torch.testing.assert_close(nearest.distances, torch.zeros(5), atol=1e-2, rtol=0)
    torch.testing.assert_close(nearest.cosines, torch.ones(5))
    assert torch.equal(nearest.predicted, model(ids[None])[0][0].argmax(-1))


def test_the_typical_distance_is_that_of_the_known_tokens(model):
    table = model.transformer.wte.weight.detach()
    known = torch.tensor([50, 3, 3, 17, 50, 3])
    typical = nearest_tokens(model, table[:2], known).typical_distance
    one_by_one = [
        min((table[token] - table[other]).norm().item() for other in range(97) if other != token)
        for token in (3, 17, 50)
    ]
    assert typical == pytest.approx(sorted(one_by_one)[1], rel=1e-4)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (torch.zeros(0, dtype=torch.int64), "0 tokens; inversion takes 1 to 16"),
        (torch.zeros(17, dtype=torch.int64), "17 tokens; inversion takes 1 to 16"),
        (torch.tensor([97]), "token out of range"),
        (torch.tensor([-1]), "token out of range"),
        (torch.tensor([1.5]), "should be whole numbers"),
        (torch.tensor([True]), "should be whole numbers"),
    ],
)
def test_bad_targets_are_refused(model, target, message):
    with pytest.raises(ValueError, match=message):
        invert(model, target)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_steps": -1}, "max_steps should be a whole number of at least 0"),
        ({"max_steps": 1.5}, "max_steps should be"),
        ({"record_every": 0}, "record_every should be a whole number of at least 1"),
        ({"seed": True}, "seed should be"),
        ({"learning_rate": float("nan")}, "learning_rate should be a number"),
        ({"margin": float("nan")}, "margin should be a number"),
        ({"margin": True}, "margin should be a number"),
    ],
)
def test_settings_out_of_range_are_refused(model, settings, message):
    with pytest.raises(ValueError, match=message):
        invert(model, tokens(3), **settings)


def test_a_prompt_gives_the_greedy_continuation_and_the_sentences_score():
    model, encoder = small_model(vocab_size=50257), get_encoder()
    found = prompt_to_repeat(model, encoder, "a walnut", 'Say "{sentence}". "')
    prompt, target = encoder.encode('Say "a walnut". "'), encoder.encode("a walnut")
    assert found.prompt == encoder.decode(prompt[-(16 - len(target)) :])
    greedy = model.generate(torch.tensor([encoder.encode(found.prompt)]), len(target))
    assert found.continuation == encoder.decode(greedy[0, -len(target) :].tolist())
    assert found.repeats_sentence == (found.continuation == "a walnut")
    idx = torch.tensor([encoder.encode(found.prompt) + target])
    log_prob = sequence_log_prob(model, idx, prompt_length=idx.shape[1] - len(target)).item()
    assert found.log_prob_of_sentence_nats == pytest.approx(log_prob)
