"""|x|: a convex hinge."""

from __future__ import annotations

import torch

from verinet.ops.activations.registry import constant, register
from verinet.ops.scalar_function import ScalarFunction

register(
    "Abs",
    constant(
        ScalarFunction(
            name="Abs",
            value=torch.abs,
            slope=lambda x: torch.where(x >= 0, 1.0, -torch.ones_like(x)),
            breakpoints=(0.0,),
            curvature=(0, 0),
            kinks=(0.0,),
            extrema=(0.0,),
            bounds=(0.0, float("inf")),
            slope_range=(-1.0, 1.0),
            error_ulps=0.0,
            error_floor=0.0,
            slope_ulps=0.0,
            hinge=(-1.0, 1.0),
        )
    ),
)
