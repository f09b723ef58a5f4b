"""Upper bounds of operator norms, in float64 with the rounding charged. No power iteration: that bounds from below.

Gram iteration (Delattre et al. 2023, "Efficient bound of Lipschitz constant for convolutional layers by Gram
iteration"): ||A||^2 = ||A^T A||, and ||G||^2 = ||G^2|| <= ||G^2||_F for a symmetric G, so that squaring again and again
brings the Frobenius norm down to the 2-norm. Every computed product is taken as the new matrix, and the error of
computing it is added when the roots are drawn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from verinet.solvers.lipschitz.form import Floats, Matrix

from verinet.ir.graph import Shape, total
from verinet.numerics.rounding import gamma, tiny
from verinet.ops.base import LinearOp
from verinet.ops.linear.arithmetic import Add, Negate, Scale, Shift, Subtract
from verinet.ops.linear.conv import Convolution, TransposedConvolution
from verinet.ops.linear.dense import Dense, MatMulConst
from verinet.ops.linear.reduce import Sum, WindowSum
from verinet.ops.shape.concat import Concat
from verinet.ops.shape.index import Index
from verinet.ops.shape.reshape import Broadcast, Reshape

_UP = 1 + 1e-14
_ROUNDED = 1 + 1e-15
"""Coefficients that are themselves rounded by up to eight units (2**-50 relative, 9e-16)."""
_STEPS = 30
_SETTLED = 1e-12
_SMALL = 400
"""Sides up to which a matrix counts as cheap: its norm may be taken while a form is built."""


def frobenius(matrix: Tensor) -> float:
    """At least the Frobenius norm."""
    if matrix.numel() == 0:
        return 0.0
    count = matrix.numel()
    square = float((matrix * matrix).sum())
    return math.sqrt(square * (1 + 2 * gamma(count + 4, matrix.dtype)) + count * 1e-300) * _UP


def spectral_bound(matrix: Tensor) -> float:
    """At least the 2-norm of a float64 matrix, within about 1e-9 relative. Infinite if an entry is not finite."""
    if matrix.numel() == 0:
        return 0.0
    largest = float(matrix.abs().max())
    if largest == 0 or not math.isfinite(largest):
        return largest if largest == 0 else math.inf
    small = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    scale = 2.0 ** math.frexp(largest)[1]
    small = small / scale  # exact up to underflow, charged with `tiny` below
    gram = small @ small.T
    error = gamma(small.shape[1] + 2, gram.dtype) * frobenius(small) ** 2 + _underflow(small)
    return math.sqrt(_symmetric_bound(0.5 * (gram + gram.T), error * 2)) * scale * _UP


def _underflow(matrix: Tensor) -> float:
    return matrix.numel() * max(matrix.shape) * 1e-290


def _symmetric_bound(gram: Tensor, error: float) -> float:
    """At least the 2-norm of anything within `error` (in norm) of a symmetric float matrix.

    `steps` holds (scale, error) of each squaring: norm(G)^2 <= scale * norm(next) + error.
    """
    steps: list[tuple[float, float]] = []
    previous = math.inf
    for _ in range(_STEPS):
        size = frobenius(gram)
        if size == 0:
            break
        factor = 2.0 ** math.frexp(size)[1]
        gram = gram / factor
        squared = gram @ gram
        charge = gamma(gram.shape[0] + 2, gram.dtype) * frobenius(gram) ** 2 + _underflow(gram)
        gram = 0.5 * (squared + squared.T)
        steps.append((factor, charge * 2))
        current = _unwind(frobenius(gram), steps)
        if current >= previous * (1 - _SETTLED):
            break
        previous = current
    return (_unwind(frobenius(gram), steps) + error) * _UP


def _unwind(size: float, steps: Sequence[tuple[float, float]]) -> float:
    for factor, charge in reversed(steps):
        size = factor * math.sqrt(size * _UP + charge) * _UP
    return size


def matrix_norm(matrix: Matrix) -> float:
    """At least the 2-norm of the true matrix."""
    value = spectral_bound(torch.from_numpy(np.ascontiguousarray(matrix.value)))
    if matrix.radius is None:
        return value
    return (value + _positive_norm(torch.from_numpy(np.ascontiguousarray(matrix.radius)))) * _UP


def _positive_norm(matrix: Tensor) -> float:
    """At least the 2-norm of any matrix with entries up to these in size: by row and column sums, or Frobenius."""
    if matrix.numel() == 0:
        return 0.0
    slack = 1 + 2 * gamma(sum(matrix.shape) + 4, matrix.dtype)
    mixed = math.sqrt(float(matrix.sum(0).max()) * float(matrix.sum(1).max())) * slack
    return min(mixed, frobenius(matrix))


def row_sum_norm(matrix: Matrix) -> float:
    """At least the norm from l_inf to l_inf of the true matrix: the largest sum of absolute values in a row."""
    value: Floats = np.abs(matrix.value) if matrix.radius is None else np.abs(matrix.value) + matrix.radius
    if value.size == 0:
        return 0.0
    return float(value.sum(1).max()) * (1 + 2 * gamma(value.shape[1] + 4, torch.float64))


def operator_norms(op: LinearOp, shapes: Sequence[Shape], out: Shape) -> tuple[float, ...]:
    """Per input, at least the 2-norm of the linear map from that input to the output. Cheap, not always tight."""
    if isinstance(op, Concat | Reshape | Shift | Negate):
        return (1.0,) * len(shapes)
    if isinstance(op, Add | Subtract | Broadcast):
        return tuple(math.sqrt(total(out) // max(total(shape), 1)) * _UP for shape in shapes)
    if isinstance(op, Index):
        used = op.index.reshape(-1)
        counts = torch.bincount(used[used >= 0], minlength=1)
        return (math.sqrt(float(counts.max())) * _UP,)
    if isinstance(op, Scale):
        return (float(op.factor.abs().max()) * _ROUNDED,)
    if isinstance(op, Sum):
        return (math.sqrt(total(shapes[0]) // max(total(out), 1)) * _UP,)
    if isinstance(op, WindowSum):
        # At most `taps` ones in every row, and in every column.
        return (float(math.prod(op.windows.kernel)),)
    if isinstance(op, Dense | MatMulConst):
        return (_dense_norm(op),)
    if isinstance(op, Convolution | TransposedConvolution):
        return (_tap_norm(op),)
    return tuple(_entry_norm(op, shapes, out) for _ in shapes)


def _dense_norm(op: Dense | MatMulConst) -> float:
    weight = op.weight if isinstance(op, Dense) else op.matrix
    batch = weight.reshape(-1, *weight.shape[-2:])
    norms = [_cheap(part) for part in batch]
    # Broadcasting repeats x for every matrix of the batch.
    return math.sqrt(sum(n * n for n in norms)) * _ROUNDED * _UP


def _cheap(matrix: Tensor) -> float:
    if min(matrix.shape) <= _SMALL:
        return spectral_bound(matrix.to(torch.float64))
    return _positive_norm(matrix.to(torch.float64).abs())


def _tap_norm(op: Convolution | TransposedConvolution) -> float:
    """Every window position is one matrix applied at all places: the norms of the positions add up."""
    weight = op.weight.to(torch.float64)
    per_group = weight.shape[0] // op.groups
    taps = weight.reshape(op.groups, per_group, weight.shape[1], -1)
    norms = [sum(_cheap(group[:, :, tap]) for tap in range(taps.shape[-1])) for group in taps]
    return max(norms) * _ROUNDED * _UP


def _entry_norm(op: LinearOp, shapes: Sequence[Shape], out: Shape) -> float:
    """From |L| alone: every row sum is at most the largest one, and there are `out` rows."""
    ones = [torch.ones(1, *shape, dtype=torch.float64) for shape in shapes]
    rows = op.magnitude(*ones)
    return frobenius(rows.expand(1, *out)) * (1 + 2 * gamma(op.terms(shapes, out), torch.float64)) + tiny(torch.float64)
