"""Sharper layer bounds for nodes of the search tree, top down, where the search below them has cost enough.

Layer bounds of a node of the tree hold for everything below it. So when the search below an anchor has cost as much as
sharpening would, the anchor's two children become anchors: their bounds are tightened under the clause and their split
literals, and every open leaf below takes them over; a refuted child closes all its leaves at once.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from verinet.solvers.branching.gauge import WORTHWHILE, Gauge
from verinet.solvers.branching.influence import Weights, together
from verinet.solvers.branching.leaves import Anchors, Leaves
from verinet.solvers.branching.splits import Literals
from verinet.solvers.branching.tighten import Part, Tightener
from verinet.solvers.query import Clock, Query

from verinet.propagation.sweep import Layers

MOST_ANCHORS = 64  # sets of layer bounds kept without looking which are still in use

NEVER = 1 << 30
_SAME = ("node", "index", "sign", "point", "strict")  # what makes two literals one


@dataclass(frozen=True, slots=True)
class _Result:
    """What rounds for one node of the tree came to."""

    refuted: bool
    number: int | None  # of the new anchor
    won: float  # part of the missing margin


class Search(Protocol):
    """What sharpening asks of the search."""

    query: Query
    anchors: Anchors
    gauge: Gauge

    def exact_sweep(self, leaves: Leaves) -> Layers: ...

    def part(self, leaves: Leaves) -> Part: ...

    def weighed(self, leaves: Leaves) -> tuple[Tensor, Weights]: ...


class Deepener:
    """Moves open leaves to sharper anchors when that is due."""

    def __init__(self, search: Search, tightener: Tightener) -> None:
        self.search, self.tightener = search, tightener
        self._passed: Weights = {}  # by the rows of the last round, wherever it was

    def sharpen(self, piles: list[list[Leaves]], clock: Clock) -> int:
        """Do what is due for the leaves of all piles, in place; returns how many leaves that closed."""
        parts = [part for pile in piles for part in pile]
        if not parts:
            return 0
        closed = 0
        for anchor in self.search.gauge.due(torch.cat([p.anchor for p in parts])).tolist():
            if clock.over():
                break
            closed += self._divide(anchor, parts)
        if closed:
            for pile in piles:
                pile[:] = [q for q in (p.take(p.anchor >= 0) for p in pile) if len(q)]
        parts = [part for pile in piles for part in pile]
        if parts and len(self.search.anchors) > MOST_ANCHORS + 2 * sum(len(p) for p in parts):
            self.search.gauge.keep(self.search.anchors.compact(parts))
        return closed

    def _divide(self, anchor: int, parts: list[Leaves]) -> int:
        """Anchors for the two children of an anchor, or for itself where that is a clause not yet sharpened."""
        mine = [(p, p.anchor == anchor) for p in parts]
        prefix = self.search.anchors.prefix[anchor]
        if prefix < 0:
            return self._renew(anchor, mine, 0)
        column = min((_next_column(p, m, prefix) for p, m in mine), default=NEVER)
        if column == NEVER:  # the node itself is a leaf
            self.search.gauge.settle(anchor, 0, 0.0)
            return 0
        closed = 0
        for sign in (1.0, -1.0):
            closed += self._renew(anchor, [(p, m & _signed(p, column, sign)) for p, m in mine], column + 1)
        return closed

    def _renew(self, anchor: int, group: list[tuple[Leaves, Tensor]], prefix: int) -> int:
        """Give the leaves (masks over parts) below one node sharper bounds, or close them."""
        one = next((p.take(m.nonzero()[:1].squeeze(1)) for p, m in group if bool(m.any())), None)
        if one is None:
            return 0
        # Closed siblings need nothing: what all open leaves share is known at the node that is sharpened.
        prefix = _common(group, one.literals, prefix)
        # Bounds that the leaf has of its own hold below the leaf, not at the node of the tree above it.
        one.literals, one.warm, one.parent, one.inner = one.literals.first(prefix), None, None, None
        group = [(p, m & _below(p, one.literals)) for p, m in group]
        begin = time.monotonic()
        result = self._rounds(one, prefix)
        self.search.gauge.tightened(time.monotonic() - begin)
        self.search.gauge.settle(anchor, 0 if result.number is None else 1, result.won)
        closed = 0
        for part, mask in group:
            if result.refuted:
                part.anchor[mask] = -1
                closed += int(mask.sum())
            elif result.number is not None:
                part.anchor[mask] = result.number
        return closed

    def _rounds(self, root: Leaves, prefix: int) -> _Result:
        """Rounds for one node of the tree while each wins a good part of what is missing."""
        search = self.search
        margin, weights = search.weighed(root)
        first = last = float(margin)
        number: int | None = None
        clock = search.query.clock.until(search.gauge.allowance())
        while not last > 0:
            if clock.over():
                return _Result(False, number, 0.0)
            exact = search.exact_sweep(root)
            done = self.tightener.round(search.part(root), exact.known, clock, together(weights, self._passed))
            self._passed = done.passed
            if bool((done.refuted | exact.infeasible).any()):
                return _Result(True, number, 1.0)
            if number is None:
                number = search.anchors.add(done.known, prefix)
                root.anchor = torch.full_like(root.anchor, number)
            else:
                search.anchors.put(number, done.known)
            margin, weights = search.weighed(root)
            won, last = (float(margin) - last) / max(-last, 1e-12), float(margin)
            if won < WORTHWHILE:
                return _Result(last > 0, number, (last - first) / max(-first, 1e-12))
        return _Result(True, number, 1.0)


def _next_column(part: Leaves, mask: Tensor, prefix: int) -> int:
    """The column of the first literal after the prefix in some of the leaves: the node's own split."""
    used = (part.literals.node[mask, prefix:] >= 0).any(0).nonzero()
    return prefix + int(used[0]) if used.numel() else NEVER


def _below(part: Leaves, node: Literals) -> Tensor:
    """Leaves that have all literals of one node of the tree (a single row) in its columns."""
    own = part.literals.padded(node.depth).first(node.depth)
    pairs = ((getattr(own, f), getattr(node, f)) for f in _SAME)
    same = torch.stack([(mine == its).all(1) for mine, its in pairs])
    return same.all(0)


def _common(group: list[tuple[Leaves, Tensor]], one: Literals, prefix: int) -> int:
    """How many leading literals of one leaf all leaves of a group have, at least `prefix`."""
    shared = int((one.node[0] >= 0).sum())
    for part, mask in group:
        own = part.literals.take(mask).padded(shared).first(shared)
        pairs = ((getattr(own, f), getattr(one, f)) for f in _SAME)
        same = torch.stack([(mine == its[:, :shared]).all(0) for mine, its in pairs]).all(0)
        shared = int(same.long().cumprod(0).sum())
    return max(prefix, shared)


def _signed(part: Leaves, column: int, sign: float) -> Tensor:
    """Leaves whose literal in this column exists and has this sign."""
    literals = part.literals
    if literals.depth <= column:
        return torch.zeros_like(part.anchor, dtype=torch.bool)
    return (literals.node[:, column] >= 0) & (literals.sign[:, column] == sign)
