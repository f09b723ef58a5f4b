"""Branch-and-bound over the inputs of nonlinear neurons, with split multipliers.

A domain is one clause on one box plus split literals sign * (z_j - p) >= 0. Its literals clip the neuron's interval
(and what follows from it forward) and enter the final rows as multipliers beta (Wang et al. 2021; for any point p, Shi
et al. 2025). Slopes and betas are inherited from the parent.
"""

from __future__ import annotations

import time

import torch
from torch import Tensor
from verinet.solvers.branching.deepen import Deepener
from verinet.solvers.branching.gauge import Gauge
from verinet.solvers.branching.leaves import (
    Anchors,
    ClauseRows,
    Engines,
    Leaves,
    children,
    join_leaves,
    outward,
    rows_of,
)
from verinet.solvers.branching.outcome import End, Offer, Outcome, Report
from verinet.solvers.branching.scores import choose
from verinet.solvers.branching.splits import Literals
from verinet.solvers.branching.stack import pop_batch
from verinet.solvers.branching.tighten import Part, Tightener
from verinet.solvers.query import Clock, Query

from verinet.ops.scalar import Elementwise
from verinet.propagation.optimize import (
    Climb,
    Multipliers,
    Optimized,
    RowProblem,
    Step,
    climb,
    default_multipliers,
    evaluate,
    optimize,
)
from verinet.propagation.rows import RowMap
from verinet.propagation.sweep import Layers, Sweeper, SweepOptions

FIRST_RATE = 0.1  # of slopes, which lie in [0, 1]
RATES = (0.02, 0.2)


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
        self._lower, self._upper = outward((query.lower, query.upper), engines.search.dtype)
        self.clauses = clauses
        device = query.lower.device
        self._box = torch.tensor([c.box for c in clauses], device=device)
        # At first the anchor of a leaf is its clause, with the bounds of the clause's box.
        box = self._box
        self.anchors = Anchors({v: (lo[box], hi[box]) for v, (lo, hi) in layers.known.items()}, engines.search.dtype)
        self.gauge = Gauge(len(clauses), 2 * self._undecided())
        self.deepener = Deepener(self, Tightener(query, engines))
        self._first = torch.tensor([c.first for c in clauses], device=device)
        self.per = clauses[0].count
        self.stack: list[Leaves] = []
        self.stuck: list[Leaves] = []  # every neuron is decided, and still open
        self._patient = False
        start = torch.arange(len(clauses), device=device)
        margin = torch.full((len(clauses),), -torch.inf, dtype=query.lower.dtype, device=device)
        mass = torch.full_like(margin, 1.0 / len(clauses))
        rate = torch.full_like(margin, FIRST_RATE)
        self.stack.append(Leaves(start, margin, mass, start.clone(), rate, Literals.none(len(clauses), query.lower)))
        self.closed = self.made = 0
        self.worst: float | None = None
        self.rule = Climb()
        self.first_step = Step(iterations=40, rate=0.25, beta_rate=0.1, decay=0.97)
        self.forward_bounds = True  # propagate intervals from split neurons onwards
        self.candidates = 3

    def _undecided(self) -> int:
        known, gate = self.anchors.exact, Sweeper(self.engines.gate)
        total = sum(int(gate.undecided(v, known, pair).sum()) for v, pair in known.items())
        return total // len(self.clauses)

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
            begin = time.monotonic()
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
            self.gauge.bounded(time.monotonic() - begin, leaves.anchor)
            self.closed += self.deepener.sharpen([self.stack, self.stuck], clock)
            report("branching", self.open, self.closed, self.worst)
        return self._outcome(End.STALLED if self.stuck else End.CLOSED)

    def _be_patient(self) -> bool:
        """Give leaves in which every neuron is decided one more and much longer optimisation."""
        if self._patient or not self.stuck:
            return False
        self._patient = True
        self.rule = Climb(iterations=200)
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
        """Layer bounds of all domains: those of their anchors, their literals, and what follows forward."""
        box, anchor = self._box[leaves.clause], leaves.anchor
        known = leaves.literals.clip({v: (lo[anchor], hi[anchor]) for v, (lo, hi) in self.anchors.search.items()})
        options = SweepOptions(rows=False, deadline=self.query.clock.over)
        return self.sweeper.sweep(self._lower[box], self._upper[box], options, known)

    def exact_sweep(self, leaves: Leaves) -> Layers:
        """The same in the float64 engine."""
        box, anchor = self._box[leaves.clause], leaves.anchor
        known = leaves.literals.clip({v: (lo[anchor], hi[anchor]) for v, (lo, hi) in self.anchors.exact.items()})
        gate = Sweeper(self.engines.gate)
        return gate.sweep(self.query.lower[box], self.query.upper[box], SweepOptions(rows=False), known)

    def part(self, leaves: Leaves) -> Part:
        """The same domains as tightening sees them."""
        first = self._first[leaves.clause].unsqueeze(1) + torch.arange(self.per, device=leaves.clause.device)
        return Part(self._box[leaves.clause], first, leaves.literals)

    def margin(self, leaves: Leaves) -> Tensor:
        """Certified margins (domains,) of leaves after a fresh optimisation; positive ones close them."""
        return self._bound(leaves)[3]

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

        if warm is None:
            best = optimize(problem, self.backward, step=self.first_step, finished=finished)
        else:
            rates = leaves.rate.to(goal).repeat_interleave(self.per)
            best, rates = climb(problem, self.backward, self.rule, rates, multipliers=warm, finished=finished)
            leaves.rate = rates.reshape(-1, self.per).amax(1).double().clamp(*RATES)
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
        exact = self.exact_sweep(chosen)
        problem, _, ids = self.problem(chosen, exact)
        rows = rows_of(hopeful, self.per)
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
        index = rows_of(leaves.parent, self.per)
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
        self.stack.append(children(leaves.take(chosen), choice.take(possible), self._kept(best, chosen)))

    def _kept(self, best: Optimized, domains: Tensor) -> Multipliers:
        """Multipliers of some domains, for those that follow them on the stack."""
        rows = rows_of(domains, self.per)
        return {v: tuple(t[rows].float() for t in m) for v, m in best.multipliers.items()}

    def child_bounds(self, leaves: Leaves, warm: Multipliers) -> Tensor:
        """Margins (domains,) by one pass with inherited multipliers: used to re-score split candidates."""
        layers = self.sweep(leaves)
        problem, _, ids = self.problem(leaves, layers)
        leaves.warm = warm
        multipliers = self._warm(leaves, problem) or default_multipliers(problem, self.backward)
        state = evaluate(problem, self.backward, multipliers, {v: s.beta for v, s in problem.splits.items()})
        margin = self._clause_margin(state.bound.double() - self.query.table.bounds[ids])
        return torch.where(layers.infeasible, torch.inf, margin)
