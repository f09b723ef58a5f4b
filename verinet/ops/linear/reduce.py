"""Sums over axes and over sliding windows; means are these followed by a scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from verinet.ir.graph import Shape, total
from verinet.ops.base import LinearOp
from verinet.ops.linear.windows import Windows, crop, offsets, pad, taps


@dataclass(frozen=True)
class Sum(LinearOp):
    """Sum over `axes` (of the ONNX shape, all >= 0, without repetition)."""

    kind: ClassVar[str] = "Sum"
    axes: tuple[int, ...]
    keepdims: bool = True

    @property
    def _shifted(self) -> list[int]:
        return [axis + 1 for axis in self.axes]

    def linear(self, *inputs: Tensor) -> Tensor:
        return inputs[0].sum(self._shifted, keepdim=self.keepdims) if self.axes else inputs[0]

    def pullback(self, rows: Tensor, shapes: Sequence[Shape]) -> tuple[Tensor, ...]:
        kept = [1 if axis in self.axes else extent for axis, extent in enumerate(shapes[0])]
        return (rows.reshape(rows.shape[0], *kept).expand(rows.shape[0], *shapes[0]),)

    def terms(self, shapes: Sequence[Shape], out: Shape) -> int:
        return total(shapes[0]) // max(total(out), 1) + 4


@dataclass(frozen=True)
class WindowSum(LinearOp):
    """Sum over sliding windows with zero padding: (1, C, *spatial) to (1, C, *windows.out). The base of AveragePool."""

    kind: ClassVar[str] = "WindowSum"
    windows: Windows

    def linear(self, *inputs: Tensor) -> Tensor:
        padded = pad(inputs[0], self.windows)
        parts = [padded[index] for index in taps(self.windows)]
        result = parts[0].clone()
        for part in parts[1:]:
            result += part
        return result

    def pullback(self, rows: Tensor, shapes: Sequence[Shape]) -> tuple[Tensor, ...]:
        spatial = tuple(shapes[0][2:])
        padded = rows.new_zeros(*rows.shape[:3], *self.windows.padded(spatial))
        for index in taps(self.windows):
            padded[index] += rows
        return (crop(padded, self.windows, spatial),)

    def terms(self, shapes: Sequence[Shape], out: Shape) -> int:
        return len(offsets(self.windows)) + 4


def window_counts(windows: Windows, spatial: Shape) -> Tensor:
    """How many entries that are not padding each window sees: (*windows.out), float64."""
    ones = torch.ones(1, 1, 1, *spatial, dtype=torch.float64)
    return WindowSum(windows).linear(ones)[0, 0, 0]
