"""Clauses of several rows as one maximum: same meaning, bounds at least those of the best single row."""

from __future__ import annotations

import torch
from verinet.solvers.conjunction import as_maximum, is_conjunction
from verinet.solvers.query import ClauseTable, Clock, Query

from tests.soundness.networks import random_graph, samples
from verinet.propagation.optimize import RowProblem, Step, optimize
from verinet.propagation.rows import RowMap
from verinet.propagation.sweep import Sweeper, SweepOptions, build_backward


def _query(seed: int, threshold: float) -> Query:
    graph = random_graph(seed, "Relu", "residual", depth=2)
    lower = torch.full((1, 3), -0.6, dtype=torch.float64)
    weights = torch.tensor([[1.0, -1.0], [-1.0, 0.9], [0.3, 0.2]], dtype=torch.float64)
    bounds = torch.full((3,), threshold, dtype=torch.float64)
    number = torch.zeros(3, dtype=torch.int64)
    table = ClauseTable(
        weights, bounds, torch.zeros(3, dtype=torch.bool), 0.0, number, torch.tensor([0, 3]), torch.tensor([1])
    )
    return Query(graph, lower, -lower, table, None, Clock(lambda: 0.0, 1.0))  # type: ignore[arg-type]


def _bound(query: Query, iterations: int) -> torch.Tensor:
    backward = build_backward(query.graph, query.lower[0], query.upper[0])
    layers = Sweeper(backward).sweep(query.lower, query.upper, SweepOptions())
    count = len(query.table.bounds)
    problem = RowProblem(
        query.graph.output,
        query.table.weights,
        RowMap.regular(1, count, query.lower.device),
        query.lower,
        query.upper,
        layers.known,
    )
    return optimize(problem, backward, step=Step(iterations=iterations)).bound - query.table.bounds


def test_the_maximum_is_what_the_clause_says() -> None:
    query = _query(3, 0.1)
    assert is_conjunction(query)
    single = as_maximum(query)
    points = samples(query.lower, query.upper, 1)[:, 0]
    slack = query.graph.forward(points) @ query.table.weights.T - query.table.bounds
    assert torch.allclose(single.graph.forward(points)[:, 0], slack.amax(1))
    assert not is_conjunction(single)


def test_combined_rows_are_sound_and_no_worse_than_single_rows() -> None:
    better = 0
    for seed in range(8):
        query = _query(seed, 0.0)
        single = as_maximum(query)
        rows, combined = _bound(query, 30), _bound(single, 60)
        points = samples(query.lower, query.upper, seed)[:, 0]
        assert float(combined[0]) <= float(single.graph.forward(points).min()) + 1e-11
        assert float(combined[0]) >= float(rows.max()) - 0.05 * float(rows.max().abs() + 1)
        better += float(combined[0]) > float(rows.max()) + 1e-6
    assert better >= 4
