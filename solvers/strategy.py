"""Chooses and schedules searches for one query by measured progress, on one clock."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from verinet.ir.graph import Graph
from verinet.ops.base import NonlinearOp
from verinet.ops.scalar import DomainError
from verinet.propagation.backward import Backward
from verinet.propagation.optimize import RowProblem, Step, optimize
from verinet.propagation.rows import RowMap
from verinet.propagation.sweep import Layers, Sweeper, SweepOptions, build_backward, ranges
from verinet.solvers.attack.pgd import Attack, AttackPlan
from verinet.solvers.branching.input_split import InputSplit
from verinet.solvers.branching.neuron_split import ClauseRows, Engines, NeuronSplit, outward
from verinet.solvers.branching.outcome import End, Offer, Outcome, Report
from verinet.solvers.query import ClauseTable, Clock, Query

INPUT_SPLIT_AXES = 64  # above this many perturbed inputs halving boxes cannot work


@dataclass(slots=True)
class Solution:
    """End of the whole search, and what was tried."""

    end: End
    gap: float | None = None
    domains: int = 0
    closed: int = 0
    open: int = 0
    trail: list[str] = field(default_factory=list)


def effective_axes(query: Query) -> int:
    """Number of inputs that really vary in some box."""
    width = (query.upper - query.lower).amax(0)
    size = torch.maximum(query.lower.abs(), query.upper.abs()).amax(0)
    return int((width > 1e-9 * size.clamp(min=1e-6)).sum())


class Strategy:
    """Solves one query. `attack_graph` is the network in its own dtype, for gradients."""

    def __init__(self, query: Query, attack_graph: Graph, offer: Offer, report: Report, seed: int) -> None:
        self.query, self.offer, self.report = query, offer, report
        self.attack = Attack(query, attack_graph, seed)
        self.solution = Solution(End.TIME)

    def solve(self, clock: Clock) -> Solution:
        """Attack, bound the root, then split; ends with everything closed, a witness, or the clock."""
        if self._quick_attack(clock):
            return self._end(End.CANDIDATE)
        axes = effective_axes(self.query)
        nonlinear = any(isinstance(n.op, NonlinearOp) for n in self.query.graph.nodes)
        if axes <= INPUT_SPLIT_AXES or self.query.boxes > 1 or not nonlinear:
            outcome = self._input_split(axes, clock)
            if outcome.end in (End.CLOSED, End.CANDIDATE) or not nonlinear:
                return self._finish(outcome)
        for query in single_boxes(self.query):
            outcome = self._neuron_split(query, clock)
            if outcome.end is not End.CLOSED:
                return self._finish(outcome)
        return self._end(End.CLOSED)

    def _quick_attack(self, clock: Clock) -> bool:
        self.report("attack", 0, 0, None)
        if self.attack.sample(self.offer, 128):
            return True
        short = clock.until(max(0.1, min(1.0, 0.05 * clock.left())))
        return self.attack.descend(AttackPlan(restarts=8, steps=15), self.offer, short)

    def _input_split(self, axes: int, clock: Clock) -> Outcome:
        """Input splitting; with many axes only for as long as it closes domains faster than it opens them."""
        self.solution.trail.append("input-split")
        backward = build_backward(self.query.graph, self.query.lower.amin(0), self.query.upper.amax(0))
        search = InputSplit(self.query, backward)
        if axes <= 12:
            return search.run(clock, self.offer, self.report)
        share = 0.3 if axes <= INPUT_SPLIT_AXES else 0.05
        return search.run(clock.until(share * clock.left()), self.offer, self.report)

    def _neuron_split(self, query: Query, clock: Clock) -> Outcome:
        self.solution.trail.append("bounds")
        root = Root(query, clock)
        open_clauses = root.bound(self.report)
        if not open_clauses:
            return Outcome(End.CLOSED, None, 1, 1, 0)
        long = clock.until(max(0.5, min(20.0, 0.1 * clock.left())))
        if self.attack.descend(AttackPlan(restarts=32, steps=60), self.offer, long):
            return Outcome(End.CANDIDATE, None, 1, 0, 0)
        self.solution.trail.append("neuron-split")
        groups: dict[int, list[ClauseRows]] = {}
        for clause in open_clauses:
            groups.setdefault(clause.count, []).append(clause)
        total = Outcome(End.CLOSED, None, 0, 0, 0)
        for clauses in groups.values():
            search = NeuronSplit(query, root.engines(), root.layers, clauses)
            outcome = search.run(clock, self.offer, self.report)
            total = Outcome(
                outcome.end, outcome.bound, total.domains + outcome.domains, total.closed + outcome.closed, outcome.open
            )
            if outcome.end is not End.CLOSED:
                return total
        return total

    def _finish(self, outcome: Outcome) -> Solution:
        solution = self.solution
        solution.gap = None if outcome.bound is None else max(0.0, -outcome.bound)
        solution.domains += outcome.domains
        solution.closed += outcome.closed
        solution.open = outcome.open
        return self._end(outcome.end)

    def _end(self, end: End) -> Solution:
        self.solution.end = end
        return self.solution


class Root:
    """Root bounds of a query with one box: intervals, rows, optimised rows, each only while clauses are open."""

    def __init__(self, query: Query, clock: Clock) -> None:
        self.query, self.clock = query, clock
        self.backward = build_backward(query.graph, query.lower[0], query.upper[0])
        self.layers = Layers(query.lower, query.upper)

    def bound(self, report: Report) -> list[ClauseRows]:
        """Tighten until every clause is refuted or the methods are used up; returns the open clauses."""
        open_clauses = _clauses(self.query.table)
        for rows, step in ((False, None), (True, None), (True, Step(iterations=20))):
            if self.clock.over():
                break
            options = SweepOptions(rows=rows, step=step, deadline=self.clock.over)
            known = self.layers.known or None
            try:
                self.layers = Sweeper(self.backward).sweep(self.query.lower, self.query.upper, options, known)
            except DomainError:
                if rows:  # intervals alone may leave a function's domain; rows must not
                    raise
                continue
            self._tighten_charge()
            open_clauses = self._open(open_clauses, Step(iterations=0 if not rows else 30))
            report("bounds", len(open_clauses), len(_clauses(self.query.table)) - len(open_clauses), None)
            if not open_clauses:
                break
        return open_clauses

    def engines(self) -> Engines:
        """A float32 engine to search with beside the float64 one that decides."""
        single = self.query.graph.to(torch.float32, self.query.lower.device)
        sizes = ranges(self.query.graph, self.query.lower, self.query.upper, self.layers.known)
        return Engines(Backward(single, [outward(pair, torch.float32) for pair in sizes]), self.backward)

    def _tighten_charge(self) -> None:
        """Better ranges make a smaller rounding charge."""
        self.backward = Backward(
            self.query.graph, ranges(self.query.graph, self.query.lower, self.query.upper, self.layers.known)
        )

    def _open(self, clauses: list[ClauseRows], step: Step) -> list[ClauseRows]:
        table = self.query.table
        ids = torch.cat([torch.arange(c.first, c.first + c.count) for c in clauses]).to(table.weights.device)
        still: list[ClauseRows] = []
        if not ids.numel():
            return clauses
        owners = RowMap.regular(1, ids.numel(), ids.device)
        problem = RowProblem(
            self.query.graph.output, table.weights[ids], owners, self.query.lower, self.query.upper, self.layers.known
        )
        done: Callable[[Tensor], bool] = lambda bound: bool((bound > table.bounds[ids]).all()) or self.clock.over()  # noqa: E731
        best = optimize(problem, self.backward, step=step, finished=done)
        margins = table.margins(ids, best.bound, self.backward.output_size())
        cursor = 0
        for clause in clauses:
            part = margins[cursor : cursor + clause.count]
            cursor += clause.count
            if not bool((part > 0).any()):
                still.append(clause)
        return still


def _clauses(table: ClauseTable) -> list[ClauseRows]:
    """All clauses of a single-box table."""
    counts = torch.bincount(table.clause, minlength=int(table.clauses[0])).tolist()
    result, first = [], 0
    for count in counts:
        result.append(ClauseRows(0, first, count))
        first += count
    return result


def single_boxes(query: Query) -> Iterator[Query]:
    """One query per box."""
    for box in range(query.boxes):
        first, last = int(query.table.starts[box]), int(query.table.starts[box + 1])
        table = query.table
        part = ClauseTable(
            table.weights[first:last],
            table.bounds[first:last],
            table.strict[first:last],
            table.weight_error,
            table.clause[first:last],
            torch.tensor([0, last - first], device=table.starts.device),
            table.clauses[box : box + 1],
        )
        yield replace(query, lower=query.lower[box : box + 1], upper=query.upper[box : box + 1], table=part)
