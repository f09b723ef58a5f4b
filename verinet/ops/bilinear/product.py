"""x * y for two variables, by the one-parameter McCormick family (McCormick 1976)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from verinet.ir.graph import Shape
from verinet.numerics.rounding import tiny
from verinet.ops.base import Lines, Pulled
from verinet.ops.bilinear.events import summed_event
from verinet.ops.bilinear.two import PlanesOfTwo


@dataclass(frozen=True)
class Product(PlanesOfTwo):
    """z = x * y with broadcasting; `left` and `right` are the event shapes.

    Lower planes: slopes k_x = r y_l + (1-r) y_u, k_y = r x_l + (1-r) x_u for any r in [0, 1]; upper planes:
    k_x = r y_u + (1-r) y_l, k_y = r x_l + (1-r) x_u. Whatever the slopes, x y - k_x x - k_y y is bilinear, so its
    extreme values over the box are at the four corners: the intercept is computed there and is rigorous.
    `limit` is a bound of |z| that the surrounding network guarantees (infinite if there is none).
    Lines: (lower_x, lower_y, lower_offset, upper_x, upper_y, upper_offset, x_l, x_u, y_l, y_u).
    """

    kind: ClassVar[str] = "Mul"
    left: Shape
    right: Shape
    limit: float = float("inf")

    def forward(self, *inputs: Tensor) -> Tensor:
        x, y = self._align(inputs)
        return x * y

    def interval(self, lowers: Sequence[Tensor], uppers: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        (xl, yl), (xu, yu) = self._align(lowers), self._align(uppers)
        corners = torch.stack(torch.broadcast_tensors(xl * yl, xl * yu, xu * yl, xu * yu))
        low, high = corners.amin(0), corners.amax(0)
        eps, slack = torch.finfo(low.dtype).eps, tiny(low.dtype)
        low, high = low - low.abs() * eps - slack, high + high.abs() * eps + slack
        return low.clamp(min=-self.limit), high.clamp(max=self.limit)

    def undecided(self, lowers: Sequence[Tensor], uppers: Sequence[Tensor]) -> tuple[Tensor, ...]:
        (xl, yl), (xu, yu) = self._align(lowers), self._align(uppers)
        wide_x, wide_y = xu - xl > 1e-9 * (1 + xu.abs()), yu - yl > 1e-9 * (1 + yu.abs())
        both = (wide_x & wide_y).to(xl.dtype)
        masks = (summed_event(both, shape, self.rank) > 0 for shape in (self.left, self.right))
        return tuple(masks)

    def multipliers(self, lowers: Sequence[Tensor], uppers: Sequence[Tensor]) -> tuple[Tensor, ...]:
        x, y = self._align(lowers)
        half = torch.full(torch.broadcast_shapes(x.shape, y.shape), 0.5, dtype=x.dtype, device=x.device)
        return half, half.clone()

    def lines(
        self, lowers: Sequence[Tensor], uppers: Sequence[Tensor], multipliers: Sequence[Tensor] | None = None
    ) -> Lines:
        (xl, yl), (xu, yu) = self._align(lowers), self._align(uppers)
        low, high = multipliers if multipliers is not None else self.multipliers(lowers, uppers)
        lower_x, lower_y = low * yl + (1 - low) * yu, low * xl + (1 - low) * xu
        upper_x, upper_y = high * yu + (1 - high) * yl, high * xl + (1 - high) * xu
        corners = ((xl, yl), (xl, yu), (xu, yl), (xu, yu))
        # Five roundings per corner: 8 eps of the absolute terms covers them.
        pad = 8 * torch.finfo(xl.dtype).eps
        size = torch.maximum(xl.abs(), xu.abs()) * torch.maximum(yl.abs(), yu.abs())

        def gaps(slope_x: Tensor, slope_y: Tensor) -> tuple[Tensor, Tensor]:
            slack = pad * (size + slope_x.abs() * torch.maximum(xl.abs(), xu.abs()))
            slack = slack + pad * slope_y.abs() * torch.maximum(yl.abs(), yu.abs()) + tiny(xl.dtype)
            return torch.stack([x * y - slope_x * x - slope_y * y for x, y in corners]), slack

        below, below_slack = gaps(lower_x, lower_y)
        above, above_slack = gaps(upper_x, upper_y)
        return (
            *(lower_x, lower_y, below.amin(0) - below_slack),
            *(upper_x, upper_y, above.amax(0) + above_slack),
            *(xl, xu, yl, yu),
        )

    def pull(self, rows: Tensor, lines: Lines) -> Pulled:
        x_l, x_u, y_l, y_u = lines[6:10]
        reach = torch.maximum(x_l.abs(), x_u.abs()), torch.maximum(y_l.abs(), y_u.abs())
        return self._pulled(rows, lines, reach)

    def gradient(self, rows: Tensor, lines: Lines, *inputs: Tensor) -> tuple[Tensor, ...]:
        x, y = self._align(inputs)
        xl, xu, yl, yu = lines[6:10]
        lower = (yl - yu) * x + (xl - xu) * y - xl * yl + xu * yu
        upper = (yu - yl) * x + (xl - xu) * y - xl * yu + xu * yl
        return rows.clamp(min=0) * lower, rows.clamp(max=0) * upper
