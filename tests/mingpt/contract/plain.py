"""minGPT's computation written down a second time, from its contract and without its modules.

A model here is a state dict under minGPT's keys. Everything is explicit: the scores, the mask
buffer, the softmax, every draw of the initialisation. What the package computes is held to it.
"""

import math
from types import SimpleNamespace

import torch
from torch import nn
from torch.nn import functional as F

VOCAB, BLOCK, LAYERS, HEADS, WIDTH = 13, 8, 2, 2, 16
NO_DROPOUT = {"embd_pdrop": 0.0, "resid_pdrop": 0.0, "attn_pdrop": 0.0}


def settings(**changes):
    """The fields that minGPT's modules read and no other, on an object that is no CfgNode."""
    return SimpleNamespace(
        **{
            "model_type": None, "n_layer": LAYERS, "n_head": HEADS, "n_embd": WIDTH,
            "vocab_size": VOCAB, "block_size": BLOCK, **NO_DROPOUT, **changes,
        }
    )  # fmt: skip


def tokens(*shape, seed=0, vocab_size=VOCAB):
    """int64 tokens of the shape."""
    return torch.randint(vocab_size, shape, generator=torch.Generator().manual_seed(seed))


def linear_layers(config):
    """(name, inputs, outputs) of a block's linear layers, in the order they are built in."""
    C = config.n_embd
    for layer in range(config.n_layer):
        block = f"transformer.h.{layer}"
        yield f"{block}.attn.c_attn", C, 3 * C
        yield f"{block}.attn.c_proj", C, C
        yield f"{block}.mlp.c_fc", C, 4 * C
        yield f"{block}.mlp.c_proj", 4 * C, C


def initial_state(config):
    """The state dict minGPT draws from the global generator; it leaves the generator as minGPT.

    Three rounds: PyTorch's own initialisation of every layer as it is built; N(0, 0.02^2) for
    every weight in the order of the modules; N(0, (0.02 / sqrt(2 n_layer))^2) for every weight
    called c_proj, in the order of the layers.
    """
    C, V = config.n_embd, config.vocab_size
    embeddings = [("transformer.wte", V), ("transformer.wpe", config.block_size)]
    layers = [*linear_layers(config), ("lm_head", C, V)]
    for _, rows in embeddings:
        nn.Embedding(rows, C)
    for name, inputs, outputs in layers:
        nn.Linear(inputs, outputs, bias=name != "lm_head")
    drawn = {}
    for name, rows in embeddings:
        drawn[f"{name}.weight"] = torch.empty(rows, C).normal_(0, 0.02)
    for name, inputs, outputs in layers:
        drawn[f"{name}.weight"] = torch.empty(outputs, inputs).normal_(0, 0.02)
        if name != "lm_head":
            drawn[f"{name}.bias"] = torch.zeros(outputs)
    for name in drawn:
        if name.endswith("c_proj.weight"):
            drawn[name].normal_(0, 0.02 / math.sqrt(2 * config.n_layer))
    causal = torch.ones(config.block_size, config.block_size).tril()[None, None]
    norms = ["transformer.ln_f"]
    for layer in range(config.n_layer):
        drawn[f"transformer.h.{layer}.attn.bias"] = causal.clone()
        norms += [f"transformer.h.{layer}.ln_1", f"transformer.h.{layer}.ln_2"]
    for name in norms:
        drawn[f"{name}.weight"], drawn[f"{name}.bias"] = torch.ones(C), torch.zeros(C)
    return {name: drawn[name] for name in keys(config)}


def keys(config):
    """minGPT's state-dict keys in their order."""
    both = ("weight", "bias")
    names = ["transformer.wte.weight", "transformer.wpe.weight"]
    for layer in range(config.n_layer):
        block = f"transformer.h.{layer}"
        names += [f"{block}.ln_1.{part}" for part in both]
        names += [f"{block}.attn.bias"]  # the mask
        names += [f"{block}.attn.{m}.{part}" for m in ("c_attn", "c_proj") for part in both]
        names += [f"{block}.ln_2.{part}" for part in both]
        names += [f"{block}.mlp.{m}.{part}" for m in ("c_fc", "c_proj") for part in both]
    return [*names, "transformer.ln_f.weight", "transformer.ln_f.bias", "lm_head.weight"]


def varied_state(config, seed=0):
    """A state dict whose predictions are far from uniform and whose every number matters."""
    generator = torch.Generator().manual_seed(seed)
    state = initial_state_of_seed(config, seed)
    for name, value in state.items():
        if not name.endswith(".attn.bias"):
            value += torch.empty_like(value).normal_(0, 0.3, generator=generator)
    return state


def initial_state_of_seed(config, seed):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return initial_state(config)


def gelu(x):
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def attention_weights(state, layer, x, n_head):
    """x (B, T, C), already normalised -> softmax of the masked scores (B, nh, T, T), values."""
    name = f"transformer.h.{layer}.attn"
    B, T, C = x.shape
    mixed = x @ state[f"{name}.c_attn.weight"].T + state[f"{name}.c_attn.bias"]
    q, k, v = (
        part.reshape(B, T, n_head, C // n_head).transpose(1, 2) for part in mixed.chunk(3, dim=-1)
    )
    scores = q @ k.transpose(-2, -1) * (C // n_head) ** -0.5
    mask = state[f"{name}.bias"][:, :, :T, :T]
    return scores.masked_fill(mask == 0, float("-inf")).softmax(-1), v


def logits(state, idx, n_head=HEADS, attn_pdrop=0.0, resid_pdrop=0.0, embd_pdrop=0.0):
    """idx (B, T) -> (B, T, V); with rates above 0 dropout draws from the global generator."""
    T = idx.shape[1]
    x = state["transformer.wte.weight"][idx] + state["transformer.wpe.weight"][None, :T]
    x = F.dropout(x, embd_pdrop)
    for layer in range(sum(name.endswith(".attn.bias") for name in state)):
        block = f"transformer.h.{layer}"
        weights, v = attention_weights(state, layer, norm(state, f"{block}.ln_1", x), n_head)
        mixed = (F.dropout(weights, attn_pdrop) @ v).transpose(1, 2).reshape(x.shape)
        x = x + F.dropout(linear(state, f"{block}.attn.c_proj", mixed), resid_pdrop)
        inner = gelu(linear(state, f"{block}.mlp.c_fc", norm(state, f"{block}.ln_2", x)))
        x = x + F.dropout(linear(state, f"{block}.mlp.c_proj", inner), resid_pdrop)
    return norm(state, "transformer.ln_f", x) @ state["lm_head.weight"].T


def linear(state, name, x):
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def norm(state, name, x):
    centred = x - x.mean(-1, keepdim=True)
    scale = (centred.square().mean(-1, keepdim=True) + 1e-5).rsqrt()
    return centred * scale * state[f"{name}.weight"] + state[f"{name}.bias"]


def loss(state, idx, targets, **rates):
    """Mean of -log p(target) over the targets that are not -1."""
    log_p = logits(state, idx, **rates).flatten(0, 1).log_softmax(-1)
    targets = targets.flatten()
    counted = targets != -1
    return -log_p[counted].gather(1, targets[counted, None]).mean()


def generate(state, idx, count, temperature=1.0, do_sample=False, top_k=None, block_size=BLOCK):
    """Every token from the whole window, drawn from the global generator with do_sample."""
    for _ in range(count):
        last = logits(state, idx[:, -block_size:])[:, -1] / temperature
        if top_k is not None:
            last[last < last.topk(top_k).values[:, -1:]] = float("-inf")
        probabilities = last.softmax(-1)
        token = (
            torch.multinomial(probabilities, 1) if do_sample
            else probabilities.argmax(-1, keepdim=True)
        )  # fmt: skip
        idx = torch.cat([idx, token], dim=1)
    return idx


def trainable(state):
    """The state as leaves that require gradients, the masks as they are."""
    return {
        name: value.clone().requires_grad_(not name.endswith(".attn.bias"))
        for name, value in state.items()
    }


def decayed_names(config):
    """Names of minGPT's first parameter group (weights of linear layers), sorted."""
    layers = [name for name, _, _ in linear_layers(config)] + ["lm_head"]
    return sorted(f"{name}.weight" for name in layers)


def undecayed_names(config):
    """Names of its second: embeddings, layer norms and biases, sorted."""
    others = set(keys(config)) - set(decayed_names(config))
    return sorted(name for name in others if not name.endswith(".attn.bias"))


def optimizer(state, config, learning_rate, betas=(0.9, 0.95), weight_decay=0.1):
    groups = [
        {"params": [state[n] for n in decayed_names(config)], "weight_decay": weight_decay},
        {"params": [state[n] for n in undecayed_names(config)], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=betas)


def train(state, config, batches, learning_rate, grad_norm_clip=1.0):
    """The losses of AdamW steps on the (x, y) batches; the leaves of state are trained."""
    adamw, losses = optimizer(state, config, learning_rate), []
    leaves = [value for value in state.values() if value.requires_grad]
    for x, y in batches:
        value = loss(state, x, y)
        adamw.zero_grad(set_to_none=True)
        value.backward()
        nn.utils.clip_grad_norm_(leaves, grad_norm_clip)
        adamw.step()
        losses.append(value.item())
    return losses
