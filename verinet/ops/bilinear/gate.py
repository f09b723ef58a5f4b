"""h(x) * y for a scalar function h: quotients, normalisation, gates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from verinet.ir.graph import Shape
from verinet.numerics.rounding import tiny
from verinet.ops import scalar_lines, scalar_slopes
from verinet.ops.base import Lines, Pulled
from verinet.ops.bilinear.events import summed_event
from verinet.ops.bilinear.faces import Strip, face, lower_plane, upper_plane
from verinet.ops.bilinear.two import PlanesOfTwo
from verinet.ops.scalar_function import ScalarFunction

_STEPS = 14
"""Bisection steps for default slopes."""


@dataclass(frozen=True)
class Gate(PlanesOfTwo):
    """z = h(x) * y with broadcasting; `left` and `right` are the event shapes of x and y.

    A plane that is not dominated touches both faces of y's interval, so its slope in x decides the rest: one parameter
    per side. For h(x) = x this is exactly McCormick's family; otherwise it is tighter than first bounding h and then
    the product (bound_propagation note, section 2.3).

    `limit` is a bound of |z| that the surrounding network guarantees (infinite if there is none).
    Multipliers: two numbers in [0, 1], where the slopes in x stand in the range of d z / d x.
    Lines: (lower x, lower y, lower offset, upper x, upper y, upper offset, four touching points, y_l, y_u, range of the
    slopes, |x|, |y|).

    Raises `DomainError` where the bounds of x leave the domain of h.
    """

    kind: ClassVar[str] = "Gate"
    function: ScalarFunction
    left: Shape
    right: Shape
    limit: float = float("inf")

    def to(self, dtype: torch.dtype, device: torch.device) -> Self:
        return replace(self, function=self.function.to(dtype, device))

    def forward(self, *inputs: Tensor) -> Tensor:
        x, y = self._align(inputs)
        return self.function.at(x) * y

    def _box(self, lowers: Sequence[Tensor], uppers: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        (xl, yl), (xu, yu) = self._align(lowers), self._align(uppers)
        shape = torch.broadcast_shapes(xl.shape, yl.shape)
        return xl.expand(shape), xu.expand(shape), yl.expand(shape), yu.expand(shape)

    def interval(self, lowers: Sequence[Tensor], uppers: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        (xl, yl), (xu, yu) = self._align(lowers), self._align(uppers)
        least, most = scalar_lines.interval(self.function, xl, xu)
        corners = torch.stack(torch.broadcast_tensors(least * yl, least * yu, most * yl, most * yu))
        low, high = corners.amin(0), corners.amax(0)
        eps, small = torch.finfo(low.dtype).eps, tiny(low.dtype)
        low, high = low - low.abs() * eps - small, high + high.abs() * eps + small
        return low.clamp(min=-self.limit), high.clamp(max=self.limit)

    def undecided(self, lowers: Sequence[Tensor], uppers: Sequence[Tensor]) -> tuple[Tensor, ...]:
        (xl, yl), (xu, yu) = self._align(lowers), self._align(uppers)
        wide_x, wide_y = xu - xl > 1e-9 * (1 + xu.abs()), yu - yl > 1e-9 * (1 + yu.abs())
        matters = wide_x & ((yl != 0) | (yu != 0))
        pairs = ((matters, self.left), (wide_x & wide_y, self.right))
        shape = torch.broadcast_shapes(wide_x.shape, wide_y.shape)
        return tuple(summed_event(m.expand(shape).to(xl.dtype), s, self.rank) > 0 for m, s in pairs)

    def _range(self, box: tuple[Tensor, Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Least and greatest d z / d x over the box: slopes outside are dominated."""
        xl, xu, yl, yu = box
        least, most = scalar_slopes.slope_bounds(self.function, xl, xu)
        corners = torch.stack([least * yl, least * yu, most * yl, most * yu])
        corners = torch.nan_to_num(corners, nan=0.0, posinf=1e12, neginf=-1e12)
        return corners.amin(0), corners.amax(0)

    def multipliers(self, lowers: Sequence[Tensor], uppers: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Where the value at the middle of the box is best: concave in the slope, so bisection finds it."""
        xl, xu, yl, yu = box = self._box(lowers, uppers)
        least, most = self._range(box)
        strip, middle = Strip.over(self.function, xl, xu), scalar_slopes.middle(xl, xu)
        found = []
        for ends in ((yl, yu), (-yu, -yl)):
            side = 1 if ends[0] is yl else -1
            start, stop = torch.zeros_like(least), torch.ones_like(least)
            for _ in range(_STEPS):
                share = 0.5 * (start + stop)
                slope = side * (least + share * (most - least))
                touch = face(self.function, strip, ends[0], slope)[1] + face(self.function, strip, ends[1], slope)[1]
                more = (2 * middle > touch) == (side > 0)
                start, stop = torch.where(more, share, start), torch.where(more, stop, share)
            found.append(0.5 * (start + stop))
        return tuple(found)

    def lines(
        self, lowers: Sequence[Tensor], uppers: Sequence[Tensor], multipliers: Sequence[Tensor] | None = None
    ) -> Lines:
        """Sound for any multipliers: they only choose slopes, and the offsets are computed for those."""
        xl, xu, yl, yu = box = self._box(lowers, uppers)
        low, high = self.multipliers(lowers, uppers) if multipliers is None else multipliers
        least, most = self._range(box)
        strip = Strip.over(self.function, xl, xu)
        below = lower_plane(self.function, strip, (yl, yu), least + low * (most - least))
        above = upper_plane(self.function, strip, (yl, yu), least + high * (most - least))
        size_y = torch.maximum(yl.abs(), yu.abs())
        touches = below.touch_low, below.touch_high, above.touch_low, above.touch_high
        return *below[:3], *above[:3], *touches, yl, yu, most - least, strip.size, size_y

    def pull(self, rows: Tensor, lines: Lines) -> Pulled:
        return self._pulled(rows, lines, (lines[13], lines[14]))

    def gradient(self, rows: Tensor, lines: Lines, *inputs: Tensor) -> tuple[Tensor, ...]:
        """a (x - touch) times the range of slopes; the touch is interpolated between the faces, as y stands."""
        x, y = self._align(inputs)
        width = lines[11] - lines[10]
        share = torch.where(width > 0, (y - lines[10]) / torch.where(width > 0, width, torch.ones_like(width)), 0.5)
        low = x - lines[6] * (1 - share) - lines[7] * share
        high = x - lines[8] * (1 - share) - lines[9] * share
        return rows.clamp(min=0) * low * lines[12], rows.clamp(max=0) * high * lines[12]
