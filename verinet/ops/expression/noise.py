"""How wrong the evaluation of a tape in floating point can be: bounds of the errors of f and f' over cells.

Running error analysis (Higham 2002, section 3.3) with ranges in place of values: every step passes on the errors of
its inputs, magnified by its largest slope there, and adds its own rounding. Beside a kink the computed branch is the
true one wherever the interval arithmetic of the same precision has decided it; elsewhere no slope is used.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from verinet.ops.expression.intervals import Arithmetic, Array, Interval, magnitude
from verinet.ops.expression.jets import Cells, Derivative, Jet, Truth, jets
from verinet.ops.expression.ranges import HINGES, function_of, promise, ranges
from verinet.ops.expression.tape import Step, Tape


@dataclass(frozen=True)
class Error:
    """Absolute errors of a computed value and of its computed derivative."""

    value: Array
    slope: Array


def errors(tape: Tape, cells: Cells, arithmetic: Arithmetic) -> Error:
    """Bounds of the errors of the result over every cell; infinite where nothing is known."""
    known = jets(tape, cells, arithmetic)
    work = _Errors(known, cells, arithmetic)
    with np.errstate(all="ignore"):
        found: list[Error] = []
        for position, step in enumerate(tape.steps):
            found.append(work.of(position, step, found))
    like = np.zeros_like(cells.low)
    ends = [np.where(np.isnan(e), np.inf, e * 1.01) + like for e in (found[-1].value, found[-1].slope)]
    return Error(ends[0], ends[1])


def _none() -> Error:
    return Error(np.zeros(()), np.zeros(()))


class _Errors:
    def __init__(self, known: list[Jet | Truth], cells: Cells, arithmetic: Arithmetic) -> None:
        self.known, self.cells = known, cells
        self.eps, self.tiny = arithmetic.eps, arithmetic.tiny
        self.arithmetic = arithmetic

    def of(self, position: int, step: Step, found: list[Error]) -> Error:
        """Error of one step, given those of the steps before."""
        jet = self.known[position]
        given = [found[i] for i in step.inputs]
        if isinstance(jet, Truth) or step.kind == "x":
            return _none()
        if not step.inputs:
            return Error(self._rounding(jet.value), np.zeros(()))
        if step.kind == "where":
            return self._where(step, given[1:])
        if step.kind in ("neg", "max", "min"):
            return Error(_largest([e.value for e in given]), _largest([e.slope for e in given]))
        inner = [self._jet(i) for i in step.inputs]
        if step.kind == "add":
            return Error(
                given[0].value + given[1].value + self.eps * _size(jet.value),
                given[0].slope + given[1].slope + self.eps * _size(jet.first),
            )
        if step.kind == "mul":
            return self._product(inner, given, jet)
        if step.kind in HINGES or step.kind == "Sign":
            return self._hinge(step, given[0], jet)
        return self._smooth(step, inner[0], given[0])

    def _where(self, step: Step, given: list[Error]) -> Error:
        """Of the branch that is taken; the worse one where that is open."""
        truth, (a, b) = self.known[step.inputs[0]], given
        if not isinstance(truth, Truth):
            raise TypeError("a condition was expected")
        value, slope = _largest([a.value, b.value]), _largest([a.slope, b.slope])
        return Error(
            np.where(truth.yes, a.value, np.where(truth.no, b.value, value)),
            np.where(truth.yes, a.slope, np.where(truth.no, b.slope, slope)),
        )

    def _jet(self, position: int) -> Jet:
        found = self.known[position]
        if not isinstance(found, Jet):
            raise TypeError("a number was expected")
        return found

    def _rounding(self, value: Interval) -> Array:
        """A constant that the working precision cannot hold has an enclosure of some width."""
        found: Array = value[1] - value[0]
        return found

    def _product(self, inner: list[Jet], given: list[Error], jet: Jet) -> Error:
        a, b = inner
        e, f = given
        av, bv, a1, b1 = _size(a.value), _size(b.value), _size(a.first), _size(b.first)
        value = _times(av, f.value) + _times(bv + f.value, e.value) + self.eps * _size(jet.value) + self.tiny
        slope = _times(a1 + e.slope, f.value) + _times(b1 + f.slope, e.value)
        slope = slope + _times(bv, e.slope) + _times(av, f.slope)
        slope = slope + 3 * self.eps * (_times(a1, bv) + _times(av, b1)) + self.tiny
        return Error(value, slope)

    def _hinge(self, step: Step, given: Error, jet: Jet) -> Error:
        if step.kind == "Sign":
            return _none()  # a wrong sign is possible only where its jump lies
        slopes = HINGES[step.kind] or (step.number, 1.0)
        steep = max(abs(slopes[0]), abs(slopes[1]))
        own = 0.0 if step.kind != "LeakyRelu" else self.eps
        return Error(given.value * steep + 2 * own * _size(jet.value), given.slope * steep + 2 * own * _size(jet.first))

    def _smooth(self, step: Step, inner: Jet, given: Error) -> Error:
        """The enclosure of the inner value holds the computed one too, so slopes over it are all that can occur."""
        over = ranges(step.kind, step.number, inner.value, self.arithmetic)
        g0, g1, g2 = (magnitude(r) for r in over.orders[:3])
        ulps, floor = promise(step.kind, step.number)
        function = function_of(step.kind, step.number)
        value = _times(g1, given.value) + self.eps * ulps * (g0 + floor) * 1.001 + self.tiny
        value = np.minimum(value, over.orders[0][1] - over.orders[0][0])
        steep = self.eps * (function.slope_ulps * (g1 + function.slope_floor) * 1.001 + g1) + self.tiny
        a1 = _size(inner.first) + given.slope
        slope = _times(_times(g2, given.value) + steep, a1) + _times(g1, given.slope)
        return Error(np.where(over.unsure, np.inf, value), np.where(over.unsure, np.inf, slope))


def _size(d: Derivative) -> Array:
    return np.zeros(()) if d is None else magnitude(d)


def _times(a: Array, b: Array) -> Array:
    """A product of bounds in which exactly zero beats infinite."""
    found = a * b
    return np.where((a == 0) | (b == 0), 0.0, found)


def _largest(given: list[Array]) -> Array:
    result = given[0]
    for other in given[1:]:
        result = np.maximum(result, other)
    return result
