"""Positions of maxima, and entries picked by positions that the network itself computes.

An integer i selects entry k by the hat max(0, 1 - |i - k|), which is 1 for k = i and 0 for every other integer.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from verinet.frontends import handlers_arithmetic, handlers_shape
from verinet.frontends.builder import Constant, Variable, parameter
from verinet.frontends.call import Call, axis_of, handles
from verinet.frontends.elementwise import apply, scalar_function
from verinet.frontends.handlers_arithmetic import add, multiply, subtract
from verinet.frontends.masks import merged
from verinet.frontends.tensors import Array
from verinet.frontends.whole_numbers import is_nonnegative, is_whole
from verinet.ir.graph import total
from verinet.ops.linear.arithmetic import Shift
from verinet.ops.linear.dense import Dense
from verinet.ops.linear.reduce import Sum
from verinet.ops.scalar import Elementwise
from verinet.ops.shape.index import Index
from verinet.ops.shape.reshape import Reshape
from verinet.ops.sorting.steps import HAT, STEP

_MOST_CANDIDATES = 128  # pairs of these are compared
_MOST_PRODUCTS = 1 << 20
_RISING = frozenset(("Sigmoid", "Tanh", "Exp", "Log", "Sqrt", "Softplus", "Atan", "Softsign"))


@handles("Add", "Sum")
def handle_add(call: Call) -> Variable:
    """A sum, in which choices by the same mask are put together."""
    return merged(call, handlers_arithmetic.handle_add(call))


@handles("Sub")
def handle_sub(call: Call) -> Variable:
    return merged(call, handlers_arithmetic.handle_sub(call))


@handles("Sign")
def sign(call: Call) -> Variable:
    """sign(sign(x) + c) with 0 < |c| < 1, which is how binarised networks avoid 0, becomes one step."""
    x, builder = call.variable(0), call.builder
    if is_whole(builder.nodes, x):
        return _table(call, "Clip", x, min=-1.0, max=1.0)
    node = builder.nodes[x.node]
    if not isinstance(node.op, Shift) or not _is_sign(builder.nodes[node.inputs[0]].op):
        return _table(call, "Sign", x)
    inner, shift = builder.nodes[node.inputs[0]], float(node.op.offset.reshape(-1)[0])
    if not bool((node.op.offset == shift).all()) or not 0 < abs(shift) < 1:
        return _table(call, "Sign", x)
    z = Variable(inner.inputs[0], inner.shape, x.dtype)
    two, one = np.asarray(2.0), np.asarray(1.0)
    if shift > 0:
        up = apply(call, STEP, builder.negate(z))
        return builder.shift(builder.scale(up, -two), one)
    return builder.shift(builder.scale(apply(call, STEP, z), two), -one)


def _is_sign(op: object) -> bool:
    return isinstance(op, Elementwise) and op.function.name == "Sign"


def _table(call: Call, name: str, x: Variable, **attributes: float) -> Variable:
    function = scalar_function(name, attributes)
    if function is None:
        raise call.unsupported()
    return apply(call, function, x)


@handles("ArgMax", "ArgMin")
def arg_extreme(call: Call) -> Variable:
    """The position of the largest (smallest) entry along an axis; of equal ones the first, or the last if asked for."""
    x = call.variable(0)
    axis = axis_of(int(call.attribute("axis", 0)), len(x.shape), call)
    numbers = np.moveaxis(call.builder.positions(x), axis, -1)
    source, numbers = _before_rising(call, x, numbers)
    candidates = call.builder.index(source, np.ascontiguousarray(numbers))
    if call.node.op == "ArgMin":
        candidates = call.builder.negate(candidates)
    found = position_of_largest(call, candidates, last=bool(call.attribute("select_last_index", 0)))
    kept = [1 if i == axis else n for i, n in enumerate(x.shape)]
    shape = kept if call.attribute("keepdims", 1) else kept[:axis] + kept[axis + 1 :]
    return dataclasses.replace(call.builder.reshape(found, tuple(shape)), dtype=np.dtype(np.int64))


def _before_rising(call: Call, x: Variable, numbers: Array) -> tuple[Variable, Array]:
    """An earlier value with the same order in every row of `numbers`: behind it come softmax and rising functions."""
    from verinet.ops.normalisation.softmax import Softmax

    nodes, position = call.builder.nodes, x.node
    best = position, numbers
    while True:
        node = nodes[position]
        if isinstance(node.op, Index) and not bool((node.op.index < 0).any()):
            numbers = node.op.index.numpy().reshape(-1)[numbers]
        elif isinstance(node.op, Softmax):
            rows = numbers // node.shape[-1]
            if not np.array_equal(rows, np.broadcast_to(rows[..., :1], rows.shape)):
                break
        elif not isinstance(node.op, Reshape) and not (
            isinstance(node.op, Elementwise) and node.op.function.name in _RISING and not node.op.function.deviation
        ):
            break
        position = node.inputs[0]
        best = position, numbers
    return Variable(best[0], nodes[best[0]].shape, x.dtype), best[1]


def position_of_largest(call: Call, x: Variable, *, last: bool) -> Variable:
    """(..., n) to (...): the position of the largest entry of the last axis."""
    count = x.shape[-1]
    if count == 1:
        return call.builder.constant(np.zeros(x.shape[:-1]))
    if count > _MOST_CANDIDATES:
        raise call.unsupported(f"of {count} candidates")
    return weighted(call, one_hot_of_largest(call, x, last), np.arange(count))


def weighted(call: Call, x: Variable, weights: Array) -> Variable:
    """Sum of weights * x over the last axis: (..., n) to (...)."""
    column = parameter(np.asarray(weights, dtype=np.float64).reshape(-1, 1))
    return call.builder.reshape(call.builder.emit(Dense(column), [x], (*x.shape[:-1], 1)), x.shape[:-1])


def one_hot_of_largest(call: Call, x: Variable, last: bool) -> Variable:
    """(..., n) to (..., n): 1 at the largest entry, 0 elsewhere.

    The largest entry is the one that wins against all n - 1 others.
    """
    return _table(call, "Relu", wins(call, x, last, x.shape[-1] - 2))


def wins(call: Call, x: Variable, last: bool, less: int) -> Variable:
    """(..., n) to (..., n): against how many others each entry of the last axis wins, minus `less`.

    Every pair i < j is compared once: j wins if x_j > x_i (or >=, if the last of equal ones counts), else i does.
    """
    builder, count = call.builder, x.shape[-1]
    first, second = np.triu_indices(count, 1)
    numbers = builder.positions(x)
    left, right = builder.index(x, numbers[..., first]), builder.index(x, numbers[..., second])
    later = apply(call, STEP, subtract(call, left, right) if last else subtract(call, right, left))
    if last:
        later = builder.shift(builder.negate(later), np.asarray(1.0))
    matrix, offset = np.zeros((first.size, count)), np.full(count, -float(less))
    matrix[np.arange(first.size), first], matrix[np.arange(first.size), second] = -1.0, 1.0
    np.add.at(offset, first, 1.0)
    return builder.emit(Dense(parameter(matrix), parameter(offset)), [later], x.shape)


@handles("OneHot")
def one_hot(call: Call) -> Variable:
    """Numbers -depth .. depth - 1 pick an entry; any other gives a row without one."""
    x = call.variable(0)
    if not is_whole(call.builder.nodes, x):
        raise call.unsupported("of numbers that are not integers")
    depth = int(call.constant(1, "depth").reshape(-1)[0])
    off, on = (float(v) for v in call.finite(2, "values").reshape(-1))
    axis = axis_of(int(call.attribute("axis", -1)), len(x.shape) + 1, call)
    picked = picks(call, x, depth)
    numbers = np.ascontiguousarray(np.moveaxis(call.builder.positions(picked), -1, axis))
    found = call.builder.index(picked, numbers)
    found = call.builder.shift(call.builder.scale(found, np.asarray(on - off)), np.asarray(off))
    return dataclasses.replace(found, dtype=call.value(2).dtype)


def picks(call: Call, x: Variable, count: int) -> Variable:
    """(..., count): 1 at the position that an integer names, counted from the end where it is negative, else 0."""
    builder = call.builder
    spread = builder.broadcast(builder.reshape(x, (*x.shape, 1)), (*x.shape, count))
    places = np.arange(count, dtype=np.float64)
    found = apply(call, HAT, builder.shift(spread, -places))
    if is_nonnegative(builder.nodes, x):
        return found
    return add(call, found, apply(call, HAT, builder.shift(spread, count - places)))


@handles("Gather")
def gather(call: Call) -> Variable:
    """With positions that the network computes, a sum over all candidates."""
    if call.is_constant(1):
        return handlers_shape.gather(call)
    at, data = call.variable(1), call.value(0)
    if not is_whole(call.builder.nodes, at):
        raise call.unsupported("at positions that are not integers")
    axis = axis_of(int(call.attribute("axis", 0)), len(data.shape), call)
    count, rest = data.shape[axis], data.shape[:axis] + data.shape[axis + 1 :]
    if count > _MOST_CANDIDATES or count * total(at.shape) * total(rest) > _MOST_PRODUCTS:
        raise call.unsupported(f"of {count} candidates at positions that depend on the network's input")
    chosen = call.builder.reshape(picks(call, at, count), (total(at.shape), count))
    if isinstance(data, Constant):
        table = np.moveaxis(call.finite(0), axis, 0).reshape(count, total(rest))
        found = call.builder.emit(Dense(parameter(table)), [chosen], (total(at.shape), total(rest)), data.dtype)
    else:
        found = _summed_products(call, chosen, data, axis)
    split = (*at.shape, *data.shape[:axis], *data.shape[axis + 1 :])
    order = [
        *range(len(at.shape), len(at.shape) + axis),
        *range(len(at.shape)),
        *range(len(at.shape) + axis, len(split)),
    ]
    numbers = call.builder.positions(found).reshape(split).transpose(order)
    return dataclasses.replace(call.builder.index(found, np.ascontiguousarray(numbers)), dtype=data.dtype)


def _summed_products(call: Call, chosen: Variable, data: Variable, axis: int) -> Variable:
    """(positions, candidates) times (candidates, rest), by products of variables."""
    builder = call.builder
    numbers = np.moveaxis(builder.positions(data), axis, 0).reshape(1, data.shape[axis], -1)
    factors = builder.index(data, np.ascontiguousarray(numbers))
    parts = multiply(call, builder.reshape(chosen, (*chosen.shape, 1)), factors)
    return builder.emit(Sum((1,), keepdims=False), [parts], (parts.shape[0], parts.shape[2]))


@handles("NonZero", "Unique", "NonMaxSuppression")
def no_fixed_shape(call: Call) -> Variable:
    raise call.unsupported("the shape of its result depends on the network's input")
