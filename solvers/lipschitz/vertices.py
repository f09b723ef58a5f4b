"""Jacobians of a form at vertices w = diag(delta) v, delta in {-1, 1}^m, in batches and with their errors charged.

For scalar blocks J(delta) = dy + cy Delta (I - c Delta)^-1 d. Along one coordinate of delta that is a straight line in
delta_i / (1 - delta_i c_ii), so any norm of J is convex there, and its largest value over [-1, 1]^m is at a vertex.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from verinet.solvers.lipschitz.form import Floats, Form, Ints, Matrix

from verinet.errors import UsageError
from verinet.numerics.cholesky import UNIT, frobenius_upper, gamma, nonnegative_norm_upper, rounded_up

Booleans = npt.NDArray[np.bool_]

_ENTRIES = 1 << 21
"""Entries of one batch of Jacobians."""
_ABOVE = 1 + 1e-10


@dataclass(frozen=True)
class Batch:
    """Computed Jacobians (batch, outputs, inputs) and a bound (batch,) of the norm of their errors."""

    jacobians: Floats
    error: Floats


class Vertices:
    """The vertices of one form with scalar blocks. Raises UsageError for other blocks.

    `norm` 2, or infinity for the largest sum of absolute values in a row.
    """

    def __init__(self, form: Form, norm: float = 2.0) -> None:
        self.form, self.norm = ordered(form), norm
        self.blocks = form.blocks
        self.levels = [np.flatnonzero(self.form.layer == level) for level in np.unique(self.form.layer)]
        self._error = 0.0 if form.implicit else self._explicit_error()

    @property
    def batch(self) -> int:
        """How many vertices to take at once."""
        outputs, inputs = (int(n) for n in self.form.dy.value.shape)
        square = self.blocks * self.blocks if self.form.implicit else 1
        return max(1, _ENTRIES // max(outputs * max(inputs, self.blocks), square))

    def signs(self) -> Iterator[Floats]:
        """All vertices, in batches (batch, blocks)."""
        total, bits = 1 << self.blocks, np.arange(self.blocks)
        for first in range(0, total, self.batch):
            numbers = np.arange(first, min(first + self.batch, total), dtype=np.int64)
            ones = (numbers[:, None] >> bits) & 1
            yield 1.0 - 2.0 * ones.astype(np.float64)

    def jacobians(self, signs: Floats) -> Batch:
        """J at the given vertices (batch, blocks)."""
        if self.form.implicit:
            return self._implicit(signs)
        form = self.form
        outputs = form.dy.value.shape[0]
        factors = np.zeros((len(signs), outputs, self.blocks))
        for level, own in reversed(list(enumerate(self.levels))):
            total = np.broadcast_to(form.cy.value[:, own], (len(signs), outputs, len(own)))
            for later in self.levels[level + 1 :]:
                total = total + factors[:, :, later] @ form.c.value[np.ix_(later, own)]
            factors[:, :, own] = total * signs[:, None, own]
        value = form.dy.value + factors @ form.d.value
        return Batch(value, np.full(len(signs), self._error))

    def _explicit_error(self) -> float:
        """The same recursion in absolute values: every sign gives terms of the same sizes."""
        form, outputs = self.form, self.form.dy.value.shape[0]
        size, error = np.zeros((outputs, self.blocks)), np.zeros((outputs, self.blocks))
        rate = gamma(self.blocks + len(self.levels) + 8)
        for level, own in reversed(list(enumerate(self.levels))):
            now, off = np.abs(form.cy.value[:, own]), _radius(form.cy)[:, own].copy()
            for later in self.levels[level + 1 :]:
                part, spread = np.abs(form.c.value[np.ix_(later, own)]), _radius(form.c)[np.ix_(later, own)]
                now += size[:, later] @ part
                off += error[:, later] @ (part + spread) + size[:, later] @ spread
            size[:, own], error[:, own] = now * _ABOVE, (off + rate * now) * _ABOVE
        last = np.abs(form.d.value)
        full = error @ (last + _radius(form.d)) + size @ _radius(form.d) + _radius(form.dy)
        full += rate * (size @ last + np.abs(form.dy.value))
        return self._norm_of_error(full * _ABOVE)

    def _norm_of_error(self, entries: Floats) -> float:
        if self.norm == 2:
            return nonnegative_norm_upper(entries)
        return rounded_up(float(entries.sum(1).max(initial=0.0)) * (1 + 2 * gamma(entries.shape[1] + 4)))

    def _implicit(self, signs: Floats) -> Batch:
        """J = dy + G d with G (I - c Delta) = cy Delta: the error of a computed G comes from its residual.

        With X near the inverse of A = I - c Delta and ||I - X A|| <= beta < 1, ||A^-1|| <= ||X|| / (1 - beta).
        """
        form = self.form
        system = np.eye(self.blocks) - form.c.value * signs[:, None, :]
        right = form.cy.value * signs[:, None, :]
        near = np.asarray(np.linalg.inv(system), dtype=np.float64)
        factors = right @ near
        size, rate = np.abs(system) + _radius(form.c), gamma(self.blocks + 8)
        beta = _frobenius(np.eye(self.blocks) - near @ system)
        charge = rate * (np.abs(near) @ size + np.eye(self.blocks)) + np.abs(near) @ _radius(form.c)
        beta = (beta + _frobenius(charge)) * _ABOVE
        rest = np.abs(right - factors @ system) + np.abs(factors) @ _radius(form.c) + _radius(form.cy)
        rest = rest + rate * (np.abs(factors) @ size + np.abs(right))
        inverse = np.where(beta < 1, _frobenius(near) / np.maximum(1 - beta, 1e-300), np.inf)
        off = _frobenius(rest) * inverse * _ABOVE
        value = form.dy.value + factors @ form.d.value
        local = np.abs(factors) @ (_radius(form.d) + rate * np.abs(form.d.value)) + _radius(form.dy)
        local = local + rate * np.abs(form.dy.value)
        length = frobenius_upper(np.abs(form.d.value) + _radius(form.d))
        error = (off * length + _frobenius(local)) * _ABOVE
        return Batch(value, error if self.norm == 2 else error * math.sqrt(value.shape[2]) * _ABOVE)

    def norms(self, batch: Batch) -> Floats:
        """The norms, computed but not verified, (batch,)."""
        if self.norm != 2:
            result: Floats = np.abs(batch.jacobians).sum(2).max(1)
            return result
        squares = np.asarray(np.linalg.eigvalsh(_gram(batch.jacobians)), dtype=np.float64)[:, -1]
        roots: Floats = np.sqrt(np.maximum(squares, 0.0))
        return roots

    def below(self, batch: Batch, bound: float) -> Booleans:
        """(batch,): the norm of the true Jacobian is proved to be at most bound."""
        room = (bound - batch.error) * (1 - 4 * UNIT)
        if self.norm != 2:
            sums = np.abs(batch.jacobians).sum(2).max(1) * (1 + 2 * gamma(batch.jacobians.shape[2] + 4))
            fine: Booleans = sums <= room
            return fine
        return _proved(batch.jacobians, room)


def _gram(jacobians: Floats) -> Floats:
    flipped = np.swapaxes(jacobians, 1, 2)
    gram: Floats = jacobians @ flipped if jacobians.shape[1] <= jacobians.shape[2] else flipped @ jacobians
    return gram


def _proved(jacobians: Floats, room: Floats) -> Booleans:
    """||J|| <= room, by Cholesky of room^2 I - J J^T shifted down by all that may be wrong with it."""
    gram = _gram(jacobians)
    size, depth = gram.shape[1], max(jacobians.shape[1:])
    squares = np.einsum("bij,bij->b", jacobians, jacobians)
    top = room * room * (1 - 4 * UNIT)
    # Product error gamma ||J||_F^2, both triangles; Rump's shift for the trace of the difference, at most size * top.
    charge = 2 * gamma(depth + 4) * squares * _ABOVE + 4 * (size + 6) * UNIT * size * top * _ABOVE + 1e-290
    work = torch.from_numpy(-0.5 * (gram + np.swapaxes(gram, 1, 2)))
    work.diagonal(dim1=1, dim2=2).add_(torch.from_numpy(top - charge)[:, None])
    fine = (room > 0) & np.isfinite(top) & (top < 1e140) & np.isfinite(squares)
    factor, info = torch.linalg.cholesky_ex(work)
    ends = torch.isfinite(factor.diagonal(dim1=1, dim2=2)).all(1)
    result: Booleans = fine & ((info == 0) & ends).numpy()
    return result


def _frobenius(matrices: Floats) -> Floats:
    """At least the Frobenius norms of a batch."""
    count = matrices.shape[-1] * matrices.shape[-2]
    square = np.einsum("...ij,...ij->...", matrices, matrices)
    result: Floats = np.sqrt(square * (1 + 2 * gamma(count + 4)) + count * 1e-290) * _ABOVE
    return result


def _radius(matrix: Matrix) -> Floats:
    return np.zeros_like(matrix.value) if matrix.radius is None else matrix.radius


def ordered(form: Form) -> Form:
    """The same form with row b of v and entry b of w belonging to block b. UsageError unless blocks are scalar."""
    numbers = np.arange(form.blocks)
    v_at, w_at = np.argsort(form.v_block, kind="stable"), np.argsort(form.w_block, kind="stable")
    if not (np.array_equal(form.v_block[v_at], numbers) and np.array_equal(form.w_block[w_at], numbers)):
        raise UsageError(
            "exact values need scalar blocks: every activation a function of one number, a MaxMin or a reflection",
            hint="use the semidefinite bound for GroupSort of more than two and for max-pools",
        )
    c, d, cy = _picked(_picked(form.c, v_at, 0), w_at, 1), _picked(form.d, v_at, 0), _picked(form.cy, w_at, 1)
    return replace(form, c=c, d=d, cy=cy, v_block=numbers, w_block=numbers)


def _picked(matrix: Matrix, index: Ints, axis: int) -> Matrix:
    radius = None if matrix.radius is None else matrix.radius.take(index, axis)
    return Matrix(matrix.value.take(index, axis), radius)


def fixed(form: Form, block: int, sign: float) -> Form:
    """An ordered form with w_b = sign v_b (sign 1 or -1) put in: one block less, radii enlarged by the rounding.

    v_b = c_b w + c_bb sign v_b + d_b x gives v_b = (c_b w + d_b x) / (1 - sign c_bb).
    """
    rest = np.delete(np.arange(form.blocks), block)
    gain, spread = _gain(form.c.value[block, block], _radius(form.c)[block, block], sign)
    row_c, row_d = _row(form.c, block, rest), _row(form.d, block, None)
    col_c, col_y = _column(form.c, block, rest), _column(form.cy, block, None)
    c = _updated(_picked(_picked(form.c, rest, 0), rest, 1), col_c, row_c, (gain, spread))
    d = _updated(_picked(form.d, rest, 0), col_c, row_d, (gain, spread))
    cy = _updated(_picked(form.cy, rest, 1), col_y, row_c, (gain, spread))
    dy = _updated(form.dy, col_y, row_d, (gain, spread))
    numbers = np.arange(len(rest))
    labels = tuple(form.labels[i] for i in rest) if len(form.labels) == form.blocks else form.labels
    return Form(c, d, cy, dy, numbers, numbers, form.layer[rest], labels, form.implicit)


def _gain(loop: float, radius: float, sign: float) -> tuple[float, float]:
    """sign / (1 - sign c_bb) and what it may be off; infinite when the divisor may vanish."""
    if loop == 0 and radius == 0:
        return sign, 0.0
    divisor = 1 - sign * loop
    off = (radius + 2 * UNIT * (1 + abs(loop))) * _ABOVE
    if abs(divisor) <= 2 * off:
        return sign, math.inf
    gain = sign / divisor
    return gain, (abs(gain) * off / (abs(divisor) - off) + 2 * UNIT * abs(gain)) * _ABOVE


def _row(matrix: Matrix, block: int, rest: Ints | None) -> tuple[Floats, Floats]:
    index = slice(None) if rest is None else rest
    return matrix.value[block, index], _radius(matrix)[block, index]


def _column(matrix: Matrix, block: int, rest: Ints | None) -> tuple[Floats, Floats]:
    index = slice(None) if rest is None else rest
    return matrix.value[index, block], _radius(matrix)[index, block]


def _updated(
    matrix: Matrix, column: tuple[Floats, Floats], row: tuple[Floats, Floats], gain: tuple[float, float]
) -> Matrix:
    """matrix + gain column row^T with all radii."""
    (left, left_off), (right, right_off), (factor, off) = column, row, gain
    change = factor * np.outer(left, right)
    value = matrix.value + change
    sides = np.outer(np.abs(left), right_off) + np.outer(left_off, np.abs(right) + right_off)
    size = np.outer(np.abs(left), np.abs(right))
    radius = _radius(matrix) + (abs(factor) + off) * sides + off * size + 4 * UNIT * (np.abs(value) + np.abs(change))
    # Zeros stay exact zeros: nothing was rounded there.
    radius = np.where((change == 0) & (sides == 0) & (size == 0), _radius(matrix), radius * _ABOVE + 1e-300)
    return Matrix(value, radius)
