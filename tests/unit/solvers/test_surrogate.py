"""Gradients through jumps: the forward pass stays what it is, and the attack finds what it could not find before."""

from __future__ import annotations

import dataclasses
import time

import pytest
import torch
from verinet.solvers.attack.pgd import Attack, AttackPlan
from verinet.solvers.attack.surrogate import Sloped, before_softmax, sloped
from verinet.solvers.query import Clock

from tests.unit.solvers.queries import Referee, one_row
from verinet.ir.graph import Graph, InputOp, Node
from verinet.ops.activations import find
from verinet.ops.linear.dense import Dense
from verinet.ops.normalisation.softmax import Softmax
from verinet.ops.scalar import Elementwise
from verinet.ops.shape.reshape import Reshape

JUMPS = ("Sign", "Floor", "Ceil", "Round")


def _graph(name: str, inputs: int = 60, width: int = 40) -> Graph:
    """Two layers of a flat function with jumps, and a sum."""
    draw = torch.Generator().manual_seed(3)
    function = find(name, {})
    if function is None:
        raise ValueError(name)
    nodes, size = [Node(InputOp(inputs), (), (inputs,), "x")], inputs
    for number in range(2):
        weight = torch.randn(size, width, generator=draw, dtype=torch.float64)
        nodes.append(Node(Dense(weight), (len(nodes) - 1,), (width,), f"d{number}"))
        nodes.append(Node(Elementwise(function, 1), (len(nodes) - 1,), (width,), f"f{number}"))
        size = width
    last = torch.randn(size, 1, generator=draw, dtype=torch.float64)
    return Graph((*nodes, Node(Dense(last), (len(nodes) - 1,), (1,), "y")))


@pytest.mark.parametrize("name", JUMPS)
def test_values_are_the_same_and_gradients_are_not_zero(name: str) -> None:
    graph = _graph(name)
    other = sloped(graph)
    assert [type(n.op) is Sloped for n in other.nodes].count(True) == 2
    x = torch.randn(50, 60, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    value = other.forward(x)
    assert torch.equal(value, graph.forward(x.detach()))
    (gradient,) = torch.autograd.grad(value.sum(), x)
    assert bool(torch.isfinite(gradient).all()) and float((gradient != 0).double().mean()) > 0.99
    assert torch.equal(other.forward(x.detach()), value)


@pytest.mark.parametrize("name", ("Relu", "Tanh", "Abs", "HardSigmoid"))
def test_a_graph_without_jumps_is_left_alone(name: str) -> None:
    graph = _graph(name)
    assert sloped(graph) is graph


def test_a_jump_that_is_declared_nowhere_is_found_by_its_samples() -> None:
    """A binarised layer is read as one composed function, sign(sign(x) + 0.1), whose record names no jumps."""
    composed = find("Sign", {})
    if composed is None:
        raise ValueError("Sign")
    silent_about_it = dataclasses.replace(composed, name="composed", jumps=None)
    nodes = list(_graph("Sign").nodes)
    nodes[2] = dataclasses.replace(nodes[2], op=Elementwise(silent_about_it, 1))
    assert [type(n.op) is Sloped for n in sloped(Graph(tuple(nodes))).nodes].count(True) == 2


def test_the_attack_climbs_through_signs() -> None:
    """A threshold that none of many random points reaches is reached with the gradients, from the same seed."""
    graph = _graph("Sign")
    high = torch.ones(60, dtype=torch.float64)
    draw = torch.Generator().manual_seed(1)
    values = graph.forward(torch.rand(20_000, 60, generator=draw, dtype=torch.float64) * 2 - 1)
    threshold = float(values.min()) - 0.1 * float(values.max() - values.min())
    query = one_row(graph, (-high, high), torch.ones(1, dtype=torch.float64), threshold)
    clock = Clock(time.monotonic, time.monotonic() + 60)
    plan = AttackPlan(restarts=16, steps=40)
    assert not Attack(query, graph, 0).descend(plan, Referee(query), clock)
    referee = Referee(query)
    assert Attack(query, sloped(graph), 0).descend(plan, referee, clock) and referee.confirmed


def _saturated(inputs: int = 60) -> Graph:
    """softmax of scores so far apart that every output is 0 or 1 in float64."""
    draw = torch.Generator().manual_seed(5)
    weight = torch.randn(inputs, 4, generator=draw, dtype=torch.float64) * 300
    offset = torch.tensor([9e3, 0.0, 0.0, 0.0], dtype=torch.float64)
    nodes = (
        Node(InputOp(inputs), (), (inputs,), "x"),
        Node(Dense(weight, offset), (0,), (4,), "scores"),
        Node(Softmax(1), (1,), (4,), "softmax"),
        Node(Reshape((4,)), (2,), (4,), "y"),
    )
    return Graph(nodes)


def test_scores_are_attacked_where_outputs_are_only_compared() -> None:
    graph, high = _saturated(), torch.ones(60, dtype=torch.float64)
    query = one_row(graph, (-high, high), torch.tensor([1.0, -1.0, 0.0, 0.0], dtype=torch.float64), 0.0)
    clock, plan = Clock(time.monotonic, time.monotonic() + 60), AttackPlan(restarts=4, steps=20)
    assert not Attack(query, graph, 0).descend(plan, Referee(query), clock)
    scores = before_softmax(graph, query)
    x = torch.randn(7, 60, dtype=torch.float64)
    assert torch.equal(scores.forward(x), graph.forward_all(x)[1])
    referee = Referee(query)
    assert Attack(query, scores, 0).descend(plan, referee, clock) and referee.confirmed


@pytest.mark.parametrize(
    ("row", "bound"), [((1.0, -1.0, 0.0, 0.0), 0.1), ((1.0, 0.0, 0.0, 0.0), 0.0), ((1.0, -2.0, 1.0, 0.0), 0.0)]
)
def test_other_properties_keep_the_softmax(row: tuple[float, ...], bound: float) -> None:
    graph, high = _saturated(), torch.ones(60, dtype=torch.float64)
    query = one_row(graph, (-high, high), torch.tensor(row, dtype=torch.float64), bound)
    assert before_softmax(graph, query) is graph
