"""Elephant 1 / (1 + |x / a|^d) (Lan and Mahmood 2023): a flat top with steep sides."""

from __future__ import annotations

from verinet.ops.activations.registry import Attributes, number, register
from verinet.ops.activations.user import from_expression
from verinet.ops.scalar_function import ScalarFunction


def _elephant(attributes: Attributes) -> ScalarFunction | None:
    """Parameters "a" (not 0; a number or one per channel) and the exponent "d" >= 1."""
    exponent = number(attributes, "d", 4.0)
    if exponent < 1:
        return None
    base = "x / a" if exponent % 2 == 0 else "abs(x / a)"
    return from_expression("Elephant", f"1 / (1 + ({base})**{exponent!r})", a=attributes.get("a", 1.0))


register("Elephant", _elephant, ({}, {"a": 2.0, "d": 8.0}, {"d": 2.5}))
