"""Softmax, products of two variable matrices, quotients of variables, and normalisation by computed statistics."""

from __future__ import annotations

import numpy as np

from verinet.errors import ModelError
from verinet.frontends.builder import Variable
from verinet.frontends.call import Call, axis_of, handles
from verinet.frontends.elementwise import apply, scalar_function
from verinet.frontends.handlers_arithmetic import subtract
from verinet.frontends.handlers_linear import mean_over
from verinet.frontends.tensors import Array
from verinet.ir.graph import Shape, total
from verinet.ops.linear.arithmetic import Scale, Shift, Subtract
from verinet.ops.linear.reduce import Sum
from verinet.ops.scalar_function import ScalarFunction


@handles("Softmax", "LogSoftmax")
def softmax(call: Call) -> Variable:
    """Before opset 13 all axes from `axis` on are one."""
    x, log = call.variable(0), call.node.op == "LogSoftmax"
    axis = axis_of(int(call.attribute("axis", 1 if call.opset < 13 else -1)), len(x.shape), call)
    if call.opset >= 13:
        return softmax_over(call, x, axis, log)
    flat = call.builder.reshape(x, (total(x.shape[:axis]), total(x.shape[axis:])))
    return call.builder.reshape(softmax_over(call, flat, 1, log), x.shape)


def softmax_over(call: Call, x: Variable, axis: int, log: bool = False) -> Variable:
    """softmax of x along one axis, or its logarithm."""
    from verinet.ops.normalisation.softmax import Softmax

    if x.shape[axis] == 1:
        return call.builder.constant(np.full(x.shape, 0.0 if log else 1.0, dtype=x.dtype))
    x = _without_common_shift(call, x, axis)
    order = [*(i for i in range(len(x.shape)) if i != axis), axis]
    last = call.builder.index(x, call.builder.positions(x).transpose(order))
    result = call.builder.emit(Softmax(len(x.shape), log), [last], last.shape)
    return call.builder.index(result, call.builder.positions(result).transpose(np.argsort(order)))


def _without_common_shift(call: Call, x: Variable, axis: int) -> Variable:
    """softmax(z - c) = softmax(z) where c does not vary along the axis: exporters subtract the maximum."""
    node = call.builder.nodes[x.node]
    if not isinstance(node.op, Subtract):
        return x
    kept, shift = (call.builder.nodes[i] for i in node.inputs)
    place = axis - len(x.shape) + len(shift.shape)
    if kept.shape != x.shape or (place >= 0 and shift.shape[place] != 1):
        return x
    return Variable(node.inputs[0], kept.shape, x.dtype)


def matmul_two(call: Call, left: Variable, right: Variable) -> Variable:
    """The product of two variable matrices, by numpy's rules for vectors and leading axes."""
    from verinet.ops.bilinear.matmul import MatMulTwo

    wide = call.builder.reshape(left, (1, *left.shape)) if len(left.shape) == 1 else left
    tall = call.builder.reshape(right, (*right.shape, 1)) if len(right.shape) == 1 else right
    if wide.shape[-1] != tall.shape[-2]:
        raise ModelError(f"cannot multiply {left.shape} by {right.shape}", where=call.where)
    shape = (*np.broadcast_shapes(wide.shape[:-2], tall.shape[:-2]), wide.shape[-2], tall.shape[-1])
    result = call.builder.emit(MatMulTwo(wide.shape, tall.shape), [wide, tall], shape)
    kept = shape[:-2] + (() if len(left.shape) == 1 else shape[-2:-1]) + (() if len(right.shape) == 1 else shape[-1:])
    return call.builder.reshape(result, kept)


def divide(call: Call, top: Variable, bottom: Variable) -> Variable:
    """top / bottom for two variables; a square root below and a sum of exponentials are seen through."""
    probabilities = _spelled_softmax(call, top, bottom)
    if probabilities is not None:
        return probabilities
    radicand = _argument(call, bottom, "Sqrt")
    if radicand is None:
        return gate(call, _function(call, "Reciprocal"), bottom, top)
    return gate(call, _inverse_root(call), radicand, top, _quotient_limit(call, top, radicand))


def gate(call: Call, function: ScalarFunction, x: Variable, y: Variable, limit: float = float("inf")) -> Variable:
    """function(x) * y, of which it is known that it stays within +-limit.

    Where one x serves many y, the function is a node of its own: a row's coefficients of all of them add up there
    before a sign picks a line. Otherwise planes of the two variables together are tighter.
    """
    from verinet.ops.bilinear.gate import Gate
    from verinet.ops.bilinear.product import Product

    shape = tuple(int(n) for n in np.broadcast_shapes(x.shape, y.shape))
    if total(x.shape) < total(shape):
        factor = apply(call, function, x)
        return call.builder.emit(Product(factor.shape, y.shape, limit), [factor, y], shape, y.dtype)
    return call.builder.emit(Gate(function, x.shape, y.shape, limit), [x, y], shape, y.dtype)


def _function(call: Call, op: str, **attributes: float) -> ScalarFunction:
    found = scalar_function(op, attributes)
    if found is None:
        raise call.unsupported()
    return found


def _inverse_root(call: Call) -> ScalarFunction:
    return _function(call, "Pow", exponent=-0.5)


def _argument(call: Call, value: Variable, name: str) -> Variable | None:
    """x, if the value is exactly the named scalar function of x."""
    from verinet.ops.scalar import Elementwise

    node = call.builder.nodes[value.node]
    if not isinstance(node.op, Elementwise) or node.op.function.name != name or node.op.function.deviation:
        return None
    return Variable(node.inputs[0], call.builder.nodes[node.inputs[0]].shape, value.dtype)


def _spelled_softmax(call: Call, top: Variable, bottom: Variable) -> Variable | None:
    """exp(x) / sum(exp(x)) along one axis, which keeps its place."""
    logits, node = _argument(call, top, "Exp"), call.builder.nodes[bottom.node]
    if logits is None or not isinstance(node.op, Sum) or node.inputs != (top.node,):
        return None
    if len(node.op.axes) != 1 or not node.op.keepdims:
        return None
    return softmax_over(call, logits, node.op.axes[0])


def _quotient_limit(call: Call, top: Variable, radicand: Variable) -> float:
    """A bound of |d_i| / sqrt(c sum_j d_j^2 + b), b >= 0, over axes of d: 1 / sqrt(c); infinite for other quotients."""
    nodes, factor = call.builder.nodes, 1.0
    node = nodes[radicand.node]
    while isinstance(node.op, Shift | Scale):
        constant = node.op.offset if isinstance(node.op, Shift) else node.op.factor
        if constant.numel() != 1 or float(constant) < 0:
            return float("inf")
        factor *= float(constant) if isinstance(node.op, Scale) else 1.0
        node = nodes[node.inputs[0]]
    if not isinstance(node.op, Sum) or factor == 0.0:
        return float("inf")
    square = nodes[node.inputs[0]]
    found = _argument(call, Variable(node.inputs[0], square.shape, top.dtype), "Pow")
    if found is None or found.node != top.node or not _is_square(square.op):
        return float("inf")
    return limit_of(1.0 / factor)


def _is_square(op: object) -> bool:
    """The function's value at 3 tells the exponents apart."""
    import torch

    from verinet.ops.scalar import Elementwise

    return isinstance(op, Elementwise) and float(op.function.at(torch.tensor(3.0, dtype=torch.float64))) == 9.0


def limit_of(count: float) -> float:
    """sqrt(count), rounded up to a number that float32 holds exactly."""
    return float(np.nextafter(np.float32(np.sqrt(count) * (1 + 1e-7)), np.float32(np.inf)))


def normalised(call: Call, x: Variable, epsilon: float, centred: bool = True) -> Variable:
    """(x - mean) / sqrt(mean (x - mean)^2 + epsilon) over the last axis; without the mean if not `centred`.

    With n entries that sum to zero, none is larger than sqrt(n - 1) times their root mean square; otherwise sqrt(n).
    """
    axis, count = len(x.shape) - 1, x.shape[-1]
    if epsilon < 0:
        raise ModelError("a normalisation has a negative epsilon", where=call.where)
    if count == 1 and centred:
        return call.builder.constant(np.zeros(x.shape, dtype=x.dtype))
    difference = subtract(call, x, mean_over(call, x, (axis,), True)) if centred else x
    variance = mean_over(call, apply(call, _function(call, "Pow", exponent=2.0), difference), (axis,), True)
    spread = call.builder.shift(variance, np.asarray(epsilon))
    return gate(call, _inverse_root(call), spread, difference, limit_of(count - 1 if centred else count))


@handles("LayerNormalization", "RMSNormalization")
def layer_normalization(call: Call) -> Variable:
    """Over all axes from `axis` on."""
    if any(call.node.outputs[1:]):
        raise call.unsupported("with its statistics as outputs")
    x = call.variable(0)
    axis = axis_of(int(call.attribute("axis", -1)), len(x.shape), call)
    flat = call.builder.reshape(x, (*x.shape[:axis], total(x.shape[axis:])))
    epsilon = float(call.attribute("epsilon", 1e-5))
    result = normalised(call, flat, epsilon, call.node.op == "LayerNormalization")
    result = call.builder.scale(call.builder.reshape(result, x.shape), call.finite(1, "scale"))
    return result if call.given(2) is None else call.builder.shift(result, call.finite(2, "offset"))


@handles("InstanceNormalization", "GroupNormalization")
def group_normalization(call: Call) -> Variable:
    """Over the spatial axes of each channel, or of each group of channels."""
    x = call.variable(0)
    channels = x.shape[1]
    groups = int(call.attribute("num_groups", channels)) if call.node.op == "GroupNormalization" else channels
    if groups < 1 or channels % groups:
        raise ModelError(f"{channels} channels do not form {groups} groups", where=call.where)
    flat = call.builder.reshape(x, (x.shape[0] * groups, total(x.shape) // (x.shape[0] * groups)))
    result = call.builder.reshape(normalised(call, flat, float(call.attribute("epsilon", 1e-5))), x.shape)
    column: Shape = (-1, *(1,) * (len(x.shape) - 2))
    scale, offset = (_per_channel(call, i, channels).reshape(column) for i in (1, 2))
    return call.builder.shift(call.builder.scale(result, scale), offset)


def _per_channel(call: Call, position: int, channels: int) -> Array:
    """A parameter with one entry per channel; GroupNormalization before opset 21 has one per group."""
    array = call.finite(position, "parameter").reshape(-1)
    if channels % max(array.size, 1):
        raise ModelError(f"{array.size} parameters do not fit {channels} channels", where=call.where)
    return np.repeat(array, channels // array.size)
