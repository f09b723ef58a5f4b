"""Mish x tanh(log(1 + e^x)): concave, convex, concave."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from verinet.ops.activations.registry import constant, register
from verinet.ops.scalar_function import ScalarFunction


def _parts(x: Tensor) -> tuple[Tensor, Tensor]:
    """e^x and e^x (e^x + 2), so that tanh(log(1 + e^x)) = n / (n + 2); settled beyond 20."""
    e = torch.exp(x.clamp(max=20))
    return e, e * (e + 2)


def _value(x: Tensor) -> Tensor:
    _, n = _parts(x)
    return x * (n / (n + 2))


def _slope(x: Tensor) -> Tensor:
    e, n = _parts(x)
    return n / (n + 2) + x.clamp(max=20) * (4 * e * (1 + e) / ((n + 2) * (n + 2)))


register(
    "Mish",
    constant(
        ScalarFunction(
            name="Mish",
            value=_value,
            slope=_slope,
            breakpoints=(-2.256376396360793120006, 1.490571179485428459294),
            curvature=(-1, 1, -1),
            extrema=(-1.192431214515495212138,),
            bounds=(-0.308845, math.inf),
            slope_range=(-0.112528, 1.08850),
            slope_ulps=16.0,
        )
    ),
)
