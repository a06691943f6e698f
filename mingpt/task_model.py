"""A GPT that learns the language of tasks.py: its sizes, its training, its file."""

import math
from typing import NamedTuple

import torch

from mingpt import checkpoint, fast, tasks
from mingpt.devices import bfloat16_supported
from mingpt.model import GPT
from mingpt.model_config import MODEL_TYPES as GPT_SIZES
from mingpt.progress import bar
from mingpt.trainer import TrainingDivergedError
from mingpt.utils import seeded

SIZES = {"nano": "gpt-nano", "micro": "gpt-micro", "mini": "gpt-mini"}
BLOCK_SIZE = 224
SHORT_BLOCK, SHORT_SHARE = 48, 0.3  # tokens of the first rows, and their share of the training
BATCH_TOKENS = 1792
ROWS_AT_ONCE = 100  # batches whose text is drawn together
MATRIX_RATE, OTHER_RATE = 0.02, 2e-3  # of Muon and of AdamW
WARMUP_SHARE, DECAY_SHARE = 0.05, 0.6
LANGUAGE = "tasks of mingpt.tasks, bytes"  # what a weights file says of its text


class Trained(NamedTuple):
    """A model, how its training went, and the soft prompts that came with it."""

    model: GPT  # in eval mode
    history: dict  # "tokens" (of training), "losses" (nats a counted token), "seed" (of its words)
    soft_prompts: dict  # {task: {length as text: {"vectors": (length, C), "losses": [...]}}}


def build(size, seed=0):
    """An untrained GPT of a size ("nano", "micro", "mini") for the language.

    The position embeddings begin as sinusoids (Vaswani et al. 2017), whose shifts are linear maps:
    attention to "so many letters back" is then found early. Trained on, like all weights.
    """
    config = GPT.get_default_config()
    config.merge_from_dict(
        {"model_type": SIZES[size], "vocab_size": tasks.VOCAB_SIZE, "block_size": BLOCK_SIZE,
         "embd_pdrop": 0.0, "resid_pdrop": 0.0, "attn_pdrop": 0.0, "tied_head": True,
         "embd_init_std": 0.1}
    )  # fmt: skip
    model = GPT(config, seeded(seed))
    table = model.transformer.wpe.weight
    with torch.no_grad():
        table.copy_(0.15 * sinusoids(*table.shape))
    return model


def size_of(model):
    """The name of a model's size. Raises ValueError for another size or block."""
    sizes = {name: GPT_SIZES[kind] for name, kind in SIZES.items()}
    ours = {key: getattr(model.config, key) for key in next(iter(sizes.values()))}
    if ours not in sizes.values() or model.block_size != BLOCK_SIZE:
        raise ValueError(f"the model is of none of the sizes {', '.join(SIZES)}: {ours}")
    return next(name for name, size in sizes.items() if size == ours)


def sinusoids(positions, width, longest=1000):
    """(positions, width) float32: sines and cosines of wavelengths 2 pi to 2 pi x longest."""
    frequencies = longest ** (-torch.arange(0, width, 2) / width)
    angles = torch.arange(positions)[:, None] * frequencies
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)[:, :width]


def train(model, pool, tokens, seed=0, device="cpu"):
    """Train on about `tokens` tokens of rows that are each seen once; the losses, one a step.

    Muon for the blocks' matrices (Jordan 2024), AdamW for all else; in bfloat16 where the device
    has it. The first rows are short, because in them an answer's letters are soon found; they stand
    anywhere in the block, so that every position learns.
    Raises TrainingDivergedError.
    """
    steps = max(1, tokens // BATCH_TOKENS)
    starts = seeded(seed)
    optimizers = _optimizers(model.to(device))
    kind, low = torch.device(device).type, bfloat16_supported(device)
    losses = []
    model.train()
    shown = bar(_batches(steps, pool, seed), desc="training", total=steps)
    for step, (x, y) in enumerate(shown):
        _set_rates(optimizers, step / steps)
        with torch.autocast(kind, torch.bfloat16, enabled=low):
            start = int(torch.randint(BLOCK_SIZE - x.shape[1] + 1, (1,), generator=starts))
            entering = model.embed(x.to(device), start=start)
            _, loss = fast.logits_and_loss(model, entering, y.to(device), loss_only=True)
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            raise TrainingDivergedError(step + 1, "the loss")
        model.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, _ in optimizers:
            optimizer.step()
    model.eval()
    return losses


def _optimizers(model):
    """Pairs of an optimiser and its peak rate."""
    matrices = [p for p in model.transformer.h.parameters() if p.ndim == 2]
    inside = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in inside]
    return [
        (torch.optim.Muon(matrices, lr=MATRIX_RATE, weight_decay=0.1), MATRIX_RATE),
        (torch.optim.AdamW(others, lr=OTHER_RATE, betas=(0.9, 0.98), weight_decay=0.0), OTHER_RATE),
    ]  # fmt: skip


def _set_rates(optimizers, done):
    """The rates after a share of the training: a linear rise, a plateau, a linear fall."""
    factor = min(1, 0.05 + done / WARMUP_SHARE) * min(1, (1 - done) / DECAY_SHARE)
    for optimizer, rate in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate * factor


def _batches(steps, pool, seed):
    """So many (x, y), each (B, T) int64; short rows first."""
    for start in range(0, steps, ROWS_AT_ONCE):
        length = SHORT_BLOCK if start < SHORT_SHARE * steps else BLOCK_SIZE
        count, size = min(ROWS_AT_ONCE, steps - start), BATCH_TOKENS // length
        text = tasks.rows(count * size, length, pool, seed=seed * steps + start)
        yield from zip(*(part.split(size) for part in text), strict=True)


# --- Files --------------------------------------------------------------------------------------


def save(trained, path, device="cpu"):
    """Write a Trained to a file that `load` and `mingpt.load` read; weights in float16.

    Returns what `load` gives back, whoever else writes there meanwhile.
    """
    content = checkpoint.save(
        trained.model, path, dtype=torch.float16, language=LANGUAGE,
        task_training=trained.history, soft_prompts=trained.soft_prompts,
    )  # fmt: skip
    return _trained(content, device)


def load(path, device="cpu"):
    """The Trained in a file by `save`. Raises CheckpointError for one that holds no such model."""
    content = checkpoint.read(path)
    if content.get("language") != LANGUAGE:
        raise checkpoint.CheckpointError(
            f"{path} was not trained on the language of the tasks; a file by --study prompting was"
        )
    return _trained(content, device)


def _trained(content, device):
    return Trained(
        checkpoint.build(content, device), content["task_training"], content["soft_prompts"]
    )
