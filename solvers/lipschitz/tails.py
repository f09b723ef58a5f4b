"""Slopes of composed functions where the argument is very large: what interval arithmetic cannot tell.

On x tanh(x) the slope is tanh(x) + x (1 - tanh(x)^2), and plain intervals see an unbounded number times a small one.
Here every quantity on the tail s = |x| >= START is kept as s^power times a number within bounds. Products add powers;
a sum takes the larger power, because s^(p - q) is in (0, START^(p - q)] for p < q. Powers, |.| and hinges act on the
factor alone. Functions that approach their limits exponentially do so faster than any power:

    4 exp(-u) <= 1e-300 / u^16    for u >= 2048,    as u^16 exp(-u) falls from there on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from verinet.ops.expression.intervals import F64, Interval, magnitude, number
from verinet.ops.expression.ranges import HINGES, known, ranges
from verinet.ops.expression.tape import COMPARE, LOGIC, Step, Tape
from verinet.ops.scalar_function import DomainError

START = 2.0**20
_FAR, _FALL, _REST = 2048.0, 16.0, 1e-300
_UNIT = 2.0**-52
_HOMOGENEOUS = {"Sqrt": 0.5, "Reciprocal": -1.0}
_TO_ZERO = ("Exp", "Sigmoid", "Softplus", "Gelu")
"""Functions that fall to 0, with their slope, on the negative side; |f| and |f'| are at most 4 exp(-|u|) there."""
_TO_LIMIT = {"Tanh": (-1.0, 1.0), "Erf": (-1.0, 1.0), "Sigmoid": (None, 1.0)}
"""Limits on the left and on the right that are approached like 4 exp(-|u|), slopes alike."""


@dataclass(frozen=True, slots=True)
class Scaled:
    """s^power times a number within `factor`, for every s >= START."""

    power: float
    factor: Interval

    def raised(self, power: float) -> Interval:
        """The factor of the same quantity at a larger power of s."""
        if power == self.power:
            return self.factor
        top = np.asarray(START ** (self.power - power) * (1 + 2.0**-48))
        return F64.mul(self.factor, (np.zeros_like(top), top))

    def plain(self) -> Interval:
        """Bounds of the quantity itself; infinite where it grows."""
        if self.power <= 0:
            return self.raised(0.0)
        least = START**self.power * (1 - 2.0**-48)
        low, high = self.factor
        return (
            np.where(low >= 0, low * least * (1 - 2 * _UNIT), -np.inf),
            np.where(high <= 0, high * least * (1 - 2 * _UNIT), np.inf),
        )

    @property
    def sign(self) -> int:
        """1 or -1 where the quantity certainly is on that side of 0, else 0."""
        return int(bool((self.factor[0] > 0).all())) - int(bool((self.factor[1] < 0).all()))

    def least(self) -> float:
        """At most |quantity|, for a growing one of known sign."""
        smallest = float(np.minimum(np.abs(self.factor[0]), np.abs(self.factor[1])).min())
        return float(smallest * START**self.power * (1 - 2.0**-40))


@dataclass(frozen=True, slots=True)
class Tail:
    """A step of a tape and its derivative."""

    value: Scaled
    slope: Scaled


def add(a: Scaled, b: Scaled) -> Scaled:
    if not (a.factor[0].any() or a.factor[1].any()):
        return b
    if not (b.factor[0].any() or b.factor[1].any()):
        return a
    power = max(a.power, b.power)
    return Scaled(power, F64.add(a.raised(power), b.raised(power)))


def mul(a: Scaled, b: Scaled) -> Scaled:
    return Scaled(a.power + b.power, F64.mul(a.factor, b.factor))


def negative(a: Scaled) -> Scaled:
    return Scaled(a.power, (-a.factor[1], -a.factor[0]))


def _constant(value: float) -> Scaled:
    return Scaled(0.0, number(value))


def tail_slopes(tape: Tape, parameters: tuple[float, ...], side: int) -> tuple[float, float]:
    """Bounds of the slope of the tape's function for side * x >= START; infinite where none are found.

    Raises `DomainError` where the function may be undefined there.
    """
    work = _Work(parameters, side)
    try:
        with np.errstate(all="ignore"):
            for step in tape.steps:
                work.visit(step)
            last = work.found[-1]
            if not isinstance(last, Tail):
                return -np.inf, np.inf
            low, high = (float(end) for end in last.slope.plain())
    except _Unsettled:
        return -np.inf, np.inf
    return (low, high) if low <= high else (-np.inf, np.inf)  # a NaN is no bound


class _Unsettled(Exception):
    """Nothing can be said about a step."""


class _Work:
    """One pass over a tape: a `Tail` for every number, True or False for every condition."""

    def __init__(self, parameters: tuple[float, ...], side: int) -> None:
        self.parameters, self.side = parameters, side
        self.found: list[Tail | bool] = []

    def visit(self, step: Step) -> None:
        if step.kind in COMPARE:
            a, b = self._tails(step)
            self.found.append(_above(add(a.value, negative(b.value))))
        elif step.kind in LOGIC:
            given = [bool(self.found[i]) for i in step.inputs]
            self.found.append(not given[0] if step.kind == "not" else all(given) if step.kind == "and" else any(given))
        else:
            self.found.append(self._number(step))

    def _tails(self, step: Step) -> list[Tail]:
        return [t for t in (self.found[i] for i in step.inputs) if isinstance(t, Tail)]

    def _number(self, step: Step) -> Tail:
        if step.kind == "x":
            return Tail(Scaled(1.0, number(float(self.side))), _constant(1.0))
        if step.kind in ("const", "param"):
            given_number = step.number if step.kind == "const" else self.parameters[int(step.number)]
            return Tail(_constant(given_number), _constant(0.0))
        given = self._tails(step)
        if step.kind == "where":
            return given[0] if self.found[step.inputs[0]] else given[1]
        if step.kind == "neg":
            return Tail(negative(given[0].value), negative(given[0].slope))
        if step.kind == "Sign":
            return Tail(_constant(float(_known_sign(given[0].value))), _constant(0.0))
        if len(given) == 2:
            return _binary(step.kind, *given)
        value, slope = _applied(step, given[0].value)
        return Tail(value, mul(slope, given[0].slope))


def _known_sign(value: Scaled) -> int:
    if not value.sign:
        raise _Unsettled
    return value.sign


def _above(difference: Scaled) -> bool:
    return _known_sign(difference) > 0


def _binary(kind: str, a: Tail, b: Tail) -> Tail:
    if kind == "add":
        return Tail(add(a.value, b.value), add(a.slope, b.slope))
    if kind == "mul":
        slopes = mul(a.slope, b.value), mul(a.value, b.slope)
        return Tail(mul(a.value, b.value), add(*slopes))
    first = _above(add(a.value, negative(b.value))) == (kind == "max")
    return a if first else b


def _applied(step: Step, u: Scaled) -> tuple[Scaled, Scaled]:
    """f(u) and f'(u)."""
    kind = step.kind
    degree = step.number if kind == "Pow" else _HOMOGENEOUS.get(kind)
    if kind in HINGES:
        slopes = HINGES[kind] or (step.number, 1.0)
        slope = _constant(slopes[_known_sign(u) > 0])
        return mul(u, slope), slope
    if degree is not None:
        # f(s^k c) = s^(k degree) f(c), and f' has one degree less.
        factor, rate = _over(step, u.factor)
        return Scaled(u.power * degree, factor), Scaled(u.power * (degree - 1), rate)
    if u.power > 0 and u.sign and u.least() >= _FAR:
        found = _far(kind, u)
        if found is not None:
            return found
    factor, rate = _over(step, u.plain())
    return Scaled(0.0, factor), Scaled(0.0, rate)


def _over(step: Step, interval: Interval) -> tuple[Interval, Interval]:
    """Enclosures of f and f' over an interval by the ranges of the expression language."""
    if not known(step.kind):
        raise _Unsettled
    over = ranges(step.kind, step.number, interval, F64)
    if bool(np.any(over.unsure)):
        raise DomainError(step.kind)
    return over.orders[0], over.orders[1]


def _vanishing(u: Scaled, low: float = 0.0) -> Scaled:
    """Anything within 4 exp(-|u|) of 0: on one side of it, or with `low` = -1 on both."""
    size = np.minimum(np.abs(u.factor[0]), np.abs(u.factor[1]))
    top = _REST * size**-_FALL * (1 + 2.0**-40) + 1e-300
    return Scaled(-_FALL * u.power, (low * top, top))


def _near(limit: float) -> Scaled:
    return Scaled(0.0, (np.asarray(limit - 2 * _UNIT), np.asarray(limit + 2 * _UNIT)))


def _far(kind: str, u: Scaled) -> tuple[Scaled, Scaled] | None:
    """f(u) and f'(u) for |u| >= 2048; None where interval arithmetic has to do."""
    small, inverse = _vanishing(u, -1.0), Scaled(-u.power, _over(Step("Reciprocal"), u.factor)[0])
    if u.sign < 0 and kind in _TO_ZERO:
        return small, small
    limits = _TO_LIMIT.get(kind)
    limit = None if limits is None else limits[u.sign > 0]
    if limit is not None:
        return _near(limit), small
    if kind in ("Softplus", "Gelu"):  # u > 0: u itself up to 4 exp(-u)
        return add(u, small), _near(1.0)
    share = Scaled(0.0, (np.asarray(1 - 2.0**-20), np.asarray(1.0)))  # 1 / (1 + u^-2), and its root
    if kind == "Atan":
        return Scaled(0.0, _over(Step("Atan"), u.plain())[0]), mul(mul(inverse, inverse), share)
    if kind == "Asinh" or (kind == "Log" and u.sign > 0):
        # 0 <= log(u) <= 2 sqrt(u) and asinh(|u|) <= log(3 |u|) <= 2 sqrt(3 |u|) <= 4 sqrt(|u|) for |u| >= 1.
        root = 4.0 * np.sqrt(magnitude(u.factor)) * (1 + 2.0**-48)
        value = Scaled(0.5 * u.power, (-root if kind == "Asinh" else np.zeros_like(root), root))
        size = inverse if u.sign > 0 else negative(inverse)
        return value, (mul(size, share) if kind == "Asinh" else size)
    return None
