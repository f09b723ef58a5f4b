"""The searches that the strategy can give time to, each resumable and with an estimate of the time it still needs."""

from __future__ import annotations

import time
from typing import Protocol

from verinet.solvers.branching.input_split import InputSplit, RowChoice
from verinet.solvers.branching.leaves import ClauseRows
from verinet.solvers.branching.neuron_split import NeuronSplit
from verinet.solvers.branching.outcome import End, Offer, Outcome, Report
from verinet.solvers.conjunction import as_maximum, is_conjunction
from verinet.solvers.pieces import Outside, Piece, Waiting, groups_by_axes, single_boxes
from verinet.solvers.query import Clock, Query
from verinet.solvers.root import Root

from verinet.numerics.memory import out_of_memory
from verinet.ops.scalar import DomainError
from verinet.propagation.sweep import build_backward


class Arm(Protocol):
    """A resumable search."""

    name: str

    def run(self, clock: Clock) -> Outcome:
        """Go on until the clock is over or the search ends."""
        ...

    @property
    def closed_mass(self) -> float:
        """Share of the search tree that is closed, between 0 and 1."""
        ...

    @property
    def outside(self) -> Outside | None:
        """An input at which the network has no value, once one was met."""
        ...


class Meter:
    """Seconds given to an arm and what they closed."""

    def __init__(self, arm: Arm) -> None:
        self.arm, self.seconds, self.outcome = arm, 0.0, Outcome(End.TIME, None, 0, 0, 0)
        self._recent: list[tuple[float, float]] = [(0.0, 0.0)]

    def run(self, clock: Clock) -> Outcome:
        """One slice of time. An arm whose tensors do not fit ends; the others may still go on."""
        begin = time.monotonic()
        try:
            self.outcome = self.arm.run(clock)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            last = self.outcome
            self.outcome = Outcome(End.MEMORY, last.bound, last.domains, last.closed, last.open)
        self.seconds += time.monotonic() - begin
        self._recent.append((self.seconds, self.arm.closed_mass))
        return self.outcome

    @property
    def time_to_close(self) -> float:
        """Seconds still needed at the rate of the last two runs; infinite while nothing closes."""
        before = self._recent[max(0, len(self._recent) - 3)]
        seconds, mass = self._recent[-1]
        gained = mass - before[1]
        return (1.0 - mass) * (seconds - before[0]) / gained if gained > 0 else float("inf")


class InputArm:
    """Input splitting on all boxes, one group of boxes that vary along the same axes after the other."""

    name = "input-split"

    def __init__(self, query: Query, offer: Offer, report: Report) -> None:
        self._offer, self._report = offer, report
        groups = groups_by_axes(query)[::-1]
        self._waiting = Waiting((Piece(q, q.boxes / query.boxes) for q in groups), query.boxes)
        self._piece: Piece | None = None
        self._search: InputSplit | None = None
        self._choice: RowChoice | None = None
        self._domains = self._closed = 0

    def run(self, clock: Clock) -> Outcome:
        while True:
            if self._piece is None:
                if clock.over():
                    return self._outcome(End.TIME, None, 0)
                self._piece = self._waiting.take()
            if self._piece is None:
                return self._outcome(End.STALLED if self._waiting.aside else End.CLOSED, None, 0)
            try:
                outcome = self._searching(self._piece, clock).run(clock, self._offer, self._report)
            except DomainError:
                self._leave()
                self._waiting.divide(self._piece)
                self._piece = None
                continue
            if outcome.end in (End.TIME, End.CANDIDATE):
                return self._outcome(outcome.end, outcome.bound, outcome.open)
            if outcome.end is End.CLOSED:
                self._waiting.close(self._piece)
            else:
                self._waiting.put_aside(outcome.bound)
            self._leave()
            self._piece = None

    @property
    def active(self) -> InputSplit | None:
        """The search at hand, for those who take over its open domains."""
        return self._search

    def put_back(self, search: InputSplit) -> None:
        """Go on with this search in place of the one at hand."""
        self._search = search

    def _searching(self, piece: Piece, clock: Clock) -> InputSplit:
        """The search of the piece at hand. Raises `DomainError` where its bounds leave a function's domain."""
        if self._search is None:
            query = piece.query
            backward = build_backward(query.graph, query.lower.amin(0), query.upper.amax(0), clock.over)
            # What one group has shown about rows holds for the next one of the same network.
            self._search = InputSplit(query, backward, choice=self._choice)
            self._choice = self._search.choice
        return self._search

    def _leave(self) -> None:
        """The search of this piece goes no further."""
        if self._search is not None:
            self._domains, self._closed = self._domains + self._search.made, self._closed + self._search.closed
            self._search = None

    def _outcome(self, end: End, bound: float | None, still_open: int) -> Outcome:
        made, closed = (0, 0) if self._search is None else (self._search.made, self._search.closed)
        worst = _least(bound, self._waiting.worst)
        return Outcome(end, worst, self._domains + made, self._closed + closed, still_open + self._waiting.open)

    @property
    def closed_mass(self) -> float:
        inside = 0.0 if self._search is None or self._piece is None else self._search.closed_mass * self._piece.mass
        return self._waiting.closed_mass + inside

    @property
    def outside(self) -> Outside | None:
        return self._waiting.outside


class NeuronArm:
    """Root bounds and neuron splitting, box by box and group of clauses by group."""

    name = "neuron-split"

    def __init__(self, query: Query, offer: Offer, report: Report) -> None:
        self._query, self._offer, self._report = query, offer, report
        self._waiting = Waiting((Piece(q, 1.0 / query.boxes) for q in single_boxes(query)), query.boxes)
        self._piece: Piece | None = None
        self._searches: list[NeuronSplit] = []  # of the box at hand, which is done when there are none
        self._stuck: list[float | None] = []  # worst margins of its searches that ended without an answer
        self._domains = self._closed = 0

    def run(self, clock: Clock) -> Outcome:
        while True:
            if self._piece is None:
                if clock.over():
                    return self._outcome(End.TIME, None)
                self._piece = self._waiting.take()
            if self._piece is None:
                return self._outcome(End.STALLED if self._waiting.aside else End.CLOSED, None)
            try:
                outcome = self._bounded(self._piece, clock)
            except DomainError:
                self._waiting.divide(self._piece)
                self._piece, self._searches, self._stuck = None, [], []
                continue
            if outcome is not None:
                return outcome
            if self._stuck:
                self._waiting.put_aside(_least(*self._stuck))
            else:
                self._waiting.close(self._piece)
            self._piece, self._stuck = None, []

    @property
    def active(self) -> NeuronSplit | None:
        """The search at hand, for those who take over its open domains."""
        return self._searches[-1] if self._searches else None

    def put_back(self, search: NeuronSplit) -> None:
        """Go on with this search in place of the one at hand."""
        self._searches[-1] = search

    def _bounded(self, piece: Piece, clock: Clock) -> Outcome | None:
        """Work on one box; None when nothing is left to do for it."""
        if not self._searches:
            if clock.over():
                return self._outcome(End.TIME, None)
            late = self._prepare(piece)
            if late is not None:
                return late
        while self._searches:
            outcome = self._searches[-1].run(clock, self._offer, self._report)
            if outcome.end in (End.TIME, End.CANDIDATE):
                return self._outcome(outcome.end, outcome.bound)
            self._domains += outcome.domains
            self._closed += outcome.closed
            self._searches.pop()
            if outcome.end is not End.CLOSED:
                self._stuck.append(outcome.bound)
        return None

    def _prepare(self, piece: Piece) -> Outcome | None:
        """Bound one box at its root, and set up searches for all clauses that stay open; an outcome if time is over."""
        root = Root(as_maximum(piece.query) if is_conjunction(piece.query) else piece.query, self._query.clock)
        groups: dict[int, list[ClauseRows]] = {}
        for clause in root.bound(self._report):
            groups.setdefault(clause.count, []).append(clause)
        if groups and self._query.clock.over():
            return self._outcome(End.TIME, root.worst)
        if groups.pop(0, None):
            self._stuck.append(None)  # a clause without rows holds for every output: only a witness can settle it
        for clauses in groups.values():
            search = NeuronSplit(root.query, root.engines(), root.layers, clauses, warm=root.warm(clauses))
            self._searches.append(search)
        return None

    def _outcome(self, end: End, bound: float | None) -> Outcome:
        made, closed = sum(s.made for s in self._searches), sum(s.closed for s in self._searches)
        still_open = self._waiting.open + sum(s.open for s in self._searches)
        worst = _least(bound, *self._stuck, self._waiting.worst)
        domains, all_closed = self._domains + made, self._closed + closed
        if end is End.CLOSED:  # a box that its root bounds close is a subproblem as well
            domains, all_closed = max(1, domains), max(1, all_closed)
        return Outcome(end, worst, domains, all_closed, still_open)

    @property
    def closed_mass(self) -> float:
        inside = 0.0
        if self._piece is not None and self._searches and not self._stuck:
            inside = min(s.closed_mass for s in self._searches) * self._piece.mass
        return self._waiting.closed_mass + inside

    @property
    def outside(self) -> Outside | None:
        return self._waiting.outside


def _least(*bounds: float | None) -> float | None:
    return min((b for b in bounds if b is not None), default=None)
