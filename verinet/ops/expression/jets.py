"""Enclosures of f, f', f'' and f''' over cells, by forward differentiation of a tape in interval arithmetic.

A derivative that is identically zero is None. At kinks the first derivative is the hull of both sides, and `jump`
bounds by how much it may jump inside the cell; where a value may jump nothing is known of the derivatives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np

from verinet.ops.expression.intervals import (
    Arithmetic,
    Array,
    Interval,
    Mask,
    everything,
    hull,
    magnitude,
    meet,
    neg,
    number,
)
from verinet.ops.expression.ranges import HINGES, ranges
from verinet.ops.expression.tape import COMPARE, LOGIC, Step, Tape

Derivative = Interval | None


@dataclass(frozen=True)
class Jet:
    """`value` and three derivatives; `jump` of the first one. `unsure`: possibly undefined; `void`: certainly."""

    value: Interval
    first: Derivative
    second: Derivative
    third: Derivative
    jump: Array | None = None
    unsure: Mask | None = None
    void: Mask | None = None
    broken: Mask | None = None  # a kink or a branch inside: no Taylor form

    @property
    def derivatives(self) -> tuple[Derivative, Derivative, Derivative]:
        return self.first, self.second, self.third


@dataclass(frozen=True)
class Truth:
    """A condition over cells: certainly true, certainly false, or neither."""

    yes: Mask
    no: Mask


@dataclass(frozen=True)
class Cells:
    """Closed intervals of the variable, with the numbers of every parameter tensor there."""

    low: Array
    high: Array
    parameters: tuple[Array, ...] = ()


def jets(tape: Tape, cells: Cells, arithmetic: Arithmetic) -> list[Jet | Truth]:
    """The enclosures of every step."""
    work = _Forward(cells, arithmetic)
    with np.errstate(all="ignore"):
        for step in tape.steps:
            work.visit(step)
    return work.found


def last_jet(tape: Tape, cells: Cells, arithmetic: Arithmetic) -> Jet:
    """The enclosures of the result, of the cells' shape."""
    found = jets(tape, cells, arithmetic)[-1]
    if not isinstance(found, Jet):
        raise TypeError("the expression is a condition, not a number")
    return found


def _any(*masks: Mask | None) -> Mask | None:
    given = [m for m in masks if m is not None]
    return reduce(np.logical_or, given) if given else None


class _Forward:
    """One pass over a tape."""

    def __init__(self, cells: Cells, arithmetic: Arithmetic) -> None:
        self.cells, self.arithmetic = cells, arithmetic
        self.found: list[Jet | Truth] = []

    def visit(self, step: Step) -> None:
        if step.kind in COMPARE:
            self.found.append(self._compare(step.kind, *self._jets(step.inputs)))
        elif step.kind in LOGIC:
            self.found.append(_logic(step.kind, [self._truth(i) for i in step.inputs]))
        else:
            self.found.append(self._number(step))

    def _number(self, step: Step) -> Jet:
        if not step.inputs:
            return self._leaf(step)
        if step.kind == "where":
            return self._where(self._truth(step.inputs[0]), *self._jets(step.inputs[1:]))
        given = self._jets(step.inputs)
        if len(given) == 2:
            return {"add": self._add, "mul": self._mul, "max": self._max, "min": self._min}[step.kind](*given)
        if step.kind == "neg":
            return _negative(given[0])
        if step.kind in HINGES:
            return self._hinge(HINGES[step.kind] or (step.number, 1.0), given[0])
        return self._sign(given[0]) if step.kind == "Sign" else self._smooth(step, given[0])

    def _leaf(self, step: Step) -> Jet:
        if step.kind == "x":
            return Jet((self.cells.low, self.cells.high), number(1.0), None, None)
        if step.kind == "const":
            return Jet(self.arithmetic.constant(np.asarray(step.number)), None, None, None)
        return Jet(self.arithmetic.constant(self.cells.parameters[int(step.number)]), None, None, None)

    def _jets(self, inputs: Sequence[int]) -> list[Jet]:
        found = [self.found[i] for i in inputs]
        return [jet for jet in found if isinstance(jet, Jet)]

    def _truth(self, position: int) -> Truth:
        found = self.found[position]
        if not isinstance(found, Truth):
            raise TypeError("a condition was expected")
        return found

    # Sums and products of enclosures that may be exactly zero (None).

    def plus(self, *terms: Derivative) -> Derivative:
        given = [t for t in terms if t is not None]
        return reduce(self.arithmetic.add, given) if given else None

    def times(self, *factors: Derivative) -> Derivative:
        given = [f for f in factors if f is not None]
        return reduce(self.arithmetic.mul, given) if len(given) == len(factors) else None

    def _add(self, a: Jet, b: Jet) -> Jet:
        sums = [self.plus(x, y) for x, y in zip(a.derivatives, b.derivatives, strict=True)]
        jump = a.jump if b.jump is None else b.jump if a.jump is None else a.jump + b.jump
        return self._joined((a, b), self.arithmetic.add(a.value, b.value), (sums[0], sums[1], sums[2]), jump)

    def _joined(
        self,
        parts: Sequence[Jet],
        value: Interval,
        derivatives: tuple[Derivative, Derivative, Derivative],
        jump: Array | None,
    ) -> Jet:
        masks = [_any(*(getattr(p, name) for p in parts)) for name in ("unsure", "void", "broken")]
        if jump is not None:
            jump = np.where(np.isnan(jump), np.inf, jump * (1 + 8 * self.arithmetic.eps))
        return Jet(value, *derivatives, jump, masks[0], masks[1], masks[2])

    def _mul(self, a: Jet, b: Jet) -> Jet:
        two, three = number(2.0), number(3.0)
        av: Derivative = a.value
        bv: Derivative = b.value
        first = self.plus(self.times(a.first, bv), self.times(av, b.first))
        second = self.plus(self.times(a.second, bv), self.times(two, a.first, b.first), self.times(av, b.second))
        third = self.plus(
            self.times(a.third, bv),
            self.times(three, a.second, b.first),
            self.times(three, a.first, b.second),
            self.times(av, b.third),
        )
        jumps = [_scaled(a.jump, magnitude(b.value)), _scaled(b.jump, magnitude(a.value))]
        given = [j for j in jumps if j is not None]
        jump = reduce(np.add, given) if given else None
        return self._joined((a, b), self.arithmetic.mul(a.value, b.value), (first, second, third), jump)

    def _smooth(self, step: Step, a: Jet) -> Jet:
        """Faa di Bruno's formula; the derivatives of the outer function are enclosed over all of the inner range."""
        over = ranges(step.kind, step.number, a.value, self.arithmetic)
        g0, g1, g2, g3 = over.orders
        square = None if a.first is None else self.arithmetic.square(a.first)
        first = self.times(g1, a.first)
        second = self.plus(self.times(g2, square), self.times(g1, a.second))
        third = self.plus(
            self.times(g3, square, a.first),
            self.times(number(3.0), g2, a.first, a.second),
            self.times(g1, a.third),
        )
        joined = self._joined((a,), g0, (first, second, third), _scaled(a.jump, magnitude(g1)))
        unsure, void = _any(joined.unsure, over.unsure), _any(joined.void, over.outside)
        return Jet(joined.value, first, second, third, joined.jump, unsure, void, joined.broken)

    def _hinge(self, slopes: tuple[float, float], a: Jet) -> Jet:
        """n a for a <= 0 and p a for a >= 0."""
        right, left = a.value[0] >= 0, a.value[1] <= 0
        least, most = min(slopes), max(slopes)
        slope = (
            np.where(left, slopes[0], np.where(right, slopes[1], least)),
            np.where(left, slopes[0], np.where(right, slopes[1], most)),
        )
        sides = [self.arithmetic.scale(_clamped(a.value, s), slopes[s]) for s in (0, 1)]
        value = hull(sides[0], sides[1])
        value = tuple(np.where(left, s, np.where(right, p, v)) for s, p, v in zip(*sides, value, strict=True))
        straddles = ~(left | right)
        own_jump = np.where(straddles, (most - least) * _size(a.first), 0.0)
        passed = _scaled(a.jump, np.maximum(np.abs(slope[0]), np.abs(slope[1])))
        jump = own_jump if passed is None else own_jump + passed
        derivatives = [self.times(slope, d) for d in a.derivatives]
        joined = self._joined((a,), (value[0], value[1]), (derivatives[0], derivatives[1], derivatives[2]), jump)
        broken = _any(joined.broken, straddles)
        return Jet(joined.value, *joined.derivatives, joined.jump, joined.unsure, joined.void, broken)

    def _max(self, a: Jet, b: Jet) -> Jet:
        right, left = a.value[0] >= b.value[1], a.value[1] <= b.value[0]
        straddles = ~(left | right)
        value = np.maximum(a.value[0], b.value[0]), np.maximum(a.value[1], b.value[1])
        derivatives = [_chosen(right, left, x, y) for x, y in zip(a.derivatives, b.derivatives, strict=True)]
        gap = self.plus(a.first, None if b.first is None else neg(b.first))
        jumps = _chosen(right, left, _as_interval(a.jump), _as_interval(b.jump))
        jump = np.where(straddles, _size(gap), 0.0) + (0.0 if jumps is None else jumps[1])
        joined = self._joined((a, b), value, (derivatives[0], derivatives[1], derivatives[2]), jump)
        broken = _any(joined.broken, straddles)
        return Jet(value, *joined.derivatives, joined.jump, joined.unsure, joined.void, broken)

    def _min(self, a: Jet, b: Jet) -> Jet:
        return _negative(self._max(_negative(a), _negative(b)))

    def _sign(self, a: Jet) -> Jet:
        one, zero = np.ones_like(a.value[0]), np.zeros_like(a.value[0])
        positive, negative = a.value[0] > 0, a.value[1] < 0
        nothing = (a.value[0] == 0) & (a.value[1] == 0)
        decided = positive | negative | nothing
        value = (
            np.where(positive, one, np.where(nothing, zero, -one)),
            np.where(negative, -one, np.where(nothing, zero, one)),
        )
        slope = np.where(decided, 0.0, -np.inf), np.where(decided, 0.0, np.inf)
        jump = np.where(decided, 0.0, np.inf)
        return Jet(value, slope, slope, slope, jump, a.unsure, a.void, _any(a.broken, ~decided))

    def _where(self, truth: Truth, a: Jet, b: Jet) -> Jet:
        straddles = ~(truth.yes | truth.no)
        value = _chosen(truth.yes, truth.no, a.value, b.value)
        unknown = everything(straddles)
        derivatives: list[Derivative] = []
        for x, y in zip(a.derivatives, b.derivatives, strict=True):
            found = _chosen(truth.yes, truth.no, x, y) or number(0.0)
            derivatives.append((np.where(straddles, unknown[0], found[0]), np.where(straddles, unknown[1], found[1])))
        jumps = _chosen(truth.yes, truth.no, _as_interval(a.jump), _as_interval(b.jump))
        jump = np.where(straddles, np.inf, 0.0 if jumps is None else jumps[1])
        unsure = _picked(truth, a.unsure, b.unsure)
        void = _picked(Truth(truth.yes | straddles, truth.no | straddles), a.void, b.void)
        if void is not None:
            both = _all(a.void, b.void)
            void = np.where(straddles, False if both is None else both, void)
        broken = _any(_picked(truth, a.broken, b.broken), straddles)
        if value is None:
            raise TypeError("a branch has no value")
        return Jet(value, derivatives[0], derivatives[1], derivatives[2], jump, unsure, void, broken)

    def _compare(self, kind: str, a: Jet, b: Jet) -> Truth:
        """a > b or a >= b, as true and as computed; undefined operands are neither."""
        if kind == "gt":
            yes, no = a.value[0] > b.value[1], a.value[1] <= b.value[0]
        else:
            yes, no = a.value[0] >= b.value[1], a.value[1] < b.value[0]
        unsure = _any(a.unsure, b.unsure, a.void, b.void)
        return Truth(yes, no) if unsure is None else Truth(yes & ~unsure, no & ~unsure)


def _size(d: Derivative) -> Array | float:
    return 0.0 if d is None else magnitude(d)


def _as_interval(jump: Array | None) -> Derivative:
    return None if jump is None else (jump, jump)


def _scaled(jump: Array | None, factor: Array) -> Array | None:
    if jump is None:
        return None
    found = jump * factor
    return np.where(np.isnan(found), np.where(jump == 0, 0.0, np.inf), found)


def _clamped(value: Interval, side: int) -> Interval:
    """The part of an interval at or below 0 (side 0), or at or above it."""
    if side == 0:
        return np.minimum(value[0], 0.0), np.minimum(value[1], 0.0)
    return np.maximum(value[0], 0.0), np.maximum(value[1], 0.0)


def _chosen(first: Mask, second: Mask, a: Derivative, b: Derivative) -> Derivative:
    """`a` where `first` holds, `b` where `second` does, else the hull."""
    if a is None and b is None:
        return None
    x, y = a or number(0.0), b or number(0.0)
    both = hull(x, y)
    low = np.where(first, x[0], np.where(second, y[0], both[0]))
    return low, np.where(first, x[1], np.where(second, y[1], both[1]))


def _picked(truth: Truth, a: Mask | None, b: Mask | None) -> Mask | None:
    """Of the branch taken; of both where that is open."""
    if a is None and b is None:
        return None
    x = np.zeros_like(truth.yes) if a is None else a
    y = np.zeros_like(truth.yes) if b is None else b
    found: Mask = (x & ~truth.no) | (y & ~truth.yes)
    return found


def _all(a: Mask | None, b: Mask | None) -> Mask | None:
    return None if a is None or b is None else a & b


def _negative(a: Jet) -> Jet:
    flipped = [None if d is None else neg(d) for d in a.derivatives]
    return Jet(neg(a.value), flipped[0], flipped[1], flipped[2], a.jump, a.unsure, a.void, a.broken)


def _logic(kind: str, given: Sequence[Truth]) -> Truth:
    if kind == "not":
        return Truth(given[0].no, given[0].yes)
    a, b = given
    return Truth(a.yes & b.yes, a.no | b.no) if kind == "and" else Truth(a.yes | b.yes, a.no & b.no)


def mean_value_form(half: Array, natural: Interval, middle: Interval, rate: Interval, how: Arithmetic) -> Interval:
    """The enclosure `natural` cut with the mean value form: value at a point plus next derivative times distance.

    `half` is the largest distance to the point. Only for functions that are smooth throughout (Neumaier 1990, 2.3).
    """
    with np.errstate(all="ignore"):
        reach = half * (1 + 4 * how.eps)
        return meet(natural, how.add(middle, how.mul(rate, (-reach, reach))))
