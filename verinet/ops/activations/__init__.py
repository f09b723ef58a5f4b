"""Scalar activations by ONNX operator name. A new one is a module here, and a line in `_MODULES`."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from verinet.ops.activations.registry import lookup
from verinet.ops.scalar_function import ScalarFunction

_MODULES = (
    "absolute",
    "arc",
    "cauchy",
    "clip",
    "elephant",
    "elu",
    "erf",
    "expanded_gates",
    "exponential",
    "gaussian",
    "gelu",
    "golu",
    "hard",
    "hard_variants",
    "hyperbolic",
    "identity",
    "logarithm",
    "mish",
    "polynomial",
    "power",
    "reciprocal",
    "rectifiers",
    "relu_squared",
    "root",
    "shrink",
    "sigmoid",
    "siren",
    "snake",
    "softplus",
    "softsign",
    "spline",
    "steps",
    "swish",
    "tempered",
    "trigonometric",
)

for _name in _MODULES:
    import_module(f"{__name__}.{_name}")


def find(onnx_op: str, attributes: Mapping[str, Any] | None = None) -> ScalarFunction | None:
    """The scalar function of an ONNX operator with these attributes, or None where it is not a known one.

    Inputs that are constants are passed as attributes: "slope" of PRelu (tensor), "exponent" of Pow, "min" and "max" of
    Clip (a float or None).
    """
    return lookup(onnx_op, attributes or {})
