"""The network as a function, and its weights as a file."""

from __future__ import annotations

import pickle
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import diffusion
from diffusion import Denoiser, WeightsError
from diffusion.files import FORMAT, save_weights
from diffusion.schedule import Power

NUM_CLASSES = 3


def network(num_classes: int = 0, seed: int = 0, **architecture) -> Denoiser:
    """A network with random weights everywhere, for data with uneven moments."""
    generator = torch.Generator().manual_seed(seed)
    groups = max(1, num_classes)
    mean = 0.3 * torch.randn(groups, 2, generator=generator)
    covariance = torch.diag_embed(0.1 + torch.rand(groups, 2, generator=generator))
    model = Denoiser(mean, covariance, num_classes=num_classes, generator=generator, **architecture)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


@pytest.fixture(params=[0, NUM_CLASSES], ids=["unconditional", "conditional"])
def model(request) -> Denoiser:
    return network(request.param)


def labels_for(model: Denoiser, n: int) -> torch.Tensor | None:
    return torch.arange(n) % NUM_CLASSES if model.num_classes else None


def same_bits(one: Denoiser, other: Denoiser) -> bool:
    state, loaded = one.state_dict(), other.state_dict()
    return state.keys() == loaded.keys() and all(torch.equal(state[k], loaded[k]) for k in state)


# --- The function -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [0, 1, 7])
def test_forward_keeps_shape_and_dtype(model, dtype, n):
    model = model.to(dtype)
    x = torch.ones(n, 2, dtype=dtype)
    answer = model(x, torch.linspace(0, 1, n), labels_for(model, n))
    assert (answer.shape, answer.dtype) == ((n, 2), dtype)


def test_one_time_or_label_for_all_equals_one_for_each(model, generator):
    model = model.double()
    x = torch.randn(9, 2, generator=generator, dtype=torch.float64)
    label = 2 if model.num_classes else None
    each = None if label is None else torch.full((9,), label)
    one = model(x, 0.3, label)
    for t in (0.3, torch.tensor(0.3), torch.full((9,), 0.3, dtype=torch.float64)):
        torch.testing.assert_close(model(x, t, each), one, rtol=1e-6, atol=1e-6)


def test_rows_do_not_influence_each_other(model, generator):
    x = 3 * torch.randn(5000, 2, generator=generator)
    t, labels = torch.rand(5000, generator=generator), labels_for(model, 5000)
    whole = model(x, t, labels)  # gradients are kept, so all rows go at once
    with torch.no_grad():
        torch.testing.assert_close(model(x, t, labels), whole, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            model(x, 0.5, labels), model(x, torch.full((5000,), 0.5), labels), rtol=1e-4, atol=1e-5
        )
        order = torch.randperm(5000, generator=generator)
        permuted = model(x[order], t[order], None if labels is None else labels[order])
        torch.testing.assert_close(permuted, whole[order], rtol=1e-4, atol=1e-5)


def test_every_parameter_gets_a_gradient(model):
    x, t = torch.ones(6, 2), torch.linspace(0, 1, 6)
    model(x, t, labels_for(model, 6)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_point_time_and_label_all_matter(model):
    x, label = torch.tensor([[0.3, -0.2]]), 0 if model.num_classes else None
    answer = model(x, 0.5, label)
    assert not torch.allclose(model(x + 0.1, 0.5, label), answer)
    assert not torch.allclose(model(x, 0.6, label), answer)
    if model.num_classes:
        assert not torch.allclose(model(x, 0.5, 1), answer)


def test_untrained_network_is_ideal_for_round_gaussian_data():
    mean, variance = torch.tensor([0.5, -1.0]), 0.25
    model = Denoiser(mean, variance * torch.eye(2))
    x, sigma = torch.tensor([[1.0, 2.0], [0.0, -3.0]]), 0.7
    # The posterior mean of eps given x = m + s n + sigma eps.
    expected = sigma * (x - mean) / (sigma**2 + variance)
    torch.testing.assert_close(model.noise(x, sigma), expected)


@pytest.mark.parametrize(
    ("x", "t", "message"),
    [
        (torch.zeros(2), 0.5, "shape"),
        (torch.zeros(3, 3), 0.5, "shape"),
        (torch.zeros(1, 3, 2), 0.5, "shape"),
        (torch.tensor([[0.0, torch.nan]]), 0.5, "NaN or infinite"),
        (torch.tensor([[torch.inf, 0.0]]), 0.5, "NaN or infinite"),
        (torch.zeros(3, 2), torch.zeros(2), "t must be one number or 3"),
        (torch.zeros(3, 2), torch.nan, r"t must be in \[0, 1\]"),
        (torch.zeros(3, 2), 1.001, r"t must be in \[0, 1\]"),
        (torch.zeros(3, 2), torch.tensor([0.0, -1e-6, 1.0]), r"t must be in \[0, 1\]"),
        ([[0.0, "a"]], 0.5, "must be a tensor"),
    ],
)
def test_bad_points_and_times_are_refused(model, x, t, message):
    with pytest.raises(ValueError, match=message):
        model(x, t, 0 if model.num_classes else None)


@pytest.mark.parametrize(
    "labels",
    [
        None,
        -1,
        NUM_CLASSES,
        torch.tensor([0, 1, NUM_CLASSES, 0]),
        torch.zeros(3, dtype=torch.int64),
        torch.zeros(4, 1, dtype=torch.int64),
        torch.full((4,), 0.5),
        0.5,
    ],
)
def test_bad_labels_are_refused(labels):
    with pytest.raises(ValueError, match="labels"):
        network(NUM_CLASSES)(torch.zeros(4, 2), 0.5, labels)


@pytest.mark.parametrize("labels", [0, torch.zeros(4, dtype=torch.int64)])
def test_labels_for_an_unconditional_model_are_refused(labels):
    with pytest.raises(ValueError, match="unconditional"):
        network()(torch.zeros(4, 2), 0.5, labels)


def test_initial_weights_come_from_the_generator_alone():
    one = network(NUM_CLASSES, seed=1)
    torch.rand(1)  # moves the global state, which must not matter
    assert same_bits(one, network(NUM_CLASSES, seed=1))
    assert not same_bits(one, network(NUM_CLASSES, seed=2))


# --- The file -----------------------------------------------------------------------------------


@pytest.mark.parametrize("num_classes", [0, NUM_CLASSES])
def test_save_and_load_round_trip(num_classes, tmp_path):
    model = network(num_classes, width=24, depth=3, schedule=Power(0.01, 2.0, rho=3.0)).train()
    diffusion.save(model, tmp_path / "new" / "model.pt")
    loaded = diffusion.load(tmp_path / "new" / "model.pt")
    assert same_bits(model, loaded)
    assert not loaded.training
    assert loaded.schedule == model.schedule
    x, labels = torch.randn(5, 2), labels_for(model, 5)
    assert torch.equal(model(x, 0.3, labels), loaded(x, 0.3, labels))


@pytest.fixture(scope="module")
def content(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("weights") / "model.pt"
    diffusion.save(network(width=16), path)
    return path.read_bytes()


def refused(path: Path, message: str) -> None:
    with pytest.raises(WeightsError, match=message) as caught:
        diffusion.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, ValueError)


def test_missing_file_and_folder_are_refused(tmp_path):
    refused(tmp_path / "none.pt", "no weights file")
    refused(tmp_path, "folder")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.9, 0.999])
def test_truncated_file_is_refused(share, content, tmp_path):
    path = tmp_path / "model.pt"
    path.write_bytes(content[: int(share * len(content))])
    refused(path, "damaged")


def test_flipped_bit_is_refused_or_harmless(content, tmp_path, generator):
    path, refusals = tmp_path / "model.pt", 0
    for position in torch.randint(8 * len(content), (200,), generator=generator).tolist():
        flipped = bytearray(content)
        flipped[position // 8] ^= 1 << position % 8
        path.write_bytes(flipped)
        try:
            # Some bits of a zip archive, such as dates and padding, mean nothing.
            assert same_bits(diffusion.load(path), network(width=16))
        except WeightsError:
            refusals += 1
    assert refusals > 20


def unpickled(_: object) -> None:
    raise AssertionError("loading ran code from the file")


class Hostile:
    def __reduce__(self):
        return unpickled, (0,)


def altered(**changes) -> dict:
    model = network(width=16)
    whole = {"kind": "diffusion.Denoiser", "format": FORMAT, "config": {}, "sha256": ""}
    return whole | {"state": model.state_dict()} | changes


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        (altered(kind="mingpt.GPT"), "holds mingpt.GPT"),
        ({"lm_head.weight": torch.zeros(3, 3)}, "not the weights of"),
        (torch.zeros(3), "not the weights of"),
        ([1, 2], "not the weights of"),
        (altered(), "SHA-256"),
        (altered(extra=1), "SHA-256"),
        (altered(config=torch.zeros(1)), r"SHA-256|damaged"),
        (altered(state={"mean": 3}), r"SHA-256|damaged"),
        (altered(state=None), r"SHA-256|damaged"),
        (Hostile(), "damaged"),
    ],
)
def test_other_content_is_refused(stored, message, tmp_path):
    torch.save(stored, tmp_path / "model.pt")
    refused(tmp_path / "model.pt", message)


@pytest.mark.parametrize("written", [{}, {"format": FORMAT - 1}])
def test_file_of_an_earlier_version_is_refused(written, tmp_path):
    path = tmp_path / "model.pt"
    diffusion.save(network(width=16), path)
    content = torch.load(path, weights_only=True)
    del content["format"]
    torch.save(content | written, path)
    refused(path, "of an earlier version, whose parameters had other names; train it again")


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "model.pt"
    for stored in (b"hello", pickle.dumps(Hostile()), pickle.dumps({"kind": "diffusion.Denoiser"})):
        path.write_bytes(stored)
        refused(path, r"damaged|not the weights")


@pytest.mark.parametrize(
    "change",
    [
        {"width": 17},
        {"depth": 5},
        {"num_classes": 4},
        {"width": -1},
        {"schedule": {"kind": "cosine"}},
        {"schedule": None},
        {"colour": "red"},
    ],
)
def test_weights_that_do_not_fit_their_architecture_are_refused(change, tmp_path):
    model, path = network(width=16, depth=2), tmp_path / "model.pt"
    diffusion.save(model, path)
    config = torch.load(path, weights_only=True)["config"]
    save_weights(path, "diffusion.Denoiser", config | change, model.state_dict())
    refused(path, "does not fit")


def test_failed_save_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "model.pt"
    old, new = network(width=16), network(width=16, seed=1)
    diffusion.save(old, path)
    with pytest.raises(OSError, match=r"File exists|Not a directory"):
        diffusion.save(new, path / "model.pt")  # the folder is a file
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="directory"):
        diffusion.save(new, tmp_path / "folder")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))  # the disk is full, so to speak
    try:
        with pytest.raises(OSError, match="too large"):
            diffusion.save(new, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {entry.name for entry in tmp_path.iterdir()} == {"model.pt", "folder"}
    assert same_bits(diffusion.load(path), old)


KILLED_WHILE_SAVING = """
import os, signal, sys, time
import torch, diffusion
from diffusion import Denoiser

path = sys.argv[1]
models = [Denoiser(torch.full((2,), value), torch.eye(2)) for value in (1.0, 2.0)]
diffusion.save(models[0], path)
found, attempt = set(), 0
while attempt < 20 or len(found) < 2:
    at_work, say = os.pipe()
    child = os.fork()
    if not child:
        while True:
            for model in models:
                diffusion.save(model, path)
                os.write(say, b".")
    os.read(at_work, 1)
    time.sleep(0.0013 * attempt)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(at_work)
    os.close(say)
    found.add(diffusion.load(path).mean[0, 0].item())
    attempt += 1
print(*sorted(found))
"""


def test_process_killed_while_saving_leaves_a_whole_file(tmp_path):
    process = subprocess.run(
        [sys.executable, "-c", KILLED_WHILE_SAVING, str(tmp_path / "model.pt")],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout == "1.0 2.0\n"  # both, and nothing else: they died in the middle of work


# --- At one noise level -------------------------------------------------------------------------


@pytest.mark.parametrize("n", [5, 5000])
@pytest.mark.parametrize("sigma", [0.0067, 0.2, 1.0])
def test_one_noise_level_is_the_case_of_many_equal_ones(model, n, sigma):
    model = model.double()
    x = torch.randn(n, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    labels, levels = labels_for(model, n), torch.full((n,), sigma, dtype=torch.float64)
    expected = model.noise(x, levels, labels)
    torch.testing.assert_close(model.noise(x, sigma, labels), expected, rtol=1e-9, atol=1e-9)
    with torch.no_grad():
        found = model.at(sigma, labels)(x)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_several_points_at_every_level_are_as_many_calls(model):
    model, k, n = model.double(), 3, 3000
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(k, n, 2, generator=generator, dtype=torch.float64)
    sigma = torch.rand(n, generator=generator, dtype=torch.float64) + 0.01
    labels = labels_for(model, k)
    with torch.no_grad():
        found = model.noise(x, sigma, None if labels is None else labels[:, None])
        for i in range(k):
            own = None if labels is None else labels[i].expand(n)
            torch.testing.assert_close(found[i], model.noise(x[i], sigma, own))
