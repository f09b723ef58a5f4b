"""Charts of all channels as the tables that bounds are computed from, with every number rounded to the safe side."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import count

import numpy as np
import torch
from torch import Tensor

from verinet.ops.expression.intervals import Array
from verinet.ops.expression.pieces import Chart, Noise, Row, at_points, charts, noises
from verinet.ops.expression.subdivide import BAD, ROUGH, Problem, Settled, settle
from verinet.ops.scalar_map import Band, PieceMap

NODES, LEAST, MOST = 2**18, 48, 1536
"""Places in all slope tables together, and in one table at least and at most."""
GAUGE = 1024
"""A corner is narrow if it has at most this many units in the last place."""

Derivative = Callable[[Array, Array], Array]
"""f' at places (pieces, nodes) of channels (pieces,); need not be exact."""


def chart_map(problem: Problem, base: Tensor, derivative: Derivative, like: Tensor) -> PieceMap:
    """The map of a function over [-reach, reach], on the device and in the type of `like`."""
    settled = settle(problem)
    found, wrong = charts(problem, settled), noises(problem, settled)
    sides = [_with_sides(problem, found, sign) for sign in (1, -1)]
    numbered = _numbered(sides)
    nodes, slopes = _tables(sides, derivative)
    corners = [chart.corners for chart in found]
    gap, radius, coarse = _corner_sizes(problem, corners)
    make = _Maker(like, problem.arithmetic.eps)
    return PieceMap(
        base=base.to(like.device),
        curved={1: make.band(numbered[0], ()), -1: make.band(numbered[1], ())},
        corners=make.band(corners, (0, 1, 2, 3)),
        extrema=make.band([chart.extrema for chart in found], (0, 1, 2, 3)),
        turns=make.band([chart.turns for chart in found], (0, 1, 2, 3)),
        gaps=make.band([chart.gaps for chart in found], ()),
        noise=make.band([_steps(n) for n in wrong], ()),
        trend=make.tensor(_trends(problem, settled)),
        wobble=make.tensor([chart.wobble for chart in found]),
        nodes=make.tensor(nodes),
        slopes=make.tensor(slopes),
        bend=_bend(found, settled),
        coarse=coarse,
        gap=gap,
        radius=radius,
    )


def _numbered(sides: Sequence[Sequence[Sequence[Row]]]) -> list[list[list[Row]]]:
    """Every piece with its number at the end: first all convex ones, channel by channel, then the concave ones."""
    counter = count()
    return [[[(*row, float(next(counter))) for row in channel] for channel in side] for side in sides]


class _Maker:
    """Padded tensors from lists; numbers that are bounds are moved outward where the type rounds them."""

    def __init__(self, like: Tensor, eps: float) -> None:
        self.like, self.eps = like, eps

    def tensor(self, data: object) -> Tensor:
        return torch.as_tensor(np.asarray(data, dtype=np.float64)).to(self.like.device, self.like.dtype)

    def band(self, rows: Sequence[Sequence[Row]], outward: tuple[int, ...]) -> Band:
        """`outward` names the data columns that are lower (even) and upper (odd) bounds."""
        size = max((len(channel) for channel in rows), default=0)
        width = max((len(row) for channel in rows for row in channel), default=2)
        table = np.full((width, len(rows), size), np.inf)
        for c, channel in enumerate(rows):
            for i, row in enumerate(channel):
                table[:, c, i] = row
        table[2:][np.isinf(table[2:]) & np.isinf(table[0])] = 0.0
        for column in outward:
            if column + 2 < width:
                table[column + 2] += (1 if column % 2 else -1) * self.eps * np.abs(table[column + 2])
        made = self.tensor(table)
        return Band(made[0].contiguous(), made[1].contiguous(), made[2:].contiguous())


def _steps(noise: Noise) -> list[Row]:
    return [
        (float(e), float(e), float(v), float(s)) for e, v, s in zip(noise.edges, noise.value, noise.slope, strict=True)
    ]


def _with_sides(problem: Problem, found: Sequence[Chart], sign: int) -> list[list[Row]]:
    """Pieces as (start, stop, slack, slope at a left corner, slope at a right corner); NaN where there is none."""
    result: list[list[Row]] = []
    for channel, chart in enumerate(found):
        starts, stops = {row[1] for row in chart.corners}, {row[0] for row in chart.corners}
        pieces = chart.convex if sign > 0 else chart.concave
        lefts = _side_slopes(problem, [p[0] for p in pieces], channel, 1.0)
        rights = _side_slopes(problem, [p[1] for p in pieces], channel, -1.0)
        rows: list[Row] = []
        for (start, stop, slack), left, right in zip(pieces, lefts, rights, strict=True):
            one = left if start in starts else (math.nan, 0.0)
            two = right if stop in stops else (math.nan, 0.0)
            rows.append((start, stop, slack + one[1] + two[1], one[0], two[0]))
        result.append(rows)
    return result


def _side_slopes(problem: Problem, places: Sequence[float], channel: int, side: float) -> list[tuple[float, float]]:
    """One-sided slopes and how far they may be off; NaN where they are infinite."""
    if not places:
        return []
    point = np.array(places)
    _, (low, high) = at_points(problem, point, np.full(point.shape, channel), side)
    middle, radius = 0.5 * (low + high), 0.5 * (high - low)
    good = np.isfinite(middle)
    radius = radius + np.abs(middle) * problem.arithmetic.eps
    return [(float(m), float(r)) if g else (math.nan, 0.0) for m, r, g in zip(middle, radius, good, strict=True)]


def _tables(sides: Sequence[Sequence[Sequence[Row]]], derivative: Derivative) -> tuple[Array, Array]:
    """Places that crowd near the ends of every piece and near 0, and sign * f' there, sorted."""
    rows = [
        (row, c, sign) for sign, side in zip((1, -1), sides, strict=True) for c, part in enumerate(side) for row in part
    ]
    if not rows:
        return np.zeros((1, 2)), np.zeros((1, 2))
    size = max(LEAST, min(MOST, NODES // len(rows))) // 3
    start, stop = (np.array([row[i] for row, _, _ in rows])[:, None] for i in (0, 1))
    t = np.linspace(0.0, 1.0, size)
    curled = [np.arcsinh(16 * end) for end in (start, stop)]
    parts = [
        start + (stop - start) * t,
        start + (stop - start) * (1 - np.cos(math.pi * t)) / 2,
        np.sinh(curled[0] + (curled[1] - curled[0]) * t) / 16,
    ]
    nodes = np.sort(np.clip(np.concatenate(parts, 1), start, stop), 1)
    sign = np.array([s for _, _, s in rows])[:, None]
    found = derivative(nodes, np.array([c for _, c, _ in rows])) * sign
    return nodes, np.maximum.accumulate(np.nan_to_num(found, nan=-np.inf), 1)


def _corner_sizes(problem: Problem, corners: Sequence[Sequence[Row]]) -> tuple[float, float, bool]:
    """Largest width and half range of values; and whether that is more than a few units in the last place."""
    rows = [row for channel in corners for row in channel]
    gap = max((row[1] - row[0] for row in rows), default=0.0)
    radius = max((0.5 * (row[3] - row[2]) for row in rows), default=0.0)
    unit = GAUGE * problem.arithmetic.eps
    coarse = any(
        row[1] - row[0] > unit * max(abs(row[0]), 1e-3) or row[3] - row[2] > unit * (1 + abs(row[2])) for row in rows
    )
    rounding = max((abs(row[2]) for row in rows), default=0.0) * 4 * problem.arithmetic.eps
    return (0.0, 0.0, True) if coarse else (gap * 1.01, radius * 1.01 + rounding, False)


def _trends(problem: Problem, settled: Settled) -> Array:
    """Per channel the slope of f from end to end and the range of f minus that line, where f is defined."""
    good = settled.state != BAD
    slopes = np.zeros(problem.channels)
    for channel in range(problem.channels):
        mine = np.flatnonzero(good & (settled.channel == channel))
        if mine.size:
            a, b = mine[0], mine[-1]
            rise = 0.5 * (settled.value_low[b] + settled.value_high[b] - settled.value_low[a] - settled.value_high[a])
            found = rise / max(settled.high[b] - settled.low[a], 1e-300)
            slopes[channel] = problem.arithmetic.rounded(np.array(found)) if np.isfinite(found) else 0.0
    how = problem.arithmetic
    cell = np.where(good, settled.low, 0.0), np.where(good, settled.high, 0.0)
    value = np.where(good, settled.value_low, 0.0), np.where(good, settled.value_high, 0.0)
    line = -slopes[settled.channel]
    rest = how.add(value, how.mul(cell, (line, line)))
    low, high = np.full(problem.channels, np.inf), np.full(problem.channels, -np.inf)
    np.minimum.at(low, settled.channel[good], rest[0][good])
    np.maximum.at(high, settled.channel[good], rest[1][good])
    low, high = np.where(np.isinf(low), -np.inf, low), np.where(np.isinf(high), np.inf, high)
    return np.stack([slopes, low - np.abs(low) * how.eps, high + np.abs(high) * how.eps])


def _bend(found: Sequence[Chart], settled: Settled) -> int:
    """+1 or -1 if every channel is one smooth convex, or concave, piece."""
    if any(chart.corners or chart.gaps or chart.turns for chart in found) or bool((settled.state == ROUGH).any()):
        return 0
    if all(len(chart.convex) == 1 and not chart.concave for chart in found):
        return 1
    return -1 if all(len(chart.concave) == 1 and not chart.convex for chart in found) else 0
