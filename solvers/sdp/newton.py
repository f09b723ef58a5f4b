"""One Newton system of the primal-dual interior point: products, the Schur complement matrix, search directions.

With Z = S^-1 and the rank structure of F_k the system never needs the F_k themselves (design note, section 4.2):

    H_kl = tr(F_k X F_l Z) = sum over positions/rows of k and l of
           X o Z  -  (rX) o (rZ)  -  its mirror image  +  (rXr^T) o (rZr^T)

which costs O(N^3) in all. The direction is that of Helmberg, Rendl, Vanderbei and Wolkowicz 1996, also found by
Kojima, Shindoh and Hara 1997 and by Monteiro 1997 (HKM).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from verinet.solvers.sdp.arrays import Arrays, Groups
from verinet.solvers.sdp.cone import Array, Floats
from verinet.solvers.sdp.program import Program

SHIFTS = (0.0, 1e-14, 1e-12, 1e-10)  # added to a unit diagonal that fails to factorise


class Operators:
    """The linear maps of a program on one array library.

    Sizes: N the order of S, q rows, K variables. Vectors y, z, gradients (K,) stay in NumPy; matrices are `Array`.
    """

    def __init__(self, program: Program, library: Arrays) -> None:
        self.program, self.library = program, library
        self.rows, self.base = library.take(program.rows), library.take(program.base)
        self.by_row = Groups(program.row_variable, program.variables)
        self.by_position = Groups(program.position_variable, program.variables)

    def weights(self, y: Floats) -> tuple[Array, Array]:
        """y spread over rows and over positions."""
        take = self.library.take
        return take(y[self.program.row_variable]), take(y[self.program.position_variable])

    def slack(self, y: Floats) -> Array:
        """S(y), shape (N, N)."""
        return self.base + self.combination(y)

    def combination(self, y: Floats) -> Array:
        """sum_k y_k F_k, shape (N, N)."""
        on_rows, on_positions = self.weights(y)
        return self.library.diagonal(on_positions) - self.library.product(self.rows.T, on_rows[:, None] * self.rows)

    def adjoint(self, matrix: Array, rows_matrix: Array | None = None) -> Floats:
        """<F_k, matrix> for every k (K,); `rows_matrix` is rows @ matrix where already known."""
        product = self.library.product(self.rows, matrix) if rows_matrix is None else rows_matrix
        on_rows, library = (product * self.rows).sum(1), self.library
        return library.numpy(library.group(matrix.diagonal(), self.by_position)) - library.numpy(
            library.group(on_rows, self.by_row)
        )

    def schur(self, x: Array, z: Array, rows_x: Array, rows_z: Array) -> Floats:
        """H, shape (K, K)."""
        group, by_row, by_position = self.library.group, self.by_row, self.by_position
        total = group(group(x * z, by_position).T, by_position)
        mixed = group(group(rows_x * rows_z, by_row).T, by_position)
        total = total - mixed - mixed.T
        product = self.library.product
        both = product(rows_x, self.rows.T) * product(rows_z, self.rows.T)
        return self.library.numpy(total + group(group(both, by_row).T, by_row))


@dataclass
class State:
    """A primal-dual point: y and S with its factor, X with its factor, and z for the signed variables."""

    y: Floats
    s: Array
    s_factor: Array
    x: Array
    x_factor: Array
    z: Floats  # (K,): zero for variables without a sign of their own


@dataclass(frozen=True)
class Direction:
    dy: Floats
    ds: Array
    dx: Array
    dz: Floats


class NewtonSystem:
    """The linear system at one state, factorised once and solved for a predictor and a corrector."""

    def __init__(self, operators: Operators, state: State, signed: Array) -> None:
        self.operators, self.state, self.signed = operators, state, signed
        library = operators.library
        self.product, self.inverse = library.product, library.inverse(state.s_factor)
        self.s_root, self.x_root = library.root_inverse(state.s_factor), library.root_inverse(state.x_factor)
        self.rows_x, self.rows_z = self.product(operators.rows, state.x), self.product(operators.rows, self.inverse)
        self.gradient, curvature = operators.program.derivatives(state.y)
        hessian = operators.schur(state.x, self.inverse, self.rows_x, self.rows_z) + curvature
        hessian[np.diag_indices_from(hessian)] += state.z / state.y
        self.adjoint_inverse = operators.adjoint(self.inverse, self.rows_z)
        self._solver = scaled_solver(library, hessian)

    @property
    def usable(self) -> bool:
        return self._solver is not None

    def direction(self, target: float, correction: Direction | None = None) -> Direction:
        """The step towards X S = target I, with Mehrotra's second-order term from an earlier `correction`."""
        state, operators = self.state, self.operators
        right = target * (self.adjoint_inverse + self.signed / state.y) - self.gradient
        extra, extra_z = None, np.zeros_like(state.z)
        if correction is not None:
            second = self.product(correction.dx, self.product(correction.ds, self.inverse))
            extra = 0.5 * (second + second.T)
            extra_z = self.signed * correction.dz * correction.dy / state.y
            right = right - operators.adjoint(extra) - extra_z
        dy = self._solve(right)
        product = self._sandwich(dy)
        dx = target * self.inverse - state.x - 0.5 * (product + product.T)
        if extra is not None:
            dx = dx - extra
        dz = self.signed * (target / state.y - state.z - state.z * dy / state.y) - extra_z
        return Direction(dy, operators.combination(dy), dx, dz)

    def _sandwich(self, dy: Floats) -> Array:
        """X dS Z from the products at hand."""
        on_rows, on_positions = self.operators.weights(dy)
        first = self.product(self.state.x * on_positions, self.inverse)
        return first - self.product(self.rows_x.T, on_rows[:, None] * self.rows_z)

    def _solve(self, right: Floats) -> Floats:
        return np.zeros_like(right) if self._solver is None else self._solver(right)


def scaled_solver(library: Arrays, matrix: Floats) -> Callable[[Floats], Floats] | None:
    """Solves with the matrix scaled to unit diagonal, with a little added when rounding needs it.

    One round of refinement, because H becomes ill conditioned near the optimum. None when H is not usable.
    """
    diagonal = np.diag(matrix)
    if not (np.isfinite(matrix).all() and (diagonal > 0).all()):
        return None
    scaling = 1 / np.sqrt(diagonal)
    scaled = scaling[:, None] * matrix * scaling
    for shift in SHIFTS:
        scaled[np.diag_indices_from(scaled)] = 1 + shift
        solve = library.definite_solver(scaled)
        if solve is not None:
            break
    else:
        return None

    def refined(right: Floats) -> Floats:
        first = scaling * solve(scaling * right)
        return first + scaling * solve(scaling * (right - np.einsum("ij,j->i", matrix, first)))

    return refined
