"""Shrinking functions: Tanhshrink x - tanh x, and ONNX Shrink (hard with bias 0, soft with bias lambd)."""

from __future__ import annotations

import torch
from torch import Tensor

from verinet.ops.activations.registry import Attributes, constant, number, register
from verinet.ops.activations.user import from_expression
from verinet.ops.scalar_function import ScalarFunction


def _tanhshrink_slope(x: Tensor) -> Tensor:
    return torch.tanh(x).square()


def _soft(limit: float) -> ScalarFunction:
    """x moved towards 0 by the limit: continuous, affine between two kinks."""
    return ScalarFunction(
        name="Softshrink",
        value=lambda x: x - x.clamp(-limit, limit),
        slope=lambda x: ((x >= limit) | (x <= -limit)).to(x.dtype),
        breakpoints=(-limit, limit),
        curvature=(0, 0, 0),
        kinks=(-limit, limit),
        slope_range=(0.0, 1.0),
        # The limit is rounded by float32, and so is the difference.
        error_ulps=2.0,
        error_floor=limit,
        slope_ulps=0.0,
    )


def _shrink(attributes: Attributes) -> ScalarFunction | None:
    """x + bias left of -lambd, x - bias right of lambd, 0 in between: jumps unless the bias is lambd."""
    limit, bias = number(attributes, "lambd", 0.5), number(attributes, "bias", 0.0)
    if limit < 0:
        return None
    if limit == bias and limit > 0:
        return _soft(limit)
    text = "where(x < -limit, x + bias, where(x > limit, x - bias, 0*x))"
    return from_expression("Shrink", text, limit=limit, bias=bias)


register(
    "Tanhshrink",
    constant(
        ScalarFunction(
            name="Tanhshrink",
            value=lambda x: x - torch.tanh(x),
            slope=_tanhshrink_slope,
            breakpoints=(0.0,),
            curvature=(-1, 1),
            slope_range=(0.0, 1.0),
            inverse_slope=lambda k, piece: (-1 if piece == 0 else 1) * torch.atanh(torch.sqrt(k.clamp(0, 1 - 1e-7))),
        )
    ),
)
register("Shrink", _shrink, ({}, {"lambd": 1.0, "bias": 1.0}, {"lambd": 0.75, "bias": 0.25}))
