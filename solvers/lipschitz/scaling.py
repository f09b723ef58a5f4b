"""A diagonal scaling that makes a matrix a contraction in the 2-norm, if one is found. A search: it proves nothing."""

from __future__ import annotations

import numpy as np
from verinet.solvers.lipschitz.form import Floats

_ENOUGH = 0.999
_STEPS = 400
_SHARPNESS = (8.0, 32.0, 128.0)
"""Powers of the singular values in the smooth stand-in for the largest one."""
_WORK = 2e10
"""About as many operations as the search may cost."""


def contraction_scale(matrix: Floats) -> Floats:
    """s > 0 with the 2-norm of diag(s) M diag(s)^-1 small: 1 where that is enough, then Perron's vectors, then descent.

    The logarithm of the largest singular value is convex in log s up to the choice of representatives, with derivative
    u_i^2 - v_i^2 for its singular vectors u, v.
    """
    size = matrix.shape[0]
    ones = np.ones(size)
    if size == 0 or not np.isfinite(matrix).all():
        return ones
    candidates = [ones, _perron(matrix)]
    norms = [_norm(matrix, s) for s in candidates]
    best = candidates[int(np.argmin(norms))]
    return best if min(norms) < _ENOUGH else _descend(matrix, best)


def _scaled(matrix: Floats, scale: Floats) -> Floats:
    return np.asarray(matrix * scale[:, None] / scale[None, :])


def _norm(matrix: Floats, scale: Floats) -> float:
    return float(np.linalg.norm(_scaled(matrix, scale), 2))


def _perron(matrix: Floats) -> Floats:
    """sqrt(left / right eigenvector) of |M|: then the scaled norm is at most the spectral radius of |M|."""
    positive = np.abs(matrix) + 1e-12 * max(float(np.abs(matrix).max()), 1e-300)
    left, right = np.ones(matrix.shape[0]), np.ones(matrix.shape[0])
    for _ in range(200):
        left, right = positive.T @ left, positive @ right
        left, right = left / left.max(), right / right.max()
    ratio = np.sqrt(np.maximum(left, 1e-150) / np.maximum(right, 1e-150))
    return np.asarray(ratio, dtype=np.float64)


def _descend(matrix: Floats, start: Floats) -> Floats:
    """Adam on log s for the power sum of the singular values, ever sharper; the best s met."""
    steps = int(max(10, min(_STEPS, _WORK / (20.0 * matrix.shape[0] ** 3))))
    point = np.log(start)
    best, least = point, _norm(matrix, start)
    for sharpness in _SHARPNESS:
        mean, square = np.zeros_like(point), np.zeros_like(point)
        for step in range(1, steps + 1):
            norm, slope = _slope(matrix, point, sharpness)
            if norm < least:
                best, least = point.copy(), norm
            if least < _ENOUGH:
                return np.asarray(np.exp(best))
            mean, square = 0.9 * mean + 0.1 * slope, 0.99 * square + 0.01 * slope**2
            rate = 0.1 * (1 - step / (steps + 1))
            move = mean / (1 - 0.9**step) / (np.sqrt(square / (1 - 0.99**step)) + 1e-12)
            point = np.clip(point - rate * move, -40.0, 40.0)
        point = best.copy()
    return np.asarray(np.exp(best))


def _slope(matrix: Floats, point: Floats, sharpness: float) -> tuple[float, Floats]:
    """(largest singular value, gradient in log s of the logarithm of the power sum)."""
    left, sizes, right = np.linalg.svd(_scaled(matrix, np.exp(point)))
    weights = (sizes / max(float(sizes[0]), 1e-300)) ** sharpness
    weights = weights / weights.sum()
    return float(sizes[0]), np.asarray((left**2 - right.T**2) @ weights)
