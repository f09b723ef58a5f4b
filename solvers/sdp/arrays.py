"""The few dense operations that NumPy and torch spell differently, so that one interior point serves both."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import numpy as np
from verinet.solvers.sdp.cone import Array, Floats, Ints

SMALL = 600  # order up to which a second thread gains little; on busy cores waiting for it costs a factor of ten


class Arrays(Protocol):
    """Dense float64 linear algebra. Everything else is written with operators that both libraries share."""

    def take(self, values: Floats) -> Array:
        """Bring a NumPy array over."""

    def numpy(self, values: Array) -> Floats:
        """Bring an array back."""

    def cholesky(self, matrix: Array) -> Array | None:
        """The lower factor, or None when the matrix is not positive definite. Reads the lower triangle only."""

    def inverse(self, factor: Array) -> Array:
        """The symmetric inverse of factor factor^T."""

    def root_inverse(self, factor: Array) -> Array:
        """The inverse of the factor itself."""

    def product(self, left: Array, right: Array) -> Array:
        """left @ right for matrices."""

    def apply(self, matrix: Array, vector: Array) -> Array:
        """matrix @ vector."""

    def tridiagonal(self, diagonal: Floats, off: Floats) -> tuple[Floats, Floats]:
        """Eigenvalues, ascending, and eigenvectors (columns) of a small symmetric tridiagonal matrix."""

    def definite_solver(self, matrix: Floats) -> Callable[[Floats], Floats] | None:
        """Solves with a positive definite matrix; None when Cholesky says that it is not one."""

    def diagonal(self, vector: Array) -> Array:
        """A diagonal matrix."""

    def group(self, matrix: Array, groups: Groups) -> Array:
        """Sum the rows of `matrix` (or the entries of a vector) that belong to the same variable: (variables, ...)."""


class Groups:
    """Which variable each row belongs to: `index` (rows,) of numbers below `count`."""

    def __init__(self, index: Ints, count: int) -> None:
        self.index, self.count = index, count
        self.order = np.argsort(index, kind="stable")
        ordered = index[self.order]
        self.starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if len(index) else self.order
        self.present = ordered[self.starts]
        self.trivial = len(index) == count and np.array_equal(index, np.arange(count))


class NumpyArrays:
    """NumPy with LAPACK through scipy."""

    def __init__(self) -> None:
        import scipy.linalg as linalg  # noqa: PLC0415 - start-up time

        self._linalg = linalg

    def take(self, values: Floats) -> Array:
        return np.ascontiguousarray(values, dtype=np.float64)

    def numpy(self, values: Array) -> Floats:
        return np.asarray(values, dtype=np.float64)

    def cholesky(self, matrix: Array) -> Array | None:
        # LAPACK reads columns: the transposed view of a row-major symmetric matrix costs no copy inside.
        factor, info = self._linalg.lapack.dpotrf(matrix.T, lower=1, clean=1)
        return factor if info == 0 and np.isfinite(factor[-1, -1]) else None

    def inverse(self, factor: Array) -> Array:
        inverse, _ = self._linalg.lapack.dpotri(factor, lower=1)
        # The other triangle of the result is zero: add the mirror image and halve the diagonal once.
        full = inverse + inverse.T
        full[np.diag_indices_from(full)] *= 0.5
        return full

    def root_inverse(self, factor: Array) -> Array:
        inverse, _ = self._linalg.lapack.dtrtri(factor, lower=1)
        return inverse

    def product(self, left: Array, right: Array) -> Array:
        # The BLAS of scipy, not NumPy's own copy: two pools of waiting threads slow each other down (on two busy cores
        # by a factor of ten). BLAS reads columns, so this forms the transpose of the transposed product.
        second, second_turned = _by_columns(left.T)
        first, first_turned = _by_columns(right.T)
        return self._linalg.blas.dgemm(1.0, first, second, trans_a=first_turned, trans_b=second_turned).T

    def apply(self, matrix: Array, vector: Array) -> Array:
        # Without BLAS: waking a second thread costs more than a product of this size.
        return np.einsum("ij,j->i", matrix, vector)

    def tridiagonal(self, diagonal: Floats, off: Floats) -> tuple[Floats, Floats]:
        values, vectors = self._linalg.eigh_tridiagonal(diagonal, off)
        return values, vectors

    def definite_solver(self, matrix: Floats) -> Callable[[Floats], Floats] | None:
        factor, info = self._linalg.lapack.dpotrf(matrix.T, lower=1, clean=0)
        return None if info else lambda right: self._linalg.lapack.dpotrs(factor, right, lower=1)[0]

    def diagonal(self, vector: Array) -> Array:
        return np.diag(vector)

    def group(self, matrix: Array, groups: Groups) -> Array:
        if groups.trivial:
            return matrix
        total = np.zeros((groups.count, *matrix.shape[1:]))
        if len(groups.order):
            total[groups.present] = np.add.reduceat(matrix[groups.order], groups.starts, axis=0)
        return total


class TorchArrays:
    """torch on any device with float64, CUDA among them."""

    def __init__(self, device: str = "cpu") -> None:
        import torch  # noqa: PLC0415 - start-up time

        self._torch, self._device = torch, torch.device(device)

    def take(self, values: Floats) -> Array:
        return self._torch.as_tensor(np.ascontiguousarray(values), dtype=self._torch.float64, device=self._device)

    def numpy(self, values: Array) -> Floats:
        result: Floats = values.detach().cpu().numpy()
        return result

    def cholesky(self, matrix: Array) -> Array | None:
        factor, info = self._torch.linalg.cholesky_ex(matrix)
        return factor if int(info) == 0 and bool(self._torch.isfinite(factor[-1, -1])) else None

    def inverse(self, factor: Array) -> Array:
        return self._torch.cholesky_inverse(factor)

    def root_inverse(self, factor: Array) -> Array:
        eye = self._torch.eye(len(factor), dtype=factor.dtype, device=self._device)
        return self._torch.linalg.solve_triangular(factor, eye, upper=False)

    def product(self, left: Array, right: Array) -> Array:
        return left @ right

    def apply(self, matrix: Array, vector: Array) -> Array:
        return matrix @ vector

    def tridiagonal(self, diagonal: Floats, off: Floats) -> tuple[Floats, Floats]:
        full = np.diag(diagonal) + np.diag(off, 1) + np.diag(off, -1)
        values, vectors = self._torch.linalg.eigh(self._torch.from_numpy(full))
        return values.numpy(), vectors.numpy()

    def definite_solver(self, matrix: Floats) -> Callable[[Floats], Floats] | None:
        torch = self._torch
        factor, info = torch.linalg.cholesky_ex(self.take(matrix))
        if int(info):
            return None
        return lambda right: self.numpy(torch.cholesky_solve(self.take(right)[:, None], factor)[:, 0])

    def diagonal(self, vector: Array) -> Array:
        return self._torch.diag(vector)

    def group(self, matrix: Array, groups: Groups) -> Array:
        if groups.trivial:
            return matrix
        index = self._torch.as_tensor(groups.index, device=self._device)
        total = self._torch.zeros((groups.count, *matrix.shape[1:]), dtype=matrix.dtype, device=self._device)
        return total.index_add_(0, index, matrix)


def _by_columns(matrix: Floats) -> tuple[Floats, bool]:
    """The matrix as BLAS takes it without a copy: stored by columns, or its transpose with True."""
    if matrix.flags.f_contiguous:
        return matrix, False
    return (matrix.T, True) if matrix.flags.c_contiguous else (np.asfortranarray(matrix), False)


@contextmanager
def few_threads(size: int) -> Iterator[None]:
    """One torch thread while matrices are small; the number of before afterwards."""
    import torch  # noqa: PLC0415 - start-up time

    before = torch.get_num_threads()
    if size <= SMALL:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def arrays(device: str) -> Arrays:
    """NumPy for "numpy", else torch on the named device."""
    return NumpyArrays() if device == "numpy" else TorchArrays(device)
