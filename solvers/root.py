"""Root bounds of a query with one box: intervals, rows, optimised rows, each only while clauses are open."""

from __future__ import annotations

import time
from dataclasses import replace

import torch
from torch import Tensor
from verinet.solvers.branching.leaves import ClauseRows, Engines
from verinet.solvers.branching.outcome import Report
from verinet.solvers.correlated import with_hulls
from verinet.solvers.engines import paired
from verinet.solvers.entries import Entries
from verinet.solvers.query import ClauseTable, Clock, Query

from verinet.errors import InternalError
from verinet.ops.scalar import DomainError, Elementwise
from verinet.propagation.backward import Backward
from verinet.propagation.interval import Interval
from verinet.propagation.optimize import Multipliers, RowProblem, Step, optimize
from verinet.propagation.rows import RowMap
from verinet.propagation.sweep import Layers, Sweeper, SweepOptions, build_backward, ranges

LONG = Step(iterations=60, rate=0.2, decay=0.98)
"""Smooth functions: on eran's sigmoid 6x200 this takes the least margin from -3.9 to -1.1, where 20 more steps of the
usual length take it to -3.8."""
SHORT = 20
"""Steps of the first stage that has any; rows once more, before it, have to be cheap next to what it may take."""
SHORT_SHARE = 0.4
"""Fewer steps where so many would take more than this share of the time left."""
STEP_COST = 2.5
"""What a step costs, in passes of rows alone."""
LEAST = 3
"""With fewer steps than this the tree begins instead."""
NEARLY = 0.1
"""Part of the first gap that may be left where the tree begins instead."""
LONG_COST, LONG_SHARE = 3.0, 0.2
"""It costs about this many times the stage before, and is tried if that is at most this share of the time left."""


class Root:
    """Root bounds of a query with one box: intervals, rows, optimised rows, each only while clauses are open."""

    def __init__(self, query: Query, clock: Clock) -> None:
        self.query, self.clock = query, clock
        self.backward = build_backward(query.graph, query.lower[0], query.upper[0], clock.over)
        self.layers = Layers(query.lower, query.upper)
        self._output: Interval = (query.lower[:, :0], query.upper[:, :0])
        self.worst: float | None = None
        self._spent = self._swept = 0.0  # seconds of the last stage, and of its inner rows alone
        self._before: float | None = None  # worst margin of the stage before
        self._ids: Tensor | None = None  # the rows, ascending, whose multipliers `_best` holds
        self._best: Multipliers = {}

    @classmethod
    def resumed(cls, query: Query, clock: Clock, layers: Layers) -> Root:
        """With layer bounds that another root of the same query has found."""
        root = cls(query, clock)
        root.layers = layers
        root._tighten_charge()
        return root

    def bound(self, report: Report) -> list[ClauseRows]:
        """Tighten until every clause is refuted or the methods are used up; returns the open clauses."""
        open_clauses = _clauses(self.query.table)
        stages = self._stages()
        while stages:
            rows, step = stages.pop(0)
            step = self._affordable(step)
            if self.clock.over() or (step is not None and step.iterations < LEAST):
                break
            begin = time.monotonic()
            options = SweepOptions(rows=rows, step=step, deadline=self.clock.over)
            known = self.layers.known or None
            try:
                self.layers = Sweeper(self.backward).sweep(self.query.lower, self.query.upper, options, known)
            except DomainError:
                if rows:  # intervals alone may leave a function's domain; rows must not
                    raise
                continue
            if bool(self.layers.infeasible.any()):
                raise InternalError(
                    "lower bounds above upper bounds inside the network; please report this model and property"
                )
            self._swept = time.monotonic() - begin
            self._tighten_charge()
            if rows and step is None:
                self._decide_entries(report)
            self._before = self.worst
            last = Step(iterations=30 if rows else 0) if step is None else LONG  # few rows, next to those inside
            open_clauses = self._open(open_clauses, last)
            report("bounds", len(open_clauses), len(_clauses(self.query.table)) - len(open_clauses), self.worst)
            self._spent = time.monotonic() - begin
            if not open_clauses:
                break
            if rows and self._goes_on(stages) and self._correlate() and step is None:
                if self._spent * SHORT < self.clock.left():
                    stages.insert(0, (True, None))  # what products know narrows later layers, and so what others know
        return open_clauses

    def _goes_on(self, stages: list[tuple[bool, Step | None]]) -> bool:
        """Whether another stage follows: what it would find is lost on multipliers of another kind."""
        step = self._affordable(stages[0][1]) if stages else None
        return step is not None and step.iterations >= LEAST

    def warm(self, clauses: list[ClauseRows]) -> Multipliers | None:
        """The multipliers that the last stage has found for the rows of some open clauses, in their order."""
        if self._ids is None:
            return None
        return self._multipliers(torch.cat([torch.arange(c.first, c.first + c.count) for c in clauses]).to(self._ids))

    def _affordable(self, step: Step | None) -> Step | None:
        """The steps of a stage, as many as time allows: a stage that the clock ends has won nothing."""
        if step is None:
            return None
        left = self.clock.left()
        if step is LONG:
            return LONG if self._spent * LONG_COST <= LONG_SHARE * left else replace(step, iterations=0)
        most = SHORT_SHARE * left / max(STEP_COST * self._swept, 1e-6)
        if self.worst is None or self._before is None or self.worst < NEARLY * self._before:
            return step  # a tree would begin far from closing
        return step if most >= step.iterations else replace(step, iterations=int(most))

    def _correlate(self) -> bool:
        """Tell products what the bounds at hand say about their factors (`correlated`); whether any is told first."""
        query, known = self.query, self.layers.known
        if query.boxes != 1:  # what is told holds on one box alone
            return False
        sizes = ranges(query.graph, query.lower, query.upper, known, self.clock.over)
        graph = with_hulls(query.graph, sizes, known, self.clock.over)
        if graph is query.graph:
            return False
        changed = any(type(a.op) is not type(b.op) for a, b in zip(graph.nodes, query.graph.nodes, strict=True))
        self.query = replace(query, graph=graph)
        self._tighten_charge()
        if changed:  # multipliers are of another kind, and operators may read more nodes
            self._ids = None
            options = SweepOptions(rows=False)
            self.layers = Sweeper(self.backward).sweep(query.lower, query.upper, options, known)
        return changed

    def _decide_entries(self, report: Report) -> None:
        """Where steps over a grid are counted, search the pixels one by one, and carry on what that decides."""
        query = self.query
        if Entries(query, self.backward, self.layers, self.clock).decide(report):
            options = SweepOptions(rows=False)
            self.layers = Sweeper(self.backward).sweep(query.lower, query.upper, options, self.layers.known)
            self._tighten_charge()

    def _stages(self) -> list[tuple[bool, Step | None]]:
        """Whether to compute rows, and how their slopes are optimised. Hinges need no more than the first steps."""
        stages: list[tuple[bool, Step | None]] = [(False, None), (True, None), (True, Step(iterations=SHORT))]
        ops = [node.op for node in self.query.graph.nodes]
        smooth = any(isinstance(op, Elementwise) and op.function.hinge is None for op in ops)
        return [*stages, (True, LONG)] if smooth else stages

    def engines(self) -> Engines:
        """What a search over the open clauses works with."""
        query = self.query
        sizes = ranges(query.graph, query.lower, query.upper, self.layers.known, self.clock.over)
        return paired(self.backward, sizes, self.layers.known)

    def _tighten_charge(self) -> None:
        """Better ranges make a smaller rounding charge."""
        known = ranges(self.query.graph, self.query.lower, self.query.upper, self.layers.known, self.clock.over)
        self.backward, self._output = Backward(self.query.graph, known), known[-1]

    def _multipliers(self, ids: Tensor) -> Multipliers | None:
        """What the stage before has found for these rows."""
        if self._ids is None:
            return None
        place = torch.searchsorted(self._ids, ids)
        return {v: tuple(t[place] for t in m) for v, m in self._best.items()}

    def _open(self, clauses: list[ClauseRows], step: Step) -> list[ClauseRows]:
        """The clauses that no row refutes; `worst` becomes the least margin among them."""
        table = self.query.table
        ids = torch.cat([torch.arange(c.first, c.first + c.count) for c in clauses]).to(table.weights.device)
        still: list[ClauseRows] = []
        if not ids.numel():
            return clauses
        owners = RowMap.regular(1, ids.numel(), ids.device)
        problem = RowProblem(
            self.query.graph.output, table.weights[ids], owners, self.query.lower, self.query.upper, self.layers.known
        )

        # An output that is itself nonlinear (softmax) has an interval that lines cannot reach.
        plain = table.interval_rows(ids, *self._output)

        def done(bound: Tensor) -> bool:
            return bool((torch.fmax(bound, plain) > table.bounds[ids]).all()) or self.clock.over()

        best = optimize(problem, self.backward, step=step, warm=self._multipliers(ids), finished=done)
        self._ids, self._best = ids, best.multipliers
        margins = table.margins(ids, torch.fmax(best.bound, plain), self.backward.output_size())
        cursor = 0
        self.worst = None
        for clause in clauses:
            part = margins[cursor : cursor + clause.count]
            cursor += clause.count
            if not bool((part > 0).any()):
                still.append(clause)
                best_row = float(part.max()) if clause.count else float("-inf")
                self.worst = best_row if self.worst is None else min(self.worst, best_row)
        return still


def _clauses(table: ClauseTable) -> list[ClauseRows]:
    """All clauses of a single-box table."""
    counts = torch.bincount(table.clause, minlength=int(table.clauses[0])).tolist()
    result, first = [], 0
    for count in counts:
        result.append(ClauseRows(0, first, count))
        first += count
    return result
