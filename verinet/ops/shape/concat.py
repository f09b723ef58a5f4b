"""Several variables side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from verinet.ir.graph import Shape
from verinet.ops.base import LinearOp


@dataclass(frozen=True)
class Concat(LinearOp):
    """Joins its inputs along one axis (>= 0) of the ONNX shape."""

    kind: ClassVar[str] = "Concat"
    moves_only: ClassVar[bool] = True
    diagonal: ClassVar[bool] = True
    axis: int

    def linear(self, *inputs: Tensor) -> Tensor:
        return torch.cat(inputs, self.axis + 1)

    def pullback(self, rows: Tensor, shapes: Sequence[Shape]) -> tuple[Tensor, ...]:
        return torch.split(rows, [shape[self.axis] for shape in shapes], self.axis + 1)

    def terms(self, shapes: Sequence[Shape], out: Shape) -> int:
        return 0
