"""How a model for the book is trained: the settings that decide its weights, and words for them."""

import math
from dataclasses import dataclass

import torch

from mingpt.data import BlockDataset
from mingpt.discounting import ZIPF_OFFSET, AbsoluteDiscount, spelling_groups
from mingpt.model import GPT
from mingpt.trainer import Trainer
from mingpt.utils import CfgNode

# What depends on the kind of device, that is on how much can be computed.
PRESETS = {
    "cpu": {
        "max_iters": 300, "batch_size": 32, "learning_rate": 2e-3,
        "dropout": 0.3, "embd_init_std": 0.08,
        "weight_decay": 0.5, "embedding_weight_decay": 2.0,
    },
    "cuda": {
        "max_iters": 2000, "batch_size": 64, "learning_rate": 5e-4,
        "dropout": 0.1, "embd_init_std": 0.02,
        "weight_decay": 0.1, "embedding_weight_decay": 0.0,
    },
}  # fmt: skip
RECORDED = (  # of the Trainer's settings
    "max_iters", "batch_size", "learning_rate", "warmup_iters", "lr_decay", "min_lr_ratio",
    "betas", "weight_decay", "embedding_weight_decay", "grad_norm_clip", "ema_decay",
    "precision", "eval_interval", "seed",
)  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """All that decides the weights besides the data and what they are computed with.

    objective: "cross-entropy", GPT-2's, or "discounted", that of targets with the absolute
    discount of discounting.py. Rates, sizes and decays as in `Trainer` and `GPT`.
    averaged_share: the share of the iterations that the average of weights spans; None for no
    average. Chosen on the last tenth of the training part: of 300 iterations a third is better than
    a sixth, and that better than none; a share because a short run's early weights are far worse.
    """

    model_type: str
    objective: str
    max_iters: int
    batch_size: int
    learning_rate: float
    dropout: float
    embd_init_std: float
    weight_decay: float
    embedding_weight_decay: float
    block_size: int = 64
    seed: int = 0
    averaged_share: float | None = 1 / 3
    tied_head: bool = True

    @property
    def ema_decay(self):
        """The decay whose average spans averaged_share * max_iters iterations."""
        if self.averaged_share is None:
            return None
        return 1 - 1 / max(1, self.averaged_share * self.max_iters)

    def model_config(self, vocab_size):
        """The GPT's settings, CfgNode."""
        config = GPT.get_default_config()
        config.model_type = self.model_type
        config.vocab_size = vocab_size
        config.block_size = self.block_size
        config.tied_head = self.tied_head
        config.embd_init_std = self.embd_init_std
        config.embd_pdrop = config.resid_pdrop = config.attn_pdrop = self.dropout
        return config

    def trainer_settings(self, **computing):
        """The Trainer's settings, CfgNode; computing: device, precision and the like."""
        return CfgNode(
            **computing,
            max_iters=self.max_iters,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            lr_decay="cosine",
            min_lr_ratio=0.05,
            warmup_iters=min(20, self.max_iters // 10 + 1),
            weight_decay=self.weight_decay,
            embedding_weight_decay=self.embedding_weight_decay,
            ema_decay=self.ema_decay,
            eval_interval=math.ceil(self.max_iters / 6),
            keep_best=False,  # the held-out part measures, it does not choose
            seed=self.seed,
        )

    def discount(self, tokens, encoder):
        """The AbsoluteDiscount of tokens (N,) int64, None for the plain cross-entropy."""
        if self.objective == "cross-entropy":
            return None
        return AbsoluteDiscount(tokens, spelling_groups(encoder))

    def trainer(self, tokens, encoder, evaluate, **computing):
        """A Trainer of a new model on tokens (N,) int64; evaluate(model) -> held-out value."""
        config = self.model_config(encoder.vocab_size)
        model = GPT(config, generator=torch.Generator().manual_seed(self.seed))
        dataset = BlockDataset(tokens, self.block_size, config.vocab_size)
        discount = self.discount(tokens, encoder)
        return Trainer(self.trainer_settings(**computing), model, dataset, evaluate, discount)

    def record(self, trainer):
        """All of it as a dict of plain values, to travel with weights and results."""
        discount = trainer.discount
        used = trainer.config.to_dict()
        return {
            "objective": "cross-entropy" if discount is None else
            "cross-entropy of targets with an absolute discount",
            "discount": None if discount is None else discount.discount,
            "discount_prior_of_unseen_tokens": None if discount is None else
            f"1 / (id + {ZIPF_OFFSET}) within a spelling group",
            "optimizer": "AdamW",
            "dropout": self.dropout,
            "embedding_init_std": self.embd_init_std,
            "tied_head": self.tied_head,
            **{name: used[name] for name in RECORDED},
            "stopping_point": "the last iteration; the held-out part is only watched",
        }


def recipe_for(kind, **given):
    """The Recipe for a kind of device, with the given fields in its place."""
    return Recipe(**preset(kind) | given)


def preset(kind):
    """What depends on the kind of device; one that is not CUDA is taken to be as slow as a CPU."""
    return PRESETS["cuda" if kind == "cuda" else "cpu"]


def describe(record):
    """What `Recipe.record` holds, in one line."""
    discount, prior = record["discount"], record["discount_prior_of_unseen_tokens"]
    average = record["ema_decay"]
    shares = "" if discount is None else f" ({discount:.3f}, prior {prior})"
    return (
        f"{record['objective']}{shares}; {record['optimizer']}, rate {record['learning_rate']}, "
        f"{record['max_iters']} iterations of {record['batch_size']} blocks, "
        f"dropout {record['dropout']}, weight decay {record['weight_decay']}, of embeddings "
        f"{record['embedding_weight_decay']}, embedding std {record['embedding_init_std']}, "
        + ("not averaged" if average is None else f"averaged by {average:.4g}")
    )
