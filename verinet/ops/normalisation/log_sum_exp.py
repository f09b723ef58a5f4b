"""log(sum of exp) over the last axis, by the planes of log-odds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from verinet.ops.base import Lines, NonlinearOp, Pulled
from verinet.ops.normalisation.odds import LogOdds


@dataclass(frozen=True)
class LogSumExp(NonlinearOp):
    """y = log(sum_j exp x_j) over the last of `rank` event axes, which is at least 2 long.

    With any constant c in front of the logits, entry 0 of their log-odds is c - y, so y has the planes of `LogOdds`; c
    itself drops out of them. Nothing overflows, and over a box the interval is exact up to rounding: y rises with
    every x_j.

    Multipliers and lines are those of `LogOdds` over (c, x), where the last line is c.
    """

    kind: ClassVar[str] = "LogSumExp"
    rank: int

    @property
    def _odds(self) -> LogOdds:
        return LogOdds(self.rank)

    def forward(self, *inputs: Tensor) -> Tensor:
        return torch.logsumexp(inputs[0], -1)

    def interval(self, lowers: Sequence[Tensor], uppers: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        low, high = lowers[0], uppers[0]
        size = torch.maximum(low.abs(), high.abs()).amax(-1)
        # The sum of K exponentials of rounded differences, its logarithm, and one addition.
        charge = (size + 8) * (8 * torch.finfo(low.dtype).eps * (low.shape[-1] + 8))
        return torch.logsumexp(low, -1) - charge, torch.logsumexp(high, -1) + charge

    def _padded(self, lowers: Sequence[Tensor], uppers: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Bounds of (c, x), with the largest upper bound for c."""
        first = uppers[0].amax(-1, keepdim=True)
        return [torch.cat([first, lowers[0]], -1)], [torch.cat([first, uppers[0]], -1)]

    def undecided(self, lowers: Sequence[Tensor], uppers: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return self._odds.undecided(lowers, uppers)

    def multipliers(self, lowers: Sequence[Tensor], uppers: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return self._odds.multipliers(*self._padded(lowers, uppers))

    def lines(
        self, lowers: Sequence[Tensor], uppers: Sequence[Tensor], multipliers: Sequence[Tensor] | None = None
    ) -> Lines:
        """Sound for any finite multipliers."""
        low, high = self._padded(lowers, uppers)
        return *self._odds.lines(low, high, multipliers), high[0][..., 0]

    def pull(self, rows: Tensor, lines: Lines) -> Pulled:
        """rows . y = rows . c - rows . w_0; the plane of w_0 has the coefficient 1 for c, so both cancel exactly."""
        found = self._odds.pull(_of_odds(rows, lines), lines[:-1])
        return Pulled((found.rows[0][..., 1:],), found.offset, found.magnitude)

    def push(self, rows: Tensor, lines: Lines, *inputs: Tensor) -> Tensor:
        odds = self._odds.push(-rows.unsqueeze(-1), lines[:-1], _with_constant(inputs[0], lines[-1]))
        return lines[-1] - odds[..., 0]

    def gradient(self, rows: Tensor, lines: Lines, *inputs: Tensor) -> tuple[Tensor, ...]:
        return self._odds.gradient(_of_odds(rows, lines), lines[:-1], _with_constant(inputs[0], lines[-1]))

    def project(
        self, multipliers: Sequence[Tensor], lowers: Sequence[Tensor], uppers: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        return self._odds.project(multipliers, lowers, uppers)

    def blame(self, amount: Tensor, lowers: Sequence[Tensor], uppers: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Spread over the logits by their widths."""
        width = uppers[0] - lowers[0]
        whole = width.sum(-1, keepdim=True)
        return (amount.unsqueeze(-1) * width / torch.where(whole > 0, whole, torch.ones_like(whole)),)


def _of_odds(rows: Tensor, lines: Lines) -> Tensor:
    """Rows over y as rows over the log-odds: minus them for entry 0, nothing for the others."""
    others = rows.new_zeros(*rows.shape, lines[0].shape[-1] - 1)
    return torch.cat([-rows.unsqueeze(-1), others], -1)


def _with_constant(x: Tensor, constant: Tensor) -> Tensor:
    lead = torch.broadcast_shapes(x.shape[:-1], constant.shape)
    return torch.cat([constant.expand(lead).unsqueeze(-1), x.expand(*lead, x.shape[-1])], -1)
