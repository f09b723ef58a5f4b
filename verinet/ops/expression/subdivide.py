"""Cells on which the direction and the bending of a function are proved, found by interval bisection.

Cells start as a grid over [-reach, reach] that is even near 0 and geometric beyond. A cell is settled when f'' and f'
keep one sign on it, up to a wrong part whose integral is below rounding; that is the slack charged later. Others are
cut into sixteen, down to a few units in the last place. What is left then is a corner: a kink or a jump, or the edge of
the domain. If the budget ends first, what is left is rough: enclosed, but with unknown shape.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from verinet.ops.expression.intervals import Arithmetic, Array, Interval, Mask, magnitude
from verinet.ops.expression.jets import Cells, Derivative, Jet, last_jet, mean_value_form
from verinet.ops.expression.tape import Tape

Numbers = npt.NDArray[np.int64]

SMOOTH, CORNER, ROUGH, BAD = 0, 1, 2, 3
PARTS = 16
IDLE = 1
"""Cuts that may settle nothing where not even f'' is finite."""
BUDGET, PER_CHANNEL, MOST = 40_000, 1_000, 250_000
"""Cells that may be evaluated: this many, and these for every further channel, at most `MOST`."""


@dataclass
class Settled:
    """Final cells, in order of channel and place. The four last are integrals of f' or f'' with the wrong sign."""

    channel: Numbers
    low: Array
    high: Array
    state: Array
    value_low: Array
    value_high: Array
    slope_low: Array
    slope_high: Array
    convex: Array
    concave: Array
    rising: Array
    falling: Array

    def sorted(self) -> Settled:
        order = np.lexsort((self.low, self.channel))
        return Settled(*(getattr(self, f.name)[order] for f in fields(self)))


@dataclass(frozen=True)
class Problem:
    """A tape with the numbers of its parameters, (channels,) each, the reach of the grid, and the precision."""

    tape: Tape
    rows: tuple[Array, ...]
    channels: int
    reach: float
    arithmetic: Arithmetic

    def cells(self, low: Array, high: Array, channel: Numbers) -> Cells:
        return Cells(low, high, tuple(row[channel] for row in self.rows))


def settle(problem: Problem) -> Settled:
    """Final cells that cover [-reach, reach] in every channel."""
    grid = _grid(problem)
    low, high = (np.tile(part, problem.channels) for part in (grid[:-1], grid[1:]))
    channel = np.repeat(np.arange(problem.channels), grid.size - 1)
    budget = min(BUDGET + PER_CHANNEL * problem.channels, MOST)
    parent, idle = np.arange(low.size), np.zeros(low.size)
    done: list[Settled] = []
    while low.size:
        budget -= low.size
        found, open_ = _judge(problem, low, high, channel)
        idle = _idle(open_, parent, idle)
        final = _smallest(problem.arithmetic, low, high)
        hopeless = (idle > IDLE) & ~(np.isfinite(found.convex) | np.isfinite(found.concave))
        closed = ~open_ | final | hopeless | (open_.sum() * PARTS > budget)
        kind = np.where(final, CORNER, ROUGH)
        found.state[open_ & closed] = np.where(_finite(found), kind, BAD)[open_ & closed]
        done.append(Settled(*(getattr(found, f.name)[closed] for f in fields(found))))
        rest = low[~closed], high[~closed], channel[~closed]
        low, high, channel, parent = _split(problem.arithmetic, *rest)
        idle = idle[~closed][parent]
    parts = [np.concatenate([getattr(d, f.name) for d in done]) for f in fields(Settled)]
    return Settled(*parts).sorted()


def _idle(open_: Mask, parent: Numbers, idle: Array) -> Array:
    """How many cuts in a row have settled nothing: not one of the sixteen parts."""
    parts = np.bincount(parent, minlength=int(parent.max()) + 1)
    still = np.bincount(parent, weights=open_, minlength=parts.size)
    return np.where((still == parts)[parent] & (parts > 1)[parent], idle + 1, 0)


def _finite(found: Settled) -> Mask:
    return np.isfinite(found.value_low) & np.isfinite(found.value_high)


def _grid(problem: Problem) -> Array:
    """Places to start from: eighths of octaves, and the constants of the expression, where kinks are likely."""
    per = 8 if problem.channels <= 32 else 2
    octaves = range(-4, round(math.log2(problem.reach)))
    places = [2.0**e * (1 + k / per) for e in octaves for k in range(per)]
    places += [2.0**-4 * k / per for k in range(per)] + [problem.reach]
    constants = [abs(c) for c in problem.tape.constants if abs(c) < problem.reach][:64]
    parameters = [abs(float(p)) for row in problem.rows if row.size <= 16 for p in row if abs(p) < problem.reach][:64]
    both = np.array([*places, *constants, *parameters], dtype=np.float64)
    return np.unique(problem.arithmetic.rounded(np.concatenate([both, -both])))


def _smallest(arithmetic: Arithmetic, low: Array, high: Array) -> Mask:
    limit = np.maximum(np.maximum(np.abs(low), np.abs(high)) * (4 * arithmetic.eps), arithmetic.eps * 2.0**-12)
    found: Mask = high - low <= limit
    return found


def _split(arithmetic: Arithmetic, low: Array, high: Array, channel: Numbers) -> tuple[Array, Array, Numbers, Numbers]:
    """Sixteen parts of every cell (fewer where they would be empty), and the cell each of them comes from."""
    step = np.arange(PARTS + 1) / PARTS
    points = arithmetic.rounded(low[:, None] + (high - low)[:, None] * step)
    points[:, 0], points[:, -1] = low, high
    left, right = points[:, :-1].ravel(), points[:, 1:].ravel()
    whole = right > left
    parent = np.repeat(np.arange(low.size), PARTS)[whole]
    return left[whole], right[whole], channel[parent], parent


def _judge(problem: Problem, low: Array, high: Array, channel: Numbers) -> tuple[Settled, Mask]:
    """Enclosures of cells, and which of them are still open."""
    cells = problem.cells(low, high, channel)
    jet = last_jet(problem.tape, cells, problem.arithmetic)
    value, first, second = (_filled(d, low) for d in (jet.value, jet.first, jet.second))
    jump = np.zeros_like(low) if jet.jump is None else jet.jump + np.zeros_like(low)
    found = _settled(channel, (low, high), (value, first, second), jump)
    open_ = ~_clear(problem, found, first, second)
    smooth = open_ if jet.broken is None else open_ & ~jet.broken
    if smooth.any():
        tighter = _by_mean_value(problem, cells, jet, np.flatnonzero(smooth))
        first, second = _patched(first, tighter[0], smooth), _patched(second, tighter[1], smooth)
        found = _settled(channel, (low, high), (value, first, second), jump)
        open_ = ~_clear(problem, found, first, second)
    unsure = ~_finite(found)
    for mask in (jet.unsure, jet.void):
        unsure |= np.zeros_like(unsure) if mask is None else mask
    void = np.zeros_like(unsure) if jet.void is None else jet.void + np.zeros_like(unsure)
    # Values beyond any use count as undefined: there is nothing to bound there.
    limit = problem.arithmetic.largest**0.75
    void = void | (value[0] > limit) | (value[1] < -limit)
    found.value_low[unsure], found.value_high[unsure] = -np.inf, np.inf
    found.state[void] = BAD
    return found, (open_ | unsure) & ~void


def _filled(d: Derivative, like: Array) -> Interval:
    if d is None:
        return np.zeros_like(like), np.zeros_like(like)
    return d[0] + np.zeros_like(like), d[1] + np.zeros_like(like)


def _patched(found: Interval, better: Interval, where: Mask) -> Interval:
    low, high = found[0].copy(), found[1].copy()
    low[where], high[where] = better
    return low, high


def _by_mean_value(problem: Problem, cells: Cells, jet: Jet, picked: Numbers) -> tuple[Interval, Interval]:
    """f' and f'' of some cells cut with their mean value forms."""
    some = Cells(cells.low[picked], cells.high[picked], tuple(p[picked] for p in cells.parameters))
    point = problem.arithmetic.rounded(0.5 * some.low + 0.5 * some.high)
    middle = last_jet(problem.tape, Cells(point, point, some.parameters), problem.arithmetic)
    orders = [tuple(end[picked] for end in _filled(d, cells.low)) for d in jet.derivatives]
    half = np.maximum(some.high - point, point - some.low)
    found = [
        mean_value_form(half, (natural[0], natural[1]), _filled(at, point), (rate[0], rate[1]), problem.arithmetic)
        for natural, at, rate in zip(orders, (middle.first, middle.second), orders[1:], strict=False)
    ]
    return found[0], found[1]


def _settled(channel: Numbers, cell: Interval, orders: Sequence[Interval], jump: Array) -> Settled:
    low, high = cell
    value, first, second = orders
    width = (high - low) * (1 + 1e-15)

    def wrong(part: Array) -> Array:
        found = np.maximum(part, 0.0) * width
        return np.where(np.isnan(found), np.inf, found)

    return Settled(
        channel=channel.copy(),
        low=low.copy(),
        high=high.copy(),
        state=np.full(low.shape, SMOOTH),
        value_low=value[0].copy(),
        value_high=value[1].copy(),
        slope_low=first[0].copy(),
        slope_high=first[1].copy(),
        convex=wrong(-second[0]) + jump,
        concave=wrong(second[1]) + jump,
        rising=wrong(-first[0]),
        falling=wrong(first[1]),
    )


def _clear(problem: Problem, found: Settled, first: Interval, second: Interval) -> Mask:
    """Cells with one direction and one way of bending, up to rounding.

    Where f' or f'' is not bounded, no tangent can be charged for rounding: such a cell is cut until it is a corner.
    """
    unit = 64 * problem.arithmetic.eps
    size = magnitude(first)
    bent = np.minimum(found.convex, found.concave) <= unit * (1 + np.where(np.isfinite(size), size, 0.0))
    reach = np.maximum(np.abs(found.value_low), np.abs(found.value_high))
    turned = np.minimum(found.rising, found.falling) <= unit * (1 + np.where(np.isfinite(reach), reach, 0.0))
    clear: Mask = bent & turned & np.isfinite(size) & np.isfinite(magnitude(second))
    return clear
