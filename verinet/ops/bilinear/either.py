"""One value that was computed in two ways: bounds may use a mixture of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from verinet.ops.base import Lines, NonlinearOp, Pulled


@dataclass(frozen=True)
class Either(NonlinearOp):
    """z = x = y with `rank` event axes: the surrounding graph guarantees that x and y are equal in exact arithmetic.

    z = r x + (1 - r) y for any r, so a row may pass through both: the better way depends on the row, and r is found
    by optimisation. Nothing is lost here, hence nothing is undecided.
    Multipliers: r in [0, 1] per entry. Lines: (r, 1 - r).
    """

    kind: ClassVar[str] = "Either"
    rank: int

    def forward(self, *inputs: Tensor) -> Tensor:
        return inputs[0]

    def interval(self, lowers: Sequence[Tensor], uppers: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        return torch.maximum(*lowers), torch.minimum(*uppers)

    def undecided(self, lowers: Sequence[Tensor], uppers: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return tuple(torch.zeros_like(low, dtype=torch.bool) for low in lowers)

    def multipliers(self, lowers: Sequence[Tensor], uppers: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """All of y: on vision transformers half of both, or the one with the narrower interval, starts lower."""
        return (torch.zeros_like(lowers[0]),)

    def lines(
        self, lowers: Sequence[Tensor], uppers: Sequence[Tensor], multipliers: Sequence[Tensor] | None = None
    ) -> Lines:
        """The two shares sum to one exactly: one of the two differences is exact (Sterbenz 1974)."""
        share = (self.multipliers(lowers, uppers) if multipliers is None else multipliers)[0].clamp(0, 1)
        second = 1.0 - share
        return 1.0 - second, second

    def pull(self, rows: Tensor, lines: Lines) -> Pulled:
        parts = rows * lines[0], rows * lines[1]
        zero = rows.new_zeros(rows.shape[: rows.dim() - self.rank])
        return Pulled(parts, zero, zero)

    def push(self, rows: Tensor, lines: Lines, *inputs: Tensor) -> Tensor:
        return lines[0] * inputs[0] + lines[1] * inputs[1]

    def gradient(self, rows: Tensor, lines: Lines, *inputs: Tensor) -> tuple[Tensor, ...]:
        return (rows * (inputs[0] - inputs[1]),)

    def project(
        self, multipliers: Sequence[Tensor], lowers: Sequence[Tensor], uppers: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        return tuple(m.clamp(0, 1) for m in multipliers)
