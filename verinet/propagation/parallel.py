"""Every nonlinear node as one affine function of its inputs, give or take a number per entry.

z = M (inputs) + middle +- radius: parallel planes. Looser than the two planes that a row may choose from, but the same
for all rows, so that errors which several entries have in common stay in common (`verinet.propagation.generators`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import singledispatch
from typing import NamedTuple

import torch
from torch import Tensor

from verinet.ops import scalar_slopes
from verinet.ops.base import NonlinearOp
from verinet.ops.bilinear.either import Either
from verinet.ops.bilinear.events import summed_event
from verinet.ops.bilinear.matmul import MatMulTwo
from verinet.ops.bilinear.product import Product
from verinet.ops.bilinear.tilts import times_x, times_y
from verinet.ops.normalisation.functions import logistic
from verinet.ops.normalisation.odds import LogOdds, OddsPlanes
from verinet.ops.normalisation.shares import Shares
from verinet.ops.normalisation.squares import SumOfSquares
from verinet.ops.scalar import Elementwise
from verinet.propagation.interval import Interval

Ends = list[Interval]
"""Bounds of every input, (1, *shape) each."""

EntryLines = tuple[Sequence[Tensor], Tensor, Sequence[Tensor], Tensor]
"""What `NonlinearOp.slopes` returns."""


class Parallel(NamedTuple):
    """`pull` is the adjoint of M; `middle`, `radius` and `size` are (1, *shape), `size` for the rounding charge:
    at least the absolute terms behind an entry.
    """

    pull: Callable[[Tensor], tuple[Tensor, ...]]
    middle: Tensor
    radius: Tensor
    size: Tensor


def _of_lines(op: NonlinearOp, lines: EntryLines | None, ends: Ends) -> Parallel:
    """Midway between planes with slopes per input, entry by entry; what they differ by is bounded on the box."""
    if lines is None:
        raise TypeError(op.kind)
    below, low, above, high = lines
    sides = [op.aligned([e[k] for e in ends]) for k in (0, 1)]
    slopes = [(a + b) * 0.5 for a, b in zip(below, above, strict=True)]
    middle, radius, size = (low + high) * 0.5, (high - low) * 0.5, low.abs() + high.abs()
    for a, b, start, stop in zip(below, above, *sides, strict=True):
        half = (b - a) * 0.5  # what the upper plane rises more, and the lower one less, than the middle
        radius = radius + torch.maximum(half * start, half * stop)
        size = size + (a.abs() + b.abs()) * torch.maximum(start.abs(), stop.abs())
    shapes = [e[0].shape[1:] for e in ends]

    def pull(rows: Tensor) -> tuple[Tensor, ...]:
        return tuple(_summed(rows * s, tuple(shape)) for s, shape in zip(slopes, shapes, strict=True))

    return Parallel(pull, middle, radius.clamp(min=0), size)


def _summed(rows: Tensor, shape: tuple[int, ...]) -> Tensor:
    return summed_event(rows, shape, rows.dim() - 1)


@singledispatch
def parallel(op: NonlinearOp, ends: Ends) -> Parallel:
    """Of an operator on these bounds. The default knows the values' bounds alone, or its planes entry by entry."""
    lowers, uppers = [e[0] for e in ends], [e[1] for e in ends]
    found = op.slopes(op.lines(lowers, uppers))
    if found is not None:
        return _of_lines(op, found, ends)
    low, high = op.interval(lowers, uppers)
    middle = (low + high) * 0.5

    def pull(rows: Tensor) -> tuple[Tensor, ...]:
        return tuple(rows.new_zeros(rows.shape[0], *e[0].shape[1:]) for e in ends)

    return Parallel(pull, middle, torch.maximum(high - middle, middle - low), low.abs() + high.abs())


@parallel.register
def _(op: Elementwise, ends: Ends) -> Parallel:
    """Chords on one side and what is parallel to them on the other."""
    low, high = ends[0]
    slope = scalar_slopes.chord(op.function, low, high)
    count = len(op.multipliers([low], [high]))
    found = op.slopes(op.lines([low], [high], (slope,) * count))
    return _of_lines(op, found, ends)


@parallel.register
def _(op: Product, ends: Ends) -> Parallel:
    """McCormick's planes through the centre."""
    plain = Product(op.left, op.right)
    return _of_lines(op, plain.slopes(plain.lines([e[0] for e in ends], [e[1] for e in ends])), ends)


@parallel.register
def _(op: Shares, ends: Ends) -> Parallel:
    return parallel(Elementwise(logistic(), op.rank), ends)


@parallel.register
def _(op: Either, ends: Ends) -> Parallel:
    """All of the second way, as by default."""
    zero = torch.zeros_like(ends[1][0])

    def pull(rows: Tensor) -> tuple[Tensor, ...]:
        return torch.zeros_like(rows), rows

    return Parallel(pull, zero, zero, zero)


@parallel.register
def _(op: MatMulTwo, ends: Ends) -> Parallel:
    """The planes through the centre."""
    plain = MatMulTwo(op.left, op.right)
    centre_x, _, centre_y, _, value, reach = plain.lines([e[0] for e in ends], [e[1] for e in ends])[:6]

    def pull(rows: Tensor) -> tuple[Tensor, ...]:
        shapes = (op.left, op.right)
        return tuple(
            _summed(part, shape)
            for part, shape in zip((times_y(rows, centre_y), times_x(rows, centre_x)), shapes, strict=True)
        )

    return Parallel(pull, -value, reach, value.abs() + reach)


@parallel.register
def _(op: LogOdds, ends: Ends) -> Parallel:
    """Midway between the default planes, whose difference is bounded on the box, group by group."""
    low, high = ends[0]
    planes = OddsPlanes(*op.lines([low], [high]))
    below, above = planes.lower, planes.upper

    def pull(rows: Tensor) -> tuple[Tensor, ...]:
        return ((below.pull(rows) + above.pull(rows)) * 0.5,)

    count = low.shape[-1]
    others = 1.0 - torch.eye(count, dtype=low.dtype, device=low.device)
    falls = (planes.inverse.unsqueeze(-1) * planes.chord.unsqueeze(-2)) * others
    rises = (planes.weight.unsqueeze(-2) / planes.rest.unsqueeze(-1)) * others
    half = (falls - rises) * 0.5  # (..., k, j): half of the gap's slope
    wide = torch.maximum(half * low.unsqueeze(-2), half * high.unsqueeze(-2)).sum(-1)
    middle, radius = (planes.below + planes.above) * 0.5, (planes.above - planes.below) * 0.5 + wide
    reach = torch.maximum(low.abs(), high.abs())
    size = planes.below.abs() + planes.above.abs() + 2 * reach
    size = size + ((falls + rises) * reach.unsqueeze(-2)).sum(-1)
    return Parallel(pull, middle, radius.clamp(min=0), size)


@parallel.register
def _(op: SumOfSquares, ends: Ends) -> Parallel:
    """The tangent plane in the middle, below, and the plane that is `most` above it."""
    high = torch.maximum(ends[1][0].abs(), ends[1][1].abs())
    square = op.middle.square().sum(-1, keepdim=True)
    size = square + 2 * (op.middle.abs() * high).sum(-1, keepdim=True) + op.most
    found = (op.most * 0.5 - square, op.most * 0.5, size)

    def pull(rows: Tensor) -> tuple[Tensor, ...]:
        wide = rows if op.keepdims else rows.unsqueeze(-1)
        to_d = wide * (2.0 * op.middle)
        return torch.zeros_like(to_d), to_d

    return Parallel(pull, *(t if op.keepdims else t.squeeze(-1) for t in found))
