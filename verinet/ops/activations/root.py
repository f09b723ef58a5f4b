"""Square root: concave, for x >= 0."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from verinet.ops.activations.registry import constant, register
from verinet.ops.scalar_function import ScalarFunction


def _inverse(k: Tensor, piece: int) -> Tensor:
    return torch.where(k > 0, (0.5 / k).square(), torch.inf)


register(
    "Sqrt",
    constant(
        ScalarFunction(
            name="Sqrt",
            value=torch.sqrt,
            slope=lambda x: 0.5 / torch.sqrt(x),
            curvature=(-1,),
            bounds=(0.0, math.inf),
            slope_range=(0.0, math.inf),
            inverse_slope=_inverse,
            domain=(0.0, math.inf),
            error_floor=0.0,
            slope_floor=0.0,
        )
    ),
)
