"""sinh, cosh and asinh."""

from __future__ import annotations

import torch
from torch import Tensor

from verinet.ops.activations.registry import constant, register
from verinet.ops.scalar_function import ScalarFunction


def _sinh_inverse(k: Tensor, piece: int) -> Tensor:
    size = torch.acosh(k.clamp(min=1))
    return -size if piece == 0 else size


def _asinh_inverse(k: Tensor, piece: int) -> Tensor:
    k = k.clamp(0, 1)
    size = torch.sqrt((1 / k - 1) * (1 / k + 1))
    return -size if piece == 0 else size


_SINH = ScalarFunction(
    name="Sinh",
    value=torch.sinh,
    slope=torch.cosh,
    breakpoints=(0.0,),
    curvature=(-1, 1),
    slope_range=(1.0, float("inf")),
    inverse_slope=_sinh_inverse,
)
_COSH = ScalarFunction(
    name="Cosh",
    value=torch.cosh,
    slope=torch.sinh,
    curvature=(1,),
    extrema=(0.0,),
    bounds=(1.0, float("inf")),
    inverse_slope=lambda k, piece: torch.asinh(k),
)
_ASINH = ScalarFunction(
    name="Asinh",
    value=torch.asinh,
    slope=lambda x: 1 / torch.sqrt(x * x + 1),
    breakpoints=(0.0,),
    curvature=(1, -1),
    slope_range=(0.0, 1.0),
    inverse_slope=_asinh_inverse,
    slope_floor=0.0,
)

register("Sinh", constant(_SINH))
register("Cosh", constant(_COSH))
register("Asinh", constant(_ASINH))
