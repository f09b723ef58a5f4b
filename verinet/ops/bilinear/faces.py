"""Least values of c h(x) - k x over an interval of x: what the planes of h(x) y are made of.

Linear in c, so with y = c at the two ends of y's interval this gives the one-parameter family of planes that touch both
faces of the box (bound_propagation note, section 2.3).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from verinet.numerics.rounding import tiny
from verinet.ops import scalar_lines
from verinet.ops.scalar_function import ScalarFunction
from verinet.ops.scalar_lines import Sample

_SMALL = {torch.float64: 1e-150, torch.float32: 1e-18}
"""Factors below this are not divided by: k / c could overflow."""


class Strip(NamedTuple):
    """The interval of x, the function's values on it, and their bounds: all broadcast to the output."""

    lower: Tensor
    upper: Tensor
    known: list[Sample]
    least: Tensor
    most: Tensor

    @classmethod
    def over(cls, function: ScalarFunction, lower: Tensor, upper: Tensor) -> Strip:
        """Raises `DomainError` where the interval leaves the function's domain."""
        least, most = scalar_lines.interval(function, lower, upper)
        return cls(lower, upper, scalar_lines.samples(function, lower, upper), least, most)

    @property
    def size(self) -> Tensor:
        return torch.maximum(self.lower.abs(), self.upper.abs())


class Plane(NamedTuple):
    """slope_x x + slope_y y + offset, and where it touches: x at the lower and at the upper face."""

    slope_x: Tensor
    slope_y: Tensor
    offset: Tensor
    touch_low: Tensor
    touch_high: Tensor


def face(function: ScalarFunction, strip: Strip, factor: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
    """A lower bound of factor * h(x) - slope * x on the strip, and about where it is attained."""
    eps = torch.finfo(factor.dtype).eps
    large = factor.abs() > _SMALL[factor.dtype]
    ratio = slope / torch.where(large, factor, torch.ones_like(factor))
    ratio = scalar_lines.usable(ratio, torch.zeros_like(ratio))
    offset, touch = _intercept(function, strip, factor, ratio)
    product = factor * offset
    # The bound is about factor * ratio instead of slope.
    differs = (slope - factor * ratio).abs() + slope.abs() * (4 * eps)
    value = product - product.abs() * (4 * eps) - differs * strip.size * 1.01
    plain = torch.minimum(factor * strip.least, factor * strip.most)
    slide = torch.maximum(slope * strip.lower, slope * strip.upper)
    simple = plain - slide - (plain.abs() + slide.abs()) * (4 * eps)
    better = (value >= simple) & large
    far = torch.where(slope >= 0, strip.upper, strip.lower)
    return torch.where(better, value, simple) - tiny(factor.dtype), torch.where(better, touch, far)


def _intercept(function: ScalarFunction, strip: Strip, factor: Tensor, ratio: Tensor) -> tuple[Tensor, Tensor]:
    """Of h - ratio x: the least value where the factor is positive, the greatest where it is negative."""
    ends = strip.lower, strip.upper
    positive = factor >= 0
    if bool(positive.all()):
        return scalar_lines.intercept(function, 1, ends, ratio, strip.known)
    if not bool(positive.any()):
        return scalar_lines.intercept(function, -1, ends, ratio, strip.known)
    below, low = scalar_lines.intercept(function, 1, ends, ratio, strip.known)
    above, high = scalar_lines.intercept(function, -1, ends, ratio, strip.known)
    return torch.where(positive, below, above), torch.where(positive, low, high)


def lower_plane(function: ScalarFunction, strip: Strip, ends: tuple[Tensor, Tensor], slope: Tensor) -> Plane:
    """The plane below h(x) y with the given slope in x that touches both faces y = ends."""
    low, high = ends
    first, touch_low = face(function, strip, low, slope)
    second, touch_high = face(function, strip, high, slope)
    eps = torch.finfo(slope.dtype).eps
    width = high - low
    steep = (second - first) / torch.where(width > 0, width, torch.ones_like(width))
    noise = width <= 64 * eps * (low.abs() + high.abs())
    steep = torch.where(noise, 0.5 * (strip.least + strip.most), steep)
    pairs = ((first, low), (second, high))
    rest = [value - steep * y - (value.abs() + (steep * y).abs()) * (4 * eps) for value, y in pairs]
    return Plane(slope, steep, torch.minimum(*rest), touch_low, touch_high)


def upper_plane(function: ScalarFunction, strip: Strip, ends: tuple[Tensor, Tensor], slope: Tensor) -> Plane:
    """The plane above h(x) y: minus a plane below h(x) (-y)."""
    mirrored = lower_plane(function, strip, (-ends[1], -ends[0]), -slope)
    return Plane(slope, mirrored.slope_y, -mirrored.offset, mirrored.touch_high, mirrored.touch_low)
