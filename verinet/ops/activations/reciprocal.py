"""1/x on either side of 0."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from verinet.ops.activations.registry import constant, register
from verinet.ops.scalar_function import ScalarFunction


def _inverse(k: Tensor, piece: int) -> Tensor:
    size = torch.where(k < 0, torch.rsqrt(k.abs()), torch.inf)
    return -size if piece == 0 else size


register(
    "Reciprocal",
    constant(
        ScalarFunction(
            name="Reciprocal",
            value=torch.reciprocal,
            slope=lambda x: -torch.reciprocal(x).square(),
            breakpoints=(0.0,),
            curvature=(-1, 1),
            slope_range=(-math.inf, 0.0),
            inverse_slope=_inverse,
            poles=(0.0,),
            error_floor=0.0,
            slope_floor=0.0,
        )
    ),
)
