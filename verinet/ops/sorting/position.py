"""An integer that the network computes and then uses as a position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from verinet.ops.base import Frame, Lines
from verinet.ops.scalar import Elementwise
from verinet.ops.scalar_function import ScalarFunction


def _function(top: int) -> ScalarFunction:
    """x cut off above `top`, for x >= 0; a lower end just below 0 is rounding, since x is an integer."""
    return ScalarFunction(
        name="Position",
        value=lambda x: x.clamp(min=0.0, max=float(top)),
        slope=lambda x: ((x > 0) & (x < top)).to(x.dtype),
        breakpoints=(0.0, float(top)),
        curvature=(0, 0, 0),
        kinks=(0.0, float(top)),
        bounds=(0.0, float(top)),
        slope_range=(0.0, 1.0),
        domain=(-0.5, float("inf")),
        error_ulps=0.0,
        error_floor=0.0,
        slope_ulps=0.0,
    )


def position(top: int, rank: int) -> Position:
    """min(x, top) for integers x >= 0; `rank` counts the event axes."""
    return Position(_function(top), rank)


@dataclass(frozen=True)
class Position(Elementwise):
    """min(x, top) where x is known to be an integer: bounds are rounded inward to integers.

    So a split between two integers is exact on both sides, which a split of the real number before the rounding cannot
    be: the limit of a jump belongs to both of its closed sides. Raises `DomainError` where x may be negative.
    """

    kind: ClassVar[str] = "Position"

    def _ends(self, lowers: Sequence[Tensor], uppers: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        low, high = super().interval(lowers, uppers)
        return low.ceil(), high.floor()

    def interval(self, lowers: Sequence[Tensor], uppers: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        return self._ends(lowers, uppers)

    def undecided(self, lowers: Sequence[Tensor], uppers: Sequence[Tensor]) -> tuple[Tensor, ...]:
        low, high = self._ends(lowers, uppers)
        return (high > low,)

    def framed_lines(self, frame: Frame, multipliers: Sequence[Tensor]) -> Lines:
        """Constants where one integer is left."""
        low_slope, low_offset, high_slope, high_offset, *touches = super().framed_lines(frame, multipliers)
        low, high = self._ends(frame.lowers, frame.uppers)
        single, zero = (high == low).expand_as(low_offset), torch.zeros_like(low_offset)
        return (
            *(torch.where(single, zero, low_slope), torch.where(single, low.expand_as(zero), low_offset)),
            *(torch.where(single, zero, high_slope), torch.where(single, low.expand_as(zero), high_offset)),
            *touches,
        )

    def branch_points(self, lower: Tensor, upper: Tensor) -> Tensor:
        """Half-way between two integers near the middle."""
        low, high = self._ends([lower], [upper])
        return (((low + high) * 0.5).floor() + 0.5).unsqueeze(-1)
