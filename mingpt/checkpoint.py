"""One file per model: configuration, weights, and a checksum that notices damage."""

import hashlib
import io
import json
import math
import pickle
import zipfile
from pathlib import Path

import torch

from mingpt.bpe import get_encoder
from mingpt.devices import resolve_device
from mingpt.merges import DataError
from mingpt.model import GPT
from mingpt.model_config import SIZES, complete_config
from mingpt.utils import CfgNode, atomic_path
from mingpt.vocabulary import BookVocabulary

FORMAT = "mingpt-checkpoint-2"
EARLIER_FORMAT = "mingpt-checkpoint-1"
CONFIG_KEYS = (
    "model_type", "n_layer", "n_head", "n_embd", "vocab_size", "block_size",
    "embd_pdrop", "resid_pdrop", "attn_pdrop", "embd_init_std", "tied_head",
)  # fmt: skip
RECIPE_TEXTS = ("objective", "optimizer")
RECIPE_NUMBERS = (
    "max_iters", "batch_size", "learning_rate", "dropout", "weight_decay",
    "embedding_weight_decay", "embedding_init_std",
)  # fmt: skip
RECIPE_OPTIONAL_NUMBERS = ("discount", "ema_decay")
UNREADABLE = (
    RuntimeError, OSError, EOFError, ValueError, KeyError, pickle.UnpicklingError,
    zipfile.BadZipFile,
)  # fmt: skip


class CheckpointError(ValueError):
    """A weights file is missing, damaged or not a GPT's."""


def save(model, path, dtype=torch.float32, **extra):
    """Write the model to `path`, atomically; weights are stored in `dtype`. Returns what `read`
    gives back, whoever else writes there meanwhile.

    The same model and extras give the same bytes.

    `extra` (Python's numbers and strings, tensors, lists and dicts of them) travels along; see
    `read`, which has its own demands on a `history`, a `recipe` and a `text`.
    What torch.compile, DistributedDataParallel or DataParallel wrapped is saved. Sizes, and whether
    the head is tied, are those of the tensors, whatever the config says.
    Raises ValueError for weights that are not finite in `dtype`, and for a model that the file
    could not give back: one that is no GPT, or has parts or a forward of its own; ValueError or
    TypeError for extras that `read` would refuse. The file is as it was then.
    """
    model = _unwrapped(model)
    state = {key: value.detach().cpu() for key, value in model.state_dict().items()}
    state = {k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()}
    for key, value in state.items():
        if not value.isfinite().all():
            raise ValueError(f"{key} is not finite in {dtype}: {path} was not written")
    config = _config_of(model)
    if config["tied_head"]:
        state["lm_head.weight"] = state["transformer.wte.weight"]  # one storage in the file
    content = {"format": FORMAT, "config": config, "model": state, **extra}
    _check_restorable(model, content)
    content["sha256"] = _digest(content)
    packed = io.BytesIO()  # a file's name would become part of its content
    torch.save(content, packed)
    _check_readable(packed, path)
    with atomic_path(path) as temporary:
        temporary.write_bytes(packed.getbuffer())
    return content


def _unwrapped(model):
    """The GPT inside torch.compile's and the parallel wrappers. Raises ValueError without one."""
    while not isinstance(model, GPT):
        inner = getattr(model, "_orig_mod", None) or getattr(model, "module", None)
        if not isinstance(inner, torch.nn.Module):
            raise ValueError(
                f"{type(model).__name__} is no mingpt.model.GPT: save its state_dict() yourself"
            )
        model = inner
    return model


def _config_of(model):
    """What a GPT is built from, with the sizes its tensors have."""
    defaults = GPT.get_default_config().to_dict()
    config = {key: getattr(model.config, key, defaults[key]) for key in CONFIG_KEYS}
    wte, blocks = model.transformer.wte.weight, model.transformer.h
    sizes = {
        "n_layer": len(blocks), "n_embd": wte.shape[1], "vocab_size": wte.shape[0],
        "n_head": blocks[0].attn.n_head if len(blocks) else config["n_head"],
        "block_size": model.block_size,
    }  # fmt: skip
    if any(config[key] != size for key, size in sizes.items() if key in SIZES):
        config["model_type"] = None
    return config | sizes | {"tied_head": model.lm_head.weight is wte}


def _check_restorable(model, content):
    """Refuse a model that is not what the file would give back."""
    refused = "the file could not give back this model (save its state_dict() yourself): "
    if own := _overridden(model):
        raise ValueError(f"{refused}it has a {min(own)} of its own")
    try:
        again = build(content)
    except CheckpointError as error:
        raise ValueError(f"{refused}{error}") from None
    ours, theirs = (
        {name: (type(m), _settings(m)) for name, m in each.named_modules() if name}
        for each in (model, again)
    )
    if ours != theirs:
        names = [name for name in ours.keys() | theirs.keys()
                 if ours.get(name) != theirs.get(name)]  # fmt: skip
        raise ValueError(f"{refused}{min(names)} is not what mingpt.model builds")


def _check_readable(packed, path):
    """Refuse to write a file, packed in memory, that `read` would refuse."""
    packed.seek(0)
    try:
        content = torch.load(packed, map_location="cpu", weights_only=True)
    except UNREADABLE:
        raise ValueError(f"{path} was not written: extras should be Python's numbers and strings, "
                         "tensors, lists and dicts of them") from None
    try:
        _verified(content, path)
    except CheckpointError as error:
        raise ValueError(f"{error}; it was not written") from None


def _overridden(model):
    """The names of GPT's methods that a model's class, or the model itself, replaces."""
    classes = type(model).__mro__[: type(model).__mro__.index(GPT)]
    own = set(vars(model)).union(*map(vars, classes))
    return {name for name in own & set(vars(GPT)) if not name.startswith("__")}


def _settings(module):
    """What a module computes with beside its tensors: numbers of heads, eps, dropout's p, ..."""
    return {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, int | float | str) and name != "training"
        and not name.startswith("_")
    }


def read(path):
    """The content of a file written by `save`, verified, as a dict.

    The checksum covers everything in the file. Raises CheckpointError when it is missing,
    truncated, altered or something else, and for a `history` that is not {} or
    {"training_loss_nats_per_token": numbers, "heldout_bits_per_byte_by_iteration": pairs of
    numbers}, none of them empty, or a `recipe` that is not None or a dict with all RECIPE_* keys,
    or a `text` that is not None or a dict with the name and the sha256 of one.
    """
    return _verified(_unpickled(path), path)


def _verified(content, path):
    """What was in the file, if it is as `read` demands."""
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        names = content if isinstance(content, dict) else {}
        kind = names.get("kind", names.get("format"))
        if kind == EARLIER_FORMAT:
            raise CheckpointError(
                f"{path} is a GPT's weights file of an earlier version ({kind}), whose checksum "
                "leaves out the configuration: train it again, or torch.load it and take the state "
                'dict under "model"'
            )
        what = f"it holds {kind}" if isinstance(kind, str) else "a bare state dict needs its config"
        raise CheckpointError(f"{path}: not a GPT checkpoint of this package ({what})")
    try:
        intact = _digest(content) == content["sha256"]
    except (KeyError, TypeError, RuntimeError):
        intact = False
    if not intact:
        raise CheckpointError(f"{path}: the content does not match its checksum; the file is "
                              "damaged or was altered")
    if not all(isinstance(content.get(key), dict) for key in ("config", "model")):
        raise CheckpointError(f"{path}: the file holds no configuration or no weights")
    if not _is_history(content.get("history", {})):
        raise CheckpointError(f"{path}: the training history is not one of finite numbers")
    if not _is_recipe(content.get("recipe")):
        raise CheckpointError(f"{path}: the training recipe lacks settings, or holds wrong ones")
    if not _is_text(content.get("text")):
        raise CheckpointError(f"{path}: what it says of its text is not a name and a SHA-256")
    return content


def read_of_the_book(path):
    """As `read`, of a model of the book that ships. Raises CheckpointError for another text's."""
    content = read(path)
    text = content.get("text")
    if text is not None:
        raise CheckpointError(f"{path} was trained on {text['name']}, and this is about the book")
    return content


def _unpickled(path):
    if not Path(path).is_file():
        raise CheckpointError(f"{path}: no such weights file")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError:
        raise CheckpointError(f"{path}: no permission to read it") from None
    except UNREADABLE:
        raise CheckpointError(f"{path}: not a readable weights file, or damaged") from None


def build(content, device="cpu"):
    """The GPT of a dict returned by `read`, float32, in eval mode. Raises CheckpointError.

    Raises ValueError for a device that is not there (see `resolve_device`).
    """
    device = resolve_device(device)
    try:
        with torch.inference_mode(False):
            # The weights are replaced at once: the caller's random state stays.
            model = GPT(CfgNode(**content["config"]), generator=torch.Generator()).float()
            state = content["model"]
            model.load_state_dict(
                {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
            )
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"the weights do not fit their configuration: {reason}") from None
    return model.to(device).eval()


def encoder(content):
    """The tokeniser of a dict returned by `read`: GPT-2's, or the vocabulary it carries.

    Raises CheckpointError for a vocabulary that is none, DataError where GPT-2's merges are not
    in place.
    """
    try:
        ids = content.get("vocabulary")
        chosen = get_encoder() if ids is None else BookVocabulary(ids)
    except DataError:
        raise
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"the checkpoint's vocabulary is damaged: {error}") from None
    if chosen.vocab_size != content["config"].get("vocab_size"):
        raise CheckpointError(
            f"the checkpoint's model knows {content['config'].get('vocab_size')} tokens, its "
            f"vocabulary {chosen.vocab_size}"
        )
    return chosen


def load(path, device="cpu", config=None):
    """The GPT in a weights file, float32, in eval mode. Raises as `read` and `build` do.

    config: the settings of the model whose bare state dict is in the file, as minGPT's scripts
    save it by torch.save(model.state_dict(), path).
    """
    if config is None:
        return build(read(path), device)
    state = _unpickled(path)
    if not (isinstance(state, dict) and all(isinstance(v, torch.Tensor) for v in state.values())):
        raise CheckpointError(f"{path}: no state dict; a file by mingpt.save loads without config")
    return build({"config": complete_config(config).to_dict(), "model": state}, device)


def _is_history(history):
    """Whether it is empty, or the losses and evaluations of a training run."""
    if history == {}:
        return True
    try:
        losses = history["training_loss_nats_per_token"]
        evaluations = history["heldout_bits_per_byte_by_iteration"]
        numbers = [*losses]
        for iteration, value in evaluations:
            numbers += [iteration, value]
    except (KeyError, TypeError, ValueError):
        return False
    return (
        isinstance(losses, list | tuple)
        and len(losses) > 0
        and len(evaluations) > 0
        and all(map(_is_finite_number, numbers))
    )


def _is_recipe(recipe):
    """Whether it is None, or says how a model was trained."""
    if recipe is None:
        return True
    return (
        isinstance(recipe, dict)
        and all(type(recipe.get(key)) is str for key in RECIPE_TEXTS)
        and all(_is_finite_number(recipe.get(key)) for key in RECIPE_NUMBERS)
        and all(
            key in recipe and (recipe[key] is None or _is_finite_number(recipe[key]))
            for key in RECIPE_OPTIONAL_NUMBERS
        )
        and "discount_prior_of_unseen_tokens" in recipe
    )


def _is_text(text):
    """Whether it is None, or says which text a model was trained on."""
    return text is None or (
        isinstance(text, dict) and all(type(text.get(key)) is str for key in ("name", "sha256"))
    )


def _is_finite_number(value):
    return type(value) in (int, float) and abs(value) < math.inf


def _digest(content):
    """SHA-256 of all of a checkpoint but its own entry."""
    digest = hashlib.sha256()
    _feed(digest, {key: value for key, value in content.items() if key != "sha256"})
    return digest.hexdigest()


def _feed(digest, value):
    """Tensors by type, shape and bytes; dicts in the order of their keys; the rest as JSON."""
    if isinstance(value, torch.Tensor):
        value = value.contiguous()
        digest.update(f"tensor {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.flatten().view(torch.uint8).numpy().data)
    elif isinstance(value, dict):
        digest.update(f"dict {len(value)}\n".encode())
        for key in sorted(value):
            _feed(digest, key)
            _feed(digest, value[key])
    elif isinstance(value, list | tuple):
        digest.update(f"list {len(value)}\n".encode())
        for item in value:
            _feed(digest, item)
    else:
        digest.update(f"{json.dumps(value)}\n".encode())
