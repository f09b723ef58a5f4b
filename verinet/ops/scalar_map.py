"""Pieces of a function as tables: per channel, found for one range of arguments, and looked up entry by entry.

A function with a map has other pieces in every channel (parameters) or very many (waves). Every interval then visits
only the pieces that it meets: `Band.visits` yields them one after the other. All tables are (channels, places) with the
places in order, padded with +inf; `base` says which channel an entry of the node belongs to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

VISITS = 24
"""Pieces of one kind that an interval looks at; with more it falls back to global bounds of f minus its trend."""


@dataclass(frozen=True)
class Band:
    """Intervals [start, stop] in order, and numbers that belong to each of them, (numbers, channels, places)."""

    start: Tensor
    stop: Tensor
    data: Tensor

    @property
    def size(self) -> int:
        return self.start.shape[1]

    def pick(self, number: int, place: Tensor) -> Tensor:
        """Entry `number` of the data at flat places."""
        return self.data[number].reshape(-1)[place]

    def first(self, x: Tensor, base: Tensor, table: Tensor, equal: bool = False) -> Tensor:
        """How many entries of the row of `table` are below x (or, with `equal`, not above it), by channel."""
        if table.shape[0] == 1:
            return torch.searchsorted(table[0], x.contiguous(), right=equal)
        low = torch.zeros(torch.broadcast_shapes(base.shape, x.shape), dtype=torch.long, device=x.device)
        high = torch.full_like(low, self.size)
        flat, row = table.reshape(-1), base * self.size
        for _ in range(max(self.size, 1).bit_length()):
            middle = (low + high) // 2
            there = flat[row + middle.clamp(max=self.size - 1)]
            below = ((there <= x) if equal else (there < x)) & (middle < high)
            low, high = torch.where(below, middle + 1, low), torch.where(below, high, middle)
        return low

    def window(self, lower: Tensor, upper: Tensor, base: Tensor, closed: bool = False) -> tuple[Tensor, Tensor]:
        """First place that meets (lower, upper), and one past the last; `closed`: that meets [lower, upper]."""
        begin = self.first(lower, base, self.stop, equal=not closed)
        end = self.first(upper, base, self.start, equal=closed)
        return begin, end

    def visits(
        self, ends: tuple[Tensor, Tensor], base: Tensor, most: int, closed: bool = False
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """(flat place, meets) for the first, second, ... interval that an interval `ends` meets; see `window`."""
        if self.size == 0:
            return
        begin, end = self.window(*ends, base, closed)
        count = int((end - begin).max()) if begin.numel() else 0
        for step in range(min(count, most)):
            place = begin + step
            yield base * self.size + place.clamp(max=self.size - 1), place < end

    def crowded(self, lower: Tensor, upper: Tensor, base: Tensor, most: int) -> Tensor | None:
        """Where more than `most` intervals are met; None if nowhere."""
        if self.size <= most:
            return None
        begin, end = self.window(lower, upper, base)
        found = end - begin > most
        return found if bool(found.any()) else None

    def meets(self, lower: Tensor, upper: Tensor, base: Tensor) -> bool:
        """True if any interval is met, not only at an end point."""
        if self.size == 0 or not lower.numel():
            return False
        begin, end = self.window(lower, upper, base)
        return bool((end > begin).any())


VALUE_LOW, VALUE_HIGH, SLOPE_LOW, SLOPE_HIGH = range(4)
SLACK, LEFT, RIGHT, NUMBER = range(4)


@dataclass(frozen=True)
class PieceMap:
    """Everything about a function on a range of arguments, on one device and in one precision.

    curved[+1], curved[-1]: convex and concave pieces (SLACK: how far f' may move in the wrong direction; slopes at ends
    that are kinks, else NaN; the piece's number in `nodes`). corners, extrema, turns: ranges of f and f' on each.
    gaps: where f is undefined. noise: value and slope errors up to each edge. trend: (slope, low, high) by channel with
    low <= f(x) - slope x <= high. nodes, slopes: per piece places and the sorted sign * f' there.
    """

    base: Tensor
    curved: dict[int, Band]
    corners: Band
    extrema: Band
    turns: Band
    gaps: Band
    noise: Band
    trend: Tensor
    wobble: Tensor
    nodes: Tensor
    slopes: Tensor
    bend: int
    coarse: bool
    """True if some corner is wide or a jump: then both its ends, with both extreme values, are candidates."""
    gap: float
    radius: float
    """Width, and half the range of values, of the widest corner where it is not `coarse`."""

    def errors(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Bounds of the errors of the computed f and f' at x."""
        place = self.noise.first(x, self.base, self.noise.start).clamp(max=self.noise.size - 1)
        flat = self.base * self.noise.size + place
        return self.noise.pick(0, flat), self.noise.pick(1, flat)

    def outside(self, lower: Tensor, upper: Tensor) -> bool:
        """True if some interval meets a gap; the end of a gap belongs to what is beside it."""
        return self.gaps.meets(lower, upper, self.base)

    def root(self, slope: Tensor, place: Tensor, sign: int, derivative: Callable[[Tensor], Tensor] | None) -> Tensor:
        """About the x with f'(x) = slope on the piece at a flat place of curved[sign], by a table.

        With a `derivative` two quasi-Newton steps follow, with the slope of the cell of the table.
        """
        size = self.nodes.shape[1]
        row = self.curved[sign].pick(NUMBER, place).long() * size
        wanted, slopes, nodes = slope * sign, self.slopes.reshape(-1), self.nodes.reshape(-1)
        low = torch.zeros(torch.broadcast_shapes(row.shape, wanted.shape), dtype=torch.long, device=slope.device)
        for shift in range((size - 1).bit_length() - 1, -1, -1):
            step = low + (1 << shift)
            low = torch.where((step < size - 1) & (slopes[row + step.clamp(max=size - 1)] < wanted), step, low)
        x0, x1 = nodes[row + low], nodes[row + low + 1]
        s0, s1 = slopes[row + low], slopes[row + low + 1]
        rate = (x1 - x0) / (s1 - s0).clamp(min=torch.finfo(slope.dtype).tiny)
        x = torch.clamp(x0 + ((wanted - s0) * rate).nan_to_num(nan=0.0), x0, x1)
        if derivative is None:
            return x
        for _ in range(2):
            x = torch.clamp(x + ((wanted - sign * derivative(x)) * rate).nan_to_num(nan=0.0), x0, x1)
        return x

    def samples(self, lower: Tensor, upper: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """(x, value, valid) at the corners that an interval meets; `gap` and `radius` bound what they leave out."""
        for place, meets in self.corners.visits((lower, upper), self.base, VISITS):
            values = [self.corners.pick(i, place) for i in (VALUE_LOW, VALUE_HIGH)]
            starts = self.corners.start.reshape(-1)[place], self.corners.stop.reshape(-1)[place]
            ends = [torch.minimum(torch.maximum(x, lower), upper) for x in starts]
            if self.coarse:
                for x in ends:
                    for value in values:
                        yield x, value.expand_as(x), meets
            else:
                yield ends[0], (0.5 * (values[0] + values[1])).expand_as(ends[0]), meets

    def one_sided(self, value: Tensor, x: Tensor, sign: int, place: Tensor | None) -> Tensor:
        """f' at x, replaced by the slope from inside the piece where x is an end of it that is a corner."""
        if place is None:
            return value
        band = self.curved[sign]
        for number, here in (
            (LEFT, x <= band.start.reshape(-1)[place]),
            (RIGHT, x >= band.stop.reshape(-1)[place]),
        ):
            known = band.pick(number, place)
            value = torch.where(here & ~known.isnan(), known, value)
        return value

    def value_charge(self, x: Tensor, slope: Tensor) -> Tensor:
        """Error of the computed f at x, or of a corner that stands for a narrow interval around it."""
        return self.errors(x)[0] + slope.abs() * self.gap + self.radius

    def slope_charge(self, x: Tensor, sign: int, place: Tensor) -> Tensor:
        """Error of the computed f' at x, and what f' may move against the bend of the piece."""
        return self.errors(x)[1] + 2 * self.curved[sign].pick(SLACK, place)

    def trivial(self, sign: int, ends: tuple[Tensor, Tensor], slope: Tensor) -> Tensor:
        """Lower bound of sign * (f - slope x) from the trend of f alone."""
        steep, low, high = (t[self.base] for t in self.trend)
        rest = [sign * (steep - slope) * x for x in ends]
        slide = torch.minimum(rest[0], rest[1])
        level = low if sign > 0 else -high
        eps = torch.finfo(slope.dtype).eps
        size = torch.maximum(ends[0].abs(), ends[1].abs()) * (steep.abs() + slope.abs()) + level.abs()
        bound: Tensor = level + slide - size * (8 * eps)
        return bound

    def trend_slope(self, like: Tensor) -> Tensor:
        """The slope that costs least where an interval is crowded."""
        return self.trend[0][self.base].expand_as(like)

    def crowded(self, ends: tuple[Tensor, Tensor]) -> Tensor | None:
        """Intervals with more pieces or corners than are looked at."""
        found: Tensor | None = None
        for band in (self.curved[1], self.curved[-1], self.corners):
            more = band.crowded(ends[0], ends[1], self.base, VISITS)
            if more is not None:
                found = more if found is None else found | more
        return found

    def ranges(
        self, band: Band, numbers: tuple[int, int], ends: tuple[Tensor, Tensor], closed: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Hull of two data columns over the intervals of a band that are met; (inf, -inf) where none is."""
        shape = torch.broadcast_shapes(ends[0].shape, self.base.shape)
        low = torch.full(shape, torch.inf, dtype=ends[0].dtype, device=ends[0].device)
        high = -low
        for place, meets in band.visits(ends, self.base, max(band.size, 1), closed):
            low = torch.where(meets, torch.minimum(low, band.pick(numbers[0], place)), low)
            high = torch.where(meets, torch.maximum(high, band.pick(numbers[1], place)), high)
        return low, high
