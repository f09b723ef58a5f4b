"""softsign x / (1 + |x|): S-shaped with inflection 0."""

from __future__ import annotations

import torch
from torch import Tensor

from verinet.ops.activations.registry import constant, register
from verinet.ops.scalar_function import ScalarFunction


def _inverse(k: Tensor, piece: int) -> Tensor:
    size = torch.rsqrt(k.clamp(0, 1)) - 1
    return -size if piece == 0 else size


register(
    "Softsign",
    constant(
        ScalarFunction(
            name="Softsign",
            value=lambda x: x / (1 + x.abs()),
            slope=lambda x: torch.reciprocal(1 + x.abs()).square(),
            breakpoints=(0.0,),
            curvature=(1, -1),
            bounds=(-1.0, 1.0),
            slope_range=(0.0, 1.0),
            inverse_slope=_inverse,
            error_floor=0.0,
            slope_floor=0.0,
        )
    ),
)
