"""Norms taken apart: the largest part is the bound for the whole, and outputs are chosen right."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from verinet.solvers.lipschitz.form import Form, Matrix
from verinet.solvers.lipschitz.reduce import chosen_rows, parts_of, whole_of

from verinet.errors import UsageError

INF = math.inf


def _linear(matrix: np.ndarray, radius: float = 0.0) -> Form:
    """y = M x with nothing nonlinear."""
    outputs, inputs = matrix.shape
    none = np.zeros(0, dtype=np.int64)
    error = None if radius == 0 else np.full(matrix.shape, radius)
    empty = [Matrix(np.zeros(shape)) for shape in ((0, 0), (0, inputs), (outputs, 0))]
    return Form(empty[0], empty[1], empty[2], Matrix(matrix, error), none, none, none)


@pytest.mark.parametrize(
    ("norm", "count", "inner"),
    [
        (2, 1, 2.0),
        (INF, 3, (INF, 2.0)),
        ((2, INF), 3, 2.0),
        ((1, 2), 4, 2.0),
        ((1, 1), 4, (2.0, 1.0)),
        ((1, INF), 12, 2.0),
    ],
)
def test_parts(norm: Any, count: int, inner: Any) -> None:
    matrix = np.arange(12.0).reshape(3, 4)
    parts = parts_of(_linear(matrix, 1e-3), norm)
    assert len(parts) == count and {part.norm for part in parts} == {inner}
    pieces = [part.form.dy.value for part in parts]
    assert sorted(np.concatenate([p.ravel() for p in pieces])) == sorted(matrix.ravel())
    assert all(
        part.form.dy.radius is not None and part.form.dy.radius.shape == p.shape
        for part, p in zip(parts, pieces, strict=True)
    )


@pytest.mark.parametrize("norm", [2, INF, (1, 2), (1, INF), (2, INF), (INF, 1), (1, 1.5)])
def test_the_whole_covers_every_part(norm: Any) -> None:
    """For a linear map: the norm that `whole_of` asks for is at least the one that was asked for."""
    matrix = np.random.default_rng(0).standard_normal((3, 4))
    p, q = norm if isinstance(norm, tuple) else (norm, norm)
    whole = whole_of(_linear(matrix), norm).norm
    outer = whole if isinstance(whole, tuple) else (whole, whole)
    x = np.random.default_rng(1).standard_normal((500, 4))
    y = x @ matrix.T

    def ratio(a: float, b: float) -> np.ndarray:
        return np.asarray(np.linalg.norm(y, ord=b, axis=1) / np.linalg.norm(x, ord=a, axis=1))

    assert (ratio(*outer) >= ratio(p, q) * (1 - 1e-12)).all()
    assert outer[0] >= 2 >= outer[1]


def test_outputs_are_chosen() -> None:
    assert chosen_rows(None, 3) is None
    np.testing.assert_array_equal(chosen_rows(2, 3), [[0, 0, 1]])
    np.testing.assert_array_equal(chosen_rows([1, 0], 3), [[0, 1, 0], [1, 0, 0]])
    np.testing.assert_array_equal(chosen_rows([[1, -1, 0]], 3), [[1, -1, 0]])
    for wrong in (3, -1, [], True, "0", 1.0, np.zeros((0, 3)), np.zeros((1, 2)), np.zeros((1, 1, 1), dtype=int)):
        with pytest.raises(UsageError):
            chosen_rows(wrong, 3)
