"""Increments of graph nodes as exact linear maps of the coordinates (x, w), with a bound on every rounding.

The difference of one node's values between two inputs of the network is `true matrix @ (x, w)`: x the difference of the
inputs, w the entries of the norm-bounded blocks met so far. The true matrix is known up to rounding: elementwise by
`error`, and column by column in the 2-norm by `norm`. The second bound grows with products of operator norms and not
of absolute values, which in deep networks is smaller by many orders of magnitude.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from verinet.solvers.lipschitz.norms import operator_norms

from verinet.ir.graph import Shape, total
from verinet.numerics.rounding import gamma, tiny
from verinet.ops.base import LinearOp
from verinet.ops.linear.arithmetic import Add, Negate, Scale, Shift, Subtract
from verinet.ops.linear.conv import Convolution, TransposedConvolution
from verinet.ops.linear.dense import Dense, MatMulConst
from verinet.ops.linear.reduce import Sum, WindowSum

_GRID, _ROOM = 2.0**13, 2.0**26
"""Products of two multiples of 1 / _GRID are multiples of 2**-26; sums of them below _ROOM fit into 53 bits."""
_UP = 1 + 1e-12
_FEW = 10
"""Roundings of one product with a coefficient that may be rounded itself by up to eight units (see `Scale`)."""
_KNOWN = (Add, Subtract, Sum, WindowSum, Scale, Dense, MatMulConst, Convolution, TransposedConvolution)
"""Operators whose coefficients are 1, -1 or the tensors that `coefficients` lists."""


@dataclass(frozen=True, slots=True)
class Increment:
    """One node: `value` and `error` (columns, *shape), `norm` (columns,); columns are x first, then w in order.

    |value - true| <= error entry by entry, and its 2-norm within column j is at most `norm[j]`. `depth` is one more
    than the largest layer among the blocks it depends on.
    """

    value: Tensor
    error: Tensor
    norm: Tensor
    depth: int = 0

    @property
    def columns(self) -> int:
        return int(self.value.shape[0])

    def widened(self, columns: int) -> Increment:
        """The same with zero columns for blocks that were added since."""
        missing = columns - self.columns
        if missing == 0:
            return self
        value, error = (torch.cat([t, t.new_zeros(missing, *t.shape[1:])]) for t in (self.value, self.error))
        return Increment(value, error, torch.cat([self.norm, self.norm.new_zeros(missing)]), self.depth)

    def flat(self) -> Increment:
        """With the entries of the node in one axis."""
        return self.shaped((-1,))

    def shaped(self, shape: Sequence[int]) -> Increment:
        """The same entries under another shape; rows stay in place."""
        value, error = (t.reshape(t.shape[0], *_explicit(shape, t)) for t in (self.value, self.error))
        return Increment(value, error, self.norm, self.depth)


def _explicit(shape: Sequence[int], like: Tensor) -> tuple[int, ...]:
    if tuple(shape) == (-1,):
        return (total(like.shape[1:]),)
    return tuple(shape)


def identity(size: int) -> Increment:
    """The input itself, (size, size)."""
    value = torch.eye(size, dtype=torch.float64)
    return Increment(value, torch.zeros_like(value), value.new_zeros(size))


def power_of_two(value: Tensor) -> Tensor:
    """True where multiplying by the entry rounds nothing: 0 and +-2**k."""
    mantissa = torch.frexp(value)[0].abs()
    return (value == 0) | (mantissa == 0.5)


def settle(value: Tensor, error: Tensor, fresh: Tensor, norm: Tensor, depth: int) -> Increment:
    """An increment from the error handed on (`error` elementwise, `norm` in norm) and the one made now (`fresh`)."""
    norm = (norm + (fresh.reshape(fresh.shape[0], -1)).norm(dim=1)) * _UP
    elementwise = (error + fresh) * _UP
    bound = norm.reshape(-1, *(1,) * (value.dim() - 1))
    return Increment(value, torch.minimum(elementwise, bound.expand_as(elementwise)), norm, depth)


def apply_linear(op: LinearOp, inputs: Sequence[Increment], shapes: Sequence[Shape], out: Shape) -> Increment:
    """The increment of a linear node: every column goes through the linear part of the operator."""
    columns = max(part.columns for part in inputs)
    inputs = [part.widened(columns) for part in inputs]
    values = [part.value for part in inputs]
    depth = max(part.depth for part in inputs)
    value = _full(op.linear(*values), out)
    error = _full(op.magnitude(*(part.error for part in inputs)), out)
    norms = operator_norms(op, shapes, out)
    norm = sum((part.norm * n for part, n in zip(inputs, norms, strict=True)), torch.zeros_like(inputs[0].norm))
    if op.moves_only or isinstance(op, Negate | Shift):
        return settle(value, error, torch.zeros_like(value), norm, depth)
    spread = _full(op.magnitude(*(v.abs() for v in values)), out)
    rate = _rate(op, values, spread, (shapes, out))
    slack = 1 + 2 * gamma(op.terms(shapes, out) + 8, value.dtype)
    # No product is computed from exact zeros: there nothing can underflow either.
    fresh = torch.where(spread > 0, spread * (rate * slack) + (tiny(value.dtype) if rate else 0.0), 0.0)
    return settle(value, error * slack, fresh, norm, depth)


def _full(value: Tensor, out: Shape) -> Tensor:
    return value.expand(value.shape[0], *out)


def _rate(op: LinearOp, values: Sequence[Tensor], spread: Tensor, place: tuple[Sequence[Shape], Shape]) -> float:
    """Relative error of computing the linear part, with respect to |L| |values|; 0 where nothing can round."""
    plain = exact_coefficients(op)
    if plain and _short(op, values, spread):
        return 0.0
    terms = op.terms(*place) + 4
    if _single(values):
        if plain and all(bool(power_of_two(v).all()) for v in values):
            return 0.0
        terms = min(terms, _FEW)
    return gamma(terms, values[0].dtype)


def exact_coefficients(op: LinearOp) -> bool:
    """True if the coefficients are those of the network itself, as far as the graph can tell.

    Coefficients that some arithmetic produced (1/c, gamma / sqrt(variance + eps), alpha times a weight) need all bits
    of a float64, those read from a float32 file do not.
    """
    if not isinstance(op, _KNOWN):
        return False
    return all(bool((t.to(torch.float32).to(t.dtype) == t).all()) for t in coefficients(op))


def coefficients(op: LinearOp) -> list[Tensor]:
    """The tensors that a linear operator multiplies with."""
    named = (getattr(op, name, None) for name in ("weight", "matrix", "factor"))
    return [t for t in named if isinstance(t, Tensor)]


def _short(op: LinearOp, values: Sequence[Tensor], spread: Tensor) -> bool:
    """True if all products and sums fit into the 53 bits of a float64."""
    if bool((spread.amax() if spread.numel() else spread.new_zeros(())) >= _ROOM):
        return False
    tensors = [*coefficients(op), *values]
    return not any(bool((t * _GRID).frac().any()) for t in tensors)


def _single(values: Sequence[Tensor]) -> bool:
    """True if every column has at most one entry that is not zero: sums then have one term."""
    counts = sum(((v != 0).reshape(v.shape[0], -1).sum(1) for v in values), values[0].new_zeros(values[0].shape[0]))
    return bool((counts <= 1).all())
