"""Comparisons and choices between variables, as arithmetic on the numbers 0 and 1.

x > y is a step of x - y, which jumps; its bounds are sound but loose until the operands are known to be apart. Between
integers continuous functions say the same: x > y is clip(x - y, 0, 1), and x = y is max(0, 1 - |x - y|).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from verinet.errors import ModelError
from verinet.frontends.builder import Constant, Value, Variable
from verinet.frontends.call import Call, handles
from verinet.frontends.elementwise import apply, scalar_function
from verinet.frontends.handlers_arithmetic import add, multiply, subtract
from verinet.frontends.integer_results import fitting
from verinet.frontends.tensors import Array, dtype_of
from verinet.frontends.whole_numbers import is_nonnegative, is_whole

_BOOL = np.dtype(np.bool_)
_ONE = np.asarray(1.0)


def _through(call: Call, op: str, x: Variable) -> Variable:
    function = scalar_function(op, {})
    if function is None:
        raise call.unsupported()
    return apply(call, function, x)


def _as_bool(x: Variable) -> Variable:
    return dataclasses.replace(x, dtype=_BOOL)


def _difference(call: Call, left: int, right: int) -> Variable:
    """Input `left` minus input `right`."""
    if call.is_constant(right):
        return call.builder.shift(call.variable(left), -call.finite(right).astype(np.float64))
    if call.is_constant(left):
        return call.builder.shift(call.builder.negate(call.variable(right)), call.finite(left))
    return subtract(call, call.variable(left), call.variable(right))


def _positive(call: Call, x: Variable) -> Variable:
    """1 where x > 0, else 0."""
    if is_whole(call.builder.nodes, x):
        return _clipped(call, x)
    from verinet.ops.sorting.steps import STEP

    return apply(call, STEP, x)


def _clipped(call: Call, x: Variable) -> Variable:
    """x cut off below 0 and above 1."""
    clip = scalar_function("Clip", {"min": 0.0, "max": 1.0})
    if clip is None:
        raise call.unsupported()
    return apply(call, clip, x)


def equals_zero(call: Call, x: Variable) -> Variable:
    """1 where x = 0, else 0."""
    if not is_whole(call.builder.nodes, x):
        return _not(call, _nonzero(call, x))
    from verinet.ops.sorting.steps import HAT

    return apply(call, HAT, x)


def _not(call: Call, x: Variable) -> Variable:
    return call.builder.shift(call.builder.negate(x), _ONE)


@handles("Greater", "Less", "GreaterOrEqual", "LessOrEqual")
def compare(call: Call) -> Variable:
    op = call.node.op
    first, second = (0, 1) if op in ("Greater", "LessOrEqual") else (1, 0)
    strict = _positive(call, _difference(call, first, second))
    return _as_bool(strict if op in ("Greater", "Less") else _not(call, strict))


@handles("Equal")
def equal(call: Call) -> Variable:
    """An integer equals a number if that is an integer too and their distance is 0: a hat, which does not jump."""
    apart = _difference(call, 0, 1)
    number = _number_beside_integer(call)
    if number is None:
        return _as_bool(equals_zero(call, apart))
    from verinet.ops.sorting.steps import HAT, WHOLE

    return _as_bool(multiply(call, apply(call, WHOLE, number), apply(call, HAT, apart)))


def _number_beside_integer(call: Call) -> Variable | None:
    """The variable that need not be an integer, where the other one is."""
    if call.is_constant(0) or call.is_constant(1):
        return None
    pair = call.variable(0), call.variable(1)
    whole = [is_whole(call.builder.nodes, x) for x in pair]
    return pair[whole.index(False)] if sorted(whole) == [False, True] else None


def _nonzero(call: Call, x: Variable) -> Variable:
    return _through(call, "Abs", _through(call, "Sign", x))


@handles("Not")
def not_(call: Call) -> Variable:
    return _as_bool(_not(call, call.variable(0)))


@handles("And", "Or", "Xor")
def connect(call: Call) -> Variable:
    op = call.node.op
    if call.is_constant(0) or call.is_constant(1):
        place = 0 if call.is_constant(0) else 1
        return _as_bool(_connect_constant(call, op, call.variable(1 - place), call.finite(place).astype(np.float64)))
    both = add(call, call.variable(0), call.variable(1))
    if op == "And":
        return _as_bool(_through(call, "Relu", call.builder.shift(both, -_ONE)))
    if op == "Or":
        return _as_bool(_not(call, _through(call, "Relu", _not(call, both))))
    return _as_bool(_through(call, "Abs", subtract(call, call.variable(0), call.variable(1))))


def _connect_constant(call: Call, op: str, x: Variable, fixed: Array) -> Variable:
    if op == "And":
        return call.builder.scale(x, fixed)
    if op == "Or":  # x + c - c x
        return call.builder.shift(call.builder.scale(x, 1.0 - fixed), fixed)
    return call.builder.shift(call.builder.scale(x, 1.0 - 2.0 * fixed), fixed)


def where_variable(call: Call) -> Variable:
    """b + condition * (a - b), by one |.| where a - b is a multiple of what the condition asks about."""
    condition = call.variable(0)
    if call.is_constant(1) and call.is_constant(2):
        low = call.finite(2).astype(np.float64)
        found = call.builder.shift(call.builder.scale(condition, call.finite(1).astype(np.float64) - low), low)
        return dataclasses.replace(found, dtype=call.value(1).dtype)
    difference = _difference(call, 1, 2)
    smooth = _smooth_choice(call, condition, difference)
    if smooth is not None:
        return dataclasses.replace(smooth, dtype=call.value(1).dtype)
    chosen = multiply(call, condition, difference)
    if call.is_constant(2):
        found = call.builder.shift(chosen, call.finite(2))
    else:
        found = add(call, call.variable(2), chosen)
    return dataclasses.replace(found, dtype=call.value(1).dtype)


def _smooth_choice(call: Call, condition: Variable, difference: Variable) -> Variable | None:
    from verinet.frontends.masks import chosen, mask_of

    mask = mask_of(call, condition.node)
    if mask is None or abs(mask.factor) != 1 or mask.constant not in (0.0, 1.0):
        return None
    base = call.variable(2 if mask.constant == 0 else 1)
    if mask.factor < 0:
        difference = call.builder.negate(difference)
    if mask.constant + mask.factor not in (0.0, 1.0):
        return None
    shape = tuple(int(n) for n in np.broadcast_shapes(*(call.value(i).shape for i in range(3))))
    return chosen(call, mask.t, base, difference, shape)


@handles("Cast", "CastLike")
def cast(call: Call) -> Value:
    """Between float32 and float64 nothing changes for real numbers; to integers it cuts off the fraction.

    Integers of 8 and 16 bits, and unsigned ones, count in a circle. Where bounds of others leave the type, the query
    is refused.
    """
    x = call.value(0)
    if call.node.op == "CastLike":
        target = call.value(1).dtype
    else:
        target = dtype_of(int(call.attribute("to")), call.where)
    if isinstance(x, Constant) or x.dtype == target:
        return x
    if target == _BOOL:
        whole = is_whole(call.builder.nodes, x)
        return _as_bool(_not(call, equals_zero(call, x)) if whole else _nonzero(call, x))
    if target.kind in "iu":
        integers = x if is_whole(call.builder.nodes, x) else _truncated(call, x)
        if _fits(x.dtype, target):
            return dataclasses.replace(integers, dtype=target)
        return _wrapped(call, dataclasses.replace(integers, dtype=target))
    return dataclasses.replace(x, dtype=target)


def _wrapped(call: Call, x: Variable) -> Variable:
    """Integers as their type holds them; a narrow or unsigned one by x - s floor((x - least) / s), with s = 2^bits.

    Half a step is added, so that rounding cannot cross a jump.
    """
    limits, wide = np.iinfo(x.dtype), x.dtype.itemsize >= 4
    if wide and (x.dtype.kind == "i" or is_nonnegative(call.builder.nodes, x)):
        return fitting(call, x)
    span = 2.0 ** (8 * x.dtype.itemsize)
    steps = call.builder.scale(call.builder.shift(x, np.asarray(0.5 - float(limits.min))), np.asarray(1 / span))
    return subtract(call, x, call.builder.scale(_through(call, "Floor", steps), np.asarray(span)))


def _fits(source: np.dtype[Any], target: np.dtype[Any]) -> bool:
    """Whether every number of one type is one of the other."""
    if source.kind not in "iu":
        return source == _BOOL
    inner, outer = np.iinfo(source), np.iinfo(target)
    return outer.min <= inner.min and inner.max <= outer.max


def _truncated(call: Call, x: Variable) -> Variable:
    up = _through(call, "Floor", _through(call, "Relu", x))
    down = _through(call, "Floor", _through(call, "Relu", call.builder.negate(x)))
    return subtract(call, up, down)


def integer_quotient(call: Call, x: Variable, divisor: int) -> Variable:
    """x / divisor cut off towards zero, for integers x and a divisor > 0.

    Half a step is added before the fraction is cut off, so that rounding 1 / divisor cannot cross a jump.
    """
    if divisor == 1:
        return x
    ratio = call.builder.scale(x, np.asarray(1.0 / divisor))
    margin = np.asarray(0.5 / divisor)
    back = call.builder.shift(call.builder.negate(ratio), margin)
    up = _through(call, "Floor", _through(call, "Relu", call.builder.shift(ratio, margin)))
    return dataclasses.replace(subtract(call, up, _through(call, "Floor", _through(call, "Relu", back))), dtype=x.dtype)


@handles("Mod")
def mod(call: Call) -> Variable:
    """x - c floor(x / c), or with `fmod` x - c trunc(x / c), for a constant c.

    Between integers half a step is added to x before the division, so that rounding 1 / c cannot cross a jump.
    """
    x, divisor = call.variable(0), call.finite(1, "divisor").astype(np.float64)
    if not np.all(divisor):
        raise ModelError("a remainder of division by zero", where=call.where)
    exact = is_whole(call.builder.nodes, x) and bool((divisor == np.round(divisor)).all())
    margin = 0.5 / np.abs(divisor) if exact else np.zeros_like(divisor)
    ratio = call.builder.scale(x, 1.0 / divisor)
    if call.attribute("fmod", 0):
        back = call.builder.shift(call.builder.negate(ratio), margin)
        up = _through(call, "Floor", _through(call, "Relu", call.builder.shift(ratio, margin)))
        quotient = subtract(call, up, _through(call, "Floor", _through(call, "Relu", back)))
    else:
        quotient = _through(call, "Floor", call.builder.shift(ratio, margin))
    found = subtract(call, x, call.builder.scale(quotient, divisor))
    return dataclasses.replace(found, dtype=x.dtype)
