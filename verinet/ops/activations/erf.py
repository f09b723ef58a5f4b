"""erf: S-shaped with inflection 0; its slope is a Gaussian."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from verinet.ops.activations.registry import constant, register
from verinet.ops.scalar_function import ScalarFunction

_PEAK = 2 / math.sqrt(math.pi)


def _inverse(k: Tensor, piece: int) -> Tensor:
    size = torch.sqrt(torch.log(_PEAK / k.clamp(0, _PEAK)).clamp(min=0))
    return -size if piece == 0 else size


register(
    "Erf",
    constant(
        ScalarFunction(
            name="Erf",
            value=torch.erf,
            slope=lambda x: torch.exp(-x * x) * _PEAK,
            breakpoints=(0.0,),
            curvature=(1, -1),
            bounds=(-1.0, 1.0),
            slope_range=(0.0, 1.128381),
            inverse_slope=_inverse,
        )
    ),
)
