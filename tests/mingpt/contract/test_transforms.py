"""Transforms of PyTorch over a model: torch.func, tracing, export, derivatives of derivatives."""

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacrev, jvp, stack_module_state, vmap
from torch.fx.experimental.proxy_tensor import make_fx

from tests.mingpt.contract import plain
from tests.mingpt.contract.conftest import build


def close(found, expected, tolerance=2e-5):
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def parameters(model):
    return {name: p.detach() for name, p in model.named_parameters()}


def loss_of(model):
    """A function of the parameters, one sequence and its targets."""

    def loss(params, x, y):
        return functional_call(model, params, (x[None], y[None]))[1]

    return loss


def test_gradients_a_sample_by_vmap(model, state, idx, targets):
    """vmap(grad(functional_call)): each sequence's own gradient."""
    found = vmap(grad(loss_of(model)), in_dims=(None, 0, 0))(parameters(model), idx, targets)
    for sample in range(len(idx)):
        leaves = plain.trainable(state)
        plain.loss(leaves, idx[sample, None], targets[sample, None]).backward()
        for name, value in found.items():
            close(value[sample], leaves[name].grad)


def test_an_ensemble_by_vmap_over_weights(config, idx):
    """vmap over stacked parameters: several models in one pass."""
    states = [plain.varied_state(config, seed) for seed in (0, 1)]
    models = [build(config, state) for state in states]
    params, buffers = stack_module_state(models)
    base = models[0]
    logits = vmap(lambda p, b: functional_call(base, (p, b), (idx,))[0])(params, buffers)
    for found, state in zip(logits, states, strict=True):
        close(found.detach(), plain.logits(state, idx))


def test_functional_call_with_other_weights_and_masks(model, state, idx):
    """What is given is used, and the model is as it was afterwards."""
    other = plain.varied_state(plain.settings(), seed=3)
    for name in other:
        if name.endswith(".attn.bias"):
            other[name] = torch.ones_like(other[name])
    close(functional_call(model, other, (idx,))[0], plain.logits(other, idx))
    close(model(idx)[0], plain.logits(state, idx))


def test_directional_derivatives_forward(model, idx, targets):
    """jvp along a direction in weight space equals the gradient times the direction."""
    params = parameters(model)
    direction = {
        name: torch.randn(value.shape, generator=torch.Generator().manual_seed(i))
        for i, (name, value) in enumerate(params.items())
    }

    def loss(p):
        return functional_call(model, p, (idx, targets))[1]

    _, found = jvp(loss, (params,), (direction,))
    gradient = grad(loss)(params)
    close(found, sum((gradient[name] * direction[name]).sum() for name in params), 1e-4)


def test_jacobians_of_logits(model, state, idx):
    """jacrev with respect to the last norm's bias is the head's matrix, at every position."""
    params, name = parameters(model), "transformer.ln_f.bias"
    found = jacrev(
        lambda bias: functional_call(model, {**params, name: bias}, (idx,))[0]
    )(params[name])
    close(found, state["lm_head.weight"].expand(3, plain.BLOCK, -1, -1))


def test_hessians_of_the_loss(model, state, idx, targets):
    """forward over reverse, held to the plain computation in the same transform."""
    params, name = parameters(model), "transformer.h.0.ln_1.bias"
    found = hessian(
        lambda bias: functional_call(model, {**params, name: bias}, (idx, targets))[1]
    )(params[name])
    expected = hessian(lambda bias: plain.loss({**state, name: bias}, idx, targets))(params[name])
    close(found, expected, 1e-4)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_second_derivatives_by_create_graph(model, state, idx, targets, mode):
    """Gradient penalties: the gradient of the gradient's squared norm, every parameter's."""
    getattr(model, mode)()
    found = gradient_of_squared_gradient(
        model(idx, targets)[1], dict(model.named_parameters())
    )
    leaves = plain.trainable(state)
    expected = gradient_of_squared_gradient(
        plain.loss(leaves, idx, targets),
        {name: leaves[name] for name, _ in model.named_parameters()},
    )
    for name, value in expected.items():
        close(found[name], value, 1e-3)


def gradient_of_squared_gradient(loss, named):
    first = torch.autograd.grad(loss, list(named.values()), create_graph=True)
    norm = sum(g.square().sum() for g in first)
    second = torch.autograd.grad(norm, list(named.values()), allow_unused=True)
    return {
        name: torch.zeros_like(p) if g is None else g
        for (name, p), g in zip(named.items(), second, strict=True)
    }


def test_hessian_vector_products_of_the_usual_loop(model, idx, targets):
    """torch.autograd.grad twice: symmetric in its two directions."""
    _, loss = model(idx, targets)
    weights = [model.transformer.h[0].attn.c_attn.weight, model.lm_head.weight]
    first = torch.autograd.grad(loss, weights, create_graph=True)
    u, v = (
        [torch.randn(w.shape, generator=torch.Generator().manual_seed(s)) for w in weights]
        for s in (0, 1)
    )

    def product(direction):
        inner = sum((g * d).sum() for g, d in zip(first, direction, strict=True))
        return torch.autograd.grad(inner, weights, retain_graph=True)

    uv = sum((a * b).sum() for a, b in zip(product(u), v, strict=True))
    vu = sum((a * b).sum() for a, b in zip(product(v), u, strict=True))
    close(uv, vu, 1e-4)


def test_derivatives_agree_with_differences(model, idx, targets):
    """gradcheck and gradgradcheck in double precision, for the head's and a norm's numbers."""
    model.double()

    def loss(bias):
        name = "transformer.h.1.ln_2.bias"
        return functional_call(model, {name: bias}, (idx, targets))[1]

    bias = model.transformer.h[1].ln_2.bias.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(loss, (bias,))
    assert torch.autograd.gradgradcheck(loss, (bias,))


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_a_traced_model_computes_the_same(model, state, idx):
    """torch.jit.trace of the logits, run on other tokens and another batch size."""

    class Logits(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, idx):
            return self.model(idx)[0]

    model.requires_grad_(False)
    traced = torch.jit.trace(Logits(), (idx,))
    other = plain.tokens(5, plain.BLOCK, seed=9)
    close(traced(other), plain.logits(state, other))


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_a_trace_keeps_the_mask_as_a_buffer(model, state, idx):
    """The traced graph reads attn.bias: changed there, the attention changes."""

    class Logits(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, idx):
            return self.model(idx)[0]

    model.requires_grad_(False)
    traced = torch.jit.trace(Logits(), (idx,))
    masks = [b for name, b in traced.named_buffers() if name.endswith("attn.bias")]
    assert len(masks) == plain.LAYERS
    open_state = {n: torch.ones_like(v) if n.endswith(".attn.bias") else v
                  for n, v in state.items()}
    for mask in masks:
        mask.fill_(1)
    close(traced(idx), plain.logits(open_state, idx))


def test_an_exported_model_computes_the_same(model, state, idx):
    """torch.export.export(model, (idx,)): logits, and None for the loss."""
    exported = torch.export.export(model, (idx,)).module()
    other = plain.tokens(3, plain.BLOCK, seed=9)
    close(exported(other)[0], plain.logits(state, other))


def test_the_traced_graph_of_make_fx_computes_the_same(model, state, idx, targets):
    """make_fx of logits and loss with the parameters as inputs: the operators that run."""
    graph = make_fx(lambda p, x, y: functional_call(model, p, (x, y)))(
        parameters(model), idx, targets
    )
    other = plain.varied_state(plain.settings(), seed=8)
    logits, loss = graph({name: other[name] for name in parameters(model)}, targets, idx)
    close(logits, plain.logits(other, targets))
    close(loss, plain.loss(other, targets, idx))


def test_a_gradient_step_traced_by_make_fx(model, state, idx, targets):
    """make_fx(grad(...)): forward and backward in one graph."""
    params = parameters(model)
    graph = make_fx(grad(lambda p, x, y: functional_call(model, p, (x, y))[1]))(
        params, idx, targets
    )
    leaves = plain.trainable(state)
    plain.loss(leaves, targets, idx).backward()
    for name, value in graph(params, targets, idx).items():
        close(value, leaves[name].grad)


def test_a_compiled_model_computes_the_same(model, state, idx, targets):
    """torch.compile(model, fullgraph=True): one graph, no breaks."""
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    logits, loss = compiled(idx, targets)
    close(logits, plain.logits(state, idx))
    close(loss, plain.loss(state, idx, targets))


def test_activation_checkpointing_of_the_blocks(model, state, idx, targets):
    """torch.utils.checkpoint around each block, in a forward of one's own on the instance."""
    for block in model.transformer.h:
        original = block.forward
        block.forward = lambda x, f=original: torch.utils.checkpoint.checkpoint(
            f, x, use_reentrant=False
        )
    model(idx, targets)[1].backward()
    leaves = plain.trainable(state)
    plain.loss(leaves, idx, targets).backward()
    for name, parameter in model.named_parameters():
        close(parameter.grad, leaves[name].grad)


def test_forward_mode_dual_numbers(model, idx, targets):
    """torch.autograd.forward_ad on a parameter of the model itself."""
    bias = model.transformer.ln_f.bias
    tangent = torch.linspace(-1, 1, plain.WIDTH)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(bias.detach(), tangent)
        loss = functional_call(model, {"transformer.ln_f.bias": dual}, (idx, targets))[1]
        found = forward_ad.unpack_dual(loss).tangent
    expected = torch.autograd.grad(model(idx, targets)[1], bias)[0] @ tangent
    close(found, expected, 1e-4)


def test_the_loss_can_be_differentiated_for_embeddings_by_a_hook(model, idx, targets):
    """Saliency: the gradient on wte's output, kept by a forward hook."""
    kept = []

    def keep(module, inputs, output):
        output.retain_grad()
        kept.append(output)

    model.transformer.wte.register_forward_hook(keep)
    model(idx, targets)[1].backward()
    assert kept[0].grad.abs().sum() > 0
    by_token = torch.zeros_like(model.transformer.wte.weight)
    by_token.index_add_(0, idx.flatten(), kept[0].grad.flatten(0, 1))
    close(model.transformer.wte.weight.grad, by_token)
