"""Cuts from closed leaves: what one closed leaf shows about the rest of the tree.

Closed leaves are shortened to cores (`cuts_cores`), which rule out parts of other leaves: some are closed without a
bound, others get a literal for nothing (`cuts_clauses`). All of it is bookkeeping with certified facts: a core was
closed by the float64 engine for the whole box of its clause, and leaves are compared with it by certified bounds.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from verinet.solvers.branching.cuts_clauses import LearnedClauses, keys_of
from verinet.solvers.branching.cuts_cores import Cores
from verinet.solvers.branching.cuts_cores import Search as Bounding
from verinet.solvers.branching.leaves import Leaves, meet
from verinet.solvers.branching.splits import MOST_AT_ONCE, Literals

from verinet.ir.graph import Graph
from verinet.ops.scalar import Elementwise
from verinet.propagation.interval import Interval
from verinet.propagation.optimize import Optimized

AT_ONCE = 32  # closed leaves of a batch that are shortened; few at a time cost almost as much
LEAF = 20  # passes that a leaf costs
SHARE = 0.03  # of the passes of the search that shortening may take, and what it has won on top
SAVED = 0.25  # leaves that a literal which follows saves; most would never have been split on
IMPLIED = MOST_AT_ONCE - 1  # literals that a leaf gets at a time: as many are remembered as new, beside its own split


class Search(Bounding, Protocol):
    """What cuts ask of the search."""

    made: int


def jumping(graph: Graph) -> frozenset[int]:
    """Nodes with a reader that jumps."""
    flat = (n for n in graph.nodes if isinstance(n.op, Elementwise) and n.op.function.flat)
    return frozenset(i for n in flat for i in n.inputs)


class Cuts:
    """Learns from the closed leaves of one search and uses it on the open ones."""

    def __init__(self, search: Search) -> None:
        self._search = search
        self._cores = Cores(search)
        self.learned = LearnedClauses(search.query.lower.device)
        self.closed = self.implied = 0
        self._jumps = jumping(search.query.graph)

    @property
    def passes(self) -> int:
        """Leaves that were bounded in order to shorten others."""
        return self._cores.passes

    @property
    def pays(self) -> bool:
        """Whether shortening has taken no more than its share of all passes and what it has saved."""
        return self.passes <= LEAF * (SHARE * self._search.made + self.closed + SAVED * self.implied)

    def learn(self, leaves: Leaves, best: Optimized, margin: Tensor) -> None:
        """Shorten some of the leaves that have just been closed; `best` are the multipliers of all of them."""
        closed = (margin > 0).nonzero().squeeze(1)
        if not closed.numel() or not self.pays:
            return
        # The most margin leaves most to give away; infinite ones are refuted by their bounds alone.
        closed = closed[margin[closed].argsort(descending=True)[:AT_ONCE]]
        for core in self._cores.of(leaves, closed, best):
            self.learned.add(core.clause, frozenset(keys_of(core.literals, 0)))

    def apply(self, leaves: Leaves) -> Leaves:
        """The leaves that no learned clause closes, with the literals that follow."""
        if not len(self.learned) or not len(leaves):
            return leaves
        told = self.learned.tell(leaves.clause, self._known(leaves))
        self.closed += int(told.closed.sum())
        still = ~told.closed
        leaves = leaves.take(still)
        votes = told.votes[still] * self._negatable()
        for _ in range(IMPLIED):
            votes = self._imply(leaves, votes)
        return leaves

    def _negatable(self) -> Tensor:
        """Which literals (literals,) have a negation that leaves can take, as 0 or 1.

        At a jump one side of a split is open, and which one it is shows only in the literal of the open side.
        """
        known = [float(key[4] or key[0] not in self._jumps) for key in self.learned.keys]
        return torch.tensor(known, device=self._search.query.lower.device)

    def _imply(self, leaves: Leaves, votes: Tensor) -> Tensor:
        """Add to every leaf the negation of the literal that most sets rule out; returns the votes for the others."""
        if not votes.numel() or not bool((votes > 0).any()):
            return votes
        most, column = votes.max(1)
        node, index, sign, point, strict = self.learned.literal(column)
        here = most > 0
        self.implied += int(here.sum())
        leaves.literals = leaves.literals.extended(torch.where(here, node, -1), index, -sign, point)
        return votes.scatter(1, column.unsqueeze(1), 0.0)

    def _known(self, leaves: Leaves) -> dict[int, Interval]:
        """Certified float64 bounds of the nodes that learned clauses are about."""
        nodes = self.learned.nodes()
        exact = self._search.anchors.exact
        known = {v: (exact[v][0][leaves.anchor], exact[v][1][leaves.anchor]) for v in sorted(nodes)}
        mine = torch.isin(leaves.literals.node, torch.tensor(sorted(nodes), device=leaves.clause.device))
        own = leaves.literals
        about = Literals(torch.where(mine, own.node, -1), own.index, own.sign, own.point, own.beta, own.strict)
        inner = {v: pair for v, pair in (leaves.inner or {}).items() if v in nodes}
        return meet(about.clip(known), inner, torch.float64)
