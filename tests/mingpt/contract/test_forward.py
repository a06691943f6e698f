"""model(idx, targets): minGPT's logits, loss and gradients, and what it takes."""

import copy

import pytest
import torch
from torch.nn import functional as F

from tests.mingpt.contract import plain
from tests.mingpt.contract.conftest import build


def close(found, expected, tolerance=2e-5):
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("T", [1, 3, plain.BLOCK])
def test_logits_are_mingpts(model, state, T):
    """Embeddings, pre-norm blocks with explicit attention, final norm, head without bias."""
    idx = plain.tokens(2, T)
    logits, loss = model(idx)
    close(logits, plain.logits(state, idx))
    assert loss is None


def test_the_loss_is_the_mean_over_targets_that_are_not_minus_one(model, state, idx, targets):
    """F.cross_entropy over all positions, ignore_index -1."""
    targets[0, :5] = targets[2, 3] = -1
    logits, loss = model(idx, targets)
    close(logits, plain.logits(state, idx))
    close(loss, plain.loss(state, idx, targets))
    assert loss.shape == ()


def test_the_gradients_are_mingpts(model, state, idx, targets):
    """Every parameter's, from loss.backward() of the usual loop."""
    leaves = plain.trainable(state)
    plain.loss(leaves, idx, targets).backward()
    model(idx, targets)[1].backward()
    for name, parameter in model.named_parameters():
        close(parameter.grad, leaves[name].grad)


def test_arguments_have_mingpts_names(model, idx, targets):
    """forward(idx, targets=None)."""
    expected = model(idx, targets)[1]
    assert torch.equal(model(idx=idx, targets=targets)[1], expected)
    assert torch.equal(model.forward(idx, targets)[1], expected)


def test_without_targets_two_values_come_back_too(model, idx):
    """`logits, _ = model(idx)`, `model(idx)[0]`, `len(...) == 2`."""
    assert isinstance(model(idx), tuple)
    assert len(model(idx)) == 2


def test_targets_that_are_all_ignored_give_nan(model, idx, targets):
    """The mean of nothing, as F.cross_entropy has it."""
    assert model(idx, torch.full_like(targets, -1))[1].isnan()


@pytest.mark.parametrize("shape", [(-1,), (plain.BLOCK, 3), (3, plain.BLOCK, 1), (1, 1, -1)])
def test_targets_count_by_their_order_alone(model, idx, targets, shape):
    """minGPT flattens them: any shape with as many elements will do."""
    expected = model(idx, targets)[1]
    assert torch.equal(model(idx, targets.reshape(shape))[1], expected)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.int8, torch.uint8])
def test_targets_may_be_of_any_integer_type(model, idx, targets, dtype):
    """uint8 is what minGPT's cross-entropy takes beside int64; ours takes the others too."""
    close(model(idx, targets.to(dtype))[1], model(idx, targets)[1])


def test_targets_may_be_a_strided_view(model, idx):
    """Blocks cut out of one tensor, or transposed ones."""
    targets = plain.tokens(plain.BLOCK, 3, seed=4).T
    assert torch.equal(model(idx, targets)[1], model(idx, targets.contiguous())[1])


def test_tokens_may_be_int32(model, idx):
    """What nn.Embedding takes."""
    assert torch.equal(model(idx.int())[0], model(idx)[0])


def test_a_sequence_of_no_tokens_has_no_logits(model):
    """T = 0 is a shape like any other."""
    assert model(torch.zeros(2, 0, dtype=torch.long))[0].shape == (2, 0, plain.VOCAB)


def test_a_batch_of_no_sequences_has_no_logits_and_a_loss_of_nan(model):
    """B = 0: the last batch of a filtered loader."""
    empty = torch.zeros(0, 4, dtype=torch.long)
    logits, loss = model(empty, empty)
    assert logits.shape == (0, 4, plain.VOCAB)
    assert loss.isnan()


def test_too_long_a_sequence_is_an_assertion_error_and_a_value_error(model):
    """minGPT asserts t <= block_size, naming both."""
    with pytest.raises(AssertionError, match="9") as caught:
        model(plain.tokens(1, plain.BLOCK + 1))
    assert isinstance(caught.value, ValueError)


def test_block_size_is_read_at_every_call(model, idx):
    """A smaller block_size on the model refuses what it took before."""
    model.block_size = 4
    with pytest.raises(AssertionError):
        model(idx)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_logits_and_loss_are_of_the_models_type(model, idx, targets, dtype):
    """The cross-entropy of the logits as they are, cast nowhere."""
    logits, loss = model.to(dtype)(idx, targets)
    assert logits.dtype == loss.dtype == dtype
    expected = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
    close(loss, expected, 1e-6)


def test_a_double_model_computes_in_double(model, state, idx, targets):
    """Agreement to 1e-12 with the same in double precision."""
    doubled = {name: value.double() for name, value in state.items()}
    close(model.double()(idx, targets)[1], plain.loss(doubled, idx, targets), 1e-12)


def test_under_autocast_the_loss_is_that_of_the_logits(model, idx, targets):
    """minGPT's cross-entropy stands inside the caller's autocast region."""
    with torch.autocast("cpu", torch.bfloat16):
        logits, loss = model(idx, targets)
        expected = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
    assert (logits.dtype, loss.dtype) == (torch.bfloat16, expected.dtype)
    close(loss, expected)


def test_the_loss_depends_on_the_logits_returned(model, idx, targets):
    """retain_grad on the logits: (softmax - one-hot) / count."""
    logits, loss = model(idx, targets)
    logits.retain_grad()
    loss.backward()
    expected = (logits.softmax(-1) - F.one_hot(targets, plain.VOCAB)) / targets.numel()
    close(logits.grad, expected.detach())


def test_logits_returned_beside_a_loss_are_an_ordinary_tensor(model, idx, targets):
    """A loss of one's own on them reaches the parameters, as do copies, slices and lists."""
    logits, _ = model(idx, targets)
    expected = torch.autograd.grad(
        F.cross_entropy(plain_logits(model, idx).flatten(0, 1), targets.flatten()),
        model.lm_head.weight,
    )[0]
    assert torch.is_tensor(logits)
    assert logits.shape == (3, plain.BLOCK, plain.VOCAB)
    assert logits.requires_grad
    own = F.cross_entropy(logits.view(-1, logits.size(-1)), targets.view(-1))
    own.backward()
    close(model.lm_head.weight.grad, expected)
    assert torch.equal(copy.deepcopy(logits.detach()), logits)
    assert logits.detach().numpy().tolist() == logits.tolist()


def plain_logits(model, idx):
    return plain.logits(dict(model.named_parameters()) | dict(model.named_buffers()), idx)


def test_logits_may_be_changed_in_place(model, idx):
    """Masking tokens out: logits[..., forbidden] = -inf, with and without gradients."""
    logits, _ = model(idx)
    logits[..., 0] = float("-inf")
    F.cross_entropy(logits.flatten(0, 1), torch.ones(idx.numel(), dtype=torch.long)).backward()
    assert model.lm_head.weight.grad[0].abs().max() == 0


@pytest.mark.parametrize("rate", ["embd_pdrop", "attn_pdrop", "resid_pdrop"])
def test_dropout_draws_what_mingpts_modules_draw(state, idx, rate):
    """On the CPU, where dropout draws in the order of the elements, one seed is one mask."""
    model = build(plain.settings(**{rate: 0.4}), state).train()
    torch.manual_seed(11)
    found = model(idx)[0]
    torch.manual_seed(11)
    close(found, plain.logits(state, idx, **{rate: 0.4}))


def test_dropout_is_for_training_alone(state, idx):
    """After eval() the rates say nothing: nn.Dropout passes everything on."""
    model = build(plain.settings(embd_pdrop=0.5, attn_pdrop=0.5, resid_pdrop=0.5), state)
    close(model(idx)[0], plain.logits(state, idx))


def test_dropout_modules_have_modes_of_their_own(state, idx):
    """Monte-Carlo dropout: the model in eval mode, its dropout modules in train mode."""
    model = build(plain.settings(attn_pdrop=0.5), state)
    for block in model.transformer.h:
        block.attn.attn_dropout.train()
    torch.manual_seed(2)
    found = model(idx)[0]
    torch.manual_seed(2)
    close(found, plain.logits(state, idx, attn_pdrop=0.5))


def test_the_attentions_dropout_can_be_switched_off_alone(state, idx):
    """The model in train mode, attn_dropout in eval mode."""
    model = build(plain.settings(attn_pdrop=0.5), state).train()
    for block in model.transformer.h:
        block.attn.attn_dropout.eval()
    close(model(idx)[0], plain.logits(state, idx))


def test_one_module_called_alone_computes_what_it_computes_within(model, state):
    """model.transformer.h[0].attn(x), block(x), block.mlpf(x) are functions of x (B, T, C)."""
    x = torch.randn(2, 5, plain.WIDTH, generator=torch.Generator().manual_seed(0))
    block = model.transformer.h[0]
    weights, v = plain.attention_weights(state, 0, x, plain.HEADS)
    mixed = (weights @ v).transpose(1, 2).reshape(x.shape)
    close(block.attn(x), plain.linear(state, "transformer.h.0.attn.c_proj", mixed))
    inner = plain.gelu(plain.linear(state, "transformer.h.0.mlp.c_fc", x))
    close(block.mlpf(x), plain.linear(state, "transformer.h.0.mlp.c_proj", inner))
    close(model.transformer.h[0].mlp.act(x), plain.gelu(x))


def test_nothing_is_printed(model, idx, targets, capsys):
    """On purpose unlike minGPT, which prints the number of parameters and the device."""
    model(idx, targets)
    assert capsys.readouterr().out == ""
