"""GPT.from_pretrained, with Hugging Face's loader replaced by a tiny random model."""

import pytest
import torch
import transformers
from torch import nn

from mingpt.model import GPT

SIZES = {"n_layer": 2, "n_head": 2, "n_embd": 16, "vocab_size": 13, "n_positions": 8}


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def theirs(request, monkeypatch):
    """A GPT-2 of theirs that GPT2LMHeadModel.from_pretrained returns for any name."""
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        **SIZES, tie_word_embeddings=request.param, initializer_range=0.3, bos_token_id=0,
        eos_token_id=0,
    )  # fmt: skip
    model = transformers.GPT2LMHeadModel(config).eval()
    monkeypatch.setattr(
        transformers.GPT2LMHeadModel, "from_pretrained", lambda name, *args, **kwargs: model
    )
    return model


def test_the_logits_are_theirs(theirs):
    """Conv1D's matrices are transposed, everything else is copied."""
    idx = torch.randint(13, (2, 8), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours = GPT.from_pretrained("gpt2").eval()(idx)[0]
        torch.testing.assert_close(ours, theirs(idx).logits, rtol=1e-4, atol=1e-4)


def test_the_model_is_in_training_mode(theirs):
    """As minGPT returns it: a caller who wants no dropout says eval()."""
    assert GPT.from_pretrained("gpt2").training


def test_the_head_is_tied_as_the_checkpoint_has_it(theirs):
    """minGPT unties always; ours keeps one tensor where theirs is one, and the config says so."""
    model = GPT.from_pretrained("gpt2")
    shared = theirs.lm_head.weight is theirs.transformer.wte.weight
    assert (model.lm_head.weight is model.transformer.wte.weight) == shared


def test_the_weights_are_a_copy(theirs):
    """Training ours leaves theirs as it was."""
    before = theirs.transformer.wte.weight.detach().clone()
    model = GPT.from_pretrained("gpt2")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    assert torch.equal(theirs.transformer.wte.weight, before)


def test_nothing_but_a_gpt_is_returned(theirs):
    """Parameters of nn modules under minGPT's names, masks causal."""
    model = GPT.from_pretrained("gpt2-medium")
    assert isinstance(model, GPT)
    assert isinstance(model.transformer.h[0].attn.c_attn, nn.Linear)
    assert torch.equal(model.transformer.h[0].attn.bias[0, 0], torch.ones(8, 8).tril())


def test_a_wrong_name_is_an_assertion_error_and_a_value_error(monkeypatch):
    """minGPT asserts that the name is one of four."""

    def unknown(name, *args, **kwargs):
        raise OSError(f"{name} is not a valid model identifier\nlisted on their site")

    monkeypatch.setattr(transformers.GPT2LMHeadModel, "from_pretrained", unknown)
    reason = "from 'gpt5': gpt5 is not a valid model identifier$"
    with pytest.raises(AssertionError, match=reason) as caught:
        GPT.from_pretrained("gpt5")
    assert isinstance(caught.value, ValueError)


def test_a_folder_without_a_model_is_the_same_error(tmp_path):
    """Ours alone: from_pretrained takes folders too."""
    with pytest.raises(AssertionError, match="no GPT-2 could be read from"):
        GPT.from_pretrained(tmp_path)
