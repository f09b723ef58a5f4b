"""Branch-and-bound over the inputs of nonlinear neurons, with split multipliers.

A domain is one clause on one box plus split literals sign * (z_j - p) >= 0. Its literals clip the neuron's interval
(and what follows from it forward) and enter the final rows as multipliers beta (Wang et al. 2021; for any point p, Shi
et al. 2025). Slopes and betas are inherited from the parent.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from verinet.solvers.branching.outcome import End, Offer, Outcome, Report
from verinet.solvers.branching.scores import Choice, choose
from verinet.solvers.branching.splits import Literals
from verinet.solvers.branching.stack import pop_batch
from verinet.solvers.query import Clock, Query

from verinet.ops.scalar import Elementwise
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


@dataclass(slots=True)
class Leaves:
    """Open domains that were made together; `warm` are the parents' multipliers, (parents * rows per clause, ...)."""

    clause: Tensor  # (domains,) position in the list of clauses
    margin: Tensor  # (domains,)
    mass: Tensor  # (domains,) 2**-depth over the number of clauses: sums to 1 over all leaves
    literals: Literals
    warm: Multipliers | None = None
    parent: Tensor | None = None  # (domains,) position among the parents

    def __len__(self) -> int:
        return int(self.clause.numel())

    def take(self, index: Tensor | slice) -> Leaves:
        parent = None if self.parent is None else self.parent[index]
        parts = (self.clause[index], self.margin[index], self.mass[index], self.literals.take(index))
        return Leaves(*parts, self.warm, parent)


@dataclass(frozen=True, slots=True)
class Engines:
    """`search` finds multipliers (float32 where that pays), `gate` decides in float64 with rounding charged."""

    search: Backward
    gate: Backward


@dataclass(frozen=True, slots=True)
class ClauseRows:
    """One clause as the search sees it: its box and its rows in the table."""

    box: int
    first: int
    count: int


class NeuronSplit:
    """The search for one group of clauses with the same number of rows. `run` may be called again to go on."""

    def __init__(
        self, query: Query, engines: Engines, layers: Layers, clauses: list[ClauseRows], batch: int | None = None
    ) -> None:
        self.query, self.engines = query, engines
        entries = sum(lo[0].numel() for lo, _ in layers.known.values())
        self.batch = batch or max(32, min(512, 2**18 // max(1, entries)))
        self.backward = engines.search
        self.sweeper = Sweeper(engines.search)
        self._exact_known = layers.known
        self._known = {v: outward(pair, engines.search.dtype) for v, pair in layers.known.items()}
        self._lower, self._upper = outward((query.lower, query.upper), engines.search.dtype)
        self.clauses = clauses
        device = query.lower.device
        self._box = torch.tensor([c.box for c in clauses], device=device)
        self._first = torch.tensor([c.first for c in clauses], device=device)
        self.per = clauses[0].count
        self.stack: list[Leaves] = []
        self.stuck: list[Leaves] = []  # every neuron is decided, and still open
        self._patient = False
        start = torch.arange(len(clauses), device=device)
        margin = torch.full((len(clauses),), -torch.inf, dtype=query.lower.dtype, device=device)
        mass = torch.full_like(margin, 1.0 / len(clauses))
        self.stack.append(Leaves(start, margin, mass, Literals.none(len(clauses), query.lower)))
        self.closed = self.made = 0
        self.worst: float | None = None
        self.step = Step(iterations=12, rate=0.2, beta_rate=0.1, decay=0.95)
        self.first_step = Step(iterations=40, rate=0.25, beta_rate=0.1, decay=0.97)
        self.refine = False
        self.forward_bounds = True  # propagate intervals from split neurons onwards
        self.candidates = 3

    @property
    def open(self) -> int:
        return sum(len(c) for c in (*self.stack, *self.stuck))

    @property
    def closed_mass(self) -> float:
        """Share of the search tree that is closed, a leaf at depth k counting 2**-k (Knuth 1975)."""
        return max(0.0, 1.0 - sum(float(c.mass.sum()) for c in (*self.stack, *self.stuck)))

    def run(self, clock: Clock, offer: Offer, report: Report) -> Outcome:
        """Split until everything is closed, a witness is confirmed, or the clock runs out."""
        while self.stack or self._be_patient():
            if clock.over():
                return self._outcome(End.TIME)
            leaves = self._next()
            layers, best, owners, margin = self._bound(leaves)
            keep = (~(margin > 0)).nonzero().squeeze(1)  # a NaN margin closes nothing
            self.closed += len(leaves) - int(keep.numel())
            if keep.numel():
                leaves.margin = margin
                self.worst = float(margin[keep].min())
                if self._attack(best, leaves, owners, offer):
                    return self._outcome(End.CANDIDATE)
                if self.query.clock.over():
                    self.stack.append(leaves.take(keep))
                    return self._outcome(End.TIME)
                self._branch(leaves, layers, best, keep)
            report("branching", self.open, self.closed, self.worst)
        return self._outcome(End.STALLED if self.stuck else End.CLOSED)

    def _be_patient(self) -> bool:
        """Give leaves in which every neuron is decided one more and much longer optimisation."""
        if self._patient or not self.stuck:
            return False
        self._patient = True
        self.step = Step(iterations=200, rate=0.1, beta_rate=0.2, decay=0.985)
        self.stack, self.stuck = self.stuck, []
        return True

    def _outcome(self, end: End) -> Outcome:
        return Outcome(end, None if end is End.CLOSED else self.worst, self.made, self.closed, self.open)

    def _next(self) -> Leaves:
        parts = pop_batch(self.stack, self.batch)
        self.made += sum(len(p) for p in parts)
        return join_leaves(parts, self.per)

    def problem(self, leaves: Leaves, layers: Layers) -> tuple[RowProblem, dict[int, tuple[Tensor, Tensor]], Tensor]:
        """The final rows of all domains; also where each split multiplier lives and the row numbers."""
        owners = RowMap.regular(len(leaves), self.per, layers.lower.device)
        ids = self._ids(leaves, owners)
        splits, places = leaves.literals.rows(owners, layers.lower.dtype)
        rows = self.query.table.weights[ids].to(layers.lower.dtype)
        problem = RowProblem(
            self.query.graph.output, rows, owners, layers.lower, layers.upper, dict(layers.known), splits
        )
        return problem, places, ids

    def _ids(self, leaves: Leaves, owners: RowMap) -> Tensor:
        within = torch.arange(self.per, device=owners.domain.device).repeat(len(leaves))
        return self._first[leaves.clause][owners.domain] + within

    def sweep(self, leaves: Leaves) -> Layers:
        """Layer bounds of all domains: root bounds, literals, and what follows forward (or by fresh rows)."""
        box = self._box[leaves.clause]
        known = leaves.literals.clip({v: (lo[box], hi[box]) for v, (lo, hi) in self._known.items()})
        if not (self.forward_bounds or self.refine):
            return _layers(self._lower[box], self._upper[box], known)
        options = SweepOptions(rows=self.refine, deadline=self.query.clock.over)
        return self.sweeper.sweep(self._lower[box], self._upper[box], options, known)

    def _bound(self, leaves: Leaves) -> tuple[Layers, Optimized, RowMap, Tensor]:
        layers = self.sweep(leaves)
        problem, places, ids = self.problem(leaves, layers)
        warm = self._warm(leaves, problem)
        # The search aims a little above the threshold so that the float64 gate rarely disagrees.
        goal = self.query.table.bounds[ids]
        goal = (goal + (1e-6 if problem.rows.dtype == torch.float32 else 0.0) * (1 + goal.abs())).to(problem.rows.dtype)

        def finished(bound: Tensor) -> bool:
            clause = self._clause_margin(bound - goal)
            return bool((clause > 0).all()) or self.query.clock.over()

        step = self.first_step if leaves.warm is None else self.step
        best = optimize(problem, self.backward, step=step, multipliers=warm, finished=finished)
        for node, (domain, slot) in places.items():
            leaves.literals.beta[domain, slot] = best.betas[node].double()
        margin = self._clause_margin((best.bound - self.query.table.bounds[ids].to(best.bound.dtype)).double())
        return layers, best, problem.owners, self._gate(leaves, layers, best, margin)

    def _gate(self, leaves: Leaves, layers: Layers, best: Optimized, margin: Tensor) -> Tensor:
        """Margins that may close domains: positive ones come from the float64 engine with rounding charged."""
        hopeful = ((margin > 0) | layers.infeasible).nonzero().squeeze(1)
        margin = margin.clamp(max=0)
        if hopeful.numel() == 0:
            return margin
        chosen = leaves.take(hopeful)
        box = self._box[chosen.clause]
        known = chosen.literals.clip({v: (lo[box], hi[box]) for v, (lo, hi) in self._exact_known.items()})
        lower, upper = self.query.lower[box], self.query.upper[box]
        if self.forward_bounds or self.refine:
            exact = Sweeper(self.engines.gate).sweep(lower, upper, SweepOptions(rows=self.refine), known)
        else:
            exact = _layers(lower, upper, known)
        problem, _, ids = self.problem(chosen, exact)
        rows = (hopeful.unsqueeze(1) * self.per + torch.arange(self.per, device=hopeful.device)).reshape(-1)
        multipliers = {v: tuple(t[rows].double() for t in m) for v, m in best.multipliers.items()}
        betas = {v: s.beta for v, s in problem.splits.items()}
        state = evaluate(problem, self.engines.gate, multipliers, betas)
        margins = self.query.table.margins(ids, state.bound, self.engines.gate.output_size())
        closed = torch.where(exact.infeasible, torch.inf, self._clause_margin(margins))
        return margin.index_copy(0, hopeful, closed)

    def _clause_margin(self, rows: Tensor) -> Tensor:
        """Any one row above its bound refutes the clause."""
        return rows.reshape(-1, self.per).amax(1)

    def _warm(self, leaves: Leaves, problem: RowProblem) -> Multipliers | None:
        """The parents' multipliers; fresh defaults for the neuron that was split last."""
        if leaves.warm is None or leaves.parent is None:
            return None
        index = (leaves.parent.unsqueeze(1) * self.per + torch.arange(self.per, device=leaves.parent.device)).reshape(
            -1
        )
        warm = {v: tuple(t[index].to(problem.rows.dtype) for t in m) for v, m in leaves.warm.items()}
        node, entry = leaves.literals.node[:, -1], leaves.literals.index[:, -1]
        for position, values in warm.items():
            op, sources = self.query.graph.nodes[position].op, self.query.graph.nodes[position].inputs
            if not isinstance(op, Elementwise):
                continue
            row = (node == sources[0])[problem.owners.domain].nonzero().squeeze(1)
            if row.numel() == 0:
                continue
            domain = problem.owners.domain[row]
            low, high = (t.reshape(t.shape[0], -1)[domain, entry[domain]] for t in problem.known[sources[0]])
            for old, new in zip(values, op.multipliers([low], [high]), strict=True):
                old.reshape(old.shape[0], -1)[row, entry[domain]] = new.expand_as(low)
        return warm

    def _attack(self, best: Optimized, leaves: Leaves, owners: RowMap, offer: Offer) -> bool:
        """The minimising corner of every row, tested against all rows of its clause."""
        if best.corner is None:
            return False
        box = self._box[leaves.clause][owners.domain]
        points = best.corner.double().clamp(self.query.lower[box], self.query.upper[box])
        outputs = self.query.graph.forward(points)
        ids = self._ids(leaves, owners).reshape(-1, self.per)[owners.domain]
        slack = torch.einsum("pm,psm->ps", outputs, self.query.table.weights[ids]) - self.query.table.bounds[ids]
        hits = (slack <= 0).all(1)
        return bool(hits.any()) and offer(points[hits][:16].cpu().numpy())

    def _branch(self, leaves: Leaves, layers: Layers, best: Optimized, keep: Tensor) -> None:
        """Split the leaves `keep`; those without a neuron to split are put aside."""
        choice = choose(self, leaves, layers, best, keep)
        possible = choice.possible if choice is not None else torch.zeros_like(keep, dtype=torch.bool)
        if not bool(possible.all()):
            self.stuck.append(leaves.take(keep[~possible]))
        if choice is None or not bool(possible.any()):
            return
        chosen = keep[possible]
        rows = (chosen.unsqueeze(1) * self.per + torch.arange(self.per, device=keep.device)).reshape(-1)
        warm = {v: tuple(t[rows].float() for t in m) for v, m in best.multipliers.items()}
        self.stack.append(children(leaves.take(chosen), choice.take(possible), warm))

    def child_bounds(self, leaves: Leaves, warm: Multipliers) -> Tensor:
        """Margins (domains,) by one pass with inherited multipliers: used to re-score split candidates."""
        layers = self.sweep(leaves)
        problem, _, ids = self.problem(leaves, layers)
        leaves.warm = warm
        multipliers = self._warm(leaves, problem) or default_multipliers(problem, self.backward)
        state = evaluate(problem, self.backward, multipliers, {v: s.beta for v, s in problem.splits.items()})
        margin = self._clause_margin(state.bound.double() - self.query.table.bounds[ids])
        return torch.where(layers.infeasible, torch.inf, margin)


def outward(pair: Interval, dtype: torch.dtype) -> Interval:
    """The same bounds in a smaller float type, rounded outward."""
    low, high = pair
    if dtype == low.dtype:
        return low, high
    below, above = low.to(dtype), high.to(dtype)
    infinity = torch.tensor(torch.inf, dtype=dtype, device=low.device)
    below = torch.where(below.to(low.dtype) > low, torch.nextafter(below, -infinity), below)
    above = torch.where(above.to(high.dtype) < high, torch.nextafter(above, infinity), above)
    return below, above


def _layers(lower: Tensor, upper: Tensor, known: dict[int, Interval]) -> Layers:
    """Layers that are only clipped; crossing bounds mark a domain as infeasible and become points."""
    infeasible = torch.zeros(lower.shape[0], dtype=torch.bool, device=lower.device)
    settled: dict[int, Interval] = {}
    for position, (low, high) in known.items():
        infeasible |= (low > high).reshape(lower.shape[0], -1).any(1)
        settled[position] = (torch.minimum(low, high), torch.maximum(low, high))
    return Layers(lower, upper, settled, infeasible=infeasible)


def children(leaves: Leaves, choice: Choice, warm: Multipliers) -> Leaves:
    """Both sides of the chosen splits; the first half takes z >= p, the second z <= p."""
    count = len(leaves)
    here = torch.arange(count, device=leaves.clause.device)
    # Points are float32 numbers, so that both engines split at the same place.
    point = choice.point.float().double()
    one = torch.ones_like(point)
    up = leaves.literals.extended(choice.node, choice.index, one, point)
    down = leaves.literals.extended(choice.node, choice.index, -one, point)
    mass = leaves.mass.repeat(2) * 0.5
    both = Literals.join([up, down])
    return Leaves(leaves.clause.repeat(2), leaves.margin.repeat(2), mass, both, warm, torch.cat([here, here]))


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
        torch.cat([p.mass for p in parts]),
        Literals.join([p.literals for p in parts]),
        warm,
        parent,
    )
