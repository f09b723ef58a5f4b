"""Entries that depend on one jump alone: rows cannot say more about them than intervals do.

Behind `x > 0` and the like there often is arithmetic on every entry by itself (a class number, a comparison with a
mask). A row there is a function of one entry x whose bounds are known, and where the jump is undecided both sides of
it are possible. So all effort belongs into the bounds of x.
"""

from __future__ import annotations

import torch
from torch import Tensor

from verinet.ir.graph import Graph, Node, total
from verinet.ops.base import LinearOp
from verinet.ops.linear.arithmetic import Add, Negate, Scale, Shift, Subtract
from verinet.ops.linear.broadcast import align
from verinet.ops.linear.dense import Dense
from verinet.ops.scalar import Elementwise
from verinet.propagation.interval import Interval

_NODE = 1 << 32  # numbers of jumps of different nodes are this far apart; float64 holds them exactly
_POINT = 1e-12  # relative width below which an entry counts as a constant


class Tails:
    """For every node, in order, the one jump (>= 0) that each entry depends on, -1 for constants; None if mixed."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._any = any(_jumps(node) for node in graph.nodes)
        self._labels: list[Tensor | None] = [None]

    def add(self, position: int, bounds: Interval) -> None:
        """The next node, with its bounds (domains, *shape)."""
        labels = self._of(position) if self._any else None
        low, high = bounds
        if labels is None and self._any and _jumps(self._graph.nodes[position]):
            count = total(low.shape[1:])
            labels = (torch.arange(count, device=low.device) + position * _NODE).reshape(low.shape[1:])
        if labels is not None:
            point = (high - low <= _POINT * (1 + low.abs())).all(0)
            labels = labels.masked_fill(point, -1)
        self._labels.append(labels)

    def settled(self, position: int) -> bool:
        """True if rows of this node (which has been added) are of no use."""
        return self._labels[position] is not None

    def _of(self, position: int) -> Tensor | None:
        """Jumps of a node from those of its inputs; None where an entry sees several, or none is known."""
        node = self._graph.nodes[position]
        given = [self._labels[i] for i in node.inputs]
        labels = [g for g in given if g is not None]
        op = node.op
        if len(labels) != len(given):
            return None
        if isinstance(op, (Elementwise, Shift, Scale, Negate)):
            return labels[0].expand(node.shape)
        if isinstance(op, (Add, Subtract)):
            return _both(labels[0], labels[1], node)
        if isinstance(op, Dense):
            most = labels[0].amax(-1, keepdim=True)
            return most.expand(node.shape) if bool(((labels[0] == most) | (labels[0] < 0)).all()) else None
        if isinstance(op, LinearOp) and op.moves_only:
            numbers = [(label + 1).to(torch.float64).unsqueeze(0) for label in labels]  # zeros stay zeros
            return op.linear(*numbers)[0].to(torch.int64) - 1
        return None


def _jumps(node: Node) -> bool:
    return isinstance(node.op, Elementwise) and node.op.function.jumps is not None


def _both(left: Tensor, right: Tensor, node: Node) -> Tensor | None:
    rank = len(node.shape)
    left, right = (align(t.unsqueeze(0), rank)[0].expand(node.shape) for t in (left, right))
    if bool(((left != right) & (left >= 0) & (right >= 0)).any()):
        return None
    return torch.maximum(left, right)
