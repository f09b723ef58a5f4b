"""ReLU squared max(x, 0)^2: convex, and twice differentiable but for 0."""

from __future__ import annotations

import math

from verinet.ops.activations.registry import constant, register
from verinet.ops.scalar_function import ScalarFunction

register(
    "ReluSquared",
    constant(
        ScalarFunction(
            name="ReLU^2",
            value=lambda x: x.clamp(min=0).square(),
            slope=lambda x: 2 * x.clamp(min=0),
            curvature=(1,),
            bounds=(0.0, math.inf),
            slope_range=(0.0, math.inf),
            inverse_slope=lambda k, piece: 0.5 * k,
            error_ulps=1.0,
            error_floor=0.0,
            slope_ulps=0.0,
            slope_floor=0.0,
        )
    ),
)
