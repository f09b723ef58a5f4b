"""GELU x Phi(x), exact and with the tanh approximation: concave, convex, concave."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from verinet.ops.activations.registry import Attributes, register
from verinet.ops.scalar_function import ScalarFunction

_HALF = math.sqrt(0.5)
_DENSITY = 1 / math.sqrt(2 * math.pi)
_SCALE, _CUBIC = math.sqrt(2 / math.pi), 0.044715


def _value(x: Tensor) -> Tensor:
    # erfc keeps the relative accuracy of the left tail.
    return 0.5 * x * torch.erfc(x * -_HALF)


def _slope(x: Tensor) -> Tensor:
    return 0.5 * torch.erfc(x * -_HALF) + x * torch.exp(-0.5 * x * x) * _DENSITY


def _tanh(x: Tensor) -> Tensor:
    # At |x| = 20 the tanh is 1 in every float, and cubes beyond could overflow.
    x = x.clamp(-20, 20)
    return torch.tanh(_SCALE * (x + _CUBIC * x * x * x))


def _tanh_value(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + _tanh(x))


def _tanh_slope(x: Tensor) -> Tensor:
    t, x = _tanh(x), x.clamp(-20, 20)
    return 0.5 * (1 + t) + 0.5 * x * (1 - t) * (1 + t) * (_SCALE * (1 + 3 * _CUBIC * x * x))


_EXACT = ScalarFunction(
    name="GELU",
    value=_value,
    slope=_slope,
    breakpoints=(-math.sqrt(2), math.sqrt(2)),
    curvature=(-1, 1, -1),
    extrema=(-0.7517915246935644574579,),
    bounds=(-0.169972, math.inf),
    slope_range=(-0.128906, 1.128906),
    span=9.0,
)
_APPROXIMATE = ScalarFunction(
    name="GELU (tanh)",
    value=_tanh_value,
    slope=_tanh_slope,
    breakpoints=(-1.418504008790828355548, 1.418504008790828355548),
    curvature=(-1, 1, -1),
    extrema=(-0.752461422071016258488,),
    bounds=(-0.170042, math.inf),
    slope_range=(-0.128995, 1.128995),
    span=9.0,
    # 1 + tanh cancels in the left tail: the absolute error there grows with |x| until the tanh settles at -1.
    error_ulps=16.0,
    slope_ulps=64.0,
)


def _gelu(attributes: Attributes) -> ScalarFunction | None:
    mode = attributes.get("approximate") or "none"
    text = mode.decode() if isinstance(mode, bytes) else mode
    return {"none": _EXACT, "tanh": _APPROXIMATE}.get(text)


register("Gelu", _gelu, ({}, {"approximate": "tanh"}))
