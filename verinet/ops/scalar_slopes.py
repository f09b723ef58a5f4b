"""Default slopes, slope ranges, and where splitting helps."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from verinet.numerics.rounding import tiny
from verinet.ops import scalar_mapped
from verinet.ops.scalar_function import DomainError, Jumps, ScalarFunction
from verinet.ops.scalar_lines import Sample, between, samples, sections, touch_point, usable

STEPS = 6
"""Bridge steps for default slopes: measured, six leave at most 1e-3 of the optimal gap; twice that with many pieces."""


def middle(lower: Tensor, upper: Tensor) -> Tensor:
    """Midpoint without overflow, inside the interval despite rounding."""
    return between(0.5 * lower + 0.5 * upper, lower, upper)


def chord(function: ScalarFunction, lower: Tensor, upper: Tensor) -> Tensor:
    """Slope between the end points; f' in the middle where the width is rounding noise."""
    function = function.on(lower, upper)
    centre = function.derivative(middle(lower, upper))
    width = upper - lower
    rise = (function.at(upper) - function.at(lower)) / torch.where(width > 0, width, torch.ones_like(width))
    return usable(torch.where(_narrow(function, lower, upper), centre, rise), centre)


def _narrow(function: ScalarFunction, lower: Tensor, upper: Tensor) -> Tensor:
    """Widths at which the difference of two values is noise; f' is then as good, and steadier."""
    limit = 8 * math.sqrt(torch.finfo(lower.dtype).eps)
    return upper - lower <= limit * (lower.abs() + upper.abs() + function.error_floor)


def default_slopes(function: ScalarFunction, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """Slopes of the area-optimal lower and upper lines: the supporting lines of the envelopes at the midpoint.

    No line below f exceeds the convex envelope at the midpoint, and the area under a line over [l, u] is the width
    times its value there (bound_propagation note, section 2.1).
    """
    function = function.on(lower, upper)
    tangent = function.derivative(middle(lower, upper))
    tangent = usable(tangent, torch.zeros_like(tangent))
    straight = chord(function, lower, upper)
    if function.bend:
        return (tangent, straight) if function.bend > 0 else (straight, tangent)
    if function.chart is None and function.piecewise_linear and not function.kinks and function.jumps is None:
        return tangent, tangent
    flat = _narrow(function, lower, upper)
    low, high = (_supporting(function, sign, (lower, upper), (tangent, straight)) for sign in (1, -1))
    low, high = torch.where(flat, tangent, low), torch.where(flat, tangent, high)
    crowded = None if function.chart is None else function.chart.crowded((lower, upper))
    if function.chart is None or crowded is None:
        return low, high
    trend = function.chart.trend_slope(low)
    return torch.where(crowded, trend, low), torch.where(crowded, trend, high)


def _supporting(
    function: ScalarFunction, sign: int, ends: tuple[Tensor, Tensor], first: tuple[Tensor, Tensor]
) -> Tensor:
    """argmax over k of sign * (k m + intercept(k)). Usually the tangent at m or the chord is it; else a search."""
    lower, upper = ends
    centre = middle(lower, upper)
    tangent, straight = first
    known = samples(function, lower, upper)
    top = sign * function.at(centre)
    slack = (top.abs() + function.error_floor) * (64 * torch.finfo(top.dtype).eps)
    value = lowest(function, sign, ends, tangent, known)[1] + sign * tangent * centre
    settled = value >= top - slack
    through = sign * (known[0].value - straight * known[0].x)
    below = lowest(function, sign, ends, straight, known)[1] >= through - slack
    slope = torch.where(below & ~settled, straight, tangent)
    settled = settled | below
    if function.parameters:  # channels cannot be picked apart
        return torch.where(settled, slope, _bridge(function, sign, ends, first))
    rest = torch.nonzero(~settled, as_tuple=True)
    if rest[0].numel() == 0:
        return slope
    picked = _bridge(function, sign, (lower[rest], upper[rest]), (tangent[rest], straight[rest]))
    return slope.index_put(rest, picked)


def _bridge(function: ScalarFunction, sign: int, ends: tuple[Tensor, Tensor], first: tuple[Tensor, Tensor]) -> Tensor:
    """The minimiser x(k) of sign * (f - k x) lies left or right of m; the chord through the best points on either side
    is the next k. Newton-like when the answer is a tangent from a fixed end, bisection-like near the tangent at m.
    """
    lower, upper = ends
    centre = middle(lower, upper)
    known = samples(function, lower, upper)
    tangent, slope = first
    left, right = known[0], known[1]
    best_slope, best = tangent, lowest(function, sign, ends, tangent, known)[1] + sign * tangent * centre
    for _ in range(STEPS if function.chart is None else 2 * STEPS):
        sample, least = lowest(function, sign, ends, slope, known)
        value = least + sign * slope * centre
        best_slope = torch.where(value > best, slope, best_slope)
        best = torch.maximum(value, best)
        below = sample.x < centre
        left = Sample(torch.where(below, sample.x, left.x), torch.where(below, sample.value, left.value))
        right = Sample(torch.where(below, right.x, sample.x), torch.where(below, right.value, sample.value))
        width = right.x - left.x
        slope = usable((right.value - left.value) / torch.where(width > 0, width, torch.ones_like(width)), tangent)
    return best_slope


def lowest(
    function: ScalarFunction, sign: int, ends: tuple[Tensor, Tensor], slope: Tensor, known: list[Sample]
) -> tuple[Sample, Tensor]:
    """About the minimiser of sign * (f - slope * x) and the minimum; not rigorous."""
    roots = (touch_point(function, s, slope, False) for s in sections(function, sign, ends, slope))
    candidates = [*known, *(Sample(x, function.at(x)) for x in roots)]
    best, least = candidates[0], sign * (candidates[0].value - slope * candidates[0].x)
    for sample in candidates[1:]:
        value = sign * (sample.value - slope * sample.x)
        if sample.valid is not None:
            value = torch.where(sample.valid, value, torch.full_like(value, torch.inf))
        better = value < least
        least = torch.where(better, value, least)
        best = Sample(torch.where(better, sample.x, best.x), torch.where(better, sample.value, best.value))
    return best, least


def slope_bounds(function: ScalarFunction, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """Rigorous bounds of f' (at kinks: of both one-sided slopes) over [lower, upper]; infinite across jumps."""
    function = function.on(lower, upper)
    if function.outside(lower, upper):
        raise DomainError(function.name)
    if function.chart is not None:
        return scalar_mapped.slope_bounds(function, function.chart, lower, upper)
    values = [_edge_slope(function, lower, 1), _edge_slope(function, upper, 0)]
    values += [function.derivative(x) for x in _slope_turns(function, lower, upper)]
    low, high = values[0], values[0]
    for value in values[1:]:
        low, high = torch.minimum(low, value), torch.maximum(high, value)
    for kink in function.kinks:
        before, after = function.side_slopes(kink, lower)
        meets = (lower <= kink) & (kink <= upper)
        for side, inside in ((before, meets & (lower < kink)), (after, meets & (upper > kink))):
            inside = inside | (meets & (lower == upper))
            low = torch.where(inside, torch.minimum(low, side), low)
            high = torch.where(inside, torch.maximum(high, side), high)
    low, high = _pad_slope(function, low, -1), _pad_slope(function, high, 1)
    if function.jumps is not None:
        rise = function.jumps.right > function.jumps.left
        for limit in function.jumps.limits(lower, upper):
            high = torch.where(limit.valid, torch.inf if rise else high, high)
            low = torch.where(limit.valid, low if rise else -torch.inf, low)
    if function.period is not None:
        far = function.far(lower, upper)
        low, high = torch.where(far, function.slope_range[0], low), torch.where(far, function.slope_range[1], high)
    return low.clamp(*function.slope_range), high.clamp(*function.slope_range)


def _pad_slope(function: ScalarFunction, value: Tensor, direction: int) -> Tensor:
    eps = torch.finfo(value.dtype).eps
    charge = (value.abs() * (function.slope_ulps + 1) + function.slope_ulps * function.slope_floor) * eps
    return torch.where(value.isinf(), value, value + direction * (charge + tiny(value.dtype)))


def _edge_slope(function: ScalarFunction, end: Tensor, side: int) -> Tensor:
    """f' at an end of the interval, from inside where the end is a kink."""
    value = function.derivative(end)
    for kink in function.kinks:
        value = torch.where(end == kink, function.side_slopes(kink, end)[side], value)
    return value


def _slope_turns(function: ScalarFunction, lower: Tensor, upper: Tensor) -> list[Tensor]:
    """Smooth breakpoints clamped into the interval: f' is monotone between them."""
    smooth = [p for p in function.breakpoints if p not in function.kinks]
    if function.period is None:
        return [_clamped(function, p, lower, upper) for p in smooth]
    turns = [p + ((lower - p) / function.period).ceil() * function.period for p in smooth]
    return [between(p, lower, upper) for p in turns]


def _clamped(function: ScalarFunction, point: float, lower: Tensor, upper: Tensor) -> Tensor:
    """`point` where it is inside, else the middle: an end that is a kink could show the slope outside."""
    inside = (lower <= point) & (point <= upper)
    return torch.where(inside, torch.full_like(lower, point), middle(lower, upper))


def undecided(function: ScalarFunction, lower: Tensor, upper: Tensor) -> Tensor:
    """Entries whose lines would improve with tighter bounds: a kink or jump inside, or a wide curved stretch."""
    function = function.on(lower, upper)
    if function.chart is not None:
        return scalar_mapped.undecided(function, function.chart, lower, upper)
    result = torch.zeros_like(lower, dtype=torch.bool)
    for kink in function.kinks:
        result |= (lower < kink) & (kink < upper)
    if function.jumps is not None:
        start = function.at(lower)
        for limit in function.jumps.limits(lower, upper):
            result |= limit.valid & (limit.value != start)
        # An end at which a split can set the point of the jump apart.
        result |= (lower < upper) & (function.breaks(lower)[1] | function.breaks(upper)[0])
    if function.piecewise_linear:
        return result
    wide = upper - lower > 1e-6 * (1 + (lower + upper).abs() * 0.5)
    if function.period is not None:
        return wide
    return result | (wide & _curved(function, lower, upper))


def _curved(function: ScalarFunction, lower: Tensor, upper: Tensor) -> Tensor:
    """Intervals that reach into a curved piece."""
    result = torch.zeros_like(lower, dtype=torch.bool)
    points = function.breakpoints
    for piece, bend in enumerate(function.curvature):
        if bend == 0:
            continue
        meets = torch.ones_like(result)
        if piece > 0:
            meets = meets & (upper > points[piece - 1])
        if piece < len(points):
            meets = meets & (lower < points[piece])
        result |= meets
    return result


def _jump_points(
    function: ScalarFunction, jumps: Jumps, ends: tuple[Tensor, Tensor], centre: Tensor
) -> list[tuple[Tensor, Tensor]]:
    """(point, whether it is of use): about the middlemost jump inside, and an end that is a jump with another value."""
    lower, upper = ends
    near = jumps.nearest(centre)
    other = torch.where(near > centre, near - jumps.step, near + jumps.step)  # near may be an end that is left out
    jump = torch.where((lower < near) & (near < upper), near, other)
    at_low, at_high = function.breaks(lower)[1], function.breaks(upper)[0]
    end = torch.where(at_low, lower, upper)
    return [(jump, (lower < jump) & (jump < upper)), (end, (lower < upper) & (at_low | at_high))]


def branch_points(function: ScalarFunction, lower: Tensor, upper: Tensor) -> Tensor:
    """Candidate split points, strictly inside where possible, along a new last axis; duplicates of the first fill up.

    Smooth functions: the midpoint, then kinks, then inflections. Piecewise linear ones: kinks (or the jump nearest to
    the midpoint) that lie inside, the midpoint only where there is none. An end counts where it is a jump whose value
    is not that of the rest: a split there sets it apart.
    """
    centre = middle(lower, upper)
    function = function.on(lower, upper)
    if function.chart is not None:
        return scalar_mapped.branch_points(function, function.chart, lower, upper, centre)
    smooth = [p for p in function.breakpoints if p not in function.kinks]
    points = [torch.full_like(lower, p) for p in (*function.kinks, *smooth)]
    if function.period is not None:
        points = [p + ((centre - p) / function.period).round() * function.period for p in points]
    inside = [(lower < p) & (p < upper) for p in points]
    if function.jumps is not None:
        for jump, useful in _jump_points(function, function.jumps, (lower, upper), centre):
            points.append(jump)
            inside.append(useful)
    if not points:
        return centre.unsqueeze(-1)
    first = centre
    if function.piecewise_linear:
        for point, here in zip(reversed(points), reversed(inside), strict=True):
            first = torch.where(here, point, first)
        columns = []
    else:
        columns = [centre]
    columns += [torch.where(here, p, first) for p, here in zip(points, inside, strict=True)]
    return torch.stack(columns, -1)
