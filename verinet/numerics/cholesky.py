"""Verified statements about float64 matrices: positive semidefinite, largest eigenvalue, 2-norm, errors of products.

A Cholesky factorisation in floating point that runs to its end proves that the matrix plus a small shift is positive
semidefinite, whatever the order of its sums (Rump 2006, "Verification of positive definiteness", BIT 46, corollary
2.4). So a matrix is shifted down first; the shift is what the factorisation may have got wrong. Underflow is covered by
absolute slacks far above it. Nothing here trusts an eigenvalue solver: its values are guesses that Cholesky confirms.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from verinet.numerics import rounding

Floats = npt.NDArray[np.float64]

UNIT = 2.0**-53
_HUGE = 1e140
"""Squares of entries up to here do not overflow, nor do sums of 10**9 of them."""
_TINY = 1e-290
_DENSE = 1200
"""Sides up to which all eigenvalues are computed; above, Lanczos finds the largest."""
_SQUARINGS = 8
_SETTLED = 1e-9
_TRIES = 40


def gamma(terms: int) -> float:
    """gamma_n = n u / (1 - n u) for float64, rounded up (Higham 2002, lemma 3.1)."""
    return rounding.gamma(terms, torch.float64)


def rounded_up(value: float, roundings: int = 8) -> float:
    """At least the real number that `value` >= 0 approximates after so many roundings of relative size u."""
    return math.nextafter(value * (1 + 2 * roundings * UNIT), math.inf)


def shift_needed(size: int, trace: float) -> float:
    """What to take off the diagonal of a matrix of this size and trace before a Cholesky factorisation.

    Rump's bound is gamma_{n+1} / (1 - gamma_{n+1}) times the trace; four times (n + 4) u leaves room for blocked
    factorisations that multiply by reciprocals, for the rounding of the shift and of the trace, and for underflow.
    """
    return 4 * (size + 4) * UNIT * trace * (1 + 1e-6) + size * size * _TINY


def verify_psd(matrix: Floats, *, overwrite: bool = False) -> bool:
    """True only if the symmetric float64 matrix, shape (n, n), is positive semidefinite. False means: not shown.

    Reads the diagonal and the lower triangle. `overwrite` lets it destroy a C-contiguous matrix instead of copying it.
    Certainty costs a margin: the smallest eigenvalue must be above about 4.4e-16 n times the trace.
    """
    size = matrix.shape[0]
    if size == 0:
        return True
    diagonal = np.diagonal(matrix).copy()
    # One NaN or infinity anywhere makes the sum non-finite; entries beyond `_HUGE` could overflow unnoticed.
    if not (diagonal >= 0).all() or not float(np.abs(diagonal).max()) <= _HUGE or not _finite(matrix):
        return False
    lowered = diagonal - shift_needed(size, float(diagonal.sum()))
    if not (lowered > 0).all():
        return False
    work = matrix if overwrite and matrix.flags.c_contiguous else np.array(matrix, dtype=np.float64, order="C")
    np.fill_diagonal(work, lowered)
    return factor(work) is not None


def _finite(matrix: Floats) -> bool:
    """Every entry is finite and below `_HUGE`, without a temporary of the matrix's size."""
    return all(float(np.abs(rows).max(initial=0.0)) <= _HUGE for rows in _slices(matrix))


def _slices(matrix: Floats, entries: int = 1 << 22) -> list[Floats]:
    """The matrix in groups of rows of about so many entries."""
    step = max(1, entries // max(matrix.shape[1], 1))
    return [matrix[i : i + step] for i in range(0, matrix.shape[0], step)]


def factor(matrix: Floats) -> Floats | None:
    """Lower Cholesky factor of a symmetric C-contiguous float64 matrix, or None when it breaks down.

    Destroys the matrix, of which only the lower triangle is read. The result holds the factor in its lower triangle;
    the other triangle is undefined.
    """
    potrf = _potrf()
    if potrf is None:
        try:
            lower: Floats = np.asarray(np.linalg.cholesky(np.tril(matrix) + np.tril(matrix, -1).T), dtype=np.float64)
        except np.linalg.LinAlgError:
            return None
    else:
        # LAPACK sees the transpose: the upper factor of the transpose is the lower factor of the matrix, in place.
        upper, info = potrf(matrix.T, lower=0, clean=0, overwrite_a=1)
        if info != 0:
            return None
        lower = upper.T
    # A NaN may pass the pivot test of the library; it then reaches a later pivot, or is one.
    return lower if bool(np.isfinite(np.diagonal(lower)).all()) else None


def _potrf() -> Any | None:
    """LAPACK's in-place factorisation, when SciPy is installed."""
    try:
        from scipy.linalg import lapack  # noqa: PLC0415 - optional, and costs start-up time
    except ImportError:
        return None
    return lapack.dpotrf


def solve_lower(lower: Floats, right: Floats) -> Floats:
    """lower^-1 right with the lower triangle of a factor; right (n, k). A computation, no bound."""
    try:
        from scipy.linalg import solve_triangular  # noqa: PLC0415 - optional, and costs start-up time
    except ImportError:
        return np.asarray(np.linalg.solve(np.tril(lower), right), dtype=np.float64)
    solved: Floats = solve_triangular(lower, right, lower=True, check_finite=False)
    return solved


def largest_eigenvalue(matrix: Floats) -> float:
    """A guess at the largest eigenvalue of a symmetric matrix; NaN when none is found. Proves nothing."""
    if matrix.shape[0] == 0:
        return 0.0
    if not np.isfinite(matrix).all():
        return math.nan
    if matrix.shape[0] > _DENSE:
        try:
            from scipy.sparse.linalg import eigsh  # noqa: PLC0415 - optional, and costs start-up time

            start = np.random.default_rng(0).standard_normal(matrix.shape[0])
            return float(eigsh(matrix, k=1, which="LA", tol=1e-13, v0=start, return_eigenvectors=False)[0])
        except (ImportError, RuntimeError):
            pass
    return float(np.linalg.eigvalsh(matrix)[-1])


def upper_eigenvalue(matrix: Floats) -> float:
    """At least the largest eigenvalue of a symmetric float64 matrix (its lower triangle counts), shape (n, n).

    Tight to about n**2 u times the spread of the eigenvalues. Infinite when nothing can be shown.
    """
    size = matrix.shape[0]
    if size == 0:
        return 0.0
    guess, scale = largest_eigenvalue(matrix), float(np.abs(matrix).max())
    if not math.isfinite(guess) or not scale <= _HUGE:
        return math.inf
    if scale == 0:
        return 0.0
    # The trace of guess - matrix decides how much Cholesky needs; start there and widen until it passes.
    trace = size * abs(guess) + abs(float(np.trace(matrix)))
    step = 2 * shift_needed(size, trace) + 4 * UNIT * scale
    for _ in range(_TRIES):
        bound = guess + step
        if _below(matrix, bound):
            return bound
        step *= 4
    return math.inf


def _below(matrix: Floats, bound: float) -> bool:
    """bound * I - matrix is shown to be positive semidefinite."""
    rest = -matrix
    diagonal = np.diagonal(matrix)
    # The difference on the diagonal is rounded once: take that off again.
    exact = bound - diagonal
    np.fill_diagonal(rest, exact - 2 * UNIT * np.abs(exact))
    return verify_psd(np.ascontiguousarray(rest), overwrite=True)


def frobenius_upper(matrix: Floats) -> float:
    """At least the Frobenius norm."""
    if matrix.size == 0:
        return 0.0
    largest = float(np.abs(matrix).max())
    if not 0 < largest <= _HUGE:
        return 0.0 if largest == 0 else math.inf
    square = float(np.einsum("ij,ij->", matrix, matrix))
    return rounded_up(math.sqrt(square * (1 + 2 * gamma(matrix.size + 4)) + matrix.size * _TINY))


def product_error(left: Floats, right: Floats) -> Floats:
    """Elementwise bound of |fl(left @ right) - left @ right|, for any order of summation, with or without FMA.

    gamma_k |left| |right| (Higham 2002, section 3.5); two units more in gamma cover computing the bound itself.
    """
    depth = left.shape[1]
    bound: Floats = np.abs(left) @ np.abs(right)
    # The bound is a sum of non-negative terms: at worst (1 - gamma) of the true one, which k + 2 more units cover.
    bound *= gamma(2 * depth + 8)
    bound += depth * _TINY
    return bound


def product_error_norm(left: Floats, right: Floats) -> float:
    """At least the Frobenius norm of fl(left @ right) - left @ right."""
    depth = left.shape[1]
    size = left.shape[0] * right.shape[1]
    both = gamma(depth + 2) * frobenius_upper(left) * frobenius_upper(right)
    return rounded_up(both + math.sqrt(size) * depth * _TINY)


def spectral_norm_upper(matrix: Floats, radius: Floats | None = None) -> float:
    """At least the 2-norm of a float64 matrix, (rows, columns), or of any within `radius` of it elementwise.

    Gram iteration (Delattre et al. 2023): with G_0 = A^T A and G_{t+1} = G_t^T G_t, ||A||^2 = ||G_0|| and ||G_t||^2 =
    ||G_{t+1}|| <= ||G_{t+1}||_F; every computed product is taken as the next matrix and the error of computing it is
    added where the roots are drawn. Where eight squarings have not settled (many equal singular values), the largest
    eigenvalue of G_0 is verified by Cholesky instead. Infinite if an entry is not finite.
    """
    if matrix.size == 0:
        return 0.0
    if radius is not None:
        return rounded_up(spectral_norm_upper(matrix) + nonnegative_norm_upper(radius))
    largest = float(np.abs(matrix).max())
    if not 0 < largest <= _HUGE:
        return 0.0 if largest == 0 else math.inf
    exponent = math.frexp(largest)[1]
    thin = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    thin = np.ldexp(thin, -exponent)  # exact but for underflow, which the slack in `product_error_norm` covers
    gram: Floats = thin @ thin.T
    error = product_error_norm(thin, thin.T)
    square, settled = _gram_iteration(gram)
    if not settled:
        symmetric = 0.5 * (gram + gram.T)
        square = min(square, rounded_up(upper_eigenvalue(symmetric) + 2 * UNIT * frobenius_upper(gram)))
    return math.nextafter(math.ldexp(rounded_up(math.sqrt(rounded_up(square + error))), exponent), math.inf)


def _gram_iteration(gram: Floats) -> tuple[float, bool]:
    """At least the 2-norm of a float matrix, and whether the last squaring changed it by less than 1e-9."""
    steps: list[tuple[float, float]] = []
    best, settled = frobenius_upper(gram), False
    for _ in range(_SQUARINGS):
        size = frobenius_upper(gram)
        if size == 0:
            return 0.0 if not steps else best, True
        exponent = math.frexp(size)[1]
        gram = np.ldexp(gram, -exponent)
        steps.append((math.ldexp(1.0, exponent), product_error_norm(gram, gram.T)))
        gram = gram @ gram.T
        now = _unwound(frobenius_upper(gram), steps)
        settled = now >= best * (1 - _SETTLED)
        best = min(best, now)
        if settled:
            break
    return best, settled


def _unwound(size: float, steps: list[tuple[float, float]]) -> float:
    """From the norm of the last Gram matrix back to that of the first: ||G|| <= scale sqrt(||fl(G G^T)|| + error)."""
    for scale, error in reversed(steps):
        size = rounded_up(scale * math.sqrt(size + error))
    return size


def nonnegative_norm_upper(matrix: Floats) -> float:
    """At least the 2-norm of every matrix whose entries are at most these in absolute value.

    The 2-norm of |E| bounds that of E, and sqrt(largest row sum times largest column sum) or Frobenius bounds it.
    """
    if matrix.size == 0:
        return 0.0
    if not float(matrix.max()) <= _HUGE:
        return math.inf
    slack = 1 + 2 * gamma(sum(matrix.shape) + 8)
    rows, columns = float(matrix.sum(1).max()), float(matrix.sum(0).max())
    return min(rounded_up(math.sqrt(rows) * math.sqrt(columns) * slack), frobenius_upper(matrix))
