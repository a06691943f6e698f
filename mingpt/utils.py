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
    """Create `config.system.work_dir` and record the command line and the config there: numbers
    and arrays of NumPy and PyTorch as JSON's, anything else that JSON lacks as text."""
    work_dir = Path(config.system.work_dir)
    work_dir.mkdir(parents=True, exist_ok=True)
    with atomic_path(work_dir / "args.txt") as path:
        # a file's name may hold bytes that are no UTF-8
        path.write_text(" ".join(sys.argv), encoding="utf-8", errors="replace")
    with atomic_path(work_dir / "config.json") as path:
        text = json.dumps(config.to_dict(), indent=4, default=_json_value)
        path.write_text(text, encoding="utf-8")


def _json_value(value):
    of_arrays = isinstance(value, np.generic | np.ndarray | torch.Tensor)
    return value.tolist() if of_arrays else str(value)


@contextmanager
def drawing_from(generator):
    """Inside, `generator` (on the CPU) stands in for PyTorch's global one; None changes nothing.

    It moves on by what is drawn; the global one is restored after.
    """
    if generator is None:
        yield
        return
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(generator.get_state())
        yield
        generator.set_state(torch.get_rng_state())


@contextmanager
def atomic_path(path):
    """A temporary path in the same folder that replaces `path` when the block succeeds.

    The folder is created when missing; if the block raises, `path` keeps its old content.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{path.stem[:32]}-"
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=prefix, suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path, content):
    """Write numbers and names as JSON, atomically. Raises ValueError for a number that is not
    finite; nothing is written then."""
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    with atomic_path(path) as temporary:
        # a file's name may hold bytes that are no UTF-8
        temporary.write_text(text + "\n", encoding="utf-8", errors="replace")


def check_writable(folder):
    """Prove that files can be written into a folder, or into the one it would be made in.

    Leaves nothing behind: `atomic_path` makes the folder when there is something to write. Raises
    ValueError where they cannot.
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


def check_file(path):
    """Prove that a file can be written, as `check_writable` does. Raises ValueError where it
    cannot, or where a folder has its name."""
    path = Path(path)
    check_writable(path.parent)
    try:
        if _is_there(path) and path.is_dir():
            raise ValueError(f"cannot write {path}: there is a folder of this name")
    except OSError as error:
        raise ValueError(f"cannot write {path}: {error.strerror}") from None


def _is_there(path):
    """Whether there is anything of this name, a broken link too; OSError where none can be."""
    try:
        os.lstat(path)
    except FileNotFoundError:
        return False
    return True


class InputError(ValueError, AssertionError):
    """Something cannot be so; the message says what is allowed.

    It is an AssertionError too because minGPT asserts, and code written for it may expect that.
    """


def check_integer(name, value, at_least):
    """The value as an int. Raises InputError unless it is a whole number (no bool) of at least
    at_least: an int, NumPy's, or a tensor without dimensions."""
    number = value.item() if isinstance(value, torch.Tensor) and value.ndim == 0 else value
    whole = isinstance(number, numbers.Integral) and not isinstance(number, bool)
    if not (whole and number >= at_least):
        raise InputError(f"{name} should be a whole number of at least {at_least}, not {value!r}")
    return int(number)


def seeded(seed, device="cpu"):
    """A torch.Generator from a whole number of any kind. Raises InputError for another seed."""
    return torch.Generator(device).manual_seed(check_integer("seed", seed, at_least=0))


def check_number(name, value, at_least, below=math.inf, at_most=None):
    """The value as a float. Raises InputError unless it is a number (no bool, no NaN) in
    [at_least, below), or [at_least, at_most]: of Python, NumPy, or a tensor without dimensions."""
    number = value.item() if isinstance(value, torch.Tensor) and value.ndim == 0 else value
    real = isinstance(number, numbers.Real) and not isinstance(number, bool)
    small = real and (number < below if at_most is None else number <= at_most)
    if not (small and number >= at_least):
        bound = "finite" if below == math.inf else f"below {below}"
        bound = bound if at_most is None else f"at most {at_most}"
        raise InputError(
            f"{name} should be a number of at least {at_least} and {bound}, not {value!r}"
        )
    return float(number)


class CfgNode:
    """A tree of named settings: attributes, nested nodes, dotted overrides."""

    def __init__(self, **kwargs):
        self.__dict__.update(kwargs)

    def __str__(self):
        return "".join(f"{line}\n" for line in self._lines(0))

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

        A value that is a Python literal is read as one, anything else stays a string. A dotted
        name leads through any objects. Raises InputError for another form or a name that is not
        there.
        """
        for arg in args:
            name, equals, text = arg.partition("=")
            if not (name.startswith("--") and equals):
                raise InputError(f"override {arg!r} should read --name=value")
            *parents, leaf = name[2:].split(".")
            node = self
            for parent in parents:
                if not hasattr(node, parent):
                    raise InputError(f"{name[2:]!r} is not a setting: there is no node {parent!r}")
                node = getattr(node, parent)
            if not hasattr(node, leaf):
                raise InputError(f"{name[2:]!r} is not a setting")
            try:
                value = ast.literal_eval(text)
            except (ValueError, SyntaxError):
                value = text
            setattr(node, leaf, value)


CN = CfgNode  # minGPT's short name
