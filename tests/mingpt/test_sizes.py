"""Sizes are those of the modules, also where these were changed after the config."""

import copy

import pytest
import torch

from mingpt import coding, prompting
from mingpt.attention import all_blocks, knockout
from mingpt.data import BlockDataset
from mingpt.predictors import Neighbours
from mingpt.reward import RewardModel
from mingpt.vocabulary import BookVocabulary
from tests.mingpt.helpers import TEXT, extend_vocabulary, small_model, tokens, trainer

IDX = tokens(1, 12)
BYTES = BookVocabulary(torch.arange(256))


def trained(model):
    run = trainer(model=model, dataset=BlockDataset(TEXT, 16, vocab_size=97), max_iters=2)
    run.run()
    return torch.tensor(run.losses)


CALLS = {
    "attention": lambda model: all_blocks(model, IDX)[1],
    "knockout": lambda model: knockout(model, IDX, 1, [4, 5]),
    "training": trained,
    "neighbours": lambda model: Neighbours(model, TEXT[:60], window=12, segment=4).predict(),
    "rewards": lambda model: RewardModel(model, 4).score(IDX),
    "fine-tuning": lambda model: torch.tensor(
        prompting.finetune(model, [([1], [2])], steps=2, batch_size=2).losses
    ),
}


@pytest.mark.parametrize("called", CALLS)
def test_the_config_decides_nothing_once_a_model_is_built(called):
    model, other = small_model(scale=4), small_model(scale=4)
    other.config.merge_from_dict({"n_layer": 1, "n_embd": 6, "vocab_size": 5})
    assert torch.equal(CALLS[called](model), CALLS[called](other))


def test_a_block_that_was_appended_counts():
    model = small_model(scale=4)
    model.transformer.h.append(copy.deepcopy(model.transformer.h[0]))
    assert len(all_blocks(model, IDX)[1]) == 4
    in_all = knockout(model, IDX, 1, [4, 5])
    assert torch.equal(in_all, knockout(model, IDX, 1, [4, 5], range(4)))
    assert not torch.equal(in_all, knockout(model, IDX, 1, [4, 5], range(3)))


def test_an_extended_vocabulary_is_trained_on_and_its_end_is_known():
    data = BlockDataset(TEXT + 5, 10)  # 16 tokens
    model = extend_vocabulary(small_model(vocab_size=10), 20)
    run = trainer(model=model, dataset=data)
    run.run()
    assert run.losses[-1] < run.losses[0]
    with pytest.raises(ValueError, match="vocabulary of 21 tokens, the model knows 20"):
        trainer(model=model, dataset=BlockDataset(TEXT, 10, vocab_size=21))


def test_a_text_is_compressed_with_an_extended_vocabulary():
    model = extend_vocabulary(small_model(vocab_size=250), 256)
    primer = BYTES.encode("Alice was beginning to get very tired of it. ")
    content = coding.compress("Alice", model, "static", BYTES, primer)
    assert coding.decompress(content, model, BYTES, primer) == "Alice"
