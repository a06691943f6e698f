"""One file per model: configuration, weights, and a checksum that notices damage."""

import hashlib
import pickle
import zipfile
from pathlib import Path

import torch

from mingpt.bpe import get_encoder
from mingpt.model import GPT
from mingpt.utils import CfgNode, atomic_path
from mingpt.vocabulary import BookVocabulary

FORMAT = "mingpt-checkpoint-1"
CONFIG_KEYS = (
    "model_type", "n_layer", "n_head", "n_embd", "vocab_size", "block_size",
    "embd_pdrop", "resid_pdrop", "attn_pdrop", "embd_init_std", "tied_head",
)  # fmt: skip


class CheckpointError(ValueError):
    """A weights file is missing, damaged or not a GPT's."""


def save(model, path, dtype=torch.float32, **extra):
    """Write the model to `path`, atomically; weights are stored in `dtype`.

    `extra` (numbers, strings, tensors, lists and dicts of them) travels along; see `read`.
    """
    state = {key: value.detach().cpu() for key, value in model.state_dict().items()}
    state = {k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()}
    if model.config.tied_head:
        state["lm_head.weight"] = state["transformer.wte.weight"]  # one storage in the file
    content = {
        "format": FORMAT,
        "config": {key: getattr(model.config, key) for key in CONFIG_KEYS},
        "model": state,
        "sha256": _digest(state),
        **extra,
    }
    with atomic_path(path) as temporary:
        torch.save(content, temporary)


def read(path):
    """The content of a file written by `save`, verified, as a dict.

    Raises CheckpointError when it is missing, truncated, altered or something else.
    """
    if not Path(path).is_file():
        raise CheckpointError(f"{path}: no such weights file")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, OSError, EOFError, ValueError, KeyError,
            pickle.UnpicklingError, zipfile.BadZipFile):
        raise CheckpointError(f"{path}: not a readable weights file, or damaged") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f"{path}: not a GPT checkpoint of this package")
    try:
        intact = _digest(content["model"]) == content["sha256"]
    except (KeyError, AttributeError, TypeError):
        intact = False
    if not intact:
        raise CheckpointError(f"{path}: the weights do not match their checksum; the file is "
                              "damaged or was altered")
    return content


def build(content, device="cpu"):
    """The GPT of a dict returned by `read`, float32, in eval mode. Raises CheckpointError."""
    try:
        model = GPT(CfgNode(**content["config"]))
        state = content["model"]
        model.load_state_dict(
            {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
        )
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"the weights do not fit their configuration: {reason}") from None
    return model.to(device).eval()


def encoder(content):
    """The tokeniser of a dict returned by `read`: GPT-2's, or the vocabulary it carries."""
    try:
        ids = content.get("vocabulary")
        chosen = get_encoder() if ids is None else BookVocabulary(ids)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"the checkpoint's vocabulary is damaged: {error}") from None
    if chosen.vocab_size != content["config"].get("vocab_size"):
        raise CheckpointError(
            f"the checkpoint's model knows {content['config'].get('vocab_size')} tokens, its "
            f"vocabulary {chosen.vocab_size}"
        )
    return chosen


def load(path, device="cpu"):
    """The GPT in a weights file, float32, in eval mode. Raises CheckpointError."""
    return build(read(path), device)


def _digest(state):
    digest = hashlib.sha256()
    for key in sorted(state):
        value = state[key].contiguous()
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
