"""Linear programs of leaves: their values are optimal, their duals are certified again, their points are candidates."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import verinet.solvers.branching.endgame as endgame
import verinet.solvers.branching.lp as lp
from verinet.solvers.branching.endgame import Endgame
from verinet.solvers.branching.leaves import ClauseRows, Engines
from verinet.solvers.branching.lp import Answer, Program, available
from verinet.solvers.branching.neuron_split import NeuronSplit
from verinet.solvers.branching.outcome import End
from verinet.solvers.conjunction import as_maximum
from verinet.solvers.query import Query

from tests.soundness.networks import random_graph, samples
from tests.unit.solvers.queries import Referee, one_row, property_of, query_of, rows, silent, violates
from verinet.ir.graph import Graph, Node
from verinet.ops.linear.dense import Dense
from verinet.propagation.backward import Backward
from verinet.propagation.interval import Interval
from verinet.propagation.optimize import RowProblem, Step, evaluate, optimize
from verinet.propagation.rows import RowMap
from verinet.propagation.sweep import Layers, Sweeper, SweepOptions, build_backward
from verinet.spec.property import Clause

pytest.importorskip("scipy")
ROW = torch.tensor([1.0, -1.0], dtype=torch.float64)
LOW = torch.full((3,), -1.0, dtype=torch.float64)


def _setting(seed: int, activation: str = "Relu", structure: str = "chain") -> tuple[Graph, Backward, Layers]:
    graph = random_graph(seed, activation, structure, depth=2)
    backward = build_backward(graph, LOW, -LOW)
    return graph, backward, Sweeper(backward).sweep(LOW[None], -LOW[None], SweepOptions())


def _solved(graph: Graph, backward: Backward, layers: Layers, bounds: dict[int, Interval]) -> Answer:
    answer = Program(graph, backward.order(graph.output), layers, bounds).minimise(ROW)
    assert answer is not None
    return answer


def _certified(graph: Graph, backward: Backward, layers: Layers, answer: Answer) -> float:
    problem = RowProblem(
        graph.output,
        ROW[None],
        RowMap.regular(1, 1, LOW.device),
        layers.lower,
        layers.upper,
        layers.known,
        answer.splits,
    )
    return float(evaluate(problem, backward, answer.multipliers, {v: s.beta for v, s in answer.splits.items()}).bound)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("case", ["Relu-chain", "Relu-residual", "LeakyRelu-chain", "Abs-chain", "Relu-maximum"])
def test_duals_reach_the_value_and_no_more(seed: int, case: str) -> None:
    activation, structure = case.split("-")
    graph, backward, layers = _setting(seed, activation, structure)
    answer = _solved(graph, backward, layers, {})
    bound = _certified(graph, backward, layers, answer)
    assert bound == pytest.approx(answer.value, abs=1e-6)
    assert bound <= answer.value + 1e-9
    values = graph.forward(samples(layers.lower, layers.upper, seed, 5000)[:, 0]) @ ROW
    assert bound <= float(values.min())
    problem = RowProblem(graph.output, ROW[None], RowMap.regular(1, 1, LOW.device), LOW[None], -LOW[None], layers.known)
    if structure != "maximum":  # where the upper line of a maximum is fixed in the program, but not in the search
        slow = optimize(problem, backward, step=Step(iterations=100))
        assert bound >= float(slow.bound) - 1e-7


@pytest.mark.parametrize("seed", range(4))
def test_smooth_functions_keep_their_lines(seed: int) -> None:
    graph, backward, layers = _setting(seed, "Sigmoid")
    answer = _solved(graph, backward, layers, {})
    bound = _certified(graph, backward, layers, answer)
    assert bound == pytest.approx(answer.value, abs=1e-6)
    assert bound <= float((graph.forward(samples(LOW[None], -LOW[None], seed, 2000)[:, 0]) @ ROW).min())


@pytest.mark.parametrize("seed", range(6))
def test_bounds_become_split_multipliers(seed: int) -> None:
    """With half of the neurons' intervals cut at the kink, the value rises and the certificate follows."""
    graph, backward, layers = _setting(seed)
    whole = _solved(graph, backward, layers, {}).value
    node = min(layers.known)
    low, high = layers.known[node]
    low = torch.where((torch.arange(low.numel()) % 2 == 0) & (high > 0), low.clamp(min=0), low)
    cut = Sweeper(backward).sweep(LOW[None], -LOW[None], SweepOptions(rows=False), {**layers.known, node: (low, high)})
    answer = _solved(graph, backward, cut, cut.known)
    bound = _certified(graph, backward, cut, answer)
    assert bound == pytest.approx(answer.value, abs=1e-6) and answer.value >= whole - 1e-9
    points = samples(LOW[None], -LOW[None], seed, 20_000)[:, 0]
    z = graph.nodes[node].op.forward(points)
    inside = (z >= low).all(1)
    if bool(inside.any()):
        assert bound <= float((graph.forward(points[inside]) @ ROW).min())


def _query(seed: int, share: float) -> Query:
    graph = random_graph(seed, "Relu", "chain", depth=1, width=8)
    values = graph.forward(samples(LOW[None], -LOW[None], seed, 20_000)[:, 0]) @ ROW
    threshold = float(values.min()) + share * float(values.max() - values.min())
    return one_row(graph, (LOW, -LOW), ROW, threshold)


def _patterns(query: Query, backward: Backward) -> list[Layers]:
    """Layers of all sign patterns of the first hidden layer: leaves in which every neuron of it is decided."""
    root = Sweeper(backward).sweep(query.lower, query.upper, SweepOptions())
    node = min(root.known)
    low, high = root.known[node]
    undecided = ((low < 0) & (high > 0)).reshape(-1).nonzero().squeeze(1).tolist()
    found = []
    for signs in itertools.product((False, True), repeat=len(undecided)):
        cut_low, cut_high = low.clone(), high.clone()
        for entry, on in zip(undecided, signs, strict=True):
            (cut_low if on else cut_high)[0, entry] = 0.0
        known = {**root.known, node: (cut_low, cut_high)}
        found.append(Sweeper(backward).sweep(query.lower, query.upper, SweepOptions(rows=False), known))
    return found


@pytest.mark.parametrize("share", (-0.02, 0.02))
@pytest.mark.parametrize("seed", range(2))
def test_decided_leaves_are_settled_exactly(seed: int, share: float) -> None:
    """Every leaf closes or yields a point, and together they give the verdict: brute force over sign patterns."""
    query = _query(seed, share)
    backward = build_backward(query.graph, query.lower[0], query.upper[0])
    root = Sweeper(backward).sweep(query.lower, query.upper, SweepOptions())
    final = Endgame(query, backward, root.known)
    hits, opened = 0, 0
    for layers in _patterns(query, backward):
        settled = None if bool(layers.infeasible.any()) else final.settle(layers, 0)
        if settled is None or settled.margin > 0:
            continue
        if settled.point is None:
            opened += settled.split is None
        else:
            hits += violates(query, settled.point[0].numpy())
    assert final.solved > 0
    if share > 0:
        assert hits > 0
    else:
        assert hits == 0 and opened == 0


def test_an_empty_leaf_is_refuted_by_priced_bounds() -> None:
    """Two opposite neurons cannot both be on; interval bounds alone do not see that."""
    weight = torch.tensor([[1.0, -1.0], [1.0, -1.0], [0.0, 0.0]], dtype=torch.float64)
    graph = random_graph(0, "Relu", "chain", depth=1, width=2)
    nodes = list(graph.nodes)
    nodes[1] = Node(Dense(weight, torch.tensor([-0.5, -0.5], dtype=torch.float64)), (0,), (2,), "opposite")
    graph = Graph(tuple(nodes))
    query = one_row(graph, (LOW, -LOW), ROW, 1e3)
    backward = build_backward(graph, LOW, -LOW)
    root = Sweeper(backward).sweep(LOW[None], -LOW[None], SweepOptions())
    low, high = root.known[1]
    both = Sweeper(backward).sweep(
        LOW[None], -LOW[None], SweepOptions(rows=False), {**root.known, 1: (low.clamp(min=0), high)}
    )
    assert not bool(both.infeasible.any())
    settled = Endgame(query, backward, root.known).settle(both, 0)
    assert settled is not None and settled.margin > 0


def test_wrong_answers_of_the_solver_prove_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A solver that reports absurd duals and values leads to worse bounds, never to closed leaves."""
    import scipy.optimize as so

    honest = so.linprog

    def lying(*args: object, **options: object) -> object:
        found = honest(*args, **options)
        if found.status == 0:
            noise = np.random.default_rng(0).uniform(0.0, 3.0, len(found.ineqlin.marginals))
            found.ineqlin.marginals = -noise * 10
            found.fun = 1e6
        return found

    query = _query(1, 0.05)
    backward = build_backward(query.graph, query.lower[0], query.upper[0])
    root = Sweeper(backward).sweep(query.lower, query.upper, SweepOptions())
    monkeypatch.setattr(so, "linprog", lying)
    points = samples(LOW[None], -LOW[None], 9, 50_000)[:, 0]
    points = points[query.graph.forward(points) @ ROW <= query.table.bounds[0]]
    z = query.graph.nodes[1].op.forward(points)
    assert len(points) > 0
    for layers in _patterns(query, backward):
        low, high = layers.known[1]
        if not bool(((z >= low) & (z <= high)).all(1).any()):
            continue
        settled = Endgame(query, backward, root.known).settle(layers, 0)
        assert settled is None or settled.margin <= 0


def test_multipliers_of_a_conjunction_are_the_duals_of_its_rows() -> None:
    graph = random_graph(2, "Relu", "chain", depth=1, width=8)
    values = graph.forward(samples(LOW[None], -LOW[None], 2, 20_000)[:, 0])
    middle = values.mean(0)
    clause = Clause(0, rows(np.array([[1.0, 0.2], [-1.0, 0.2]]), [float(middle[0]) - 3.0, -float(middle[0]) - 3.0]))
    query = as_maximum(query_of(graph, property_of([(LOW.numpy(), -LOW.numpy())], [clause], 2)))
    backward = build_backward(query.graph, query.lower[0], query.upper[0])
    layers = Sweeper(backward).sweep(query.lower, query.upper, SweepOptions())
    answer = Program(query.graph, backward.order(query.graph.output), layers, {}).minimise(query.table.weights[0])
    assert answer is not None
    weights = answer.multipliers[query.graph.output][0]
    assert float(weights.sum()) == pytest.approx(1.0) and 0 < float(weights.min())
    settled = Endgame(query, backward, layers.known).settle(layers, 0)
    assert settled is not None and settled.margin == pytest.approx(answer.value, abs=1e-6)


def test_what_is_not_supported_gets_no_answer() -> None:
    graph, backward, layers = _setting(0, "Relu", "product")
    assert Program(graph, backward.order(graph.output), layers, {}).minimise(ROW) is None


def _search(query: Query) -> NeuronSplit:
    backward = build_backward(query.graph, query.lower[0], query.upper[0])
    layers = Sweeper(backward).sweep(query.lower, query.upper, SweepOptions())
    return NeuronSplit(query, Engines(backward, backward), layers, [ClauseRows(0, 0, 1)], batch=8)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("share", (-0.05, 1e-4))
def test_searches_end_with_the_right_answer(seed: int, share: float) -> None:
    query = _query(seed, share)
    referee = Referee(query)
    outcome = _search(query).run(query.clock, referee, silent)
    assert outcome.end is (End.CANDIDATE if share > 0 else End.CLOSED)


def test_searches_work_without_the_solver(monkeypatch: pytest.MonkeyPatch) -> None:
    assert available()
    monkeypatch.setattr(endgame, "available", lambda: False)
    query = _query(0, -0.05)
    search = _search(query)
    assert search.run(query.clock, Referee(query), silent).end is End.CLOSED
    assert search.endgame.solved == 0


def test_large_programs_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, backward, layers = _setting(0)
    monkeypatch.setattr(lp, "MOST_SYMBOLS", 2)
    assert Program(graph, backward.order(graph.output), layers, {}).minimise(ROW) is None
