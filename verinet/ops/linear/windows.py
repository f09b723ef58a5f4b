"""Geometry of sliding windows, in any number of spatial axes."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from types import EllipsisType

import torch
from torch import Tensor

from verinet.ir.graph import Shape

Slices = tuple[EllipsisType | slice, ...]


@dataclass(frozen=True)
class Windows:
    """Sliding windows over the last axes of a tensor. All tuples have one entry per spatial axis.

    `out` is the number of windows per axis, kept explicitly: with ceil_mode or output_padding it does not follow
    from the rest. Pads may be negative (cropping).
    """

    kernel: Shape
    strides: Shape
    dilations: Shape
    begin: Shape  # padding in front
    end: Shape  # padding behind
    out: Shape

    @property
    def axes(self) -> int:
        return len(self.kernel)

    def reach(self) -> Shape:
        """Extent that the windows cover, padding included."""
        rows = zip(self.out, self.strides, self.dilations, self.kernel, strict=True)
        return tuple((count - 1) * stride + dilation * (size - 1) + 1 for count, stride, dilation, size in rows)

    def padded(self, spatial: Shape) -> Shape:
        """Extent after padding; never less than the windows reach (ceil_mode looks beyond the padding)."""
        rows = zip(spatial, self.begin, self.end, self.reach(), strict=True)
        return tuple(max(extent + front + back, reach) for extent, front, back, reach in rows)

    @property
    def is_pointwise(self) -> bool:
        """A 1x1 window that visits every entry once: no gathering needed."""
        ones = (1,) * self.axes
        zeros = (0,) * self.axes
        return self.kernel == ones and self.strides == ones and self.begin == zeros and self.end == zeros


def pad(x: Tensor, windows: Windows) -> Tensor:
    """Zero padding of the last axes to `windows.padded`."""
    spatial = tuple(x.shape[-windows.axes :])
    after = windows.padded(spatial)
    amounts: list[int] = []
    for extent, front, target in zip(reversed(spatial), reversed(windows.begin), reversed(after), strict=True):
        amounts += [front, target - extent - front]
    return torch.nn.functional.pad(x, amounts) if any(amounts) else x


def crop(padded: Tensor, windows: Windows, spatial: Shape) -> Tensor:
    """The adjoint of `pad`: drop the padding, (..., *windows.padded(spatial)) to (..., *spatial)."""
    amounts: list[int] = []
    after = padded.shape[-windows.axes :]
    for extent, front, target in zip(reversed(spatial), reversed(windows.begin), reversed(after), strict=True):
        amounts += [-front, extent + front - target]
    return torch.nn.functional.pad(padded, amounts) if any(amounts) else padded


def offsets(windows: Windows) -> list[Shape]:
    """Positions inside a window, in C order."""
    return list(itertools.product(*(range(size) for size in windows.kernel)))


def taps(windows: Windows) -> list[Slices]:
    """For every position inside a window, the slice of the padded tensor that it sees over all windows."""
    found: list[Slices] = []
    for offset in offsets(windows):
        rows = zip(offset, windows.dilations, windows.strides, windows.out, strict=True)
        parts = [slice(at * dil, at * dil + (count - 1) * stride + 1, stride) for at, dil, stride, count in rows]
        found.append((..., *parts))
    return found
