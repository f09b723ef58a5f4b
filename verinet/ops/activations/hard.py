"""HardSigmoid and HardSwish."""

from __future__ import annotations

import torch
from torch import Tensor

from verinet.ops.activations.registry import Attributes, constant, number, register
from verinet.ops.scalar_function import ScalarFunction


def _hard_sigmoid(attributes: Attributes) -> ScalarFunction:
    """max(0, min(1, alpha x + beta)). Kinks may be rounded: both neighbours are affine, and the pad covers that."""
    # The ONNX default is the float32 nearest to 0.2.
    alpha, beta = number(attributes, "alpha", 0.20000000298023224), number(attributes, "beta", 0.5)
    kinks = tuple(sorted((-beta / alpha, (1 - beta) / alpha))) if alpha else ()

    def slope(x: Tensor) -> Tensor:
        # By the kinks and not by the computed value, so that the slope changes exactly there.
        return ((x >= kinks[0]) & (x <= kinks[1])).to(x.dtype) * alpha if kinks else torch.zeros_like(x)

    return ScalarFunction(
        name="HardSigmoid",
        value=lambda x: (x * alpha + beta).clamp(0, 1),
        slope=slope,
        breakpoints=kinks,
        curvature=(0,) * (len(kinks) + 1),
        kinks=kinks,
        bounds=(0.0, 1.0),
        slope_range=(min(alpha, 0.0) * (1 + 1e-6), max(alpha, 0.0) * (1 + 1e-6)),
        error_floor=1 + abs(beta),
        slope_ulps=2.0,
        slope_floor=abs(alpha),
    )


def _swish_value(x: Tensor) -> Tensor:
    return x * (x * (1 / 6) + 0.5).clamp(0, 1)


def _swish_slope(x: Tensor) -> Tensor:
    middle = x / 3 + 0.5
    return torch.where(x > 3, 1.0, torch.where(x < -3, torch.zeros_like(x), middle))


register("HardSigmoid", _hard_sigmoid, ({}, {"alpha": 1 / 6}, {"alpha": -0.5, "beta": 0.25}, {"alpha": 0.0}))
register(
    "HardSwish",
    constant(
        ScalarFunction(
            name="HardSwish",
            value=_swish_value,
            slope=_swish_slope,
            breakpoints=(-3.0, 3.0),
            curvature=(0, 1, 0),
            kinks=(-3.0, 3.0),
            extrema=(-3.0, -1.5),
            bounds=(-0.375, float("inf")),
            slope_range=(-0.5, 1.5),
            inverse_slope=lambda k, piece: (k - 0.5) * 3,
        )
    ),
)
