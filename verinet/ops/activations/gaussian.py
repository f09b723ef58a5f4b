"""Gaussian exp(-x^2): convex, concave, convex."""

from __future__ import annotations

import math

import torch

from verinet.ops.activations.registry import constant, register
from verinet.ops.scalar_function import ScalarFunction

_STEEPEST = 0.857765  # sqrt(2 / e), rounded up

register(
    "Gaussian",
    constant(
        ScalarFunction(
            name="Gaussian",
            value=lambda x: torch.exp(-x * x),
            # Beyond 30 the exponential is 0 and x times it could be 0 times infinity.
            slope=lambda x: -2 * x.clamp(-30, 30) * torch.exp(-x * x),
            breakpoints=(-math.sqrt(0.5), math.sqrt(0.5)),
            curvature=(1, -1, 1),
            extrema=(0.0,),
            bounds=(0.0, 1.0),
            slope_range=(-_STEEPEST, _STEEPEST),
            span=9.0,
        )
    ),
)
