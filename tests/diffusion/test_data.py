"""The square, the five rectangles that tile it, and points drawn from them."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffusion.data import (
    CLASS_NAMES,
    NUM_CLASSES,
    RECTANGLES,
    SQUARE,
    all_rotations,
    class_of,
    inside,
    random_rotations,
    training_points,
    uniform,
)

coordinates = st.floats(-1, 1) | st.sampled_from([-1.0, -0.5, 0.5, 1.0])


def test_rectangles_tile_the_square():
    assert len(RECTANGLES) == NUM_CLASSES == len(CLASS_NAMES) == 5
    assert (RECTANGLES[:, 1] - RECTANGLES[:, 0]).prod(dim=1).sum() == 4
    assert inside(RECTANGLES.reshape(-1, 2)).all()
    for one, other in combinations(RECTANGLES, 2):
        overlap = torch.minimum(one[1], other[1]) - torch.maximum(one[0], other[0])
        assert (overlap <= 0).any()


@given(coordinates, coordinates)
def test_every_point_of_the_square_has_one_class(x, y):
    point = torch.tensor([[x, y]], dtype=torch.float64)
    closed = [k for k in range(NUM_CLASSES) if inside(point, RECTANGLES[k])]
    opened = [
        k for k, (low, high) in enumerate(RECTANGLES) if ((point > low) & (point < high)).all()
    ]
    assert len(opened) <= 1
    assert class_of(point).tolist() == (opened or closed[:1])
    if not {abs(x), abs(y)} & {0.5, 1.0}:
        assert closed == opened


def test_classes_of_known_points():
    points = torch.tensor([[0, 0], [0, 0.9], [0.9, 0], [0, -0.9], [-0.9, 0], [0.5, 0.5]])
    assert class_of(points).tolist() == [0, 1, 2, 3, 4, 0]
    assert class_of(points).dtype == torch.int64


@pytest.mark.parametrize("x", [math.nextafter(1, 2), -1.5, math.inf, math.nan])
def test_points_outside_the_square_have_no_class(x):
    with pytest.raises(ValueError, match="square"):
        class_of(torch.tensor([[0.0, 0.0], [x, 0.0]], dtype=torch.float64))


def test_inside_includes_the_border_and_nothing_beyond():
    edge = torch.tensor([[1.0, -1.0]], dtype=torch.float64)
    assert inside(edge).all()
    assert not inside(torch.nextafter(edge, 2 * edge)).any()


@pytest.mark.parametrize("n", [1000, 2000, 3000])
def test_training_points_depend_on_the_seed_alone(n):
    before = torch.get_rng_state()
    points = training_points(n, seed=4)
    assert (points.shape, points.dtype) == ((n, 2), torch.float32)
    assert torch.equal(points, training_points(n, seed=4))
    assert not torch.equal(points, training_points(n, seed=5))
    assert torch.equal(before, torch.get_rng_state())
    # Mean 0 and variance 1/3 in each coordinate; the variance of x^2 is 4/45.
    assert (points.mean(dim=0).abs() < 4 * math.sqrt(1 / 3 / n)).all()
    assert ((points.square().mean(dim=0) - 1 / 3).abs() < 4 * math.sqrt(4 / 45 / n)).all()


@pytest.mark.parametrize("n", [-1, 0, 999, 3001])
def test_training_points_keep_to_the_range_of_the_exercise(n):
    with pytest.raises(ValueError, match=r"1000\.\.3000"):
        training_points(n)


@pytest.mark.parametrize("label", range(NUM_CLASSES))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_uniform_fills_the_rectangle(label, dtype, generator):
    points = uniform(20_000, RECTANGLES[label], generator=generator, dtype=dtype)
    assert points.dtype == dtype
    assert inside(points, RECTANGLES[label]).all()
    low, high = RECTANGLES[label]
    # Each quarter holds 1/4 of the points, give or take four standard errors.
    quarter = (points > (low + high).to(dtype) / 2).long() @ torch.tensor([2, 1])
    share = torch.bincount(quarter, minlength=4) / 20_000
    assert (share - 0.25).abs().max() < 4 * math.sqrt(0.25 * 0.75 / 20_000)


def test_random_rotations_are_by_quarters_that_carry_the_class_along(generator):
    points = uniform(4000, generator=generator, dtype=torch.float64)
    labels = class_of(points)
    rotated, rotated_labels = random_rotations(points, labels, generator)
    assert torch.equal(rotated_labels, class_of(rotated))
    z, rotated_z = torch.view_as_complex(points), torch.view_as_complex(rotated)
    quarters = (rotated_z / z).angle() / (math.pi / 2)
    assert torch.allclose(rotated_z.abs(), z.abs())
    assert torch.allclose(quarters, quarters.round())
    share = torch.bincount(quarters.round().long() % 4, minlength=4) / 4000
    assert (share - 0.25).abs().max() < 4 * math.sqrt(0.25 * 0.75 / 4000)
    assert random_rotations(points, None, generator)[1] is None


def test_all_rotations_hold_every_point_four_times(generator):
    points = uniform(500, generator=generator, dtype=torch.float64)
    rotated, labels = all_rotations(points, class_of(points))
    assert torch.equal(labels, class_of(rotated))
    x, y = points.T
    quarters = [(x, y), (-y, x), (-x, -y), (y, -x)]
    assert torch.equal(rotated, torch.cat([torch.stack(quarter, dim=1) for quarter in quarters]))
    assert all_rotations(points, None)[1] is None


def test_square_is_the_one_of_the_exercise():
    assert SQUARE.tolist() == [[-1, -1], [1, 1]]


def test_each_point_may_have_its_own_rectangle(generator):
    points = uniform(500, generator=generator)
    labels = class_of(points)
    assert inside(points, RECTANGLES[labels].transpose(0, 1)).all()
    others = RECTANGLES[(labels + 1) % 5].transpose(0, 1)
    assert not inside(points, others).any()
