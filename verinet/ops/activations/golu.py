"""GoLU x exp(-exp(-x)): concave, convex, concave (Das et al. 2025, arXiv 2502.03654)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from verinet.ops.activations.registry import constant, register
from verinet.ops.scalar_function import ScalarFunction


def _gate(x: Tensor) -> tuple[Tensor, Tensor]:
    """exp(-y) and y exp(-y) for y = exp(-x). Left of -8 both are below 1e-1290 and y could overflow."""
    y = torch.exp(-x.clamp(min=-8))
    gate = torch.exp(-y)
    return gate, y * gate


def _value(x: Tensor) -> Tensor:
    return x * _gate(x)[0]


def _slope(x: Tensor) -> Tensor:
    gate, rate = _gate(x)
    return gate + x.clamp(-8, 750) * rate


register(
    "Golu",
    constant(
        ScalarFunction(
            name="GoLU",
            value=_value,
            slope=_slope,
            breakpoints=(-1.06009031989321024510, 2.23864583460628274286),
            curvature=(-1, 1, -1),
            extrema=(-0.5671432904097839,),
            bounds=(-0.099, math.inf),
            slope_range=(-0.43, 1.13),
            slope_ulps=16.0,
            span=40.0,
        )
    ),
)
