"""softplus log(1 + e^x): convex, increasing, slope between 0 and 1."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from verinet.ops.activations.registry import constant, register
from verinet.ops.scalar_function import ScalarFunction


def _value(x: Tensor) -> Tensor:
    # torch's own softplus turns linear above a threshold, an error of 2e-9.
    return torch.log1p(torch.exp(-x.abs())) + x.clamp(min=0)


def _inverse(k: Tensor, piece: int) -> Tensor:
    k = k.clamp(0, 1)
    return torch.log(k) - torch.log1p(-k)


register(
    "Softplus",
    constant(
        ScalarFunction(
            name="Softplus",
            value=_value,
            slope=torch.sigmoid,
            curvature=(1,),
            bounds=(0.0, math.inf),
            slope_range=(0.0, 1.0),
            inverse_slope=_inverse,
            error_floor=0.0,
            slope_floor=0.0,
        )
    ),
)
