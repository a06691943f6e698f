"""A recipe decides the weights, and says what it was."""

import pytest
import torch

from mingpt.bpe import get_encoder
from mingpt.data import load_book
from mingpt.recipe import PRESETS, describe, recipe_for
from mingpt.vocabulary import BookVocabulary

TOKENS = load_book().train[:2000]
VOCABULARY = BookVocabulary.of(TOKENS)
SMALL = {"model_type": "gpt-nano", "max_iters": 2, "batch_size": 2}


def small_trainer(**given):
    recipe = recipe_for("cpu", **{**SMALL, "objective": "cross-entropy", **given})
    tokens = torch.tensor(VOCABULARY.from_gpt2(TOKENS.tolist()))
    evaluate = lambda model: model.lm_head.weight.sum().item()  # noqa: E731
    trainer = recipe.trainer(tokens, VOCABULARY, evaluate, device="cpu", precision="float32")
    return recipe, trainer


def test_given_fields_replace_the_preset():
    recipe = recipe_for("cpu", model_type="gpt-mini", objective="discounted", dropout=0.2)
    assert (recipe.dropout, recipe.learning_rate) == (0.2, PRESETS["cpu"]["learning_rate"])
    config = recipe.model_config(300)
    assert {config.embd_pdrop, config.resid_pdrop, config.attn_pdrop} == {0.2}
    assert (config.vocab_size, config.block_size, config.tied_head) == (300, 64, True)
    settings = recipe.trainer_settings(device="cpu")
    assert (settings.warmup_iters, settings.eval_interval) == (20, 50)
    with pytest.raises(TypeError):
        recipe_for("cpu", model_type="gpt-mini", objective="discounted", colour="red")


def test_the_seed_decides_the_weights():
    weights = []
    for seed in (1, 1, 2):
        _, trainer = small_trainer(seed=seed)
        trainer.run()
        weights.append(trainer.model.lm_head.weight.detach())
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_the_record_holds_what_was_used_and_is_described_in_one_line():
    recipe, trainer = small_trainer(learning_rate=0.01)
    record = recipe.record(trainer)
    assert (record["learning_rate"], record["betas"]) == (0.01, (0.9, 0.95))
    assert (record["objective"], record["discount"]) == ("cross-entropy", None)
    line = describe(record)
    assert line.startswith("cross-entropy; AdamW, rate 0.01, 2 iterations of 2 blocks")
    assert "\n" not in line


def test_only_the_discounted_objective_has_a_discount():
    recipe = recipe_for("cpu", **SMALL, objective="discounted")
    assert 0 < recipe.discount(TOKENS, get_encoder()).discount < 1
    assert recipe_for("cpu", **SMALL, objective="cross-entropy").discount(TOKENS, None) is None


@pytest.mark.parametrize(
    ("max_iters", "share", "decay"),
    [(300, 1 / 3, 0.99), (300, 1 / 6, 0.98), (30, 1 / 3, 0.9), (1, 1 / 3, 0.0), (300, None, None)],
)
def test_the_average_spans_a_share_of_the_iterations(max_iters, share, decay):
    given = {**SMALL, "max_iters": max_iters, "averaged_share": share}
    recipe = recipe_for("cpu", **given, objective="cross-entropy")
    settings = recipe.trainer_settings(device="cpu")
    assert settings.ema_decay == (None if decay is None else pytest.approx(decay))
    record = {**small_trainer()[0].record(small_trainer()[1]), "ema_decay": settings.ema_decay}
    assert ("not averaged" if decay is None else f"averaged by {decay:g}") in describe(record)
