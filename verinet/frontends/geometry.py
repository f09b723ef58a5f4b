"""Windows of convolutions and poolings from ONNX attributes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from verinet.errors import ModelError
from verinet.frontends.call import Call
from verinet.ir.graph import Shape
from verinet.ops.linear.windows import Windows


def conv_windows(call: Call, kernel: Shape, spatial: Sequence[int]) -> Windows:
    """Geometry of a Conv over an input with these spatial extents."""
    return _windows(call, kernel, tuple(spatial), ceil=False)


def pool_windows(call: Call, spatial: Sequence[int]) -> tuple[Windows, Windows]:
    """Geometry of a pooling, and the same windows over an input that is already padded."""
    kernel = tuple(int(n) for n in call.attribute("kernel_shape"))
    windows = _windows(call, kernel, tuple(spatial), ceil=bool(call.attribute("ceil_mode", 0)))
    zeros = (0,) * len(kernel)
    return windows, dataclasses.replace(windows, begin=zeros, end=zeros)


def _windows(call: Call, kernel: Shape, spatial: Shape, *, ceil: bool) -> Windows:
    axes = len(kernel)
    if len(spatial) != axes:
        raise ModelError(f"a window of {axes} axes does not fit an input with {len(spatial)}", where=call.where)
    strides = _per_axis(call, "strides", axes)
    dilations = _per_axis(call, "dilations", axes)
    spans = tuple(dilation * (size - 1) + 1 for dilation, size in zip(dilations, kernel, strict=True))
    begin, end = _pads(call, spatial, strides, spans)
    out = tuple(
        _count(extent, front, back, span, stride, ceil)
        for extent, front, back, span, stride in zip(spatial, begin, end, spans, strides, strict=True)
    )
    if min(out, default=1) < 1:
        raise ModelError(f"the window {kernel} does not fit into the input {spatial}", where=call.where)
    return Windows(kernel, strides, dilations, begin, end, out)


def _per_axis(call: Call, name: str, axes: int) -> Shape:
    return tuple(int(n) for n in call.attribute(name, (1,) * axes))


def _count(extent: int, front: int, back: int, span: int, stride: int, ceil: bool) -> int:
    room = extent + front + back - span
    count = (-(-room // stride) if ceil else room // stride) + 1
    # A window that would start behind the input and its front padding is left out (ONNX, PyTorch).
    return count - 1 if ceil and (count - 1) * stride >= extent + front else count


def _pads(call: Call, spatial: Shape, strides: Shape, spans: Shape) -> tuple[Shape, Shape]:
    axes = len(spatial)
    mode = call.attribute("auto_pad", "NOTSET")
    if mode in ("NOTSET", ""):
        pads = _per_axis(call, "pads", 2 * axes) if call.attribute("pads") is not None else (0,) * (2 * axes)
        return pads[:axes], pads[axes:]
    if mode == "VALID":
        return (0,) * axes, (0,) * axes
    needed = [
        max((-(-extent // stride) - 1) * stride + span - extent, 0)
        for extent, stride, span in zip(spatial, strides, spans, strict=True)
    ]
    return _shared(needed, mode)


def _shared(needed: Sequence[int], mode: str) -> tuple[Shape, Shape]:
    """SAME padding: the odd unit goes behind (SAME_UPPER) or in front (SAME_LOWER)."""
    small, large = tuple(n // 2 for n in needed), tuple(n - n // 2 for n in needed)
    return (small, large) if mode == "SAME_UPPER" else (large, small)


def transposed_windows(call: Call, kernel: Shape, spatial: Sequence[int]) -> tuple[Windows, Shape]:
    """Geometry of a ConvTranspose: windows from its output to its input, and the output's spatial extents."""
    axes = len(kernel)
    strides, dilations = _per_axis(call, "strides", axes), _per_axis(call, "dilations", axes)
    extra = tuple(int(n) for n in call.attribute("output_padding", (0,) * axes))
    full = [
        stride * (extent - 1) + more + dilation * (size - 1) + 1
        for stride, extent, more, dilation, size in zip(strides, spatial, extra, dilations, kernel, strict=True)
    ]
    wanted = call.attribute("output_shape")
    mode = call.attribute("auto_pad", "NOTSET")
    if wanted is not None:
        needed = [reach - int(n) for reach, n in zip(full, list(wanted)[-axes:], strict=True)]
        begin, end = _shared(needed, "SAME_UPPER" if mode == "SAME_UPPER" else "SAME_LOWER")
    elif mode in ("SAME_UPPER", "SAME_LOWER"):
        needed = [max(reach - int(n) * stride, 0) for reach, n, stride in zip(full, spatial, strides, strict=True)]
        begin, end = _shared(needed, mode)
    else:
        begin, end = _pads(call, tuple(spatial), strides, kernel)
    out = tuple(reach - front - back for reach, front, back in zip(full, begin, end, strict=True))
    return Windows(kernel, strides, dilations, begin, end, tuple(spatial)), out
