"""A common factor of the entries that a linear layer mixes is taken out of it: W (r d) = r (W d).

That is what a layer behind a layer normalisation computes, r being one over the standard deviation of a token. Planes
of r d_i lose dr dd_i per entry, |W| dd dr altogether; planes of r (W d)_k lose dr times the radius of (W d)_k, which
backward rows bound with all that the d_i have in common. Far behind the layer, where many of its outputs are added up,
the first form can be the better one: both are kept, and every row mixes them (`verinet.ops.bilinear.either`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch

from verinet.ir.graph import Graph, Node, Op, Shape
from verinet.ir.passes.dead import drop_dead
from verinet.ops.bilinear.either import Either
from verinet.ops.bilinear.product import Product
from verinet.ops.linear.arithmetic import Add, Scale, Shift
from verinet.ops.linear.dense import Dense
from verinet.ops.shape.index import Index

Emit = Callable[[Op, tuple[int, ...], Shape, str], int]
"""Appends a node with its operator, inputs, shape and name."""


class Chain(NamedTuple):
    """What a linear layer reads: scales of a product, and what was added to it, if anything."""

    product: int
    scales: tuple[Scale, ...]
    shift: Shift | None


def with_late_factors(graph: Graph) -> Graph:
    """The same function, with a second way to every linear layer of products with a common factor."""
    nodes: list[Node] = []
    moved: dict[int, int] = {}
    for position, node in enumerate(graph.nodes):
        nodes.append(Node(node.op, tuple(moved[i] for i in node.inputs), node.shape, node.name))
        moved[position] = len(nodes) - 1
        chain = _chain(graph, node)
        if chain is not None:
            moved[position] = _append_other_way(nodes, moved[position], chain, moved[chain.product])
    return drop_dead(nodes, moved[graph.output])[0]


def _chain(graph: Graph, node: Node) -> Chain | None:
    """How a linear layer comes from a product with a factor that all entries it mixes share; None if it does not."""
    if not isinstance(node.op, Dense):
        return None
    position, shift, scales = node.inputs[0], None, []
    if isinstance(op := graph.nodes[position].op, Shift):
        shift, position = op, graph.nodes[position].inputs[0]
    while isinstance(op := graph.nodes[position].op, Scale):
        scales.append(op)
        position = graph.nodes[position].inputs[0]
    return Chain(position, tuple(reversed(scales)), shift) if _has_common_factor(graph.nodes[position]) else None


def _has_common_factor(node: Node) -> bool:
    """The left factor is repeated along the last axis, the right one is not repeated at all."""
    op = node.op
    return isinstance(op, Product) and op.right == node.shape and op.left[-1:] == (1,) and node.shape[-1] > 1


def _append_other_way(nodes: list[Node], direct: int, chain: Chain, product: int) -> int:
    """r (W (scales d)) + (W shift + offset), and the node that joins it with the direct way."""
    layer, source = nodes[direct], nodes[product]
    if not isinstance(layer.op, Dense) or not isinstance(source.op, Product):
        raise TypeError(layer.name)

    def emit(op: Op, inputs: tuple[int, ...], shape: Shape, what: str) -> int:
        nodes.append(Node(op, inputs, shape, f"{layer.name}/{what}"))
        return len(nodes) - 1

    factor, varied = source.inputs
    for number, scale in enumerate(chain.scales):
        varied = emit(scale, (varied,), source.shape, f"scaled{number}")
    mixed = emit(Dense(layer.op.weight), (varied,), layer.shape, "mixed")
    times = Product(source.op.left, layer.shape, _limit(source, chain, layer.op))
    other = emit(times, (factor, mixed), layer.shape, "times")
    constant = _append_constant(emit, layer, source.shape, nodes[0].shape[0], chain.shift)
    if constant is not None:
        other = emit(Add(), (other, constant), layer.shape, "other")
    return emit(Either(len(layer.shape)), (direct, other), layer.shape, "either")


def _append_constant(emit: Emit, layer: Node, shape: Shape, inputs: int, shift: Shift | None) -> int | None:
    """What the layer makes of the shift, and its offset: nodes, so that their rounding is charged like any other."""
    if not isinstance(layer.op, Dense) or (shift is None and layer.op.offset is None):
        return None
    start = emit(Index(torch.full(shape, -1, dtype=torch.int64), inputs), (0,), shape, "zero")
    if shift is not None:
        start = emit(shift, (start,), shape, "shift")
    return emit(layer.op, (start,), layer.shape, "constant")


def _limit(source: Node, chain: Chain, layer: Dense) -> float:
    """Of the new product, from that of the old one: |sum_i W_ik s_i y_i| <= limit sum_i |W_ik s_i|."""
    if not isinstance(source.op, Product) or math.isinf(source.op.limit):
        return math.inf
    scales = torch.ones(source.shape, dtype=torch.float64)
    for scale in chain.scales:
        scales = scales * scale.factor.abs().double().cpu()
    largest = float((scales @ layer.weight.abs().double().cpu()).max())
    return source.op.limit * largest * (1 + 1e-9)  # far more than all roundings above
