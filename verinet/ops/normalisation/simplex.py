"""What entries that sum to one add to bounds of rows over them: a . p = (a - c) . p + c for any number c."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from verinet.numerics.rounding import gamma, tiny


class Shifted(NamedTuple):
    """Rows after subtracting one number per group (..., 1); `scale` is how far `lean` = 1 moves it.

    `mark` is the derivative of the shift with respect to the rows: rows . mark = shift.
    """

    rows: Tensor
    shift: Tensor
    scale: Tensor
    mark: Tensor

    @classmethod
    def none(cls, rows: Tensor, zero: Tensor) -> Shifted:
        """No shift; `zero` is (..., 1)."""
        return cls(rows, zero, zero, zero)

    @classmethod
    def best(cls, rows: Tensor, middles: tuple[Tensor, Tensor], lean: Tensor) -> Shifted:
        """The shift that makes the bound largest where the planes have the values `middles`, moved by `lean`.

        Its derivative there is 1 minus the sum of the planes that the signs select; it changes sign at a coefficient.
        """
        low, high = middles
        values, order = rows.sort(-1)
        gaps = (high - low).clamp(min=0).expand(rows.shape).gather(-1, order)
        missing = 1.0 - low.sum(-1, keepdim=True)
        place = (gaps.cumsum(-1) < missing).sum(-1, keepdim=True).clamp(max=rows.shape[-1] - 1)
        chosen = torch.zeros_like(rows).scatter(-1, order.gather(-1, place), 1.0)
        shift = values.gather(-1, place)
        away = rows - shift
        scale, signs = away.abs().mean(-1, keepdim=True), away.sign() / rows.shape[-1]
        mark = chosen + lean * (signs - chosen * signs.sum(-1, keepdim=True))
        shift = shift + lean * scale
        return cls(rows - shift, shift, scale, mark)


def cheapest(rows: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """A lower bound (..., 1) of rows . p for low <= p <= high with sum p = 1, and about the p that attains it (..., K).

    What is missing above `low` goes to the smallest coefficients first. By duality the value is c + sum_k (a_k - c)
    times low_k or high_k for the coefficient c at which nothing is left over, and holds for any c.
    """
    values, order = rows.sort(-1)
    low, high = (t.expand(rows.shape).gather(-1, order) for t in (low, high))
    room = (high - low).clamp(min=0)
    left = (1.0 - low.sum(-1, keepdim=True)).clamp(min=0)
    given = torch.minimum(room, (left - (room.cumsum(-1) - room)).clamp(min=0))
    place = (room.cumsum(-1) < left).sum(-1, keepdim=True).clamp(max=rows.shape[-1] - 1)
    level = values.gather(-1, place)
    away = values - level
    terms = torch.where(away >= 0, away * low, away * high)
    size = (values.abs() + level.abs()) * torch.maximum(low.abs(), high.abs())
    charge = (size.sum(-1, keepdim=True) + level.abs()) * gamma(rows.shape[-1] + 8, rows.dtype)
    best = terms.sum(-1, keepdim=True) + level - charge - tiny(rows.dtype)
    return best, torch.zeros_like(low).scatter(-1, order, low + given)
