"""Rigorous intercepts for any slope: min and max of f(x) - k x over an interval, with all rounding charged.

With sign s = +1 (line below) or -1 (line above) the intercept is s times a lower bound of min over [l, u] of
g(x) = s (f(x) - k x). Where s f is convex, an approximate stationary point x gives a rigorous bound by its tangent:
g(y) >= g(x) + g'(x) (y - x) for y in the piece. Elsewhere the minimum is at an end point, a breakpoint or a jump.
So errors of root finders cost tightness and never soundness (bound_propagation note, section 2.1).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from verinet.numerics.rounding import tiny
from verinet.ops import scalar_mapped
from verinet.ops.scalar_function import DomainError, ScalarFunction
from verinet.ops.scalar_map import VISITS, PieceMap

EXTREME = {torch.float64: 1e100, torch.float32: 1e25}
"""Slopes beyond this are replaced: k x must not overflow."""


class Sample(NamedTuple):
    """A point of the interval with the computed f there; `valid` marks one-sided limits that apply."""

    x: Tensor
    value: Tensor
    valid: Tensor | None = None


class Section(NamedTuple):
    """One curved piece clipped to the interval; `shift` moves a root by whole periods.

    With a map `piece` is the sign of the curvature, and `place` says which piece every entry has.
    """

    left: Tensor
    right: Tensor
    piece: int
    shift: Tensor | None = None
    place: Tensor | None = None


def between(point: Tensor | float, lower: Tensor, upper: Tensor) -> Tensor:
    """`point` clamped into [lower, upper]; always a point of the interval."""
    if isinstance(point, Tensor):
        return torch.minimum(torch.maximum(point, lower), upper)
    return torch.minimum(lower.clamp(min=point), upper)


def corner_points(function: ScalarFunction) -> tuple[float, ...]:
    """Breakpoints that tangents do not cover: kinks, and those between pieces that do not alternate in sign.

    Between a convex and a concave piece the breakpoint belongs to the piece whose tangent bounds it on either side.
    """
    if function.period is not None:
        return ()
    signs = function.curvature
    return tuple(p for i, p in enumerate(function.breakpoints) if p in function.kinks or signs[i] * signs[i + 1] != -1)


def samples(function: ScalarFunction, lower: Tensor, upper: Tensor) -> list[Sample]:
    """Ends, corners and one-sided limits at jumps: the candidates that serve both sides."""
    function = function.on(lower, upper)
    found = [Sample(x, function.at(x)) for x in (lower, upper)]
    if function.chart is not None:
        return found + [Sample(*corner) for corner in function.chart.samples(lower, upper)]
    found += [Sample(x, function.at(x)) for x in (between(p, lower, upper) for p in corner_points(function))]
    if function.jumps is not None:
        found += [Sample(*limit) for limit in function.jumps.limits(lower, upper)]
    return found


def sections(function: ScalarFunction, sign: int, ends: tuple[Tensor, Tensor], slope: Tensor) -> Iterator[Section]:
    """The pieces on which sign * f is convex, clipped to the interval (a piece outside shrinks to an end point)."""
    lower, upper = ends
    function = function.on(lower, upper)
    if function.chart is not None:
        yield from _mapped_sections(function.chart, sign, ends)
        return
    if function.period is not None:
        yield from _periodic_sections(function, sign, ends, slope)
        return
    points = function.breakpoints
    for piece, bend in enumerate(function.curvature):
        if bend != sign:
            continue
        left = lower if piece == 0 else between(points[piece - 1], lower, upper)
        right = upper if piece == len(points) else between(points[piece], lower, upper)
        yield Section(left, right, piece)


def _periodic_sections(
    function: ScalarFunction, sign: int, ends: tuple[Tensor, Tensor], slope: Tensor
) -> Iterator[Section]:
    """Moving right by a period changes sign * (f - k x) by -sign * k * period, so only the last two pieces that meet
    the interval matter if sign * k >= 0, and only the first two otherwise.
    """
    lower, upper = ends
    points, period = function.breakpoints, function.period or 1.0
    for piece, bend in enumerate(function.curvature):
        if bend != sign:
            continue
        start = points[piece]
        end = points[piece + 1] if piece + 1 < len(points) else points[0] + period
        forward = sign * slope >= 0
        first = torch.where(forward, ((upper - start) / period).floor(), ((lower - end) / period).ceil())
        for count in (first, torch.where(forward, first - 1, first + 1)):
            shift = count * period
            yield Section(between(start + shift, lower, upper), between(end + shift, lower, upper), piece, shift)


def _mapped_sections(chart: PieceMap, sign: int, ends: tuple[Tensor, Tensor]) -> Iterator[Section]:
    """The first, second, ... piece that every interval meets; a single end point where there are fewer."""
    lower, upper = ends
    band = chart.curved[sign]
    for place, meets in band.visits(ends, chart.base, VISITS):
        left = torch.maximum(lower, band.start.reshape(-1)[place])
        right = torch.minimum(upper, band.stop.reshape(-1)[place])
        yield Section(torch.where(meets, left, lower), torch.where(meets, right, lower), sign, None, place)


def touch_point(function: ScalarFunction, section: Section, slope: Tensor, polish: bool) -> Tensor:
    """About the point of the section where f' = slope, always inside the section."""
    if function.chart is not None and section.place is not None:
        derivative = function.derivative if polish else None
        root = function.chart.root(slope, section.place, section.piece, derivative)
        return between(root, section.left, section.right)
    root = function.root(slope, section.piece, polish)
    root = torch.nan_to_num(root if section.shift is None else root + section.shift, nan=0.0)
    return between(root, section.left, section.right)


def float_charge(function: ScalarFunction, value: Tensor, product: Tensor) -> Tensor:
    """At least the error of the computed f(x) - k x: of f by its promise, and of three roundings of f and k x."""
    eps = torch.finfo(value.dtype).eps
    return function.error(value) + (value.abs() + product.abs()) * (3 * eps) + tiny(value.dtype)


def _slope_at(function: ScalarFunction, section: Section, x: Tensor) -> Tensor:
    """f' at x taken from inside the section: at a kink the computed f' may belong to the neighbour."""
    value = function.derivative(x)
    if function.period is not None:
        return value
    if function.chart is not None:
        return function.chart.one_sided(value, x, section.piece, section.place)
    points, piece = function.breakpoints, section.piece
    if piece > 0 and points[piece - 1] in function.kinks:
        value = torch.where(x <= points[piece - 1], function.side_slopes(points[piece - 1], x)[1], value)
    if piece < len(points) and points[piece] in function.kinks:
        value = torch.where(x >= points[piece], function.side_slopes(points[piece], x)[0], value)
    return value


def tangent_drop(function: ScalarFunction, sign: int, section: Section, x: Tensor, slope: Tensor) -> Tensor:
    """At least how far sign * (f - k x) can fall below its value at x within the section: tangent and its error."""
    dtype = x.dtype
    eps = torch.finfo(dtype).eps
    steep = _slope_at(function, section, x)
    rate = (steep - slope) * sign
    width = section.right - section.left
    rise = torch.minimum(rate * (section.left - x), rate * (section.right - x))
    ulps = function.slope_ulps
    unsure = (steep.abs() * (ulps + 3) + slope.abs() * 3 + ulps * function.slope_floor) * eps
    if function.chart is not None and section.place is not None:
        unsure = unsure + function.chart.slope_charge(x, section.piece, section.place)
    drop = width * (unsure + tiny(dtype)) - rise.clamp(max=0)
    # An infinite slope at a degenerate section (sqrt at 0) would give 0 * inf.
    return torch.where(width > 0, drop, torch.zeros_like(drop))


def intercept(
    function: ScalarFunction, sign: int, ends: tuple[Tensor, Tensor], slope: Tensor, known: list[Sample]
) -> tuple[Tensor, Tensor]:
    """Intercept b and touching point x with sign * (f(y) - slope * y - b) >= 0 for all y in the interval."""
    function = function.on(*ends)
    best: Tensor | None = None
    touch: Tensor | None = None

    def offer(sample: Sample, drop: Tensor | None) -> None:
        nonlocal best, touch
        value = _height(function, sign, sample, slope)
        if drop is not None:
            value = value - drop - (value.abs() + drop) * torch.finfo(value.dtype).eps
        if best is None or touch is None:
            best, touch = value, sample.x
            return
        touch = torch.where(
            value < best - (best.abs() + value.abs()) * (64 * torch.finfo(best.dtype).eps), sample.x, touch
        )
        best = torch.minimum(value, best)

    for sample in known:
        offer(sample, None)
    for section in sections(function, sign, ends, slope):
        x = touch_point(function, section, slope, True)
        offer(Sample(x, function.at(x)), tangent_drop(function, sign, section, x, slope))
    if best is None or touch is None:
        raise DomainError(function.name)
    return sign * _overridden(function, sign, ends, slope, best), touch.expand_as(best)


def _height(function: ScalarFunction, sign: int, sample: Sample, slope: Tensor) -> Tensor:
    """At most sign * (f - slope x) at a sample; infinite where the sample does not count."""
    product = slope * sample.x
    value = sign * (sample.value - product) - float_charge(function, sample.value, product)
    if function.chart is not None:
        value = value - function.chart.value_charge(sample.x, slope)
    if sample.valid is not None:
        value = torch.where(sample.valid, value, torch.full_like(value, torch.inf))
    return value


def _overridden(
    function: ScalarFunction, sign: int, ends: tuple[Tensor, Tensor], slope: Tensor, best: Tensor
) -> Tensor:
    """`best`, with global bounds where the candidates cannot be trusted: far out on a wave, or among many pieces."""
    if function.period is not None:
        return torch.where(function.far(*ends), _trivial(function, sign, ends, slope), best)
    if function.chart is not None:
        crowded = function.chart.crowded(ends)
        return best if crowded is None else torch.where(crowded, function.chart.trivial(sign, ends, slope), best)
    return best


def _trivial(function: ScalarFunction, sign: int, ends: tuple[Tensor, Tensor], slope: Tensor) -> Tensor:
    """Lower bound of sign * (f - k x) from the global bounds of f alone."""
    level = min(sign * function.bounds[0], sign * function.bounds[1])
    slide = torch.maximum(sign * slope * ends[0], sign * slope * ends[1])
    eps = torch.finfo(slide.dtype).eps
    return level - slide - (slide.abs() + abs(level)) * (3 * eps)


def usable(slope: Tensor, fallback: Tensor) -> Tensor:
    """`slope`, replaced where it is not finite or so large that products overflow."""
    limit = EXTREME[slope.dtype]
    safe = torch.where(fallback.abs() < limit, fallback, torch.zeros_like(fallback))
    return torch.where(slope.abs() < limit, slope, safe)


def interval(function: ScalarFunction, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """Bounds of f over [lower, upper], rounded outward and cut at the function's global bounds."""
    function = function.on(lower, upper)
    if function.outside(lower, upper):
        raise DomainError(function.name)
    if function.chart is not None:
        return scalar_mapped.interval(function, function.chart, lower, upper)
    low, high = _outward(function, function.at(lower))
    for x in (upper, *_turning_points(function, lower, upper)):
        below, above = _outward(function, function.at(x))
        low, high = torch.minimum(low, below), torch.maximum(high, above)
    if function.jumps is not None:
        for limit in function.jumps.limits(lower, upper):
            below, above = _outward(function, limit.value)
            low = torch.where(limit.valid, torch.minimum(low, below), low)
            high = torch.where(limit.valid, torch.maximum(high, above), high)
    low, high = low.clamp(min=function.bounds[0]), high.clamp(max=function.bounds[1])
    if function.period is not None and not function.poles:
        far = function.far(lower, upper)
        low, high = torch.where(far, function.bounds[0], low), torch.where(far, function.bounds[1], high)
    if not bool((torch.isfinite(low) & torch.isfinite(high)).all()):
        raise DomainError(function.name)
    return low, high


def _outward(function: ScalarFunction, value: Tensor) -> tuple[Tensor, Tensor]:
    if function.error_ulps == 0:
        return value, value
    eps = torch.finfo(value.dtype).eps
    charge = function.error(value) + value.abs() * (2 * eps) + tiny(value.dtype)
    return value - charge, value + charge


def _turning_points(function: ScalarFunction, lower: Tensor, upper: Tensor) -> Iterator[Tensor]:
    """Extrema clamped into the interval; for periodic functions the first one at or above the lower end.

    A rounded extremum is off by w, so the value is off by O(w^2): less than the outward rounding.
    """
    for point in function.extrema:
        if function.period is None:
            yield between(point, lower, upper)
        else:
            count = ((lower - point) / function.period).ceil()
            yield between(point + count * function.period, lower, upper)
