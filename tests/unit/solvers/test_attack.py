"""The attack proposes real violations, stays in its boxes, and takes part in every clause."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from verinet.solvers.attack.pgd import Attack, AttackPlan
from verinet.solvers.query import Query

from tests.soundness.networks import random_boxes, random_graph, samples
from tests.unit.solvers.queries import Referee, one_row, property_of, query_of, rows
from verinet.ir.graph import Graph
from verinet.spec.property import Clause

BOX = (torch.full((3,), -1.0, dtype=torch.float64), torch.full((3,), 1.0, dtype=torch.float64))


def _easy(seed: int, quantile: float) -> Query:
    """One row whose threshold is the given quantile of random samples."""
    graph = random_graph(seed, "Relu", "chain", depth=2)
    row = torch.tensor([1.0, -1.0], dtype=torch.float64)
    values = graph.forward(samples(BOX[0][None], BOX[1][None], seed, 2000)[:, 0]) @ row
    return one_row(graph, BOX, row, float(values.quantile(quantile)))


def _attack(query: Query, graph: Graph | None = None) -> tuple[Attack, Referee]:
    return Attack(query, graph or query.graph, seed=0), Referee(query)


def test_sampling_finds_a_common_violation() -> None:
    attack, referee = _attack(_easy(0, 0.3))
    assert attack.sample(referee, 128)
    assert referee.confirmed and not referee.refused


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("seed", range(3))
def test_descent_finds_a_rare_violation(seed: int, dtype: torch.dtype) -> None:
    query = _easy(seed, 0.002)
    attack, referee = _attack(query, query.graph.to(dtype))
    assert attack.descend(AttackPlan(restarts=16, steps=60), referee, query.clock)
    assert referee.confirmed and not referee.refused


def test_nothing_is_offered_where_nothing_violates() -> None:
    query = _easy(0, 0.0)
    object.__setattr__(query.table, "bounds", query.table.bounds - 1e3)
    attack, referee = _attack(query)
    assert not attack.sample(referee, 64)
    assert not attack.descend(AttackPlan(restarts=4, steps=10), referee, query.clock)
    assert not referee.confirmed and not referee.refused


def test_descent_stops_with_the_clock() -> None:
    query = _easy(0, 0.3)
    attack, referee = _attack(query)
    assert not attack.descend(AttackPlan(), referee, query.clock.until(-1.0))


def test_the_only_violated_clause_of_many_is_found() -> None:
    """Several boxes, clauses of one, two and no rows; only one conjunction of the last box can hold."""
    graph = random_graph(3, "Relu", "chain", depth=1)
    lower, upper = random_boxes(5, 3, 0.5)
    outputs = graph.forward(samples(lower, upper, 1, 500).reshape(-1, 3)).reshape(500, 3, 2).numpy()
    identity: npt.NDArray[np.float64] = np.eye(2)
    clauses = [Clause(box, rows(identity[:1], [outputs[:, box, 0].min() - 100.0])) for box in range(3)]
    clauses.append(Clause(2, rows(identity, np.quantile(outputs[:, 2], 0.6, axis=0))))
    boxes = [(lo.numpy(), hi.numpy()) for lo, hi in zip(lower, upper, strict=True)]
    query = query_of(graph, property_of(boxes, clauses, 2))
    attack, referee = _attack(query)
    assert attack.descend(AttackPlan(restarts=8, steps=30), referee, query.clock)
    assert not referee.refused


@pytest.mark.parametrize("others", [0, 1])
def test_a_clause_without_rows_is_violated_everywhere(others: int) -> None:
    graph = random_graph(0)
    clauses = [Clause(0, rows([[1.0, 0.0]], [-1e6]))] * others + [Clause(0, rows(np.zeros((0, 2)), []))]
    query = query_of(graph, property_of([(BOX[0].numpy(), BOX[1].numpy())], clauses, 2))
    attack, referee = _attack(query)
    assert attack.descend(AttackPlan(restarts=2, steps=2), referee, query.clock)


def test_the_same_seed_offers_the_same_points() -> None:
    found = []
    for _ in range(2):
        attack, referee = _attack(_easy(1, 0.1))
        attack.sample(referee, 64)
        found.append(np.stack(referee.confirmed))
    assert np.array_equal(found[0], found[1])
