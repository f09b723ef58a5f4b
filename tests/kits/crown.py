"""CROWN's standard relaxations as published, written without any of our relaxations: what ours are compared with.

ReLU with the adaptive lower slope, sigmoid and tanh by chords, tangents at the middle and tangents from an end: Zhang
et al. 2018, table 2 and section 3.2. Products by McCormick planes with a fixed choice: Shi et al. 2020, appendix A.
Softmax as exp, sum, reciprocal and product: Xu et al. 2020. GELU by chords and tangents of its segments: Shi et al.
2025 (GenBaB). Plain float64: nothing is charged for rounding, which can only make these bounds look better.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from verinet.ir.graph import Graph
from verinet.ops.base import LinearOp
from verinet.ops.bilinear.matmul import MatMulTwo
from verinet.ops.bilinear.product import Product
from verinet.ops.normalisation.softmax import Softmax
from verinet.ops.scalar import Elementwise

Known = Mapping[int, tuple[Tensor, Tensor]]
Real = Callable[[Tensor], Tensor]
_STEPS = 60
"""Bisections of a touching point: down to float64."""


class Line(NamedTuple):
    """slope x + offset, entry by entry."""

    slope: Tensor
    offset: Tensor


class Pair(NamedTuple):
    """A lower and an upper line."""

    below: Line
    above: Line


class Curve(NamedTuple):
    """A function with its derivative."""

    value: Real
    slope: Real

    def tangent(self, x: Tensor) -> Line:
        slope = self.slope(x)
        return Line(slope, self.value(x) - slope * x)

    def chord(self, low: Tensor, high: Tensor) -> Line:
        width = high - low
        slope = torch.where(width > 1e-12, (self.value(high) - self.value(low)) / width.clamp(min=1e-12), 0.0)
        return Line(slope, torch.where(width > 1e-12, self.value(low) - slope * low, self.value(low)))

    def mirrored(self) -> Curve:
        """x to f(-x)."""
        return Curve(lambda x: self.value(-x), lambda x: -self.slope(-x))


def pick(mask: Tensor, first: Line, second: Line) -> Line:
    return Line(torch.where(mask, first.slope, second.slope), torch.where(mask, first.offset, second.offset))


def relu(low: Tensor, high: Tensor) -> Pair:
    """Chord above; below 1 x where the positive side is the longer one, else 0."""
    curve = Curve(lambda x: x.clamp(min=0), lambda x: (x > 0).double())
    on, off = low >= 0, high <= 0
    keep = Line(on.double(), torch.zeros_like(low))
    adaptive = Line((high >= -low).double(), torch.zeros_like(low))
    decided = on | off
    return Pair(pick(decided, keep, adaptive), pick(decided, keep, curve.chord(low, high)))


def rising(curve: Curve, turn: float, low: Tensor, high: Tensor) -> Pair:
    """Convex left of `turn`, concave right of it."""
    centre, straight = curve.tangent((low + high) * 0.5), curve.chord(low, high)
    convex, concave = high <= turn, low >= turn
    above = pick(concave, centre, pick(convex, straight, from_low_end(curve, turn, low, high)))
    below = pick(convex, centre, pick(concave, straight, from_high_end(curve, turn, low, high)))
    return Pair(below, above)


def from_low_end(curve: Curve, turn: float, low: Tensor, high: Tensor) -> Line:
    """Above: the tangent on the concave side that meets the curve at `low`; the chord where there is none."""

    def clear(point: Tensor) -> Tensor:
        line = curve.tangent(point)
        return line.slope * low + line.offset >= curve.value(low)

    near = low.clamp(min=turn)
    far = torch.maximum(near, high)
    fails = ~clear(far)
    for _ in range(_STEPS):
        middle = (near + far) * 0.5
        good = clear(middle)
        near, far = torch.where(good, near, middle), torch.where(good, middle, far)
    return pick(fails, curve.chord(low, high), curve.tangent(far))


def from_high_end(curve: Curve, turn: float, low: Tensor, high: Tensor) -> Line:
    """Below: x to -f(-x) turns the picture upside down."""
    turned = Curve(lambda x: -curve.value(-x), lambda x: curve.slope(-x))
    line = from_low_end(turned, -turn, -high, -low)
    return Line(line.slope, -line.offset)


def _gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def _gelu_slope(x: Tensor) -> Tensor:
    return 0.5 * (1 + torch.erf(x / math.sqrt(2))) + x * torch.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)


def gelu(low: Tensor, high: Tensor) -> Pair:
    """Convex between -sqrt 2 and sqrt 2; a chord above if 0 is inside, one tangent below if both ends are outside."""
    curve, turn = Curve(_gelu, _gelu_slope), math.sqrt(2)
    right = rising(curve, turn, low, high)
    flipped = rising(curve.mirrored(), turn, -high, -low)
    left = Pair(*(Line(-line.slope, line.offset) for line in flipped))
    both = (low < -turn) & (high > turn)
    inside = (low < 0) & (high > 0)
    above = pick(inside, curve.chord(low, high), pick(low >= 0, right.above, left.above))
    # Touching points of the tangents from either end, by the slopes of those lines, are where one tangent serves both.
    first = _touch(curve, from_high_end(curve, turn, torch.zeros_like(low) - turn, high.clamp(min=turn)).slope)
    mirror = from_high_end(curve.mirrored(), turn, torch.zeros_like(low) - turn, (-low).clamp(min=turn))
    second = _touch(curve, -mirror.slope)
    one = curve.tangent((first + second) * 0.5)
    below = pick(both, one, pick(low < -turn, left.below, right.below))
    return Pair(below, above)


def _touch(curve: Curve, slope: Tensor) -> Tensor:
    """The x between -sqrt 2 and sqrt 2 with f'(x) = slope."""
    low, high = torch.full_like(slope, -math.sqrt(2)), torch.full_like(slope, math.sqrt(2))
    for _ in range(_STEPS):
        middle = (low + high) * 0.5
        less = curve.slope(middle) < slope
        low, high = torch.where(less, middle, low), torch.where(less, high, middle)
    return (low + high) * 0.5


def sigmoid(low: Tensor, high: Tensor) -> Pair:
    return rising(Curve(torch.sigmoid, lambda x: torch.sigmoid(x) * torch.sigmoid(-x)), 0.0, low, high)


def tanh(low: Tensor, high: Tensor) -> Pair:
    return rising(Curve(torch.tanh, lambda x: 1 / torch.cosh(x.clamp(-300, 300)).square()), 0.0, low, high)


SCALAR: Mapping[str, Callable[[Tensor, Tensor], Pair]] = {
    "ReLU": relu,
    "Sigmoid": sigmoid,
    "Tanh": tanh,
    "GELU": gelu,
}


def product_planes(low: Sequence[Tensor], high: Sequence[Tensor]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """(slope x, slope y, offset) of the lower and of the upper plane: the fixed choice of Shi et al. 2020."""
    (xl, yl), yu = low, high[1]
    return (yl, xl, -xl * yl), (yu, xl, -xl * yu)


def _through(rows: Tensor, pair: Pair) -> tuple[Tensor, Tensor]:
    """Rows over f(x) to rows over x, and the constant, (rows,)."""
    positive = rows >= 0
    offset = rows * torch.where(positive, pair.below.offset, pair.above.offset)
    return rows * torch.where(positive, pair.below.slope, pair.above.slope), offset.flatten(1).sum(1)


def _through_product(rows: Tensor, low: Sequence[Tensor], high: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    below, above = product_planes(low, high)
    to_x, to_y, offset = (rows * torch.where(rows >= 0, b, a) for b, a in zip(below, above, strict=True))
    return to_x, to_y, offset.flatten(1).sum(1)


def _through_matmul(rows: Tensor, low: Sequence[Tensor], high: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Every scalar product x_ik y_kj with the planes of `product_planes`; rows are (rows, ..., i, j)."""
    (xl, yl), yu = low, high[1]
    up, down = rows.clamp(min=0), rows.clamp(max=0)
    to_x = up @ yl.transpose(-1, -2) + down @ yu.transpose(-1, -2)
    to_y = xl.transpose(-1, -2) @ rows
    offset = up * (xl @ yl) + down * (xl @ yu)
    return to_x, to_y, -offset.flatten(1).sum(1)


def _through_softmax(rows: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """exp(x - c), their sum s, 1 / s and the product, each with its own lines; c is a constant."""
    shift = high.amax(-1, keepdim=True)
    exponential = Curve(lambda x: torch.exp(x - shift), lambda x: torch.exp(x - shift))
    reciprocal = Curve(lambda s: 1 / s, lambda s: -1 / (s * s))
    # A tangent of exp far left of its upper end keeps the lower line positive there (Xu et al. 2020).
    at = torch.minimum((low + high) * 0.5, low + 0.99)
    raised = Pair(exponential.tangent(at), exponential.chord(low, high))
    e_low, e_high = exponential.value(low), exponential.value(high)
    s_low, s_high = e_low.sum(-1, keepdim=True), e_high.sum(-1, keepdim=True)
    inverse = Pair(reciprocal.tangent((s_low + s_high) * 0.5), reciprocal.chord(s_low, s_high))
    to_e, to_r, constant = _through_product(rows, (e_low, 1 / s_high), (e_high, 1 / s_low))
    to_s, more = _through(to_r.sum(-1, keepdim=True), inverse)
    to_x, rest = _through(to_e + to_s, raised)
    return to_x, constant + more + rest


def standard(op: object, low: Sequence[Tensor], high: Sequence[Tensor]) -> tuple[Tensor, ...] | None:
    """Our multipliers that choose CROWN's lines, or None where our lines are of another kind."""
    if isinstance(op, Elementwise):
        pair = SCALAR[op.function.name](low[0], high[0])
        return (pair.below.slope,) if op.function.hinge is not None else (pair.below.slope, pair.above.slope)
    if isinstance(op, Product):
        return torch.ones_like(low[0]), torch.ones_like(low[0])
    return None


def crown(graph: Graph, rows: Tensor, known: Known, lower: Tensor, upper: Tensor) -> Tensor:
    """Lower bounds (rows,) of rows (rows, outputs) over one box (inputs,); `known` bounds inputs of nonlinear nodes."""
    pending, constant = {graph.output: rows}, rows.new_zeros(rows.shape[0])
    for position in graph.ancestors(graph.output):
        if position == 0 or position not in pending:
            continue
        current, node = pending.pop(position), graph.nodes[position]
        parts: Sequence[Tensor]
        if isinstance(node.op, LinearOp):
            offset = node.op.bias()
            if offset is not None:
                constant = constant + (current * offset).flatten(1).sum(1)
            parts = node.op.pullback(current, graph.input_shapes(position))
        else:
            parts, offset = _relaxed(node.op, current, [known[i] for i in node.inputs])
            constant = constant + offset
        for source, part in zip(node.inputs, parts, strict=True):
            pending[source] = pending[source] + part if source in pending else part
    final = pending.get(0, rows.new_zeros(rows.shape[0], graph.input_size))
    return constant + torch.where(final >= 0, final * lower, final * upper).sum(1)


def _relaxed(op: object, rows: Tensor, bounds: Sequence[tuple[Tensor, Tensor]]) -> tuple[Sequence[Tensor], Tensor]:
    """Rows over each input of a nonlinear node, and the constant; bounds are (1, *shape)."""
    low, high = [b[0] for b in bounds], [b[1] for b in bounds]
    if isinstance(op, Elementwise):
        part, offset = _through(rows, SCALAR[op.function.name](low[0], high[0]))
        return (part,), offset
    if isinstance(op, Product) and op.left == op.right:
        to_x, to_y, offset = _through_product(rows, low, high)
        return (to_x, to_y), offset
    if isinstance(op, MatMulTwo):
        to_x, to_y, offset = _through_matmul(rows, low, high)
        return (to_x, to_y), offset
    if isinstance(op, Softmax) and not op.log:
        part, offset = _through_softmax(rows, low[0], high[0])
        return (part,), offset
    raise NotImplementedError(type(op).__name__)
