"""Products whose right factor is known to lie in hulls of zonotopes, over the box of one query: see `mixtures`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from verinet.ir.graph import Op, Shape, total
from verinet.ops.base import Lines, NonlinearOp, Pulled, event_sum
from verinet.ops.bilinear.matmul import MatMulTwo, radius_around
from verinet.ops.bilinear.mixtures import Hull, Mixture
from verinet.ops.bilinear.product import Product
from verinet.ops.bilinear.tilts import Sides


class Mixed(NonlinearOp):
    """What products share that bound a row's own mixture of the right factor; asked only about parts of one box.

    `middle` (..., k, j) and `factor` (..., k, j, columns) promise that y_k - middle_k is in the hull that the columns
    span (`verinet.ops.bilinear.ellipsoids`).
    Lines: (centre and radius of x, of y, charge per output entry, tilts). Multipliers: the tilts, in [-1, 1].
    """

    left: Shape
    right: Shape
    middle: Tensor
    factor: Tensor
    unit: ClassVar[int]
    """How many unit axes the factors get to be matrices (..., i, k) and (..., k, j)."""

    def _matrices(self, pair: Sequence[Tensor]) -> Sides:
        return Sides(pair[0].unsqueeze(-1), pair[1].unsqueeze(-2)) if self.unit else Sides(pair[0], pair[1])

    def multipliers(self, lowers: Sequence[Tensor], uppers: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """All zero: the planes through the centre, which serve both factors alike."""
        x = self._matrices(lowers).x
        return (x.new_zeros(x.shape),)

    def lines(
        self, lowers: Sequence[Tensor], uppers: Sequence[Tensor], multipliers: Sequence[Tensor] | None = None
    ) -> Lines:
        """Sound for any multipliers: those outside [-1, 1] are moved to its ends."""
        low, high = self._matrices(lowers), self._matrices(uppers)
        tilt = (self.multipliers(lowers, uppers) if multipliers is None else multipliers)[0].clamp(-1, 1)
        x, y = (low.x + high.x) * 0.5, (low.y + high.y) * 0.5
        parts = x, radius_around(low.x, high.x, x), y, radius_around(low.y, high.y, y)
        charge = self._mixture((*parts, tilt, tilt)).charge(total(self.left[:-2]))
        return *parts, charge, tilt

    def _mixture(self, lines: Lines) -> Mixture:
        return Mixture(lines[0], lines[1], Hull(lines[2], lines[3], self.middle, self.factor), lines[5])

    def _rows(self, rows: Tensor) -> Tensor:
        wide = rows.expand(self.left[:-1] + self.right[-1:]) if rows.dim() == 0 else rows
        return wide.unsqueeze(-2) if self.unit else wide

    def _apart(self, to_x: Tensor, to_y: Tensor) -> tuple[Tensor, Tensor]:
        """Matrices of both factors in their own shapes."""
        return (to_x.squeeze(-1), to_y.squeeze(-2)) if self.unit else (to_x, to_y)

    def pull(self, rows: Tensor, lines: Lines) -> Pulled:
        mine, rank = self._rows(rows), len(self.right) + self.unit
        to_x, to_y, offset, size = self._mixture(lines).pull(mine)
        lost = event_sum(mine.abs() * lines[4], rank)
        return Pulled(self._apart(to_x, to_y), event_sum(offset, rank) - lost, event_sum(size, rank) + lost)

    def push(self, rows: Tensor, lines: Lines, *inputs: Tensor) -> Tensor:
        sides, mine = self._matrices(inputs), self._rows(rows)
        found = self._mixture(lines).push(mine, sides.x, sides.y) - mine.sign() * lines[4]
        return found.squeeze(-2) if self.unit else found

    def gradient(self, rows: Tensor, lines: Lines, *inputs: Tensor) -> tuple[Tensor, ...]:
        sides = self._matrices(inputs)
        return (self._mixture(lines).gradient(self._rows(rows), sides.x, sides.y),)

    def project(
        self, multipliers: Sequence[Tensor], lowers: Sequence[Tensor], uppers: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        return tuple(m.clamp(-1, 1) for m in multipliers)

    def halving_gains(
        self,
        rows: Tensor,
        lowers: Sequence[Tensor],
        uppers: Sequence[Tensor],
        inputs: Sequence[Tensor],
        upper: bool,
    ) -> tuple[Tensor, Tensor]:
        """Per entry of either factor, how much less loose the bound is at a point once its interval is halved.

        A score, no bound; see `MatMulTwo`. Half of one y_kj narrows a mixture only where its box is what bounds it.
        """
        mixture, point = self._mixture(self.lines(lowers, uppers)), self._matrices(inputs)
        return self._apart(*mixture.halving_gains(self._rows(rows), point.x, point.y, upper))

    def slopes(self, lines: Lines) -> None:
        """A row's planes are of all its entries at once."""


@dataclass(frozen=True, eq=False)
class MatMulMixed(Mixed, MatMulTwo):
    """z = x @ y, both of the same rank and with the same leading axes."""

    middle: Tensor = field(kw_only=True)
    factor: Tensor = field(kw_only=True)
    unit: ClassVar[int] = 0


@dataclass(frozen=True, eq=False)
class ProductMixed(Mixed, Product):
    """z = x * y with one number x for all entries of y along the last axis: `left` is `right` but for a last 1."""

    middle: Tensor = field(kw_only=True)
    factor: Tensor = field(kw_only=True)
    unit: ClassVar[int] = 1


def mixed(op: NonlinearOp, middle: Tensor, factor: Tensor) -> Mixed | None:
    """The same product with hulls for the rows of its right factor, (..., k, j) and (..., k, j, columns).

    None where the operator is of another kind, or broadcasts otherwise.
    """
    if isinstance(op, MatMulTwo) and op.left[:-2] == op.right[:-2]:
        return MatMulMixed(op.left, op.right, middle=middle, factor=factor)
    if isinstance(op, Product) and takes_rows(op):
        return ProductMixed(op.left, op.right, op.limit, middle=middle.unsqueeze(-2), factor=factor.unsqueeze(-3))
    return None


def takes_rows(op: Op) -> bool:
    """Whether `mixed` makes something of an operator."""
    if isinstance(op, MatMulTwo):
        return op.left[:-2] == op.right[:-2]
    return isinstance(op, Product) and op.left == (*op.right[:-1], 1) and op.right[-1] > 1
