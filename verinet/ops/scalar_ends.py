"""Slopes of lines through an end of the curve: what CROWN takes where a function bends both ways.

Zhang et al. 2018, section 3.2 and appendix: below an S-shaped curve the tangent that meets it at the concave end, above
it the one that meets it at the convex end. With both ends in concave pieces (below; convex ones above) one tangent
between the touching points of those from either end, as for GELU in Shi et al. 2025.
"""

from __future__ import annotations

import torch
from torch import Tensor

from verinet.ops.scalar_function import ScalarFunction
from verinet.ops.scalar_lines import samples, usable
from verinet.ops.scalar_slopes import chord, lowest

_ROUNDS = 40
"""Most steps towards a touching point. They converge like Newton's, but only like 3^(-n/2) near an inflection."""

Pair = tuple[Tensor, Tensor]


def end_slopes(function: ScalarFunction, lower: Tensor, upper: Tensor, default: Pair) -> Pair | None:
    """Slopes (lower line, upper line) through ends where that is usual, `default` elsewhere; None if nowhere.

    Not rigorous, as no slope has to be: intercepts are computed for whatever slope is asked for.
    """
    function = function.on(lower, upper)
    if function.bend or function.piecewise_linear or function.jumps is not None:
        return None
    if function.chart is not None or function.parameters:
        return None
    bends = _bend_at(function, lower, True), _bend_at(function, upper, False)
    return (
        _one_side(function, 1, (lower, upper), bends, default[0]),
        _one_side(function, -1, (lower, upper), (-bends[0], -bends[1]), default[1]),
    )


def _bend_at(function: ScalarFunction, x: Tensor, right: bool) -> Tensor:
    """Sign of the curvature just right (or left) of x."""
    points = torch.tensor(function.breakpoints, dtype=x.dtype, device=x.device)
    signs = torch.tensor(function.curvature, dtype=x.dtype, device=x.device)
    if function.period is None:
        return signs[torch.bucketize(x.contiguous(), points, right=right)]
    first = function.breakpoints[0]
    reduced = x - ((x - first) / function.period).floor() * function.period
    return signs[(torch.bucketize(reduced.contiguous(), points, right=right) - 1) % len(signs)]


def _one_side(function: ScalarFunction, sign: int, ends: Pair, bends: Pair, default: Tensor) -> Tensor:
    """The slope below sign * f (times sign); `bends` are those of sign * f at the ends."""
    left, right = bends[0] < 0, bends[1] < 0
    slope = default
    one = torch.nonzero(left ^ right, as_tuple=True)
    if one[0].numel():
        slope = slope.index_put(one, _through(function, sign, _picked(ends, one), right[one])[0])
    both = torch.nonzero(left & right, as_tuple=True)
    if both[0].numel():
        slope = slope.index_put(both, _between(function, sign, _picked(ends, both), default[both]))
    return slope


def _picked(ends: Pair, entries: tuple[Tensor, ...]) -> Pair:
    return ends[0][entries], ends[1][entries]


def _between(function: ScalarFunction, sign: int, ends: Pair, default: Tensor) -> Tensor:
    """The tangent halfway between the touching points from either end; `default` where there is no convex piece."""
    from_low, from_high = (
        _through(function, sign, ends, torch.full_like(default, side, dtype=torch.bool))[1] for side in (False, True)
    )
    inside = (from_high > ends[0]) & (from_low < ends[1])
    return torch.where(inside, usable(function.derivative((from_low + from_high) * 0.5), default), default)


def _through(function: ScalarFunction, sign: int, ends: Pair, high: Tensor) -> Pair:
    """The line through one end (the upper one where `high`) below sign * f: its slope, and where it touches.

    From the chord: the lowest point of the curve over the line is the next point that the line goes through, until no
    point is below it (Dinkelbach 1967, for the greatest or least ratio of rise to run).
    """
    known = samples(function, *ends)
    slope = chord(function, *ends)
    end, touch = torch.where(high, ends[1], ends[0]), torch.where(high, ends[0], ends[1])
    level = torch.where(high, known[1].value, known[0].value)
    noise = (level.abs() + function.error_floor) * (64 * torch.finfo(slope.dtype).eps)
    for _ in range(_ROUNDS):
        sample, least = lowest(function, sign, ends, slope, known)
        run = end - sample.x
        below = (least < sign * (level - slope * end) - noise) & (run != 0)
        if not bool(below.any()):
            break
        rise = (level - sample.value) / torch.where(below, run, torch.ones_like(run))
        slope = torch.where(below, usable(rise, slope), slope)
        touch = torch.where(below, sample.x, touch)
    return slope, touch
