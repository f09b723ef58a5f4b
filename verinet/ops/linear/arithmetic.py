"""Sums of two variables, and sums and products with constants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from torch import Tensor

from verinet.ir.graph import Shape, total
from verinet.ops.base import LinearOp
from verinet.ops.linear.broadcast import align, unbroadcast


def _together(inputs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    left, right = inputs
    return align(left, right.dim() - 1), align(right, left.dim() - 1)


def _copies(shapes: Sequence[Shape], out: Shape) -> int:
    """How often the most repeated input entry occurs in the output."""
    return max(total(out) // max(total(shape), 1) for shape in shapes)


@dataclass(frozen=True)
class Add(LinearOp):
    """x + y with broadcasting."""

    kind: ClassVar[str] = "Add"

    def linear(self, *inputs: Tensor) -> Tensor:
        left, right = _together(inputs)
        return left + right

    def pullback(self, rows: Tensor, shapes: Sequence[Shape]) -> tuple[Tensor, ...]:
        return unbroadcast(rows, shapes[0]), unbroadcast(rows, shapes[1])

    def terms(self, shapes: Sequence[Shape], out: Shape) -> int:
        return _copies(shapes, out) + 4


@dataclass(frozen=True)
class Subtract(LinearOp):
    """x - y with broadcasting."""

    kind: ClassVar[str] = "Sub"

    def linear(self, *inputs: Tensor) -> Tensor:
        left, right = _together(inputs)
        return left - right

    def magnitude(self, *radii: Tensor) -> Tensor:
        left, right = _together(radii)
        return left + right

    def pullback(self, rows: Tensor, shapes: Sequence[Shape]) -> tuple[Tensor, ...]:
        return unbroadcast(rows, shapes[0]), unbroadcast(-rows, shapes[1])

    def terms(self, shapes: Sequence[Shape], out: Shape) -> int:
        return _copies(shapes, out) + 4


@dataclass(frozen=True, eq=False)
class Scale(LinearOp):
    """x * factor; `factor` broadcasts to the shape of x, and never the other way round.

    The factor may itself be rounded (1/c for a division, gamma/sqrt(var + eps)): up to eight units.
    """

    kind: ClassVar[str] = "Scale"
    diagonal: ClassVar[bool] = True
    factor: Tensor

    @cached_property
    def _absolute(self) -> Tensor:
        return self.factor.abs()

    def linear(self, *inputs: Tensor) -> Tensor:
        return inputs[0] * self.factor

    def magnitude(self, *radii: Tensor) -> Tensor:
        return radii[0] * self._absolute

    def pullback(self, rows: Tensor, shapes: Sequence[Shape]) -> tuple[Tensor, ...]:
        return (rows * self.factor,)

    def terms(self, shapes: Sequence[Shape], out: Shape) -> int:
        return 10


@dataclass(frozen=True, eq=False)
class Shift(LinearOp):
    """x + offset; `offset` broadcasts to the shape of x, and never the other way round."""

    kind: ClassVar[str] = "Shift"
    diagonal: ClassVar[bool] = True
    offset: Tensor

    def linear(self, *inputs: Tensor) -> Tensor:
        return inputs[0]

    def pullback(self, rows: Tensor, shapes: Sequence[Shape]) -> tuple[Tensor, ...]:
        return (rows,)

    def bias(self) -> Tensor | None:
        return self.offset

    def terms(self, shapes: Sequence[Shape], out: Shape) -> int:
        return 4


@dataclass(frozen=True)
class Negate(LinearOp):
    """-x: exact in floating point."""

    kind: ClassVar[str] = "Neg"
    diagonal: ClassVar[bool] = True

    def linear(self, *inputs: Tensor) -> Tensor:
        return -inputs[0]

    def magnitude(self, *radii: Tensor) -> Tensor:
        return radii[0]

    def pullback(self, rows: Tensor, shapes: Sequence[Shape]) -> tuple[Tensor, ...]:
        return (-rows,)

    def terms(self, shapes: Sequence[Shape], out: Shape) -> int:
        return 2
