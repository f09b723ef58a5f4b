"""Sums of squares of entries that move together: the variance of a normalisation, over the box of one query."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from verinet.numerics.rounding import gamma, tiny
from verinet.ops.base import Lines, NonlinearOp, Pulled, event_sum
from verinet.ops.bilinear.ellipsoids import around
from verinet.ops.scalar import Elementwise


@dataclass(frozen=True, eq=False)
class SumOfSquares(NonlinearOp):
    """z = sum of s over the last axis, where s = d^2 and sum (d - middle)^2 <= most; asked only about parts of one box.

    `middle` is (*shape), `most` (*shape but for a last 1). Chords above every square lose the sum of (u - l)^2 / 4; the
    plane 2 middle . d - |middle|^2 + most loses `most`, which is less where the entries of d move together. Rows that
    want an upper bound take a share of it and the rest of s; below, the tangents of s are as good as any.
    Multipliers: the share per sum, in [0, 1]. Lines: (share, greatest |s| summed, greatest |d|).
    """

    kind: ClassVar[str] = "SumOfSquares"
    rank: int
    keepdims: bool
    middle: Tensor
    most: Tensor

    START: ClassVar[float] = 0.75

    def forward(self, *inputs: Tensor) -> Tensor:
        return inputs[0].sum(-1, keepdim=self.keepdims)

    def interval(self, lowers: Sequence[Tensor], uppers: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        low, high = (t[0].sum(-1, keepdim=self.keepdims) for t in (lowers, uppers))
        size = torch.maximum(lowers[0].abs(), uppers[0].abs()).sum(-1, keepdim=self.keepdims)
        charge = size * gamma(lowers[0].shape[-1] + 4, size.dtype) + tiny(size.dtype)
        return low - charge, high + charge

    def undecided(self, lowers: Sequence[Tensor], uppers: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Nothing: the squares are split and tightened where they are made."""
        return tuple(torch.zeros_like(low, dtype=torch.bool) for low in lowers)

    def multipliers(self, lowers: Sequence[Tensor], uppers: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Mostly the plane of all: with all of it, slopes of the squares would not be looked for."""
        return (torch.full_like(lowers[1][..., :1], self.START),)

    def lines(
        self, lowers: Sequence[Tensor], uppers: Sequence[Tensor], multipliers: Sequence[Tensor] | None = None
    ) -> Lines:
        """Sound for any multipliers; the share and one minus it sum to one exactly (Sterbenz 1974)."""
        share = (self.multipliers(lowers, uppers) if multipliers is None else multipliers)[0].clamp(0, 1)
        sizes = [torch.maximum(low.abs(), high.abs()) for low, high in zip(lowers, uppers, strict=True)]
        return 1.0 - (1.0 - share), sizes[0].sum(-1, keepdim=True), sizes[1]

    def _rows(self, rows: Tensor, lines: Lines) -> Tensor:
        """Coefficients (..., 1)."""
        wide = rows.expand_as(lines[0]) if rows.dim() == 0 else rows
        return wide if self.keepdims or rows.dim() == 0 else wide.unsqueeze(-1)

    def _above(self, lines: Lines) -> Tensor:
        """The offset of the plane, with all rounding: of its own terms and of the two shares of a row."""
        square = self.middle.square().sum(-1, keepdim=True)
        size = square + 2 * (self.middle.abs() * lines[2]).sum(-1, keepdim=True) + self.most + lines[1]
        return self.most - square + size * (8 * gamma(self.middle.shape[-1] + 16, size.dtype)) + tiny(size.dtype)

    def pull(self, rows: Tensor, lines: Lines) -> Pulled:
        mine = self._rows(rows, lines)
        part = mine.clamp(max=0) * lines[0]
        rest = torch.where(mine < 0, mine * (1.0 - lines[0]), mine)
        terms = part * self._above(lines)
        axes = self.rank if self.keepdims else self.rank + 1
        offset, size = event_sum(terms, axes), event_sum(terms.abs(), axes)
        return Pulled((rest.expand_as(part * self.middle), part * (2.0 * self.middle)), offset, size)

    def push(self, rows: Tensor, lines: Lines, *inputs: Tensor) -> Tensor:
        share = lines[0] * (self._rows(rows, lines) < 0)
        found = self._found(lines, inputs[1]) * share + inputs[0].sum(-1, keepdim=True) * (1.0 - share)
        return found if self.keepdims else found.squeeze(-1)

    def _found(self, lines: Lines, d: Tensor) -> Tensor:
        return 2.0 * (self.middle * d).sum(-1, keepdim=True) + self._above(lines)

    def gradient(self, rows: Tensor, lines: Lines, *inputs: Tensor) -> tuple[Tensor, ...]:
        better = self._found(lines, inputs[1]) - inputs[0].sum(-1, keepdim=True)
        return (self._rows(rows, lines).clamp(max=0) * better,)

    def project(
        self, multipliers: Sequence[Tensor], lowers: Sequence[Tensor], uppers: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        return tuple(m.clamp(0, 1) for m in multipliers)

    def blame(self, amount: Tensor, lowers: Sequence[Tensor], uppers: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Spread evenly."""
        whole = amount if self.keepdims else amount.unsqueeze(-1)
        return tuple((whole / low.shape[-1]).expand(*whole.shape[:-1], low.shape[-1]) for low in lowers)


def greatest_square(generators: Tensor) -> Tensor:
    """At least sum_k (sum_s G_ks xi_s)^2 for |xi_s| <= 1, (..., 1) for G (..., k, S), float64.

    G xi lies in an ellipsoid {L eta}, and |L eta|^2 is at most the largest eigenvalue of L' L; the charge covers the
    error of both (Golub and Van Loan 2013, section 8.1), by far.
    """
    factor = around(generators)
    values = torch.linalg.eigvalsh(factor.mT @ factor)[..., -1:]
    charge = factor.square().sum((-1, -2)).unsqueeze(-1) * (64 * gamma(8 * factor.shape[-1] + 32, factor.dtype))
    found: Tensor = values.clamp(min=0) + charge + tiny(factor.dtype)
    return found


def is_square(op: object) -> bool:
    """Whether a function of one variable is x^2, exactly."""
    if not isinstance(op, Elementwise) or op.function.name != "Pow" or op.function.deviation:
        return False
    points = torch.tensor([3.0, -1.5, 0.5], dtype=torch.float64)
    return torch.equal(op.function.value(points), points * points)
