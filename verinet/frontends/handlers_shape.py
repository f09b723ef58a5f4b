"""Operators that only move entries: each becomes a view, a concatenation or an index."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from verinet.errors import ModelError
from verinet.frontends.builder import Constant, Value, Variable
from verinet.frontends.call import Call, axis_of, handles
from verinet.frontends.tensors import Array
from verinet.ir.graph import total

_Arrange = Callable[[list[Array]], Array]


@handles("Identity")
def identity(call: Call) -> Value:
    return call.value(0)


@handles("Dropout")
def dropout(call: Call) -> Value:
    training = call.optional(2, "training mode")
    if training is not None and bool(training):
        raise call.unsupported("in training mode")
    return call.value(0)


@handles("Reshape")
def reshape(call: Call) -> Variable:
    x = call.variable(0)
    wanted = call.integers("shape", 1)
    if wanted is None:
        raise ModelError("a Reshape without a shape", where=call.where)
    shape = [x.shape[i] if n == 0 and not call.attribute("allowzero", 0) else n for i, n in enumerate(wanted)]
    if -1 in shape:
        known = total([n for n in shape if n != -1])
        shape[shape.index(-1)] = total(x.shape) // max(known, 1)
    if total(shape) != total(x.shape):
        hint = "the exporter fixed a batch size other than 1; export again with batch size 1"
        raise ModelError(f"cannot reshape {x.shape} to {tuple(wanted)}", where=call.where, hint=hint)
    return call.builder.reshape(x, tuple(shape))


@handles("Flatten")
def flatten(call: Call) -> Variable:
    x = call.variable(0)
    axis = int(call.attribute("axis", 1))
    axis = axis + len(x.shape) if axis < 0 else axis
    return call.builder.reshape(x, (total(x.shape[:axis]), total(x.shape[axis:])))


@handles("Squeeze")
def squeeze(call: Call) -> Variable:
    x = call.variable(0)
    axes = call.integers("axes", 1)
    if axes is None:
        return call.builder.reshape(x, tuple(n for n in x.shape if n != 1))
    gone = {axis_of(axis, len(x.shape), call) for axis in axes}
    if any(x.shape[axis] != 1 for axis in gone):
        raise ModelError(f"cannot squeeze axes {sorted(gone)} of {x.shape}", where=call.where)
    return call.builder.reshape(x, tuple(n for i, n in enumerate(x.shape) if i not in gone))


@handles("Unsqueeze")
def unsqueeze(call: Call) -> Variable:
    x = call.variable(0)
    axes = call.integers("axes", 1) or []
    rank = len(x.shape) + len(axes)
    new = {axis_of(axis, rank, call) for axis in axes}
    old = iter(x.shape)
    return call.builder.reshape(x, tuple(1 if i in new else next(old) for i in range(rank)))


@handles("Expand")
def expand(call: Call) -> Variable:
    x = call.variable(0)
    target = tuple(int(n) for n in call.constant(1, "shape").reshape(-1))
    return call.builder.broadcast(x, tuple(np.broadcast_shapes(x.shape, target)))


@handles("Transpose")
def transpose(call: Call) -> Variable:
    x = call.variable(0)
    order = call.attribute("perm", tuple(reversed(range(len(x.shape)))))
    shape = tuple(x.shape[axis] for axis in order)
    moving = [axis for axis in order if x.shape[axis] != 1]
    if moving == sorted(moving):
        return call.builder.reshape(x, shape)
    return call.builder.index(x, call.builder.positions(x).transpose(order))


@handles("Slice")
def slice_(call: Call) -> Variable:
    x = call.variable(0)
    starts, ends = call.integers("starts", 1) or [], call.integers("ends", 2) or []
    axes = call.integers("axes", 3)
    steps = call.integers("steps", 4)
    axes = list(range(len(starts))) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    parts = [slice(None)] * len(x.shape)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        place = axis_of(axis, len(x.shape), call)
        parts[place] = onnx_slice(start, end, step, x.shape[place])
    return call.builder.index(x, call.builder.positions(x)[tuple(parts)])


def onnx_slice(start: int, end: int, step: int, extent: int) -> slice:
    """A Python slice with ONNX's clamping: a negative step may run down to and include entry 0."""
    if step > 0:
        return slice(start, end, step)
    stop = end + extent if end < 0 else end
    return slice(start, None if stop < 0 else stop, step)


@handles("Gather")
def gather(call: Call) -> Variable:
    x = call.variable(0)
    axis = axis_of(int(call.attribute("axis", 0)), len(x.shape), call)
    picked = call.constant(1, "index").astype(np.int64)
    extent = x.shape[axis]
    if picked.size and not (-extent <= picked.min() and picked.max() < extent):
        raise ModelError(f"Gather reads beyond axis {axis} of {x.shape}", where=call.where)
    return call.builder.index(x, np.take(call.builder.positions(x), picked, axis=axis))


@handles("Split")
def split(call: Call) -> Sequence[Variable]:
    x = call.variable(0)
    axis = axis_of(int(call.attribute("axis", 0)), len(x.shape), call)
    sizes = call.integers("split", 1)
    if sizes is None:
        count = int(call.attribute("num_outputs", len(call.node.outputs)))
        step = -(-x.shape[axis] // count)
        sizes = [step] * (count - 1) + [x.shape[axis] - step * (count - 1)]
    pieces = np.split(call.builder.positions(x), np.cumsum(sizes)[:-1], axis=axis)
    return [call.builder.index(x, piece) for piece in pieces]


@handles("Concat")
def concat(call: Call) -> Variable:
    values = [call.value(i) for i in range(len(call.inputs))]
    axis = axis_of(int(call.attribute("axis", 1)), len(values[0].shape), call)
    values = [v for v in values if total(v.shape)] or values[:1]
    if all(isinstance(v, Variable) for v in values):
        return call.builder.concat([v for v in values if isinstance(v, Variable)], axis)
    return rearranged(call, values, lambda parts: np.concatenate(parts, axis=axis))


def rearranged(call: Call, values: Sequence[Value], arrange: _Arrange) -> Variable:
    """What a rearrangement of several values gives: `arrange` is applied to arrays of entry numbers."""
    sources = [v for v in values if isinstance(v, Variable)]
    fixed = [v for v in values if isinstance(v, Constant)]
    for position, value in enumerate(call.inputs):
        if any(value is constant for constant in fixed):
            call.finite(position)
    start = {True: 0, False: sum(total(v.shape) for v in sources)}
    numbered: list[Array] = []
    for value in values:
        moves = isinstance(value, Variable)
        count = total(value.shape)
        numbered.append(np.arange(start[moves], start[moves] + count, dtype=np.int64).reshape(value.shape))
        start[moves] += count
    constants = np.concatenate([v.array.reshape(-1) for v in fixed]) if fixed else np.zeros(0)
    return call.builder.moved(arrange(numbered), sources, constants)


@handles("Pad")
def pad(call: Call) -> Variable:
    x = call.variable(0)
    pads = call.integers("pads", 1) or []
    axes = [int(a) for a in call.constant(3, "axes").reshape(-1)] if call.given(3) is not None else None
    widths = _pad_widths(call, pads, axes, len(x.shape))
    mode = call.attribute("mode", "constant")
    numbers = call.builder.positions(x)
    cut = tuple(slice(-min(b, 0), n + min(e, 0)) for n, (b, e) in zip(x.shape, widths, strict=True))
    grow = [(max(b, 0), max(e, 0)) for b, e in widths]
    if mode != "constant":
        return call.builder.index(x, np.pad(numbers[cut], grow, mode=mode))
    index = np.pad(numbers[cut], grow, constant_values=-1)
    fill = float(call.finite(2, "fill value").reshape(-1)[0]) if call.given(2) is not None else 0.0
    fill = float(call.attribute("value", fill))
    moved = call.builder.index(x, index)
    return moved if fill == 0 else call.builder.shift(moved, np.where(index < 0, fill, 0.0))


def _pad_widths(call: Call, pads: Sequence[int], axes: Sequence[int] | None, rank: int) -> list[tuple[int, int]]:
    places = range(rank) if axes is None else [axis_of(axis, rank, call) for axis in axes]
    half = len(pads) // 2
    if half != len(places):
        raise ModelError(f"Pad has {len(pads)} pads for {len(places)} axes", where=call.where)
    widths = [(0, 0)] * rank
    for axis, before, after in zip(places, pads[:half], pads[half:], strict=True):
        widths[axis] = (before, after)
    return widths


@handles("Tile")
def tile(call: Call) -> Variable:
    x = call.variable(0)
    return call.builder.index(x, np.tile(call.builder.positions(x), call.constant(1, "repeats").reshape(-1)))


@handles("Where")
def where(call: Call) -> Variable:
    """With a known condition, a rearrangement; otherwise see the handlers of comparisons."""
    from verinet.frontends.handlers_logic import where_variable

    if not call.is_constant(0):
        return where_variable(call)
    condition = call.constant(0, "condition")
    return rearranged(call, [call.value(1), call.value(2)], lambda parts: np.where(condition, parts[0], parts[1]))


@handles("Resize", "Upsample", "DepthToSpace", "SpaceToDepth", "GatherND", "GatherElements", "ScatterND")
@handles("ScatterElements", "Scatter", "Trilu", "ReverseSequence", "CenterCropPad", "Compress")
def by_runtime(call: Call) -> Variable:
    """Rarer rearrangements: ONNX Runtime moves the numbers of the entries, and we read off where they went."""
    from verinet.frontends.folding import run_node

    mode = call.attribute("mode", "nearest")
    if call.node.op in ("Resize", "Upsample") and mode != "nearest":
        raise call.unsupported(f"with mode {mode}")
    if call.attribute("reduction", "none") != "none":
        raise call.unsupported("with a reduction")
    values = _moved_values(call)
    count = sum(total(v.shape) for v in values)
    if count >= 1 << 24:
        raise call.unsupported("of more entries than float32 can count")

    def arrange(parts: list[Array]) -> Array:
        # Numbers start at 1: zeros that the operator itself puts in come out as 0, that is -1 in an index.
        numbers = {id(v): (part + 1).astype(np.float32) for v, part in zip(values, parts, strict=True)}
        fixed = [v.array if isinstance(v, Constant) else None for v in call.inputs]
        feeds = [numbers.get(id(v), array) for v, array in zip(call.inputs, fixed, strict=True)]
        result = run_node(call.node, feeds, call.opset, call.where)[0]
        return np.rint(result).astype(np.int64) - 1

    return rearranged(call, values, arrange)


def _moved_values(call: Call) -> list[Value]:
    """The inputs whose entries move: all variables, and for a scatter also constant data and updates."""
    places = {0, 2} if call.node.op in ("ScatterND", "ScatterElements", "Scatter") else {0}
    for position, value in enumerate(call.inputs):
        if isinstance(value, Variable) and position not in places:
            raise call.unsupported(f"its input {position} depends on the network's input")
    return [call.value(position) for position in sorted(places)]
