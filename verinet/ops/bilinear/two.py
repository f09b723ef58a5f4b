"""What all operators share that bound f(x, y) by planes, entry by entry with broadcasting."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from verinet.ir.graph import Shape
from verinet.ops.base import Lines, NonlinearOp, Pulled, event_sum, select
from verinet.ops.bilinear.events import aligned_event, summed_event


class PlanesOfTwo(NonlinearOp):
    """z = f(x, y); `left` and `right` are the event shapes of x and y.

    Lines begin with (lower x, lower y, lower offset, upper x, upper y, upper offset). Multipliers lie in [0, 1].
    """

    left: Shape
    right: Shape

    @property
    def rank(self) -> int:
        return max(len(self.left), len(self.right))

    def _align(self, pair: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        return aligned_event(pair[0], self.left, self.rank), aligned_event(pair[1], self.right, self.rank)

    def _summed(self, to_x: Tensor, to_y: Tensor) -> tuple[Tensor, Tensor]:
        return summed_event(to_x, self.left, self.rank), summed_event(to_y, self.right, self.rank)

    def _pulled(self, rows: Tensor, lines: Lines, reach: tuple[Tensor, Tensor]) -> Pulled:
        """`pull` for inputs of at most these absolute values."""
        to_x, to_y = rows * select(rows, lines[0], lines[3]), rows * select(rows, lines[1], lines[4])
        offset = rows * select(rows, lines[2], lines[5])
        # Summing broadcast axes rounds relative to the terms, not to their sum, so the terms are charged here.
        size = offset.abs() + to_x.abs() * reach[0] + to_y.abs() * reach[1]
        return Pulled(self._summed(to_x, to_y), event_sum(offset, self.rank), event_sum(size, self.rank))

    def push(self, rows: Tensor, lines: Lines, *inputs: Tensor) -> Tensor:
        x, y = self._align(inputs)
        low = lines[0] * x + lines[1] * y + lines[2]
        return select(rows, low, lines[3] * x + lines[4] * y + lines[5])

    def project(
        self, multipliers: Sequence[Tensor], lowers: Sequence[Tensor], uppers: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        return tuple(m.clamp(0, 1) for m in multipliers)

    def blame(self, amount: Tensor, lowers: Sequence[Tensor], uppers: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return self._summed(amount, amount)

    def slopes(self, lines: Lines) -> tuple[Sequence[Tensor], Tensor, Sequence[Tensor], Tensor] | None:
        return lines[0:2], lines[2], lines[3:5], lines[5]

    def aligned(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        return self._align(tensors)
