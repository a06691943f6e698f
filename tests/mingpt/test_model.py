import math

import pytest
import torch

from mingpt.model import GPT, MODEL_TYPES
from mingpt.utils import CfgNode
from tests.mingpt.helpers import small_model, tokens


def test_a_later_token_changes_no_earlier_logit():
    model, idx = small_model(scale=4), tokens(2, 16)
    changed = idx.clone()
    changed[:, 9] = (changed[:, 9] + 1) % 97
    before, after = model(idx)[0], model(changed)[0]
    assert torch.equal(before[:, :9], after[:, :9])
    assert not torch.allclose(before[:, 9], after[:, 9])


@pytest.mark.parametrize("tied_head", [False, True])
def test_loss_at_initialisation_is_near_the_uniform_guess(tied_head):
    model = small_model(vocab_size=50257, block_size=64, tied_head=tied_head)
    idx = tokens(4, 65, vocab_size=50257)
    _, loss = model(idx[:, :-1], idx[:, 1:])
    assert loss.item() == pytest.approx(math.log(50257), abs=0.05)


def test_ignored_targets_do_not_count():
    model, idx, targets = small_model(scale=4), tokens(2, 8), tokens(2, 8, seed=1)
    targets[0, 3:] = -1
    logits, loss = model(idx, targets)
    kept = [(0, 0), (0, 1), (0, 2), *((1, t) for t in range(8))]
    by_hand = [-logits[b, t].log_softmax(-1)[targets[b, t]] for b, t in kept]
    assert loss.item() == pytest.approx(torch.stack(by_hand).mean().item(), rel=1e-6)


def test_gradients_reach_every_parameter():
    model, idx = small_model(scale=4).train(), tokens(8, 17)
    _, loss = model(idx[:, :-1], idx[:, 1:], loss_only=True)
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_loss_only_equals_the_plain_loss_and_gradient():
    model, idx = small_model(scale=4), tokens(4, 17)
    x, y = idx[:, :-1], idx[:, 1:].clone()
    y[1, 5:9] = -1
    _, plain = model(x, y)
    expected = torch.autograd.grad(plain, list(model.parameters()))
    logits, fused = model(x, y, loss_only=True)
    assert logits is None
    assert fused.item() == pytest.approx(plain.item(), rel=1e-6)
    found = torch.autograd.grad(fused, list(model.parameters()))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_embeddings_path_equals_the_token_path_bit_for_bit():
    model, idx = small_model(scale=4), tokens(2, 16)
    vectors = model.transformer.wte(idx)
    assert torch.equal(model(idx)[0], model(embeddings=vectors)[0])


def test_capture_leaves_the_forward_pass_as_it_was():
    model, idx = small_model(scale=4), tokens(2, 16)
    plain, _ = model(idx)
    logits, loss, captured = model(idx, capture=[0, 2, -1])
    torch.testing.assert_close(plain, logits, rtol=1e-4, atol=1e-5)
    assert loss is None
    assert set(captured) == {0, 2, -1}
    assert torch.equal(captured[2][1], captured[-1][1])


@pytest.mark.parametrize("batch", [1, 2, 8, 9])
@pytest.mark.parametrize("tied_head", [False, True])
def test_last_only_gives_the_last_row_of_the_logits(batch, tied_head):
    model, idx = small_model(scale=4, tied_head=tied_head), tokens(batch, 12)
    blocked = torch.zeros(12, 12, dtype=torch.bool)
    blocked[11, 3] = True
    for settings in ({}, {"blocked": {2: blocked}}):
        full, _ = model(idx, **settings)
        last, _ = model(idx, last_only=True, **settings)
        assert last.shape == (batch, 1, 97)
        torch.testing.assert_close(last, full[:, -1:], rtol=1e-4, atol=1e-5)


def test_state_dict_keys_are_mingpts():
    keys = set(small_model().state_dict())
    block = {
        f"transformer.h.1.{name}"
        for name in (
            "ln_1.weight", "ln_1.bias", "attn.c_attn.weight", "attn.c_attn.bias",
            "attn.c_proj.weight", "attn.c_proj.bias", "attn.bias", "ln_2.weight", "ln_2.bias",
            "mlp.c_fc.weight", "mlp.c_fc.bias", "mlp.c_proj.weight", "mlp.c_proj.bias",
        )
    }  # fmt: skip
    outer = {
        "transformer.wte.weight", "transformer.wpe.weight", "transformer.ln_f.weight",
        "transformer.ln_f.bias", "lm_head.weight",
    }  # fmt: skip
    assert {k for k in keys if ".h.1." in k} == block
    assert {k for k in keys if ".h." not in k} == outer
    assert small_model().state_dict()["transformer.h.0.attn.c_attn.weight"].shape == (72, 24)


@pytest.mark.parametrize("tied_head", [False, True])
def test_state_dict_round_trip(tied_head):
    model, other = small_model(0, tied_head=tied_head), small_model(1, tied_head=tied_head)
    other.load_state_dict(model.state_dict())
    assert other.config.tied_head == tied_head
    assert torch.equal(model(tokens(1, 8))[0], other(tokens(1, 8))[0])


def test_an_untied_state_dict_loads_into_a_tied_model():
    untied, tied = small_model(0), small_model(1, tied_head=True)
    tied.load_state_dict(untied.state_dict())
    assert not tied.config.tied_head
    assert torch.equal(untied(tokens(1, 8))[0], tied(tokens(1, 8))[0])


def test_initialisation_has_gpt2s_scales():
    model = small_model(vocab_size=5000)
    assert model.transformer.wte.weight.std().item() == pytest.approx(0.02, rel=0.02)
    projection = model.transformer.h[0].mlp.c_proj.weight  # 2304 numbers: 5 % is 3 sigma
    assert projection.std().item() == pytest.approx(0.02 / math.sqrt(6), rel=0.05)
    assert model.transformer.h[0].attn.c_attn.bias.abs().max() == 0


@pytest.mark.parametrize(
    ("name", "millions"),
    [("gpt2", 124.44), ("gpt-mini", 2.71), ("gpt-micro", 0.80), ("gpt-nano", 0.09)],
)
def test_model_types_have_the_published_sizes(name, millions):
    config = GPT.get_default_config()
    config.merge_from_dict({"model_type": name, "vocab_size": 50257, "block_size": 1024})
    config.tied_head = True
    with torch.device("meta"):
        model = GPT(config)
    table = 0 if name == "gpt2" else 50257 * model.config.n_embd
    position = 0 if name == "gpt2" else (1024 - 128) * model.config.n_embd
    assert (model.num_parameters - table - position) / 1e6 == pytest.approx(millions, abs=0.02)


def test_weight_decay_falls_on_linear_weights_alone():
    model = small_model(tied_head=True)
    settings = CfgNode(weight_decay=0.1, learning_rate=1e-3, betas=(0.9, 0.95))
    groups = model.configure_optimizers(settings).param_groups
    decayed = {id(p) for g in groups if g["weight_decay"] > 0 for p in g["params"]}
    for name, parameter in model.named_parameters():
        linear = ".c_" in name and name.endswith("weight")
        assert (id(parameter) in decayed) == linear, name
    assert sum(len(g["params"]) for g in groups) == len(list(model.parameters()))


def test_overfits_one_batch():
    model, idx = small_model().train(), tokens(4, 17)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    settings = CfgNode(weight_decay=0.0, learning_rate=1e-2, betas=(0.9, 0.95))
    optimizer = model.configure_optimizers(settings)
    for _ in range(150):
        optimizer.zero_grad()
        _, loss = model(idx[:, :-1], idx[:, 1:], loss_only=True)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1


def test_default_config_is_mingpts():
    defaults = GPT.get_default_config().to_dict()
    assert defaults["model_type"] == "gpt"
    assert defaults["embd_pdrop"] == defaults["resid_pdrop"] == defaults["attn_pdrop"] == 0.1
    assert set(MODEL_TYPES) == {
        "openai-gpt", "gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "gopher-44m", "gpt-mini",
        "gpt-micro", "gpt-nano",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt-huge"}, "unknown model type 'gpt-huge'"),
        ({"n_layer": None}, "n_layer should be a whole number of at least 1"),
        ({"n_embd": 25}, "not a multiple of n_head"),
        ({"vocab_size": 0}, "vocab_size should be"),
        ({"block_size": None}, "block_size should be"),
        ({"n_layer": True}, "n_layer should be a whole number of at least 1"),
        ({"attn_pdrop": 1.5}, "attn_pdrop should be a number of at least 0 and at most 1"),
        ({"embd_pdrop": -0.1}, "embd_pdrop should be"),
        ({"embd_pdrop": float("nan")}, "embd_pdrop should be"),
        ({"embd_init_std": -1.0}, "embd_init_std should be"),
    ],
)
def test_impossible_configurations_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        small_model(**change)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m(tokens(1, 17)), "17 positions given; this model takes up to 16"),
        (lambda m: m(torch.tensor([[3, 97]])), "token out of range: got 3 to 97"),
        (lambda m: m(torch.tensor([[-1, 3]])), "token out of range"),
        (lambda m: m(torch.tensor([3, 5])), "shape"),
        (lambda m: m(tokens(1, 3), loss_only=True), "loss_only needs targets"),
        (lambda m: m(tokens(1, 2), torch.tensor([[3, 97]])), "target out of range: got 3 to 97"),
        (lambda m: m(tokens(1, 2), torch.tensor([[3, -2]]), loss_only=True), "target out of range"),
        (lambda m: m(tokens(1, 2), torch.tensor([[3.0, 2.0]])), "targets should be 2 whole"),
        (lambda m: m(tokens(2, 3), tokens(2, 2)), r"each token \(2, 3\), not .* \(2, 2\)"),
        (lambda m: m(), "either token indices or embeddings"),
        (lambda m: m(embeddings=torch.zeros(1, 4, 7)), "embeddings should be of shape"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(small_model())
