"""Branch-and-bound over the inputs of nonlinear neurons, with split multipliers.

A domain is one clause on one box plus split literals sign * (z_j - p) >= 0. Its literals clip the neuron's interval (and
what follows from it forward) and enter the final rows as multipliers beta (Wang et al. 2021; for any point p, Shi et
al. 2025). Slopes and betas are inherited from the parent.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from verinet.propagation.backward import Backward
from verinet.propagation.interval import Interval
from verinet.propagation.optimize import (
    Multipliers,
    Optimized,
    RowProblem,
    Step,
    default_multipliers,
    evaluate,
    optimize,
)
from verinet.propagation.rows import RowMap
from verinet.propagation.sweep import Layers, Sweeper, SweepOptions
from verinet.solvers.branching.outcome import End, Offer, Outcome, Report
from verinet.solvers.branching.scores import Choice, choose
from verinet.solvers.branching.splits import Literals
from verinet.solvers.query import Clock, Query


@dataclass(slots=True)
class Leaves:
    """Open domains that were made together; `warm` are the parents' multipliers, (parents * rows per clause, ...)."""

    clause: Tensor  # (domains,) position in the list of clauses
    margin: Tensor  # (domains,)
    literals: Literals
    warm: Multipliers | None = None
    parent: Tensor | None = None  # (domains,) position among the parents

    def __len__(self) -> int:
        return int(self.clause.numel())

    def take(self, index: Tensor | slice) -> Leaves:
        parent = None if self.parent is None else self.parent[index]
        return Leaves(self.clause[index], self.margin[index], self.literals.take(index), self.warm, parent)


@dataclass(frozen=True, slots=True)
class ClauseRows:
    """One clause as the search sees it: its box and its rows in the table."""

    box: int
    first: int
    count: int


class NeuronSplit:
    """The search for one group of clauses with the same number of rows. `run` may be called again to go on."""

    def __init__(
        self, query: Query, backward: Backward, layers: Layers, clauses: list[ClauseRows], batch: int = 64
    ) -> None:
        self.query, self.backward, self.root, self.batch = query, backward, layers, batch
        self.sweeper = Sweeper(backward)
        self.clauses = clauses
        device = query.lower.device
        self._box = torch.tensor([c.box for c in clauses], device=device)
        self._first = torch.tensor([c.first for c in clauses], device=device)
        self.per = clauses[0].count
        self.stack: list[Leaves] = []
        start = torch.arange(len(clauses), device=device)
        margin = torch.full((len(clauses),), -torch.inf, dtype=query.lower.dtype, device=device)
        self.stack.append(Leaves(start, margin, Literals.none(len(clauses), query.lower)))
        self.closed = self.made = 0
        self.worst: float | None = None
        self.step = Step(iterations=12, rate=0.2, beta_rate=0.1, decay=0.95)
        self.first_step = Step(iterations=40, rate=0.25, beta_rate=0.1, decay=0.97)
        self.refine = False
        self.candidates = 3
        self._output_size = backward.output_size()

    @property
    def open(self) -> int:
        return sum(len(c) for c in self.stack)

    def run(self, clock: Clock, offer: Offer, report: Report) -> Outcome:
        """Split until everything is closed, a witness is confirmed, or the clock runs out."""
        while self.stack:
            if clock.over():
                return self._outcome(End.TIME)
            leaves = self._next()
            layers, best, owners, margin = self._bound(leaves, clock)
            keep = (margin <= 0).nonzero().squeeze(1)
            self.closed += len(leaves) - int(keep.numel())
            if keep.numel():
                leaves.margin = margin
                self.worst = float(margin[keep].min())
                if self._attack(best, leaves, owners, offer):
                    return self._outcome(End.CANDIDATE)
                if clock.over():
                    self.stack.append(leaves.take(keep))
                    return self._outcome(End.TIME)
                if not self._branch(leaves, layers, best, keep):
                    self.stack.append(leaves.take(keep))
                    return self._outcome(End.STALLED)
            report("branching", self.open, self.closed, self.worst)
        return self._outcome(End.CLOSED)

    def _outcome(self, end: End) -> Outcome:
        return Outcome(end, None if end is End.CLOSED else self.worst, self.made, self.closed, self.open)

    def _next(self) -> Leaves:
        parts: list[Leaves] = []
        room = self.batch
        while self.stack and room > 0:
            top = self.stack.pop()
            if len(top) > room:
                self.stack.append(top.take(slice(0, len(top) - room)))
                top = top.take(slice(len(top) - room, None))
            parts.append(top)
            room -= len(top)
        self.made += sum(len(p) for p in parts)
        return join_leaves(parts, self.per)

    def known(self, leaves: Leaves) -> dict[int, Interval]:
        """Root bounds cut by the literals, (domains, *shape)."""
        box = self._box[leaves.clause]
        base = {v: (lo[box], hi[box]) for v, (lo, hi) in self.root.known.items()}
        return leaves.literals.clip(base)

    def problem(self, leaves: Leaves, layers: Layers) -> tuple[RowProblem, dict[int, tuple[Tensor, Tensor]], Tensor]:
        """The final rows of all domains; also where each split multiplier lives and the row numbers."""
        owners = RowMap.regular(len(leaves), self.per, layers.lower.device)
        ids = self._first[leaves.clause][owners.domain] + torch.arange(
            self.per, device=owners.domain.device
        ).repeat(len(leaves))
        splits, places = leaves.literals.rows(owners)
        rows = self.query.table.weights[ids]
        known = {v: layers.known[v] for v in layers.known}
        return (
            RowProblem(self.query.graph.output, rows, owners, layers.lower, layers.upper, known, splits),
            places,
            ids,
        )

    def sweep(self, leaves: Leaves, clock: Clock | None = None) -> Layers:
        """Layer bounds of all domains: root bounds, literals, and what follows forward (or by fresh rows)."""
        box = self._box[leaves.clause]
        options = SweepOptions(rows=self.refine, deadline=clock.over if clock else None)
        return self.sweeper.sweep(self.query.lower[box], self.query.upper[box], options, self.known(leaves))

    def _bound(self, leaves: Leaves, clock: Clock) -> tuple[Layers, Optimized, RowMap, Tensor]:
        layers = self.sweep(leaves, clock)
        problem, places, ids = self.problem(leaves, layers)
        warm = self._warm(leaves, problem)
        bounds = self.query.table.bounds[ids]

        def finished(bound: Tensor) -> bool:
            clause = self._clause_margin(bound - bounds)
            return bool((clause > 0).all()) or clock.over()

        step = self.first_step if leaves.warm is None else self.step
        best = optimize(problem, self.backward, step=step, multipliers=warm, finished=finished)
        margins = self.query.table.margins(ids, best.bound, self._output_size)
        margin = torch.where(layers.infeasible, torch.inf, self._clause_margin(margins))
        for node, (domain, slot) in places.items():
            leaves.literals.beta[domain, slot] = best.betas[node]
        return layers, best, problem.owners, margin

    def _clause_margin(self, rows: Tensor) -> Tensor:
        """Any one row above its bound refutes the clause."""
        return rows.reshape(-1, self.per).amax(1)

    def _warm(self, leaves: Leaves, problem: RowProblem) -> Multipliers | None:
        """The parents' multipliers; fresh defaults for the neuron that was split last."""
        if leaves.warm is None or leaves.parent is None:
            return None
        index = (leaves.parent.unsqueeze(1) * self.per + torch.arange(self.per, device=leaves.parent.device)).reshape(-1)
        warm = {v: tuple(t[index].to(problem.rows.dtype) for t in m) for v, m in leaves.warm.items()}
        fresh = default_multipliers(problem, self.backward)
        node, entry = leaves.literals.node[:, -1], leaves.literals.index[:, -1]
        for position, values in warm.items():
            sources = self.query.graph.nodes[position].inputs
            row = torch.isin(node, torch.tensor(sources, device=node.device))[problem.owners.domain].nonzero().squeeze(1)
            if row.numel() == 0 or len(sources) != 1:
                continue
            at = entry[problem.owners.domain[row]]
            for old, new in zip(values, fresh[position], strict=True):
                if old[0].numel() == new[0].numel():
                    old.reshape(old.shape[0], -1)[row, at] = new.reshape(new.shape[0], -1)[row, at]
        return warm

    def _attack(self, best: Optimized, leaves: Leaves, owners: RowMap, offer: Offer) -> bool:
        if best.corner is None:
            return False
        outputs = self.query.graph.forward(best.corner)
        ids = self._first[leaves.clause][owners.domain] + torch.arange(
            self.per, device=owners.domain.device
        ).repeat(len(leaves))
        slack = (outputs * self.query.table.weights[ids]).sum(-1) - self.query.table.bounds[ids]
        bad = (slack.reshape(-1, self.per) <= 0).all(1)
        # Any of the clause's corners will do; rows of one clause share the violation test only if the point is one.
        points = best.corner.reshape(len(leaves), self.per, -1)
        if self.per > 1:
            outputs = self.query.graph.forward(points.reshape(-1, points.shape[-1]))
            full = ids.reshape(-1, 1, self.per).expand(-1, self.per, -1).reshape(-1, self.per)
            slack = torch.einsum("pm,psm->ps", outputs, self.query.table.weights[full]) - self.query.table.bounds[full]
            hits = (slack <= 0).all(1)
            return bool(hits.any()) and offer(points.reshape(-1, points.shape[-1])[hits][:16].cpu().numpy())
        return bool(bad.any()) and offer(points[bad].reshape(-1, points.shape[-1])[:16].cpu().numpy())

    def _branch(self, leaves: Leaves, layers: Layers, best: Optimized, keep: Tensor) -> bool:
        choice = choose(self, leaves, layers, best, keep)
        if choice is None:
            return False
        survivors = leaves.take(keep)
        rows = (keep.unsqueeze(1) * self.per + torch.arange(self.per, device=keep.device)).reshape(-1)
        warm = {v: tuple(t[rows].to(torch.float32) for t in m) for v, m in best.multipliers.items()}
        self.stack.append(children(survivors, choice, warm))
        return True

    def child_bounds(self, leaves: Leaves, warm: Multipliers) -> Tensor:
        """Margins (domains,) by one pass with inherited multipliers: used to re-score split candidates."""
        layers = self.sweep(leaves)
        problem, _, ids = self.problem(leaves, layers)
        leaves.warm = warm
        multipliers = self._warm(leaves, problem) or default_multipliers(problem, self.backward)
        state = evaluate(problem, self.backward, multipliers, {v: s.beta for v, s in problem.splits.items()})
        margin = self._clause_margin(self.query.table.margins(ids, state.bound, self._output_size))
        return torch.where(layers.infeasible, torch.inf, margin)


def children(leaves: Leaves, choice: Choice, warm: Multipliers) -> Leaves:
    """Both sides of the chosen splits; the first half takes z >= p, the second z <= p."""
    count = len(leaves)
    here = torch.arange(count, device=leaves.clause.device)
    one = torch.ones_like(choice.point)
    up = leaves.literals.extended(choice.node, choice.index, one, choice.point)
    down = leaves.literals.extended(choice.node, choice.index, -one, choice.point)
    return Leaves(
        leaves.clause.repeat(2), leaves.margin.repeat(2), Literals.join([up, down]), warm, torch.cat([here, here])
    )


def join_leaves(parts: list[Leaves], per: int) -> Leaves:
    """Several stacks of leaves as one, their parents' multipliers side by side."""
    if len(parts) == 1:
        return parts[0]
    warm: Multipliers | None = None
    parent: Tensor | None = None
    if all(p.warm is not None and p.parent is not None for p in parts):
        index, kept, offset = [], [], 0
        for part in parts:
            if part.warm is None or part.parent is None:
                continue
            used, inverse = part.parent.unique(return_inverse=True)
            rows = (used.unsqueeze(1) * per + torch.arange(per, device=used.device)).reshape(-1)
            kept.append({v: tuple(t[rows] for t in m) for v, m in part.warm.items()})
            index.append(inverse + offset)
            offset += int(used.numel())
        warm = {v: tuple(torch.cat(ts) for ts in zip(*(k[v] for k in kept), strict=True)) for v in kept[0]}
        parent = torch.cat(index)
    return Leaves(
        torch.cat([p.clause for p in parts]),
        torch.cat([p.margin for p in parts]),
        Literals.join([p.literals for p in parts]),
        warm,
        parent,
    )
