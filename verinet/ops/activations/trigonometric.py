"""sin, cos and tan. Breakpoints and extrema repeat with the period; tan must stay on one branch."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from verinet.ops.activations.registry import constant, register
from verinet.ops.scalar_function import ScalarFunction

_PI = math.pi


def _sin_inverse(k: Tensor, piece: int) -> Tensor:
    """cos x = k on [0, pi] (concave) and on [pi, 2 pi] (convex)."""
    angle = torch.acos(k.clamp(-1, 1))
    return angle if piece == 0 else 2 * _PI - angle


def _cos_inverse(k: Tensor, piece: int) -> Tensor:
    """-sin x = k on [-pi/2, pi/2] (concave) and on [pi/2, 3 pi/2] (convex)."""
    angle = torch.asin(k.clamp(-1, 1))
    return -angle if piece == 0 else _PI + angle


def _tan_inverse(k: Tensor, piece: int) -> Tensor:
    """1 / cos^2 x = k on [-pi/2, 0] (concave) and on [0, pi/2] (convex)."""
    angle = torch.acos(torch.rsqrt(k.clamp(min=1)))
    return -angle if piece == 0 else angle


_SIN = ScalarFunction(
    name="Sin",
    value=torch.sin,
    slope=torch.cos,
    breakpoints=(0.0, _PI),
    curvature=(-1, 1),
    extrema=(0.5 * _PI, 1.5 * _PI),
    bounds=(-1.0, 1.0),
    slope_range=(-1.0, 1.0),
    inverse_slope=_sin_inverse,
    period=2 * _PI,
)
_COS = ScalarFunction(
    name="Cos",
    value=torch.cos,
    slope=lambda x: -torch.sin(x),
    breakpoints=(-0.5 * _PI, 0.5 * _PI),
    curvature=(-1, 1),
    extrema=(0.0, _PI),
    bounds=(-1.0, 1.0),
    slope_range=(-1.0, 1.0),
    inverse_slope=_cos_inverse,
    period=2 * _PI,
)
_TAN = ScalarFunction(
    name="Tan",
    value=torch.tan,
    slope=lambda x: 1 + torch.tan(x).square(),
    breakpoints=(-0.5 * _PI, 0.0),
    curvature=(-1, 1),
    slope_range=(1.0, math.inf),
    inverse_slope=_tan_inverse,
    poles=(-0.5 * _PI,),
    period=_PI,
)

register("Sin", constant(_SIN))
register("Cos", constant(_COS))
register("Tan", constant(_TAN))
