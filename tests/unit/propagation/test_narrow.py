"""Rows of some domains alone give what they give among all others."""

from __future__ import annotations

import pytest
import torch

from tests.soundness.networks import random_graph
from verinet.propagation.backward import Backward, SplitRows
from verinet.propagation.narrow import Narrow
from verinet.propagation.optimize import Multipliers, RowProblem, default_multipliers, evaluate
from verinet.propagation.rows import RowMap
from verinet.propagation.sweep import Sweeper, SweepOptions, ranges

DOMAINS, PER = 5, 2
KEPT = torch.tensor([1, 4])


def problem(seed: int) -> tuple[RowProblem, Backward, Multipliers]:
    """Five boxes of one network with two rows each, random multipliers, and split multipliers in some domains."""
    draw = torch.Generator().manual_seed(seed)
    graph = random_graph(seed, ("Relu", "Tanh")[seed % 2])
    centre = torch.randn(DOMAINS, graph.input_size, generator=draw, dtype=torch.float64)
    lower, upper = centre - 0.3, centre + 0.3
    whole = ranges(graph, lower.amin(0, keepdim=True), upper.amax(0, keepdim=True))
    backward = Backward(graph, whole)
    layers = Sweeper(backward).sweep(lower, upper, SweepOptions(rows=False))
    rows = torch.randn(DOMAINS * PER, graph.output_size, generator=draw, dtype=torch.float64)
    node = min(v for v in layers.known if v > 0)
    owner = torch.tensor([0, 2, 3, 8, 9])
    low = layers.known[node][0].reshape(DOMAINS, -1)[owner // PER, 0]
    split = SplitRows(owner, owner * 0, torch.ones(5).double(), low + 0.1, torch.rand(5, generator=draw).double())
    owners = RowMap.regular(DOMAINS, PER, lower.device)
    made = RowProblem(graph.output, rows, owners, lower, upper, layers.known, {node: split})
    multipliers = {
        v: tuple(torch.rand(m.shape, generator=draw, dtype=m.dtype) for m in values)
        for v, values in default_multipliers(made, backward).items()
    }
    return made, backward, multipliers


@pytest.mark.parametrize("seed", range(4))
def test_some_domains_alone_are_bounded_as_among_all(seed: int) -> None:
    made, backward, multipliers = problem(seed)
    betas = {v: s.beta for v, s in made.splits.items()}
    state = evaluate(made, backward, multipliers, betas)
    narrow = Narrow.of(made, KEPT)
    alone = evaluate(narrow.problem, backward, narrow.multipliers(multipliers), narrow.betas(betas))
    rows = [2, 3, 8, 9]
    assert narrow.rows.tolist() == rows
    assert torch.allclose(alone.bound, state.bound[rows], rtol=1e-12, atol=1e-12)
    part = narrow.part(state)
    assert torch.equal(part.bound, state.bound[rows])
    assert torch.allclose(part.inputs.coefficients, alone.inputs.coefficients, atol=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_what_was_found_for_some_goes_back_to_their_places(seed: int) -> None:
    made, backward, multipliers = problem(seed)
    state = evaluate(made, backward, multipliers, {v: s.beta for v, s in made.splits.items()})
    narrow = Narrow.of(made, KEPT)
    part = narrow.part(state)
    better = {v: tuple(m * 0.5 for m in values) for v, values in part.multipliers.items()}
    found = evaluate(narrow.problem, backward, better, {v: b + 1.0 for v, b in part.betas.items()})
    joined = narrow.put(state, found)
    again = evaluate(made, backward, joined.multipliers, joined.betas)
    assert torch.allclose(again.bound, joined.bound, rtol=1e-12, atol=1e-12)
    others = [0, 1, 4, 5, 6, 7]
    assert torch.equal(joined.bound[others], state.bound[others])
    assert torch.equal(joined.bound[narrow.rows], found.bound)
    assert not torch.equal(found.bound, part.bound)


def test_only_regular_maps_can_be_narrowed() -> None:
    made, _, _ = problem(0)
    ragged = RowMap.ragged(torch.tensor([0, 0, 1, 2, 2, 2, 3, 4, 4, 4]), DOMAINS)
    with pytest.raises(ValueError, match="same number of rows"):
        Narrow.of(RowProblem(made.start, made.rows, ragged, made.lower, made.upper, made.known), KEPT)
