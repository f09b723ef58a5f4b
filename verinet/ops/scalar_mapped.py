"""Intervals, slope ranges and splits of functions that have a map (see `scalar_map`); lines are in `scalar_lines`."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from verinet.numerics.rounding import tiny
from verinet.ops.scalar_function import DomainError, ScalarFunction
from verinet.ops.scalar_map import (
    SLACK,
    SLOPE_HIGH,
    SLOPE_LOW,
    VALUE_HIGH,
    VALUE_LOW,
    Band,
    PieceMap,
)

MARKS = 3
"""Corners and inflections that are offered as split points, each."""


def interval(function: ScalarFunction, chart: PieceMap, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """Bounds of f: its values at the ends, and its proved ranges at corners and extrema in between."""
    ends = lower, upper
    low, high = chart.ranges(chart.corners, (VALUE_LOW, VALUE_HIGH), ends)
    turned = chart.ranges(chart.extrema, (VALUE_LOW, VALUE_HIGH), ends)
    low, high = torch.minimum(low, turned[0]), torch.maximum(high, turned[1])
    eps = torch.finfo(lower.dtype).eps
    for x in ends:
        value = function.at(x)
        error = chart.errors(x)[0] + value.abs() * (2 * eps) + tiny(x.dtype)
        low, high = torch.minimum(low, value - error), torch.maximum(high, value + error)
    wobble = chart.wobble[chart.base] * (1 + 4 * eps)
    low, high = low - wobble - low.abs() * eps, high + wobble + high.abs() * eps
    if not bool((torch.isfinite(low) & torch.isfinite(high)).all()):
        raise DomainError(function.name)
    return low.clamp(min=function.bounds[0]), high.clamp(max=function.bounds[1])


def slope_bounds(function: ScalarFunction, chart: PieceMap, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """Bounds of f': at the ends, at corners and inflections in between, and what f' may move against the bend."""
    ends = lower, upper
    # A corner at an end counts: the computed slope there may be that of the other side.
    low, high = chart.ranges(chart.corners, (SLOPE_LOW, SLOPE_HIGH), ends, closed=True)
    turned = chart.ranges(chart.turns, (SLOPE_LOW, SLOPE_HIGH), ends, closed=True)
    low, high = torch.minimum(low, turned[0]), torch.maximum(high, turned[1])
    for x in ends:
        value = function.derivative(x)
        error = chart.errors(x)[1] + value.abs() * (2 * torch.finfo(x.dtype).eps) + tiny(x.dtype)
        low = torch.minimum(low, (value - error).nan_to_num(nan=-torch.inf))
        high = torch.maximum(high, (value + error).nan_to_num(nan=torch.inf))
    slack = torch.zeros_like(low)
    for band in chart.curved.values():
        if band.size:
            _, worst = chart.ranges(band, (SLACK, SLACK), ends, closed=True)
            slack = torch.maximum(slack, worst)
    return (low - slack).clamp(*function.slope_range), (high + slack).clamp(*function.slope_range)


def _inside(chart: PieceMap, band: Band, lower: Tensor, upper: Tensor) -> Tensor:
    """Intervals with an end of a place of the band strictly inside."""
    found = torch.zeros(torch.broadcast_shapes(lower.shape, chart.base.shape), dtype=torch.bool, device=lower.device)
    for place, meets in band.visits((lower, upper), chart.base, band.size):
        start, stop = band.start.reshape(-1)[place], band.stop.reshape(-1)[place]
        found = found | (meets & ((lower < start) | (stop < upper)))
    return found


def undecided(function: ScalarFunction, chart: PieceMap, lower: Tensor, upper: Tensor) -> Tensor:
    """Intervals with a corner inside, or wide and on a curved piece."""
    result = _inside(chart, chart.corners, lower, upper)
    wide = upper - lower > 1e-6 * (1 + (lower + upper).abs() * 0.5)
    for band in chart.curved.values():
        if band.size:
            begin, end = band.window(lower, upper, chart.base)
            result = result | (wide & (end > begin))
    return result


def branch_points(function: ScalarFunction, chart: PieceMap, lower: Tensor, upper: Tensor, centre: Tensor) -> Tensor:
    """The midpoint, and corners and inflections nearest to it; corners only where all pieces are affine."""
    bands = [chart.corners] if function.piecewise_linear else [chart.corners, chart.turns]
    columns: list[tuple[Tensor, Tensor]] = []
    for band in bands:
        if band.size:
            columns += _nearest(chart, band, (lower, upper), centre)
    first = centre
    if function.piecewise_linear:
        for point, here in reversed(columns):
            first = torch.where(here, point, first)
    return torch.stack([first, *(torch.where(here, point, first) for point, here in columns)], -1)


def _nearest(
    chart: PieceMap, band: Band, ends: tuple[Tensor, Tensor], centre: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """(point, strictly inside) for the places of a band that are nearest to the middle of an interval."""
    begin, end = band.window(*ends, chart.base)
    near = band.first(centre, chart.base, band.start)
    sides = [band.start] if torch.equal(band.start, band.stop) else [band.start, band.stop]
    for step in range(-1, min(MARKS, band.size) - 1):
        place = torch.minimum(torch.maximum(near + step, begin), end - 1).clamp(0, band.size - 1)
        for side in sides:
            point = side.reshape(-1)[chart.base * band.size + place]
            yield point, (ends[0] < point) & (point < ends[1])
