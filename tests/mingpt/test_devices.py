"""Devices, precision and compilation, asked for by name."""

from functools import partial

import pytest
import torch

from mingpt.devices import resolve_device, resolve_precision
from tests.mingpt.helpers import small_model, trainer


def test_a_compiled_step_gives_the_same_losses_and_keys(monkeypatch):
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    settings = {"embd_pdrop": 0.0, "resid_pdrop": 0.0, "attn_pdrop": 0.0}
    plain = trainer(model=small_model(**settings), max_iters=4)
    compiled = trainer(model=small_model(**settings), max_iters=4, compile=True)
    plain.run()
    compiled.run()
    assert compiled.losses == pytest.approx(plain.losses, abs=1e-5)
    assert list(compiled.state_dict()["model"]) == list(plain.state_dict()["model"])


def test_compiling_where_it_is_impossible_is_refused(monkeypatch):
    def missing(function):
        raise RuntimeError("no C++ compiler\nlong explanation")

    monkeypatch.setattr(torch, "compile", missing)
    with pytest.raises(ValueError, match=r"train without it: no C\+\+ compiler$"):
        trainer(compile=True)


def test_precision_names():
    assert resolve_precision("float32", "cpu") is None
    assert resolve_precision("auto", "cpu") in (None, torch.bfloat16)
    with pytest.raises(ValueError, match="unknown precision 'half'"):
        resolve_precision("half", "cpu")


def test_bfloat16_on_a_processor_without_it_is_refused(monkeypatch):
    monkeypatch.setattr("mingpt.devices.bfloat16_supported", lambda device: False)
    with pytest.raises(ValueError, match="bfloat16 was asked for"):
        trainer(precision="bfloat16")
    assert resolve_precision("auto", "cpu") is None


def test_bfloat16_keeps_the_loss_within_half_a_percent(monkeypatch):
    monkeypatch.setattr("mingpt.devices.bfloat16_supported", lambda device: True)
    full, half = trainer(max_iters=3), trainer(max_iters=3, precision="bfloat16")
    full.run()
    half.run()
    assert half.losses == pytest.approx(full.losses, rel=5e-3)
    assert half.losses != full.losses


def test_cuda_where_there_is_none_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == "cpu"
    with pytest.raises(ValueError, match="finds no CUDA GPU"):
        resolve_device("cuda")
    with pytest.raises(ValueError, match="unknown device 'tpu'"):
        resolve_device("tpu")


def test_devices_go_by_name_or_as_torch_devices(monkeypatch):
    for device in ("cpu", "cpu:0", torch.device("cpu")):
        run = trainer(device=device, max_iters=1)
        assert run.device == "cpu"
        run.run()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("cuda") == "cuda"
    assert resolve_device(torch.device("cuda", 1)) == resolve_device("cuda:1") == "cuda:1"
    with pytest.raises(ValueError, match="'cuda:2' was asked for, but PyTorch finds 2 CUDA GPUs"):
        resolve_device("cuda:2")
    for unknown in ("cpu:x", "", None, 0, True):
        with pytest.raises(ValueError, match=f"unknown device '{unknown}'"):
            resolve_device(unknown)


def test_other_devices_are_pytorchs_to_know(monkeypatch):
    assert resolve_device("meta") == "meta"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for absent in ("mps", "xpu"):
        with pytest.raises(ValueError, match=f"'{absent}' was asked for, but PyTorch cannot use"):
            resolve_device(absent)
    assert resolve_precision("auto", "meta") is None
