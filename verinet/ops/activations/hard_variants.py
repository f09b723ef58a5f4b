"""Piecewise linear or quadratic relatives that frameworks name: HardTanh, ReLU6, HardMish, HardGELU."""

from __future__ import annotations

from verinet.ops.activations.clip import clip
from verinet.ops.activations.registry import Attributes, constant, number, register
from verinet.ops.activations.user import from_expression
from verinet.ops.scalar_function import ScalarFunction


def _hard_tanh(attributes: Attributes) -> ScalarFunction:
    return clip(number(attributes, "min_val", -1.0), number(attributes, "max_val", 1.0))


register("HardTanh", _hard_tanh, ({}, {"min_val": -0.5, "max_val": 2.0}))
register("Relu6", constant(clip(0.0, 6.0)))
register("HardMish", constant(from_expression("HardMish", "0.5 * x * clip(x + 2, 0, 2)")))
register("HardGelu", constant(from_expression("HardGelu", "x * clip(0.3125 * x + 0.5, 0, 1)")))
