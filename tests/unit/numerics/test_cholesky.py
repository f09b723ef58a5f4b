"""Verified linear algebra against exact rational arithmetic."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from verinet.numerics.cholesky import (
    Floats,
    factor,
    frobenius_upper,
    nonnegative_norm_upper,
    product_error,
    product_error_norm,
    rounded_up,
    spectral_norm_upper,
    upper_eigenvalue,
    verify_psd,
)

Exact = list[list[Fraction]]


def exact(matrix: Floats) -> Exact:
    return [[Fraction(float(x)) for x in row] for row in matrix]


def is_psd(matrix: Exact) -> bool:
    """Symmetric elimination in rational numbers; a zero pivot needs a zero row."""
    rows = [row[:] for row in matrix]
    for k in range(len(rows)):
        pivot = rows[k][k]
        if pivot < 0 or (pivot == 0 and any(rows[k][j] != 0 for j in range(k + 1, len(rows)))):
            return False
        for i in range(k + 1, len(rows)) if pivot else ():
            ratio = rows[i][k] / pivot
            for j in range(k, len(rows)):
                rows[i][j] -= ratio * rows[k][j]
    return True


def shifted(matrix: Exact, number: Fraction, sign: int) -> Exact:
    """number I + sign matrix."""
    return [[sign * x + (number if i == j else 0) for j, x in enumerate(row)] for i, row in enumerate(matrix)]


def near_singular(seed: int, size: int = 5) -> Floats:
    """A symmetric matrix whose smallest eigenvalue is about 1e-16 of the largest, of either sign."""
    draw = np.random.default_rng(seed)
    thin = draw.standard_normal((size, size - 1)) * 10 ** draw.uniform(-3, 3, size)[:, None]
    gram = thin @ thin.T
    gram += np.diag(draw.choice([-1, 0, 1], size) * 10 ** draw.uniform(-17, -13) * np.diagonal(gram))
    return 0.5 * (gram + gram.T)


def test_no_matrix_is_accepted_that_is_not_positive_semidefinite() -> None:
    indefinite = 0
    for seed in range(300):
        matrix = near_singular(seed)
        true = is_psd(exact(matrix))
        indefinite += not true
        if verify_psd(matrix):
            assert true, f"seed {seed} was accepted"
    assert indefinite > 100, "the sample has to contain matrices that must be refused"


@pytest.mark.parametrize("size", [1, 2, 7, 60, 300])
def test_clearly_positive_matrices_are_accepted(size: int) -> None:
    draw = np.random.default_rng(size)
    orthogonal = np.linalg.qr(draw.standard_normal((size, size)))[0]
    values = np.concatenate([[1e-8], draw.uniform(0.5, 1.5, size - 1)])
    matrix = (orthogonal * values) @ orthogonal.T
    matrix = 0.5 * (matrix + matrix.T)
    assert verify_psd(matrix)
    values[0] = -1e-13
    below = (orthogonal * values) @ orthogonal.T
    assert not verify_psd(0.5 * (below + below.T))


def test_only_overwrite_destroys_the_matrix() -> None:
    matrix = np.eye(4) + 0.1
    before = matrix.copy()
    assert verify_psd(matrix) and verify_psd(matrix.T)
    assert np.array_equal(matrix, before)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e200])
@pytest.mark.parametrize("place", [(0, 0), (2, 0), (2, 2)])
def test_numbers_that_are_not_finite_are_refused(bad: float, place: tuple[int, int]) -> None:
    matrix = np.eye(3)
    matrix[place] = matrix[place[::-1]] = bad
    assert not verify_psd(matrix)
    if not math.isfinite(bad):
        assert upper_eigenvalue(matrix) == math.inf
        assert not spectral_norm_upper(matrix) < math.inf


def test_zero_and_empty_matrices() -> None:
    assert verify_psd(np.zeros((0, 0)))
    assert not verify_psd(np.zeros((2, 2))), "nothing is left after the shift"
    assert upper_eigenvalue(np.zeros((3, 3))) == 0
    assert spectral_norm_upper(np.zeros((3, 2))) == 0 and spectral_norm_upper(np.zeros((0, 2))) == 0


def test_factor_multiplies_back() -> None:
    matrix = np.array([[4.0, 2.0], [2.0, 3.0]])
    lower = factor(matrix.copy())
    assert lower is not None
    assert np.allclose(np.tril(lower) @ np.tril(lower).T, matrix)
    assert factor(np.array([[1.0, 2.0], [2.0, 1.0]])) is None


@given(seed=st.integers(0, 10**6), size=st.integers(1, 5), power=st.integers(-60, 60))
def test_eigenvalue_bounds_hold_exactly_and_are_tight(seed: int, size: int, power: int) -> None:
    draw = np.random.default_rng(seed)
    matrix = draw.standard_normal((size, size)) * 10.0 ** draw.integers(-4, 4, size)
    matrix = (matrix + matrix.T) * 2.0**power
    bound = upper_eigenvalue(matrix)
    assert is_psd(shifted(exact(matrix), Fraction(bound), -1))
    scale = float(np.abs(matrix).max())
    assert bound <= float(np.linalg.eigvalsh(matrix)[-1]) + 1e-11 * scale


@given(seed=st.integers(0, 10**6), rows=st.integers(1, 5), columns=st.integers(1, 5), power=st.integers(-900, 400))
def test_spectral_norms_hold_exactly_and_are_tight(seed: int, rows: int, columns: int, power: int) -> None:
    matrix = np.random.default_rng(seed).standard_normal((rows, columns)) * 2.0**power
    bound = spectral_norm_upper(matrix)
    values = exact(matrix)
    gram = [[sum((a * b for a, b in zip(x, y, strict=True)), Fraction(0)) for y in values] for x in values]
    assert is_psd(shifted(gram, Fraction(bound) ** 2, -1))
    assert bound <= float(np.linalg.norm(matrix, 2)) * (1 + 1e-9)


def test_spectral_norms_of_matrices_with_equal_singular_values() -> None:
    orthogonal = np.linalg.qr(np.random.default_rng(0).standard_normal((120, 120)))[0]
    assert 1 <= spectral_norm_upper(orthogonal) * (1 + 1e-14) <= 1 + 1e-9


def test_radii_are_added_to_spectral_norms() -> None:
    draw = np.random.default_rng(3)
    matrix, radius = draw.standard_normal((4, 6)), draw.random((4, 6)) * 0.1
    bound = spectral_norm_upper(matrix, radius)
    for _ in range(200):
        other = matrix + radius * draw.choice([-1.0, 1.0], radius.shape)
        assert np.linalg.norm(other, 2) <= bound
    assert bound <= np.linalg.norm(matrix, 2) + np.linalg.norm(radius) * (1 + 1e-9)
    assert nonnegative_norm_upper(np.full((2, 2), math.nan)) == math.inf


@given(seed=st.integers(0, 10**6), depth=st.integers(1, 40))
def test_product_errors_hold_exactly(seed: int, depth: int) -> None:
    draw = np.random.default_rng(seed)
    left = draw.standard_normal((3, depth)) * 10.0 ** draw.integers(-6, 6, (3, depth))
    right = draw.standard_normal((depth, 2)) * 10.0 ** draw.integers(-6, 6, (depth, 2))
    product, bound = left @ right, product_error(left, right)
    total = Fraction(0)
    for i, row in enumerate(exact(left)):
        for j, column in enumerate(exact(right.T)):
            off = Fraction(float(product[i, j])) - sum((a * b for a, b in zip(row, column, strict=True)), Fraction(0))
            assert abs(off) <= Fraction(float(bound[i, j]))
            total += off * off
    assert total <= Fraction(product_error_norm(left, right)) ** 2


@given(value=st.floats(0, 1e300), roundings=st.integers(1, 50))
def test_rounding_up_exceeds_so_many_units(value: float, roundings: int) -> None:
    assert Fraction(rounded_up(value, roundings)) >= Fraction(value) * (1 + Fraction(roundings, 2**53))


def test_frobenius_norm_is_an_upper_bound() -> None:
    matrix = np.random.default_rng(1).standard_normal((7, 9)) * 1e-30
    square = sum((x * x for row in exact(matrix) for x in row), Fraction(0))
    assert square <= Fraction(frobenius_upper(matrix)) ** 2 <= square * (1 + Fraction(1, 10**9))
