"""The matrix of the Lipschitz program, formed in float64 with everything that may be wrong with it charged.

With z = (w, x), rows K = [Lambda^(1/2) (c d); mu^(-1/2) (cy dy)] and columns scaled by powers of two, the program is

    diagonal(lambda, sigma tau) - K^T K  >= 0.

The computed Gram matrix differs from the true one by a symmetric matrix whose entries are at most those of a
non-negative matrix B: its own rounding, the rounding of K, and the radii of the form. For any such matrix
`B <= diag(B 1)` (Gershgorin), so the row sums of B, which need only products with vectors, are all that has to be taken
off the diagonal.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from verinet.solvers.lipschitz.form import Form, Ints, Matrix

from verinet.numerics.cholesky import UNIT, Floats, gamma, verify_psd

_SLACK = 1e-140
"""Above anything that underflow in K can do: entries of K are products of numbers between 2**-1074 and 2**500."""
_EXPONENT = 480
_ROUNDINGS = 5
"""Roundings behind an entry of K: a square root, a reciprocal, a product, and one to spare."""
_CHUNK = 1 << 21


@dataclass(frozen=True)
class Gram:
    """`matrix` (N, N): lower triangle of the computed K^T K; `charge` (N,): what to take off the diagonal.

    `exponents` (N,): column j of K is scaled by 2**exponents[j]. Order: w, then x.
    """

    matrix: Floats
    charge: Floats
    exponents: Ints

    def rescaled(self, change: Ints) -> Gram:
        """Every row and column j scaled by 2**change[j] once more, in place: exact, and the charge follows."""
        factors = np.ldexp(1.0, change)
        matrix = self.matrix
        for i in range(0, len(matrix), 512):
            matrix[i : i + 512] *= factors[i : i + 512, None] * factors
        return Gram(matrix, self.charge * factors * factors, self.exponents + change)

    def dominated_by(self, diagonal: Floats) -> bool:
        """diag(diagonal) - K^T K is proved positive semidefinite for the true K, in the scaled columns."""
        own = np.diagonal(self.matrix)
        # Three roundings of the difference, each relative to the numbers in it.
        lost = 8 * UNIT * (diagonal + np.abs(own) + self.charge)
        work = np.negative(self.matrix, order="C")
        np.fill_diagonal(work, diagonal - own - self.charge - lost)
        return verify_psd(work, overwrite=True)


def halving_exponents(values: Floats) -> Ints:
    """k with 2**k nearest to values**(-1/2): scaling by it brings non-negative values close to 1. Zeros stay."""
    safe = np.where((values > 0) & np.isfinite(values), values, 1.0)
    return np.clip(-np.rint(np.log2(safe) / 2), -_EXPONENT, _EXPONENT).astype(np.int64)


def form_gram(form: Form, multipliers: Floats, mu: Floats, tau: Floats) -> Gram:
    """The charged Gram matrix of a form; multipliers (blocks,) > 0, mu (outputs,) > 0, tau (inputs,) > 0."""
    rows = np.concatenate([np.sqrt(multipliers)[form.v_block], 1 / np.sqrt(mu)])
    cut = len(form.w_block)
    stacked = _stack(form)
    stacked *= rows[:, None]
    exponents = np.concatenate([halving_exponents(multipliers[form.w_block]), halving_exponents(tau)])
    exponents[cut:] += _common(stacked[:, cut:], exponents[cut:])
    columns = np.ldexp(1.0, exponents)
    stacked *= columns
    charge = _charge(form, stacked, rows, columns)
    return Gram(stacked.T @ stacked, charge, exponents)


def _stack(form: Form) -> Floats:
    """[[c, d], [cy, dy]]."""
    (rows, cut), inputs = form.c.value.shape, form.d.value.shape[1]
    stacked = np.empty((rows + form.cy.value.shape[0], cut + inputs))
    stacked[:rows, :cut], stacked[:rows, cut:] = form.c.value, form.d.value
    stacked[rows:, :cut], stacked[rows:, cut:] = form.cy.value, form.dy.value
    return stacked


def _common(block: Floats, exponents: Ints) -> int:
    """One more exponent for all inputs that brings the largest column to about 1."""
    squares = np.einsum("ij,ij->j", block, block) * np.ldexp(1.0, 2 * exponents)
    return int(halving_exponents(np.atleast_1d(squares.max(initial=0.0)))[0])


def _charge(form: Form, stacked: Floats, rows: Floats, columns: Floats) -> Floats:
    """Row sums of B, rounded up; see the module."""
    count, width = stacked.shape
    # All ones: the columns are scaled to similar sizes, so no other weights do much better.
    own = absolute_times(stacked, np.ones(width))
    error = _ROUNDINGS * UNIT * own + rows * _radius_times(form, columns) + width * _SLACK
    total = gamma(count + 4) * absolute_transposed_times(stacked, own)
    total += absolute_transposed_times(stacked, error)
    both = own + error
    total += _ROUNDINGS * UNIT * absolute_transposed_times(stacked, both)
    total += columns * _radius_transposed_times(form, rows * both) + _SLACK * float(both.sum())
    slacked: Floats = total * (1 + 4 * gamma(count + width + 16)) + _SLACK
    return slacked


def absolute_times(matrix: Floats, vector: Floats) -> Floats:
    """|matrix| @ vector without a second matrix of that size."""
    step = max(1, _CHUNK // max(matrix.shape[1], 1))
    parts = [np.abs(matrix[i : i + step]) @ vector for i in range(0, matrix.shape[0], step)]
    return np.concatenate(parts) if parts else np.zeros(0)


def absolute_transposed_times(matrix: Floats, vector: Floats) -> Floats:
    """|matrix|^T @ vector without a second matrix of that size."""
    step = max(1, _CHUNK // max(matrix.shape[1], 1))
    total = np.zeros(matrix.shape[1])
    for i in range(0, matrix.shape[0], step):
        total += vector[i : i + step] @ np.abs(matrix[i : i + step])
    return total


def _radius(matrix: Matrix, vector: Floats, transposed: bool = False) -> Floats | float:
    if matrix.radius is None:
        return 0.0
    result: Floats = vector @ matrix.radius if transposed else matrix.radius @ vector
    return result


def _radius_times(form: Form, vector: Floats) -> Floats:
    """The radii of [[c, d], [cy, dy]] times a vector."""
    rows, cut = form.c.value.shape
    result = np.zeros(rows + form.cy.value.shape[0])
    result[:rows] += _radius(form.c, vector[:cut]) + _radius(form.d, vector[cut:])
    result[rows:] += _radius(form.cy, vector[:cut]) + _radius(form.dy, vector[cut:])
    return result


def _radius_transposed_times(form: Form, vector: Floats) -> Floats:
    """The transposed radii of [[c, d], [cy, dy]] times a vector."""
    rows, cut = form.c.value.shape
    result = np.zeros(cut + form.d.value.shape[1])
    result[:cut] += _radius(form.c, vector[:rows], True) + _radius(form.cy, vector[rows:], True)
    result[cut:] += _radius(form.d, vector[:rows], True) + _radius(form.dy, vector[rows:], True)
    return result
