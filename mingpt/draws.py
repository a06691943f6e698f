"""What a dataset may draw from beside the Trainer: random generators, their states, their seeds.

PyTorch's global generator is not among them: the Trainer keeps that one itself.
"""

import hashlib
import json
import random

import numpy as np
import torch
from torch.utils.data import Dataset

KINDS = (torch.Generator, random.Random, np.random.RandomState, np.random.Generator)


def generators(dataset):
    """Python's and NumPy's global generators, and those that the dataset, or datasets that it
    holds, keep as attributes: in the same order for the same dataset."""
    return [random.getstate.__self__, np.random.get_state.__self__, *_own(dataset, set())]


def _own(dataset, seen):
    if id(dataset) in seen:
        return
    seen.add(id(dataset))
    for value in vars(dataset).values() if hasattr(dataset, "__dict__") else ():
        if isinstance(value, KINDS):
            yield value
        parts = value if isinstance(value, list | tuple) else [value]
        if parts and isinstance(parts[0], Dataset):  # so that no list of a million items is read
            for part in parts:
                yield from _own(part, seen)


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
