"""Which values of the graph are integers, whatever the input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from verinet.frontends.builder import Variable
from verinet.ir.graph import Node, Op
from verinet.ops.bilinear.product import Product
from verinet.ops.integer import IntegerRange
from verinet.ops.linear.arithmetic import Add, Negate, Scale, Shift, Subtract
from verinet.ops.linear.dense import Dense
from verinet.ops.linear.reduce import Sum
from verinet.ops.pooling.maximum import MaxLast
from verinet.ops.scalar import Elementwise
from verinet.ops.shape.concat import Concat
from verinet.ops.shape.index import Index
from verinet.ops.shape.reshape import Broadcast, Reshape

_MAKE = frozenset(("Sign", "Floor", "Ceil", "Round", "Step"))
_KEEP = frozenset(("ReLU", "Abs", "Hat"))
_MOST_NODES = 64
_PARAMETERS: Mapping[type[Op], tuple[str, ...]] = {
    Scale: ("factor",),
    Shift: ("offset",),
    Dense: ("weight", "offset"),
}


def is_whole(nodes: Sequence[Node], x: Variable) -> bool:
    """True if every entry is an integer in real arithmetic: by its ONNX type, or by how it is made."""
    if x.dtype.kind in "iub":
        return True
    waiting, seen = [x.node], {x.node}
    while waiting:
        node = nodes[waiting.pop()]
        verdict = _verdict(node.op)
        if verdict is False or len(seen) > _MOST_NODES:
            return False
        if verdict is None:
            waiting += [i for i in node.inputs if i not in seen]
            seen.update(node.inputs)
    return True


def _verdict(op: Op) -> bool | None:
    """True: always integers; None: if all inputs are; False: not known."""
    if isinstance(op, Elementwise):
        if op.function.deviation:
            return False
        if isinstance(op.function, IntegerRange):
            return None
        name = op.function.name
        return True if name in _MAKE else (None if name in _KEEP else False)
    if isinstance(op, Add | Subtract | Negate | Sum | Concat | Index | Reshape | Broadcast | MaxLast | Product):
        return None
    parameters = _PARAMETERS.get(type(op), ())
    values = [getattr(op, name) for name in parameters]
    return None if parameters and all(v is None or _integers(v) for v in values) else False


def _integers(values: Tensor) -> bool:
    return bool(torch.equal(values, values.round()))


def is_nonnegative(nodes: Sequence[Node], x: Variable) -> bool:
    """True if no entry is ever below 0: a known lower limit of a function, or sums of such."""
    waiting, count = [x.node], 0
    while waiting:
        node, count = nodes[waiting.pop()], count + 1
        op = node.op
        if isinstance(op, Elementwise):
            if isinstance(op.function, IntegerRange):
                waiting += node.inputs
                continue
            if op.function.deviation or not op.function.bounds[0] >= 0:
                return False
            continue
        parameters = _PARAMETERS.get(type(op), ())
        values = [getattr(op, name) for name in parameters]
        grows = isinstance(op, Add | Sum | Concat | Index | Reshape | Broadcast | MaxLast | Product) or bool(parameters)
        if not grows or count > _MOST_NODES or any(v is not None and bool((v < 0).any()) for v in values):
            return False
        waiting += node.inputs
    return True
