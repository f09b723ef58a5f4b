"""Cuts from closed leaves: cores are infeasible in truth, and no violation is ever cut off."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from verinet.solvers.branching import cuts
from verinet.solvers.branching.cuts_clauses import Key
from verinet.solvers.branching.cuts_tried import Tried
from verinet.solvers.branching.leaves import Leaves
from verinet.solvers.branching.neuron_split import NeuronSplit
from verinet.solvers.branching.options import Branching
from verinet.solvers.branching.outcome import End
from verinet.solvers.query import Query
from verinet.solvers.root import Root

from tests.kits.flat_networks import chain, flat_functions
from tests.soundness.networks import random_graph
from tests.soundness.test_exact import _Program, _relu, exact_minimum
from tests.unit.solvers.branching_networks import network
from tests.unit.solvers.queries import one_row, silent
from verinet.ir.graph import Graph
from verinet.ops.scalar import Elementwise
from verinet.propagation.interval import interval_pass
from verinet.propagation.optimize import Optimized

RADIUS = 0.6
POINTS, MOST_BAD = 10_000, 200


@pytest.fixture(autouse=True)
def learning_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every closed leaf of the small searches here is shortened."""
    monkeypatch.setattr(cuts, "SHARE", 1e9)
    monkeypatch.setattr(cuts, "AT_ONCE", 64)


def box(graph: Graph) -> tuple[Tensor, Tensor]:
    one = torch.full((graph.input_size,), RADIUS, dtype=torch.float64)
    return -one, one


def points(graph: Graph) -> Tensor:
    draw = torch.Generator().manual_seed(3)
    low, high = box(graph)
    return low + torch.rand(POINTS, graph.input_size, generator=draw, dtype=torch.float64) * (high - low)


def row_of(graph: Graph) -> Tensor:
    return torch.tensor([1.0, -0.7], dtype=torch.float64)[: graph.output_size]


def query_with(graph: Graph, share: float) -> tuple[Query, Tensor]:
    """Whether the row falls below a share of its sampled range, and the sampled inputs at which it does."""
    inputs = points(graph)
    values = graph.forward(inputs) @ row_of(graph)
    threshold = float(values.min() + share * (values.max() - values.min()))
    return one_row(graph, box(graph), row_of(graph), threshold, 120.0), inputs[values <= threshold][:MOST_BAD]


def search_of(query: Query, sharpen: bool = False, tries: bool = True) -> NeuronSplit | None:
    root = Root(query, query.clock)
    clauses = root.bound(silent)
    if not clauses:
        return None
    search = NeuronSplit(query, root.engines(), root.layers, clauses, batch=8)
    search.branching = Branching(cuts=True, tries=tries)
    if not sharpen:
        search.gauge.due = lambda anchors: anchors[:0]  # type: ignore[method-assign]
    return search


def _sharpen_at_first(search: NeuronSplit) -> None:
    """The first few nodes of the tree get layer bounds of their own, whatever that costs."""

    def due(anchors: Tensor) -> Tensor:
        return anchors.unique() if len(search.anchors) < 4 else anchors[:0]

    search.gauge.due = due  # type: ignore[method-assign]


def run(search: NeuronSplit, most: int) -> End:
    """Split until the end or `most` domains. No witness is accepted, so that a violation has to stay open."""
    clock = replace(search.query.clock, stop=lambda: search.made >= most)
    return search.run(clock, lambda found: False, silent).end


def node_values(graph: Graph, inputs: Tensor) -> list[Tensor]:
    """Values (points, entries) of all nodes."""
    values = [inputs]
    for node in graph.nodes[1:]:
        values.append(node.op.forward(*(values[i].reshape(-1, *graph.nodes[i].shape) for i in node.inputs)))
    return [v.reshape(inputs.shape[0], -1) for v in values]


def holds(values: list[Tensor], key: Key) -> Tensor:
    node, entry, sign, point, strict = key
    distance = sign * (values[node][:, entry] - point)
    return distance > 0 if strict else distance >= 0


def covered(search: NeuronSplit, inputs: Tensor) -> Tensor:
    """Which inputs lie in an open leaf, up to rounding of the values at split points."""
    values = node_values(search.query.graph, inputs)
    found = torch.zeros(inputs.shape[0], dtype=torch.bool)
    for part in (*search.stack, *search.stuck):
        literals = part.literals
        for domain in range(len(part)):
            inside = torch.ones_like(found)
            for slot in (literals.node[domain] >= 0).nonzero().squeeze(1).tolist():
                value = values[int(literals.node[domain, slot])][:, int(literals.index[domain, slot])]
                inside &= literals.sign[domain, slot] * (value - literals.point[domain, slot]) >= -1e-9
            found |= inside
    return found


def flat(name: str) -> Callable[[int], Graph]:
    def make(seed: int) -> Graph:
        draw = np.random.default_rng(seed)
        widths = (3, 5, 4, 1)
        layers = [(draw.normal(size=(m, n)) * 2, draw.normal(size=m)) for n, m in zip(widths, widths[1:], strict=False)]
        return chain(layers, flat_functions()[name])

    return make


GRAPHS: dict[str, Callable[[int], Graph]] = {
    "relu": lambda seed: random_graph(seed, "Relu", "chain", 2, 6),
    "wide": lambda seed: random_graph(seed, "Relu", "chain", 2, 12),
    "residual": lambda seed: random_graph(seed, "Relu", "residual", 2, 6),
    "tanh": lambda seed: random_graph(seed, "Tanh", "chain", 1, 6),
    "maximum": lambda seed: random_graph(seed, "Relu", "maximum", 1, 6),
    "product": lambda seed: network("product", seed),
    "softmax": lambda seed: network("softmax", seed),
    "floor": flat("Floor"),
    "sign": flat("Sign"),
}


BENT = ("relu", "wide", "residual")
"""Kinds in which tries of small networks refute literals; smooth functions take no part."""


@pytest.mark.parametrize(("kind", "sharpen"), [*((kind, False) for kind in GRAPHS), ("wide", True)])
def test_no_violation_leaves_the_open_leaves(kind: str, sharpen: bool) -> None:
    """Every sampled violation lies in an open leaf at all times, and satisfies no core.

    Sharpened layer bounds rest on the literals above them, which have to be in the core.
    """
    learned = implied = sharpened = 0
    for seed in range(2):
        graph = GRAPHS[kind](seed)
        query, bad = query_with(graph, 0.05)
        search = search_of(query, sharpen)
        if search is None or not bad.shape[0]:
            continue
        if sharpen:
            _sharpen_at_first(search)
        for most in (20, 80):
            assert run(search, most) is not End.CLOSED
            assert bool(covered(search, bad).all())
        values = node_values(graph, bad)
        for clause, core in search.cuts.learned.sets:
            assert clause == 0
            assert not bool(torch.stack([holds(values, key) for key in core]).all(0).any())
        learned, implied = learned + len(search.cuts.learned), implied + search.tried.implied
        sharpened = max(sharpened, max(search.anchors.prefix))
    assert learned > 0 and (implied > 0 or kind not in BENT) and (sharpened > 0) is sharpen


def test_a_wrong_refutation_is_noticed() -> None:
    """The same, when every tried split is said to be closed on one side."""
    graph = GRAPHS["wide"](0)
    query, bad = query_with(graph, 0.05)
    search = search_of(query)
    assert search is not None
    search.tried = Tried(lambda leaves, multipliers: torch.ones(len(leaves)), 1, graph)
    usual = search.tried.note

    def wrong(children: Leaves, state: Optimized, margin: Tensor) -> None:
        upper = torch.arange(margin.numel()) < margin.numel() // 2
        usual(children, state, torch.where(upper, 1.0, margin))

    search.tried.note = wrong  # type: ignore[method-assign]
    run(search, 60)
    assert search.tried.implied > 0
    assert not bool(covered(search, bad).all())


def test_a_wrong_core_is_noticed() -> None:
    """The test above fails when a set that can hold is learned: violations then lie in no open leaf."""
    graph = GRAPHS["relu"](0)
    query, bad = query_with(graph, 0.02)
    search = search_of(query)
    assert search is not None
    run(search, 8)
    assert bool(covered(search, bad).all())
    leaf = search.stack[-1].literals
    values = node_values(graph, bad)
    keys = [(int(leaf.node[0, 0]), int(leaf.index[0, 0]), sign, float(leaf.point[0, 0]), False) for sign in (1.0, -1.0)]
    wrong = next(key for key in keys if bool(holds(values, key).any()))
    search.cuts.learned.add(0, frozenset([wrong]))
    run(search, 60)
    assert not bool(covered(search, bad).all())


def least_with(graph: Graph, core: frozenset[Key]) -> float | None:
    """Least value of the row over the part of the box in which the literals hold, by integer programming."""
    program, (low, high) = _Program(), box(graph)
    bounds = [tuple(t.reshape(-1).numpy() for t in pair) for pair in interval_pass(graph, low[None], high[None])]
    places = [program.variables(low.numpy(), high.numpy())]
    for position, node in enumerate(graph.nodes[1:], start=1):
        sources, here = places[node.inputs[0]], program.variables(*bounds[position])
        if isinstance(node.op, Elementwise):
            _relu(program, sources, here, *bounds[node.inputs[0]])
        else:
            for column, target in enumerate(here):
                terms = dict(zip(sources, node.op.weight[:, column].tolist(), strict=True))  # type: ignore[attr-defined]
                offset = -float(node.op.offset.reshape(-1)[column])  # type: ignore[attr-defined]
                program.row({**terms, target: -1.0}, offset, offset)
        places.append(here)
    for node, entry, sign, point, _ in core:
        program.row({places[node][entry]: sign}, sign * point, np.inf)
    cost = np.zeros(len(program.lower))
    cost[places[-1]] = row_of(graph).numpy()
    try:
        return float(cost @ program.minimise(cost))
    except AssertionError as error:
        assert "infeasible" in str(error).lower()
        return None


def test_cores_are_infeasible_by_exact_minima() -> None:
    """No core allows a value at or below the threshold."""
    checked = short = 0
    for seed in range(4):
        graph = random_graph(seed, "Relu", "chain", 1, 6)
        _, least = exact_minimum(graph, *box(graph), row_of(graph))
        threshold = least - 0.05 * (1 + abs(least))
        search = search_of(one_row(graph, box(graph), row_of(graph), threshold, 120.0))
        if search is None:
            continue
        assert run(search, 400) is End.CLOSED
        for _, core in search.cuts.learned.sets:
            found = least_with(graph, core)
            assert found is None or found > threshold - 1e-6
            checked, short = checked + 1, short + (len(core) <= 3)
    assert checked >= 5 and short > 0


def test_what_the_clauses_close_needs_no_search() -> None:
    """Leaves closed by a core hold no violation, and literals that follow cut none off, one batch at a time."""
    closed = implied = 0
    for seed in range(2):
        graph = GRAPHS["wide"](seed)
        query, bad = query_with(graph, 0.01)
        search = search_of(query, tries=False)
        if search is None:
            continue
        usual = search.cuts.apply
        values = node_values(graph, bad)

        def watched(
            leaves: Leaves,
            usual: Callable[[Leaves], Leaves] = usual,
            search: NeuronSplit = search,
            values: list[Tensor] = values,
        ) -> Leaves:
            before, held = len(leaves), search.stack
            kept = usual(leaves.take(torch.arange(before)))
            search.stack = [leaves]
            inside = covered(search, values[0])
            search.stack = [kept]
            assert bool((covered(search, values[0]) | ~inside).all())
            search.stack = held
            return kept

        search.cuts.apply = watched  # type: ignore[method-assign]
        run(search, 120)
        closed, implied = closed + search.cuts.closed, implied + search.cuts.implied
    assert closed > 0 and implied > 0
