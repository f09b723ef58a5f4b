"""Against the exact minimum: bounds stay below it, complete searches close just below it and find it just above."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array
from verinet.solvers.arms import InputArm, NeuronArm
from verinet.solvers.branching.outcome import End
from verinet.solvers.strategy import Strategy

from tests.kits.strategies import SEEDS
from tests.soundness.networks import random_boxes, random_graph, samples
from tests.unit.solvers.queries import Referee, one_row, property_of, query_of, rows, silent
from verinet.ir.graph import Graph
from verinet.ops.linear.arithmetic import Add
from verinet.ops.linear.dense import Dense
from verinet.ops.scalar import Elementwise
from verinet.ops.shape.reshape import Reshape
from verinet.propagation.interval import interval_pass
from verinet.propagation.optimize import RowProblem, Step, optimize
from verinet.propagation.rows import RowMap
from verinet.propagation.sweep import Sweeper, SweepOptions, build_backward
from verinet.spec.property import Clause

Floats = npt.NDArray[np.float64]
STEP = 1e-3  # distance of the thresholds from the exact minimum
FEW = max(1, settings().max_examples // 12)


@dataclass
class _Program:
    """A mixed-integer program under construction: variables with bounds, sparse rows, which variables are 0 or 1."""

    lower: list[float] = field(default_factory=list)
    upper: list[float] = field(default_factory=list)
    binary: list[bool] = field(default_factory=list)
    entries: list[tuple[int, int, float]] = field(default_factory=list)
    limits: list[tuple[float, float]] = field(default_factory=list)

    def variables(self, lower: Floats, upper: Floats, binary: bool = False) -> list[int]:
        first = len(self.lower)
        self.lower += lower.tolist()
        self.upper += upper.tolist()
        self.binary += [binary] * len(lower)
        return list(range(first, len(self.lower)))

    def row(self, terms: dict[int, float], least: float, most: float) -> None:
        self.entries += [(len(self.limits), column, value) for column, value in terms.items()]
        self.limits.append((least, most))

    def minimise(self, cost: Floats) -> Floats:
        where = ([e[0] for e in self.entries], [e[1] for e in self.entries])
        matrix = csr_array(([e[2] for e in self.entries], where), shape=(len(self.limits), len(self.lower)))
        limits = np.array(self.limits)
        found = milp(
            cost,
            integrality=np.array(self.binary, dtype=int),
            bounds=Bounds(np.array(self.lower), np.array(self.upper)),
            constraints=LinearConstraint(matrix, limits[:, 0], limits[:, 1]),
            options={"mip_rel_gap": 0.0},
        )
        assert found.success, found.message
        return np.asarray(found.x)


def _relu(program: _Program, before: list[int], after: list[int], low: Floats, high: Floats) -> None:
    """y = max(z, 0) with big-M constants from the bounds of z."""
    switch = program.variables(np.zeros(len(before)), np.ones(len(before)), binary=True)
    for z, y, s, least, most in zip(before, after, switch, low, high, strict=True):
        program.row({y: 1.0, z: -1.0}, 0.0, np.inf)
        program.row({y: 1.0, z: -1.0, s: -min(least, 0.0)}, -np.inf, -min(least, 0.0))
        program.row({y: 1.0, s: -max(most, 0.0)}, -np.inf, 0.0)


def exact_minimum(graph: Graph, lower: torch.Tensor, upper: torch.Tensor, row: torch.Tensor) -> tuple[float, float]:
    """Least value of row @ y over the box (inputs,): by the program, and as the network has it at its minimiser."""
    program = _Program()
    bounds = [
        (lo.reshape(-1).numpy(), hi.reshape(-1).numpy()) for lo, hi in interval_pass(graph, lower[None], upper[None])
    ]
    places = [program.variables(lower.numpy(), upper.numpy())]
    for position, node in enumerate(graph.nodes[1:], start=1):
        sources = [places[i] for i in node.inputs]
        if isinstance(node.op, Reshape):
            places.append(sources[0])
            continue
        here = program.variables(*bounds[position])
        if isinstance(node.op, Elementwise):
            _relu(program, sources[0], here, *bounds[node.inputs[0]])
        elif isinstance(node.op, Dense):
            offset = torch.zeros(len(here)) if node.op.offset is None else node.op.offset.reshape(-1)
            for column, target in enumerate(here):
                terms = dict(zip(sources[0], node.op.weight[:, column].tolist(), strict=True))
                program.row({**terms, target: -1.0}, -float(offset[column]), -float(offset[column]))
        else:
            assert isinstance(node.op, Add)
            for left, right, target in zip(*sources, here, strict=True):
                program.row({left: 1.0, right: 1.0, target: -1.0}, 0.0, 0.0)
        places.append(here)
    cost = np.zeros(len(program.lower))
    cost[places[-1]] = row.numpy()
    solution = program.minimise(cost)
    point = torch.from_numpy(solution[places[0]])[None].clamp(lower, upper)
    return float(cost @ solution), float(graph.forward(point)[0] @ row)


def _case(
    seed: int, activation: str, structure: str, radius: float
) -> tuple[Graph, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A graph, one box and a row."""
    graph = random_graph(seed, activation, structure, depth=1 + seed % 2, width=4 + 2 * (seed // 2 % 2))
    lower, upper = random_boxes(seed, 1, radius)
    row = torch.randn(2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return graph, lower[0], upper[0], row


@pytest.mark.parametrize("structure", ("chain", "residual"))
@settings(max_examples=3 * FEW)
@given(seed=SEEDS, radius=st.sampled_from([0.05, 0.5, 2.0]))
def test_certified_bounds_stay_below_the_exact_minimum(structure: str, seed: int, radius: float) -> None:
    graph, lower, upper, row = _case(seed, "Relu", structure, radius)
    program, reached = exact_minimum(graph, lower, upper, row)
    assert abs(program - reached) < 1e-4 * (1 + abs(reached))  # the program's own tolerance
    low, high = lower[None], upper[None]
    intervals = interval_pass(graph, low, high)[-1]
    found = [float(torch.where(row >= 0, row * intervals[0], row * intervals[1]).sum())]
    backward = build_backward(graph, lower, upper)
    for options in (SweepOptions(rows=False), SweepOptions(), SweepOptions(step=Step(iterations=6))):
        layers = Sweeper(backward).sweep(low, high, options)
        problem = RowProblem(graph.output, row[None], RowMap.regular(1, 1, row.device), low, high, layers.known)
        found += [float(optimize(problem, backward, step=Step(iterations=n)).bound) for n in (0, 15)]
    assert max(found) <= reached + 1e-12 * (1 + abs(reached))
    assert max(found[1:]) >= found[0] - 1e-9 * (1 + abs(found[0]))  # rows are no worse than intervals


@pytest.mark.parametrize("structure", ("chain", "residual"))
@pytest.mark.parametrize("search", ("input", "neuron", "strategy"))
@settings(max_examples=FEW)
@given(seed=SEEDS, radius=st.sampled_from([0.05, 0.4, 1.0]))
def test_searches_decide_next_to_the_exact_minimum(search: str, structure: str, seed: int, radius: float) -> None:
    graph, lower, upper, row = _case(seed, "Relu", structure, radius)
    _, least = exact_minimum(graph, lower, upper, row)
    assert _run(search, graph, (lower, upper), row, least - STEP)[0] is End.CLOSED
    end, referee = _run(search, graph, (lower, upper), row, least + STEP)
    assert end is End.CANDIDATE
    assert referee.confirmed


def _run(
    search: str, graph: Graph, box: tuple[torch.Tensor, torch.Tensor], row: torch.Tensor, threshold: float
) -> tuple[End, Referee]:
    query = one_row(graph, box, row, threshold)
    referee = Referee(query)
    if search == "strategy":
        return Strategy(query, graph, referee, silent, 0).solve(query.clock).end, referee
    arm = (InputArm if search == "input" else NeuronArm)(query, referee, silent)
    return arm.run(query.clock).end, referee


@pytest.mark.parametrize("activation", ("Sigmoid", "Tanh", "Gelu", "Sin"))
@pytest.mark.parametrize("search", ("input", "neuron"))
@settings(max_examples=FEW)
@given(seed=SEEDS, radius=st.sampled_from([0.05, 0.5, 2.0]))
def test_searches_never_close_where_a_sample_violates(search: str, activation: str, seed: int, radius: float) -> None:
    graph, lower, upper, row = _case(seed, activation, "chain", radius)
    values = graph.forward(samples(lower[None], upper[None], seed, 3000)[:, 0]) @ row
    least = float(values.min())
    query = one_row(graph, (lower, upper), row, least, seconds=0.25)
    # A referee that never agrees, so that only a wrong proof can end the search early.
    arm = (InputArm if search == "input" else NeuronArm)(query, lambda points: False, silent)
    assert arm.run(query.clock).end in (End.TIME, End.STALLED)


@pytest.mark.parametrize("activation", ("Sigmoid", "Tanh", "Gelu"))
@settings(max_examples=2)
@given(seed=SEEDS)
def test_searches_close_smooth_networks_below_the_samples(activation: str, seed: int) -> None:
    graph, lower, upper, row = _case(seed, activation, "chain", 0.3)
    values = graph.forward(samples(lower[None], upper[None], seed, 3000)[:, 0]) @ row
    threshold = float(values.min()) - 0.05 - 0.2 * float(values.max() - values.min())
    for search in ("input", "neuron", "strategy"):
        assert _run(search, graph, (lower, upper), row, threshold)[0] is End.CLOSED


@settings(max_examples=FEW)
@given(seed=SEEDS)
def test_one_violated_clause_among_many_boxes_is_never_closed(seed: int) -> None:
    """Conjunctions, several clauses and boxes: only the last clause of the last box can be satisfied."""
    graph = random_graph(seed, "Relu", "chain", depth=1, width=4)
    lower, upper = random_boxes(seed, 3, 0.5)
    outputs = graph.forward(samples(lower, upper, seed, 500).reshape(-1, 3)).reshape(500, 3, 2).numpy()
    clauses, ones = [], np.array([[1.0, 0.0], [1.0, 1.0]])
    for box in range(3):
        floor = outputs[:, box].min(0) - 1e3
        clauses += [Clause(box, rows(ones, [floor[0], floor.sum()])), Clause(box, rows(ones[:1], [floor[0]]))]
    boxes = [(lo.numpy(), hi.numpy()) for lo, hi in zip(lower, upper, strict=True)]
    for search, end in (("input", End.CLOSED), ("neuron", End.CLOSED)):
        assert _run_property(search, graph, boxes, clauses)[0] is end
    seen = outputs[seed % 500, 2]
    clauses.append(Clause(2, rows(ones, [seen[0], seen.sum()])))
    for search in ("input", "neuron"):
        end, referee = _run_property(search, graph, boxes, clauses)
        assert end is not End.CLOSED
        assert end is not End.CANDIDATE or referee.confirmed


def _run_property(
    search: str, graph: Graph, boxes: list[tuple[Floats, Floats]], clauses: list[Clause]
) -> tuple[End, Referee]:
    query = query_of(graph, property_of(boxes, clauses, 2), seconds=1.0)
    referee = Referee(query)
    arm = (InputArm if search == "input" else NeuronArm)(query, referee, silent)
    return arm.run(query.clock).end, referee
