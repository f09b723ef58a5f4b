"""The clause table: margins, closing rules, which points violate, and clipping."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from verinet.solvers.branching.clip import clip_boxes
from verinet.solvers.branching.input_split import violating
from verinet.solvers.query import ClauseTable, Clock, clause_table

from tests.kits.strategies import SEEDS
from tests.soundness.networks import random_boxes, random_graph, samples
from tests.unit.solvers.queries import CPU, property_of, query_of, rows
from verinet.errors import PropertyError
from verinet.propagation.backward import InputRows
from verinet.propagation.rows import RowMap
from verinet.propagation.sweep import Sweeper, SweepOptions, build_backward
from verinet.spec.property import Clause, Property

UNIT_BOX = (np.zeros(3), np.ones(3))


def _mixed() -> Property:
    """Three boxes with one, three and no clauses; one clause has no rows; clauses out of order of their boxes."""
    return property_of(
        [UNIT_BOX] * 3,
        [
            Clause(1, rows([[1.0, 0.0], [0.0, 1.0]], [1.0, 2.0])),
            Clause(0, rows([[1.0, 1.0]], [3.0], strict=True)),
            Clause(1, rows(np.zeros((0, 2)), [])),
            Clause(1, rows([[1.0, -1.0]], [-4.0])),
        ],
        2,
    )


def test_table_is_sorted_by_box_and_keeps_every_row() -> None:
    table = clause_table(_mixed(), CPU)
    assert table.starts.tolist() == [0, 1, 4, 4]
    assert table.clauses.tolist() == [1, 3, 0]
    assert table.clause.tolist() == [0, 0, 0, 2]
    assert table.weights.tolist() == [[1, 1], [1, 0], [0, 1], [1, -1]]
    assert table.bounds.tolist() == [3, 1, 2, -4]
    assert table.strict.tolist() == [True, False, False, False]


def test_rows_of_names_the_rows_of_each_domain() -> None:
    table = clause_table(_mixed(), CPU)
    ids, owners = table.rows_of(torch.tensor([1, 0, 2, 1]))
    assert ids.tolist() == [1, 2, 3, 0, 1, 2, 3]
    assert owners.domain.tolist() == [0, 0, 0, 1, 3, 3, 3]
    assert owners.domains == 4 and owners.per_domain is None
    ids, owners = table.rows_of(torch.tensor([1, 1]))
    assert ids.tolist() == [1, 2, 3, 1, 2, 3] and owners.per_domain == 3


def test_repeated_columns_of_a_row_add_up() -> None:
    single = rows([[1.0, 2.0]], [0.0])
    doubled = type(single)(single.starts, np.array([1, 1]), single.values, single.bounds, single.strict)
    table = clause_table(property_of([UNIT_BOX], [Clause(0, doubled)], 2), CPU)
    assert table.weights.tolist() == [[0.0, 3.0]]


@pytest.mark.parametrize(("weight", "bound"), [(math.nan, 0.0), (math.inf, 0.0), (1.0, math.nan)])
def test_rows_that_are_not_numbers_are_refused(weight: float, bound: float) -> None:
    with pytest.raises(PropertyError, match="not a number"):
        clause_table(property_of([UNIT_BOX], [Clause(0, rows([[weight]], [bound]))], 1), CPU)


def _margins(table: ClauseTable, lower: list[float], size: float = 0.0) -> torch.Tensor:
    ids = torch.arange(len(lower))
    sizes = torch.full((table.weights.shape[1],), size, dtype=torch.float64)
    return table.margins(ids, torch.tensor(lower, dtype=torch.float64), sizes)


def test_margins_are_rounded_down_and_equality_refutes_strict_rows_only() -> None:
    table = clause_table(_mixed(), CPU)
    at_bound = _margins(table, [3.0, 1.0, 2.0, -4.0])
    assert (at_bound > 0).tolist() == [True, False, False, False]
    above = _margins(table, [3.0 + 4e-16, 1.0 + 4e-16, 2.0 + 4e-16, -4.0 + 9e-16])
    assert not bool((above > 0).any())  # within the rounding of the subtraction
    clear = _margins(table, [3.1, 1.1, 2.1, -3.9])
    assert bool((clear > 0).all()) and bool((clear < 0.1 + 1e-12).all())


def test_overflowing_bounds_refute_nothing() -> None:
    table = clause_table(_mixed(), CPU)
    assert _margins(table, [math.nan, -math.inf, math.inf, math.nan]).tolist() == [-math.inf] * 4


def test_inexact_weights_are_charged_even_for_strict_rows() -> None:
    prop = property_of([UNIT_BOX], [Clause(0, rows([[1.0, -2.0]], [3.0], strict=True, error=2.0**-53))], 2)
    table = clause_table(prop, CPU)
    charge = 3.0 * 1e3 * 2.0**-53
    assert float(_margins(table, [3.0], 1e3)) < 0
    assert float(_margins(table, [3.0 + 0.9 * charge], 1e3)) < 0
    assert float(_margins(table, [3.0 + 1.1 * charge + 1e-14], 1e3)) > 0


def test_a_domain_closes_when_all_its_clauses_are_refuted() -> None:
    table = clause_table(_mixed(), CPU)
    box = torch.tensor([0, 1, 2])
    ids, owners = table.rows_of(box)
    worst, each = table.domain_margins(box, ids, owners, torch.tensor([0.5, -1.0, 2.0, 3.0], dtype=torch.float64))
    assert worst.tolist() == [0.5, -math.inf, math.inf]  # no row refutes a clause without rows; no clause: closed
    assert each.tolist() == [[0.5, math.inf, math.inf], [2.0, -math.inf, 3.0], [math.inf] * 3]


def test_violating_means_every_row_of_some_clause_of_the_own_box() -> None:
    prop = property_of(
        [UNIT_BOX] * 2,
        [
            Clause(0, rows([[1.0, 0.0], [0.0, 1.0]], [1.0, 1.0])),
            Clause(0, rows([[-1.0, 0.0]], [-9.0])),
            Clause(1, rows([[0.0, -1.0]], [-5.0])),
        ],
        2,
    )
    query = query_of(random_graph(0), prop)
    outputs = torch.tensor([[0, 0], [0, 2], [9, 9], [0, 0], [0, 5], [math.nan, math.nan]], dtype=torch.float64)
    boxes = torch.tensor([0, 0, 0, 1, 1, 0])
    assert violating(query, outputs, boxes).tolist() == [True, False, True, False, True, False]


def test_everything_violates_a_clause_without_rows() -> None:
    query = query_of(random_graph(0), _mixed())
    assert violating(query, torch.full((2, 2), 99.0, dtype=torch.float64), torch.tensor([1, 0])).tolist() == [
        True,
        False,
    ]


@settings(max_examples=25)
@given(seed=SEEDS, radius=st.sampled_from([1e-3, 0.5, 3.0]), count=st.integers(1, 3))
def test_clipping_never_cuts_off_a_violation(seed: int, radius: float, count: int) -> None:
    graph = random_graph(seed, "Relu", "chain", depth=1, width=4)
    lower, upper = random_boxes(seed, 3, radius)
    points = samples(lower, upper, seed, 300)
    outputs = graph.forward(points.reshape(-1, 3)).reshape(300, 3, 2)
    draw = torch.Generator().manual_seed(seed)
    clauses = []
    for number in range(count + seed % 2):
        box = (seed + number) % 3
        weights = torch.randn(1 + number % 2, 2, generator=draw, dtype=torch.float64)
        reached = outputs[:, box] @ weights.T
        limits = reached.quantile(0.2, dim=0) if number % 3 else reached.amin(0)
        clauses.append(Clause(box, rows(weights.numpy(), limits.numpy())))
    boxes = [(lo.numpy(), hi.numpy()) for lo, hi in zip(lower, upper, strict=True)]
    query = query_of(graph, property_of(boxes, clauses, 2))
    number_of = torch.arange(3)
    ids, owners = query.table.rows_of(number_of)
    backward = build_backward(graph, lower.amin(0), upper.amax(0))
    layers = Sweeper(backward).sweep(lower, upper, SweepOptions())
    planes = backward.run(graph.output, query.table.weights[ids], owners, layers.relaxation)
    low, high = clip_boxes(query.table, ids, owners, planes, (lower, upper, number_of))
    assert bool((low >= lower).all()) and bool((high <= upper).all())
    bad = violating(query, outputs.reshape(-1, 2), number_of.repeat(300)).reshape(300, 3)
    inside = ((points >= low) & (points <= high)).all(-1)
    assert bool((inside | ~bad).all())
    assert bool(bad.any())


def _clip(weight: list[float], constant: float, bound: float, error: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    """The plane weight @ x + constant <= bound on the square [0, 1]^2."""
    prop = property_of([(np.zeros(2), np.ones(2))], [Clause(0, rows([[1.0]], [bound], error=error))], 1)
    table = clause_table(prop, CPU)
    planes = InputRows(torch.tensor([weight], dtype=torch.float64), torch.tensor([constant], dtype=torch.float64))
    box = (torch.zeros(1, 2, dtype=torch.float64), torch.ones(1, 2, dtype=torch.float64), torch.zeros(1).long())
    return clip_boxes(table, torch.zeros(1).long(), RowMap.regular(1, 1, CPU), planes, box)


def test_clipping_cuts_along_the_plane() -> None:
    low, high = _clip([2.0, -4.0], 1.0, -1.0)  # 2 x - 4 y <= -2: x <= 1, y >= 1/2
    assert low[0].tolist() == pytest.approx([0.0, 0.5]) and high[0].tolist() == pytest.approx([1.0, 1.0])
    assert float(low[0, 1]) <= 0.5
    low, high = _clip([1.0, 1.0], 3.0, 2.0)
    assert bool((low > high).any())  # nothing is left


@pytest.mark.parametrize(
    ("weight", "constant"),
    [([math.nan, 1.0], 0.0), ([math.inf, 1.0], 0.0), ([1.0, 1.0], -math.inf), ([1.0, 1.0], math.inf)],
)
def test_planes_that_are_not_finite_cut_nothing(weight: list[float], constant: float) -> None:
    low, high = _clip(weight, constant, 0.5)
    assert low.tolist() == [[0.0, 0.0]] and high.tolist() == [[1.0, 1.0]]


def test_inexact_weights_cut_nothing() -> None:
    low, high = _clip([1.0, 1.0], 0.0, 0.5, error=2.0**-53)
    assert low.tolist() == [[0.0, 0.0]] and high.tolist() == [[1.0, 1.0]]


def test_clock_phases_never_outlive_the_clock() -> None:
    now, stopped = [0.0], [False]
    clock = Clock(lambda: now[0], 10.0, lambda: stopped[0])
    assert clock.until(3.0).left() == 3.0 and clock.until(99.0).left() == 10.0
    now[0] = 4.0
    assert not clock.over() and clock.until(1.0).deadline == 5.0
    stopped[0] = True
    assert clock.over() and clock.until(1.0).over()
    stopped[0], now[0] = False, 10.0
    assert clock.over()
