"""Ascending sort of the last axis: GroupSort, FullSort, TopK."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from verinet.ops.base import Lines, NonlinearOp, Pulled, event_sum
from verinet.ops.sorting import planes


class _Lines(NamedTuple):
    """Per group of n entries; `sum` planes belong to the top sums S_{n-1}..S_1, `entry` planes to y_1..y_n."""

    sum_below: Tensor  # (..., n-1, n)
    sum_below_offset: Tensor  # (..., n-1)
    sum_above: Tensor
    sum_above_offset: Tensor
    entry_below: Tensor  # (..., n, n)
    entry_below_offset: Tensor  # (..., n)
    entry_above: Tensor
    entry_above_offset: Tensor
    share: Tensor  # (..., n), in [0, 1]: how much of a row's coefficient goes to the top sums
    size: Tensor  # (...,), sum of max |x_i|
    low: Tensor  # (..., n)
    high: Tensor
    sum_threshold: Tensor  # (..., n-1)
    below_threshold: Tensor  # (..., n)
    above_threshold: Tensor


class _Parts(NamedTuple):
    """A row's coefficients over the y_k, split up."""

    total: Tensor  # (..., 1): coefficient of the sum of all entries, which sorting preserves
    steps: Tensor  # (..., n-1): coefficients of the top sums
    rest: Tensor  # (..., n): coefficients of single order statistics


@dataclass(frozen=True)
class SortLast(NonlinearOp):
    """y = x sorted upward along the last axis; `rank` counts the event axes, the sorted one included.

    A row a is split as a = b + c with b = share * a. Since sum y = sum x,
    b . y = b_1 sum_i x_i + sum_{k>=2} (b_k - b_{k-1}) S_{n-k+1}, with planes on either side of every top sum S_m; c . y
    uses planes of the single order statistics. Both are valid for any share, weights and thresholds, and exact where
    the order is known; for n = 2 the first one is the convex envelope.
    Multipliers: (weights of S_m from below, thresholds of S_m from above, thresholds of y_k from below and from above,
    share).
    """

    kind: ClassVar[str] = "Sort"
    rank: int

    def forward(self, *inputs: Tensor) -> Tensor:
        return inputs[0].sort(-1).values

    def interval(self, lowers: Sequence[Tensor], uppers: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        # Order statistics grow with every entry, and sorting rounds nothing.
        return lowers[0].sort(-1).values, uppers[0].sort(-1).values

    def undecided(self, lowers: Sequence[Tensor], uppers: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Entries whose interval overlaps another one of the group: the others keep their place in the order."""
        low, high = lowers[0], uppers[0]
        overlaps = (low.unsqueeze(-1) < high.unsqueeze(-2)) & (low.unsqueeze(-2) < high.unsqueeze(-1))
        return ((overlaps.sum(-1) > overlaps.diagonal(dim1=-2, dim2=-1).to(torch.int64)) & (high > low),)

    def multipliers(self, lowers: Sequence[Tensor], uppers: Sequence[Tensor]) -> tuple[Tensor, ...]:
        low, high = lowers[0], uppers[0]
        return (
            planes.top_weights(low, high),
            planes.top_thresholds(low, high),
            -planes.member_thresholds(-high, -low).flip(-1),
            planes.member_thresholds(low, high),
            torch.ones_like(low),
        )

    def lines(
        self, lowers: Sequence[Tensor], uppers: Sequence[Tensor], multipliers: Sequence[Tensor] | None = None
    ) -> Lines:
        low, high = lowers[0], uppers[0]
        given = self.multipliers(lowers, uppers) if multipliers is None else multipliers
        weights, share = given[0], torch.nan_to_num(given[4], nan=0.0).clamp(0, 1)
        thresholds = [_inside(t, low, high) for t in given[1:4]]
        below = planes.lower_sums(weights, low, high)
        above = planes.upper_sums(thresholds[0], low, high)
        # The k-th smallest x is minus the k-th largest of -x: the same planes, mirrored.
        mirrored = planes.upper_entries(-thresholds[1].flip(-1), -high, -low)
        under = mirrored[0].flip(-2), -mirrored[1].flip(-1)
        over = planes.upper_entries(thresholds[2], low, high)
        size = torch.maximum(low.abs(), high.abs()).sum(-1)
        return _Lines(*below, *above, *under, *over, share, size, low, high, *thresholds)

    @staticmethod
    def _split(rows: Tensor, share: Tensor) -> _Parts:
        shared = rows * share
        return _Parts(shared[..., :1], shared.diff(dim=-1), rows - shared)

    def pull(self, rows: Tensor, lines: Lines) -> Pulled:
        known = _Lines(*lines)
        parts = self._split(rows, known.share)
        # Slopes are at most 1 and each coefficient passes about 4 n roundings: five times what the caller charges.
        weight = rows.abs().sum(-1) + parts.total.abs().sum(-1) + parts.steps.abs().sum(-1) + parts.rest.abs().sum(-1)
        size = weight * known.size * 5
        to_input, offset = parts.total, size * 0
        for coefficients, plane in ((parts.steps, known[:4]), (parts.rest, known[4:8])):
            up, down = coefficients.clamp(min=0), coefficients.clamp(max=0)
            to_input = to_input + _times(up, plane[0]) + _times(down, plane[2])
            terms = up * plane[1] + down * plane[3]
            offset, size = offset + terms.sum(-1), size + terms.abs().sum(-1)
        return Pulled((to_input,), event_sum(offset, self.rank - 1), event_sum(size, self.rank - 1))

    def push(self, rows: Tensor, lines: Lines, *inputs: Tensor) -> Tensor:
        known, x = _Lines(*lines), inputs[0]
        rows = rows.expand(torch.broadcast_shapes(rows.shape, x.shape))
        by_sums, alone = self._values(rows, known, x)
        return known.share * by_sums + (1 - known.share) * alone

    def _values(self, rows: Tensor, known: _Lines, x: Tensor) -> tuple[Tensor, Tensor]:
        """What the selected planes say about y_1..y_n at a point: the top sums, and the single entries."""
        parts = self._split(rows, known.share)
        tops = _selected(parts.steps, known[:4], x)
        sums = torch.cat([x.sum(-1, keepdim=True), tops, torch.zeros_like(x[..., :1])], -1)
        return sums[..., :-1] - sums[..., 1:], _selected(rows, known[4:8], x)

    def gradient(self, rows: Tensor, lines: Lines, *inputs: Tensor) -> tuple[Tensor, ...]:
        known, x = _Lines(*lines), inputs[0]
        low, high = known.low, known.high
        parts = self._split(rows, known.share)
        m = planes.sums(low.shape[-1], low)
        tops = m + planes.rate(known.sum_threshold, low, high, x).sum(-1)
        above = 1 + (planes.rate(known.above_threshold, low, high, x) * planes.upper_members(high)).sum(-1)
        mirrored = planes.rate(-known.below_threshold.flip(-1), -high, -low, -x) * planes.upper_members(-low)
        below = 1 + mirrored.sum(-1).flip(-1)
        by_sums, alone = self._values(rows, known, x)
        return (
            parts.steps.clamp(min=0).unsqueeze(-1) * x.unsqueeze(-2),
            parts.steps.clamp(max=0) * tops,
            parts.rest.clamp(min=0) * below,
            parts.rest.clamp(max=0) * above,
            rows * (by_sums - alone),
        )

    def project(
        self, multipliers: Sequence[Tensor], lowers: Sequence[Tensor], uppers: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        low, high = lowers[0], uppers[0]
        weights = planes.capped_simplex(multipliers[0], planes.sums(low.shape[-1], low))
        return weights, *(_inside(t, low, high) for t in multipliers[1:4]), multipliers[4].clamp(0, 1)

    def blame(self, amount: Tensor, lowers: Sequence[Tensor], uppers: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return (amount.sum(-1, keepdim=True) * self.undecided(lowers, uppers)[0].to(amount.dtype),)

    def looseness(
        self, rows: Tensor, lines: Lines, lowers: Sequence[Tensor], uppers: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        """Entry by entry, so from the planes of single entries: top sums have no gap for rows of equal coefficients."""
        known = _Lines(*lines)
        return super().looseness(rows, known._replace(share=torch.zeros_like(known.share)), lowers, uppers)


def _times(coefficients: Tensor, slopes: Tensor) -> Tensor:
    """(..., k) with (..., k, n) to (..., n); leading axes broadcast."""
    return torch.einsum("...k,...kn->...n", coefficients, slopes)


def _selected(coefficients: Tensor, plane: Sequence[Tensor], x: Tensor) -> Tensor:
    """Value at x of the lower plane where the coefficient is >= 0, else of the upper one: (..., k)."""
    below = torch.einsum("...kn,...n->...k", plane[0], x) + plane[1]
    return torch.where(coefficients >= 0, below, torch.einsum("...kn,...n->...k", plane[2], x) + plane[3])


def _inside(threshold: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Thresholds between the least and the greatest end of the group; anything else, NaN included, moves there."""
    least, most = low.amin(-1, keepdim=True), high.amax(-1, keepdim=True)
    return torch.fmin(torch.fmax(threshold, least), most)
