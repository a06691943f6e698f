"""Small models and trainers for the GPT tests."""

import torch

from mingpt.data import BlockDataset
from mingpt.model import GPT
from mingpt.trainer import Trainer
from mingpt.utils import CfgNode


def small_model(seed=0, vocab_size=97, block_size=16, scale=1.0, **settings):
    """A 3-layer GPT of width 24 in eval mode; scale > 1 makes its predictions less uniform."""
    config = GPT.get_default_config()
    config.merge_from_dict(
        {"n_layer": 3, "n_head": 3, "n_embd": 24, "vocab_size": vocab_size,
         "block_size": block_size, **settings}
    )
    model = GPT(CfgNode(**config.to_dict()), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(scale if parameter.ndim > 1 else 1.0)
    return model.eval()


def extend_vocabulary(model, vocab_size):
    """Put a larger token embedding and head in the place of a model's; the config stays."""
    width = model.transformer.wte.weight.shape[1]
    wte = torch.nn.Embedding(vocab_size, width)
    head = torch.nn.Linear(width, vocab_size, bias=False)
    for new, old in ((wte, model.transformer.wte), (head, model.lm_head)):
        new.weight.data.zero_()[: len(old.weight)] = old.weight.detach()
    model.transformer.wte, model.lm_head = wte, head
    return model


def tokens(*shape, vocab_size=97, seed=0):
    return torch.randint(vocab_size, shape, generator=torch.Generator().manual_seed(seed))


TEXT = tokens(400, seed=5) % 11  # few kinds of tokens: quickly learnt


def trainer(evaluate=None, model=None, dataset=None, **settings):
    """A Trainer of a small model on TEXT, twelve iterations."""
    config = Trainer.get_default_config()
    config.merge_from_dict(
        {"device": "cpu", "max_iters": 12, "batch_size": 8, "learning_rate": 1e-2, "seed": 3,
         **settings}
    )
    dataset = BlockDataset(TEXT, 16) if dataset is None else dataset
    return Trainer(config, model or small_model(), dataset, evaluate)
