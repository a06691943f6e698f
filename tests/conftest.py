"""Shared by all tests: reproducible hypothesis runs, and small models trained once per session."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, settings

settings.register_profile(
    "reproducible", derandomize=True, deadline=None, max_examples=50,
    suppress_health_check=[HealthCheck.too_slow],  # no test depends on how busy the machine is
)  # fmt: skip
settings.load_profile("reproducible")


def pytest_configure(config: pytest.Config) -> None:
    # The first torch.func.jvp of a process makes torch itself call the deprecated torch.jit.script.
    config.addinivalue_line(
        "filterwarnings", "ignore:.torch.jit.script. is deprecated:DeprecationWarning"
    )
    # Where there is one processor, PyTorch advises against the worker processes of a test.
    config.addinivalue_line(
        "filterwarnings", "ignore:This DataLoader will create . worker processes:UserWarning"
    )


def _trained(labelled: bool):
    from diffusion import Training, build
    from diffusion.data import NUM_CLASSES, class_of, training_points

    points = training_points(1000)
    labels = class_of(points) if labelled else None
    model = build(points, labels, num_classes=NUM_CLASSES if labelled else 0)
    options = {"epochs": 300, "noise_samples": 1, "learning_rate": 1e-2, "ema_decay": 0.98}
    return Training(model, points, labels, seed=1, **options).run()


@pytest.fixture(scope="session")
def denoiser():
    """An unconditional model after a short training run; not to be changed by a test."""
    return _trained(labelled=False)


@pytest.fixture(scope="session")
def conditional():
    """A conditional model after a short training run; not to be changed by a test."""
    return _trained(labelled=True)


class Clock:
    """A module's `time`, which passes by `step` seconds whenever the module looks."""

    def __init__(self, step: float = 0.0) -> None:
        self.now, self.step = 0.0, step

    def monotonic(self) -> float:
        self.now += self.step
        return self.now

    perf_counter = monotonic


@pytest.fixture
def clock_of(monkeypatch):
    """clock_of(module, step=0.0): the `Clock` that the module has for the test."""

    def placed(module, step: float = 0.0) -> Clock:
        clock = Clock(step)
        monkeypatch.setattr(module, "time", clock)
        return clock

    return placed


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
