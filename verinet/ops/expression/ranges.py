"""Ranges of smooth functions and their derivatives over intervals, rounded outward."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from verinet.errors import InternalError
from verinet.ops.expression.derivatives import SMOOTH, ULPS, Smooth, power
from verinet.ops.expression.intervals import Arithmetic, Array, Interval, Mask

if TYPE_CHECKING:
    from verinet.ops.scalar_function import ScalarFunction

HINGES: dict[str, tuple[float, float] | None] = {"Relu": (0.0, 1.0), "Abs": (-1.0, 1.0), "LeakyRelu": None}
"""Slopes left and right of 0; those of LeakyRelu are (its number, 1)."""
PERIODIC = ("Sin", "Cos", "Tan")


class Ranges(NamedTuple):
    """Enclosures of g, g', g'', g''' over an interval; where it may leave, or certainly leaves, the domain."""

    orders: tuple[Interval, Interval, Interval, Interval]
    unsure: Mask
    outside: Mask


def known(kind: str) -> bool:
    """True for smooth functions whose derivatives have ranges."""
    return kind in SMOOTH or kind in PERIODIC or kind == "Pow"


@lru_cache(maxsize=256)
def smooth(kind: str, number: float) -> Smooth:
    return power(number) if kind == "Pow" else SMOOTH[kind]


def ranges(kind: str, number: float, a: Interval, arithmetic: Arithmetic) -> Ranges:
    """Enclosures over `a` of the function `kind` (an ONNX name; `number` is the exponent of Pow) and its derivatives.

    They also contain values that are off by ULPS units of their size, as library functions are.
    """
    if kind == "Tan":
        return _tangent(a, arithmetic)
    if kind in PERIODIC:
        return _wave(1 if kind == "Cos" else 0, a, arithmetic)
    entry = smooth(kind, number)
    low, high = entry.domain
    pole = kind in ("Reciprocal", "Pow") and entry.open_ends
    unsure = (a[0] < low) | (a[1] > high)
    outside = (a[1] < low) | (a[0] > high)
    if entry.open_ends:
        unsure |= (a[0] <= low) & (low == 0) if not pole else (a[0] <= 0) & (a[1] >= 0)
        outside |= (a[0] == 0) & (a[1] == 0) if pole else (a[1] <= low)
    left, right = np.clip(a[0], low, high), np.clip(a[1], low, high)
    points = np.stack([left, right, *(np.clip(t, left, right) for t in entry.turns)])
    found = entry.derivatives(points)
    enclosed = [_spanned(value, size, arithmetic) for value, size in found[1:]]
    first = _values(points, found[0], promise(kind, number), (arithmetic, entry.exact_at_zero))
    limited = [_limited(first, entry.bounds), _limited(enclosed[0], entry.slope_bounds), *enclosed[1:]]
    if pole:
        limited = [_across(r, unsure) for r in limited]
    return Ranges((limited[0], limited[1], limited[2], limited[3]), unsure, outside)


def function_of(kind: str, number: float) -> ScalarFunction:
    """The registered function that evaluates a step."""
    from verinet.ops.activations import find

    names = {"Pow": "exponent", "LeakyRelu": "alpha"}
    function = find(kind, {names[kind]: number} if kind in names else {})
    if function is None:
        raise InternalError(f"no function is registered for '{kind}'")
    return function


@lru_cache(maxsize=256)
def promise(kind: str, number: float) -> tuple[float, float]:
    """(ulps, floor) of the function as it is evaluated; see `ScalarFunction`. One ulp more for a rounded exponent."""
    function = function_of(kind, number)
    return function.error_ulps, function.error_floor


def _values(
    points: Array, found: tuple[Array, Array], promised: tuple[float, float], how: tuple[Arithmetic, bool]
) -> Interval:
    """Range of the values, true and computed; at 0 they may be exact."""
    arithmetic, exact = how
    value, size = found
    size = np.maximum(size, (np.abs(value) + promised[1]) * (promised[0] * 1.01 / ULPS))
    size = np.where((points == 0) & exact, -1.0, size)
    return _spanned(value, size, arithmetic)


def _spanned(value: Array, size: Array, arithmetic: Arithmetic) -> Interval:
    """Hull over the first axis, further out by the possible errors (none where `size` is negative); NaN is anything."""
    pad = np.where((size < 0) | np.isinf(value), 0.0, np.maximum(size, 0) * (ULPS * arithmetic.eps) + arithmetic.tiny)
    below, above = _certain(value - pad, -math.inf), _certain(value + pad, math.inf)
    low, high = below.min(0), above.max(0)
    # Beyond the largest number: only "at least that much" is known.
    top = arithmetic.largest
    low = np.where(np.abs(low) > top, np.where(low > 0, top, -math.inf), low)
    return low, np.where(np.abs(high) > top, np.where(high > 0, math.inf, -top), high)


def _certain(value: Array, instead: float) -> Array:
    return np.where(np.isnan(value), instead, value)


def _limited(found: Interval, bounds: tuple[float, float]) -> Interval:
    return np.maximum(found[0], bounds[0]), np.minimum(found[1], bounds[1])


def _across(found: Interval, unsure: Mask) -> Interval:
    return np.where(unsure, -np.inf, found[0]), np.where(unsure, np.inf, found[1])


def _quarter(a: Interval) -> tuple[Array, Array]:
    """First and last multiple of pi/2 that the interval may contain, with the rounding of the reduction."""
    margin = 1e-15 * (1 + np.maximum(np.abs(a[0]), np.abs(a[1])))
    return np.ceil((a[0] - margin) * (2 / math.pi) - 1e-15), np.floor((a[1] + margin) * (2 / math.pi) + 1e-15)


def _wave(phase: int, a: Interval, arithmetic: Arithmetic) -> Ranges:
    """Range of sin(x + (phase + order) pi/2): the ends, and the peaks that lie between them."""
    first, last = _quarter(a)
    orders: list[Interval] = []
    big = np.maximum(np.abs(a[0]), np.abs(a[1])) > 1e9
    for order in range(4):
        turn = (phase + order) % 4
        ends = np.stack([_quarter_sine(x, turn) for x in a])
        # As computed, with an absolute error; but sin 0 is exact.
        pad = np.where((np.stack(a) == 0) & (turn % 2 == 0), 0.0, ULPS * arithmetic.eps)
        low, high = (ends - pad).min(0), (ends + pad).max(0)
        high = np.where(_holds(first, last, (1 - turn) % 4) | big, 1.0, np.minimum(high, 1.0))
        low = np.where(_holds(first, last, (3 - turn) % 4) | big, -1.0, np.maximum(low, -1.0))
        orders.append((np.where(np.isnan(low), -1.0, low), np.where(np.isnan(high), 1.0, high)))
    never = np.zeros(np.shape(a[0]), dtype=bool)
    return Ranges((orders[0], orders[1], orders[2], orders[3]), never, never)


def _quarter_sine(x: Array, turn: int) -> Array:
    """sin(x + turn pi/2) without adding."""
    found: Array = np.sin(x) if turn % 2 == 0 else np.cos(x)
    return found if turn < 2 else -found


def _holds(first: Array, last: Array, residue: int) -> Mask:
    """True where some whole number between `first` and `last` is `residue` modulo 4."""
    found: Mask = first + np.mod(residue - first, 4) <= last
    return found


def _tangent(a: Interval, arithmetic: Arithmetic) -> Ranges:
    first, last = _quarter(a)
    unsure = first + np.mod(1 - first, 2) <= last
    turn = np.clip(np.round(0.5 * (a[0] + a[1]) / math.pi) * math.pi, a[0], a[1])
    points = np.stack([a[0], a[1], turn])
    t = np.tan(points)
    d = 1 + t * t
    found = ((t, np.abs(t)), (d, d), (2 * t * d, np.abs(2 * t * d)), ((2 + 6 * t * t) * d, (2 + 6 * t * t) * d))
    big = unsure | (np.maximum(np.abs(a[0]), np.abs(a[1])) > 1e9)
    # The reduction of the argument by pi is good to 4 units of the argument, amplified by the slope.
    shift = 4 * arithmetic.eps * np.abs(points) * arithmetic.eps
    enclosed = [_across(_spanned(v, s + shift * d * d, arithmetic), big) for v, s in found]
    return Ranges((enclosed[0], enclosed[1], enclosed[2], enclosed[3]), big, np.zeros_like(unsure))
