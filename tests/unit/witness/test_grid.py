"""Points are moved into the box and onto float32 towards the inside."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from verinet.errors import ModelError
from verinet.spec.property import Box
from verinet.witness.grid import Grid, snap

SINGLE = Grid.of([(1,)], [np.float32])
VALUES = st.floats(-1e6, 1e6)


def box(*bounds: tuple[float, float]) -> Box:
    lower, upper = (np.array(side, dtype=np.float64) for side in zip(*bounds, strict=True))
    return Box(lower, upper, lower, upper)


@given(VALUES, VALUES, VALUES)
def test_the_result_is_a_float32_inside_the_box_or_says_otherwise(a, b, x):
    low, high = sorted((a, b))
    snapped = snap(np.array([x]), box((low, high)), SINGLE)
    value = float(snapped.point[0])
    assert float(np.float32(value)) == value
    assert snapped.inside == (low <= value <= high)


@given(VALUES)
def test_a_box_one_step_wide_is_never_missed(x):
    low = np.float32(x)
    high = np.nextafter(low, np.float32(np.inf))
    assert snap(np.array([1e9]), box((float(low), float(high))), SINGLE).point[0] == high


def test_corners_are_rounded_inward():
    snapped = snap(np.array([0.1, 0.3]), box((0.1, 0.3), (0.1, 0.3)), Grid.of([(1, 2)], [np.float32]))
    assert snapped.inside and snapped.point[0] >= 0.1 and snapped.point[1] <= 0.3
    assert float(np.float32(0.3)) > 0.3  # the nearest float32 would have been outside


def test_a_point_that_is_no_float32_is_only_approached():
    snapped = snap(np.array([0.1]), box((0.1, 0.1)), SINGLE)
    assert not snapped.inside and snapped.point[0] == np.float32(0.1)


def test_float64_stays_exact_and_the_inner_bounds_count():
    outer = Box(np.array([0.1]), np.array([0.2]), np.array([0.11]), np.array([0.19]))
    grid = Grid.of([(1,)], [np.dtype("float64")])
    assert snap(np.array([0.0]), outer, grid).point[0] == 0.11
    assert snap(np.array([1.0]), outer, grid).point[0] == 0.19


def test_each_input_has_its_own_type():
    grid = Grid.of([(1, 1), (2,)], [np.float64, np.float32])
    snapped = snap(np.array([0.1, 0.1, 0.1]), box((0, 1), (0, 1), (0, 1)), grid)
    assert snapped.point.tolist() == [0.1, float(np.float32(0.1)), float(np.float32(0.1))]


def test_other_types_are_refused():
    with pytest.raises(ModelError, match="bool"):
        Grid.of([(1,)], [np.bool_])


def test_whole_numbers_are_rounded_inward_and_stay_in_their_type():
    grid = Grid.of([(1,), (1,)], [np.int64, np.uint8])
    snapped = snap(np.array([0.4, -3.0]), box((0.5, 1.5), (-9.0, 1e9)), grid)
    assert snapped.inside and snapped.point.tolist() == [1.0, 0.0]
    assert not snap(np.array([0.4, 1.0]), box((0.1, 0.9), (0.0, 5.0)), grid).inside


def test_half_precision_is_rounded_inward():
    snapped = snap(np.array([0.1]), box((0.1, 0.2)), Grid.checked([(1, "float16")]))
    assert snapped.inside and float(np.float16(snapped.point[0])) == snapped.point[0] >= 0.1


def test_tied_inputs_use_the_narrowest_type():
    declared = Grid.checked([(2, "float64"), (2, "float32"), (1, "int8")])
    shared = declared.shared(np.array([0, 1, 1, 2, 0]), 3)
    assert shared.parts == ((1, "int8"), (2, "float32"))


def test_huge_bounds_do_not_overflow():
    snapped = snap(np.array([1e300]), box((-1e300, 1e300)), SINGLE)
    assert snapped.point[0] == np.finfo(np.float32).max
