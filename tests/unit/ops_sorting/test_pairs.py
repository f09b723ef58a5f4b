"""Maxima as rounds of distances: the same function, sound, tighter for pairs, and shared between Max and Min."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from verinet.ir.check import check_structure
from verinet.ir.graph import Graph, InputOp, Node
from verinet.ops.linear.arithmetic import Negate
from verinet.ops.linear.dense import Dense
from verinet.ops.pooling.maximum import MaxLast
from verinet.ops.scalar import Elementwise
from verinet.ops.shape.concat import Concat
from verinet.ops.shape.index import Index
from verinet.ops.shape.reshape import Reshape
from verinet.ops.sorting.pairs import with_distances
from verinet.propagation.rows import RowMap
from verinet.propagation.sweep import Sweeper, SweepOptions, build_backward


def _dense(rows: int, columns: int, seed: int) -> Dense:
    draw = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=draw, dtype=torch.float64) / rows**0.5
    return Dense(weight, torch.randn(columns, generator=draw, dtype=torch.float64) * 0.3)


def maxima(groups: int, size: int, layers: int = 2, inputs: int = 4) -> Graph:
    """`layers` times a matrix and the maximum of groups, then two outputs."""
    nodes = [Node(InputOp(inputs), (), (inputs,), "input")]
    for layer in range(layers):
        width = nodes[-1].shape[-1]
        for op, shape in (
            (_dense(width, groups * size, 7 * layer + size), (groups * size,)),
            (Reshape((groups, size)), (groups, size)),
            (MaxLast(1), (groups,)),
        ):
            nodes.append(Node(op, (len(nodes) - 1,), shape, f"{op.kind}{layer}"))
    nodes.append(Node(_dense(groups, 2, 99), (len(nodes) - 1,), (2,), "output"))
    return Graph(tuple(nodes))


def max_and_min(reverse: bool) -> Graph:
    """Max and Min of the same three pairs, side by side; `reverse` swaps the candidates of the Min."""
    order = torch.arange(6).reshape(3, 2)
    nodes = (
        Node(InputOp(4), (), (4,), "input"),
        Node(_dense(4, 6, 3), (0,), (6,), "dense"),
        Node(Reshape((3, 2)), (1,), (3, 2), "pairs"),
        Node(MaxLast(1), (2,), (3,), "max"),
        Node(Index(order.flip(1) if reverse else order, 6), (1,), (3, 2), "pairs again"),
        Node(Negate(), (4,), (3, 2), "negated"),
        Node(MaxLast(1), (5,), (3,), "minus min"),
        Node(Negate(), (6,), (3,), "min"),
        Node(Concat(0), (3, 7), (6,), "both"),
    )
    return Graph(nodes)


def lower_bounds(graph: Graph, low: Tensor, high: Tensor) -> Tensor:
    backward = build_backward(graph, low, high)
    layers = Sweeper(backward).sweep(low[None], high[None], SweepOptions())
    eye = torch.eye(graph.output_size, dtype=torch.float64)
    rows = torch.cat([eye, -eye])
    owners = RowMap.regular(1, len(rows), low.device)
    found = backward.run(graph.output, rows, owners, layers.relaxation)
    return backward.concretize(found, owners, low[None], high[None])


@pytest.mark.parametrize("size", [2, 3, 4, 7])
def test_the_function_is_the_same_and_its_bounds_hold(size: int) -> None:
    graph = maxima(5, size)
    lowered = with_distances(graph, 7)
    check_structure(lowered, "test")
    assert not any(isinstance(n.op, MaxLast) for n in lowered.nodes)
    assert {"Max0", "Max1"} <= {n.name for n in lowered.nodes}
    x = torch.randn(500, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert torch.allclose(graph.forward(x), lowered.forward(x), atol=1e-12)
    low, high = x[0] - 0.3, x[0] + 0.3
    draw = torch.Generator().manual_seed(2)
    points = graph.forward(low + (high - low) * torch.rand(3000, 4, generator=draw, dtype=torch.float64))
    assert bool((lower_bounds(lowered, low, high) <= torch.cat([points, -points], 1).amin(0)).all())


def test_distances_of_pairs_are_tighter_than_boxes() -> None:
    graph = maxima(12, 2)
    centre = torch.randn(4, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    plain, lowered = (lower_bounds(g, centre - 0.2, centre + 0.2) for g in (graph, with_distances(graph)))
    assert float((lowered - plain).mean()) > 0.05


@pytest.mark.parametrize("reverse", [False, True])
def test_max_and_min_share_their_distance(reverse: bool) -> None:
    graph = max_and_min(reverse)
    lowered = with_distances(graph)
    check_structure(lowered, "test")
    assert sum(isinstance(n.op, Elementwise) for n in lowered.nodes) == 1
    x = torch.randn(200, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert torch.allclose(graph.forward(x), lowered.forward(x), atol=1e-12)
    assert torch.equal(lowered.forward(x)[:, :3].minimum(lowered.forward(x)[:, 3:]), lowered.forward(x)[:, 3:])


def test_many_candidates_stay_one_operator() -> None:
    graph = maxima(3, 5)
    assert with_distances(graph).nodes == graph.nodes
    assert with_distances(graph, 5).nodes != graph.nodes
