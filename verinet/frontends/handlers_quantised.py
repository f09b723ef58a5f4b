"""Quantised tensors: QuantizeLinear is a scaling, a rounding and a clip; DequantizeLinear is affine.

The integers stay real numbers in our graph, so the network that is verified is the quantised one itself, jumps and all,
and not the network that it approximates.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from verinet.errors import ModelError
from verinet.frontends.builder import Value, Variable
from verinet.frontends.call import Call, axis_of, handles
from verinet.frontends.elementwise import apply, scalar_function
from verinet.frontends.tensors import Array, dtype_of

_INTEGERS = (np.uint8, np.int8, np.uint16, np.int16)


@handles("QuantizeLinear")
def quantize(call: Call) -> Variable:
    """saturate(round(x / scale) + zero point), ties to even; the range is clipped before the zero point is added."""
    x = call.variable(0)
    target = _target(call)
    scale, zero = _spread(call, _scale(call), x), _spread(call, _zero_point(call), x)
    limits = np.iinfo(target)
    found = call.builder.scale(x, 1.0 / scale)  # rounding 1 / scale is among the roundings that Scale.terms counts
    found = _clipped(call, _through(call, "Round", found), limits.min - zero, limits.max - zero)
    return dataclasses.replace(call.builder.shift(found, zero), dtype=target)


@handles("DequantizeLinear")
def dequantize(call: Call) -> Value:
    """(x - zero point) * scale."""
    x = call.variable(0)
    scale, zero = _spread(call, _scale(call), x), _spread(call, _zero_point(call), x)
    found = call.builder.scale(call.builder.shift(x, -zero), scale)
    return dataclasses.replace(found, dtype=call.value(1).dtype)


def _target(call: Call) -> np.dtype[Any]:
    """The integer type: that of the zero point, else the attribute `output_dtype`, else uint8."""
    given, code = call.given(2), int(call.attribute("output_dtype", 0))
    if given is not None:
        target = given.dtype
    else:
        target = dtype_of(code, call.where) if code else np.dtype(np.uint8)
    if target not in _INTEGERS:
        raise call.unsupported(f"to the type {target.name}")
    return target


def _scale(call: Call) -> Array:
    if int(call.attribute("block_size", 0)):
        raise call.unsupported("in blocks")
    scale = call.finite(1, "scale").astype(np.float64)
    if not bool((scale > 0).all()):
        raise ModelError("a quantisation scale has to be positive", where=call.where)
    return scale


def _zero_point(call: Call) -> Array:
    given = call.optional(2, "zero point")
    return np.zeros(()) if given is None else given.astype(np.float64)


def _spread(call: Call, values: Array, x: Variable) -> Array:
    """A number for all entries, or one for each position of the attribute `axis`, as an array that broadcasts."""
    if values.size == 1:
        return values.reshape(())
    axis = axis_of(int(call.attribute("axis", 1)), len(x.shape), call)
    if values.shape != (x.shape[axis],):
        raise ModelError(f"scale or zero point of shape {values.shape} does not fit axis {axis}", where=call.where)
    return values.reshape([-1 if i == axis else 1 for i in range(len(x.shape))])


def _clipped(call: Call, x: Variable, low: Array, high: Array) -> Variable:
    """Limits are integers. Where they differ between entries, every entry is moved so that its lower limit is 0."""
    if low.ndim == 0:
        return _through(call, "Clip", x, min=float(low), max=float(high))
    width = float((high - low).flat[0])
    moved = _through(call, "Clip", call.builder.shift(x, -low), min=0.0, max=width)
    return call.builder.shift(moved, low)


def _through(call: Call, op: str, x: Variable, **attributes: float) -> Variable:
    function = scalar_function(op, attributes)
    if function is None:
        raise call.unsupported()
    return apply(call, function, x)
