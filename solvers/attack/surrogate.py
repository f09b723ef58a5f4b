"""Gradients for the attack where there are none: functions that are flat between jumps, and a saturated softmax.

Going forward nothing changes, so what the attack sees is the network itself. Going back, a jump counts as a slope
around it, as chords over it have (compare the straight-through estimators of Hubara et al. 2016, "Binarized Neural
Networks", section 1.3). A softmax at the end keeps the order of the scores it is given, so where a property only
compares outputs the attack looks at the scores themselves: outputs that are 0 and 1 up to rounding have no gradient.
All this only chooses candidates; the network itself is run on each.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from verinet.solvers.query import Query

from verinet.ir.graph import Graph, Op
from verinet.ops.base import LinearOp
from verinet.ops.normalisation.softmax import Softmax
from verinet.ops.scalar import DomainError, Elementwise
from verinet.ops.shape.reshape import Reshape

_REACHES = (0.2, 1.0, 3.0)  # half lengths of chords, for inputs whose size is usually 1


class _Through(torch.autograd.Function):
    """The value given, with a slope of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(slope)
        return value

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (slope,) = ctx.saved_tensors
        return gradients[0] * slope, None, None


@dataclass(frozen=True)
class Sloped(Op):
    """An elementwise function with jumps, differentiable for the attack."""

    kind: ClassVar[str] = "Sloped"
    op: Elementwise

    def forward(self, *inputs: Tensor) -> Tensor:
        x = inputs[0]
        with torch.no_grad():
            value = self.op.forward(x)
        if not x.requires_grad:
            return value
        with torch.no_grad():
            slope = self._slope(x)
        found: Tensor = _Through.apply(x, value, slope)  # type: ignore[no-untyped-call]
        return found

    def _slope(self, x: Tensor) -> Tensor:
        """Mean slope of chords around x, of several lengths: wherever a jump is, some chord reaches over it."""
        usual = x.abs().mean().clamp(min=1e-6)
        chords = [(self.op.forward(x + r * usual) - self.op.forward(x - r * usual)) / (2 * r * usual) for r in _REACHES]
        return torch.stack(chords).mean(0)


def _is_flat(op: Elementwise) -> bool:
    """True if the function has jumps and else no slope, as far as samples show."""
    if op.function.jumps is not None:
        return True
    if op.function.hinge is not None or op.function.parameters or op.function.chart is not None:
        return False
    x = torch.linspace(-2.0, 2.0, 81, dtype=torch.float64) ** 3 + 1e-3
    try:
        value, slope = op.function.at(x), op.function.slope(x)
    except (RuntimeError, DomainError):  # it has constants of the node's shape, or needs another domain
        return False
    return bool((slope == 0).all() and (value.max() > value.min()) and torch.isfinite(value).all())


def sloped(graph: Graph) -> Graph:
    """The graph with a gradient at every function that has jumps; the graph itself where there are none."""
    found = [isinstance(n.op, Elementwise) and _is_flat(n.op) for n in graph.nodes]
    if not any(found):
        return graph
    return Graph(
        tuple(
            replace(node, op=Sloped(node.op)) if jumps and isinstance(node.op, Elementwise) else node
            for node, jumps in zip(graph.nodes, found, strict=True)
        )
    )


def before_softmax(graph: Graph, query: Query) -> Graph:
    """The graph without the softmax that its outputs come from, if all rows of the query compare two outputs."""
    weights, bounds = query.table.weights, query.table.bounds
    pairs = (bounds == 0) & (weights.sum(1) == 0) & ((weights != 0).sum(1) == 2)
    place = graph.output
    while isinstance(op := graph.nodes[place].op, LinearOp) and op.moves_only and len(graph.nodes[place].inputs) == 1:
        place = graph.nodes[place].inputs[0]
    node = graph.nodes[place]
    if not isinstance(node.op, Softmax) or graph.nodes[node.inputs[0]].shape != node.shape or not bool(pairs.all()):
        return graph
    plain = replace(node, op=Reshape(node.shape))
    return Graph((*graph.nodes[:place], plain, *graph.nodes[place + 1 :]))
