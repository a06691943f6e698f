"""Files that are either complete or absent, and weights that prove they were not altered."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

# Of weights files and checkpoints; rises when parameters get other names.
FORMAT = 2


class WeightsError(ValueError):
    """A weights file that is missing, damaged, altered, or holds another kind of model."""


def write_atomically(path: str | Path, content: bytes) -> None:
    """Write a file through a temporary neighbour, so that no reader ever sees half of it.

    The folder is made if it is not there.

    Raises:
        OSError: the folder or the file cannot be written; an existing file is then untouched.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name[:32]}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:  # Ctrl-C may come when the file has just got its name
        Path(temporary).unlink(missing_ok=True)
        raise


def write_json(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write numbers and names as JSON, atomically.

    Raises:
        ValueError: a number is NaN or infinite; nothing is written.
        OSError: as `write_atomically`.
    """
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    write_atomically(path, (text + "\n").encode())


def check_writable(folder: str | Path) -> None:
    """Prove that files can be written into a folder, or into the one it would be made in.

    Leaves nothing behind: `write_atomically` makes the folder when there is something to write.

    Raises:
        ValueError: they cannot.
    """
    folder = Path(folder)
    try:
        existing = next(place for place in (folder, *folder.parents) if _is_there(place))
        for name in folder.relative_to(existing).parts:
            _is_there(existing / name)  # a name may be too long
        with tempfile.TemporaryFile(dir=existing):
            return
    except OSError as error:
        raise ValueError(f"cannot write into {folder}: {error.strerror}") from None


def check_file(path: str | Path) -> None:
    """Prove that a file can be written, as `check_writable` does.

    Raises:
        ValueError: it cannot, or there is a folder of this name.
    """
    path = Path(path)
    check_writable(path.parent)
    try:
        if _is_there(path) and path.is_dir():
            raise ValueError(f"cannot write {path}: there is a folder of this name")
    except OSError as error:
        raise ValueError(f"cannot write {path}: {error.strerror}") from None


def _is_there(path: Path) -> bool:
    """Whether there is anything of this name, a broken link too; OSError where none can be."""
    try:
        os.lstat(path)
    except FileNotFoundError:
        return False
    return True


def _digest(config: Mapping, state: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for name in sorted(state):
        digest.update(name.encode() + fingerprint(state[name]).encode())
    return digest.hexdigest()


def fingerprint(*tensors: torch.Tensor | None) -> str:
    """SHA-256 over types, shapes and values of tensors, as hexadecimal digits."""
    digest = hashlib.sha256()
    for tensor in tensors:
        if tensor is None:
            digest.update(b"none")
            continue
        tensor = tensor.detach().cpu().contiguous()
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def unwrapped(model: torch.nn.Module) -> torch.nn.Module:
    """The model inside what `torch.compile`, data parallelism or weight averaging made of it."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and not hasattr(model, "config"):
            inner = getattr(model, "module", None)
        if inner is None:
            return model
        model = inner


def check_savable(model: torch.nn.Module, again: torch.nn.Module) -> None:
    """Refuse, before any training, what a weights file could not give back.

    again: what `load` would build from the file, with fresh weights.

    Raises:
        ValueError: the tensors of the two, but for the losses, differ in names or shapes.
    """
    expected, found = again.state_dict(), model.state_dict()
    changed = sorted(
        name
        for name in expected.keys() | found.keys()
        if name != "losses"
        and (name not in found or name not in expected or found[name].shape != expected[name].shape)
    )
    if changed:
        raise ValueError(
            f"no weights file can hold this model: {', '.join(changed[:3])} is not as its "
            f"configuration {model.config()} has it; undo the change, or keep it with torch.save"
        )


def save_weights(
    path: str | Path, kind: str, config: Mapping, state: Mapping[str, torch.Tensor]
) -> None:
    """Write architecture and parameters of a model, with a SHA-256 over both, atomically."""
    buffer = io.BytesIO()
    content = {
        "kind": kind,
        "format": FORMAT,
        "config": dict(config),
        "state": dict(state),
        "sha256": _digest(config, state),
    }
    torch.save(content, buffer)
    write_atomically(path, buffer.getvalue())


def load_weights(path: str | Path, kind: str) -> tuple[dict, dict[str, torch.Tensor]]:
    """Read what `save_weights` wrote: (config, state), tensors on the CPU.

    Raises:
        WeightsError: the file is missing, truncated, altered, of another kind of model, or written
            before its parameters got their names of today.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise WeightsError(f"no weights file at {path}") from None
    except IsADirectoryError:
        raise WeightsError(f"{path} is a folder, not a weights file") from None
    except PermissionError:
        raise WeightsError(f"no permission to read {path}") from None
    except Exception:
        raise WeightsError(f"{path} is damaged or is not a weights file") from None
    if not isinstance(content, dict) or content.get("kind") != kind:
        known = content if isinstance(content, dict) else {}
        names = (known.get(key) for key in ("kind", "format"))
        found = next((name for name in names if isinstance(name, str)), "something else")
        raise WeightsError(f"{path} holds {found}, not the weights of a {kind}")
    if content.get("format") != FORMAT:
        raise WeightsError(
            f"{path} is of an earlier version, whose parameters had other names; train it again"
        )
    try:
        config, state = content["config"], content["state"]
        intact = content["sha256"] == _digest(config, state)
    except (KeyError, TypeError, AttributeError):
        intact = False
    if not intact:
        raise WeightsError(f"{path} was altered after it was written: its SHA-256 does not match")
    return config, state
