"""Fast path for f(x) = n x below 0 and p x above, n <= p: ReLU, LeakyReLU and |x|.

The only upper line worth having is the chord; the lower lines through the origin, a x with n <= a <= p, touch f at 0
and so need no offset. One multiplier per entry: a. Both slopes are exact in float32, so decided entries are exact too.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from verinet.numerics.rounding import tiny
from verinet.ops.base import Lines, Pulled, event_sum, select


@dataclass(frozen=True)
class Hinge:
    """Slopes of the two sides."""

    negative: float
    positive: float

    @property
    def relu(self) -> bool:
        return self.negative == 0.0 and self.positive == 1.0

    def forward(self, x: Tensor) -> Tensor:
        if self.relu:
            return x.clamp(min=0)
        return torch.where(x >= 0, x * self.positive, x * self.negative)

    def interval(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Exact for ReLU and |x|, else outward by a rounding."""
        if self.relu:
            return lower.clamp(min=0), upper.clamp(min=0)
        at_lower, at_upper = self.forward(lower), self.forward(upper)
        low, high = torch.minimum(at_lower, at_upper), torch.maximum(at_lower, at_upper)
        turning = self.negative < 0 < self.positive
        if turning:
            low = torch.where((lower < 0) & (upper > 0), torch.zeros_like(low), low)
        if {self.negative, self.positive} <= {-1.0, 0.0, 1.0}:
            return low, high
        eps, slack = torch.finfo(low.dtype).eps, tiny(low.dtype)
        low, high = low - low.abs() * eps - slack, high + high.abs() * eps + slack
        return (low.clamp(min=0) if turning else low), high

    def undecided(self, lower: Tensor, upper: Tensor) -> Tensor:
        return (lower < 0) & (upper > 0)

    def default(self, lower: Tensor, upper: Tensor) -> Tensor:
        """The steeper side where it has more room: it leaves the smaller area."""
        return torch.where(upper + lower >= 0, self._like(lower, self.positive), self._like(lower, self.negative))

    @staticmethod
    def _like(x: Tensor, value: float) -> Tensor:
        return torch.full((), value, dtype=x.dtype, device=x.device)

    def frame(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, ...]:
        """All of `lines` that the bounds decide: (least, most) legal slope below; slope and offset above; zeros.

        The upper line is the chord with slope s and offset max(n l - s l, p u - s u), rounded up: any s is sound with
        that offset since f - s x is convex. Rounding of the two products and differences is below
        eps (|s| + max(|n|, |p|)) (u - l) each; four of these are charged.
        """
        low, high = lower.clamp(max=0), upper.clamp(min=0)
        size, on, some = torch.finfo(lower.dtype), lower >= 0, ~(upper <= 0)  # a NaN bound decides nothing
        width = (high - low).clamp(min=size.tiny)
        if self.relu:
            slope = high / width
            least, most = on.to(lower.dtype), some.to(lower.dtype)
            raw = torch.maximum(-slope * low, high - slope * high)
            pad = high * (4 * size.eps) + tiny(lower.dtype)
        else:
            n, p = self.negative, self.positive
            slope = ((high * p - low * n) / width).clamp(n, p)
            flat, steep = self._like(lower, n), self._like(lower, p)
            least, most = torch.where(on, steep, flat), torch.where(some, steep, flat)
            slope = torch.where(some, torch.where(on, steep, slope), flat)
            raw = torch.maximum(low * n - slope * low, high * p - slope * high)
            pad = width * (8 * size.eps * max(abs(n), abs(p))) + tiny(lower.dtype)
        offset = torch.where(some & ~on, raw.clamp(min=0) + pad, torch.zeros_like(raw))
        return least, most, slope, offset, self._like(lower, 0.0).expand_as(lower)

    def lines(self, frame: tuple[Tensor, ...], alpha: Tensor) -> Lines:
        """Lower line a x with the legal slope nearest to `alpha`, upper line the chord."""
        least, most, slope, offset, none = frame
        return torch.clamp(alpha, least, most), none, slope, offset, none, none

    def pull(self, rows: Tensor, lines: Lines, rank: int) -> Pulled:
        """Lower lines have no offset, and upper ones have offsets >= 0: one sum serves value and magnitude."""
        below, _, slope, offset = lines[:4]
        size = event_sum(rows.clamp(max=0) * offset, rank)
        return Pulled((rows * select(rows, below, slope),), size, -size)

    def push(self, rows: Tensor, lines: Lines, x: Tensor) -> Tensor:
        """Value of the selected line."""
        low, high = lines[0] * x, torch.addcmul(lines[3], lines[2], x)
        return select(rows, low, high)

    def gradient(self, rows: Tensor, lines: Lines, x: Tensor) -> tuple[Tensor, ...]:
        """Only crossing entries (their upper offset is positive) have a slope to choose."""
        return (torch.where(lines[3] > 0, rows.clamp(min=0) * x, torch.zeros_like(x)),)

    def project(self, alpha: Tensor) -> Tensor:
        return alpha.clamp(self.negative, self.positive)
