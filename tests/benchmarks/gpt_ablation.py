"""What each choice of Part 2's training is worth: `python -m tests.benchmarks.gpt_ablation`.

Nothing here sees the held-out part: the training part is split once more, 90 % to train on and
10 % to measure on. Writes report/ablation_gpt.json. `--only NAME` runs the named variants.
"""

import argparse
import json
import time
from pathlib import Path

import torch

import example_gpt
from mingpt.bpe import get_encoder, spelling_groups
from mingpt.data import BlockDataset, load_book
from mingpt.discounting import AbsoluteDiscount
from mingpt.model import GPT
from mingpt.scoring import bits_per_byte
from mingpt.trainer import Trainer
from mingpt.utils import atomic_path

RESULTS = Path(example_gpt.__file__).parent / "report" / "ablation_gpt.json"
PRESET = example_gpt.PRESETS["cpu"]
VARIANTS = {
    "as shipped": {},
    "without discounting": {"discount": False},
    "embeddings start at 0.02": {"embd_init_std": 0.02},
    "embeddings not decayed": {"embedding_weight_decay": 0.0},
    "dropout 0.1": {"dropout": 0.1},
    "no weight averaging": {"ema_decay": None},
    "head not tied": {"tied_head": False},
    "minGPT's settings": {
        "discount": False, "embd_init_std": 0.02, "embedding_weight_decay": 0.0,
        "weight_decay": 0.1, "dropout": 0.1, "ema_decay": None, "tied_head": False,
        "learning_rate": 5e-4, "lr_decay": "none", "warmup_iters": 0,
    },
}  # fmt: skip


def measure(seed, changes):
    """Best bits per byte on the last tenth of the training part, and its iteration."""
    choice = {
        **PRESET, "discount": True, "ema_decay": 0.98, "tied_head": True, "lr_decay": "cosine",
        "warmup_iters": 20, **changes,
    }  # fmt: skip
    encoder, tokens = get_encoder(), load_book().train
    cut = int(0.9 * len(tokens))
    train, validation = tokens[:cut], tokens[cut:]
    num_bytes = len(encoder.decode_bytes(validation))
    config = GPT.get_default_config()
    config.merge_from_dict(
        {
            "model_type": "gpt-mini", "vocab_size": encoder.vocab_size, "block_size": 64,
            "tied_head": choice["tied_head"], "embd_init_std": choice["embd_init_std"],
            **dict.fromkeys(("embd_pdrop", "resid_pdrop", "attn_pdrop"), choice["dropout"]),
        }
    )  # fmt: skip
    settings = Trainer.get_default_config()
    settings.merge_from_dict(
        {name: choice[name] for name in settings.to_dict() if name in choice}
        | {"device": "cpu", "precision": "auto", "seed": seed, "min_lr_ratio": 0.05,
           "eval_interval": 25}
    )  # fmt: skip
    trainer = Trainer(
        settings,
        GPT(config, generator=torch.Generator().manual_seed(seed)),
        BlockDataset(train, 64, encoder.vocab_size),
        lambda model: bits_per_byte(model, train, validation, num_bytes, 64, 32),
        AbsoluteDiscount(train, spelling_groups(encoder)) if choice["discount"] else None,
    )
    trainer.run()
    best = min(trainer.evaluations, key=lambda pair: pair[1])
    return {"bits_per_byte": best[1], "iteration": best[0]}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    args = parser.parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in args.only:
        for seed in args.seeds:
            began = time.perf_counter()
            results.setdefault(name, {})[str(seed)] = outcome = measure(seed, VARIANTS[name])
            with atomic_path(RESULTS) as path:
                path.write_text(json.dumps(results, indent=1) + "\n")
            print(f"{name:28s} seed {seed}: {outcome['bits_per_byte']:.4f} bits per byte at "
                  f"iteration {outcome['iteration']} ({time.perf_counter() - began:.0f} s)",
                  flush=True)


if __name__ == "__main__":
    main()
