"""What a dataset may draw from beside the Trainer: random generators, their states, their seeds.

PyTorch's global generator is not among them: the Trainer keeps that one itself.
"""

import hashlib
import json
import random
from types import ModuleType

import numpy as np
import torch

KINDS = (torch.Generator, random.Random, np.random.RandomState, np.random.Generator)
CLOSED = (torch.Tensor, np.ndarray, type, ModuleType)  # hold none, or those of others
SHORT = 100  # items of a list, tuple or dict that are all looked at


def generators(dataset):
    """Python's and NumPy's global generators, and those that the dataset keeps in its attributes,
    in lists, tuples and dicts there, or in objects that it holds, such as a transform or another
    dataset: each once, in the same order for the same dataset.

    Of a list, tuple or dict of more than SHORT items the first says whether to look at them.
    """
    found = [random.getstate.__self__, np.random.get_state.__self__]
    seen, waiting = set(map(id, found)), [dataset]
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, KINDS):
            found.append(value)
        else:
            waiting += reversed(_held(value))
    return found


def _held(value):
    """What a value holds that is a generator or may hold one."""
    held = [*vars(value).values()] if _has_attributes(value) else []
    if isinstance(value, dict | list | tuple):
        items = value.values() if isinstance(value, dict) else value
        if len(items) <= SHORT or _is_open(next(iter(items))):
            held += items
    return [item for item in held if isinstance(item, dict | list | tuple) or _is_open(item)]


def _is_open(value):
    return isinstance(value, KINDS) or _has_attributes(value)


def _has_attributes(value):
    return hasattr(value, "__dict__") and not isinstance(value, CLOSED)


def states(dataset):
    """The states of all generators, as text: a weights-only file may hold it."""
    return json.dumps([_state(each) for each in generators(dataset)], default=lambda a: a.tolist())


def restore(dataset, text):
    """Set the generators of `states`. Raises ValueError for a dataset that has others."""
    found, kept = generators(dataset), json.loads(text)
    if len(found) != len(kept):
        raise ValueError(f"the dataset has {len(found) - 2} generators, had {len(kept) - 2}")
    for generator, state in zip(found, kept, strict=True):
        _set_state(generator, state)


def seed(found, value):
    """Seed PyTorch's global generator and those that `generators` found from one whole number."""
    torch.manual_seed(value)
    for place, generator in enumerate(found, start=1):
        own = digest(f"{value} {place}".encode())
        if isinstance(generator, torch.Generator):
            generator.manual_seed(own)
        elif isinstance(generator, np.random.Generator):
            fresh = type(generator.bit_generator)(own)
            generator.bit_generator.state = fresh.state
        else:
            generator.seed(own % 2**32)


def digest(content):
    """A seed of 63 bits from bytes."""
    return int.from_bytes(hashlib.sha256(content).digest()[:8], "little") >> 1


def _state(generator):
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    if isinstance(generator, random.Random):
        return generator.getstate()
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    return generator.get_state(legacy=False)


def _set_state(generator, state):
    if isinstance(generator, torch.Generator):
        generator.set_state(torch.tensor(state, dtype=torch.uint8))
    elif isinstance(generator, random.Random):
        version, numbers, gauss = state
        generator.setstate((version, tuple(numbers), gauss))
    elif isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    else:
        generator.set_state(state)
