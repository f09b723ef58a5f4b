"""What is left of a choice between two linear maps when |.| has taken its main part: tiny, bounded by size only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from verinet.ops.base import Lines, NonlinearOp, Pulled, event_sum, select


@dataclass(frozen=True, eq=False)
class Remainder(NonlinearOp):
    """y = s sum_k c_k x_k with s = 1 where the first input is positive and -1 elsewhere.

    Inputs are the switch, of the shape of the output, and sources x_1..x_K of any shapes; entry i of the output reads
    entry index[k].flat[i] of source k. `coefficients` and `radii` are (K, *shape): the true c_k lies within
    coefficients +- radii. Bounds are +-sum (|c_k| + radius) max |x_k|, with no slopes: for coefficients that are
    rounding errors nothing better is worth its cost.
    Lines: (lower offset, upper offset).
    """

    kind: ClassVar[str] = "Remainder"
    index: Tensor  # (K, *shape) int64
    coefficients: Tensor
    radii: Tensor

    @property
    def rank(self) -> int:
        return self.index.dim() - 1

    def _picked(self, place: int, source: Tensor) -> Tensor:
        return source.flatten(1)[:, self.index[place].reshape(-1)].reshape(source.shape[0], *self.index.shape[1:])

    def forward(self, *inputs: Tensor) -> Tensor:
        parts = [self.coefficients[k] * self._picked(k, x) for k, x in enumerate(inputs[1:])]
        total = torch.stack(parts).sum(0)
        return torch.where(inputs[0] > 0, total, -total)

    def interval(self, lowers: Sequence[Tensor], uppers: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        size = torch.zeros_like(lowers[0])
        for place, (low, high) in enumerate(zip(lowers[1:], uppers[1:], strict=True)):
            weight = self.coefficients[place].abs() + self.radii[place]
            size = size + weight * self._picked(place, torch.maximum(low.abs(), high.abs()))
        terms = 4 * len(self.index) + 8
        size = size * (1 + terms * torch.finfo(size.dtype).eps) + torch.finfo(size.dtype).tiny
        return -size, size

    def undecided(self, lowers: Sequence[Tensor], uppers: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return tuple(torch.zeros_like(low, dtype=torch.bool) for low in lowers)

    def multipliers(self, lowers: Sequence[Tensor], uppers: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return ()

    def lines(
        self, lowers: Sequence[Tensor], uppers: Sequence[Tensor], multipliers: Sequence[Tensor] | None = None
    ) -> Lines:
        """Constants; zeros without memory carry the shapes of the inputs to `pull`."""
        return (*self.interval(lowers, uppers), *(low.new_zeros(()).expand(low.shape) for low in lowers))

    def pull(self, rows: Tensor, lines: Lines) -> Pulled:
        offset = rows * select(rows, lines[0], lines[1])
        lead = rows.shape[: rows.dim() - self.rank]
        own = lines[2].dim() - self.rank
        nothing = tuple(rows.new_zeros(()).expand(*lead, *zero.shape[own:]) for zero in lines[2:])
        return Pulled(nothing, event_sum(offset, self.rank), event_sum(offset.abs(), self.rank))

    def push(self, rows: Tensor, lines: Lines, *inputs: Tensor) -> Tensor:
        return select(rows, lines[0], lines[1]).expand(inputs[0].shape)

    def gradient(self, rows: Tensor, lines: Lines, *inputs: Tensor) -> tuple[Tensor, ...]:
        return ()

    def project(
        self, multipliers: Sequence[Tensor], lowers: Sequence[Tensor], uppers: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        return ()

    def blame(self, amount: Tensor, lowers: Sequence[Tensor], uppers: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Nobody: splitting an input does not pay for what is this small."""
        return tuple(amount.new_zeros(()).expand(*amount.shape[:1], *low.shape[1:]) for low in lowers)
