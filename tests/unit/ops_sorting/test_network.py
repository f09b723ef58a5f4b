"""Comparators sort, compute the same function as a sort, and give sound and tighter bounds."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from verinet.ir.check import check_structure
from verinet.ir.graph import Graph, InputOp, Node
from verinet.ops.linear.dense import Dense
from verinet.ops.scalar import Elementwise
from verinet.ops.shape.reshape import Reshape
from verinet.ops.sorting.network import comparators, with_comparators
from verinet.ops.sorting.sort import SortLast
from verinet.propagation.rows import RowMap
from verinet.propagation.sweep import Sweeper, SweepOptions, build_backward


@pytest.mark.parametrize("count", range(1, 13))
def test_every_sequence_of_zeros_and_ones_is_sorted(count: int) -> None:
    """Then every sequence is (Knuth 3, 5.3.4, theorem Z)."""
    found = torch.tensor(list(itertools.product((0, 1), repeat=count)))
    for layer in comparators(count):
        assert len({place for pair in layer for place in pair}) == 2 * len(layer)
        for first, second in layer:
            low, high = found[:, first].minimum(found[:, second]), found[:, first].maximum(found[:, second])
            found[:, first], found[:, second] = low, high
    assert bool((found.diff(dim=1) >= 0).all())


def network(groups: int, size: int, layers: int = 2) -> Graph:
    """Inputs, then `layers` times a matrix and a sort in groups, then two outputs."""
    width, draw = groups * size, torch.Generator().manual_seed(groups * 31 + size)
    nodes = [Node(InputOp(4), (), (4,), "input")]

    def emit(op: object, shape: tuple[int, ...], name: str) -> None:
        nodes.append(Node(op, (len(nodes) - 1,), shape, name))  # type: ignore[arg-type]

    for layer in range(layers):
        weight = torch.randn(nodes[-1].shape[-1], width, generator=draw, dtype=torch.float64) * 0.6
        emit(Dense(weight, torch.randn(width, generator=draw, dtype=torch.float64)), (width,), f"dense{layer}")
        emit(Reshape((groups, size)), (groups, size), f"groups{layer}")
        emit(SortLast(2), (groups, size), f"sort{layer}")
        emit(Reshape((width,)), (width,), f"flat{layer}")
    emit(Dense(torch.randn(width, 2, generator=draw, dtype=torch.float64)), (2,), "output")
    return Graph(tuple(nodes))


def lower_bounds(graph: Graph, low: Tensor, high: Tensor) -> Tensor:
    backward = build_backward(graph, low, high)
    layers = Sweeper(backward).sweep(low[None], high[None], SweepOptions())
    rows = torch.cat([torch.eye(2), -torch.eye(2)]).double()
    owners = RowMap.regular(1, 4, low.device)
    found = backward.run(graph.output, rows, owners, layers.relaxation)
    return backward.concretize(found, owners, low[None], high[None])


@pytest.mark.parametrize(("groups", "size"), [(2, 2), (3, 3), (2, 5), (1, 9)])
def test_the_function_is_the_same_and_its_bounds_hold(groups: int, size: int) -> None:
    graph = network(groups, size)
    lowered = with_comparators(graph)
    check_structure(lowered, "test")
    assert not any(isinstance(n.op, SortLast) for n in lowered.nodes)
    assert {"sort0", "sort1"} <= {n.name for n in lowered.nodes}
    x = torch.randn(500, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert torch.allclose(graph.forward(x), lowered.forward(x), atol=1e-12)
    low, high = x[0] - 0.3, x[0] + 0.3
    points = graph.forward(low + (high - low) * torch.rand(3000, 4, dtype=torch.float64))
    signed = torch.cat([points, -points], 1).amin(0)
    for form in (graph, lowered):
        assert bool((lower_bounds(form, low, high) <= signed).all())


def test_comparators_are_tighter_than_boxes() -> None:
    graph = network(4, 5)
    centre = torch.randn(4, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    plain = lower_bounds(graph, centre - 0.2, centre + 0.2)
    lowered = lower_bounds(with_comparators(graph), centre - 0.2, centre + 0.2)
    assert float(lowered.mean()) > float(plain.mean()) + 0.05


def test_large_groups_stay_one_operator() -> None:
    graph = network(1, 9)
    assert with_comparators(graph, largest=8).nodes == graph.nodes
    assert any(isinstance(n.op, Elementwise) for n in with_comparators(graph, largest=9).nodes)
