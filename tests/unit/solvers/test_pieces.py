"""Boxes on which bounds leave a function's domain are halved until they do not; nothing is lost on the way."""

from __future__ import annotations

import time

import pytest
import torch
from verinet.solvers import pieces
from verinet.solvers.arms import InputArm, NeuronArm
from verinet.solvers.branching.outcome import End
from verinet.solvers.pieces import Piece, Waiting, halves, undefined_at_centre
from verinet.solvers.query import Query
from verinet.solvers.strategy import Strategy

from tests.unit.solvers.queries import Referee, one_row, property_of, query_of, rows, silent
from verinet.errors import PropertyError
from verinet.ir.graph import Graph, InputOp, Node
from verinet.ops.activations import find
from verinet.ops.linear.arithmetic import Add
from verinet.ops.linear.dense import Dense
from verinet.ops.scalar import DomainError, Elementwise
from verinet.propagation.sweep import build_backward
from verinet.spec.property import Clause

ARMS = pytest.mark.parametrize("arm", (InputArm, NeuronArm), ids=("input", "neuron"))
CASES = pytest.mark.parametrize(("name", "value"), [("Reciprocal", 10.0), ("Log", -2.302585093), ("Sqrt", 0.316227766)])
SIGN = {"Reciprocal": -1.0, "Log": 1.0, "Sqrt": 1.0}  # so that the violation is a small output


def _function(name: str) -> Elementwise:
    function = find(name, {})
    if function is None:
        raise ValueError(name)
    return Elementwise(function, 1)


def _graph(name: str, offset: float, inputs: int = 2, slope: float = -0.5) -> Graph:
    """sign * f(offset + sum (relu(x_i) + slope x_i)), with slope -1/2 sum |x_i| / 2.

    Lines of the kinks with slopes 0 or 1 leave -1/2 at the ends of [-1, 1]; on halves they are exact.
    """
    sums = torch.ones(inputs, 1, dtype=torch.float64)
    nodes = (
        Node(InputOp(inputs), (), (inputs,), "x"),
        Node(_function("Relu"), (0,), (inputs,), "relu"),
        Node(Dense(sums), (1,), (1,), "sum"),
        Node(Dense(sums * slope, torch.tensor([offset], dtype=torch.float64)), (0,), (1,), "line"),
        Node(Add(), (2, 3), (1,), "distance"),
        Node(_function(name), (4,), (1,), "f"),
        Node(Dense(torch.full((1, 1), SIGN[name], dtype=torch.float64)), (5,), (1,), "y"),
    )
    return Graph(nodes)


def _query(name: str, threshold: float, offset: float = 0.1, inputs: int = 2, slope: float = -0.5) -> Query:
    graph, end = _graph(name, offset, inputs, slope), torch.ones(inputs, dtype=torch.float64)
    return one_row(graph, (-end, end), torch.ones(1, dtype=torch.float64), threshold)


@CASES
@ARMS
def test_a_box_is_halved_where_only_the_bounds_leave_the_domain(
    arm: type[InputArm] | type[NeuronArm], name: str, value: float
) -> None:
    """The least output is sign * f(0.1), at 0: proved just below it, found just above it."""
    least = SIGN[name] * value
    query = _query(name, least - 1e-3)
    with pytest.raises(DomainError):
        build_backward(query.graph, query.lower[0], query.upper[0])
    search = arm(query, Referee(query), silent)
    outcome = search.run(query.clock)
    assert (outcome.end, outcome.open, search.outside) == (End.CLOSED, 0, None)
    assert search.closed_mass == pytest.approx(1.0)
    violated = _query(name, least + 1e-3)
    referee = Referee(violated)
    assert arm(violated, referee, silent).run(violated.clock).end is End.CANDIDATE
    assert referee.confirmed


@ARMS
def test_many_boxes_of_which_one_fails_are_all_searched(arm: type[InputArm] | type[NeuronArm]) -> None:
    graph = _graph("Reciprocal", 0.1)
    ends = [(-1.0, 1.0), (0.5, 1.0), (-1.0, -0.5), (0.2, 0.3)]
    boxes = [([a, a], [b, b]) for a, b in ends]
    query = query_of(graph, property_of(boxes, [Clause(i, rows([[1.0]], [-10.001])) for i in range(4)], 1))
    outcome = arm(query, Referee(query), silent).run(query.clock)
    assert (outcome.end, outcome.open) == (End.CLOSED, 0)


@ARMS
def test_a_box_that_really_leaves_the_domain_is_never_closed(arm: type[InputArm] | type[NeuronArm]) -> None:
    """log is undefined on half of the box: whatever the threshold, the search ends open and names an input."""
    query = _query("Log", -1e9, offset=0.0, inputs=1, slope=0.0)
    search = arm(query, lambda points: False, silent)
    outcome = search.run(query.clock)
    assert outcome.end is End.STALLED and outcome.open > 0
    assert search.outside is not None and search.outside.node == "f" and search.outside.point[0] <= 0
    assert search.closed_mass < 1.0


def test_the_strategy_says_where_the_network_has_no_value(monkeypatch: pytest.MonkeyPatch) -> None:
    query = _query("Log", -1e9, offset=-0.1, inputs=1, slope=0.0)
    with pytest.raises(PropertyError, match=r"node 'f' has none at X_0 = ") as caught:
        Strategy(query, query.graph, lambda points: False, silent, 0).solve(query.clock)
    assert caught.value.exit_code == 3 and "smaller" not in str(caught.value) and "shrink" in str(caught.value)


def test_a_pole_on_the_edge_ends_open_and_soon() -> None:
    """1 / x on [0, 1]: one box around the pole is left at the end, and no input but 0 lies in it."""
    query = _query("Reciprocal", -1e30, offset=0.0, inputs=1, slope=0.0)
    query = type(query)(query.graph, query.lower.clamp(min=0), query.upper, query.table, query.prop, query.clock)
    begin = time.monotonic()
    outcome = InputArm(query, lambda points: False, silent).run(query.clock)
    assert outcome.end is End.STALLED and outcome.open == 1 and time.monotonic() - begin < 10


def test_halves_cover_the_box_and_share_its_mass() -> None:
    query = _query("Sqrt", 0.0, inputs=3)
    left, right = halves(Piece(query, 0.5, 3))
    changed = (left.query.upper != query.upper)[0]
    assert int(changed.sum()) == 1 and torch.equal(left.query.upper[0, changed], right.query.lower[0, changed])
    assert torch.equal(left.query.lower, query.lower) and torch.equal(right.query.upper, query.upper)
    assert torch.equal(left.query.upper[0, ~changed], right.query.upper[0, ~changed])
    assert (left.mass, right.mass, left.depth, right.depth) == (0.25, 0.25, 4, 4)
    assert left.query.table is query.table


def test_the_axis_that_feeds_the_failing_node_is_halved() -> None:
    """Of three inputs, only the narrowest one is read by the logarithm."""
    weight = torch.tensor([[0.0], [1.0], [0.0]], dtype=torch.float64)
    nodes = (
        Node(InputOp(3), (), (3,), "x"),
        Node(Dense(weight), (0,), (1,), "line"),
        Node(_function("Log"), (1,), (1,), "f"),
    )
    low, high = torch.tensor([-5.0, -1.0, -5.0]).double(), torch.tensor([5.0, 1.0, 5.0]).double()
    query = one_row(Graph(nodes), (low, high), torch.ones(1, dtype=torch.float64), 0.0)
    left, _ = halves(Piece(query, 1.0))
    assert left.query.upper[0].tolist() == [5.0, 0.0, 5.0]


def test_boxes_are_divided_by_number_first() -> None:
    graph = _graph("Sqrt", 0.1)
    boxes = [([float(i)] * 2, [i + 1.0] * 2) for i in range(3)]
    query = query_of(graph, property_of(boxes, [Clause(i, rows([[1.0]], [float(i)])) for i in range(3)], 1))
    parts = halves(Piece(query, 0.9))
    assert [p.query.lower[:, 0].tolist() for p in parts] == [[0.0, 1.0], [2.0]]
    assert [p.mass for p in parts] == pytest.approx([0.6, 0.3])
    assert [p.query.table.bounds.tolist() for p in parts] == [[0.0, 1.0], [2.0]]


def test_a_point_is_not_divided_and_what_is_set_aside_stays_open() -> None:
    query = _query("Sqrt", 0.0)
    point = type(query)(query.graph, query.upper, query.upper, query.table, query.prop, query.clock)
    assert halves(Piece(point, 1.0)) == []
    waiting = Waiting([Piece(point, 1.0)], 1)
    piece = waiting.take()
    assert piece is not None
    waiting.divide(piece)
    assert waiting.take() is None
    assert (waiting.open, waiting.aside, waiting.worst, waiting.closed_mass) == (1, [None], None, 0.0)
    waiting.put_aside(-0.5)
    assert (waiting.open, waiting.worst) == (2, -0.5)


def test_divisions_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "MOST_DIVISIONS", 3)
    query = _query("Log", -1e9, offset=0.0, inputs=3, slope=0.0)
    outcome = InputArm(query, lambda points: False, silent).run(query.clock)
    assert outcome.end is End.STALLED and outcome.open > 0


def test_the_centre_shows_whether_the_network_itself_is_undefined() -> None:
    assert undefined_at_centre(_query("Log", 0.0, offset=0.1)) is None
    found = undefined_at_centre(_query("Log", 0.0, offset=-0.1))
    assert found is not None and found.node == "f" and found.point == (0.0, 0.0)
