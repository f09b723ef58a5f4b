"""max over the last axis: max-pooling and Max, after an index operator has gathered the candidates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from verinet.numerics.rounding import tiny
from verinet.ops.base import Lines, NonlinearOp, Pulled, event_sum


@dataclass(frozen=True)
class MaxLast(NonlinearOp):
    """y = max_i x_i over the last axis, (..., m) to (...). `rank` counts the event axes of the *output*.

    Below: y >= sum_i w_i x_i for w on the simplex. Above, for any slopes s_i in [0, 1]:
    y - sum_i s_i x_i <= max_i (u_i - s_i (u_i - l_i)) - sum_i s_i l_i, because for the index that attains the maximum
    the others are best at their lower ends. s_i = (u_i - t)+ / (u_i - l_i) for a threshold t >= max_i l_i gives the
    tight family; both intercepts are evaluated for the rounded slopes.
    Multipliers: (w, t). Lines: (w, lower_offset, s, upper_offset, 1 / width of active entries, l / width).
    """

    kind: ClassVar[str] = "Max"
    rank: int

    def forward(self, *inputs: Tensor) -> Tensor:
        return inputs[0].amax(-1)

    def interval(self, lowers: Sequence[Tensor], uppers: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        return lowers[0].amax(-1), uppers[0].amax(-1)

    def undecided(self, lowers: Sequence[Tensor], uppers: Sequence[Tensor]) -> tuple[Tensor, ...]:
        low, high = lowers[0], uppers[0]
        alive = high > low.amax(-1, keepdim=True)
        return (alive & (alive.sum(-1, keepdim=True) > 1),)

    def multipliers(self, lowers: Sequence[Tensor], uppers: Sequence[Tensor]) -> tuple[Tensor, ...]:
        low, high = lowers[0], uppers[0]
        # A dominating candidate has the largest lower end; otherwise the largest middle is the better guess.
        dominates = low.amax(-1) >= self._second(high)
        best = torch.where(dominates, low.argmax(-1), (low + high).argmax(-1))
        weights = torch.nn.functional.one_hot(best, low.shape[-1]).to(low.dtype)
        return weights, torch.maximum(self._second(high), low.amax(-1))

    @staticmethod
    def _second(high: Tensor) -> Tensor:
        return high.topk(min(2, high.shape[-1]), dim=-1).values[..., -1]

    def lines(
        self, lowers: Sequence[Tensor], uppers: Sequence[Tensor], multipliers: Sequence[Tensor] | None = None
    ) -> Lines:
        low, high = lowers[0], uppers[0]
        weights, threshold = multipliers if multipliers is not None else self.multipliers(lowers, uppers)
        eps = torch.finfo(low.dtype).eps
        size = torch.maximum(low.abs(), high.abs()).amax(-1)
        weights = weights.clamp(min=0)  # below the maximum for weights >= 0 only
        total = weights.sum(-1)
        exact = ((weights == 0) | (weights == 1)).all(-1) & (total == 1)
        drift = torch.where(exact, 0.0, ((1 - total).abs() + 2 * low.shape[-1] * eps) * size)
        width = high - low
        above = (high - threshold.unsqueeze(-1)).clamp(min=0)
        slopes = torch.where(width > 0, above / torch.where(width > 0, width, 1.0), (above > 0).to(low.dtype)).clamp(
            max=1
        )
        peak = (high - slopes * width).amax(-1)
        foot = (slopes * low).sum(-1)
        slack = (low.shape[-1] + 8) * eps * (size + (slopes * low.abs()).sum(-1)) + tiny(low.dtype)
        share = torch.where(width > 0, low / torch.where(width > 0, width, 1.0), torch.zeros_like(low))
        active = torch.where((above > 0) & (width > 0), 1.0 / torch.where(width > 0, width, 1.0), 0.0)
        return weights, -drift, slopes, peak - foot + slack, active, share

    def pull(self, rows: Tensor, lines: Lines) -> Pulled:
        positive, negative = rows.clamp(min=0), rows.clamp(max=0)
        to_input = positive.unsqueeze(-1) * lines[0] + negative.unsqueeze(-1) * lines[2]
        offset = positive * lines[1] + negative * lines[3]
        return Pulled((to_input,), event_sum(offset, self.rank), event_sum(offset.abs(), self.rank))

    def push(self, rows: Tensor, lines: Lines, *inputs: Tensor) -> Tensor:
        x = inputs[0]
        low, high = (lines[0] * x).sum(-1) + lines[1], (lines[2] * x).sum(-1) + lines[3]
        return torch.where(rows >= 0, low, high)

    def gradient(self, rows: Tensor, lines: Lines, *inputs: Tensor) -> tuple[Tensor, ...]:
        x = inputs[0]
        # d/dt of t + sum (u-t)/(u-l) (x-l) = 1 - sum over active i of (x_i - l_i)/(u_i - l_i)
        progress = (lines[4] * x - torch.where(lines[4] > 0, lines[5], 0.0)).sum(-1)
        return rows.clamp(min=0).unsqueeze(-1) * x, rows.clamp(max=0) * (1 - progress)

    def project(
        self, multipliers: Sequence[Tensor], lowers: Sequence[Tensor], uppers: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        weights, threshold = multipliers
        low, high = lowers[0].amax(-1), uppers[0].amax(-1)
        return _simplex(weights), torch.minimum(torch.maximum(threshold, low), high)

    def blame(self, amount: Tensor, lowers: Sequence[Tensor], uppers: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return (amount.unsqueeze(-1) * self.undecided(lowers, uppers)[0].to(amount.dtype),)


def _simplex(values: Tensor) -> Tensor:
    """Euclidean projection of the last axis on the simplex (Held, Wolfe and Crowder 1974)."""
    ordered = values.sort(dim=-1, descending=True).values
    counts = torch.arange(1, values.shape[-1] + 1, dtype=values.dtype, device=values.device)
    excess = (ordered.cumsum(-1) - 1) / counts
    last = (ordered > excess).sum(-1, keepdim=True).clamp(min=1) - 1
    return (values - excess.gather(-1, last)).clamp(min=0)
