"""Interval propagation in centre-radius form, rounded outward."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from verinet.ir.graph import Graph, Node, Shape
from verinet.numerics.rounding import gamma, tiny
from verinet.ops.base import LinearOp, NonlinearOp
from verinet.propagation.ends import seen

Interval = tuple[Tensor, Tensor]


def linear_interval(op: LinearOp, inputs: Sequence[Interval], shapes: Sequence[Shape], out: Shape) -> Interval:
    """Bounds of a linear operator: L c +- |L| r, widened by gamma(terms) times |L| (|c| + r) + |b|."""
    if op.moves_only:
        return op.forward(*(lo for lo, _ in inputs)), op.forward(*(hi for _, hi in inputs))
    centres = [(lo + hi) * 0.5 for lo, hi in inputs]
    dtype = centres[0].dtype
    rate = gamma(op.terms(shapes, out) + 4, dtype)
    radii = [
        torch.maximum(hi - c, c - lo) * (1 + rate) + (c.abs() * rate + torch.finfo(dtype).tiny)  # which may underflow
        for (lo, hi), c in zip(inputs, centres, strict=True)
    ]
    centre = op.forward(*centres)
    radius = op.magnitude(*radii) * (1 + 2 * rate) + centre.abs() * (4 * torch.finfo(dtype).eps) + tiny(dtype)
    offset = op.bias()
    if offset is not None:
        radius = radius + offset.abs() * rate
    return centre - radius, centre + radius


def node_interval(graph: Graph, position: int, values: Sequence[Interval | None]) -> Interval:
    """Bounds of one node from the bounds of its inputs."""
    node: Node = graph.nodes[position]
    inputs = [_known(values[i]) for i in node.inputs]
    if isinstance(node.op, LinearOp):
        return unbounded(linear_interval(node.op, inputs, graph.input_shapes(position), node.shape))
    if not isinstance(node.op, NonlinearOp):
        raise TypeError(f"node '{node.name}' is neither linear nor nonlinear")
    return unbounded(node.op.interval(*seen(node.op, inputs)))


def unbounded(bounds: Interval) -> Interval:
    """Minus and plus infinity where an overflow left no number: a step would take that for "not above 0"."""
    (low, high), infinity = bounds, float("inf")
    return (
        low.nan_to_num(nan=-infinity, posinf=infinity, neginf=-infinity),
        high.nan_to_num(nan=infinity, posinf=infinity, neginf=-infinity),
    )


def _known(value: Interval | None) -> Interval:
    if value is None:
        raise ValueError("interval of an input is missing")
    return value


def interval_pass(
    graph: Graph, lower: Tensor, upper: Tensor, known: dict[int, Interval] | None = None
) -> list[Interval]:
    """Bounds (batch, *shape) of every node over the boxes (batch, inputs), intersected with `known` ones."""
    values: list[Interval | None] = [(lower, upper)]
    for position in range(1, len(graph.nodes)):
        low, high = node_interval(graph, position, values)
        if known is not None and position in known:
            low, high = torch.fmax(low, known[position][0]), torch.fmin(high, known[position][1])  # a NaN gives way
        values.append((low, high))
    return [_known(v) for v in values]
