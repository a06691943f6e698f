"""State dicts and files: minGPT's keys, and minGPT's files."""

import copy

import pytest
import torch

import mingpt
from mingpt.model import GPT
from mingpt.utils import CfgNode
from tests.mingpt.contract import plain
from tests.mingpt.contract.conftest import build


def node(**changes):
    return CfgNode(**vars(plain.settings(**changes)))


def test_the_keys_are_mingpts_in_their_order(model, config):
    """The mask is saved with the weights, as attn.bias."""
    assert list(model.state_dict()) == plain.keys(config)


def test_the_shapes_are_mingpts(model, state):
    """nn.Linear's (out, in); the mask (1, 1, block, block)."""
    for name, value in model.state_dict().items():
        assert (value.shape, value.dtype) == (state[name].shape, state[name].dtype), name


def test_a_state_dict_loads_strictly(config, state, idx):
    """All keys match, and the logits are those of the weights."""
    model = build(config, plain.varied_state(config, seed=4))
    result = model.load_state_dict(state)
    assert result.missing_keys == result.unexpected_keys == []
    torch.testing.assert_close(model(idx)[0], plain.logits(state, idx), rtol=2e-5, atol=2e-5)


def test_a_state_dict_without_masks_is_refused_strictly_and_loads_otherwise(model, state, idx):
    """As PyTorch does for a buffer that is missing; the mask then stays causal."""
    without = {name: v for name, v in state.items() if not name.endswith(".attn.bias")}
    with pytest.raises(RuntimeError, match=r"attn\.bias"):
        model.load_state_dict(without)
    result = model.load_state_dict(without, strict=False)
    assert len(result.missing_keys) == plain.LAYERS
    torch.testing.assert_close(model(idx)[0], plain.logits(state, idx), rtol=2e-5, atol=2e-5)


def test_parts_of_a_state_dict_load_with_strict_false(model, state):
    """Fine-tuning from part of a checkpoint."""
    head = {"lm_head.weight": torch.ones(plain.VOCAB, plain.WIDTH)}
    model.load_state_dict(head, strict=False)
    assert (model.lm_head.weight == 1).all()
    assert torch.equal(model.transformer.wte.weight, state["transformer.wte.weight"])


def test_a_saved_state_dict_comes_back_to_the_bit(model, config, tmp_path):
    """torch.save(model.state_dict()), torch.load, load_state_dict."""
    torch.save(model.state_dict(), tmp_path / "model.pt")
    other = GPT(config)
    other.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    for name, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name


def test_parameters_and_buffers_have_mingpts_names(model, state):
    """Masks are buffers, everything else is a parameter."""
    buffers = [name for name in state if name.endswith(".attn.bias")]
    assert [name for name, _ in model.named_buffers()] == buffers
    assert {name for name, _ in model.named_parameters()} == state.keys() - set(buffers)


def test_assigned_tensors_are_the_parameters(model, state, idx):
    """load_state_dict(assign=True)."""
    other = plain.varied_state(plain.settings(), seed=2)
    model(idx)
    model.load_state_dict(other, assign=True)
    torch.testing.assert_close(model(idx)[0], plain.logits(other, idx), rtol=2e-5, atol=2e-5)
    assert torch.equal(model.generate(idx[:, :2], 9), plain.generate(other, idx[:, :2], 9))


def test_a_raw_state_dict_file_loads_given_a_configuration(config, state, idx, tmp_path):
    """mingpt.load(path, config=config) of what minGPT's scripts save: eval mode, its logits."""
    torch.save(state, tmp_path / "model.pt")
    model = mingpt.load(tmp_path / "model.pt", config=config)
    assert not model.training
    torch.testing.assert_close(model(idx)[0], plain.logits(state, idx), rtol=2e-5, atol=2e-5)


def test_a_raw_file_that_does_not_fit_is_one_clear_error(state, tmp_path):
    """load_state_dict of minGPT lists keys and shapes; without a configuration no file is raw."""
    torch.save(state, tmp_path / "model.pt")
    with pytest.raises(mingpt.CheckpointError, match="fit"):
        mingpt.load(tmp_path / "model.pt", config=plain.settings(n_layer=5))
    with pytest.raises(mingpt.CheckpointError):
        mingpt.load(tmp_path / "model.pt")


@pytest.mark.parametrize("kind", ["plain", "tied by hand", "bidirectional", "assigned", "untied"])
def test_a_file_of_ours_gives_back_the_model_that_wrote_it(state, idx, tmp_path, kind):
    """mingpt.save and mingpt.load, whatever was done to the weights in between."""
    tied = kind in ("assigned", "untied")
    torch.manual_seed(0)
    model = GPT(node(tied_head=tied)).eval()
    if kind == "plain":
        model.load_state_dict(state)
    elif kind == "tied by hand":
        model.load_state_dict(state)
        model.lm_head.weight = model.transformer.wte.weight
    elif kind == "bidirectional":
        model.load_state_dict(state)
        for block in model.transformer.h:
            block.attn.bias.fill_(1)
    elif kind == "assigned":
        own = copy.deepcopy(state)
        own["lm_head.weight"] = own["transformer.wte.weight"].clone()
        model.load_state_dict(own, assign=True)
        with torch.no_grad():
            model.lm_head.weight.add_(1.0)
    else:
        model.load_state_dict(state)
    expected = model(idx)[0]
    mingpt.save(model, tmp_path / "model.pt")
    torch.testing.assert_close(mingpt.load(tmp_path / "model.pt")(idx)[0], expected)


def test_an_untied_state_dict_loads_into_a_tied_model(state, idx):
    """minGPT's checkpoints are untied: ours unties where the two matrices differ."""
    model = GPT(node(tied_head=True)).eval()
    model.load_state_dict(state)
    torch.testing.assert_close(model(idx)[0], plain.logits(state, idx), rtol=2e-5, atol=2e-5)


def test_a_subclass_with_more_parameters_saves_and_loads_them(config, state):
    """Keys of added modules stand beside minGPT's."""

    class WithValue(GPT):
        def __init__(self, config):
            super().__init__(config)
            self.value = torch.nn.Linear(config.n_embd, 1)

    first, second = WithValue(config), WithValue(config)
    assert set(first.state_dict()) == state.keys() | {"value.weight", "value.bias"}
    second.load_state_dict(first.state_dict())
    assert torch.equal(second.value.weight, first.value.weight)
