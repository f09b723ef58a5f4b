"""CROWN's standard relaxations as published, written without any of our relaxations: what ours are compared with.

ReLU with the adaptive lower slope, sigmoid and tanh by chords, tangents at the middle and tangents from an end: Zhang
et al. 2018, table 2 and section 3.2. Products by McCormick planes with a fixed choice: Shi et al. 2020, appendix A.
Softmax as exp, sum, reciprocal and product: Xu et al. 2020. GELU and sin by chords and tangents of their segments: Shi
et al. 2025 (GenBaB). Normalisation as square, square root, reciprocal and product. For sigmoid and tanh there is also
the choice of newer releases of auto_LiRPA: the tangent at the middle wherever it stays on its side (`SMOOTH`).
Plain float64: nothing is charged for rounding, which can only make these bounds look better.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from verinet.ir.graph import Graph
from verinet.ops.base import LinearOp
from verinet.ops.bilinear.gate import Gate
from verinet.ops.bilinear.matmul import MatMulTwo
from verinet.ops.bilinear.product import Product
from verinet.ops.normalisation.softmax import Softmax
from verinet.ops.scalar import Elementwise
from verinet.ops.scalar_function import ScalarFunction

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


def rising(curve: Curve, turn: float | Tensor, low: Tensor, high: Tensor) -> Pair:
    """Convex left of `turn`, concave right of it."""
    centre, straight = curve.tangent((low + high) * 0.5), curve.chord(low, high)
    convex, concave = high <= turn, low >= turn
    above = pick(concave, centre, pick(convex, straight, from_low_end(curve, turn, low, high)))
    below = pick(convex, centre, pick(concave, straight, from_high_end(curve, turn, low, high)))
    return Pair(below, above)


def smoothed(curve: Curve, turn: float, low: Tensor, high: Tensor) -> Pair:
    """`rising`, with the tangent at the middle wherever that clears the far end."""
    pair, middle = rising(curve, turn, low, high), (low + high) * 0.5
    line = curve.tangent(middle)
    over = (middle >= turn) & (line.slope * low + line.offset >= curve.value(low))
    under = (middle <= turn) & (line.slope * high + line.offset <= curve.value(high))
    return Pair(pick(under, line, pair.below), pick(over, line, pair.above))


def from_low_end(curve: Curve, turn: float | Tensor, low: Tensor, high: Tensor) -> Line:
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


def from_high_end(curve: Curve, turn: float | Tensor, low: Tensor, high: Tensor) -> Line:
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


SIGMOID = Curve(torch.sigmoid, lambda x: torch.sigmoid(x) * torch.sigmoid(-x))
TANH = Curve(torch.tanh, lambda x: 1 / torch.cosh(x.clamp(-300, 300)).square())


def sine(low: Tensor, high: Tensor) -> Pair:
    """With at most one inflection inside as for other curves; the range of values where there are more."""
    curve, last = Curve(torch.sin, torch.cos), (high / math.pi).floor() * math.pi
    turn = (low / math.pi).ceil() * math.pi
    climbs = torch.cos(turn) > 0  # convex left of the turn; where it falls, seen in a mirror
    inside = (turn > low) & (turn < high)
    up, flipped = rising(curve, turn, low, high), rising(curve.mirrored(), -turn, -high, -low)
    down = Pair(*(Line(-line.slope, line.offset) for line in flipped))
    one = Pair(*(pick(climbs, a, b) for a, b in zip(up, down, strict=True)))
    middle, straight = curve.tangent((low + high) * 0.5), curve.chord(low, high)
    concave = torch.sin((low + high) * 0.5) >= 0
    none = Pair(pick(concave, straight, middle), pick(concave, middle, straight))
    many = last > turn + 1
    level = Line(torch.zeros_like(low), torch.ones_like(low))
    wide = Pair(Line(level.slope, -level.offset), level)
    return Pair(*(pick(many, w, pick(inside, a, b)) for w, a, b in zip(wide, one, none, strict=True)))


def square(low: Tensor, high: Tensor) -> Pair:
    curve = Curve(torch.square, lambda x: 2 * x)
    return Pair(curve.tangent((low + high) * 0.5), curve.chord(low, high))


def inverse_root(low: Tensor, high: Tensor) -> Pair:
    """1 / s of s = sqrt x, each with its own lines; 1 / s falls, so each of its lines takes the other one of s."""
    root, falling = Curve(torch.sqrt, lambda x: 0.5 / x.sqrt()), Curve(torch.reciprocal, lambda s: -1 / s.square())
    inner = Pair(root.chord(low, high), root.tangent((low + high) * 0.5))
    ends = low.sqrt(), high.sqrt()
    below, above = falling.tangent((ends[0] + ends[1]) * 0.5), falling.chord(*ends)
    return Pair(_after(below, inner.above), _after(above, inner.below))


def _after(outer: Line, inner: Line) -> Line:
    return Line(outer.slope * inner.slope, outer.slope * inner.offset + outer.offset)


Rules = Mapping[str, Callable[[Tensor, Tensor], Pair]]
SCALAR: Rules = {
    "ReLU": relu,
    "Sigmoid": partial(rising, SIGMOID, 0.0),
    "Tanh": partial(rising, TANH, 0.0),
    "GELU": gelu,
    "Sin": sine,
    "Square": square,
    "InverseRoot": inverse_root,
}
SMOOTH: Rules = {**SCALAR, "Sigmoid": partial(smoothed, SIGMOID, 0.0), "Tanh": partial(smoothed, TANH, 0.0)}


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


def crown(
    graph: Graph,
    rows: Tensor,
    known: Known,
    box: tuple[Tensor, Tensor],
    rules: Rules = SCALAR,
    start: int | None = None,
) -> Tensor:
    """Lower bounds (rows,) of rows (rows, *shape of start) over one box of (inputs,); the output is the usual start.

    `known` bounds inputs of nonlinear nodes, (1, *shape) each.
    """
    start = graph.output if start is None else start
    pending, constant = {start: rows}, rows.new_zeros(rows.shape[0])
    for position in graph.ancestors(start):
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
            parts, offset = _relaxed(node.op, current, [known[i] for i in node.inputs], rules)
            constant = constant + offset
        for source, part in zip(node.inputs, parts, strict=True):
            pending[source] = pending[source] + part if source in pending else part
    final = pending.get(0, rows.new_zeros(rows.shape[0], graph.input_size))
    return constant + torch.where(final >= 0, final * box[0], final * box[1]).sum(1)


def _rule(function: ScalarFunction, rules: Rules) -> Callable[[Tensor, Tensor], Pair]:
    if function.name != "Pow":
        return rules[function.name]
    four = float(function.at(torch.tensor(4.0, dtype=torch.float64)))
    return rules[{16.0: "Square", 0.5: "InverseRoot"}[four]]


def _through_gate(op: Gate, rows: Tensor, bounds: Sequence[Sequence[Tensor]], rules: Rules) -> tuple[Tensor, ...]:
    """h(x) y as y times a variable that stands for h(x); h must be monotonic between its ends."""
    low, high = bounds
    inner = _rule(op.function, rules)(low[0], high[0])
    ends = op.function.at(low[0]), op.function.at(high[0])
    least, most = torch.minimum(*ends), torch.maximum(*ends)
    shape = torch.broadcast_shapes(low[0].shape, low[1].shape)
    lows, highs = [t.expand(shape) for t in (low[1], least)], [t.expand(shape) for t in (high[1], most)]
    to_y, to_h, constant = _through_product(rows, lows, highs)
    wide = _summed(to_h, low[0].shape)
    to_x, more = _through(wide, inner)
    return to_x, _summed(to_y, low[1].shape), constant + more


def _summed(rows: Tensor, shape: Sequence[int]) -> Tensor:
    """Rows over a broadcast tensor to rows over the tensor itself, (1, *shape) with as many axes."""
    axes = [i for i, n in enumerate(shape) if i > 0 and n == 1 and rows.shape[i] != 1]
    return rows.sum(axes, keepdim=True) if axes else rows


def _relaxed(
    op: object, rows: Tensor, bounds: Sequence[tuple[Tensor, Tensor]], rules: Rules
) -> tuple[Sequence[Tensor], Tensor]:
    """Rows over each input of a nonlinear node, and the constant; bounds are (1, *shape)."""
    low, high = [b[0] for b in bounds], [b[1] for b in bounds]
    if isinstance(op, Elementwise):
        part, offset = _through(rows, _rule(op.function, rules)(low[0], high[0]))
        return (part,), offset
    if isinstance(op, Gate):
        to_x, to_y, offset = _through_gate(op, rows, (low, high), rules)
        return (to_x, to_y), offset
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
