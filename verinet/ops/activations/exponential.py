"""exp: convex and positive."""

from __future__ import annotations

import torch
from torch import Tensor

from verinet.ops.activations.registry import constant, register
from verinet.ops.scalar_function import ScalarFunction


def _inverse(k: Tensor, piece: int) -> Tensor:
    return torch.log(k.clamp(min=0))


register(
    "Exp",
    constant(
        ScalarFunction(
            name="Exp",
            value=torch.exp,
            slope=torch.exp,
            curvature=(1,),
            bounds=(0.0, float("inf")),
            slope_range=(0.0, float("inf")),
            inverse_slope=_inverse,
            error_floor=0.0,
            slope_floor=0.0,
        )
    ),
)
