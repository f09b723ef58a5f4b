"""Views: the same entries under another shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from verinet.ir.graph import Shape
from verinet.ops.base import LinearOp
from verinet.ops.linear.broadcast import align, unbroadcast


@dataclass(frozen=True)
class Reshape(LinearOp):
    """The same entries, in C order, under the shape `shape`."""

    kind: ClassVar[str] = "Reshape"
    moves_only: ClassVar[bool] = True
    diagonal: ClassVar[bool] = True
    shape: Shape

    def linear(self, *inputs: Tensor) -> Tensor:
        return inputs[0].reshape(inputs[0].shape[0], *self.shape)

    def pullback(self, rows: Tensor, shapes: Sequence[Shape]) -> tuple[Tensor, ...]:
        return (rows.reshape(rows.shape[0], *shapes[0]),)

    def terms(self, shapes: Sequence[Shape], out: Shape) -> int:
        return 0


@dataclass(frozen=True)
class Broadcast(LinearOp):
    """Numpy broadcasting of one variable to `shape` (ONNX Expand)."""

    kind: ClassVar[str] = "Expand"
    moves_only: ClassVar[bool] = True
    shape: Shape

    def linear(self, *inputs: Tensor) -> Tensor:
        return align(inputs[0], len(self.shape)).expand(inputs[0].shape[0], *self.shape)

    def pullback(self, rows: Tensor, shapes: Sequence[Shape]) -> tuple[Tensor, ...]:
        return (unbroadcast(rows, shapes[0]),)
