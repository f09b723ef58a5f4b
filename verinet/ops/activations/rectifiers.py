"""ReLU and its leaky, per-channel and thresholded relatives: two affine pieces."""

from __future__ import annotations

import torch
from torch import Tensor

from verinet.ops.activations.registry import Attributes, constant, number, register
from verinet.ops.scalar_function import Jumps, ScalarFunction


def single(value: float) -> bool:
    """True if a number is exact in float32."""
    return float(torch.tensor(value, dtype=torch.float32)) == value


def _relu() -> ScalarFunction:
    return ScalarFunction(
        name="ReLU",
        value=lambda x: x.clamp(min=0),
        slope=lambda x: (x > 0).to(x.dtype),
        breakpoints=(0.0,),
        curvature=(0, 0),
        kinks=(0.0,),
        bounds=(0.0, float("inf")),
        slope_range=(0.0, 1.0),
        error_ulps=0.0,
        error_floor=0.0,
        slope_ulps=0.0,
        hinge=(0.0, 1.0),
    )


def _slopes(least: float, most: float) -> tuple[float, float]:
    """Range of 1 and the slopes left of 0, outward where float32 cannot hold them."""
    low, high = min(least, 1.0), max(most, 1.0)
    low = low if single(low) else low - 1e-6 * abs(low)
    return low, (high if single(high) else high + 1e-6 * abs(high))


def leaky(name: str, alpha: float) -> ScalarFunction:
    """max(x, 0) + alpha min(x, 0), for any alpha."""
    return ScalarFunction(
        name=name,
        value=lambda x: torch.where(x >= 0, x, x * alpha),
        slope=lambda x: torch.where(x >= 0, 1.0, torch.full_like(x, alpha)),
        breakpoints=(0.0,),
        curvature=(0, 0),
        kinks=(0.0,),
        extrema=(0.0,) if alpha < 0 else (),
        slope_range=_slopes(alpha, alpha),
        error_ulps=1.0,
        error_floor=0.0,
        slope_ulps=1.0,
        slope_floor=0.0,
        hinge=(alpha, 1.0) if alpha <= 1 and single(alpha) else None,
    )


def _leaky(attributes: Attributes) -> ScalarFunction:
    # The ONNX default is the float32 nearest to 0.01.
    return leaky("LeakyReLU", number(attributes, "alpha", 0.009999999776482582))


def _prelu_value(x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x >= 0, x, x * slope)


def _prelu_slope(x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x >= 0, torch.ones((), dtype=x.dtype, device=x.device), slope)


def _prelu(attributes: Attributes) -> ScalarFunction | None:
    slope = attributes.get("slope")
    if slope is None:
        return None
    slope = torch.as_tensor(slope, dtype=torch.float64)
    if slope.numel() == 1:
        return leaky("PReLU", float(slope))
    return ScalarFunction(
        name="PReLU",
        value=_prelu_value,
        slope=_prelu_slope,
        breakpoints=(0.0,),
        curvature=(0, 0),
        kinks=(0.0,),
        extrema=(0.0,),
        slope_range=_slopes(float(slope.min()), float(slope.max())),
        error_ulps=1.0,
        error_floor=0.0,
        slope_ulps=1.0,
        slope_floor=0.0,
        parameters=(slope,),
    )


def _thresholded(attributes: Attributes) -> ScalarFunction:
    alpha = number(attributes, "alpha", 1.0)
    return ScalarFunction(
        name="ThresholdedReLU",
        value=lambda x: torch.where(x > alpha, x, torch.zeros_like(x)),
        slope=lambda x: (x > alpha).to(x.dtype),
        breakpoints=(alpha,),
        curvature=(0, 0),
        kinks=(alpha,),
        jumps=Jumps(alpha, 0.0, alpha),
        extrema=(alpha,),
        error_ulps=1.0,
        error_floor=0.0,
        slope_ulps=0.0,
    )


register("Relu", constant(_relu()))
register("LeakyRelu", _leaky, ({}, {"alpha": 0.5}, {"alpha": -0.25}, {"alpha": 1.75}, {"alpha": 0.1}, {"alpha": 1.0}))
register(
    "PRelu",
    _prelu,
    ({"slope": torch.tensor([0.1])}, {"slope": torch.tensor([0.25, -0.5, 1.5, 1.0, 0.0], dtype=torch.float64)}),
)
register("ThresholdedRelu", _thresholded, ({}, {"alpha": 0.0}, {"alpha": 2.5}, {"alpha": -1.5}))
