"""Fewer input coordinates for the same bound: only the part of x that the network sees counts.

With K a matrix of r orthonormal rows, D x = (D K^T)(K x) + D (I - K^T K) x, and (K x, |(I - K^T K) x|) has the norm of
x. So r coordinates, and one more for what is left over, replace the inputs (R = (D K^T, rest) has R R^T >= D D^T:
Douglas 1966). The orthonormal matrix meant is the one next to the computed K; the distance is in the radii.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from verinet.solvers.lipschitz.form import Floats, Form, Matrix
from verinet.solvers.lipschitz.norms import frobenius

from verinet.numerics.rounding import gamma

_NEGLIGIBLE = 1e-13
"""Directions whose share in every row is below this are left to the extra coordinate."""
_LOOSE = 1 + 1e-10


def compress_input(form: Form) -> Form:
    """A form with few inputs whose l2 -> l2 Lipschitz bounds hold for the given one, and are nearly the same.

    The new inputs are not those of the network: for other norms of the input the result says nothing. Returns the
    same form where there is nothing to gain.
    """
    whole = np.concatenate([form.d.value, form.dy.value])
    radius = _joint_radius(form)
    lengths = np.linalg.norm(whole, axis=1)
    scaled = whole / np.where(lengths > 0, lengths, 1.0)[:, None]
    basis = _directions(scaled)
    if basis.shape[0] + 1 >= whole.shape[1] or not np.isfinite(whole).all():
        return form
    value, spread, rest = _rotated(whole, radius, basis)
    if rest.any():
        value = np.concatenate([value, np.zeros((value.shape[0], 1))], 1)
        spread = np.concatenate([spread, rest[:, None]], 1)
    rows = form.d.value.shape[0]
    halves = [
        Matrix(np.ascontiguousarray(value[part]), _radius(spread[part])) for part in (slice(rows), slice(rows, None))
    ]
    return Form(
        form.c, halves[0], form.cy, halves[1], form.v_block, form.w_block, form.layer, form.labels, form.implicit
    )


def _joint_radius(form: Form) -> Floats:
    parts = (form.d, form.dy)
    return np.concatenate([np.zeros_like(m.value) if m.radius is None else m.radius for m in parts])


def _radius(spread: Floats) -> Floats | None:
    return np.ascontiguousarray(spread) if spread.any() else None


def _directions(scaled: Floats) -> Floats:
    """About orthonormal rows that span the rows of `scaled`, (r, inputs)."""
    if scaled.size == 0:
        return np.zeros((0, scaled.shape[1]))
    _, sizes, directions = np.linalg.svd(scaled, full_matrices=False)
    return np.ascontiguousarray(directions[sizes > _NEGLIGIBLE * math.sqrt(scaled.size)])


def _rotated(whole: Floats, radius: Floats, basis: Floats) -> tuple[Floats, Floats, Floats]:
    """D K^T, a bound on its error, and per row the norm of what K leaves over."""
    count, inputs = basis.shape
    charge = gamma(inputs + 4, torch.float64)
    off = _distance(basis)
    lengths = _lengths(whole) + _lengths(radius)
    value = whole @ basis.T
    # Computing the product, the radius of D times a row of norm 1, and the distance to the orthonormal matrix meant.
    spread = (np.abs(whole) @ np.abs(basis.T)) * charge + _lengths(radius)[:, None] + lengths[:, None] * off
    spread = spread * _LOOSE + 1e-280
    left = whole - value @ basis
    inner = gamma(count + 4, torch.float64)
    # The products, the difference, the radius of D, the error of D K^T, and K against the orthonormal matrix.
    terms = np.abs(value) @ np.abs(basis) * inner + np.abs(whole) * 2.0**-52
    rest = _lengths(left) + _lengths(terms) + _lengths(radius) + _lengths(spread) * (1 + off)
    rest = (rest + _lengths(value) * off) * _LOOSE + 1e-280
    return value, spread, rest


def _lengths(matrix: Floats) -> Floats:
    """At least the 2-norms of the rows."""
    charge = 1 + 2 * gamma(matrix.shape[1] + 8, torch.float64)
    lengths = np.sqrt((matrix * matrix).sum(1)) * charge + 1e-150
    return np.asarray(np.where((matrix != 0).any(1), lengths, 0.0), dtype=np.float64)


def _distance(basis: Floats) -> float:
    """At least the 2-norm between K and (K K^T)^(-1/2) K, whose rows are orthonormal.

    With E = K K^T - I and |E| <= e < 1/2 it is |(I + E)^(-1/2) - I| |K| <= e (1 + e).
    """
    count, inputs = basis.shape
    if count == 0:
        return 0.0
    tensor = torch.from_numpy(basis)
    gram = tensor @ tensor.T - torch.eye(count, dtype=torch.float64)
    error: float = gamma(inputs + 8, torch.float64) * (frobenius(tensor) ** 2 + count) + frobenius(gram)
    if not error < 0.25:
        return math.inf
    return error * (1 + error) * _LOOSE
