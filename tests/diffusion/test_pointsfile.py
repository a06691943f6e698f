"""Points from a file: what is kept, what is held out, at any scale."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from diffusion import pointsfile

RANDOM = np.random.default_rng(0)


def written(folder, array):
    np.save(folder / "points.npy", array)
    return folder / "points.npy"


def rows(points: torch.Tensor) -> set:
    return {tuple(point) for point in points.tolist()}


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, np.int32, np.uint8])
def test_a_tenth_is_held_out_and_nothing_is_lost(tmp_path, dtype):
    array = RANDOM.permutation(np.arange(500)).reshape(250, 2) % 251
    array = array.astype(dtype)
    points = pointsfile.read(written(tmp_path, array), seed=1)
    assert (points.training.shape, points.held_out.shape) == ((225, 2), (25, 2))
    assert points.training.dtype == points.held_out.dtype == torch.float32
    assert sorted([*points.training.tolist(), *points.held_out.tolist()]) == sorted(
        array.astype(float).tolist()
    )
    assert points.labels is None
    assert points.names == ()


def test_the_seed_alone_chooses_the_tenth(tmp_path):
    path = written(tmp_path, RANDOM.standard_normal((300, 2)))
    first, again, other = (pointsfile.read(path, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.held_out, again.held_out)
    assert rows(first.held_out) != rows(other.held_out)


@pytest.mark.parametrize("dtype", [np.float64, np.int64])
def test_classes_keep_their_numbers_and_each_gives_a_tenth(tmp_path, dtype):
    labels = np.repeat([7, 2, 40], [100, 40, 20])
    array = np.column_stack([RANDOM.integers(-99, 99, (160, 2)), labels]).astype(dtype)
    points = pointsfile.read(written(tmp_path, array))
    assert points.names == ("2", "7", "40")
    assert torch.bincount(points.held_out_labels).tolist() == [4, 10, 2]
    assert torch.bincount(points.labels).tolist() == [36, 90, 18]
    named = {
        (*point, int(points.names[label]))
        for part, own in (
            (points.training, points.labels),
            (points.held_out, points.held_out_labels),
        )
        for point, label in zip(part.tolist(), own, strict=True)
    }
    assert named == {tuple(row) for row in array.tolist()}


def test_a_narrow_coordinate_at_0_is_read_beside_a_wide_one_far_from_it(tmp_path):
    array = RANDOM.standard_normal((100, 2)) * [0.001, 10] + [0, 50]
    points = pointsfile.read(written(tmp_path, array))
    assert {*rows(points.training), *rows(points.held_out)} == rows(
        torch.from_numpy(array.astype(np.float32))
    )
    with pytest.raises(ValueError, match="hardly vary"):
        pointsfile.read(written(tmp_path, array + np.array([20, 0])))


@pytest.mark.parametrize("scale", [1e-12, 1e-3, 50.0, 1e12])
def test_any_scale_is_read(tmp_path, scale):
    array = scale * (RANDOM.standard_normal((100, 2)) + np.array([300, -80]))
    points = pointsfile.read(written(tmp_path, array))
    together = torch.cat([points.training, points.held_out]).double().mean(dim=0)
    np.testing.assert_allclose(together, array.mean(axis=0), rtol=1e-5)
