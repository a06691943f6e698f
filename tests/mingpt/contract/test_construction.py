"""Building and initialising a model: what minGPT draws, in which order, and what it builds from."""

import argparse
import copy
import dataclasses
import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import mingpt.model
from mingpt.model import GPT, Block, CausalSelfAttention, NewGELU
from mingpt.utils import CfgNode, set_seed
from tests.mingpt.contract import plain


def node(**changes):
    return CfgNode(**vars(plain.settings(**changes)))


def assert_equal_states(found, expected):
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize("layers", [1, 3])
def test_a_seed_gives_mingpts_initial_weights(layers):
    """minGPT builds, draws N(0, 0.02^2) module by module, then the residual projections again."""
    set_seed(1337)
    expected = plain.initial_state(plain.settings(n_layer=layers))
    set_seed(1337)
    assert_equal_states(GPT(node(n_layer=layers)).state_dict(), expected)


def test_the_generator_is_left_where_mingpt_leaves_it():
    """What a script draws after building a minGPT model depends on all draws before."""
    set_seed(3)
    plain.initial_state(plain.settings())
    expected = torch.rand(5)
    set_seed(3)
    GPT(node())
    assert torch.equal(torch.rand(5), expected)


def test_a_models_type_gives_the_weights_of_its_sizes():
    """gpt-nano is 3 layers, 3 heads, width 48."""
    sizes = {"n_layer": 3, "n_head": 3, "n_embd": 48}
    set_seed(0)
    expected = plain.initial_state(plain.settings(**sizes))
    set_seed(0)
    config = GPT.get_default_config()
    config.model_type, config.vocab_size, config.block_size = "gpt-nano", plain.VOCAB, plain.BLOCK
    assert_equal_states(GPT(config).state_dict(), expected)


def test_a_generator_of_ones_own_gives_the_same_weights_and_leaves_the_global_one():
    """minGPT knows the global generator alone; our argument draws what that would draw."""
    set_seed(7)
    expected = GPT(node()).state_dict()
    set_seed(99)
    before = torch.get_rng_state()
    built = GPT(node(), generator=torch.Generator().manual_seed(7))
    assert torch.equal(torch.get_rng_state(), before)
    assert_equal_states(built.state_dict(), expected)


@pytest.mark.parametrize("ours", [{"embd_init_std": 0.5}, {"tied_head": True}])
def test_our_settings_leave_the_other_weights_as_mingpt_draws_them(ours):
    """minGPT has neither setting: all but the two matrices they concern are its own."""
    set_seed(5)
    expected = plain.initial_state(plain.settings())
    set_seed(5)
    found = GPT(node(**ours)).state_dict()
    for name in expected.keys() - {"transformer.wte.weight", "lm_head.weight"}:
        assert torch.equal(found[name], expected[name]), name


def test_all_modules_initialised_again_by_apply():
    """`model.apply(model._init_weights)` draws every weight with 0.02, projections included."""
    model = GPT(node(n_embd=64, vocab_size=400))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(9.0)
    set_seed(0)
    model.apply(model._init_weights)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert (parameter == 0).all(), name
        elif ".ln_" in name:
            assert (parameter == 1).all(), name
        else:  # 6 standard errors of a standard deviation of normal draws
            bound = 6 * 0.02 / math.sqrt(2 * parameter.numel())
            assert abs(parameter.std().item() - 0.02) < bound, name


@pytest.mark.parametrize(
    "module", [nn.Linear(8, 8), nn.Linear(8, 8, bias=False), nn.Embedding(8, 8), nn.LayerNorm(8)]
)
def test_init_weights_takes_any_single_module_at_any_time(module):
    """_init_weights is a plain method: course code calls it on modules it adds later."""
    GPT(node())._init_weights(module)
    assert module.weight.abs().max() <= 1


def test_a_subclass_may_add_modules_and_initialise_all_again():
    """A subclass's __init__ calls super, adds a head and applies _init_weights once more."""

    class WithValue(GPT):
        def __init__(self, config):
            super().__init__(config)
            self.value = nn.Linear(config.n_embd, 1)
            self.apply(self._init_weights)

    model = WithValue(node())
    assert (model.value.bias == 0).all()
    assert model.value.weight.abs().max() < 0.2


def test_an_overridden_init_weights_is_called_for_every_module_and_projections_come_after():
    """minGPT calls the method for each module, then draws the weights called c_proj itself."""
    seen = []

    class Constant(GPT):
        def _init_weights(self, module):
            seen.append(type(module))
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.constant_(module.weight, 0.5)

    model = Constant(node())
    assert seen == [type(module) for module in _children_first(model)]
    assert seen[-1] is Constant
    for name, parameter in model.named_parameters():
        if name.endswith("c_proj.weight"):
            assert 0 < parameter.abs().max() < 0.1, name
        elif name.endswith("weight") and ".ln_" not in name:
            assert (parameter == 0.5).all(), name


def _children_first(module):
    for child in module.children():
        yield from _children_first(child)
    yield module


MODULE_FIELDS = {
    "n_embd": plain.WIDTH, "n_head": plain.HEADS, "block_size": plain.BLOCK,
    "attn_pdrop": 0.0, "resid_pdrop": 0.0,
}  # fmt: skip


@pytest.mark.parametrize("cls", [CausalSelfAttention, Block])
def test_submodules_build_from_the_fields_that_mingpts_read(cls):
    """CausalSelfAttention and Block read n_embd, n_head, block_size and two rates; no n_layer."""
    module = cls(SimpleNamespace(**MODULE_FIELDS))
    x = torch.randn(2, 5, plain.WIDTH)
    assert module(x).shape == x.shape


def test_a_bare_attention_has_pytorchs_initial_weights():
    """Outside a GPT the layers keep nn.Linear's draws; only GPT initialises."""
    set_seed(2)
    layers = [nn.Linear(plain.WIDTH, 3 * plain.WIDTH), nn.Linear(plain.WIDTH, plain.WIDTH)]
    set_seed(2)
    built = CausalSelfAttention(SimpleNamespace(**MODULE_FIELDS))
    assert torch.equal(built.c_attn.weight, layers[0].weight)
    assert torch.equal(built.c_proj.bias, layers[1].bias)


def test_mingpts_attributes_of_the_attention():
    """n_head, n_embd, c_attn, c_proj, attn_dropout, resid_dropout and the mask called bias."""
    module = CausalSelfAttention(SimpleNamespace(**{**MODULE_FIELDS, "attn_pdrop": 0.25}))
    assert (module.n_head, module.n_embd) == (plain.HEADS, plain.WIDTH)
    assert (module.attn_dropout.p, module.resid_dropout.p) == (0.25, 0.0)
    assert torch.equal(module.bias, torch.ones(plain.BLOCK, plain.BLOCK).tril()[None, None])
    assert module.bias.dtype == torch.float32


@pytest.mark.parametrize("cls", [CausalSelfAttention, Block])
def test_heads_that_do_not_divide_the_width_are_an_assertion_error(cls):
    """`assert config.n_embd % config.n_head == 0` stands in the attention's constructor."""
    with pytest.raises(AssertionError):
        cls(SimpleNamespace(**{**MODULE_FIELDS, "n_head": 3}))


def test_the_modules_have_mingpts_names_and_types():
    """wte, wpe, drop, h, ln_f in transformer; ln_1, attn, ln_2, mlp in a block."""
    model = GPT(node())
    assert list(dict(model.named_children())) == ["transformer", "lm_head"]
    assert list(model.transformer) == ["wte", "wpe", "drop", "h", "ln_f"]
    block = model.transformer.h[0]
    assert list(dict(block.named_children())) == ["ln_1", "attn", "ln_2", "mlp"]
    assert list(block.mlp) == ["c_fc", "c_proj", "act", "dropout"]
    assert type(block) is Block
    assert type(block.attn) is CausalSelfAttention
    assert type(block.mlp.act) is NewGELU
    assert callable(block.mlpf)
    assert model.block_size == plain.BLOCK


@dataclasses.dataclass
class Settings:
    vocab_size: int = plain.VOCAB
    block_size: int = plain.BLOCK
    model_type: str | None = None
    n_layer: int = 1
    n_head: int = 2
    n_embd: int = 16
    embd_pdrop: float = 0.1
    resid_pdrop: float = 0.1
    attn_pdrop: float = 0.1


@pytest.mark.parametrize(
    "config",
    [plain.settings(), argparse.Namespace(**vars(plain.settings())), Settings(), node()],
    ids=lambda config: type(config).__name__,
)
def test_any_object_with_the_attributes_is_a_configuration(config):
    """minGPT's constructor reads attributes; merge_from_dict is used for a model_type alone."""
    model = GPT(config)
    assert model(plain.tokens(2, 3))[0].shape == (2, 3, plain.VOCAB)


def test_a_configuration_that_computes_its_fields():
    """Properties and class attributes count as fields."""

    class Fields:
        model_type, vocab_size, block_size = None, plain.VOCAB, plain.BLOCK
        n_layer, n_head, embd_pdrop, resid_pdrop, attn_pdrop = 1, 2, 0.0, 0.0, 0.0

        @property
        def n_embd(self):
            return 8 * self.n_head

    assert GPT(Fields()).lm_head.in_features == 16


def test_a_frozen_configuration_may_name_a_model_type():
    """Ours alone: minGPT writes the sizes into the configuration, which this one does not allow."""
    @dataclasses.dataclass(frozen=True)
    class Frozen:
        model_type: str = "gpt-nano"
        vocab_size: int = plain.VOCAB
        block_size: int = plain.BLOCK
        embd_pdrop: float = 0.0
        resid_pdrop: float = 0.0
        attn_pdrop: float = 0.0

    assert GPT(Frozen()).lm_head.in_features == 48


def test_the_configuration_given_is_handed_to_the_modules_with_fields_of_its_own():
    """Own attention classes read own settings from the config that GPT was given."""
    seen = []

    class Own(CausalSelfAttention):
        def __init__(self, config):
            super().__init__(config)
            seen.append(config.window)

    theirs = mingpt.model.CausalSelfAttention
    mingpt.model.CausalSelfAttention = Own
    try:
        model = GPT(node(window=5))
    finally:
        mingpt.model.CausalSelfAttention = theirs
    assert seen == [5] * plain.LAYERS
    assert all(type(block.attn) is Own for block in model.transformer.h)


@pytest.mark.parametrize("name", ["Block", "NewGELU"])
def test_classes_of_ones_own_assigned_in_the_module_are_built(name, monkeypatch):
    """GPT and Block look their parts up by name when they are built."""
    theirs = getattr(mingpt.model, name)
    own = type(f"Own{name}", (theirs,), {})
    monkeypatch.setattr(mingpt.model, name, own)
    model = GPT(node())
    assert sum(type(module) is own for module in model.modules()) == plain.LAYERS


@pytest.mark.parametrize("own", [None, {"learning_rate": 1}, "a string", SimpleNamespace(a=1)])
def test_config_is_a_name_that_subclasses_may_use(own, targets, idx):
    """minGPT keeps no `config`; a subclass may store anything under that name."""

    class Own(GPT):
        def __init__(self, config):
            super().__init__(config)
            self.config = own

    set_seed(0)
    model = Own(node())
    _, loss = model(idx, targets)
    loss.backward()
    model.generate(idx, 2)
    model.load_state_dict(copy.deepcopy(model.state_dict()))
    model.configure_optimizers(SimpleNamespace(learning_rate=1e-3, betas=(0.9, 0.95),
                                               weight_decay=0.1)).step()
    assert model.config is own


def test_a_model_type_fills_the_config_given():
    """The sizes of the type are written into the caller's config."""
    config = GPT.get_default_config()
    config.model_type, config.vocab_size, config.block_size = "gpt-nano", 5, 6
    GPT(config)
    assert (config.n_layer, config.n_head, config.n_embd) == (3, 3, 48)


@pytest.mark.parametrize(
    "changes",
    [
        {"vocab_size": None}, {"block_size": None}, {"n_layer": None},
        {"model_type": "gpt-nano"},
    ],
    ids=str,
)  # fmt: skip
def test_impossible_configurations_are_assertion_errors_and_value_errors(changes):
    """minGPT asserts a vocabulary, a block size, and a type or sizes that do not contradict it."""
    with pytest.raises(AssertionError) as caught:
        GPT(node(**changes))
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("rate", ["embd_pdrop", "resid_pdrop", "attn_pdrop"])
def test_a_dropout_of_one_is_a_dropout(rate, idx, targets):
    """nn.Dropout takes 1.0: everything is dropped, and nothing is NaN."""
    model = GPT(node(**{rate: 1.0})).train()
    loss = model(idx, targets)[1]
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_sizes_may_be_tensors_without_dimensions():
    """A 0-d tensor is a number wherever Python asks for one."""
    model = GPT(node(n_layer=torch.tensor(1), attn_pdrop=torch.tensor(0.0)))
    assert len(model.transformer.h) == 1


def test_a_model_can_be_built_on_the_meta_device():
    """Shapes without memory: what tools that count parameters do."""
    with torch.device("meta"):
        model = GPT(node())
        assert model(torch.zeros(2, 4, dtype=torch.long))[0].shape == (2, 4, plain.VOCAB)
