"""log: concave, for x > 0."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from verinet.ops.activations.registry import constant, register
from verinet.ops.scalar_function import ScalarFunction


def _inverse(k: Tensor, piece: int) -> Tensor:
    return torch.where(k > 0, 1 / k, torch.inf)


register(
    "Log",
    constant(
        ScalarFunction(
            name="Log",
            value=torch.log,
            slope=torch.reciprocal,
            curvature=(-1,),
            slope_range=(0.0, math.inf),
            inverse_slope=_inverse,
            domain=(0.0, math.inf),
            poles=(0.0,),
            slope_floor=0.0,
        )
    ),
)
