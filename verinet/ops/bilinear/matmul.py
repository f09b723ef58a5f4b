"""The product of two variable matrices, relaxed without a tensor per scalar product and row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from verinet.ir.graph import Shape, total
from verinet.numerics.rounding import gamma, tiny
from verinet.ops.base import Lines, NonlinearOp, Pulled, event_sum
from verinet.ops.bilinear.events import aligned_event, summed_event
from verinet.ops.bilinear.tilts import Sides, Tilts, halved, place_in, product, tilts_of, times_x, times_y

_FULL = 512
"""Largest number of scalar products for which every one of them gets its own multiplier (a little tighter, dearer)."""
_EXACT = 128
"""Longest inner axis along which intervals of the scalar products are added up one by one."""


@dataclass(frozen=True)
class MatMulTwo(NonlinearOp):
    """z = x @ y over the last two axes, the others broadcast; `left` and `right` are event shapes of rank >= 2.

    With centres c and radii d, every scalar product has the planes (McCormick 1976, in the coordinates of the boxes)
        x y >= (cy + rho dy) x + (cx + rho dx) y - cx cy - rho (cx dy + cy dx) - dx dy,
        x y <= (cy + sigma dy) x + (cx - sigma dx) y - cx cy - sigma (cx dy - cy dx) + dx dy
    for any rho, sigma in [-1, 1], because (s - rho)(t - rho) - rho^2 >= -1 and its mirror image hold on [-1, 1]^2.
    Summed over k with a row's coefficients, everything is a matrix product of the row with centres and radii.

    Lines: (cx, dx, cy, dy, cx @ cy, dx @ dy with all rounding, *tilts); no tilts stand for rho = sigma = 0.
    Multipliers: the tilts, see `verinet.ops.bilinear.tilts`.
    """

    kind: ClassVar[str] = "MatMul"
    left: Shape
    right: Shape

    @property
    def rank(self) -> int:
        return max(len(self.left), len(self.right))

    @property
    def _full(self) -> bool:
        return self._batch * self.left[-2] * self.left[-1] * self.right[-1] <= _FULL

    @property
    def _batch(self) -> int:
        return total(torch.broadcast_shapes(self.left[:-2], self.right[:-2]))

    def _align(self, pair: Sequence[Tensor]) -> Sides:
        return Sides(aligned_event(pair[0], self.left, self.rank), aligned_event(pair[1], self.right, self.rank))

    def forward(self, *inputs: Tensor) -> Tensor:
        sides = self._align(inputs)
        return torch.matmul(sides.x, sides.y)

    def _boxes(self, lowers: Sequence[Tensor], uppers: Sequence[Tensor]) -> tuple[Sides, Sides]:
        """Centres and radii that cover the boxes despite rounding."""
        low, high = self._align(lowers), self._align(uppers)
        centre = Sides((low.x + high.x) * 0.5, (low.y + high.y) * 0.5)
        return centre, Sides(radius_around(low.x, high.x, centre.x), radius_around(low.y, high.y, centre.y))

    def _charge(self, centre: Sides, radius: Sides) -> Tensor:
        """Per unit of |coefficient| of an output entry, everything that rounding can cost, (..., i, j).

        Each of the parts (two coefficients, two constants, two corrections of the constants by tilts) is a chain of at
        most `steps` roundings over terms whose absolute sum is at most T = |x| |y|, some of them twice: 10 in all.
        """
        steps = max(self.left[-2], self.right[-1]) + self.left[-1] + self._batch + 16
        size = product(centre.x.abs() + radius.x, centre.y.abs() + radius.y)
        return size * (12 * gamma(steps, size.dtype))

    def interval(self, lowers: Sequence[Tensor], uppers: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        centre, radius = self._boxes(lowers, uppers)
        charge = self._charge(centre, radius) + tiny(radius.x.dtype)
        if self.left[-1] <= _EXACT:
            low, high = self._summed(lowers, uppers)
            return low - charge, high + charge
        middle = product(centre.x, centre.y)
        reach = product(centre.x.abs() + radius.x, radius.y) + product(radius.x, centre.y.abs()) + charge
        return middle - reach, middle + reach

    def _summed(self, lowers: Sequence[Tensor], uppers: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Sums of the intervals of the scalar products, one k at a time."""
        low, high = self._align(lowers), self._align(uppers)
        least: Tensor | None = None
        most: Tensor | None = None
        for k in range(self.left[-1]):
            ends = [(x[..., :, k : k + 1], y[..., k : k + 1, :]) for x in (low.x, high.x) for y in (low.y, high.y)]
            corners = torch.stack([x * y for x, y in ends])
            below, above = corners.amin(0), corners.amax(0)
            least = below if least is None else least + below
            most = above if most is None else most + above
        if least is None or most is None:
            raise ValueError("a matrix product over an empty axis")
        return least, most

    def undecided(self, lowers: Sequence[Tensor], uppers: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Entries that vary and meet an entry of the other factor that varies too."""
        low, high = self._align(lowers), self._align(uppers)
        wide_x, wide_y = _wide(low.x, high.x), _wide(low.y, high.y)
        met_x = wide_x & wide_y.any(-1).unsqueeze(-2)
        met_y = wide_y & wide_x.any(-2).unsqueeze(-1)
        pairs = ((met_x, self.left), (met_y, self.right))
        return tuple(summed_event(m.to(low.x.dtype), shape, self.rank) > 0 for m, shape in pairs)

    def multipliers(self, lowers: Sequence[Tensor], uppers: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """All zero: the planes through the centre, which serve both factors alike."""
        sides = self._align(lowers)
        if self._full:
            lead = torch.broadcast_shapes(sides.x.shape[:-2], sides.y.shape[:-2])
            zero = sides.x.new_zeros(*lead, *self.left[-2:], self.right[-1])
            return zero, zero.clone()
        return tuple(torch.zeros_like(t) for t in (sides.x, sides.y, sides.x, sides.y))

    def lines(
        self, lowers: Sequence[Tensor], uppers: Sequence[Tensor], multipliers: Sequence[Tensor] | None = None
    ) -> Lines:
        """Sound for any multipliers: those outside [-1, 1] are moved to its ends."""
        centre, radius = self._boxes(lowers, uppers)
        reach = product(radius.x, radius.y) + self._charge(centre, radius)
        tilts = () if multipliers is None else tuple(m.clamp(-1, 1) for m in multipliers)
        return centre.x, radius.x, centre.y, radius.y, product(centre.x, centre.y), reach, *tilts

    def pull(self, rows: Tensor, lines: Lines) -> Pulled:
        centre, radius, tilts = _unpacked(lines)
        to_x, to_y = times_y(rows, centre.y), times_x(rows, centre.x)
        size = rows.abs()
        offset = event_sum(-rows * lines[4] - size * lines[5], self.rank)
        weight = event_sum(size * (lines[4].abs() + lines[5]), self.rank)
        if tilts is not None:
            extra = tilts.pull(rows, radius)
            to_x, to_y = to_x + extra.x, to_y + extra.y
            moved = [(extra.x * centre.x).sum(-1), (extra.y * centre.y).sum(-2)]
            offset = offset - event_sum(moved[0], self.rank - 1) - event_sum(moved[1], self.rank - 1)
            weight = weight + event_sum((extra.x * centre.x).abs().sum(-1), self.rank - 1)
            weight = weight + event_sum((extra.y * centre.y).abs().sum(-2), self.rank - 1)
        parts = summed_event(to_x, self.left, self.rank), summed_event(to_y, self.right, self.rank)
        return Pulled(parts, offset, weight)

    def push(self, rows: Tensor, lines: Lines, *inputs: Tensor) -> Tensor:
        centre, radius, tilts = _unpacked(lines)
        sides = self._align(inputs)
        middle = product(sides.x, centre.y) + product(centre.x, sides.y) - lines[4]
        low, high = middle - lines[5], middle + lines[5]
        if tilts is not None:
            lower, upper = tilts.push(radius, Sides(sides.x - centre.x, sides.y - centre.y))
            low, high = low + lower, high + upper
        return torch.where(rows >= 0, low, high)

    def gradient(self, rows: Tensor, lines: Lines, *inputs: Tensor) -> tuple[Tensor, ...]:
        centre, radius, tilts = _unpacked(lines)
        if tilts is None:
            return ()
        sides = self._align(inputs)
        found = tilts.gradient(rows, radius, Sides(sides.x - centre.x, sides.y - centre.y))
        if len(found) == 2:
            return found
        # A factor that is repeated along leading axes has one number for all of its copies.
        kept = [(1,) * (self.rank - len(shape)) + tuple(shape) for shape in (self.left, self.right)]
        return tuple(summed_event(g, kept[i % 2], self.rank) for i, g in enumerate(found))

    def project(
        self, multipliers: Sequence[Tensor], lowers: Sequence[Tensor], uppers: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        return tuple(m.clamp(-1, 1) for m in multipliers)

    def blame(self, amount: Tensor, lowers: Sequence[Tensor], uppers: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Every scalar product is blamed for its share dx dy of the gap, and both of its factors for all of it."""
        _, radius = self._boxes(lowers, uppers)
        whole = product(radius.x, radius.y)
        share = amount / torch.where(whole > 0, whole, torch.ones_like(whole))
        to_x, to_y = radius.x * times_y(share, radius.y), radius.y * times_x(share, radius.x)
        return summed_event(to_x, self.left, self.rank), summed_event(to_y, self.right, self.rank)

    def halving_gains(
        self,
        rows: Tensor,
        lowers: Sequence[Tensor],
        uppers: Sequence[Tensor],
        inputs: Sequence[Tensor],
        upper: bool,
    ) -> tuple[Tensor, Tensor]:
        """Per entry of either factor, how much less loose the bound is at a point once its interval is halved.

        A score, no bound. With s, t in [-1, 1] for the place of the point in the boxes, the untilted planes miss
        |a| dx dy (1 + sign(a) s t); a half of x has dx / 2, and 2 s -+ 1 (moved inside) for s. `upper` says which half.
        """
        centre, radius = self._boxes(lowers, uppers)
        point = self._align(inputs)
        place = Sides(place_in(point.x, centre.x, radius.x), place_in(point.y, centre.y, radius.y))
        size = rows.abs()
        flat = times_y(size, radius.y), times_y(rows, radius.y * place.y)
        to_x = halved(radius.x, place.x, flat, upper)
        flat = times_x(size, radius.x), times_x(rows, radius.x * place.x)
        to_y = halved(radius.y, place.y, flat, upper)
        return summed_event(to_x, self.left, self.rank), summed_event(to_y, self.right, self.rank)


def _unpacked(lines: Lines) -> tuple[Sides, Sides, Tilts | None]:
    return Sides(lines[0], lines[2]), Sides(lines[1], lines[3]), tilts_of(lines[6:])


def radius_around(low: Tensor, high: Tensor, centre: Tensor) -> Tensor:
    """A radius around the rounded centre that reaches both ends; exactly 0 for a point."""
    reach = torch.maximum(high - centre, centre - low)
    return reach * (1 + 4 * torch.finfo(low.dtype).eps)


def _wide(low: Tensor, high: Tensor) -> Tensor:
    return high - low > 1e-9 * (1 + high.abs())
