"""Clip(x, min, max) with either limit optional: affine between two kinks."""

from __future__ import annotations

import math

import torch

from verinet.ops.activations.registry import Attributes, number, register
from verinet.ops.scalar_function import ScalarFunction


def clip(low: float, high: float) -> ScalarFunction:
    """min(max(x, low), high) as ONNX defines it; a constant where low >= high."""
    if low >= high:
        return ScalarFunction(
            name="Clip",
            value=lambda x: torch.full_like(x, high),
            slope=torch.zeros_like,
            slope_range=(0.0, 0.0),
            error_ulps=1.0,
            error_floor=0.0,
            slope_ulps=0.0,
        )
    kinks = tuple(p for p in (low, high) if math.isfinite(p))
    single = all(float(torch.tensor(p, dtype=torch.float32)) == p for p in kinks)
    return ScalarFunction(
        name="Clip",
        value=lambda x: x.clamp(low, high),
        slope=lambda x: ((x >= low) & (x <= high)).to(x.dtype),
        breakpoints=kinks,
        curvature=(0,) * (len(kinks) + 1),
        kinks=kinks,
        bounds=(low, high) if single else (-math.inf, math.inf),
        slope_range=(0.0, 1.0),
        # Limits that float32 cannot hold are rounded by the computation.
        error_ulps=0.0 if single else 1.0,
        error_floor=0.0,
        slope_ulps=0.0,
    )


def _clip(attributes: Attributes) -> ScalarFunction:
    return clip(number(attributes, "min", -math.inf), number(attributes, "max", math.inf))


_EXAMPLES: tuple[Attributes, ...] = (
    {},
    {"min": 0.0, "max": 6.0},
    {"min": -1.0},
    {"max": 0.3, "min": None},
    {"min": 2.0, "max": 1.0},
)
register("Clip", _clip, _EXAMPLES)
