"""Random queries for operators of several variables: is a row's bound above the operator's value anywhere in the box?

The worst point of a box is looked for among corners, faces and inner samples, then by local search from the best of
them; every value is computed in long double (64 bits of mantissa), so that rounding of the check itself is far below
what the bounds are charged for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from tests.unit.ops_bilinear.enclosure import Case, Shape, boxes, charged, multipliers, points, rows_of
from verinet.numerics.rounding import tiny
from verinet.ops.activations import find
from verinet.ops.base import Lines, NonlinearOp
from verinet.ops.bilinear.gate import Gate
from verinet.ops.bilinear.matmul import MatMulTwo
from verinet.ops.bilinear.product import Product
from verinet.ops.normalisation.log_sum_exp import LogSumExp
from verinet.ops.normalisation.odds import LogOdds, OddsPlanes
from verinet.ops.normalisation.softmax import Planes, Softmax
from verinet.ops.pooling.maximum import MaxLast
from verinet.ops.sorting.remainder import Remainder
from verinet.ops.sorting.sort import SortLast

Long = np.ndarray
RADII = (0.0, 1e-7, 1e-2, 0.5, 4.0)
KINDS = ("none", "default", "random", "projected")
BOXES = 12
SAMPLES, ROUNDS, TRIES = 36, 6, 5


@dataclass(frozen=True)
class Operator:
    """A case, how its boxes are made to fit the domain, and which of its lines are offsets, with the unsound direction.

    `offsets` maps the position of a line to +1 where raising it is unsound and -1 where lowering it is.
    """

    case: Case
    offsets: dict[int, int]
    fit: Callable[[list[Tensor], list[Tensor]], None] = lambda lowers, uppers: None
    scale: float = 1.0


def _positive(lowers: list[Tensor], uppers: list[Tensor]) -> None:
    """The first input above 0.05."""
    width = uppers[0] - lowers[0]
    lowers[0] = lowers[0].abs() + 0.05
    uppers[0] = lowers[0] + width


def _off_zero(lowers: list[Tensor], uppers: list[Tensor]) -> None:
    """The first input on either side of 0."""
    _positive(lowers, uppers)
    lowers[0][::2], uppers[0][::2] = -uppers[0][::2].clone(), -lowers[0][::2].clone()


def _moderate(lowers: list[Tensor], uppers: list[Tensor]) -> None:
    """The first input below 12 in size: exp of more swamps everything else in float32."""
    lowers[0], uppers[0] = lowers[0].clamp(-12, 12), uppers[0].clamp(-12, 12)


def _softmax(x: Long) -> Long:
    raised = np.exp(x - x.max(-1, keepdims=True))
    return np.asarray(raised / raised.sum(-1, keepdims=True))


def _log_softmax(x: Long) -> Long:
    """Accurate for entries near 0, too: minus log1p of the sum over the others."""
    others = [np.exp(np.delete(x, k, -1) - x[..., k : k + 1]).sum(-1) for k in range(x.shape[-1])]
    return np.asarray(-np.log1p(np.stack(others, -1)))


def _log_odds(x: Long) -> Long:
    """x_k - log(sum_{j != k} exp x_j), counted from the largest of the others."""
    found = []
    for k in range(x.shape[-1]):
        others = np.delete(x, k, -1)
        top = others.max(-1, keepdims=True)
        found.append(x[..., k] - top[..., 0] - np.log(np.exp(others - top).sum(-1)))
    return np.stack(found, -1)


def log_sum_exp(x: Long) -> Long:
    """Over the last axis, counted from the largest entry."""
    top = x.max(-1, keepdims=True)
    return np.asarray(top[..., 0] + np.log(np.exp(x - top).sum(-1)))


def _product(left: Shape, right: Shape) -> Operator:
    out = tuple(torch.broadcast_shapes(left, right))
    case = Case(Product(left, right), (left, right), out, lambda x, y: _spread(x, out) * _spread(y, out))
    return Operator(case, {2: 1, 5: -1})


def _spread(x: Long, out: Shape) -> Long:
    """(samples, *shape) with axes of 1 put in front of the shape."""
    return x.reshape(x.shape[0], *(1,) * (len(out) + 1 - x.ndim), *x.shape[1:])


def _gate(
    name: str, value: Callable[[Long], Long], fit: Callable[[list[Tensor], list[Tensor]], None], **attributes: float
) -> Operator:
    function = find(name, attributes)
    assert function is not None
    left, right = (2, 1), (2, 3)
    case = Case(Gate(function, left, right), (left, right), right, lambda x, y: value(x) * y)
    return Operator(case, {2: 1, 5: -1}, fit)


def _matmul(left: Shape, right: Shape) -> Operator:
    out = (*left[:-1], right[-1])
    return Operator(Case(MatMulTwo(left, right), (left, right), out, np.matmul), {5: -1})


def _group(op: NonlinearOp, shape: Shape, reference: Callable[[Long], Long], offsets: dict[int, int]) -> Operator:
    return Operator(Case(op, (shape,), shape, reference), offsets)


def _remainder() -> Operator:
    index = torch.tensor([[0, 2], [1, 1]])
    coefficients = torch.tensor([[0.5, -0.25], [0.125, 0.0]], dtype=torch.float64)
    weights = coefficients.numpy().astype(np.longdouble)

    def value(switch: Long, first: Long, second: Long) -> Long:
        total = weights[0] * first[:, [0, 2]] + weights[1] * second[:, [1, 1]]
        return np.asarray(np.where(switch > 0, total, -total))

    op = Remainder(index, coefficients, torch.zeros_like(coefficients))
    return Operator(Case(op, ((2,), (3,), (2,)), (2,), value), {0: 1, 1: -1})


_FIELDS = Planes._fields.index
_PLANES = {_FIELDS("low_offset"): 1, _FIELDS("high_offset"): -1, _FIELDS("below"): 1, _FIELDS("above"): -1}
_ODDS = {OddsPlanes._fields.index("below"): 1, OddsPlanes._fields.index("above"): -1}
_SORTED = {1: 1, 3: -1, 5: 1, 7: -1}
OPERATORS: dict[str, Operator] = {
    "Product": _product((5,), (5,)),
    "Product, broadcast": _product((2, 1), (2, 3)),
    "Product, fewer axes": _product((3,), (2, 3)),
    "Gate of sigmoid": _gate("Sigmoid", lambda x: 1 / (1 + np.exp(-x)), lambda lowers, uppers: None),
    "Gate of tanh": _gate("Tanh", np.tanh, lambda lowers, uppers: None),
    "Gate of exp": _gate("Exp", np.exp, _moderate),
    "Gate of softsign": _gate("Softsign", lambda x: x / (1 + np.abs(x)), lambda lowers, uppers: None),
    "Quotient": _gate("Reciprocal", lambda x: 1 / x, _off_zero),
    "Normalisation": _gate("Pow", lambda x: 1 / np.sqrt(x), _positive, exponent=-0.5),
    "MatMul": _matmul((3, 4), (4, 2)),
    "MatMul of batches": _matmul((2, 2, 3), (2, 3, 1)),
    "MatMul, one tilt per entry": _matmul((8, 9), (9, 8)),
    "Softmax of 2": _group(Softmax(1), (2,), _softmax, _PLANES),
    "Softmax of 4": _group(Softmax(1), (4,), _softmax, _PLANES),
    "Softmax of rows": _group(Softmax(2), (3, 7), _softmax, _PLANES),
    "LogSoftmax": _group(Softmax(1, log=True), (5,), _log_softmax, _PLANES),
    "Log-odds of 2": _group(LogOdds(1), (2,), _log_odds, _ODDS),
    "Log-odds of rows": _group(LogOdds(2), (3, 5), _log_odds, _ODDS),
    "Log-sum-exp of 2": Operator(Case(LogSumExp(1), ((2,),), (), log_sum_exp), _ODDS),
    "Log-sum-exp of rows": Operator(Case(LogSumExp(2), ((3, 5),), (3,), log_sum_exp), _ODDS),
    "Max of 2": Operator(Case(MaxLast(1), ((4, 2),), (4,), lambda x: x.max(-1)), {1: 1, 3: -1}),
    "Max of 5": Operator(Case(MaxLast(1), ((3, 5),), (3,), lambda x: x.max(-1)), {1: 1, 3: -1}),
    "Sort of 2": _group(SortLast(1), (2,), lambda x: np.sort(x, -1), _SORTED),
    "Sort of 3": _group(SortLast(2), (2, 3), lambda x: np.sort(x, -1), _SORTED),
    "Sort of 6": _group(SortLast(1), (6,), lambda x: np.sort(x, -1), _SORTED),
    "Remainder": _remainder(),
}


@dataclass(frozen=True)
class Batch:
    """Boxes, one row for each, and lines of the operator on them."""

    operator: Operator
    lowers: list[Tensor]
    uppers: list[Tensor]
    rows: Tensor
    lines: Lines

    @property
    def case(self) -> Case:
        return self.operator.case


def batch(name: str, dtype: torch.dtype, radius: float, kind: str, seed: int) -> Batch:
    """`BOXES` boxes about as wide as `radius`, a random row over the output of each, and the kind of multipliers."""
    operator = OPERATORS[name]
    case = replace(operator.case, op=operator.case.op.to(dtype, torch.device("cpu")))
    lowers, uppers = boxes(case.shapes, BOXES, radius, seed, dtype, operator.scale)
    operator.fit(lowers, uppers)
    chosen = multipliers(case.op, lowers, uppers, kind, seed)
    rows, lines = rows_of(case.out, BOXES, seed, dtype), case.op.lines(lowers, uppers, chosen)
    return Batch(replace(operator, case=case), lowers, uppers, rows, lines)


def _long(value: Tensor) -> Long:
    return value.double().numpy().astype(np.longdouble)


@dataclass(frozen=True)
class _Excess:
    """Bound minus value of every box's row, at points (count, boxes, *shape) per input; above 0 is unsound."""

    case: Case
    parts: list[Long]
    constant: Long
    weight: Long

    def at(self, inputs: Sequence[Long]) -> Long:
        count, number = inputs[0].shape[:2]
        flat = [x.reshape(-1, *x.shape[2:]) for x in inputs]
        values = self.case.reference(*flat).reshape(count, number, *self.case.out)
        result = self.constant[None] - (values * self.weight).reshape(count, number, -1).sum(-1)
        for part, x in zip(self.parts, inputs, strict=True):
            result = result + (x * part).reshape(count, number, -1).sum(-1)
        return np.asarray(result)


def worst_excess(given: Batch, seed: int) -> Long:
    """(boxes,) the largest excess that sampling and local search find."""
    parts, constant = charged(given.case, given.rows, given.lines, given.lowers, given.uppers)
    excess = _Excess(given.case, [_long(p) for p in parts], _long(constant), _long(given.rows))
    inputs = [_long(s) for s in points(given.lowers, given.uppers, seed, SAMPLES)]
    ends = [(_long(lo), _long(hi)) for lo, hi in zip(given.lowers, given.uppers, strict=True)]
    found = excess.at(inputs)
    best, place = found.max(0), found.argmax(0)
    here = [x[place, np.arange(x.shape[1])] for x in inputs]
    random = np.random.default_rng(seed)
    for step in range(ROUNDS):
        tried = [_moved(x, *end, 0.5**step, random) for x, end in zip(here, ends, strict=True)]
        found = excess.at(tried)
        value, place = found.max(0), found.argmax(0)
        better = value > best
        for i, x in enumerate(tried):
            mask = better.reshape(-1, *(1,) * (x.ndim - 2))
            here[i] = np.where(mask, x[place, np.arange(x.shape[1])], here[i])
        best = np.maximum(best, value)
    return np.asarray(best)


def _moved(x: Long, low: Long, high: Long, share: float, random: np.random.Generator) -> Long:
    """(tries, boxes, *shape) around x: half of the entries stay, some go to an end, the others move a share."""
    shape = (TRIES, *x.shape)
    moved = x + share * (high - low) * random.uniform(-1, 1, shape)
    ends = np.where(random.random(shape) < 0.5, low, high)
    moved = np.where(random.random(shape) < 0.2, ends, moved)
    moved = np.where(random.random(shape) < 0.5, x, moved)
    return np.asarray(np.minimum(np.maximum(moved, low), high))


def check_rows(name: str, dtype: torch.dtype, radius: float, kind: str, seed: int) -> tuple[int, list[str]]:
    """(queries checked, violations): one row's bound on each box."""
    given = batch(name, dtype, radius, kind, seed)
    worst = worst_excess(given, seed + 1)
    bad = np.nonzero(~(worst <= 0))[0]  # a NaN is a violation, too
    return len(worst), [f"{name} {dtype} radius {radius} {kind}: row {i} is too high by {worst[i]:.3g}" for i in bad]


def check_intervals(name: str, dtype: torch.dtype, radius: float, seed: int) -> tuple[int, list[str]]:
    """(queries checked, violations): the interval of all entries on each box, against samples."""
    given = batch(name, dtype, radius, "none", seed)
    case = given.case
    low, high = case.op.interval(given.lowers, given.uppers)
    inputs = [_long(s) for s in points(given.lowers, given.uppers, seed + 1, 2 * SAMPLES)]
    flat = [x.reshape(-1, *x.shape[2:]) for x in inputs]
    values = case.reference(*flat).reshape(*inputs[0].shape[:2], *case.out)
    outside = np.maximum(_long(low) - values, values - _long(high)) - tiny(dtype)
    worst = outside.reshape(*outside.shape[:2], -1).max((0, 2))
    bad = np.nonzero(~(worst <= 0))[0]
    return len(worst), [f"{name} {dtype} radius {radius}: interval {i} is too narrow by {worst[i]:.3g}" for i in bad]


def mutated(given: Batch, position: int, relative: float) -> Batch:
    """The same with one offset moved in the unsound direction, relative to its size (and by as much of 1)."""
    lines = list(given.lines)
    shift = (lines[position].abs() + 1.0) * relative
    lines[position] = lines[position] + given.operator.offsets[position] * shift
    return replace(given, lines=tuple(lines))
