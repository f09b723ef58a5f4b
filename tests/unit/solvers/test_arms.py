"""Arms of the strategy: box by box, resumable, and never closed by an overflow."""

from __future__ import annotations

import dataclasses
import math
import random
import time

import numpy as np
import pytest
import torch
from verinet.solvers.arms import InputArm, NeuronArm, single_boxes
from verinet.solvers.branching.outcome import End
from verinet.solvers.query import Clock, Query
from verinet.solvers.root import Root
from verinet.solvers.strategy import Strategy, effective_axes

from tests.soundness.networks import random_boxes, random_graph, samples
from tests.unit.solvers.queries import Referee, one_row, property_of, query_of, rows, silent
from verinet.ir.graph import Graph, InputOp, Node
from verinet.ops.activations import find
from verinet.ops.linear.dense import Dense
from verinet.ops.scalar import Elementwise
from verinet.spec.property import Clause

ARMS = pytest.mark.parametrize("arm", (InputArm, NeuronArm), ids=("input", "neuron"))
ROW = torch.tensor([1.0, -1.0], dtype=torch.float64)


def test_single_boxes_are_the_boxes_one_by_one() -> None:
    boxes = [(np.full(3, float(i)), np.full(3, i + 1.0)) for i in range(3)]
    clauses = [Clause(b, rows(np.full((1 + b, 2), 1.0 + b), np.full(1 + b, 10.0 * b))) for b in (2, 0, 2, 1)]
    query = query_of(random_graph(0), property_of(boxes, clauses, 2))
    parts = list(single_boxes(query))
    assert [float(p.lower[0, 0]) for p in parts] == [0.0, 1.0, 2.0]
    assert [p.boxes for p in parts] == [1, 1, 1]
    assert [p.table.starts.tolist() for p in parts] == [[0, 1], [0, 2], [0, 6]]
    assert [p.table.clauses.tolist() for p in parts] == [[1], [1], [2]]
    assert parts[2].table.clause.tolist() == [0, 0, 0, 1, 1, 1]
    assert parts[1].table.bounds.tolist() == [10.0, 10.0]
    assert parts[1].table.weights.tolist() == [[2.0, 2.0]] * 2


def _hard(seed: int, seconds: float = 20.0, below: float = 0.03) -> tuple[Graph, Query]:
    """A threshold this share of the sampled range below the sampled minimum."""
    graph = random_graph(seed, "Relu", "residual", depth=1)
    low, high = torch.full((3,), -1.0, dtype=torch.float64), torch.full((3,), 1.0, dtype=torch.float64)
    values = graph.forward(samples(low[None], high[None], seed, 30_000)[:, 0]) @ ROW
    threshold = float(values.min()) - below * float(values.max() - values.min())
    return graph, one_row(graph, (low, high), ROW, threshold, seconds)


@ARMS
def test_arms_go_on_where_they_stopped(arm: type[InputArm] | type[NeuronArm]) -> None:
    """Slices that end after a batch lose nothing: the share of the closed tree never shrinks."""
    _, query = _hard(1)
    search = arm(query, lambda points: False, silent)
    shares, end = [0.0], End.TIME
    for _ in range(80):
        end = search.run(query.clock.until(0.15)).end
        shares.append(search.closed_mass)
        if end is not End.TIME:
            break
    assert end is End.CLOSED
    assert shares[-1] == 1.0 and shares == sorted(shares)


@ARMS
def test_many_boxes_close_and_are_counted(arm: type[InputArm] | type[NeuronArm]) -> None:
    graph = random_graph(2, "Relu", "chain", depth=1)
    lower, upper = random_boxes(2, 5, 0.3)
    least = float((graph.forward(samples(lower, upper, 2, 2000).reshape(-1, 3)) @ ROW).min())
    clauses = [Clause(b, rows(ROW.numpy(), [least - 0.5])) for b in range(5)]
    boxes = [(lo.numpy(), hi.numpy()) for lo, hi in zip(lower, upper, strict=True)]
    query = query_of(graph, property_of(boxes, clauses, 2))
    outcome = arm(query, Referee(query), silent).run(query.clock)
    assert outcome.end is End.CLOSED and outcome.open == 0 and outcome.closed > 0


def _scaled(scale: float, activation: str) -> Graph:
    """Three layers with weights of one size: products of bounds overflow float32 long before float64."""
    draw = torch.Generator().manual_seed(0)
    function = find(activation, {"alpha": 0.1} if activation == "LeakyRelu" else {})
    if function is None:
        raise ValueError(activation)
    weights = [torch.randn(n, m, generator=draw, dtype=torch.float64) * scale for n, m in ((3, 8), (8, 8), (8, 1))]
    nodes = [Node(InputOp(3), (), (3,), "x"), Node(Dense(weights[0]), (0,), (8,), "a")]
    nodes += [Node(Elementwise(function, 1), (1,), (8,), "b"), Node(Dense(weights[1]), (2,), (8,), "c")]
    nodes += [Node(Elementwise(function, 1), (3,), (8,), "d"), Node(Dense(weights[2]), (4,), (1,), "e")]
    return Graph(tuple(nodes))


@ARMS
@pytest.mark.parametrize("activation", ("Relu", "LeakyRelu"))
@pytest.mark.parametrize("scale", (1e3, 1e15, 1e25, 1e60, 1e120))
def test_an_overflow_never_closes(arm: type[InputArm] | type[NeuronArm], activation: str, scale: float) -> None:
    graph = _scaled(scale, activation)
    low, high = torch.full((3,), -1.0, dtype=torch.float64), torch.full((3,), 1.0, dtype=torch.float64)
    values = graph.forward(samples(low[None], high[None], 0, 3000)[:, 0])[:, 0]
    threshold = float(values.min()) if math.isfinite(float(values.min())) else 0.0
    query = one_row(graph, (low, high), torch.ones(1, dtype=torch.float64), threshold, seconds=0.3)
    assert arm(query, lambda points: False, silent).run(query.clock).end is not End.CLOSED


def test_the_search_engine_is_float64_where_float32_overflows() -> None:
    low, high = torch.full((3,), -1.0, dtype=torch.float64), torch.full((3,), 1.0, dtype=torch.float64)
    for scale, dtype in ((1.0, torch.float32), (1e25, torch.float64)):
        query = one_row(_scaled(scale, "Relu"), (low, high), torch.ones(1, dtype=torch.float64), 0.0)
        root = Root(query, query.clock)
        root.bound(silent)
        engines = root.engines()
        assert engines.search.dtype == dtype and engines.gate.dtype == torch.float64


@pytest.mark.parametrize("violated", (False, True))
def test_a_box_that_is_a_point_is_decided(violated: bool) -> None:
    graph = random_graph(4, "Relu", "residual", depth=2)
    point = torch.tensor([0.3, -0.2, 0.9], dtype=torch.float64)
    value = float(graph.forward(point[None])[0] @ ROW)
    query = one_row(graph, (point, point), ROW, value + (1e-6 if violated else -1e-6))
    assert effective_axes(query) == 0
    for arm in (InputArm, NeuronArm):
        outcome = arm(query, Referee(query), silent).run(query.clock)
        assert outcome.end is (End.CANDIDATE if violated else End.CLOSED)


def test_the_strategy_reports_its_searches_and_the_gap() -> None:
    graph, query = _hard(3, seconds=0.5, below=-0.3)  # cannot be closed, and nothing is ever confirmed
    solution = Strategy(query, graph, lambda points: False, silent, 0).solve(query.clock)
    assert solution.end is End.TIME
    assert solution.gap is not None and solution.gap > 0
    assert set(solution.trail) == {"input-split", "neuron-split"}


class _Flickering:
    """A clock that is over now and then, at the query's own limit as well: nothing may be closed by that."""

    def __init__(self, query: Query, seed: int) -> None:
        self._draw = random.Random(seed)
        self.clock = Clock(time.monotonic, time.monotonic() + 60, lambda: self._draw.random() < 0.3)
        self.query = dataclasses.replace(query, clock=self.clock)


@ARMS
@pytest.mark.parametrize("seed", range(2))
def test_a_clock_that_runs_out_anywhere_closes_nothing(arm: type[InputArm] | type[NeuronArm], seed: int) -> None:
    """Two boxes with two kinds of clauses; the second box holds a violation, which only `offer` could settle."""
    graph = random_graph(2, "Relu", "chain", depth=1)
    lower, upper = random_boxes(2, 2, 0.4)
    values = graph.forward(samples(lower, upper, 2, 3000).reshape(-1, 3)).reshape(3000, 2, 2)
    out = [float((values[:, b] @ ROW).min()) for b in (0, 1)]
    clauses = [Clause(0, rows(ROW.numpy(), [out[0] - 0.2])), Clause(1, rows(ROW.numpy(), [out[1] - 0.2]))]
    clauses += [Clause(1, rows(np.stack([ROW.numpy()] * 2), [out[1] + 0.05] * 2))]
    boxes = [(lo.numpy(), hi.numpy()) for lo, hi in zip(lower, upper, strict=True)]
    flickering = _Flickering(query_of(graph, property_of(boxes, clauses, 2)), seed)
    search = arm(flickering.query, lambda points: False, silent)
    for _ in range(8):
        outcome = search.run(flickering.clock.until(0.05))
        assert outcome.end is not End.CLOSED
        assert search.closed_mass < 1.0
        if outcome.end is not End.TIME:
            break
