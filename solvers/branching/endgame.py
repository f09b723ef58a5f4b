"""Linear programs for leaves of neuron splitting in which nothing, or little, is left to split.

A leaf may be put aside although its bound is loose: at the relaxed point no line is loose, but the split multipliers
are far from their best values. Its program then either closes it (by duals that the float64 engine accepts), or gives a
point of the leaf that violates the clause, or names a neuron to split after all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from verinet.solvers.branching.leaves import Leaves, halves
from verinet.solvers.branching.lp import Answer, Program, available
from verinet.solvers.branching.outcome import Offer
from verinet.solvers.query import Query

from verinet.ops.scalar import Elementwise
from verinet.propagation.backward import Backward
from verinet.propagation.interval import Interval
from verinet.propagation.optimize import RowProblem, evaluate
from verinet.propagation.rows import RowMap
from verinet.propagation.sweep import Layers, Sweeper

FEW = 24  # undecided entries of leaves that are tried before they are split
TRIALS = 32  # programs before it is judged whether they pay
WORTHWHILE = 0.1  # share of programs that must close their leaf: each costs as much as ten to fifty leaves


@dataclass(frozen=True, slots=True)
class Settled:
    """One leaf after its linear program: its certified margin, a candidate, and where it could be split."""

    margin: float
    point: Tensor | None = None  # (1, inputs), where it violates the row by a plain float64 run
    split: tuple[int, int, float] | None = None  # node, entry, point


class Search(Protocol):
    """What the endgame asks of the search."""

    def exact_sweep(self, leaves: Leaves) -> Layers: ...

    def row_of(self, leaf: Leaves) -> int: ...


class Endgame:
    """Linear programs for leaves in which nothing, or little, is left to split."""

    def __init__(self, query: Query, gate: Backward, root: Mapping[int, Interval], per: int = 1) -> None:
        """`root` are the bounds of the box: only bounds that differ from them are worth a constraint.

        Only clauses of one row (`per`) have a program; a conjunction is one, as a maximum.
        """
        self.query, self._gate = query, gate
        self._root = {v: (lo[:1], hi[:1]) for v, (lo, hi) in root.items()}
        self._sweeper = Sweeper(gate)
        self.solved = self.closed = 0
        self._tried = self._won = 0  # for leaves that could still be split
        # Programs are built and solved on the CPU; elsewhere leaves get the longer optimisation only.
        self.usable = per == 1 and available() and query.lower.device.type == "cpu"

    def few(self, search: Search, leaves: Leaves, layers: Layers, keep: Tensor, offer: Offer) -> tuple[Tensor, bool]:
        """Try those of the leaves `keep` that have few undecided entries by their `layers`; returns which stay open,
        and whether a witness was found. Stops where that rarely closes a leaf."""
        if not self.usable or not keep.numel() or not self._pays:
            return keep, False
        little = self._undecided(layers)[keep] <= FEW
        still = torch.ones_like(little)
        for place in little.nonzero().squeeze(1).tolist():
            leaf = leaves.take(keep[place : place + 1])
            settled = None if self.query.clock.over() else self.settle(search.exact_sweep(leaf), search.row_of(leaf))
            if settled is None:
                continue
            self._tried += 1
            if settled.point is not None and offer(settled.point.numpy()):
                return keep, True
            if settled.margin > 0:
                self._won += 1
                still[place] = False
        return keep[still], False

    @property
    def _pays(self) -> bool:
        return self._tried < TRIALS or self._won >= WORTHWHILE * self._tried

    def _undecided(self, layers: Layers) -> Tensor:
        masks = (self._sweeper.undecided(v, layers.known, pair) for v, pair in layers.known.items())
        return torch.stack([m.reshape(m.shape[0], -1).sum(1) for m in masks]).sum(0)

    def stuck(self, search: Search, parts: list[Leaves], offer: Offer) -> tuple[list[Leaves], list[Leaves], bool]:
        """Try leaves without a split: those that stay stuck, those with a split after all, whether there is a witness.

        Leaves in neither list are closed.
        """
        if not self.usable:
            return parts, [], False
        stuck: list[Leaves] = []
        again: list[Leaves] = []
        leaves = [part.take(slice(i, i + 1)) for part in parts for i in range(len(part))]
        for place, leaf in enumerate(leaves):
            settled = None if self.query.clock.over() else self.settle(search.exact_sweep(leaf), search.row_of(leaf))
            if settled is not None and settled.margin > 0:
                continue
            if settled is not None and settled.point is not None and offer(settled.point.numpy()):
                return stuck + leaves[place:], again, True
            if settled is not None and settled.split is not None:
                again.append(halves(leaf, settled.split))
            else:
                stuck.append(leaf)
        return stuck, again, False

    def settle(self, exact: Layers, row: int) -> Settled | None:
        """Settle one leaf whose clause is one row of the table; `exact` are its layers in the float64 engine."""
        graph = self.query.graph
        order = self._gate.order(graph.output)
        program = Program(graph, order, exact, {v: self._news(v, pair) for v, pair in exact.known.items()})
        table = self.query.table
        answer = program.minimise(table.weights[row])
        if answer is None:
            return None
        self.solved += 1
        ids = torch.tensor([row], device=table.weights.device)
        one = RowMap.regular(1, 1, table.weights.device)
        rows = table.weights[ids]
        problem = RowProblem(graph.output, rows, one, exact.lower, exact.upper, exact.known, answer.splits)
        state = evaluate(problem, self._gate, answer.multipliers, {v: s.beta for v, s in answer.splits.items()})
        margin = float(table.margins(ids, state.bound, self._gate.output_size())[0])
        self.closed += margin > 0
        output = graph.forward(answer.point.clamp(exact.lower, exact.upper))
        hit = float((output @ table.weights[row]).reshape(-1)[0]) <= float(table.bounds[row])
        return Settled(margin, answer.point if hit else None, self._split(answer, exact))

    def _news(self, position: int, pair: Interval) -> Interval:
        """Bounds that differ from the root's; infinite elsewhere."""
        low, high = pair
        old = self._root.get(position, (torch.full_like(low, -torch.inf), torch.full_like(high, torch.inf)))
        return torch.where(low > old[0], low, -torch.inf), torch.where(high < old[1], high, torch.inf)

    def _split(self, answer: Answer, exact: Layers) -> tuple[int, int, float] | None:
        """At the kink for hinges, else where the solution is; only inside the interval."""
        if answer.worst is None:
            return None
        node, entry, value = answer.worst
        readers = [self.query.graph.nodes[r].op for r in self.query.graph.consumers[node]]
        if all(isinstance(op, Elementwise) and op.function.hinge is not None for op in readers):
            value = 0.0
        low, high = (float(t.reshape(-1)[entry]) for t in exact.known[node])
        return (node, entry, value) if low < value < high else None
