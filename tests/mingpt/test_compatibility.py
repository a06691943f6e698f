"""Models that students derive from minGPT's: own forward, blocks, attention, head, weights."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mingpt.data import BlockDataset
from mingpt.discounting import AbsoluteDiscount
from mingpt.model import GPT, Block, CausalSelfAttention
from mingpt.scoring import bits_per_byte, token_log_probs
from mingpt.trainer import Trainer
from mingpt.utils import CfgNode
from tests.mingpt.helpers import small_model, tokens


class OwnForward(GPT):
    """A forward written out with minGPT's signature and modules alone."""

    def forward(self, idx, targets=None):
        positions = torch.arange(idx.shape[1])[None]
        x = self.transformer.drop(self.transformer.wte(idx) + self.transformer.wpe(positions))
        for block in self.transformer.h:
            x = block(x)
        logits, loss = self.lm_head(self.transformer.ln_f(x)), None
        if targets is not None:
            loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)
        return logits, loss


class CallsSuper(GPT):
    def forward(self, idx, targets=None):
        return super().forward(idx, targets)


class OwnBlock(Block):
    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.mlpf(self.ln_2(x))


class Wrapped(nn.Module):
    def __init__(self, block):
        super().__init__()
        self.block = block

    def forward(self, x):
        return self.block(x)


class OwnAttention(CausalSelfAttention):
    def forward(self, x):
        B, T, C = x.shape
        q, k, v = self.query_key_value(x)
        weights = (q @ k.transpose(-2, -1)) / (C // self.n_head) ** 0.5
        weights = weights.masked_fill(self.bias[:, :, :T, :T] == 0, float("-inf")).softmax(-1)
        return self.c_proj((weights @ v).transpose(1, 2).reshape(B, T, C))


def own_model(cls, plain):
    model = cls(plain.config)
    model.load_state_dict(plain.state_dict())
    return model.eval()


def own_block(plain):
    block = OwnBlock(plain.config)
    block.load_state_dict(plain.transformer.h[-1].state_dict())
    return _with_last_block(plain, block)


def own_attention(plain):
    model = copy.deepcopy(plain)
    attention = OwnAttention(plain.config)
    attention.load_state_dict(plain.transformer.h[0].attn.state_dict())
    model.transformer.h[0].attn = attention
    return model.eval()


def _with_last_block(plain, block):
    model = copy.deepcopy(plain)
    model.transformer.h[-1] = block
    return model.eval()


@pytest.mark.parametrize(
    "derive",
    [
        lambda plain: own_model(OwnForward, plain),
        lambda plain: own_model(CallsSuper, plain),
        own_block,
        lambda plain: _with_last_block(plain, Wrapped(copy.deepcopy(plain.transformer.h[-1]))),
        own_attention,
    ],
    ids=["forward", "super", "block", "wrapper", "attention"],
)
def test_code_of_ones_own_that_computes_the_same_gives_the_same(derive):
    plain = small_model(scale=4)
    model, idx, text = derive(plain), tokens(2, 12), tokens(50, seed=1)
    torch.testing.assert_close(model(idx)[0], plain(idx)[0], rtol=1e-4, atol=1e-4)
    assert torch.equal(model.generate(idx, 10), plain.generate(idx, 10))  # beyond the block of 16
    long = tokens(1, 30)
    torch.testing.assert_close(
        token_log_probs(model, long), token_log_probs(plain, long), rtol=1e-4, atol=1e-4
    )
    found, expected = (bits_per_byte(m, tokens(40), text, 100) for m in (model, plain))
    assert found == pytest.approx(expected, rel=1e-5)


def biased(vocab_size=97):
    head = nn.Linear(24, vocab_size)
    with torch.no_grad():
        head.bias.copy_(torch.linspace(-5, 5, vocab_size))
    return head


@pytest.mark.parametrize(
    "head", [biased, lambda: nn.Sequential(nn.Linear(24, 24), nn.Tanh(), biased())]
)
def test_another_head_is_trained_on_its_own_loss(head):
    model = small_model(embd_pdrop=0.0, resid_pdrop=0.0, attn_pdrop=0.0)
    torch.manual_seed(0)
    model.lm_head = head()
    x, y = tokens(4, 16), tokens(4, 16, seed=1)
    logits, expected = model(x, y)
    assert model(x, y, loss_only=True) == (None, expected)
    torch.testing.assert_close(model(x, last_only=True)[0], logits[:, -1:])
    pairs = list(zip(x, y, strict=True))
    run = Trainer(CfgNode(device="cpu", max_iters=1, batch_size=64, seed=0), model, pairs)
    loss, objective = run.objective(x, y)
    assert loss.item() == objective.item() == pytest.approx(expected.item(), rel=1e-6)
    before = model.lm_head.state_dict()
    before = {key: value.clone() for key, value in before.items()}
    run.run()
    for key, value in model.lm_head.state_dict().items():
        assert not torch.equal(value, before[key]), key


@pytest.mark.parametrize("of", [lambda model: model, lambda model: model.lm_head])
@pytest.mark.parametrize("kind", ["register_forward_hook", "register_forward_pre_hook"])
def test_hooks_see_every_training_iteration(of, kind):
    model, seen = small_model(), []
    data = BlockDataset(tokens(100), 16)
    run = Trainer(CfgNode(device="cpu", max_iters=3, batch_size=4, seed=0), model, data)
    plain = Trainer(CfgNode(device="cpu", max_iters=3, batch_size=4, seed=0), small_model(), data)
    getattr(of(model), kind)(lambda *_: seen.append(1))
    run.run()
    plain.run()
    assert len(seen) == 3
    assert run.losses == pytest.approx(plain.losses, rel=1e-5)
    discount = AbsoluteDiscount(data.tokens, torch.zeros(97, dtype=torch.int64))
    with pytest.raises(ValueError, match="without hooks"):
        Trainer(CfgNode(device="cpu"), model, data, discount=discount)


def test_dropout_of_attention_has_mingpts_module():
    model, idx = small_model(embd_pdrop=0.0, resid_pdrop=0.0, attn_pdrop=0.5).train(), tokens(2, 16)
    torch.manual_seed(0)
    assert not torch.equal(model(idx)[0], model(idx)[0])
    for block in model.transformer.h:
        block.attn.attn_dropout.p = 0.0
    assert torch.equal(model(idx)[0], model(idx)[0])


def test_the_sizes_of_a_model_type_are_written_into_the_config():
    config = GPT.get_default_config()
    config.merge_from_dict({"model_type": "gpt-nano", "vocab_size": 11, "block_size": 8})
    GPT(config)
    assert (config.n_layer, config.n_head, config.n_embd) == (3, 3, 48)


def test_numpy_sizes_and_int32_tokens_will_do():
    model = small_model(scale=4, vocab_size=np.int64(97), block_size=np.int32(16))
    assert type(model.config.vocab_size) is type(model.block_size) is int
    idx = tokens(2, 8)
    assert torch.equal(model(idx.int())[0], model(idx)[0])
    assert torch.equal(model.generate(idx.int(), 3), model.generate(idx, 3))
