"""Violations that exist only at the very point of a jump: no split may lose that point, and no bound may close it."""

from __future__ import annotations

import pytest
import torch
from verinet.solvers.arms import InputArm, NeuronArm
from verinet.solvers.branching.outcome import End

from tests.unit.solvers.queries import Referee, one_row, silent
from verinet.ir.graph import Graph, InputOp, Node
from verinet.ops.activations import find
from verinet.ops.linear.arithmetic import Add, Subtract
from verinet.ops.linear.dense import Dense
from verinet.ops.scalar import Elementwise

ARMS = pytest.mark.parametrize("arm", (InputArm, NeuronArm), ids=("input", "neuron"))
POINTS = pytest.mark.parametrize("point", (0.0, 0.25, -0.3))
BOX = (torch.tensor([-1.0], dtype=torch.float64), torch.tensor([1.7], dtype=torch.float64))


def _node(name: str, source: int) -> Node:
    function = find(name, {})
    if function is None:
        raise ValueError(name)
    return Node(Elementwise(function, 1), (source,), (1,), f"{name} of {source}")


def _scale(factor: float, source: int, offset: float = 0.0) -> Node:
    weight = torch.tensor([[factor]], dtype=torch.float64)
    return Node(Dense(weight, torch.tensor([offset], dtype=torch.float64)), (source,), (1,), f"line of {source}")


def _sign_distance(point: float) -> Graph:
    """|sign(x - point)|: 0 at the jump only, else 1."""
    start = Node(InputOp(1), (), (1,), "x")
    shifted = [_scale(1.0, 0, -point), _node("Sign", 1)]
    parts = [_node("Relu", 2), _scale(-1.0, 2), _node("Relu", 4), Node(Add(), (3, 5), (1,), "size")]
    return Graph((start, *shifted, *parts))


def _fraction(point: float) -> Graph:
    """(x - point) - floor(x - point): 0 at the jumps only, else between 0 and 1."""
    start = Node(InputOp(1), (), (1,), "x")
    return Graph((start, _scale(1.0, 0, -point), _node("Floor", 1), Node(Subtract(), (1, 2), (1,), "fraction")))


MADE = pytest.mark.parametrize("make", (_sign_distance, _fraction))


@ARMS
@POINTS
@MADE
def test_the_point_of_a_jump_stays_open(arm, point, make):
    """Only the jump itself violates `y <= 0`, and nobody confirms a witness: the search must not end in a proof."""
    graph = make(point)
    exact = torch.tensor([[point]], dtype=torch.float64)
    assert float(graph.forward(exact)) == 0.0
    near = torch.tensor([[point - 1e-9], [point + 1e-9]], dtype=torch.float64)
    assert float(graph.forward(near).min()) > 0.0
    query = one_row(graph, BOX, torch.ones(1, dtype=torch.float64), 0.0, seconds=1.0)
    assert arm(query, lambda points: False, silent).run(query.clock).end is not End.CLOSED


@ARMS
@POINTS
@MADE
def test_what_no_side_of_a_jump_reaches_is_closed(arm, point, make):
    query = one_row(make(point), BOX, torch.ones(1, dtype=torch.float64), -0.01, seconds=20.0)
    assert arm(query, Referee(query), silent).run(query.clock).end is End.CLOSED


@ARMS
@POINTS
def test_a_side_of_a_sign_is_exact_away_from_the_jump(arm, point):
    """2 sign(x - p) - x on a box that begins just behind the jump: constant there, so the bound is the line."""
    nodes = (
        Node(InputOp(1), (), (1,), "x"),
        _scale(1.0, 0, -point),
        _node("Sign", 1),
        _scale(2.0, 2),
        Node(Subtract(), (3, 0), (1,), "y"),
    )
    low, high = torch.tensor([point + 1e-6], dtype=torch.float64), BOX[1]
    query = one_row(Graph(nodes), (low, high), torch.ones(1, dtype=torch.float64), 2.0 - 1.7 - 1e-9)
    outcome = arm(query, Referee(query), silent).run(query.clock)
    assert outcome.end is End.CLOSED and outcome.closed == 1
