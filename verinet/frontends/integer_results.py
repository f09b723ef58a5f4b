"""Results of integer arithmetic that may leave their type."""

from __future__ import annotations

from collections.abc import Sequence

from verinet.frontends.builder import Constant, Value, Variable
from verinet.frontends.call import Call
from verinet.frontends.elementwise import apply

# Every integer that comes out of these went in, or is a position or a number in a range that its handler sees to.
_STAYS = frozenset(
    (
        "ArgMax ArgMin Cast CastLike CenterCropPad Clip Compress Concat DepthToSpace Dropout Expand Flatten Gather "
        "GatherElements GatherND GlobalMaxPool Identity Max MaxPool Min Mod OneHot Pad QuantizeLinear ReduceMax "
        "ReduceMin Relu Reshape Resize ReverseSequence Scatter ScatterElements ScatterND Sign Slice SpaceToDepth Split "
        "Squeeze Tile TopK Transpose Trilu Unsqueeze Upsample Where"
    ).split()
)


def guarded(call: Call, found: Value | Sequence[Value]) -> Value | Sequence[Value]:
    """The outputs of a node, those of integer arithmetic behind a check that they fit their type."""
    if call.node.op in _STAYS:
        return found
    if isinstance(found, Variable):
        return fitting(call, found)
    if isinstance(found, Constant):
        return found
    return [fitting(call, value) if isinstance(value, Variable) else value for value in found]


def fitting(call: Call, x: Variable) -> Variable:
    """x behind a check that its type can hold it; x itself where it is no integer."""
    if x.dtype.kind not in "iu":
        return x
    from verinet.ops.integer import integer_range

    return apply(call, integer_range(x.dtype, call.node.label), x)
