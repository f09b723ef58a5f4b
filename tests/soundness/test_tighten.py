"""Layer bounds under a clause: they hold wherever the clause is violated, and searches that use them stay right."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from verinet.solvers.arms import NeuronArm
from verinet.solvers.branching.gauge import Gauge
from verinet.solvers.branching.leaves import Engines
from verinet.solvers.branching.outcome import End
from verinet.solvers.branching.splits import Literals
from verinet.solvers.branching.tighten import Part, Tightener
from verinet.solvers.root import Root

from tests.kits.strategies import SEEDS
from tests.soundness.networks import STRUCTURES, random_boxes, random_graph, samples
from tests.soundness.test_exact import STEP, exact_minimum
from tests.unit.solvers.queries import Referee, one_row, silent
from verinet.ir.graph import Graph
from verinet.propagation.sweep import Sweeper, SweepOptions

FEW = max(2, settings().max_examples // 25)


def _setting(
    seed: int, activation: str, structure: str, quantile: float
) -> tuple[Graph, Root, Tensor, Tensor, list[Tensor]]:
    """A graph, its root bounds, a row, a threshold that some samples stay below, and all node values there."""
    graph = random_graph(seed, activation, structure, depth=2, width=6)
    lower, upper = (t[0] for t in random_boxes(seed, 1, 0.7))
    row = torch.randn(2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    points = samples(lower[None], upper[None], seed, 600)[:, 0]
    outputs = graph.forward(points) @ row
    threshold = outputs.quantile(quantile)
    query = one_row(graph, (lower, upper), row, float(threshold))
    root = Root(query, query.clock)
    root.bound(silent)
    return graph, root, row, threshold, graph.forward_all(points[outputs <= threshold])


def _literals(graph: Graph, root: Root, values: list[Tensor], seed: int) -> tuple[Literals, Tensor]:
    """Three random split literals with random multipliers, and which samples satisfy all of them."""
    draw = torch.Generator().manual_seed(seed)
    literals = Literals.none(1, root.query.lower)
    inside = torch.ones(values[0].shape[0], dtype=torch.bool)
    nodes = sorted(root.layers.known)
    for _ in range(3):
        node = nodes[int(torch.randint(len(nodes), (1,), generator=draw))]
        flat = values[node].reshape(values[node].shape[0], -1)
        entry = int(torch.randint(flat.shape[1], (1,), generator=draw))
        point = flat[:, entry].median().float().double()
        sign = 1.0 if torch.rand(1, generator=draw) < 0.5 else -1.0
        one = torch.ones(1, dtype=torch.float64)
        literals = literals.extended(torch.tensor([node]), torch.tensor([entry]), one * sign, one * point)
        literals.beta[:, -1] = torch.rand(1, generator=draw).double()
        inside &= sign * (flat[:, entry] - point) >= 0
    return literals, inside


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("activation", ("Relu", "Sigmoid"))
@settings(max_examples=FEW)
@given(seed=SEEDS, quantile=st.sampled_from([0.0, 0.02, 0.5]), split=st.booleans())
def test_tightened_bounds_hold_where_the_clause_is_violated(
    activation: str, structure: str, seed: int, quantile: float, split: bool
) -> None:
    graph, root, _, _, values = _setting(seed, activation, structure, quantile)
    if not root.layers.known:
        return
    literals, inside = _literals(graph, root, values, seed)
    if not split:
        literals, inside = Literals.none(1, root.query.lower), torch.ones_like(inside)
    zero = torch.zeros(1, dtype=torch.int64)
    part = Part(zero, zero.unsqueeze(1), literals)
    gate = Sweeper(root.backward)
    layers = gate.sweep(root.query.lower, root.query.upper, SweepOptions(rows=False), literals.clip(root.layers.known))
    known, refuted = layers.known, layers.infeasible
    tightener = Tightener(root.query, root.engines())
    for _ in range(3):
        if bool(refuted.any()):
            break
        known, refuted, _ = tightener.round(part, known)
    if bool(refuted.any()):
        assert not bool(inside.any())
        return
    for node, (low, high) in known.items():
        here = values[node][inside]
        slack = 1e-12 * (1 + here.abs())
        assert bool((here >= low - slack).all() and (here <= high + slack).all()), graph.nodes[node].name


def test_the_clause_really_tightens() -> None:
    """On a clause that is almost refuted, bounds of inner neurons must come out narrower than without it."""
    before = after = 0.0
    for seed in range(8):
        _, root, _, _, _ = _setting(seed, "Relu", "chain", 0.0)
        zero = torch.zeros(1, dtype=torch.int64)
        part = Part(zero, zero.unsqueeze(1), Literals.none(1, root.query.lower))
        known, _, _ = Tightener(root.query, root.engines()).round(part, root.layers.known)
        before += sum(float((hi - lo).sum()) for lo, hi in root.layers.known.values())
        after += sum(float((hi - lo).sum()) for lo, hi in known.values())
    assert after < 0.95 * before


def test_search_and_gate_may_share_an_engine() -> None:
    """Float64 twice (float32 would overflow) gives bounds as well."""
    _, root, _, _, values = _setting(3, "Relu", "chain", 0.1)
    zero = torch.zeros(1, dtype=torch.int64)
    part = Part(zero, zero.unsqueeze(1), Literals.none(1, root.query.lower))
    known, refuted, _ = Tightener(root.query, Engines(root.backward, root.backward)).round(part, root.layers.known)
    assert not bool(refuted.any())
    assert all(bool((values[v] >= lo - 1e-9).all()) for v, (lo, _) in known.items())


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every anchor is due after six leaves, so that small trees are sharpened at many nodes."""

    def due(self: Gauge, anchors: Tensor) -> Tensor:
        named = anchors.unique().cpu()
        return named[self.effort[named] > 6]

    monkeypatch.setattr(Gauge, "due", due)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("structure", ("chain", "residual"))
@pytest.mark.parametrize("seed", range(8))
def test_eager_searches_decide_next_to_the_exact_minimum(structure: str, seed: int) -> None:
    graph = random_graph(seed, "Relu", structure, depth=2, width=6)
    lower, upper = (t[0] for t in random_boxes(seed, 1, 0.8))
    row = torch.randn(2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    _, least = exact_minimum(graph, lower, upper, row)
    query = one_row(graph, (lower, upper), row, least - 20 * STEP)
    assert NeuronArm(query, Referee(query), silent).run(query.clock).end is End.CLOSED
    query = one_row(graph, (lower, upper), row, least + STEP, seconds=1.0)
    referee = Referee(query)
    end = NeuronArm(query, referee, silent).run(query.clock).end
    assert end is not End.CLOSED  # eager sharpening is slow: it may run out of time
    assert end is not End.CANDIDATE or referee.confirmed


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("activation", ("Relu", "Tanh", "Sin"))
@pytest.mark.parametrize("seed", range(4))
def test_eager_searches_never_close_what_a_sample_violates(activation: str, seed: int) -> None:
    graph = random_graph(seed, activation, "chain", depth=2, width=6)
    lower, upper = (t[0] for t in random_boxes(seed, 1, 0.8))
    row = torch.randn(2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    least = float((graph.forward(samples(lower[None], upper[None], seed, 3000)[:, 0]) @ row).min())
    query = one_row(graph, (lower, upper), row, least, seconds=0.5)
    arm = NeuronArm(query, lambda points: False, silent)
    assert arm.run(replace(query.clock)).end in (End.TIME, End.STALLED)


@pytest.mark.usefixtures("eager")
def test_running_out_of_time_while_sharpening_closes_nothing() -> None:
    """A clock that ends inside a round must leave the leaves open."""
    graph = random_graph(5, "Relu", "chain", depth=2, width=8)
    lower, upper = (t[0] for t in random_boxes(5, 1, 1.5))
    row = torch.tensor([1.0, -0.5], dtype=torch.float64)
    least = float((graph.forward(samples(lower[None], upper[None], 5, 3000)[:, 0]) @ row).min())
    for allowed in range(1, 60, 3):
        query = one_row(graph, (lower, upper), row, least)
        calls = [0]

        def stop(calls: list[int] = calls, allowed: int = allowed) -> bool:
            calls[0] += 1
            return calls[0] > allowed

        query = replace(query, clock=replace(query.clock, stop=stop))
        assert NeuronArm(query, lambda points: False, silent).run(query.clock).end in (End.TIME, End.STALLED)
