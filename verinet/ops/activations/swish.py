"""Swish x s(alpha x) (SiLU for alpha 1): concave, convex, concave; mirrored for negative alpha."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from verinet.ops.activations.registry import Attributes, number, register
from verinet.ops.scalar_function import ScalarFunction

_INFLECTION, _LOWEST = 2.399357280515467667833, -1.278464542761073795109


@lru_cache(maxsize=64)
def swish(alpha: float) -> ScalarFunction:
    """x / (1 + exp(-alpha x)). For alpha < 0 it is -swish(|alpha|) at -x."""

    def value(x: Tensor) -> Tensor:
        return x * torch.sigmoid(alpha * x)

    def slope(x: Tensor) -> Tensor:
        t = alpha * x
        s = torch.sigmoid(t)
        # Beyond 50 the product t s(t) s(-t) is below 1e-19, and t itself could overflow.
        return s + t.clamp(-50, 50) * s * torch.sigmoid(-t)

    if alpha == 0:
        return ScalarFunction("Swish", value, slope, slope_range=(0.5, 0.5))
    size = abs(alpha)
    return ScalarFunction(
        name="Swish",
        value=value,
        slope=slope,
        breakpoints=(-_INFLECTION / size, _INFLECTION / size),
        curvature=(-1, 1, -1) if alpha > 0 else (1, -1, 1),
        extrema=(_LOWEST / alpha,),
        bounds=(-0.278466 / size, math.inf) if alpha > 0 else (-math.inf, 0.278466 / size),
        slope_range=(-0.099841, 1.099841),
        # The rounding of alpha x costs |t| s'(t) |x|, at most 0.44 / alpha in ulps.
        error_floor=1 + 1 / size,
        span=40 / size,
    )


def _swish(attributes: Attributes) -> ScalarFunction:
    return swish(number(attributes, "alpha", 1.0))


register("Swish", _swish, ({}, {"alpha": 1.702}, {"alpha": 0.25}, {"alpha": -1.0}, {"alpha": 0.0}))
