"""What was trained can be saved, and what was saved gives back the model that was; or neither."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from torch import nn

import diffusion
from diffusion import Denoiser, Training, build, schedule
from diffusion.data import training_points

POINTS = training_points(1000)[:200]
X = POINTS[:9]

WRAPPINGS = {
    "compiled": partial(torch.compile, backend="eager"),
    "data parallel": nn.DataParallel,
    "averaged": torch.optim.swa_utils.AveragedModel,
    "compiled twice": lambda model: torch.compile(nn.DataParallel(model), backend="eager"),
}


@pytest.mark.parametrize("wrap", WRAPPINGS.values(), ids=WRAPPINGS)
def test_a_wrapped_model_is_trained_and_saved_as_itself(wrap, tmp_path):
    model = build(POINTS, width=8)
    trained = Training(wrap(model), POINTS, epochs=2, noise_samples=1).run()
    alone = Training(build(POINTS, width=8), POINTS, epochs=2, noise_samples=1).run()
    diffusion.save(wrap(copy.deepcopy(trained)), tmp_path / "model.pt")
    again = diffusion.load(tmp_path / "model.pt")
    assert torch.equal(again(X, 0.3), alone(X, 0.3))


@dataclass(frozen=True)
class Sine(schedule.Schedule):
    """A schedule of the user's own."""

    def sigma(self, t):
        t = torch.as_tensor(t, dtype=torch.float64)
        return self.sigma_min + (self.sigma_max - self.sigma_min) * torch.sin(torch.pi / 2 * t)

    def sigma_dot(self, t):
        t = torch.as_tensor(t, dtype=torch.float64)
        return torch.pi / 2 * (self.sigma_max - self.sigma_min) * torch.cos(torch.pi / 2 * t)

    def t(self, sigma):
        part = (torch.as_tensor(sigma) - self.sigma_min) / (self.sigma_max - self.sigma_min)
        return torch.asin(part) * 2 / torch.pi


def test_a_schedule_of_ones_own_is_refused_before_training(tmp_path):
    model = build(POINTS, schedule=Sine())
    complaint = r"of class Sine; add the class, a dataclass, to diffusion\.schedule\.KINDS"
    with pytest.raises(ValueError, match=complaint):
        Training(model, POINTS)
    with pytest.raises(ValueError, match=complaint):
        diffusion.save(model, tmp_path / "model.pt")
    assert not list(tmp_path.iterdir())


def test_a_schedule_that_was_added_comes_back(tmp_path, monkeypatch):
    monkeypatch.setitem(schedule.KINDS, "sine", Sine)
    model = Training(build(POINTS, schedule=Sine(0.01, 2.0)), POINTS, epochs=2).run()
    diffusion.save(model, tmp_path / "model.pt")
    again = diffusion.load(tmp_path / "model.pt")
    assert again.schedule == Sine(0.01, 2.0)
    assert torch.equal(again(X, 0.3), model(X, 0.3))


def replaced(model):
    model.output_layer = nn.Linear(8, 3)


def parametrised(model):
    nn.utils.parametrizations.weight_norm(model.output_layer)


def extended(model):
    model.register_buffer("mine", torch.zeros(3))


@pytest.mark.parametrize("change", [replaced, parametrised, extended])
def test_a_changed_model_is_refused_before_training_and_at_writing(change, tmp_path):
    model = build(POINTS, width=8)
    diffusion.save(model, tmp_path / "model.pt")
    before = (tmp_path / "model.pt").read_bytes()
    change(model)
    with pytest.raises(ValueError, match="no weights file can hold this model"):
        Training(model, POINTS)
    with pytest.raises(ValueError, match="no weights file can hold this model"):
        diffusion.save(model, tmp_path / "model.pt")
    assert (tmp_path / "model.pt").read_bytes() == before


def test_other_networks_are_refused_at_writing(tmp_path):
    class Mine(Denoiser):
        """What `load` makes of its weights would be a plain Denoiser."""

    for model in (Mine(torch.zeros(2), torch.eye(2)), nn.Linear(2, 2)):
        with pytest.raises(ValueError, match="only a Denoiser can be saved here"):
            diffusion.save(model, tmp_path / "model.pt")
    assert not list(tmp_path.iterdir())
