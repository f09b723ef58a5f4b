"""Learned clauses: sets of split literals that cannot all hold where a clause of the property is violated.

A set comes from a closed leaf and holds for the whole box of its clause, so it says something about every other leaf:
one in which all literals of a set hold is closed, and where all but one hold the last one does not (unit propagation,
as in SAT solvers; for neurons e.g. NeuralSAT, Duong et al. 2023, and the cuts of BICCOS, Zhou et al. 2024).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from verinet.solvers.branching.splits import Literals

from verinet.propagation.ends import HalfOpen
from verinet.propagation.interval import Interval

MOST = 1024  # sets that are kept; the shortest, which rule out most, stay

Key = tuple[int, int, float, float, bool]
"""Node, entry, sign, point and strictness of a literal."""


@dataclass(frozen=True, slots=True)
class Told:
    """What the sets say about some leaves."""

    closed: Tensor  # (domains,) all literals of a set hold
    votes: Tensor  # (domains, literals) how many sets leave only this literal, which therefore does not hold


class LearnedClauses:
    """Infeasible sets of literals, looked up for batches of leaves by one matrix product."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._sets: list[tuple[int, frozenset[Key]]] = []  # number of the property's clause, literals
        self._known: set[tuple[int, frozenset[Key]]] = set()
        self._stale = False
        self.keys: list[Key] = []  # the literals in use, the columns of all tables
        self._within = torch.zeros(0, 0, device=device)  # (sets, literals) 1 where it is one of the set
        self._clause = torch.zeros(0, dtype=torch.int64, device=device)

    def __len__(self) -> int:
        return len(self._sets)

    @property
    def sets(self) -> list[tuple[int, frozenset[Key]]]:
        """Number of the clause and literals of every set."""
        return list(self._sets)

    def add(self, clause: int, literals: frozenset[Key]) -> bool:
        """Remember one infeasible set; False where that says nothing new."""
        entry = (clause, literals)
        if entry in self._known or any(c == clause and old <= literals for c, old in self._sets):
            return False
        self._sets = [(c, old) for c, old in self._sets if not (c == clause and literals <= old)]
        self._sets.append(entry)
        if len(self._sets) > MOST:
            self._sets = sorted(self._sets, key=lambda s: len(s[1]))[: MOST // 2]
        self._known, self._stale = set(self._sets), True
        return True

    def nodes(self) -> frozenset[int]:
        """Nodes that some literal is about."""
        return frozenset(key[0] for _, literals in self._sets for key in literals)

    def tell(self, clause: Tensor, known: dict[int, Interval]) -> Told:
        """`known` are certified bounds (domains, *shape) of leaves of these property clauses (domains,)."""
        self._refresh()
        held, open_ = self._states(known, int(clause.numel()))
        size = self._within.sum(1)
        missing = size - held.to(self._within) @ self._within.T
        mine = clause.unsqueeze(1) == self._clause
        closed = (mine & (missing == 0)).any(1)
        # Where the last literal is refuted already there is nothing to learn.
        units = mine & (missing == 1) & (open_.to(self._within) @ self._within.T == 1)
        votes = (units.to(self._within) @ self._within) * open_
        return Told(closed, votes)

    def literal(self, column: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Node, entry, sign, point and strictness (k,) of some columns (k,)."""
        keys = [self.keys[c] for c in column.tolist()]
        numbers = [torch.tensor([k[i] for k in keys], dtype=torch.int64, device=self._device) for i in (0, 1)]
        reals = [torch.tensor([k[i] for k in keys], dtype=torch.float64, device=self._device) for i in (2, 3)]
        strict = torch.tensor([k[4] for k in keys], dtype=torch.bool, device=self._device)
        return numbers[0], numbers[1], reals[0], reals[1], strict

    def _refresh(self) -> None:
        if not self._stale:
            return
        self.keys = sorted({key for _, literals in self._sets for key in literals})
        column = {key: place for place, key in enumerate(self.keys)}
        within = torch.zeros(len(self._sets), len(self.keys), device=self._device)
        for row, (_, literals) in enumerate(self._sets):
            within[row, [column[key] for key in literals]] = 1.0
        self._within = within
        self._clause = torch.tensor([c for c, _ in self._sets], dtype=torch.int64, device=self._device)
        self._stale = False

    def _states(self, known: dict[int, Interval], domains: int) -> tuple[Tensor, Tensor]:
        """Which literals hold everywhere in the leaves, and which are undecided, (domains, literals) each."""
        held = torch.zeros(domains, len(self.keys), dtype=torch.bool, device=self._device)
        open_ = torch.zeros_like(held)
        node, entry, sign, point, strict = self.literal(torch.arange(len(self.keys)))
        for number in node.unique().tolist():
            here = (node == number).nonzero().squeeze(1)
            pair = known[number]
            low, high = (side.reshape(domains, -1)[:, entry[here]] for side in pair)
            at_low, at_high = _open_ends(pair, entry[here])
            up, p, beyond = sign[here] > 0, point[here], strict[here]
            above = (low > p) | ((low == p) & (~beyond | at_low))
            below = (high < p) | ((high == p) & (~beyond | at_high))
            held[:, here] = torch.where(up, above, below)
            # A literal that only its own point could satisfy counts as refuted: nothing is derived from it.
            open_[:, here] = torch.where(up, high > p, low < p) & ~held[:, here]
        return held, open_


def keys_of(literals: Literals, domain: int) -> list[Key]:
    """The literals of one domain."""
    count = int((literals.node[domain] >= 0).sum())
    columns = (literals.node, literals.index, literals.sign, literals.point, literals.strict)
    rows = zip(*(c[domain, :count].tolist() for c in columns), strict=True)
    return [(int(n), int(i), float(s), float(p), bool(x)) for n, i, s, p, x in rows]


def _open_ends(pair: Interval, entry: Tensor) -> Interval:
    """Masks (domains, k) of the lower and upper ends that are not reached."""
    if not isinstance(pair, HalfOpen):
        nothing = torch.zeros((), dtype=torch.bool, device=entry.device)
        return nothing, nothing
    domains = pair[0].shape[0]
    return pair.open_low.reshape(domains, -1)[:, entry], pair.open_high.reshape(domains, -1)[:, entry]
