"""Convolution and its transpose, each the adjoint of the other."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from types import EllipsisType
from typing import ClassVar

import torch
from torch import Tensor

from verinet.ir.graph import Shape
from verinet.ops.base import LinearOp
from verinet.ops.linear.windows import Windows, crop, pad, taps

_Action = Callable[[Tensor], Tensor]
_CHUNK = {"cpu": 1 << 18, "cuda": 1 << 27}
"""Entries of the column buffer per product. On a CPU larger ones leave the cache and get slower; on a GPU the buffer
should fill the device, but a gibibyte is enough."""
_FEW = 25


@dataclass(frozen=True, eq=False)
class Convolution(LinearOp):
    """ONNX Conv: (1, C, *spatial) to (1, O, *windows.out). `weight` is (O, C/groups, *kernel), `offset` (O,)."""

    kind: ClassVar[str] = "Conv"
    weight: Tensor
    windows: Windows
    groups: int = 1
    offset: Tensor | None = None

    @cached_property
    def _absolute(self) -> Tensor:
        return self.weight.abs()

    def linear(self, *inputs: Tensor) -> Tensor:
        return _with_lead(inputs[0], lambda x: correlate(x, self.weight, self.windows, self.groups))

    def magnitude(self, *radii: Tensor) -> Tensor:
        return _with_lead(radii[0], lambda x: correlate(x, self._absolute, self.windows, self.groups))

    def pullback(self, rows: Tensor, shapes: Sequence[Shape]) -> tuple[Tensor, ...]:
        spatial = tuple(shapes[0][2:])
        return (_with_lead(rows, lambda r: scatter(r, self.weight, self.windows, self.groups, spatial)),)

    def bias(self) -> Tensor | None:
        return _per_channel(self.offset, self.windows)

    def terms(self, shapes: Sequence[Shape], out: Shape) -> int:
        return _terms(self.weight, self.groups)


@dataclass(frozen=True, eq=False)
class TransposedConvolution(LinearOp):
    """ONNX ConvTranspose: (1, C, *windows.out) to (1, M, *spatial). `weight` is (C, M/groups, *kernel), `offset` (M,).

    `windows` are those of the convolution from the *output* to the input of this operator.
    """

    kind: ClassVar[str] = "ConvTranspose"
    weight: Tensor
    windows: Windows
    spatial: Shape
    groups: int = 1
    offset: Tensor | None = None

    @cached_property
    def _absolute(self) -> Tensor:
        return self.weight.abs()

    def linear(self, *inputs: Tensor) -> Tensor:
        return _with_lead(inputs[0], lambda x: scatter(x, self.weight, self.windows, self.groups, self.spatial))

    def magnitude(self, *radii: Tensor) -> Tensor:
        return _with_lead(radii[0], lambda x: scatter(x, self._absolute, self.windows, self.groups, self.spatial))

    def pullback(self, rows: Tensor, shapes: Sequence[Shape]) -> tuple[Tensor, ...]:
        return (_with_lead(rows, lambda r: correlate(r, self.weight, self.windows, self.groups)),)

    def bias(self) -> Tensor | None:
        return _per_channel(self.offset, self.windows)

    def terms(self, shapes: Sequence[Shape], out: Shape) -> int:
        return _terms(self.weight, self.groups)


def _with_lead(x: Tensor, act: _Action) -> Tensor:
    """Fold our leading axis into ONNX's batch axis (usually 1) and out again."""
    lead, batch = x.shape[:2]
    result = act(x.reshape(lead * batch, *x.shape[2:]))
    return result.reshape(lead, batch, *result.shape[1:])


def _per_channel(offset: Tensor | None, windows: Windows) -> Tensor | None:
    return None if offset is None else offset.reshape(-1, *(1,) * windows.axes)


def _terms(weight: Tensor, groups: int) -> int:
    # One product and one sum per tap: (C/g) taps one way, (O/g) the other way.
    taps_per_channel = math.prod(weight.shape[2:])
    return taps_per_channel * max(weight.shape[1], -(-weight.shape[0] // groups)) + 8


def correlate(x: Tensor, weight: Tensor, windows: Windows, groups: int) -> Tensor:
    """The convolution itself: (B, C, *spatial) to (B, O, *windows.out)."""
    if not _by_products(x, windows):
        return _library_correlate(x, weight, windows, groups)
    if _few_places(windows, groups) and not x.requires_grad:  # it writes into a buffer, which has no gradient
        return _correlate_few(x, weight, windows)
    outs, inner = weight.shape[0], weight.shape[1] * math.prod(weight.shape[2:])
    matrix = weight.reshape(groups, outs // groups, inner)
    places = math.prod(windows.out)
    results = []
    for part in _parts(x, groups * inner * places):
        columns = _columns(x[part], windows).reshape(-1, groups, inner, places)
        results.append(torch.matmul(matrix, columns))
    result = results[0] if len(results) == 1 else torch.cat(results)
    return result.reshape(x.shape[0], outs, *windows.out)


def scatter(rows: Tensor, weight: Tensor, windows: Windows, groups: int, spatial: Shape) -> Tensor:
    """The adjoint: (B, O, *windows.out) to (B, C, *spatial)."""
    if not _by_products(rows, windows):
        return _library_scatter(rows, weight, windows, groups, spatial)
    if _few_places(windows, groups):
        return _scatter_few(rows, weight, windows, spatial)
    outs, per_group = weight.shape[0] // groups, weight.shape[1]
    places = math.prod(windows.out)
    matrix = weight.reshape(groups, outs, -1).transpose(1, 2)
    padded = rows.new_zeros(rows.shape[0], groups * per_group, *windows.padded(spatial))
    inner = per_group * math.prod(windows.kernel)
    for part in _parts(rows, groups * inner * places):
        columns = torch.matmul(matrix, rows[part].reshape(-1, groups, outs, places))
        shaped = columns.reshape(-1, groups * per_group, math.prod(windows.kernel), *windows.out)
        target = padded[part]
        for tap, index in enumerate(taps(windows)):
            target[index] += shaped[:, :, tap]
    return crop(padded, windows, spatial)


def _few_places(windows: Windows, groups: int) -> bool:
    """Too few windows for a product per row: then one product over all rows, with the channels last.

    Measured with 256 rows and 64 to 128 channels: 3 to 18 times as fast for up to 3 x 3 windows, slower from 8 x 8 on.
    """
    return groups == 1 and math.prod(windows.out) <= _FEW


def _correlate_few(x: Tensor, weight: Tensor, windows: Windows) -> Tensor:
    """(B, C, *spatial) to (B, O, *windows.out), for few windows."""
    outs, places, inner = weight.shape[0], math.prod(windows.out), weight[0].numel()
    matrix = weight.flatten(2).permute(2, 1, 0).reshape(inner, outs)  # kernel positions first, then channels
    result = x.new_empty(x.shape[0], places, outs)
    for part in _parts(x, inner * places):
        padded = pad(x[part], windows).movedim(1, -1).contiguous()
        columns = torch.stack([padded[(slice(None), *index[1:])] for index in taps(windows)], -2)
        torch.matmul(columns.reshape(-1, inner), matrix, out=result[part].view(-1, outs))
    return result.transpose(1, 2).reshape(x.shape[0], outs, *windows.out)


def _scatter_few(rows: Tensor, weight: Tensor, windows: Windows, spatial: Shape) -> Tensor:
    """The adjoint of `_correlate_few`: (B, O, *windows.out) to (B, C, *spatial)."""
    outs, channels, inner = weight.shape[0], weight.shape[1], weight[0].numel()
    matrix = weight.flatten(2).transpose(1, 2).reshape(outs, inner)
    padded = rows.new_zeros(rows.shape[0], *windows.padded(spatial), channels)
    for part in _parts(rows, inner * math.prod(windows.out)):
        last = rows[part].flatten(2).transpose(1, 2).reshape(-1, outs)
        columns = (last @ matrix).reshape(-1, *windows.out, math.prod(windows.kernel), channels)
        target = padded[part]
        for tap, index in enumerate(taps(windows)):
            target[(slice(None), *index[1:])] += columns[..., tap, :]
    return crop(padded.movedim(-1, 1), windows, spatial).contiguous()


def _columns(x: Tensor, windows: Windows) -> Tensor:
    """(B, C, *spatial) to (B, C, kernel positions, *windows.out)."""
    if windows.is_pointwise:
        return x.unsqueeze(2)
    padded = pad(x, windows)
    columns = x.new_empty(x.shape[0], x.shape[1], math.prod(windows.kernel), *windows.out)
    for tap, index in enumerate(taps(windows)):
        columns[:, :, tap] = padded[index]
    return columns


def _parts(x: Tensor, entries: int) -> list[slice]:
    size = max(1, _CHUNK.get(x.device.type, _CHUNK["cpu"]) // max(entries, 1))
    return [slice(start, start + size) for start in range(0, max(x.shape[0], 1), size)]


def _by_products(x: Tensor, windows: Windows) -> bool:
    """Plain matrix products, rather than the library's convolution.

    In float64 torch's own kernels are several times slower on a CPU, and on CUDA the library may pick an algorithm
    that is not a plain sum, for which our rounding charge would not hold.
    """
    return x.dtype == torch.float64 or windows.axes > 3


def _library_correlate(x: Tensor, weight: Tensor, windows: Windows, groups: int) -> Tensor:
    call = (torch.conv1d, torch.conv2d, torch.conv3d)[windows.axes - 1]
    with _full_precision(x):
        result = call(pad(x, windows), weight, None, windows.strides, 0, windows.dilations, groups)
    # Padding that the last window does not reach can make room for one more.
    inner: tuple[EllipsisType | slice, ...] = (..., *(slice(0, extent) for extent in windows.out))
    return result[inner]


def _library_scatter(rows: Tensor, weight: Tensor, windows: Windows, groups: int, spatial: Shape) -> Tensor:
    functional = torch.nn.functional
    call = (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)[windows.axes - 1]
    with _full_precision(rows):
        reached = call(rows, weight, None, windows.strides, 0, 0, groups, windows.dilations)
    amounts: list[int] = []
    for extent, reach in zip(reversed(windows.padded(spatial)), reversed(windows.reach()), strict=True):
        amounts += [0, extent - reach]
    return crop(functional.pad(reached, amounts), windows, spatial)


def _full_precision(x: Tensor) -> AbstractContextManager[None]:
    """On CUDA, torch convolves float32 in TF32 (10 bits) unless told otherwise."""
    return torch.backends.cudnn.flags(allow_tf32=False) if x.is_cuda else nullcontext()
