"""Comparisons and choices between variables, as arithmetic on the numbers 0 and 1 through the sign function.

The sign of a difference is exact in real arithmetic, so x > y is relu(sign(x - y)). These forms jump; bounds of them
are sound but loose until the operands are known to be apart.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from verinet.frontends.builder import Constant, Value, Variable
from verinet.frontends.call import Call, handles
from verinet.frontends.elementwise import apply, scalar_function
from verinet.frontends.handlers_arithmetic import add, multiply, subtract
from verinet.frontends.tensors import Array, dtype_of

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
    return _through(call, "Relu", _through(call, "Sign", x))


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
    if _BOOL in (call.value(0).dtype, call.value(1).dtype) and not (call.is_constant(0) or call.is_constant(1)):
        return _as_bool(_not(call, _through(call, "Abs", subtract(call, call.variable(0), call.variable(1)))))
    return _as_bool(_not(call, _nonzero(call, _difference(call, 0, 1))))


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
    """Where with a variable condition: b + condition * (a - b)."""
    condition = call.variable(0)
    if call.is_constant(1) and call.is_constant(2):
        low = call.finite(2).astype(np.float64)
        found = call.builder.shift(call.builder.scale(condition, call.finite(1).astype(np.float64) - low), low)
        return dataclasses.replace(found, dtype=call.value(1).dtype)
    chosen = multiply(call, condition, _difference(call, 1, 2))
    if call.is_constant(2):
        found = call.builder.shift(chosen, call.finite(2))
    else:
        found = add(call, call.variable(2), chosen)
    return dataclasses.replace(found, dtype=call.value(1).dtype)


@handles("Cast", "CastLike")
def cast(call: Call) -> Value:
    """Between float32 and float64 nothing changes for real numbers; to integers it cuts off the fraction."""
    x = call.value(0)
    if call.node.op == "CastLike":
        target = call.value(1).dtype
    else:
        target = dtype_of(int(call.attribute("to")), call.where)
    if isinstance(x, Constant) or x.dtype == target:
        return x
    if target == _BOOL:
        return _as_bool(_nonzero(call, x))
    if target.kind in "iu" and x.dtype.kind == "f":
        return dataclasses.replace(_truncated(call, x), dtype=target)
    return dataclasses.replace(x, dtype=target)


def _truncated(call: Call, x: Variable) -> Variable:
    up = _through(call, "Floor", _through(call, "Relu", x))
    down = _through(call, "Floor", _through(call, "Relu", call.builder.negate(x)))
    return subtract(call, up, down)
