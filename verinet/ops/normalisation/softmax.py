"""softmax and its logarithm over the last axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from verinet.ops import scalar_lines, scalar_slopes
from verinet.ops.base import Lines, NonlinearOp, Pulled, event_sum
from verinet.ops.normalisation.functions import LOG_LOGISTIC, logistic
from verinet.ops.normalisation.others import Above, Below, Chords, Range
from verinet.ops.normalisation.simplex import Shifted
from verinet.ops.normalisation.vertex import least
from verinet.ops.scalar_function import ScalarFunction

_FINE = 8.0
"""Multipliers count in eighths: the defaults are good, and whole steps of the optimiser would throw them about."""


class Planes(NamedTuple):
    """One relaxation: every field is (lead..., *shape), or has a last axis of 1 where it belongs to a group.

    Lower plane of entry k: low_slope w_below(x) + low_offset; upper plane: high_slope w_above(x) + high_offset; the
    offsets hold the rounding charges, and the touching points follow. Then come the fields of `Below` and `Above`, the
    values of both planes in the middle of the box (`low_middle`, `high_middle`), how multipliers scale (`slopes`,
    `logits`, `levels`), the shift that was asked for (`lean`), the share of the exact corner (`mix`), and exp of the
    ends of the box (`start`, `stop`) with their relative error (`unsure`).
    """

    low_slope: Tensor
    low_offset: Tensor
    low_touch: Tensor
    high_slope: Tensor
    high_offset: Tensor
    high_touch: Tensor
    inverse: Tensor
    chord: Tensor
    below: Tensor
    base: Tensor
    weight: Tensor
    rest: Tensor
    log_weight: Tensor
    above: Tensor
    low_middle: Tensor
    high_middle: Tensor
    slopes: Tensor
    logits: Tensor
    levels: Tensor
    lean: Tensor
    mix: Tensor
    start: Tensor
    stop: Tensor
    unsure: Tensor

    @property
    def lower(self) -> Below:
        return Below(self.inverse, self.chord, self.below, self.base, self.base)

    @property
    def upper(self) -> Above:
        return Above(self.weight, self.rest, self.log_weight, self.above, self.above)

    def values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Both planes at a point."""
        low = self.low_slope * self.lower.at(x) + self.low_offset
        return low, self.high_slope * self.upper.at(x) + self.high_offset


@dataclass(frozen=True)
class Softmax(NonlinearOp):
    """y = softmax(x) over the last axis, or its logarithm. `rank` counts the event axes; the last is at least 2 long.

    y_k = f(w_k) with w_k = x_k - log(sum_{j != k} exp x_j) and f the logistic function (or its logarithm), which rises:
    a line with slope >= 0 above (below) f on the range of w, and in it a linear upper (lower) bound of w, is a plane
    above (below) y_k. For p = exp(q), q = x_k - log(sum_j exp x_j), the same construction gives the log-sum-exp planes
    of Wei et al. 2023; f is at least as good because w is a convex function of q.

    As sum_k y_k = 1, rows may be shifted before their signs choose planes: a . y = (a - c) . y + c for any c (the
    default is best at the middle of the box). The exact minimum over the box of logits is a constant below a . y, too:
    it replaces the planes where it beats them in the middle of the box, and may be mixed in elsewhere.

    Multipliers, scaled to [0, 8]: slopes of the lower and the upper line, logits of the distribution behind the upper
    bound of w, log s0 behind the lower one; then per group the shift relative to the default, in [-8, 8], and the share
    of the exact minimum, in [0, 1].
    Lines: the fields of `Planes`.
    """

    kind: ClassVar[str] = "Softmax"
    rank: int
    log: bool = False

    @property
    def _function(self) -> ScalarFunction:
        return LOG_LOGISTIC if self.log else logistic()

    def forward(self, *inputs: Tensor) -> Tensor:
        return inputs[0].log_softmax(-1) if self.log else inputs[0].softmax(-1)

    def interval(self, lowers: Sequence[Tensor], uppers: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        span = Range.over(lowers[0], uppers[0])
        return scalar_lines.interval(self._function, span.lower, span.upper)

    def undecided(self, lowers: Sequence[Tensor], uppers: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return (uppers[0] - lowers[0] > 1e-6 * (1 + uppers[0].abs()),)

    def _scales(self, low: Tensor, high: Tensor, span: Range) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """(least, range) of the slopes of f, and of log s0 counted from the top."""
        flat, steep = scalar_slopes.slope_bounds(self._function, span.lower, span.upper)
        first, last = low - span.upper - span.top, high - span.lower - span.top
        return (flat, steep - flat), (first, (last - first).abs())

    def multipliers(self, lowers: Sequence[Tensor], uppers: Sequence[Tensor]) -> tuple[Tensor, ...]:
        low, high = lowers[0], uppers[0]
        span = Range.over(low, high)
        (flat, slopes), (first, levels) = self._scales(low, high, span)
        below, above = scalar_slopes.default_slopes(self._function, span.lower, span.upper)
        chords = Chords.over(low, high, span.top)
        level = torch.log(chords.others) - first
        half = torch.full_like(low, 0.5)
        lean = torch.zeros_like(low[..., :1])
        shares = (_share(below - flat, slopes), _share(above - flat, slopes), half, _share(level, levels))
        return *(s * _FINE for s in shares), lean, lean.clone()

    def lines(
        self, lowers: Sequence[Tensor], uppers: Sequence[Tensor], multipliers: Sequence[Tensor] | None = None
    ) -> Lines:
        """Sound for any finite multipliers: slopes below 0 are moved to 0."""
        low, high = lowers[0], uppers[0]
        given = self.multipliers(lowers, uppers) if multipliers is None else multipliers
        chosen = [m / _FINE for m in given[:5]]
        span, size = Range.over(low, high), torch.maximum(low.abs(), high.abs())
        (flat, slopes), (first, levels) = self._scales(low, high, span)
        below = Below.of(Chords.over(low, high, span.top), span.top, first + chosen[3] * levels, size)
        above = Above.of(low + chosen[2] * (high - low), size)
        lower = self._line(1, span, (flat + chosen[0] * slopes).clamp(min=0), below)
        upper = self._line(-1, span, (flat + chosen[1] * slopes).clamp(min=0), above)
        middle = (low + high) * 0.5
        low_middle, high_middle = lower[0] * below.at(middle) + lower[1], upper[0] * above.at(middle) + upper[1]
        unsure = (16 + 2 * (low - span.top).abs().amax(-1, keepdim=True)) * torch.finfo(low.dtype).eps
        return Planes(
            *(*lower, *upper, *below[:4], *above[:4], low_middle, high_middle),
            *(slopes, high - low, levels, chosen[4], given[5].clamp(0, 1)),
            *(torch.exp(low - span.top), torch.exp(high - span.top), unsure),
        )

    def _line(self, sign: int, span: Range, slope: Tensor, bound: Below | Above) -> tuple[Tensor, Tensor, Tensor]:
        """Slope in w, offset in x with all rounding charged, and touching point of the line on one side."""
        function, ends = self._function, (span.lower, span.upper)
        known = scalar_lines.samples(function, *ends)
        offset, touch = scalar_lines.intercept(function, sign, ends, slope, known)
        eps = torch.finfo(slope.dtype).eps
        moved = slope * bound.offset
        slack = slope * bound.charge + (moved.abs() + offset.abs() + 1.0) * (4 * eps)
        return slope.expand_as(touch), offset - sign * slack, touch

    def _shifted(self, rows: Tensor, planes: Planes) -> Shifted:
        if self.log or rows.dim() == 0:
            return Shifted.none(rows, torch.zeros_like(planes.lean))
        return Shifted.best(rows, (planes.low_middle, planes.high_middle), planes.lean)

    def _corner(self, rows: Tensor, planes: Planes) -> tuple[Tensor, Tensor, Tensor]:
        """Share of the exact corner in the bound, its value and its softmax, for shifted rows; share (..., 1)."""
        if self.log or rows.dim() == 0:
            zero = torch.zeros_like(planes.mix)
            return zero, zero, torch.zeros_like(planes.low_middle)
        value, softmax = least(rows, planes.start, planes.stop, planes.unsure)
        middle = (rows.clamp(min=0) * planes.low_middle + rows.clamp(max=0) * planes.high_middle).sum(-1, keepdim=True)
        return torch.where(value >= middle, torch.ones_like(planes.mix), planes.mix), value, softmax

    def pull(self, rows: Tensor, lines: Lines) -> Pulled:
        planes = Planes(*lines)
        shifted = self._shifted(rows, planes)
        positive, negative = shifted.rows.clamp(min=0), shifted.rows.clamp(max=0)
        to_input = planes.lower.pull(positive * planes.low_slope) + planes.upper.pull(negative * planes.high_slope)
        low = positive * (planes.low_slope * planes.below + planes.low_offset)
        terms = low + negative * (planes.high_slope * planes.above + planes.high_offset)
        share, value, _ = self._corner(shifted.rows, planes)
        rest = 1.0 - share  # exact for shares 0 and 1; otherwise within the charge of every plane
        offset = terms.sum(-1, keepdim=True) * rest + value * share + shifted.shift
        size = terms.abs().sum(-1, keepdim=True) * rest + value.abs() * share + shifted.shift.abs()
        return Pulled((to_input * rest,), event_sum(offset, self.rank), event_sum(size, self.rank))

    def push(self, rows: Tensor, lines: Lines, *inputs: Tensor) -> Tensor:
        """Values of the selected planes; where they do not sum to one, what is missing goes where the shift comes from.

        So rows . push is the rows' bound, and push is its derivative with respect to the rows.
        """
        planes = Planes(*lines)
        shifted = self._shifted(rows, planes)
        share, _, softmax = self._corner(shifted.rows, planes)
        value = torch.where(shifted.rows >= 0, *planes.values(inputs[0]))
        value = value + shifted.mark * (1.0 - value.sum(-1, keepdim=True))
        return value * (1.0 - share) + softmax * share

    def gradient(self, rows: Tensor, lines: Lines, *inputs: Tensor) -> tuple[Tensor, ...]:
        planes, x = Planes(*lines), inputs[0]
        shifted = self._shifted(rows, planes)
        share, value, _ = self._corner(shifted.rows, planes)
        lower, upper, rest = planes.lower, planes.upper, 1.0 - share
        positive, negative = shifted.rows.clamp(min=0) * rest, shifted.rows.clamp(max=0) * rest
        chosen = torch.where(shifted.rows >= 0, *planes.values(x))
        better = value - (shifted.rows * chosen).sum(-1, keepdim=True)
        found = (
            positive * (lower.at(x) - planes.low_touch) * planes.slopes,
            negative * (upper.at(x) - planes.high_touch) * planes.slopes,
            upper.logit_gradient(negative * planes.high_slope, x) * planes.logits,
            positive * planes.low_slope * lower.rate(x) * planes.levels,
            shifted.scale * rest * (1.0 - chosen.sum(-1, keepdim=True)),
        )
        gain = torch.zeros_like(better) if self.log else torch.where((share == 1) & (planes.mix < 1), 0.0, better)
        return *(g / _FINE for g in found), gain

    def project(
        self, multipliers: Sequence[Tensor], lowers: Sequence[Tensor], uppers: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        *shares, lean, mix = multipliers
        return *(m.clamp(0, _FINE) for m in shares), lean.clamp(-_FINE, _FINE), mix.clamp(0, 1)

    def blame(self, amount: Tensor, lowers: Sequence[Tensor], uppers: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Every logit moves every probability: the group's looseness is spread by the widths."""
        width = uppers[0] - lowers[0]
        whole = width.sum(-1, keepdim=True)
        return (amount.sum(-1, keepdim=True) * width / torch.where(whole > 0, whole, torch.ones_like(whole)),)


def _share(value: Tensor, whole: Tensor) -> Tensor:
    """value / whole in [0, 1]; the middle where there is nothing to choose."""
    return torch.where(whole > 0, value / torch.where(whole > 0, whole, torch.ones_like(whole)), 0.5).clamp(0, 1)
