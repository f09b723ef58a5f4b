"""The engine that looks for multipliers decides nothing: however wrong its bounds are, no violation is lost."""

from __future__ import annotations

import pytest
import torch
from verinet.solvers.arms import NeuronArm
from verinet.solvers.branching.neuron_split import NeuronSplit
from verinet.solvers.branching.outcome import End
from verinet.solvers.engines import paired

from tests.soundness.networks import random_graph, samples
from tests.unit.solvers.queries import one_row, silent
from verinet.propagation.backward import Backward
from verinet.propagation.optimize import RowProblem, better_start
from verinet.propagation.rows import RowMap
from verinet.propagation.sweep import Sweeper, SweepOptions, build_backward, ranges

ROW = torch.tensor([1.0, -1.0], dtype=torch.float64)


def box():
    return torch.full((3,), -1.0, dtype=torch.float64), torch.full((3,), 1.0, dtype=torch.float64)


def reach(graph, seed):
    low, high = box()
    return graph.forward(samples(low[None], high[None], seed, 20_000)[:, 0]) @ ROW


@pytest.mark.parametrize("by", (1e-4, 0.05, 10.0))
@pytest.mark.parametrize("name", ("Relu", "Tanh", "Sin"))
def test_bounds_that_are_too_good_close_nothing(name, by, monkeypatch) -> None:
    """Thresholds just above the sampled minimum: a violation exists, so a search that closes is wrong."""
    concretize = Backward.concretize

    def too_good(self, *arguments):
        value = concretize(self, *arguments)
        return value + by if value.dtype == torch.float32 else value

    monkeypatch.setattr(Backward, "concretize", too_good)
    for seed in range(3):
        graph = random_graph(seed, name, "chain", 3, 6)
        values = reach(graph, seed)
        query = one_row(graph, box(), ROW, float(values.min() + 1e-3 * (values.max() - values.min())), 3.0)
        outcome = NeuronArm(query, lambda points: False, silent).run(query.clock.until(1.0))
        assert outcome.end is not End.CLOSED


def root_of(graph):
    low, high = (side[None] for side in box())
    gate = build_backward(graph, low[0], high[0])
    layers = Sweeper(gate).sweep(low, high, SweepOptions(), None)
    return gate, layers, ranges(graph, low, high, layers.known)


def test_without_the_gate_they_would(monkeypatch) -> None:
    """The test above can fail."""
    test = test_bounds_that_are_too_good_close_nothing
    monkeypatch.setattr(NeuronSplit, "_gate", lambda self, leaves, layers, best, margin: margin)
    with pytest.raises(AssertionError):
        test("Relu", 10.0, monkeypatch)


def test_only_the_engine_that_decides_charges_rounding() -> None:
    graph = random_graph(2, "Relu", "chain", 6, 24)
    gate, layers, sizes = root_of(graph)
    engines = paired(gate, sizes, layers.known)
    assert engines.gate.charged and not engines.search.charged and engines.search.dtype == torch.float32
    bounds = {}
    for name, engine in (("search", engines.search), ("gate", engines.gate), ("charged", None)):
        engine = engine or Backward(engines.search.graph, [(a.float(), b.float()) for a, b in sizes])
        known = {v: (a.to(engine.dtype), b.to(engine.dtype)) for v, (a, b) in layers.known.items()}
        problem = RowProblem(
            graph.output,
            ROW[None].to(engine.dtype),
            RowMap.regular(1, 1, torch.device("cpu")),
            layers.lower.to(engine.dtype),
            layers.upper.to(engine.dtype),
            known,
        )
        bounds[name] = float(better_start(problem, engine).bound)
    assert bounds["search"] == pytest.approx(bounds["gate"], rel=1e-5)
    assert bounds["charged"] < bounds["gate"] - 10 * abs(bounds["search"] - bounds["gate"])
