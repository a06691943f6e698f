"""Agreement with Hugging Face's GPT-2, an independent implementation."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from mingpt.attention import all_blocks
from mingpt.model import GPT

SHAPE = {"n_layer": 3, "n_head": 4, "n_embd": 32, "vocab_size": 211, "n_positions": 24}


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def pair(request, tmp_path_factory):
    """(theirs, ours) with the same random weights, passed through a local directory."""
    torch.manual_seed(0)
    config = GPT2Config(
        **SHAPE, tie_word_embeddings=request.param, attn_implementation="eager",
        bos_token_id=0, eos_token_id=None, initializer_range=0.2,
    )
    theirs = GPT2LMHeadModel(config).eval()
    folder = tmp_path_factory.mktemp("gpt2")
    theirs.save_pretrained(folder)
    return theirs, GPT.from_pretrained(folder).eval()


@pytest.fixture
def idx():
    return torch.randint(211, (2, 20), generator=torch.Generator().manual_seed(1))


def test_logits_agree(pair, idx):
    theirs, ours = pair
    with torch.no_grad():
        difference = theirs(idx).logits - ours(idx)[0]
    assert difference.abs().max() < 1e-4


def test_greedy_generation_agrees_token_for_token(pair, idx):
    theirs, ours = pair
    prompt = idx[:, :4]
    expected = theirs.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=20, do_sample=False,
        pad_token_id=0,
    )
    assert torch.equal(ours.generate(prompt, 20), expected)


def test_attention_probabilities_agree(pair, idx):
    theirs, ours = pair
    with torch.no_grad():
        expected = torch.stack(theirs(idx, output_attentions=True).attentions)
    _, weights = all_blocks(ours, idx)
    assert (weights - expected).abs().max() < 1e-5


@pytest.mark.parametrize(
    "setting",
    [
        {"activation_function": "relu"},
        {"layer_norm_epsilon": 1e-6},
        {"scale_attn_weights": False},
        {"scale_attn_by_inverse_layer_idx": True},
        {"n_inner": 64},
    ],
)
def test_a_gpt2_that_computes_something_else_is_refused(setting, tmp_path):
    config = GPT2Config(**SHAPE, **setting, bos_token_id=0, eos_token_id=None)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"has {next(iter(setting))} "):
        GPT.from_pretrained(tmp_path)


def test_settings_of_the_same_effect_are_taken(idx, tmp_path):
    config = GPT2Config(
        **SHAPE, n_inner=128, activation_function="gelu_pytorch_tanh", bos_token_id=0,
        eos_token_id=None,
    )
    theirs = GPT2LMHeadModel(config).eval()
    theirs.save_pretrained(tmp_path)
    with torch.no_grad():
        difference = theirs(idx).logits - GPT.from_pretrained(tmp_path).eval()(idx)[0]
    assert difference.abs().max() < 1e-4
