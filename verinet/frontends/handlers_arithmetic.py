"""Sums, products, quotients, minima and maxima of variables and constants."""

from __future__ import annotations

from functools import reduce as fold

import numpy as np

from verinet.errors import ModelError
from verinet.frontends.builder import Variable
from verinet.frontends.call import Call, handles
from verinet.frontends.elementwise import apply, scalar_function
from verinet.frontends.tensors import Array
from verinet.ir.graph import Shape
from verinet.ops.linear.arithmetic import Add, Subtract


def _joint(*shapes: Shape) -> Shape:
    return tuple(np.broadcast_shapes(*shapes))


def add(call: Call, left: Variable, right: Variable) -> Variable:
    """Sum of two variables."""
    return call.builder.emit(Add(), [left, right], _joint(left.shape, right.shape))


def subtract(call: Call, left: Variable, right: Variable) -> Variable:
    """Difference of two variables."""
    return call.builder.emit(Subtract(), [left, right], _joint(left.shape, right.shape))


def multiply(call: Call, left: Variable, right: Variable) -> Variable:
    """Product of two variables; the square if they are the same one."""
    if left == right:
        square = scalar_function("Pow", {"exponent": 2.0})
        if square is not None:
            return apply(call, square, left)
    from verinet.ops.bilinear.product import Product

    op = Product(left.shape, right.shape)
    return call.builder.emit(op, [left, right], _joint(left.shape, right.shape))


@handles("Add", "Sum")
def handle_add(call: Call) -> Variable:
    def both(total: Variable | Array, position: int) -> Variable | Array:
        if call.is_constant(position):
            array = call.finite(position)
            return call.builder.shift(total, array) if isinstance(total, Variable) else total + array
        term = call.variable(position)
        return add(call, total, term) if isinstance(total, Variable) else call.builder.shift(term, total)

    return _variable(call, fold(both, range(1, len(call.inputs)), _first(call)))


def _first(call: Call) -> Variable | Array:
    return call.finite(0) if call.is_constant(0) else call.variable(0)


def _variable(call: Call, found: Variable | Array) -> Variable:
    return found if isinstance(found, Variable) else call.builder.constant(found)


@handles("Mean")
def handle_mean(call: Call) -> Variable:
    return call.builder.scale(handle_add(call), np.asarray(1.0 / len(call.inputs)))


@handles("Sub")
def handle_sub(call: Call) -> Variable:
    if call.is_constant(1):
        return call.builder.shift(call.variable(0), -_signed(call.finite(1)))
    if call.is_constant(0):
        return call.builder.shift(call.builder.negate(call.variable(1)), call.finite(0))
    return subtract(call, call.variable(0), call.variable(1))


def _signed(array: Array) -> Array:
    """Unsigned integers cannot be negated in their own type."""
    return array if array.dtype.kind in "fi" else array.astype(np.float64)


@handles("Mul")
def handle_mul(call: Call) -> Variable:
    for constant, variable in ((0, 1), (1, 0)):
        if call.is_constant(constant):
            return call.builder.scale(call.variable(variable), call.finite(constant))
    return multiply(call, call.variable(0), call.variable(1))


@handles("Div")
def handle_div(call: Call) -> Variable:
    if call.value(0).dtype.kind != "f":
        raise call.unsupported("of integers")
    if call.is_constant(1):
        divisor = call.finite(1, "divisor")
        if not np.all(divisor):
            raise ModelError("division by a constant zero", where=call.where)
        # The rounding of 1/c in float64 is among the roundings that Scale.terms counts.
        return call.builder.scale(call.variable(0), 1.0 / divisor.astype(np.float64))
    if call.is_constant(0):
        return call.builder.scale(_reciprocal(call, call.variable(1)), call.finite(0))
    from verinet.frontends.handlers_attention import divide

    return divide(call, call.variable(0), call.variable(1))


def _reciprocal(call: Call, x: Variable) -> Variable:
    function = scalar_function("Reciprocal", {})
    if function is None:
        raise call.unsupported("by a variable")
    return apply(call, function, x)


@handles("Neg")
def handle_neg(call: Call) -> Variable:
    return call.builder.negate(call.variable(0))


@handles("Max")
def handle_max(call: Call) -> Variable:
    return _extreme(call, "Max")


@handles("Min")
def handle_min(call: Call) -> Variable:
    return _extreme(call, "Min")


def _extreme(call: Call, op: str) -> Variable:
    positions = range(len(call.inputs))
    constants = [call.constant(i, "input") for i in positions if call.is_constant(i)]
    variables = [call.variable(i) for i in positions if not call.is_constant(i)]
    shape = _joint(*(v.shape for v in call.inputs if v is not None))
    result = call.builder.broadcast(variables[0], shape)
    if len(variables) > 1:
        spread = [call.builder.broadcast(v, shape) for v in dict.fromkeys(variables)]
        stacked = call.builder.concat([call.builder.reshape(v, (*shape, 1)) for v in spread], len(shape))
        result = largest(call, stacked) if op == "Max" else smallest(call, stacked)
    if not constants:
        return result
    limit = fold(np.maximum if op == "Max" else np.minimum, constants)
    return limited(call, result, limit, op)


def largest(call: Call, x: Variable) -> Variable:
    """Maximum over the last axis."""
    from verinet.ops.pooling.maximum import MaxLast

    shape = x.shape[:-1]
    if x.shape[-1] == 1:
        return call.builder.reshape(x, shape)
    return call.builder.emit(MaxLast(len(shape)), [x], shape)


def smallest(call: Call, x: Variable) -> Variable:
    """Minimum over the last axis: minus the maximum of the negated entries."""
    return call.builder.negate(largest(call, call.builder.negate(x)))


def limited(call: Call, x: Variable, limit: Array, op: str) -> Variable:
    """max(x, limit) or min(x, limit) for a constant limit."""
    if np.isnan(limit).any():
        raise ModelError(f"a constant input of {op} is NaN", where=call.where)
    if bool(np.isinf(limit).all()) and bool(((limit < 0) == (op == "Max")).all()):
        return x
    relu = scalar_function("Relu", {})
    values = np.unique(limit)
    if values.size == 1 and not (op == "Max" and values[0] == 0):
        ends = {"min": float(values[0])} if op == "Max" else {"max": float(values[0])}
        clip = scalar_function("Clip", ends)
        if clip is not None:
            return apply(call, clip, x)
    if relu is None or not np.isfinite(limit).all():
        raise call.unsupported("with infinite constants")
    # max(x, c) = c + relu(x - c), min(x, c) = c - relu(c - x)
    if op == "Max":
        return call.builder.shift(apply(call, relu, call.builder.shift(x, -_signed(limit))), limit)
    mirrored = apply(call, relu, call.builder.shift(call.builder.negate(x), limit))
    return call.builder.shift(call.builder.negate(mirrored), limit)
