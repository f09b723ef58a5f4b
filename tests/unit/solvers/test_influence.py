"""Which layer bounds are sharpened: the few that win most of what all of them would."""

from __future__ import annotations

import torch
from verinet.solvers.branching.influence import covering, together
from verinet.solvers.branching.neuron_split import NeuronSplit
from verinet.solvers.branching.tighten import Tightener
from verinet.solvers.root import Root

from tests.unit.solvers.queries import hard_row, silent
from verinet.propagation.sweep import Sweeper


def test_the_fewest_entries_with_their_share() -> None:
    weights = {1: torch.tensor([[4.0, 0.0, 1.0], [0.0, 0.0, 0.0]]), 3: torch.tensor([[[3.0], [2.0]], [[0.0], [7.0]]])}
    chosen = covering(weights, [1, 3], 0.69)
    assert chosen[1].tolist() == [[True, False, False], [False, False, False]]
    assert chosen[3].tolist() == [[[True], [False]], [[False], [True]]]
    everything = covering(weights, [1, 3], 1.0)
    assert [int(everything[v].sum()) for v in (1, 3)] == [2, 3], "never what weighs nothing"
    assert covering(weights, [3], 0.5)[3].tolist() == [[[True], [False]], [[False], [True]]]
    assert covering(weights, [2], 0.5) == {}


def test_weights_add_up() -> None:
    one, two = {1: torch.ones(1, 2), 2: torch.ones(1, 1)}, {2: torch.ones(1, 1), 5: torch.ones(1, 3)}
    assert {v: w.tolist() for v, w in together(one, two).items()} == {1: [[1.0, 1.0]], 2: [[2.0]]}


def test_few_neurons_win_most_of_it() -> None:
    """Rounds on random networks: with weights they bound few neurons, and win most of what all of them win."""
    rows = [0, 0]
    won = [0.0, 0.0]
    for seed in range(1, 9):
        query = hard_row(3, 20, 0.1, seed)
        root = Root(query, query.clock)
        clauses = root.bound(silent)
        if not clauses:
            continue
        for way in (0, 1):
            search = NeuronSplit(query, root.engines(), root.layers, clauses)
            leaf = search.stack[0]
            counted = _Counting(search)
            first, passed = float(search.weighed(leaf)[0]), {}
            for _ in range(3):
                exact = search.exact_sweep(leaf)
                weights = together(search.weighed(leaf)[1], passed) if way else None
                done = counted.round(search.part(leaf), exact.known, None, weights)
                passed = done.passed
                assert bool(passed) == bool(way)
                search.anchors.put(0, done.known)
                if bool(done.refuted.any()):
                    break
            last = 0.0 if bool(done.refuted.any()) else min(0.0, float(search.margin(leaf)))
            won[way] += (last - first) / -first
            rows[way] += counted.rows
    assert rows[1] < 0.7 * rows[0], rows
    assert won[1] > 0.9 * won[0] > 0.0, won


class _Counting(Tightener):
    """Counts the neurons that are bounded."""

    def __init__(self, search: NeuronSplit) -> None:
        super().__init__(search.query, search.engines)
        self.rows = 0

    def _bound(self, place, part, known, worth):  # type: ignore[no-untyped-def]
        self.rows += place[1][0].numel()
        return super()._bound(place, part, known, worth)


def test_what_has_no_nonlinear_reader_weighs_nothing() -> None:
    query = hard_row(3, 8, 0.1)
    root = Root(query, query.clock)
    search = NeuronSplit(query, root.engines(), root.layers, root.bound(silent))
    margin, weights = search.weighed(search.stack[0])
    assert margin.shape == (1,)
    known = search.exact_sweep(search.stack[0]).known
    decided = {v: ~Sweeper(search.engines.gate).undecided(v, known, known[v]) for v in weights}
    assert all(float(weights[v][decided[v]].abs().sum()) == 0.0 for v in weights), "stable neurons gain nothing"
    assert any(float(w.sum()) > 0 for w in weights.values())
