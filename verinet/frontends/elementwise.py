"""The way from ONNX activations to scalar functions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from verinet.frontends.builder import Variable
from verinet.frontends.call import Call

if TYPE_CHECKING:
    from verinet.ops.scalar_function import ScalarFunction


def scalar_function(op: str, attributes: Mapping[str, Any]) -> ScalarFunction | None:
    """The registered function of an ONNX operator, or None.

    The attribute "deviation" says by how much the node may differ from the function (see `ScalarFunction`).
    """
    from dataclasses import replace

    from verinet.ops.activations import find

    own = {name: value for name, value in attributes.items() if name != "deviation"}
    function, deviation = find(op, own), float(attributes.get("deviation", 0.0))
    if function is None or deviation == 0.0:
        return function
    return replace(function, deviation=deviation, hinge=None)


def apply(call: Call, function: ScalarFunction, x: Variable) -> Variable:
    """The function of every entry of x."""
    from verinet.ops.scalar import Elementwise

    return call.builder.emit(Elementwise(function, len(x.shape)), [x], x.shape)


def by_table(call: Call) -> Variable | None:
    """An operator that the table of activations knows: one variable input, the rest constant; None if it does not."""
    others = call.inputs[1:]
    if call.given(0) is None or any(isinstance(value, Variable) for value in others):
        return None
    function = scalar_function(call.node.op, _attributes(call))
    return None if function is None else apply(call, function, call.variable(0))


_CONSTANT_INPUTS: Mapping[str, tuple[str, ...]] = {"Clip": ("min", "max"), "PRelu": ("slope",)}


def _attributes(call: Call) -> dict[str, Any]:
    found = dict(call.node.attributes)
    for position, name in enumerate(_CONSTANT_INPUTS.get(call.node.op, ()), start=1):
        if call.given(position) is None:
            continue
        if call.node.op == "PRelu":
            slope = np.array(call.finite(position, name))
            np.broadcast_to(slope, call.value(0).shape)  # a slope must not widen the input
            found[name] = slope
        else:
            found[name] = float(call.constant(position, name).reshape(()))
    return found
