"""Inverse trigonometric functions."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from verinet.ops.activations.registry import constant, register
from verinet.ops.scalar_function import ScalarFunction


def _atan_inverse(k: Tensor, piece: int) -> Tensor:
    size = torch.sqrt((1 / k.clamp(0, 1) - 1).clamp(min=0))
    return -size if piece == 0 else size


def _asin_slope(x: Tensor) -> Tensor:
    return torch.rsqrt((1 - x) * (1 + x))


def _asin_inverse(k: Tensor, piece: int) -> Tensor:
    # Short of 1, where the slope is infinite.
    size = torch.sqrt((1 - 1 / k.abs().clamp(min=1).square()).clamp(0, 1 - torch.finfo(k.dtype).eps))
    return -size if piece == 0 else size


_ATAN = ScalarFunction(
    name="Atan",
    value=torch.atan,
    slope=lambda x: torch.reciprocal(x * x + 1),
    breakpoints=(0.0,),
    curvature=(1, -1),
    bounds=(-1.570798, 1.570798),
    slope_range=(0.0, 1.0),
    inverse_slope=_atan_inverse,
    slope_floor=0.0,
)
_ASIN = ScalarFunction(
    name="Asin",
    value=torch.asin,
    slope=_asin_slope,
    breakpoints=(0.0,),
    curvature=(-1, 1),
    bounds=(-1.570798, 1.570798),
    slope_range=(1.0, math.inf),
    inverse_slope=_asin_inverse,
    domain=(-1.0, 1.0),
)
_ACOS = ScalarFunction(
    name="Acos",
    value=torch.acos,
    slope=lambda x: -_asin_slope(x),
    breakpoints=(0.0,),
    curvature=(1, -1),
    bounds=(0.0, 3.141595),
    slope_range=(-math.inf, -1.0),
    inverse_slope=_asin_inverse,
    domain=(-1.0, 1.0),
)

register("Atan", constant(_ATAN))
register("Asin", constant(_ASIN))
register("Acos", constant(_ACOS))
