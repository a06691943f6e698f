"""Only GPT(config) moves the global random state, as minGPT does; nothing built here needs it."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from mingpt import task_model
from mingpt.bpe import get_encoder
from mingpt.early_exit import JointlyTrained
from mingpt.model import GPT
from mingpt.recipe import recipe_for
from mingpt.vocabulary import BookVocabulary, restricted
from tests.mingpt.helpers import TEXT, small_model, trainer


def recipe():
    plan = recipe_for("cpu", model_type="gpt-nano", objective="cross-entropy", max_iters=2)
    return plan.trainer(TEXT, BookVocabulary.of(TEXT), None, device="cpu", precision="float32")


def pretrained(folder):
    """A folder with a GPT-2 of Hugging Face's."""
    with torch.random.fork_rng(devices=[]):
        config = GPT2Config(n_layer=2, n_head=2, n_embd=16, vocab_size=13, n_positions=8,
                            bos_token_id=0, eos_token_id=0)  # fmt: skip
        GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


BUILDERS = {
    "a generator": lambda: GPT(small_model().config, generator=torch.Generator()),
    "the recipe": recipe,
    "the tasks' model": lambda: task_model.build("nano"),
    "the plain model of one with exits": lambda: JointlyTrained(
        small_model().config, generator=torch.Generator()
    ).plain(),
    "fewer tokens": lambda: restricted(
        small_model(vocab_size=get_encoder().vocab_size), BookVocabulary.of(TEXT)
    ),
    "a training with a seed": lambda: trainer(max_iters=2).run(),
}


def test_reading_weights_moves_nothing_unless_a_subclass_has_others(tmp_path):
    class Valued(GPT):
        def __init__(self, config):
            super().__init__(config)
            self.value = torch.nn.Linear(config.n_embd, 1)

    folder, before = pretrained(tmp_path), torch.get_rng_state()
    GPT.from_pretrained(folder)
    assert torch.equal(torch.get_rng_state(), before)
    with torch.random.fork_rng(devices=[]):
        first, second = (Valued.from_pretrained(folder).value.weight for _ in range(2))
        torch.set_rng_state(before)
        again = Valued.from_pretrained(folder).value.weight
    assert torch.equal(first, again)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("built", BUILDERS)
def test_the_global_random_state_stays(built):
    before = torch.get_rng_state()
    BUILDERS[built]()
    assert torch.equal(torch.get_rng_state(), before)


def test_a_model_without_a_generator_is_drawn_from_the_global_one():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        first, after = GPT(small_model().config), torch.get_rng_state()
        generator = torch.Generator().manual_seed(3)
        second = GPT(small_model().config, generator=generator)
    assert torch.equal(first.lm_head.weight, second.lm_head.weight)
    assert torch.equal(after, generator.get_state())
