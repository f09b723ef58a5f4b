"""Elementwise nonlinear operators: one class for every scalar function.

Lines, (lead..., *shape) each: (lower_slope, lower_offset, upper_slope, upper_offset, touch_lower, touch_upper), where a
touch is the minimiser of f(x) - k x for the line's slope k (the maximiser for the upper line): the gradient of the
intercept with respect to k is minus that point (envelope theorem).
Multipliers are the slopes themselves, (k_lower, k_upper); hinges (ReLU, LeakyReLU, |x|) have one, k_lower.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, Self

import torch
from torch import Tensor

from verinet.ops import scalar_lines, scalar_slopes
from verinet.ops.base import Frame, Lines, NonlinearOp, Pulled, event_sum, select
from verinet.ops.scalar_function import DomainError, Jumps, ScalarFunction, beside
from verinet.ops.scalar_hinge import Hinge

__all__ = ["DomainError", "Elementwise", "Jumps", "ScalarFunction"]


@dataclass(frozen=True)
class Elementwise(NonlinearOp):
    """y = f(x) entry by entry. `rank` is the number of event axes, len(shape) of the node.

    Raises `DomainError` where the bounds leave the function's domain or its values overflow.
    """

    kind: ClassVar[str] = "Elementwise"
    function: ScalarFunction
    rank: int

    def to(self, dtype: torch.dtype, device: torch.device) -> Self:
        return replace(self, function=self.function.to(dtype, device))

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function.at(inputs[0])

    @cached_property
    def _hinge(self) -> Hinge | None:
        return None if self.function.hinge is None else Hinge(*self.function.hinge)

    @property
    def is_exact_after_split(self) -> bool:
        """True if splitting at the branch points makes both lines exact in the end: piecewise linear and continuous."""
        return self.function.piecewise_linear and self.function.jumps is None

    def interval(self, lowers: Sequence[Tensor], uppers: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        if self._hinge is not None:
            return self._hinge.interval(lowers[0], uppers[0])
        low, high = scalar_lines.interval(self.function, lowers[0], uppers[0])
        if self.function.deviation:
            low, high = low - self._slack(low, high), high + self._slack(low, high)
        return low, high

    def _slack(self, low: Tensor, high: Tensor) -> Tensor:
        """What the node may differ from the function whose bounds are `low` and `high`."""
        return (1 + torch.maximum(low.abs(), high.abs())) * (self.function.deviation * 1.001)

    def inside(self, bounds: tuple[Tensor, Tensor], opened: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """One float inside where an open end is a jump: in between the function is constant, and lines have room."""
        jumps = self.function.jumps
        if jumps is None or not self.function.flat:
            return bounds
        low, high = bounds
        above, below = beside(low)[1], beside(high)[0]
        low = torch.where(opened[0] & jumps.at(low) & (above <= high), above, low)
        return low, torch.where(opened[1] & jumps.at(high) & (low <= below), below, high)

    def undecided(self, lowers: Sequence[Tensor], uppers: Sequence[Tensor]) -> tuple[Tensor, ...]:
        if self._hinge is not None:
            return (self._hinge.undecided(lowers[0], uppers[0]),)
        return (scalar_slopes.undecided(self.function, lowers[0], uppers[0]),)

    def multipliers(self, lowers: Sequence[Tensor], uppers: Sequence[Tensor]) -> tuple[Tensor, ...]:
        if self._hinge is not None:
            return (self._hinge.default(lowers[0], uppers[0]),)
        function = self.function.on(lowers[0], uppers[0])
        if function.parameters and lowers[0].dim() <= self.rank:
            # Single entries, picked out of the node: their parameters are unknown, and any slope is legal.
            return torch.zeros_like(lowers[0]), torch.zeros_like(lowers[0])
        if function.outside(lowers[0], uppers[0]):
            raise DomainError(function.name)
        return scalar_slopes.default_slopes(function, lowers[0], uppers[0])

    def lines(
        self, lowers: Sequence[Tensor], uppers: Sequence[Tensor], multipliers: Sequence[Tensor] | None = None
    ) -> Lines:
        """Sound for any slopes; those that are not finite are replaced. See the module text for the order."""
        slopes = self.multipliers(lowers, uppers) if multipliers is None else multipliers
        return self.framed_lines(Frame(lowers, uppers), slopes)

    def framed_lines(self, frame: Frame, multipliers: Sequence[Tensor]) -> Lines:
        lower, upper = frame.lowers[0], frame.uppers[0]
        if self._hinge is not None:
            if "hinge" not in frame.kept:
                frame.kept["hinge"] = self._hinge.frame(lower, upper)
            return self._hinge.lines(frame.kept["hinge"], multipliers[0])
        function, known, slack = self._prepared(frame)
        result: list[Tensor] = []
        touches: list[Tensor] = []
        for sign, slope in zip((1, -1), multipliers, strict=True):
            slope = scalar_lines.usable(slope, torch.zeros_like(slope))
            offset, touch = scalar_lines.intercept(function, sign, (lower, upper), slope, known)
            result += [slope.expand_as(offset), offset]
            touches.append(touch)
        if not bool((torch.isfinite(result[1]) & torch.isfinite(result[3])).all()):
            raise DomainError(function.name)
        if slack is not None:
            result[1], result[3] = result[1] - slack, result[3] + slack
        if function.flat:
            result[1], result[3] = result[1] - _room(result[0], frame), result[3] + _room(result[2], frame)
        return *result, *touches

    def _prepared(self, frame: Frame) -> tuple[ScalarFunction, list[scalar_lines.Sample], Tensor | None]:
        """The function on these bounds, its values at the points that serve every slope, and its deviation."""
        if "samples" not in frame.kept:
            lower, upper = frame.lowers[0], frame.uppers[0]
            function = self.function.on(lower, upper)
            if function.outside(lower, upper):
                raise DomainError(function.name)
            slack = self._slack(*scalar_lines.interval(function, lower, upper)) if function.deviation else None
            frame.kept["samples"] = function, scalar_lines.samples(function, lower, upper), slack
        found: tuple[ScalarFunction, list[scalar_lines.Sample], Tensor | None] = frame.kept["samples"]
        return found

    def pull(self, rows: Tensor, lines: Lines) -> Pulled:
        if self._hinge is not None:
            return self._hinge.pull(rows, lines, self.rank)
        offset = rows * select(rows, lines[1], lines[3])
        size = event_sum(offset.abs(), self.rank)
        return Pulled((rows * select(rows, lines[0], lines[2]),), event_sum(offset, self.rank), size)

    def push(self, rows: Tensor, lines: Lines, *inputs: Tensor) -> Tensor:
        if self._hinge is not None:
            return self._hinge.push(rows, lines, inputs[0])
        return select(rows, lines[0], lines[2]) * inputs[0] + select(rows, lines[1], lines[3])

    def gradient(self, rows: Tensor, lines: Lines, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Of row . (k x + b(k)): a+ (x - touch_lower) and a- (x - touch_upper), a = a+ + a- the coefficient."""
        if self._hinge is not None:
            return self._hinge.gradient(rows, lines, inputs[0])
        return rows.clamp(min=0) * (inputs[0] - lines[4]), rows.clamp(max=0) * (inputs[0] - lines[5])

    def project(
        self, multipliers: Sequence[Tensor], lowers: Sequence[Tensor], uppers: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        return self.framed_project(Frame(lowers, uppers), multipliers)

    def framed_project(self, frame: Frame, multipliers: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Slopes outside the range of f' are dominated; above a convex (below a concave) function the chord is best."""
        if self._hinge is not None:
            return (self._hinge.project(multipliers[0]),)
        least, most, *straight = self._framed_slopes(frame)
        result = [torch.clamp(m, least, most) for m in multipliers]
        if straight:
            side = 1 if self.function.on(frame.lowers[0], frame.uppers[0]).bend > 0 else 0
            result[side] = straight[0].expand_as(result[side])
        return tuple(result)

    def framed_spans(self, frame: Frame) -> Sequence[Tensor] | None:
        """The width of the range of f': a sigmoid's is at most 1/4, where steps of that size jump from end to end."""
        if self._hinge is not None:
            return None
        least, most = self._framed_slopes(frame)[:2]
        span = (most - least).nan_to_num(nan=1.0, posinf=1.0).clamp(1e-6, 1e6)
        return span, span

    def _framed_slopes(self, frame: Frame) -> tuple[Tensor, ...]:
        if "slopes" not in frame.kept:
            frame.kept["slopes"] = self._useful_slopes(frame.lowers[0], frame.uppers[0])
        found: tuple[Tensor, ...] = frame.kept["slopes"]
        return found

    def _useful_slopes(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, ...]:
        """Least and greatest slope of f; with one bend only, that of the chord too."""
        function = self.function.on(lower, upper)
        bounds = scalar_slopes.slope_bounds(function, lower, upper)
        return (*bounds, scalar_slopes.chord(function, lower, upper)) if function.bend else bounds

    def slopes(self, lines: Lines) -> tuple[Sequence[Tensor], Tensor, Sequence[Tensor], Tensor] | None:
        """One slope per side; see the base class."""
        return lines[0:1], lines[1], lines[2:3], lines[3]

    def branch_points(self, lower: Tensor, upper: Tensor) -> Tensor:
        """Candidate split points of the input along a new last axis; see `scalar_slopes.branch_points`."""
        return scalar_slopes.branch_points(self.function, lower, upper)

    def slope_bounds(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Rigorous least and greatest slope of f over each interval."""
        return scalar_slopes.slope_bounds(self.function, lower, upper)

    def breaks(self, point: Tensor) -> tuple[Tensor, Tensor]:
        """See `ScalarFunction.breaks`."""
        return self.function.breaks(point)


def _room(slope: Tensor, frame: Frame) -> Tensor:
    """What a line of this slope can move between an end of the interval and the next float outside; see `inside`."""
    size, far = torch.finfo(slope.dtype), torch.maximum(frame.lowers[0].abs(), frame.uppers[0].abs())
    return slope.abs() * (far * (2 * size.eps) + size.tiny)
