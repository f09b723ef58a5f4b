"""Powers: with a constant exponent one function each, with a variable one exp(exponent * log base)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import torch

from verinet.frontends.builder import Variable
from verinet.frontends.call import Call, handles
from verinet.frontends.elementwise import apply, scalar_function
from verinet.frontends.handlers_arithmetic import multiply
from verinet.frontends.tensors import Array
from verinet.ir.graph import Shape
from verinet.ops.scalar_function import Jumps, ScalarFunction

ZERO_TO_THE = ScalarFunction(
    name="0^x",
    value=lambda x: torch.where(x > 0, 0.0, torch.where(x == 0, 1.0, torch.inf)).to(x.dtype),
    slope=torch.zeros_like,
    jumps=Jumps(0.0, 1.0, 0.0),
    bounds=(0.0, 1.0),
    slope_range=(-math.inf, 0.0),
    domain=(0.0, math.inf),
    error_ulps=0.0,
    error_floor=0.0,
    slope_ulps=0.0,
)
"""0^x for x >= 0: 1 at 0, else 0. Below 0 it is infinite."""


@handles("Pow")
def handle_pow(call: Call) -> Variable:
    """Powers of real numbers; of integers only where the result is exactly what ONNX Runtime computes."""
    if call.is_constant(1):
        exponent = call.finite(1, "exponent")
        if call.value(0).dtype.kind != "f" and not bool(((exponent >= 0) & (exponent == np.floor(exponent))).all()):
            raise call.unsupported("of integers, with an exponent that is negative or has a fraction")
        return _by_label(call, call.variable(0), exponent, lambda x, p, _: _constant_exponent(call, x, p))
    if call.value(0).dtype.kind != "f":
        raise call.unsupported("with an integer base, which makes the result an integer")
    if not call.is_constant(0):
        return _variable_power(call, call.variable(0), call.variable(1))
    base = call.finite(0, "base").astype(np.float64)
    if not bool((base >= 0).all()):
        raise call.unsupported("with a negative constant base and a variable exponent")
    return _constant_base(call, base, call.variable(1))


def _function(call: Call, name: str) -> ScalarFunction:
    function = scalar_function(name, {})
    if function is None:
        raise call.unsupported()
    return function


def _variable_power(call: Call, base: Variable, exponent: Variable) -> Variable:
    """exp(y log x) for x > 0. Where bounds of the base reach 0 they leave the domain of log: the query then says so."""
    return apply(call, _function(call, "Exp"), multiply(call, apply(call, _function(call, "Log"), base), exponent))


def _constant_base(call: Call, base: Array, exponent: Variable) -> Variable:
    """exp(y log b) entry by entry; 1^y and 0^y are exact."""
    full = np.broadcast_to(base, np.broadcast_shapes(base.shape, exponent.shape)).reshape(-1)

    def part(y: Variable, kind: float, places: Array) -> Variable:
        if kind == 0.0:
            return apply(call, ZERO_TO_THE, y)
        if kind == 1.0:
            return call.builder.constant(np.ones(y.shape))
        return apply(call, _function(call, "Exp"), call.builder.scale(y, np.log(full[places].reshape(y.shape))))

    kinds = np.where(base == 0, 0.0, np.where(base == 1, 1.0, 2.0))
    return dataclasses.replace(_by_label(call, exponent, kinds, part), dtype=call.value(0).dtype)


Part = Callable[[Variable, float, Array], Variable]
"""Entries, their label, and their flat places."""


def _by_label(call: Call, x: Variable, labels: Array, part: Part) -> Variable:
    """`part` of the entries of x for every label, put together in the joint shape of x and `labels`."""
    shape: Shape = tuple(np.broadcast_shapes(x.shape, labels.shape))
    x = call.builder.broadcast(x, shape)
    spread = np.broadcast_to(labels, shape).reshape(-1)
    values = np.unique(spread)
    if values.size == 1:
        return part(x, float(values[0]), np.arange(spread.size))
    places = [np.flatnonzero(spread == value) for value in values]
    parts = [part(call.builder.index(x, at), float(v), at) for at, v in zip(places, values, strict=True)]
    back = np.empty(spread.size, dtype=np.int64)
    back[np.concatenate(places)] = np.arange(spread.size)
    return call.builder.index(call.builder.concat(parts, 0), back.reshape(shape))


def _constant_exponent(call: Call, x: Variable, exponent: float) -> Variable:
    if exponent == 1.0:
        return x
    function = scalar_function("Pow", {"exponent": exponent})
    if function is None:
        raise call.unsupported(f"with exponent {exponent:g}")
    return apply(call, function, x)
