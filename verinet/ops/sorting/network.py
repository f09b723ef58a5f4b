"""Sorting as a network of comparators: what verification uses instead of `SortLast` where groups are small.

A comparator is max and min of two entries, (a + b +- |a - b|) / 2 with one shared |.|. Backward rows bound each a - b
with all correlations of the network, which boxes of single entries lose, and |.| can be split on; the joint planes of
`SortLast` know the boxes only. Measured on three layers of groups of five: 4.8 below zero became 1.8.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from verinet.errors import InternalError
from verinet.ir.graph import Graph, Node, Op, Shape
from verinet.ops.activations import find
from verinet.ops.linear.arithmetic import Add
from verinet.ops.linear.dense import Dense
from verinet.ops.scalar import Elementwise
from verinet.ops.sorting.pairs import with_distances
from verinet.ops.sorting.sort import SortLast

LARGEST_GROUP = 16  # beyond, the network is so deep that it is looser than the joint planes

Layer = list[tuple[int, int]]


def comparators(count: int) -> list[Layer]:
    """Batcher's merge exchange for `count` entries (Knuth, The Art of Computer Programming 3, algorithm 5.2.2M).

    Pairs (i, j), i < j, put the smaller entry at i. Each layer's pairs are disjoint.
    """
    layers: list[Layer] = []
    top = 1 << max(count - 1, 0).bit_length() >> 1
    p = top
    while p > 0:
        q, r, d = top, 0, p
        while d > 0:
            layers.append([(i, i + d) for i in range(count - d) if i & p == r])
            d, q, r = q - p, q >> 1, p
        p >>= 1
    return [layer for layer in layers if layer]


def with_comparators(graph: Graph, largest: int = LARGEST_GROUP) -> Graph:
    """The same function, with comparators in place of every sort of at most `largest` entries.

    Maxima of few candidates become rounds of distances, see `verinet.ops.sorting.pairs`.
    """
    if not any(isinstance(node.op, SortLast) for node in graph.nodes):
        return with_distances(graph)
    nodes: list[Node] = []
    moved: dict[int, int] = {}
    for position, node in enumerate(graph.nodes):
        inputs = tuple(moved[i] for i in node.inputs)
        if isinstance(node.op, SortLast) and 2 <= node.shape[-1] <= largest:
            _append_network(nodes, inputs[0], node)
        else:
            nodes.append(dataclasses.replace(node, inputs=inputs))
        moved[position] = len(nodes) - 1
    return with_distances(Graph(tuple(nodes)))


def _append_network(nodes: list[Node], source: int, sort: Node) -> None:
    """Append the nodes of one sort; the last one has its name and shape."""
    count, lead = sort.shape[-1], sort.shape[:-1]
    distance = find("Abs")
    if distance is None:
        raise InternalError("the activation Abs is not registered")

    def emit(op: Op, inputs: tuple[int, ...], shape: Shape, what: str) -> int:
        nodes.append(Node(op, inputs, shape, f"{sort.name}/{what}"))
        return len(nodes) - 1

    for number, layer in enumerate(comparators(count)):
        apart, mean, swing = _matrices(layer, count)
        between = emit(Dense(apart), (source,), (*lead, len(layer)), f"difference{number}")
        size = emit(Elementwise(distance, len(sort.shape)), (between,), (*lead, len(layer)), f"distance{number}")
        middle = emit(Dense(mean), (source,), sort.shape, f"middle{number}")
        swung = emit(Dense(swing), (size,), sort.shape, f"swing{number}")
        source = emit(Add(), (middle, swung), sort.shape, f"step{number}")
    nodes[-1] = dataclasses.replace(nodes[-1], name=sort.name)


def _matrices(layer: Layer, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """x @ apart = a - b; x @ mean + |a - b| @ swing = x with every pair in order. All coefficients are exact."""
    apart = torch.zeros(count, len(layer), dtype=torch.float64)
    mean = torch.eye(count, dtype=torch.float64)
    swing = torch.zeros(len(layer), count, dtype=torch.float64)
    for pair, (first, second) in enumerate(layer):
        apart[first, pair], apart[second, pair] = 1.0, -1.0
        mean[[first, first, second, second], [first, second, first, second]] = 0.5
        swing[pair, first], swing[pair, second] = -0.5, 0.5
    return apart, mean, swing
