"""softmax from its log-odds: the logistic function entry by entry, of which is known that each group sums to one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from verinet.numerics.rounding import gamma
from verinet.ops import scalar_lines, scalar_slopes
from verinet.ops.base import Lines, NonlinearOp, Pulled, event_sum
from verinet.ops.normalisation.functions import logistic
from verinet.ops.normalisation.simplex import Shifted, cheapest

_FINE = 8.0
"""Multipliers count in eighths: the defaults are good, and whole steps of the optimiser would throw them about."""


class SharePlanes(NamedTuple):
    """Lines of the logistic function and where they touch it, their values in the middle of the box, the greatest
    slope, the shift that was asked for (`lean`), the share of the constant bound (`mix`), and the box of the result.
    """

    low_slope: Tensor
    low_offset: Tensor
    low_touch: Tensor
    high_slope: Tensor
    high_offset: Tensor
    high_touch: Tensor
    low_middle: Tensor
    high_middle: Tensor
    steep: Tensor
    lean: Tensor
    mix: Tensor
    least: Tensor
    most: Tensor

    def values(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """Both lines at a point."""
        return self.low_slope * w + self.low_offset, self.high_slope * w + self.high_offset


@dataclass(frozen=True)
class Shares(NonlinearOp):
    """p_k = 1 / (1 + exp(-w_k)) where w are the log-odds of a distribution over the last axis; `rank` event axes.

    The surrounding graph guarantees sum_k p_k = 1: the input is a `LogOdds` node. So rows may be shifted by any number
    before their signs choose lines (the default is best in the middle of the box), bounds of single entries bound the
    others, and the exact minimum over box and simplex is a constant below a . p: it replaces the lines where it beats
    them in the middle, and may be mixed in elsewhere.

    Multipliers: slopes of the lower and the upper line as shares of the greatest one, scaled to [0, 8]; per group the
    shift relative to the default, in [-8, 8], and the share of the constant bound, in [0, 1].
    Lines: the fields of `SharePlanes`.
    """

    kind: ClassVar[str] = "Shares"
    rank: int

    def forward(self, *inputs: Tensor) -> Tensor:
        return torch.sigmoid(inputs[0])

    def interval(self, lowers: Sequence[Tensor], uppers: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Of one entry, and what the others leave."""
        low, high = scalar_lines.interval(logistic(), lowers[0], uppers[0])
        charge = 4 * gamma(low.shape[-1] + 4, low.dtype)
        rest_low = 1.0 - (high.sum(-1, keepdim=True) - high) - high.sum(-1, keepdim=True) * charge - charge
        rest_high = 1.0 - (low.sum(-1, keepdim=True) - low) + low.sum(-1, keepdim=True) * charge + charge
        return torch.maximum(low, rest_low), torch.minimum(high, rest_high)

    def undecided(self, lowers: Sequence[Tensor], uppers: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return (uppers[0] - lowers[0] > 1e-6 * (1 + uppers[0].abs()),)

    def multipliers(self, lowers: Sequence[Tensor], uppers: Sequence[Tensor]) -> tuple[Tensor, ...]:
        function, ends = logistic(), (lowers[0], uppers[0])
        below, above = scalar_slopes.default_slopes(function, *ends)
        steep = scalar_slopes.slope_bounds(function, *ends)[1]
        safe = torch.where(steep > 0, steep, torch.ones_like(steep))
        lean = torch.zeros_like(steep[..., :1])
        return (below / safe).clamp(0, 1) * _FINE, (above / safe).clamp(0, 1) * _FINE, lean, lean.clone()

    def lines(
        self, lowers: Sequence[Tensor], uppers: Sequence[Tensor], multipliers: Sequence[Tensor] | None = None
    ) -> Lines:
        """Sound for any finite multipliers."""
        function, ends = logistic(), (lowers[0], uppers[0])
        given = self.multipliers(lowers, uppers) if multipliers is None else multipliers
        steep = scalar_slopes.slope_bounds(function, *ends)[1]
        known = scalar_lines.samples(function, *ends)
        low_slope, high_slope = steep * (given[0] / _FINE), steep * (given[1] / _FINE)
        low_offset, low_touch = scalar_lines.intercept(function, 1, ends, low_slope, known)
        high_offset, high_touch = scalar_lines.intercept(function, -1, ends, high_slope, known)
        # The shift of rows rounds every coefficient, and no entry is above 1.
        slack = 4 * torch.finfo(steep.dtype).eps
        low_offset = low_offset - (low_offset.abs() + 1.0) * slack
        high_offset = high_offset + (high_offset.abs() + 1.0) * slack
        middle = (ends[0] + ends[1]) * 0.5
        mix = 1.0 - (1.0 - given[3].clamp(0, 1))  # one minus this is exact (Sterbenz 1974)
        return SharePlanes(
            *(low_slope, low_offset, low_touch, high_slope, high_offset, high_touch),
            *(low_slope * middle + low_offset, high_slope * middle + high_offset, steep),
            *(given[2] / _FINE, mix, *self.interval(lowers, uppers)),
        )

    def _shifted(self, rows: Tensor, planes: SharePlanes) -> Shifted:
        if rows.dim() == 0:
            return Shifted.none(rows, torch.zeros_like(planes.lean))
        return Shifted.best(rows, (planes.low_middle, planes.high_middle), planes.lean)

    def _corner(self, rows: Tensor, planes: SharePlanes) -> tuple[Tensor, Tensor, Tensor]:
        """Share of the constant bound, its value and where it is attained, for shifted rows; share (..., 1)."""
        if rows.dim() == 0:
            zero = torch.zeros_like(planes.mix)
            return zero, zero, torch.zeros_like(planes.low_middle)
        value, point = cheapest(rows, planes.least, planes.most)
        middle = (rows.clamp(min=0) * planes.low_middle + rows.clamp(max=0) * planes.high_middle).sum(-1, keepdim=True)
        return torch.where(value >= middle, torch.ones_like(planes.mix), planes.mix), value, point

    def pull(self, rows: Tensor, lines: Lines) -> Pulled:
        planes = SharePlanes(*lines)
        shifted = self._shifted(rows, planes)
        positive, negative = shifted.rows.clamp(min=0), shifted.rows.clamp(max=0)
        to_input = positive * planes.low_slope + negative * planes.high_slope
        terms = positive * planes.low_offset + negative * planes.high_offset
        share, value, _ = self._corner(shifted.rows, planes)
        rest = 1.0 - share
        offset = terms.sum(-1, keepdim=True) * rest + value * share + shifted.shift
        size = terms.abs().sum(-1, keepdim=True) * rest + value.abs() * share + shifted.shift.abs()
        return Pulled((to_input * rest,), event_sum(offset, self.rank), event_sum(size, self.rank))

    def push(self, rows: Tensor, lines: Lines, *inputs: Tensor) -> Tensor:
        """Values of the selected lines; where they do not sum to one, what is missing goes where the shift comes from.

        So rows . push is the rows' bound, and push is its derivative with respect to the rows.
        """
        planes = SharePlanes(*lines)
        shifted = self._shifted(rows, planes)
        share, _, point = self._corner(shifted.rows, planes)
        value = torch.where(shifted.rows >= 0, *planes.values(inputs[0]))
        value = value + shifted.mark * (1.0 - value.sum(-1, keepdim=True))
        return value * (1.0 - share) + point * share

    def gradient(self, rows: Tensor, lines: Lines, *inputs: Tensor) -> tuple[Tensor, ...]:
        planes, w = SharePlanes(*lines), inputs[0]
        shifted = self._shifted(rows, planes)
        share, value, _ = self._corner(shifted.rows, planes)
        rest = 1.0 - share
        chosen = torch.where(shifted.rows >= 0, *planes.values(w))
        better = value - (shifted.rows * chosen).sum(-1, keepdim=True)
        found = (
            shifted.rows.clamp(min=0) * rest * (w - planes.low_touch) * planes.steep,
            shifted.rows.clamp(max=0) * rest * (w - planes.high_touch) * planes.steep,
            shifted.scale * rest * (1.0 - chosen.sum(-1, keepdim=True)),
        )
        gain = torch.where((share == 1) & (planes.mix < 1), 0.0, better)
        return *(g / _FINE for g in found), gain

    def project(
        self, multipliers: Sequence[Tensor], lowers: Sequence[Tensor], uppers: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        low, high, lean, mix = multipliers
        return low.clamp(0, _FINE), high.clamp(0, _FINE), lean.clamp(-_FINE, _FINE), mix.clamp(0, 1)
