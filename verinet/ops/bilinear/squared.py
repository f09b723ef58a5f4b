"""Scalar products of two factors that move together: queries and keys of an attention, over the box of one query."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from verinet.numerics.rounding import gamma, tiny
from verinet.ops.base import Lines, Pulled, event_sum
from verinet.ops.bilinear.ellipsoids import around
from verinet.ops.bilinear.matmul import MatMulTwo
from verinet.ops.bilinear.tilts import product, times_x, times_y


@dataclass(frozen=True, eq=False)
class MatMulSquared(MatMulTwo):
    """z = x @ y, of which is known that (x - p) @ (y - q) lies in [least, most]; asked only about parts of one box.

    So z - p @ y - x @ q + p @ q lies there: two parallel planes, whose distance does not add up over the inner axis.
    A row takes a share of them and the rest of McCormick's planes. Multipliers: those of `MatMulTwo`, then the share of
    every output entry, in [0, 1]. Lines: as there, then the share.
    """

    p: Tensor = field(kw_only=True)  # (..., i, k)
    q: Tensor = field(kw_only=True)  # (..., k, j)
    least: Tensor = field(kw_only=True)  # (..., i, j)
    most: Tensor = field(kw_only=True)

    START: ClassVar[float] = 0.75

    def multipliers(self, lowers: Sequence[Tensor], uppers: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Mostly the parallel planes: with all of them, tilts of the others would not be looked for."""
        low = self._align(lowers)
        share = product(low.x, low.y).new_full((), self.START)
        return *super().multipliers(lowers, uppers), share.expand(product(low.x, low.y).shape)

    def lines(
        self, lowers: Sequence[Tensor], uppers: Sequence[Tensor], multipliers: Sequence[Tensor] | None = None
    ) -> Lines:
        """Sound for any multipliers; the share and one minus it sum to one exactly (Sterbenz 1974)."""
        *tilts, share = self.multipliers(lowers, uppers) if multipliers is None else multipliers
        return *super().lines(lowers, uppers, tilts), 1.0 - (1.0 - share.clamp(0, 1))

    def _planes(self, lines: Lines) -> tuple[Tensor, Tensor]:
        """Least and greatest offset with all rounding, beyond p @ y + x @ q."""
        size = product(lines[0].abs() + lines[1] + self.p.abs(), lines[2].abs() + lines[3] + self.q.abs())
        size = size + self.least.abs() + self.most.abs()
        steps = max(self.left[-2], self.right[-1]) + self.left[-1] + self._batch + 16
        charge = size * (16 * gamma(steps, size.dtype)) + tiny(size.dtype)
        middle = product(self.p, self.q)
        return self.least - middle - charge, self.most - middle + charge

    def pull(self, rows: Tensor, lines: Lines) -> Pulled:
        share = lines[-1]
        mine, rest = rows * share, super().pull(rows * (1.0 - share), lines[:-1])
        low, high = self._planes(lines)
        terms = torch.where(mine >= 0, mine * low, mine * high)
        parts = times_y(mine, self.q), times_x(mine, self.p)
        return Pulled(
            (rest.rows[0] + parts[0], rest.rows[1] + parts[1]),
            rest.offset + event_sum(terms, self.rank),
            rest.magnitude + event_sum(terms.abs(), self.rank),
        )

    def _parallel(self, rows: Tensor, lines: Lines, x: Tensor, y: Tensor) -> Tensor:
        low, high = self._planes(lines)
        return product(self.p, y) + product(x, self.q) + torch.where(rows >= 0, low, high)

    def push(self, rows: Tensor, lines: Lines, *inputs: Tensor) -> Tensor:
        other = super().push(rows, lines[:-1], *inputs)
        return other + lines[-1] * (self._parallel(rows, lines, *inputs) - other)

    def gradient(self, rows: Tensor, lines: Lines, *inputs: Tensor) -> tuple[Tensor, ...]:
        better = self._parallel(rows, lines, *inputs) - super().push(rows, lines[:-1], *inputs)
        # Of McCormick's planes as if they were all: a positive multiple, and not 0 where nothing is left of them.
        return *super().gradient(rows, lines[:-1], *inputs), rows * better

    def project(
        self, multipliers: Sequence[Tensor], lowers: Sequence[Tensor], uppers: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        *tilts, share = multipliers
        return *super().project(tilts, lowers, uppers), share.clamp(0, 1)


CHUNK = 1 << 22
"""Numbers of stacked generators at a time."""


def second_order(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Bounds (..., i, j) of (A_i xi) . (B_j xi) for |xi_s| <= 1; generators (..., i, k, S) and (..., j, k, S), float64.

    Both vectors together lie in an ellipsoid {L eta}, and the product is a quadratic form in eta: its eigenvalues
    bound it. The charge covers the products that make the form and the error of its eigenvalues (Golub and Van Loan
    2013, section 8.1), by far.
    """
    ratio = (_norm(second) / _norm(first).clamp(min=1e-100)).clamp(1e-60, 1e60)
    scale = torch.exp2((0.5 * torch.log2(ratio)).round())  # a power of two: scaling is exact
    first, second = first * scale, second / scale
    step = max(1, CHUNK // max(1, 2 * second.numel()))
    lows, highs = [], []
    for start in range(0, first.shape[-3], step):
        low, high = _form_bounds(first[..., start : start + step, :, :], second)
        lows.append(low)
        highs.append(high)
    return torch.cat(lows, -2), torch.cat(highs, -2)


def _norm(values: Tensor) -> Tensor:
    return values.square().sum().sqrt()


def _form_bounds(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    lead = torch.broadcast_shapes(first.unsqueeze(-3).shape, second.unsqueeze(-4).shape)
    both = torch.cat([first.unsqueeze(-3).expand(lead), second.unsqueeze(-4).expand(lead)], -2)
    factor = around(both)
    half = factor.shape[-2] // 2
    cross = factor[..., :half, :].mT @ factor[..., half:, :]
    values = torch.linalg.eigvalsh((cross + cross.mT) * 0.5)
    charge = factor.square().sum((-1, -2)) * (64 * gamma(8 * half + 32, factor.dtype)) + tiny(factor.dtype)
    return values[..., 0].clamp(max=0) - charge, values[..., -1].clamp(min=0) + charge
