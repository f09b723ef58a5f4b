"""The log-odds of softmax, w_k = x_k - log(sum_{j != k} exp x_j), as an operator of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from verinet.ops.base import Lines, NonlinearOp, Pulled, event_sum
from verinet.ops.normalisation.exclusive import log_sum_of_others
from verinet.ops.normalisation.others import Above, Below, Chords, Range

_FINE = 8.0
"""Multipliers count in eighths: the defaults are good, and whole steps of the optimiser would throw them about."""


class OddsPlanes(NamedTuple):
    """The fields of `Below` and `Above`, rounding charges within both offsets, and how far multipliers reach."""

    inverse: Tensor
    chord: Tensor
    below: Tensor
    base: Tensor
    weight: Tensor
    rest: Tensor
    log_weight: Tensor
    above: Tensor
    logits: Tensor
    levels: Tensor

    @property
    def lower(self) -> Below:
        return Below(self.inverse, self.chord, self.below, self.base, self.base)

    @property
    def upper(self) -> Above:
        return Above(self.weight, self.rest, self.log_weight, self.above, self.above)


@dataclass(frozen=True)
class LogOdds(NonlinearOp):
    """w_k = x_k - log(sum_{j != k} exp x_j) over the last axis, which is at least 2 long; `rank` event axes.

    softmax(x)_k is the logistic function of w_k, which rises: rows that bound w_k through the network see how logits
    move together, and the logistic function loses nothing at the ends. Planes as in `verinet.ops.normalisation.others`.

    Multipliers, scaled to [0, 8]: logits of the distribution behind the upper bound, log s0 behind the lower one.
    Lines: the fields of `OddsPlanes`.
    """

    kind: ClassVar[str] = "LogOdds"
    rank: int

    def forward(self, *inputs: Tensor) -> Tensor:
        return inputs[0] - log_sum_of_others(inputs[0])

    def interval(self, lowers: Sequence[Tensor], uppers: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        span = Range.over(lowers[0], uppers[0])
        return span.lower, span.upper

    def undecided(self, lowers: Sequence[Tensor], uppers: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return (uppers[0] - lowers[0] > 1e-6 * (1 + uppers[0].abs()),)

    def multipliers(self, lowers: Sequence[Tensor], uppers: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Tangents at the middle of the box."""
        low, high = lowers[0], uppers[0]
        span = Range.over(low, high)
        first, levels = _levels(low, high, span)
        level = torch.log(Chords.over(low, high, span.top).others) - first
        safe = torch.where(levels > 0, levels, torch.ones_like(levels))
        share = torch.where(levels > 0, level / safe, 0.5).clamp(0, 1)
        return torch.full_like(low, 0.5) * _FINE, share * _FINE

    def lines(
        self, lowers: Sequence[Tensor], uppers: Sequence[Tensor], multipliers: Sequence[Tensor] | None = None
    ) -> Lines:
        """Sound for any finite multipliers."""
        low, high = lowers[0], uppers[0]
        given = self.multipliers(lowers, uppers) if multipliers is None else multipliers
        span, size = Range.over(low, high), torch.maximum(low.abs(), high.abs())
        first, levels = _levels(low, high, span)
        below = Below.of(Chords.over(low, high, span.top), span.top, first + given[1] / _FINE * levels, size)
        above = Above.of(low + given[0] / _FINE * (high - low), size)
        return OddsPlanes(
            *(below.inverse, below.slope, below.offset - below.charge, below.base),
            *(above.weight, above.rest, above.log_weight, above.offset + above.charge),
            *(high - low, levels),
        )

    def pull(self, rows: Tensor, lines: Lines) -> Pulled:
        planes = OddsPlanes(*lines)
        positive, negative = rows.clamp(min=0), rows.clamp(max=0)
        to_input = planes.lower.pull(positive) + planes.upper.pull(negative)
        terms = positive * planes.below + negative * planes.above
        return Pulled((to_input,), event_sum(terms, self.rank), event_sum(terms.abs(), self.rank))

    def push(self, rows: Tensor, lines: Lines, *inputs: Tensor) -> Tensor:
        planes, x = OddsPlanes(*lines), inputs[0]
        return torch.where(rows >= 0, planes.lower.at(x), planes.upper.at(x))

    def gradient(self, rows: Tensor, lines: Lines, *inputs: Tensor) -> tuple[Tensor, ...]:
        planes, x = OddsPlanes(*lines), inputs[0]
        to_logits = planes.upper.logit_gradient(rows.clamp(max=0), x) * planes.logits
        return to_logits / _FINE, rows.clamp(min=0) * planes.lower.rate(x) * planes.levels / _FINE

    def project(
        self, multipliers: Sequence[Tensor], lowers: Sequence[Tensor], uppers: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        return tuple(m.clamp(0, _FINE) for m in multipliers)

    def blame(self, amount: Tensor, lowers: Sequence[Tensor], uppers: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Every logit moves every entry: the group's looseness is spread by the widths."""
        width = uppers[0] - lowers[0]
        whole = width.sum(-1, keepdim=True)
        return (amount.sum(-1, keepdim=True) * width / torch.where(whole > 0, whole, torch.ones_like(whole)),)


def _levels(low: Tensor, high: Tensor, span: Range) -> tuple[Tensor, Tensor]:
    """Least value and range of log s, counted from the top: x_k - w_k lies there."""
    first, last = low - span.upper - span.top, high - span.lower - span.top
    return first, (last - first).abs()
