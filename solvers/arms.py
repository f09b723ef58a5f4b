"""The searches that the strategy can give time to, each resumable and with an estimate of the time it still needs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor
from verinet.solvers.branching.input_split import InputSplit, RowChoice
from verinet.solvers.branching.leaves import ClauseRows
from verinet.solvers.branching.neuron_split import NeuronSplit
from verinet.solvers.branching.outcome import End, Offer, Outcome, Report
from verinet.solvers.conjunction import as_maximum, is_conjunction
from verinet.solvers.query import ClauseTable, Clock, Query
from verinet.solvers.root import Root

from verinet.ops.scalar import DomainError
from verinet.propagation.sweep import build_backward

MAX_KINDS = 32  # more groups of boxes than this would make batches too small


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


class Meter:
    """Seconds given to an arm and what they closed."""

    def __init__(self, arm: Arm) -> None:
        self.arm, self.seconds, self.outcome = arm, 0.0, Outcome(End.TIME, None, 0, 0, 0)
        self._recent: list[tuple[float, float]] = [(0.0, 0.0)]

    def run(self, clock: Clock) -> Outcome:
        begin = time.monotonic()
        self.outcome = self.arm.run(clock)
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
        self._query, self._offer, self._report = query, offer, report
        self._waiting = groups_by_axes(query)
        self._total = query.boxes
        self._boxes_left = query.boxes
        self._search: InputSplit | None = None
        self._choice: RowChoice | None = None
        self._domains = self._closed = 0

    def run(self, clock: Clock) -> Outcome:
        while True:
            try:
                outcome = self._step(clock)
            except DomainError:
                return Outcome(End.STALLED, None, self._domains, self._closed, self._boxes_left)
            if outcome is not None:
                return outcome

    def _step(self, clock: Clock) -> Outcome | None:
        """Run the current group; None when it is closed and another one waits."""
        if self._search is None:
            query = self._waiting.pop()
            backward = build_backward(query.graph, query.lower.amin(0), query.upper.amax(0))
            # What one group has shown about rows holds for the next one of the same network.
            self._search = InputSplit(query, backward, choice=self._choice)
            self._choice = self._search.choice
        search = self._search
        outcome = search.run(clock, self._offer, self._report)
        done, closed = self._domains + outcome.domains, self._closed + outcome.closed
        if outcome.end is not End.CLOSED or not self._waiting:
            waiting = sum(q.boxes for q in self._waiting)
            return Outcome(outcome.end, outcome.bound, done, closed, outcome.open + waiting)
        self._domains, self._closed = done, closed
        self._boxes_left -= search.query.boxes
        self._search = None
        return None

    @property
    def closed_mass(self) -> float:
        inside = 0.0 if self._search is None else self._search.closed_mass * self._search.query.boxes
        return (self._total - self._boxes_left + inside) / self._total


class NeuronArm:
    """Root bounds and neuron splitting, box by box and group of clauses by group."""

    name = "neuron-split"

    def __init__(self, query: Query, offer: Offer, report: Report) -> None:
        self._query, self._offer, self._report = query, offer, report
        self._waiting = single_boxes(query)
        self._left = query.boxes
        self._searches: list[NeuronSplit] = []
        self._root: Root | None = None
        self._domains = self._closed = 0

    def run(self, clock: Clock) -> Outcome:
        try:
            return self._run(clock)
        except DomainError:
            return Outcome(End.STALLED, None, self._domains, self._closed, self._left)

    def _run(self, clock: Clock) -> Outcome:
        while True:
            if self._searches:
                outcome = self._searches[-1].run(clock, self._offer, self._report)
                if outcome.end is not End.CLOSED:
                    open_domains = sum(s.open for s in self._searches)
                    return Outcome(
                        outcome.end,
                        outcome.bound,
                        self._domains + outcome.domains,
                        self._closed + outcome.closed,
                        open_domains,
                    )
                self._domains += outcome.domains
                self._closed += outcome.closed
                self._searches.pop()
                continue
            outcome_or_none = self._next_box(clock)
            if outcome_or_none is not None:
                return outcome_or_none

    def _next_box(self, clock: Clock) -> Outcome | None:
        """Bound the next box and set up its searches; an outcome only when there is nothing more to do or no time."""
        if clock.over():
            return Outcome(End.TIME, self._bound(), self._domains, self._closed, self._left)
        if self._root is None:
            query = next(self._waiting, None)
            if query is None:
                return Outcome(End.CLOSED, None, max(1, self._domains), max(1, self._closed), 0)
            query = as_maximum(query) if is_conjunction(query) else query
            self._root = Root(query, self._query.clock)
        open_clauses = self._root.bound(self._report)
        if any(clause.count == 0 for clause in open_clauses):
            # A clause without rows holds for every output: only a witness can settle it.
            return Outcome(End.STALLED, None, self._domains, self._closed, self._left)
        groups: dict[int, list[ClauseRows]] = {}
        for clause in open_clauses:
            groups.setdefault(clause.count, []).append(clause)
        for clauses in groups.values():
            self._searches.append(NeuronSplit(self._root.query, self._root.engines(), self._root.layers, clauses))
        self._root = None
        self._left -= 1
        return None

    def _bound(self) -> float | None:
        return None if self._root is None else self._root.worst

    @property
    def closed_mass(self) -> float:
        total = self._query.boxes
        done = total - self._left - (1 if self._searches else 0)
        inside = min((s.closed_mass for s in self._searches), default=0.0)
        return (done + inside) / total


def single_boxes(query: Query) -> Iterator[Query]:
    """One query per box."""
    for box in range(query.boxes):
        yield select_boxes(query, torch.tensor([box], device=query.lower.device))


def select_boxes(query: Query, boxes: Tensor) -> Query:
    """The query on some of its boxes (numbers in ascending order)."""
    table = query.table
    counts = (table.starts[boxes + 1] - table.starts[boxes]).cpu()
    pieces = [torch.arange(int(table.starts[b]), int(table.starts[b + 1])) for b in boxes.tolist()]
    rows = torch.cat(pieces).to(boxes.device)
    part = ClauseTable(
        table.weights[rows],
        table.bounds[rows],
        table.strict[rows],
        table.weight_error,
        table.clause[rows],
        torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)]).to(boxes.device),
        table.clauses[boxes],
    )
    return replace(query, lower=query.lower[boxes], upper=query.upper[boxes], table=part)


def groups_by_axes(query: Query) -> list[Query]:
    """Queries whose boxes vary along the same inputs, largest last; the query itself where there are many kinds."""
    width = query.upper - query.lower
    size = torch.maximum(query.lower.abs(), query.upper.abs()).clamp(min=1e-6)
    kinds, member = (width > 1e-9 * size).unique(dim=0, return_inverse=True)
    if not 1 < len(kinds) <= MAX_KINDS:
        return [query]
    groups = [select_boxes(query, (member == kind).nonzero().squeeze(1)) for kind in range(len(kinds))]
    return sorted(groups, key=lambda q: q.boxes)
