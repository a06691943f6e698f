"""Configuration tree, seeding and small file helpers."""

import ast
import json
import math
import numbers
import os
import random
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch


def set_seed(seed):
    """Seed Python's, NumPy's and PyTorch's global generators, as scripts for minGPT expect."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - the point is the global state
    torch.manual_seed(seed)


def setup_logging(config):
    """Create `config.system.work_dir` and record the command line and the config there."""
    work_dir = Path(config.system.work_dir)
    work_dir.mkdir(parents=True, exist_ok=True)
    with atomic_path(work_dir / "args.txt") as path:
        path.write_text(" ".join(sys.argv), encoding="utf-8")
    with atomic_path(work_dir / "config.json") as path:
        path.write_text(json.dumps(config.to_dict(), indent=4), encoding="utf-8")


@contextmanager
def atomic_path(path):
    """A temporary path in the same folder that replaces `path` when the block succeeds.

    The folder is created when missing; if the block raises, `path` keeps its old content.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def check_integer(name, value, at_least):
    """Raise ValueError unless value is a whole number (no bool) of at least at_least."""
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not (whole and value >= at_least):
        raise ValueError(f"{name} should be a whole number of at least {at_least}, not {value!r}")


def check_number(name, value, at_least, below=math.inf):
    """Raise ValueError unless value is a number (no bool, no NaN) in [at_least, below)."""
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not (real and at_least <= value < below):
        bound = "finite" if below == math.inf else f"below {below}"
        raise ValueError(
            f"{name} should be a number of at least {at_least} and {bound}, not {value!r}"
        )


class CfgNode:
    """A tree of named settings: attributes, nested nodes, dotted overrides."""

    def __init__(self, **kwargs):
        self.__dict__.update(kwargs)

    def __str__(self):
        return "\n".join(self._lines(0)) + "\n"

    def _lines(self, depth):
        for key, value in self.__dict__.items():
            if isinstance(value, CfgNode):
                yield f"{' ' * 4 * depth}{key}:"
                yield from value._lines(depth + 1)
            else:
                yield f"{' ' * 4 * depth}{key}: {value}"

    def to_dict(self):
        return {
            key: value.to_dict() if isinstance(value, CfgNode) else value
            for key, value in self.__dict__.items()
        }

    def merge_from_dict(self, values):
        self.__dict__.update(values)

    def merge_from_args(self, args):
        """Apply overrides of the form `--trainer.batch_size=32`, typically sys.argv[1:].

        A value that is a Python literal is read as one, anything else stays a string.
        Raises ValueError for another form or a name the tree does not have.
        """
        for arg in args:
            name, equals, text = arg.partition("=")
            if not (name.startswith("--") and equals):
                raise ValueError(f"override {arg!r} should read --name=value")
            *parents, leaf = name[2:].split(".")
            node = self
            for parent in parents:
                node = getattr(node, parent, None)
                if not isinstance(node, CfgNode):
                    raise ValueError(f"{name[2:]!r} is not a setting: there is no node {parent!r}")
            if not hasattr(node, leaf):
                raise ValueError(f"{name[2:]!r} is not a setting")
            try:
                value = ast.literal_eval(text)
            except (ValueError, SyntaxError):
                value = text
            setattr(node, leaf, value)
