"""Slope sectors [a, b] of scalar functions: every secant between two points of an interval has its slope in them.

The slope of a secant is a mean of slopes in between, so rigorous bounds of f' (and of the one-sided slopes at kinks)
over the interval, or over the whole line, are a sector. Jumps and infinite slopes have none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor
from verinet.solvers.lipschitz.tails import START, tail_slopes

from verinet.errors import ModelError
from verinet.numerics.rounding import tiny
from verinet.ops.expression.composed import ComposedFunction
from verinet.ops.expression.intervals import F64, Interval
from verinet.ops.expression.jets import Cells, last_jet, mean_value_form
from verinet.ops.expression.tape import Tape
from verinet.ops.scalar import DomainError, Elementwise
from verinet.ops.scalar_function import ScalarFunction
from verinet.ops.scalar_slopes import slope_bounds

_REACH = 64.0
"""Where the tails of a composed function begin: one of the ranges for which it finds its pieces."""
_CELLS = 32
"""Cells per doubling of the argument beyond it."""
_SPREAD = 64.0
"""Slopes of a function recognised from parts with rounded constants: this times its `deviation`.

The constants are off by a relative d, which moves f by at most about d sup |x f'| / (1 + |f|) and f' by about
d sup (|x f''| + |f'|). For every recognised form the second is at most a few times the first (a test measures it), and
`deviation` is four times the first.
"""


@dataclass(frozen=True, slots=True)
class Hinge:
    """f(t) = middle * t + half * |t|, with the rounding of both numbers. All tensors broadcast to the node's shape."""

    middle: Tensor
    half: Tensor
    middle_error: Tensor
    half_error: Tensor


def sector(op: Elementwise, lower: Tensor | None, upper: Tensor | None, shape: tuple[int, ...], name: str) -> Sector:
    """Sector of every entry of an elementwise node, over [lower, upper] (shape of the node) or the whole line.

    Raises `ModelError` naming the node where there is no finite one.
    """
    function = _continuous(op.function)
    low, high = _domain(function, lower, upper, shape)
    try:
        least, most = _slopes(function, low, high)
    except DomainError as error:
        raise _no_sector(function, name, lower is None) from error
    if not bool((torch.isfinite(least) & torch.isfinite(most)).all()):
        raise _no_sector(function, name, lower is None)
    return Sector(least.expand(shape).contiguous(), most.expand(shape).contiguous())


@dataclass(frozen=True, slots=True)
class Sector:
    """`low` <= slope <= `high`, entry by entry; equal where the slope is one known number."""

    low: Tensor
    high: Tensor

    def disc(self) -> tuple[Tensor, Tensor]:
        """(centre, radius) with [centre - radius, centre + radius] around [low, high]; radius 0 where they are equal.

        Both are exact as they stand: rounding goes outward into the radius.
        """
        centre = 0.5 * self.low + 0.5 * self.high
        radius = torch.maximum(self.high - centre, centre - self.low)
        padded = radius + (radius + self.low.abs() + self.high.abs()) * torch.finfo(radius.dtype).eps
        radius = torch.where(_coarse(self.low) & _coarse(self.high), radius, padded)
        return centre, torch.where(self.low == self.high, torch.zeros_like(radius), radius)

    def largest(self) -> float:
        """The largest |slope| of all entries."""
        sizes = torch.maximum(self.low.abs(), self.high.abs())
        return float(sizes.max()) if sizes.numel() else 0.0


def _coarse(value: Tensor) -> Tensor:
    """True for multiples of 2**-30 below 2**10: sums and halves of two of them round nothing."""
    return ((value * 2.0**30).frac() == 0) & (value.abs() < 2.0**10)


def _continuous(function: ScalarFunction) -> ScalarFunction:
    """Without a jump of height zero (ThresholdedRelu at 0)."""
    jumps = function.jumps
    if jumps is None or jumps.step or jumps.left != jumps.right:
        return function
    return replace(function, jumps=None)


def _domain(
    function: ScalarFunction, lower: Tensor | None, upper: Tensor | None, shape: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    """The interval to look at: the given one, or the whole domain."""
    if lower is None or upper is None:
        ends = (torch.full(shape, end, dtype=torch.float64) for end in function.domain)
        low, high = ends
        return low, high
    low, high = lower, upper
    if function.deviation:
        # A kink or turning point of the parts may be off by as much.
        low, high = (
            low - (1 + low.abs()) * (_SPREAD * function.deviation),
            high + (1 + high.abs()) * (_SPREAD * function.deviation),
        )
    elif any(kink != 0 for kink in function.kinks):
        # A kink that is a rounded number may lie an ulp further out than it says.
        pad = 8 * torch.finfo(low.dtype).eps
        low, high = low - low.abs() * pad, high + high.abs() * pad
    return low.clamp(min=function.domain[0]), high.clamp(max=function.domain[1])


def _slopes(function: ScalarFunction, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Bounds of f'; where infinite ends have no computable slope the global range of the record is used."""
    if isinstance(function, ComposedFunction) and bool((low.isinf() | high.isinf()).any()):
        least, most = _everywhere(function, low.shape)
    else:
        least, most = slope_bounds(function, low, high)
    least = torch.where(least.isnan(), torch.full_like(least, function.slope_range[0]), least)
    most = torch.where(most.isnan(), torch.full_like(most, function.slope_range[1]), most)
    if function.deviation:
        size = torch.maximum(least.abs(), most.abs()) + 1
        return least - size * (_SPREAD * function.deviation), most + size * (_SPREAD * function.deviation)
    if function.slope_ulps == 0 and type(function) is ScalarFunction and function.chart is None:
        # Slopes are computed without error: what is within the underflow pad of 0 is 0.
        least, most = (torch.where(s.abs() <= 4 * tiny(s.dtype), torch.zeros_like(s), s) for s in (least, most))
    return least, most


def _everywhere(function: ComposedFunction, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Bounds of f' on the whole line for a function given by a tape: pieces near 0, cells, then the tails.

    Infinite where the tails are not settled.
    """
    tape, channels = function.tape, function.channels
    everything = torch.full(shape, torch.inf, dtype=torch.float64)
    if tape is None or channels is None:
        return -everything, everything
    least, most = slope_bounds(function, -everything.clamp(max=_REACH), everything.clamp(max=_REACH))
    rows = [tuple(float(row[c]) for row in channels.rows) for c in range(channels.count)]
    far = np.array([_far_slopes(function, tape, row) for row in rows])
    below, above = (torch.from_numpy(far[:, end].copy())[channels.base].expand(shape) for end in (0, 1))
    return torch.minimum(least, below), torch.maximum(most, above)


def _far_slopes(function: ComposedFunction, tape: Tape, parameters: tuple[float, ...]) -> tuple[float, float]:
    """Bounds of f' for |x| >= _REACH: interval arithmetic on growing cells, then powers of x (see `tails`)."""
    steps = int(np.ceil(np.log2(START / _REACH))) * _CELLS
    edges = _REACH * 2.0 ** (np.arange(steps + 1) / _CELLS)
    edges[-1] = START
    lows, highs = [], []
    for low, high in ((edges[:-1], edges[1:]), (-edges[1:], -edges[:-1])):
        found = _cell_slopes(function, tape, Cells(low, high, tuple(np.full(low.shape, p) for p in parameters)))
        lows.append(float(np.min(found[0])))
        highs.append(float(np.max(found[1])))
    for side in (-1, 1):
        tail = tail_slopes(tape, parameters, side)
        lows.append(tail[0])
        highs.append(tail[1])
    if any(math.isnan(end) for end in (*lows, *highs)):
        return -math.inf, math.inf
    return min(lows), max(highs)


def _cell_slopes(function: ComposedFunction, tape: Tape, cells: Cells) -> Interval:
    """Enclosures of f' over cells; by the mean value form, too, where f has no kink inside."""
    jet = last_jet(tape, cells, F64)
    if jet.unsure is not None and bool(jet.unsure.any()):
        raise DomainError(function.name)
    nothing = np.zeros_like(cells.low), np.zeros_like(cells.low)
    first, second = (nothing if d is None else d for d in (jet.first, jet.second))
    middle = 0.5 * cells.low + 0.5 * cells.high
    here = last_jet(tape, Cells(middle, middle, cells.parameters), F64).first or nothing
    half = np.maximum(cells.high - middle, middle - cells.low)
    cut = mean_value_form(half, first, here, second, F64)
    broken = np.zeros(cells.low.shape, dtype=bool) if jet.broken is None else jet.broken
    low, high = (np.where(broken, plain, better) for plain, better in zip(first, cut, strict=True))
    return np.where(np.isnan(low), -np.inf, low), np.where(np.isnan(high), np.inf, high)


def _no_sector(function: ScalarFunction, name: str, everywhere: bool) -> ModelError:
    if function.jumps is not None:
        reason, hint = "it jumps", "a network with a jump has no Lipschitz constant; a box that avoids the jump has one"
    elif everywhere:
        reason, hint = "its slope is not bounded on the whole line", "give a region: bounds over a box may exist"
    else:
        reason = "its slope is not bounded on the values that the region allows"
        hint = "use a smaller region that keeps the input of this node away from the steep point"
    return ModelError(f"'{function.name}' has no finite slope here: {reason}", where=f"node '{name}'", hint=hint)


def hinge_slopes(function: ScalarFunction) -> tuple[Tensor, Tensor] | None:
    """(slope below 0, slope above 0) if the function is exactly n x below 0 and p x above, else None."""
    function = _continuous(function)
    if function.deviation or function.jumps is not None or function.period is not None:
        return None
    if function.kinks != (0.0,) or function.curvature != (0, 0) or function.breakpoints != (0.0,):
        return None
    probe = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)
    sides = [function.derivative(p) for p in (probe[0], probe[2])]
    values = [function.at(p) for p in probe]
    through = bool((values[1] == 0).all()) and bool((values[0] == -sides[0]).all())
    if not through or not bool((values[2] == sides[1]).all()):
        return None
    return sides[0], sides[1]


def hinge(slopes: tuple[Tensor, Tensor], lower: Tensor | None, upper: Tensor | None, shape: tuple[int, ...]) -> Hinge:
    """n t below 0 and p t above as middle * t + half * |t|; linear where the sign of t is known."""
    below, above = (s.expand(shape) for s in slopes)
    middle, half = 0.5 * below + 0.5 * above, 0.5 * above - 0.5 * below
    middle_error, half_error = _half_errors(below, above)
    if lower is not None and upper is not None:
        up, down = lower >= 0, upper <= 0
        known = up | down
        middle = torch.where(up, above, torch.where(down, below, middle))
        zero = torch.zeros_like(half)
        half = torch.where(known, zero, half)
        middle_error, half_error = torch.where(known, zero, middle_error), torch.where(known, zero, half_error)
    return Hinge(middle, half, middle_error, half_error)


def _half_errors(below: Tensor, above: Tensor) -> tuple[Tensor, Tensor]:
    """Rounding of (n + p) / 2 and (p - n) / 2: none for the usual slopes, as rational arithmetic tells."""
    pairs = torch.stack([below.reshape(-1), above.reshape(-1)], 1)
    unique, inverse = torch.unique(pairs, dim=0, return_inverse=True)
    sums, differences = [], []
    for n, p in unique.tolist():
        exact = Fraction(n), Fraction(p)
        size = (abs(n) + abs(p)) * 2.0**-52
        sums.append(0.0 if Fraction(0.5 * n + 0.5 * p) * 2 == exact[0] + exact[1] else size)
        differences.append(0.0 if Fraction(0.5 * p - 0.5 * n) * 2 == exact[1] - exact[0] else size)
    errors = torch.tensor([sums, differences], dtype=torch.float64)
    found = errors[:, inverse].reshape(2, *below.shape)
    return found[0], found[1]
