"""Boxes made in Python."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from verinet.errors import PropertyError
from verinet.spec import box, linf_ball

VALUES = st.floats(-1e6, 1e6)


@given(st.lists(VALUES, min_size=1, max_size=5), st.floats(0, 10))
def test_ball_is_enclosed_and_encloses(center: list[float], radius: float) -> None:
    ball = linf_ball(center, radius)
    for i, middle in enumerate(center):
        low, high = Fraction(middle) - Fraction(radius), Fraction(middle) + Fraction(radius)
        assert Fraction(float(ball.lower[i])) <= low <= Fraction(float(ball.inner_lower[i]))
        assert Fraction(float(ball.inner_upper[i])) <= high <= Fraction(float(ball.upper[i]))
        if Fraction(float(low)) == low:
            assert ball.lower[i] == ball.inner_lower[i]


def test_ball_is_clipped_and_flattened() -> None:
    ball = linf_ball(np.array([[0.0, 0.5], [1.0, 0.25]]), 0.25, clip=(0.0, 1.0))
    assert ball.lower.tolist() == [0, 0.25, 0.75, 0]
    assert ball.upper.tolist() == [0.25, 0.75, 1, 0.5]


def test_box_is_exact() -> None:
    made = box([0.1, -1], np.array([[0.2], [1]]))
    assert made.lower.tolist() == made.inner_lower.tolist() == [0.1, -1]
    assert not made.is_empty
    assert box([1], [0]).is_empty


@pytest.mark.parametrize(("lower", "upper"), [([0], [1, 2]), ([float("nan")], [1]), ([0], [float("inf")])])
def test_impossible_boxes(lower: list[float], upper: list[float]) -> None:
    with pytest.raises(PropertyError):
        box(lower, upper)


@pytest.mark.parametrize("radius", [-1.0, float("nan"), float("inf")])
def test_impossible_balls(radius: float) -> None:
    with pytest.raises(PropertyError):
        linf_ball([0.0], radius)
