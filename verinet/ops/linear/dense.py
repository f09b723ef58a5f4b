"""Products with a constant matrix: Gemm and MatMul."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from verinet.ir.graph import Shape
from verinet.ops.base import LinearOp
from verinet.ops.linear.broadcast import align, unbroadcast


@dataclass(frozen=True, eq=False)
class Dense(LinearOp):
    """y = x @ weight (+ offset) on the last axis: (..., n) to (..., m).

    `weight` is (n, m); `offset` broadcasts to the output shape.
    """

    kind: ClassVar[str] = "Dense"
    weight: Tensor
    offset: Tensor | None = None

    @cached_property
    def _absolute(self) -> Tensor:
        return self.weight.abs()

    def linear(self, *inputs: Tensor) -> Tensor:
        return _rows_times(inputs[0], self.weight)

    def magnitude(self, *radii: Tensor) -> Tensor:
        return _rows_times(radii[0], self._absolute)

    def pullback(self, rows: Tensor, shapes: Sequence[Shape]) -> tuple[Tensor, ...]:
        return (_rows_times(rows, self.weight.T),)

    def bias(self) -> Tensor | None:
        return self.offset

    def terms(self, shapes: Sequence[Shape], out: Shape) -> int:
        # n products and sums forward, m backward; a weight or offset may carry the rounding of Gemm's alpha and beta.
        return max(self.weight.shape[0], self.weight.shape[1]) + 8


def _rows_times(x: Tensor, matrix: Tensor) -> Tensor:
    # One 2-D product: torch would otherwise run a batch of (1, n) @ (n, m) products.
    flat = x.reshape(-1, matrix.shape[0])
    return (flat @ matrix).reshape(*x.shape[:-1], matrix.shape[1])


@dataclass(frozen=True, eq=False)
class MatMulConst(LinearOp):
    """x @ matrix, or matrix @ x if `left`, with numpy broadcasting of all but the last two axes.

    `matrix` and x have at least two axes each (vectors are reshaped by the reader).
    """

    kind: ClassVar[str] = "MatMul"
    matrix: Tensor
    left: bool = False

    @cached_property
    def _absolute(self) -> Tensor:
        return self.matrix.abs()

    def _apply(self, x: Tensor, matrix: Tensor) -> Tensor:
        x = align(x, matrix.dim())
        return torch.matmul(matrix, x) if self.left else torch.matmul(x, matrix)

    def linear(self, *inputs: Tensor) -> Tensor:
        return self._apply(inputs[0], self.matrix)

    def magnitude(self, *radii: Tensor) -> Tensor:
        return self._apply(radii[0], self._absolute)

    def pullback(self, rows: Tensor, shapes: Sequence[Shape]) -> tuple[Tensor, ...]:
        adjoint = self.matrix.transpose(-1, -2)
        full = torch.matmul(adjoint, rows) if self.left else torch.matmul(rows, adjoint)
        return (unbroadcast(full, shapes[0]),)

    def terms(self, shapes: Sequence[Shape], out: Shape) -> int:
        # Backward also sums over the copies that broadcasting made of x.
        copies = max(self.matrix[..., 0, 0].numel(), 1)
        return max(self.matrix.shape[-1], self.matrix.shape[-2]) + copies + 8
