"""Pixels decided one by one: what is decided is true, and counts that no sample reaches are refuted."""

from __future__ import annotations

import time

import pytest
import torch
from verinet.solvers.entries import Entries
from verinet.solvers.query import ClauseTable, Clock, Query
from verinet.solvers.root import Root

from tests.unit.propagation.test_windows import Net, slide
from verinet.ir.graph import Graph
from verinet.ops.linear.arithmetic import Subtract
from verinet.ops.linear.reduce import Sum
from verinet.ops.scalar import Elementwise
from verinet.ops.shape.index import index_op
from verinet.ops.shape.reshape import Reshape
from verinet.ops.sorting.steps import STEP
from verinet.propagation.interval import interval_pass
from verinet.propagation.sweep import Layers, Sweeper, SweepOptions, build_backward
from verinet.spec.property import Property

SIDE = 9


def counting() -> tuple[Graph, int]:
    """How many pixels of a grid have class 1 rather than 0; and the node of the margins."""
    net = Net(1, (SIDE, SIDE), seed=4)
    one = net.relu(net.conv(net.grid, 6, slide((3, 3), begin=1)))
    two = net.relu(net.conv(one, 6, slide((3, 3), begin=1)))
    classes = net.conv(two, 2, slide((1, 1)))
    places = torch.arange(2 * SIDE**2).reshape(2, SIDE, SIDE, 1)
    first, second = (net.add(index_op(places[k], 2 * SIDE**2), classes) for k in range(2))
    margin = net.add(Subtract(), second, first)
    step = net.add(Elementwise(STEP, 3), margin)
    net.add(Reshape((1,)), net.add(Sum((0, 1, 2)), step))
    return net.graph(), margin


def setting(radius: float, bound: float, seconds: float = 20.0) -> tuple[Query, int]:
    """The query whether the count can be at most `bound` on a box around a random image."""
    graph, margin = counting()
    centre = torch.randn(1, graph.input_size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    one, zero = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, dtype=torch.int64)
    starts = torch.tensor([0, 1])
    none = torch.zeros(1, dtype=torch.bool)
    table = ClauseTable(one, torch.tensor([bound], dtype=torch.float64), none, 0.0, zero, starts, starts[1:])
    low, high = centre - radius, centre + radius
    prop = Property((), (), graph.input_size, 1)
    return Query(graph, low, high, table, prop, Clock(time.monotonic, time.monotonic() + seconds)), margin


def swept(query: Query) -> tuple[Sweeper, Layers]:
    sweeper = Sweeper(build_backward(query.graph, query.lower[0], query.upper[0]))
    return sweeper, sweeper.sweep(query.lower, query.upper, SweepOptions())


def sampled(query: Query, node: int, count: int = 3000) -> torch.Tensor:
    share = torch.rand(count, query.graph.input_size, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    share[::2] = share[::2].round()
    points = query.lower + share * (query.upper - query.lower)
    return query.graph.forward_all(points)[node].reshape(count, -1)


def test_decided_pixels_agree_with_every_sample() -> None:
    query, margin = setting(0.12, 0.0)
    sweeper, layers = swept(query)
    sure = float(interval_pass(query.graph, query.lower, query.upper, layers.known)[-1][0])
    values = sampled(query, margin)
    least = float((values > 0).sum(1).min())
    query, _ = setting(0.12, least - 1, seconds=6.0)
    before = [side.clone() for side in layers.known[margin]]
    entries = Entries(query, sweeper.backward, layers, query.clock)
    found = entries.decide(lambda *_: None)
    low, high = (side.reshape(-1) for side in layers.known[margin])
    assert bool((values >= low).all() and (values <= high).all())
    assert bool((low >= before[0].reshape(-1)).all() and (high <= before[1].reshape(-1)).all())
    count = float(interval_pass(query.graph, query.lower, query.upper, layers.known)[-1][0])
    assert found and entries.decided > 0
    assert sure < count <= least


def test_what_happens_is_not_refuted() -> None:
    """The count reaches its least sampled value, so no clause may be closed that allows it."""
    query, margin = setting(0.12, 0.0)
    least = float((sampled(query, margin) > 0).sum(1).min())
    query, _ = setting(0.12, least, seconds=3.0)
    assert Root(query, query.clock).bound(lambda *_: None)


def test_root_counts_pixels() -> None:
    """One below what the centre gives is out of reach for a tiny box."""
    query, margin = setting(0.01, 0.0)
    least = float((sampled(query, margin) > 0).sum(1).min())
    query, _ = setting(0.01, least - 3)
    assert Root(query, query.clock).bound(lambda *_: None) == []


@pytest.mark.parametrize("bound", [SIDE**2 + 1.0])
def test_hopeless_clauses_cost_nothing(bound: float) -> None:
    """Even with every pixel as at the centre the count stays below: nothing is searched."""
    query, _ = setting(0.12, bound)
    sweeper, layers = swept(query)
    assert not Entries(query, sweeper.backward, layers, query.clock).decide(lambda *_: None)
