"""Short cores: few literals of a closed leaf that close it already.

Each literal is left out in turn, one pass each with the multipliers that closed the leaf; then more and more of them
together, those first whose absence costs least. The shortest set that still closes is bounded once more by the float64
engine, rounding charged, and only that makes it a core. Layer bounds are those of the leaf's anchor: they follow from
the clause and the literals above the anchor alone, which therefore stay in. Bounds that the leaf owes to other literals
(`Leaves.inner`) are not used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from verinet.solvers.branching.leaves import Anchors, Engines, Leaves
from verinet.solvers.branching.raising import Goal
from verinet.solvers.branching.splits import Literals
from verinet.solvers.query import Query

from verinet.propagation.backward import Backward
from verinet.propagation.optimize import Climb, Multipliers, Optimized, RowProblem, climb, evaluate
from verinet.propagation.rows import rows_of
from verinet.propagation.sweep import Layers

STEPS = Climb(iterations=3)
RATE = 0.05


class Search(Protocol):
    """What finding cores asks of the search."""

    query: Query
    engines: Engines
    backward: Backward
    anchors: Anchors
    per: int

    def sweep(self, leaves: Leaves) -> Layers: ...

    def exact_sweep(self, leaves: Leaves) -> Layers: ...

    def problem(
        self, leaves: Leaves, layers: Layers
    ) -> tuple[RowProblem, dict[int, tuple[Tensor, Tensor]], Tensor]: ...


@dataclass(frozen=True, slots=True)
class Core:
    """Literals that cannot all hold where the clause is violated."""

    clause: int
    literals: Literals  # of one domain
    dropped: int


class Cores:
    """Finds cores of closed leaves; `passes` counts leaves that were bounded for it."""

    def __init__(self, search: Search) -> None:
        self._search = search
        self.passes = 0

    def of(self, leaves: Leaves, closed: Tensor, best: Optimized) -> list[Core]:
        """Cores of the closed leaves named (k,) that are shorter than the leaf; `best` are the multipliers of all."""
        prefix = self._prefix(leaves.anchor[closed])
        count = leaves.literals.count[closed]
        closed = closed[(count > prefix) & (count > 1)]
        if not closed.numel():
            return []
        chosen = _plain(leaves.take(closed))
        order, least = self._order(chosen, closed, best)
        closed, order, chosen = closed[least], order[least], chosen.take(least)
        if not closed.numel():
            return []
        dropped = self._most(chosen, closed, best, order)
        found = (dropped > 0).nonzero().squeeze(1)
        if not found.numel():
            return []
        short = _with(chosen.take(found), _after(chosen, order, dropped)[found])
        certain = self._certified(short, closed[found], best)
        return [
            Core(int(short.clause[i]), short.literals.take(slice(i, i + 1)), int(dropped[found[i]]))
            for i in certain.nonzero().squeeze(1).tolist()
        ]

    def _prefix(self, anchor: Tensor) -> Tensor:
        """How many leading literals (k,) the layer bounds of these anchors rest on."""
        numbers = [max(0, self._search.anchors.prefix[a]) for a in anchor.tolist()]
        return torch.tensor(numbers, dtype=torch.int64, device=anchor.device)

    def _order(self, chosen: Leaves, closed: Tensor, best: Optimized) -> tuple[Tensor, Tensor]:
        """The turn (k, depth) in which literals are left out, 0 first, by the margins without each of them alone.

        Also which leaves (k,) close without one of them.
        """
        literals = chosen.literals
        columns = torch.arange(literals.depth, device=closed.device)
        free = (literals.node >= 0) & (columns >= self._prefix(chosen.anchor).unsqueeze(1))
        leaf, slot = free.nonzero(as_tuple=True)
        mask = (literals.node >= 0)[leaf]
        mask[torch.arange(leaf.numel(), device=leaf.device), slot] = False
        margins = torch.full(free.shape, -torch.inf, dtype=torch.float64, device=free.device)
        margins[leaf, slot] = self._tried(_with(chosen.take(leaf), mask), closed[leaf], best)[0]
        order = torch.where(free, margins.nan_to_num(-1e300), -torch.inf).argsort(dim=1, descending=True)
        turn = torch.empty_like(order).scatter_(1, order, columns.expand_as(order))
        return turn, (margins > 0).any(1)

    def _most(self, chosen: Leaves, closed: Tensor, best: Optimized, order: Tensor) -> Tensor:
        """How many literals (k,) can be left out in this order, by bisection."""
        count = chosen.literals.count
        low = torch.zeros_like(count)
        # Something must stay: an empty core would mean that the clause itself is refuted.
        high = torch.minimum(count - self._prefix(chosen.anchor), count - 1)
        while bool((low < high).any()):
            still = (low < high).nonzero().squeeze(1)
            half = (low + high + 1) // 2
            mask = _after(chosen, order, half)[still]
            closes = self._tried(_with(chosen.take(still), mask), closed[still], best, STEPS)[0] > 0
            low[still] = torch.where(closes, half[still], low[still])
            high[still] = torch.where(closes, high[still], half[still] - 1)
        return low

    def _tried(
        self, tries: Leaves, origin: Tensor, best: Optimized, rule: Climb | None = None
    ) -> tuple[Tensor, Multipliers]:
        """Margins (tries,) by the search engine from the multipliers of the leaves `origin`, and the last multipliers.

        Split multipliers are written into the literals.
        """
        search = self._search
        layers = search.sweep(tries)
        problem, places, ids = search.problem(tries, layers)
        rows = rows_of(origin, search.per)
        warm = {v: tuple(t[rows].to(problem.rows.dtype) for t in m) for v, m in best.multipliers.items()}
        state = evaluate(problem, search.backward, warm, {v: s.beta for v, s in problem.splits.items()})
        bounds = search.query.table.bounds[ids].to(state.bound)
        self.passes += len(tries)
        if rule is not None:
            goal = Goal(bounds, search.per, search.query.clock.over)
            state, _ = climb(
                problem,
                search.backward,
                rule,
                torch.full_like(state.bound, RATE),
                start=state,
                finished=goal.reached,
            )
            self.passes += 2 * rule.iterations * len(tries)
        for node, (domain, slot) in places.items():
            tries.literals.beta[domain, slot] = state.betas[node].double()
        margins = (state.bound - bounds).double().reshape(-1, search.per).amax(1)
        return torch.where(layers.infeasible, torch.inf, margins), state.multipliers

    def _certified(self, short: Leaves, origin: Tensor, best: Optimized) -> Tensor:
        """Which sets (k,) really close, by the float64 engine with rounding charged."""
        search, gate = self._search, self._search.engines.gate
        _, multipliers = self._tried(short, origin, best, STEPS)
        self.passes += 2 * len(short)
        layers = search.exact_sweep(short)
        problem, _, ids = search.problem(short, layers)
        exact = {v: tuple(t.double() for t in m) for v, m in multipliers.items()}
        state = evaluate(problem, gate, exact, {v: s.beta for v, s in problem.splits.items()})
        margins = search.query.table.margins(ids, state.bound, gate.output_size()).reshape(-1, search.per).amax(1)
        return (margins > 0) | layers.infeasible


def _after(chosen: Leaves, order: Tensor, dropped: Tensor) -> Tensor:
    """Mask (k, depth) of the literals left when `dropped` (k,) are left out in their order."""
    return (chosen.literals.node >= 0) & (order >= dropped.unsqueeze(1))


def _plain(leaves: Leaves) -> Leaves:
    """The leaves without what their parents left them."""
    leaves.inner, leaves.warm, leaves.parent = None, None, None
    return leaves


def _with(leaves: Leaves, keep: Tensor) -> Leaves:
    """The leaves with only those literals that a mask (domains, depth) names."""
    old = leaves.literals
    order = (~keep).long().argsort(dim=1, stable=True)
    node = torch.where(keep, old.node, -1)
    fields = (node, old.index, old.sign, old.point, old.beta, old.strict)
    depth = int(keep.sum(1).max()) if len(leaves) else 0
    leaves.literals = Literals(*(f.gather(1, order) for f in fields)).first(depth)
    return leaves
