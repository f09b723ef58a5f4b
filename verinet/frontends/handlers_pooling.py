"""Maxima over windows and axes, and norms: an index that gathers the candidates, then a maximum over the last axis."""

from __future__ import annotations

import numpy as np

from verinet.frontends.builder import Variable
from verinet.frontends.call import Call, handles
from verinet.frontends.elementwise import apply, scalar_function
from verinet.frontends.geometry import pool_windows
from verinet.frontends.handlers_arithmetic import largest, smallest
from verinet.frontends.handlers_linear import reduced, reduction_axes, sum_over
from verinet.frontends.tensors import Array
from verinet.ir.graph import Shape
from verinet.ops.linear.windows import Windows


@handles("MaxPool")
def max_pool(call: Call) -> Variable:
    if len(call.node.outputs) > 1 and call.node.outputs[1]:
        raise call.unsupported("with its second output, the positions of the maxima")
    x = call.variable(0)
    windows, _ = pool_windows(call, x.shape[2:])
    places = window_places(windows, x.shape[2:])
    numbers = call.builder.positions(x).reshape(*x.shape[:2], -1)
    return largest(call, call.builder.index(x, numbers[:, :, places]))


def window_places(windows: Windows, spatial: Shape) -> Array:
    """Flat spatial positions seen by each window, (*windows.out, taps). Padding repeats an entry of the same window."""
    flat = np.zeros((*windows.out, 1), dtype=np.int64)
    valid = np.ones((*windows.out, 1), dtype=bool)
    for axis, extent in enumerate(spatial):
        starts = np.arange(windows.out[axis]) * windows.strides[axis] - windows.begin[axis]
        inside = np.arange(windows.kernel[axis]) * windows.dilations[axis]
        at = (starts[:, None] + inside).reshape([-1 if i == axis else 1 for i in range(windows.axes)] + [inside.size])
        flat = (flat[..., :, None] * extent + at[..., None, :]).reshape(*windows.out, -1)
        good = (at >= 0) & (at < extent)
        valid = (valid[..., :, None] & good[..., None, :]).reshape(*windows.out, -1)
    first = np.take_along_axis(flat, valid.argmax(-1)[..., None], axis=-1)
    return np.where(valid, flat, first)


@handles("GlobalMaxPool")
def global_max_pool(call: Call) -> Variable:
    x = call.variable(0)
    axes = tuple(range(2, len(x.shape)))
    return call.builder.reshape(largest(call, _last(call, x, axes)), reduced(x.shape, axes, True))


@handles("ReduceMax", "ReduceMin")
def reduce_extreme(call: Call) -> Variable:
    x = call.variable(0)
    axes = reduction_axes(call, len(x.shape))
    shape = reduced(x.shape, axes, bool(call.attribute("keepdims", 1)))
    act = largest if call.node.op == "ReduceMax" else smallest
    return call.builder.reshape(act(call, _last(call, x, axes)), shape)


def _last(call: Call, x: Variable, axes: Shape) -> Variable:
    """x with `axes` moved to the end and flattened into one."""
    rest = [axis for axis in range(len(x.shape)) if axis not in axes]
    numbers = call.builder.positions(x).transpose([*rest, *axes])
    return call.builder.index(x, numbers.reshape(*(x.shape[axis] for axis in rest), -1))


@handles("ReduceL1", "ReduceSumSquare", "ReduceL2", "ReduceLogSum")
def reduce_after_function(call: Call) -> Variable:
    """Sums of an elementwise function, then another one."""
    inner, outer = {
        "ReduceL1": ("Abs", None),
        "ReduceSumSquare": ("Pow", None),
        "ReduceL2": ("Pow", "Sqrt"),
        "ReduceLogSum": (None, "Log"),
    }[call.node.op]
    x = call.variable(0)
    if outer is not None and x.dtype.kind != "f":
        raise call.unsupported("of integers, whose result is rounded")
    axes = reduction_axes(call, len(x.shape))
    summed = sum_over(call, _through(call, inner, x), axes, bool(call.attribute("keepdims", 1)))
    return _through(call, outer, summed)


@handles("ReduceLogSumExp")
def reduce_log_sum_exp(call: Call) -> Variable:
    """An operator of its own: exp would overflow where the result is an ordinary number."""
    from verinet.ops.normalisation.log_sum_exp import LogSumExp

    x = call.variable(0)
    if x.dtype.kind != "f":
        raise call.unsupported("of integers, whose result is rounded")
    axes = reduction_axes(call, len(x.shape))
    shape = reduced(x.shape, axes, bool(call.attribute("keepdims", 1)))
    last = _last(call, x, axes)
    if last.shape[-1] > 1:
        last = call.builder.emit(LogSumExp(len(last.shape)), [last], last.shape[:-1])
    return call.builder.reshape(last, shape)


def _through(call: Call, op: str | None, x: Variable) -> Variable:
    if op is None:
        return x
    function = scalar_function(op, {"exponent": 2.0} if op == "Pow" else {})
    if function is None:
        raise call.unsupported()
    return apply(call, function, x)
