"""What a model must compute, given the state that it should have."""

import torch
from torch.utils.data import TensorDataset

from mingpt.trainer import Trainer
from tests.mingpt.contract import plain
from tests.mingpt.contract.conftest import training_config


def close(found, expected, tolerance=2e-5):
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def assert_computes(model, state, n_head=plain.HEADS):
    """Logits, loss, gradients' existence and greedy tokens are those of the state."""
    idx, targets = plain.tokens(2, plain.BLOCK), plain.tokens(2, plain.BLOCK, seed=1)
    model.eval()
    logits, loss = model(idx, targets)
    close(logits, plain.logits(state, idx, n_head=n_head))
    close(loss, plain.loss(state, idx, targets, n_head=n_head))
    greedy = idx[:, :3]
    for _ in range(plain.BLOCK):
        last = plain.logits(state, greedy[:, -plain.BLOCK :], n_head=n_head)[:, -1]
        greedy = torch.cat([greedy, last.argmax(-1, keepdim=True)], dim=1)
    assert torch.equal(model.generate(idx[:, :3], plain.BLOCK), greedy)


def everywhere(state):
    """The state whose mask lets every position see every other."""
    return {
        name: torch.ones_like(value) if name.endswith(".attn.bias") else value
        for name, value in state.items()
    }


def data(vocab_size=plain.VOCAB):
    return TensorDataset(
        plain.tokens(20, plain.BLOCK, vocab_size=vocab_size),
        plain.tokens(20, plain.BLOCK, seed=1, vocab_size=vocab_size),
    )


def trained(model, iterations=2, **settings):
    run, losses = Trainer(training_config(max_iters=iterations, **settings), model, data()), []
    run.set_callback("on_batch_end", lambda trainer: losses.append(trainer.loss.item()))
    run.run()
    return losses
