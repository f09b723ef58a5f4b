"""Literals that follow from splits that were only tried.

The best few splits of a leaf are tried by bounds of both children (`scores`). A child that such a bound closes shows
that its literal does not hold in the leaf, also where another split is made in the end: the leaf then takes over the
other side for nothing (failed literals, Freeman 1995, "Improvements to propositional satisfiability search
algorithms"). One pass of the float64 engine with the child's multipliers decides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from verinet.solvers.branching.leaves import Choice, Leaves
from verinet.solvers.branching.splits import MOST_AT_ONCE, Literals

from verinet.ir.graph import Graph
from verinet.ops.base import NonlinearOp
from verinet.ops.scalar import Elementwise
from verinet.propagation.optimize import Multipliers, Optimized
from verinet.propagation.rows import rows_of

MOST = MOST_AT_ONCE - 1  # literals that a leaf gets at a time: so many are remembered as new, beside its own split

Literal = tuple[Tensor, Tensor, Tensor, Tensor]
"""Node, entry, sign and point (domains,) of one literal each; node -1 for none. Closed at the point."""

Certify = Callable[[Leaves, Multipliers], Tensor]
"""Certified margins (domains,) of leaves, by the float64 engine with the multipliers given."""


@dataclass(frozen=True, slots=True)
class _Closed:
    """Children that the search engine has closed, at most one of every leaf."""

    leaves: Leaves
    origin: Tensor  # (k,) place of the leaf in the batch that was scored
    multipliers: Multipliers

    def last(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Node, entry, sign, point and strictness (k,) of the literal that was tried."""
        own = self.leaves.literals
        here, slot = torch.arange(len(self.leaves), device=own.node.device), own.count - 1
        node, index, sign, point, strict = own.node, own.index, own.sign, own.point, own.strict
        return node[here, slot], index[here, slot], sign[here, slot], point[here, slot], strict[here, slot]

    def take(self, index: Tensor, per: int) -> _Closed:
        """Some of them, of clauses with `per` rows."""
        rows = rows_of(index, per)
        some = {v: tuple(t[rows] for t in m) for v, m in self.multipliers.items()}
        return _Closed(self.leaves.take(index), self.origin[index], some)


def _bent(graph: Graph) -> tuple[frozenset[int], frozenset[int]]:
    """Nodes that only functions with kinks read, and those that only functions of constant pieces read.

    There a split decides. A literal that only narrows a smooth function's interval costs the multipliers of its entry,
    which start anew: on small smooth networks that loses as much as it wins.
    """
    kinks: list[int] = []
    jumps: list[int] = []
    for position, readers in enumerate(graph.consumers):
        ops = [graph.nodes[r].op for r in readers if isinstance(graph.nodes[r].op, NonlinearOp)]
        if ops and all(isinstance(op, Elementwise) and op.function.piecewise_linear for op in ops):
            flat = any(isinstance(op, Elementwise) and op.function.flat for op in ops)
            (jumps if flat else kinks).append(position)
    return frozenset(kinks), frozenset(jumps)


class Tried:
    """Collects what the tries of one batch refute, and gives it to the leaves that are split then."""

    def __init__(self, certify: Certify, per: int, graph: Graph) -> None:
        """`per` rows a clause."""
        self._certify, self._per = certify, per
        self._kinks, self._jumps = _bent(graph)
        self._found: list[_Closed] = []
        self.implied = self.checked = 0

    def begin(self) -> None:
        """A new batch of leaves is scored."""
        self._found = []

    def note(self, children: Leaves, state: Optimized, margin: Tensor) -> None:
        """Both children (2 * leaves,) of one split of every leaf were bounded, with these margins."""
        half = len(children) // 2
        closed = margin > 0
        closed[half:] &= ~closed[:half]  # a leaf that both sides close is closed by splitting it here
        index = closed.nonzero().squeeze(1)
        if index.numel():
            whole = _Closed(children, torch.arange(2 * half, device=index.device) % half, state.multipliers)
            self._found.append(whole.take(index, self._per))

    def implications(self, leaves: Leaves, places: Tensor, splits: Sequence[Choice]) -> list[Literal]:
        """Literals that hold in leaves (k,), which were scored at these places (k,) and are split by these choices.

        They belong behind the splits: what all leaves below a node of the tree share then comes before what divides it.
        """
        given = torch.zeros_like(places)
        result: list[Literal] = []
        for found in self._found:
            mine, child = self._wanted(found, (leaves.literals, result), places, splits)
            few = given[mine] < MOST
            mine, child = mine[few], child[few]
            if not mine.numel():
                continue
            chosen = found.take(child, self._per)
            self.checked += int(child.numel())
            sure = (self._certify(chosen.leaves, chosen.multipliers) > 0).nonzero().squeeze(1)
            if sure.numel():
                result.append(_negated(leaves, mine[sure], chosen.take(sure, self._per)))
                given[mine[sure]] += 1
        self._found = []
        self.implied += int(given.sum())
        return result

    def _wanted(
        self, found: _Closed, own: tuple[Literals, list[Literal]], places: Tensor, splits: Sequence[Choice]
    ) -> tuple[Tensor, Tensor]:
        """Which leaves (m,) could use which closed children (m,); `own` are the literals that they have already."""
        where = torch.full((1 + int(torch.cat([found.origin, places]).max()),), -1, device=places.device)
        where[found.origin] = torch.arange(found.origin.numel(), device=places.device)
        child = where[places].clamp(min=0)
        node, index, _, point, strict = (t[child] for t in found.last())
        # At a jump only the open side of a split has a known other side.
        kinks, jumps = (
            torch.tensor(sorted(s), dtype=torch.int64, device=node.device) for s in (self._kinks, self._jumps)
        )
        here = (where[places] >= 0) & (torch.isin(node, kinks) | (strict & torch.isin(node, jumps)))
        for split in splits:  # closes one side in any case
            here &= (split.node != node) | (split.index != index)
        literals, more = own
        same = (literals.node == node.unsqueeze(1)) & (literals.index == index.unsqueeze(1))
        here &= ~(same & (literals.point == point.unsqueeze(1))).any(1)
        for added in more:
            here &= (added[0] != node) | (added[1] != index)
        mine = here.nonzero().squeeze(1)
        return mine, child[mine]


def _negated(leaves: Leaves, mine: Tensor, closed: _Closed) -> Literal:
    """For the leaves `mine` (m,) the other side of what closed children (m,) had tried; node -1 for the others."""
    node = torch.full_like(leaves.clause, -1)
    index = torch.zeros_like(leaves.clause)
    sign, point = torch.zeros_like(leaves.margin), torch.zeros_like(leaves.margin)
    tried = closed.last()
    for slot, value in ((node, tried[0]), (index, tried[1]), (sign, -tried[2]), (point, tried[3])):
        slot[mine] = value.to(slot)
    return node, index, sign, point
