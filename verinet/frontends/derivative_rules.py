"""Rules for sums, products, linear layers and operators that move entries. See `derivative_tape` for exactness."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from verinet.frontends.derivative_tape import Kind, Step, Tangent, differentiates
from verinet.ir.graph import Shape, total


def _sum(step: Step, parts: Sequence[Tangent | None]) -> Tangent | None:
    """The sum of tangents that all have the shape of the result."""
    found = [part for part in parts if part is not None]
    if len(found) < 2:
        return found[0] if found else None
    result = step.tape.varying(found[0])
    for part in found[1:]:
        result = step.variable("Add", result.name, part.name)
    return result


def _negated(step: Step, tangent: Tangent | None) -> Tangent | None:
    if tangent is None:
        return None
    kind = Kind.VARIABLE if tangent.kind is Kind.VARIABLE else Kind.CONSTANT
    return Tangent(step.emit("Neg", tangent.name), kind)


def _stretched(step: Step, position: int) -> Tangent | None:
    tangent = step.tangent(position)
    return None if tangent is None else step.stretched(tangent, step.shape(position))


@differentiates("Add", "Sum")
def add(step: Step) -> Sequence[Tangent | None]:
    return [_sum(step, [_stretched(step, i) for i in range(len(step.node.inputs))])]


@differentiates("Sub")
def subtract(step: Step) -> Sequence[Tangent | None]:
    return [_sum(step, [_stretched(step, 0), _negated(step, _stretched(step, 1))])]


@differentiates("Neg")
def negate(step: Step) -> Sequence[Tangent | None]:
    return [_negated(step, step.tangent(0))]


@differentiates("Mean")
def mean(step: Step) -> Sequence[Tangent | None]:
    found = _sum(step, [_stretched(step, i) for i in range(len(step.node.inputs))])
    if found is None:
        return [None]
    count = step.tape.number(float(len(step.node.inputs)))
    return [step.variable("Div", step.tape.varying(found).name, count)]


def _times(step: Step, position: int, factor: str) -> Tangent | None:
    """Tangent of one input times a tensor that broadcasts with that input to the shape of the result."""
    tangent = step.tangent(position)
    if tangent is None:
        return None
    fixed = factor in step.tape.known
    usable = step.linear(tangent) if fixed else tangent
    kind = step.linear_kind(tangent) if fixed else Kind.VARIABLE
    if fixed and step.shape(position) != step.out_shape:  # a unit entry would be copied
        usable, kind = step.tape.varying(tangent), Kind.VARIABLE
    name = step.aligned(usable, len(step.shape(position)), len(step.out_shape))
    return Tangent(step.emit("Mul", name, factor), kind)


@differentiates("Mul")
def multiply(step: Step) -> Sequence[Tangent | None]:
    """t_a b + a t_b; twice the product for a square."""
    a, b = step.value(0), step.value(1)
    if a == b:
        product = _times(step, 0, b)
        return [None if product is None else step.variable("Mul", product.name, step.tape.number(2.0))]
    return [_sum(step, [_times(step, 0, b), _times(step, 1, a)])]


@differentiates("Div")
def divide(step: Step) -> Sequence[Tangent | None]:
    """t_a / b - (a / b) / b t_b."""
    top, bottom = step.tangent(0), step.tangent(1)
    parts: list[Tangent | None] = []
    if top is not None:
        fixed = step.value(1) in step.tape.known
        usable = step.tape.varying(top) if fixed else top
        name = step.aligned(usable, len(step.shape(0)), len(step.out_shape))
        other = step.value(1) if fixed else step.emit("Reciprocal", step.value(1))
        parts.append(step.variable("Div" if fixed else "Mul", name, other))
    if bottom is not None:
        slope = step.emit("Mul", step.node.outputs[0], step.emit("Reciprocal", step.value(1)))
        name = step.aligned(bottom, len(step.shape(1)), len(step.out_shape))
        parts.append(_negated(step, step.variable("Mul", name, slope)))
    return [_sum(step, parts)]


def _matrix_product(step: Step, left: str, right: str, shapes: tuple[Shape, Shape]) -> Tangent | None:
    """t_a B + A t_b for tensors of rank 2 or more; `left` and `right` name A and B as they are multiplied."""
    parts: list[Tangent | None] = []
    rank = max(len(s) for s in shapes)
    for position, (shape, other) in enumerate(zip(shapes, (right, left), strict=True)):
        tangent = step.tangent(position)
        if tangent is None:
            continue
        fixed = step.value(1 - position) in step.tape.known
        kind = step.linear_kind(tangent) if fixed else Kind.VARIABLE
        usable = step.linear(tangent) if fixed else tangent
        name = step.aligned(usable, len(shape), rank)
        pair = (name, other) if position == 0 else (other, name)
        parts.append(Tangent(step.emit("MatMul", *pair), kind))
    return _sum(step, parts)


@differentiates("MatMul")
def matmul(step: Step) -> Sequence[Tangent | None]:
    shapes = step.shape(0), step.shape(1)
    if min(len(s) for s in shapes) < 2:
        raise step.refused("with a vector")
    return [_matrix_product(step, step.value(0), step.value(1), shapes)]


@differentiates("Gemm")
def gemm(step: Step) -> Sequence[Tangent | None]:
    """alpha A' B' + beta C."""
    names = [step.value(0), step.value(1)]
    if step.attribute("transA", 0):
        raise step.refused("with a transposed input")
    if step.attribute("transB", 0):
        if step.tangent(1) is not None:
            raise step.refused("with a variable weight")
        names[1] = step.emit("Transpose", names[1], perm=[1, 0])
    product = _matrix_product(step, names[0], names[1], (step.shape(0), step.shape(1)))
    return [_sum(step, [_scaled(step, product, "alpha"), _scaled(step, _stretched(step, 2), "beta")])]


def _scaled(step: Step, tangent: Tangent | None, attribute: str) -> Tangent | None:
    factor = float(np.float32(step.attribute(attribute, 1.0)))
    if tangent is None or factor == 1.0:
        return tangent
    return step.variable("Mul", step.tape.varying(tangent).name, step.tape.number(factor))


def _merged(step: Step, tangent: Tangent) -> str:
    """(D, N, ...) to (D N, ...): directions become a batch."""
    shape = step.shape(0)
    return step.tape.reshape(tangent.name, (step.tape.directions * shape[0], *shape[1:]))


def _parted(step: Step, name: str) -> str:
    return step.tape.reshape(name, (step.tape.directions, *step.out_shape))


@differentiates("Conv", "ConvTranspose")
def convolve(step: Step) -> Sequence[Tangent | None]:
    """The same convolution without its bias, with the directions as a batch."""
    tangent = step.only()
    kind = step.linear_kind(tangent)
    merged = _merged(step, step.linear(tangent))
    found = step.emit(step.node.op, merged, step.value(1), **step.node.attributes)
    return [Tangent(_parted(step, found), kind)]


@differentiates("AveragePool", "GlobalAveragePool")
def average_pool(step: Step) -> Sequence[Tangent | None]:
    merged = _merged(step, step.tape.varying(step.only()))
    return [Tangent(_parted(step, step.emit(step.node.op, merged, **step.node.attributes)), Kind.VARIABLE)]


@differentiates("BatchNormalization")
def normalise(step: Step) -> Sequence[Tangent | None]:
    """The same normalisation with no mean and no offset."""
    zeros = step.tape.constant(np.zeros(step.shape(1), dtype=step.tape.dtype))
    merged = _merged(step, step.tape.varying(step.only()))
    attributes = {k: v for k, v in step.node.attributes.items() if k == "epsilon"}
    found = step.emit("BatchNormalization", merged, step.value(1), zeros, zeros, step.value(4), **attributes)
    return [Tangent(_parted(step, found), Kind.VARIABLE)]


@differentiates("Softmax")
def softmax(step: Step) -> Sequence[Tangent | None]:
    """y (t - sum of y t over the axis)."""
    rank, y = len(step.shape(0)), step.node.outputs[0]
    axis = step.axis(-1 if step.tape.opset >= 13 else 1)
    if step.tape.opset < 13 and axis != rank - 1:
        raise step.refused("over several axes")
    tangent = step.only().name
    mean = _reduced(step, "ReduceSum", step.emit("Mul", tangent, y), [axis + 1], True)
    return [step.variable("Mul", step.emit("Sub", tangent, mean), y)]


@differentiates("ReduceSum", "ReduceMean")
def reduce(step: Step) -> Sequence[Tangent | None]:
    rank = len(step.shape(0))
    axes = step.attribute("axes")
    if axes is None and step.given(1):
        axes = [int(a) for a in step.known(1).reshape(-1)]
    if not axes and step.attribute("noop_with_empty_axes", 0):
        return [step.tangent(0)]
    places = sorted(int(a) % rank + 1 for a in axes) if axes else list(range(1, rank + 1))
    name = step.tape.varying(step.only()).name
    kept = bool(step.attribute("keepdims", 1))
    return [Tangent(_reduced(step, step.node.op, name, places, kept), Kind.VARIABLE)]


def _reduced(step: Step, op: str, name: str, axes: Sequence[int], kept: bool) -> str:
    """Axes are an input from opset 13 (sums) or 18 (means) on, and an attribute before."""
    if step.tape.opset >= (13 if op == "ReduceSum" else 18):
        return step.emit(op, name, step.tape.integers(axes), keepdims=int(kept))
    return step.emit(op, name, axes=list(axes), keepdims=int(kept))


@differentiates("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def reshape(step: Step) -> Sequence[Tangent | None]:
    tangent = step.only()
    return [Tangent(step.tape.reshape(tangent.name, (step.tape.directions, *step.out_shape)), tangent.kind)]


@differentiates("Identity", "Dropout", "Cast")
def same(step: Step) -> Sequence[Tangent | None]:
    """Between number types nothing changes for real numbers, but the file then has to have one type only."""
    if step.node.op == "Cast":
        raise step.refused("between number types")
    return [step.tangent(0)]


@differentiates("Transpose")
def transpose(step: Step) -> Sequence[Tangent | None]:
    rank = len(step.shape(0))
    order = step.attribute("perm", list(range(rank))[::-1])
    return [step.moved(step.only(), "Transpose", perm=[0, *(int(a) + 1 for a in order)])]


@differentiates("Concat")
def concat(step: Step) -> Sequence[Tangent | None]:
    """Missing tangents are zeros."""
    axis, directions = step.axis(0, len(step.out_shape)), step.tape.directions
    names, kinds = [], set()
    for position in range(len(step.node.inputs)):
        tangent = step.tangent(position)
        if tangent is None:
            zeros = np.zeros((directions, *step.shape(position)), dtype=step.tape.dtype)
            names.append(step.tape.constant(zeros))
            continue
        kinds.add(Kind.CONSTANT if tangent.kind is Kind.UNIT else tangent.kind)  # an entry may be there twice
        names.append(tangent.name)
    kind = Kind.VARIABLE if Kind.VARIABLE in kinds else Kind.CONSTANT
    return [Tangent(step.emit("Concat", *names, axis=axis + 1), kind)]


@differentiates("Gather")
def gather(step: Step) -> Sequence[Tangent | None]:
    step.known(1)
    return [step.moved(step.only(), "Gather", step.value(1), copies=True, axis=step.axis(0) + 1)]


@differentiates("Slice", "Split", "Tile", "DepthToSpace", "SpaceToDepth")
def move(step: Step) -> Sequence[Tangent | None]:
    """The positions that each output takes, found by moving an array of numbers, are gathered."""
    from verinet.frontends.folding import evaluate

    numbers = np.arange(total(step.shape(0)), dtype=step.tape.dtype).reshape(step.shape(0))
    fixed = [step.known(i) if step.given(i) else None for i in range(1, len(step.node.inputs))]
    parts = evaluate(step.node, [numbers, *fixed], step.tape.opset, f"node '{step.node.label}' of {step.tape.model}")
    tangent = step.only()
    flat = step.moved(tangent, "Reshape", step.tape.integers((step.tape.directions, numbers.size)))
    places = [step.tape.constant(part.astype(np.int64)) for part in parts]
    return [step.moved(flat, "Gather", at, copies=True, axis=1) for at in places]


@differentiates("Expand")
def expand(step: Step) -> Sequence[Tangent | None]:
    return [step.stretched(step.only(), step.shape(0))]


@differentiates("Pad")
def pad(step: Step) -> Sequence[Tangent | None]:
    """Zeros around the tangent: constants do not move."""
    if step.attribute("mode", "constant") != "constant" or step.given(3):
        raise step.refused("in this mode")
    pads = step.attribute("pads") or [int(n) for n in step.known(1).reshape(-1)]
    rank = len(step.shape(0))
    spread = [0, *pads[:rank], 0, *pads[rank:]]
    if step.tape.opset >= 11:
        return [step.moved(step.only(), "Pad", step.tape.integers(spread))]
    return [step.moved(step.only(), "Pad", pads=spread)]


@differentiates("Where")
def where(step: Step) -> Sequence[Tangent | None]:
    """Choices that do not depend on the input; others may jump, which no derivative shows."""
    if step.value(0) not in step.tape.known:
        raise step.refused("with a condition that depends on the network's input: it may jump")
    zero = step.tape.number(0.0)
    sides = [_stretched(step, i) for i in (1, 2)]
    names = [zero if side is None else side.name for side in sides]
    varies = any(side is not None and side.kind is Kind.VARIABLE for side in sides)
    return [Tangent(step.emit("Where", step.value(0), *names), Kind.VARIABLE if varies else Kind.CONSTANT)]
