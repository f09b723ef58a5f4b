"""-x, as an elementwise function (frontends treat it as linear)."""

from __future__ import annotations

import torch

from verinet.ops.activations.registry import constant, register
from verinet.ops.scalar_function import ScalarFunction

register(
    "Neg",
    constant(
        ScalarFunction(
            name="Neg",
            value=torch.neg,
            slope=lambda x: -torch.ones_like(x),
            slope_range=(-1.0, -1.0),
            error_ulps=0.0,
            error_floor=0.0,
            slope_ulps=0.0,
        )
    ),
)
