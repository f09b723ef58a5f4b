"""Branch-and-bound over the inputs of nonlinear neurons, with split multipliers.

A domain is one clause on one box plus split literals sign * (z_j - p) >= 0. Its literals clip the neuron's interval
(and what follows from it forward) and enter the final rows as multipliers beta (Wang et al. 2021; for any point p, Shi
et al. 2025). Slopes and betas are inherited from the parent.
"""

from __future__ import annotations

import time

import torch
from torch import Tensor
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

TIGHTEN_SLICE = 2.0  # seconds of tightening leaves between two looks at the clock
LEAVES_PER_ROW = 0.6  # time of a row of a round over time of a leaf
WORTHWHILE = 0.03  # part of the missing margin that a round must win for another one to follow
MOST_ANCHORS = 64  # sets of layer bounds kept without looking which are still in use


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
        self.tightener = Tightener(query, engines)
        self.gauge = Gauge()
        self._first = torch.tensor([c.first for c in clauses], device=device)
        self.per = clauses[0].count
        self.stack: list[Leaves] = []
        self.stuck: list[Leaves] = []  # every neuron is decided, and still open
        self._patient = self._clauses_tightened = False
        self._undecided: int | None = None
        start = torch.arange(len(clauses), device=device)
        margin = torch.full((len(clauses),), -torch.inf, dtype=query.lower.dtype, device=device)
        mass = torch.full_like(margin, 1.0 / len(clauses))
        since = torch.zeros_like(margin)
        self.stack.append(Leaves(start, margin, mass, start, since, Literals.none(len(clauses), query.lower)))
        self.closed = self.made = 0
        self.worst: float | None = None
        self.step = Step(iterations=12, rate=0.2, beta_rate=0.1, decay=0.95)
        self.first_step = Step(iterations=40, rate=0.25, beta_rate=0.1, decay=0.97)
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
            self._tighten_clauses()
            if len(self.anchors) > MOST_ANCHORS + 4 * self.open:
                self.anchors.compact([*self.stack, *self.stuck], len(self.clauses))
            if not self.stack:
                continue
            begin = time.monotonic()
            leaves = self._next()
            layers, best, owners, margin = self._bound(leaves)
            keep = (~(margin > 0)).nonzero().squeeze(1)  # a NaN margin closes nothing
            self.closed += len(leaves) - int(keep.numel())
            self.gauge.moved(leaves.margin, margin, leaves.since)
            leaves.since = leaves.since.clamp(min=0)
            if keep.numel():
                leaves.margin = margin
                self.worst = float(margin[keep].min())
                if self._attack(best, leaves, owners, offer):
                    return self._outcome(End.CANDIDATE)
                if self.query.clock.over():
                    self.stack.append(leaves.take(keep))
                    return self._outcome(End.TIME)
                keep = self._tighten_leaves(leaves, best, keep)
                self._branch(leaves, layers, best, keep)
            self.gauge.bounded(time.monotonic() - begin, len(leaves))
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
        """Layer bounds of all domains: those of their anchors, their literals, and what follows forward."""
        box, anchor = self._box[leaves.clause], leaves.anchor
        known = leaves.literals.clip({v: (lo[anchor], hi[anchor]) for v, (lo, hi) in self.anchors.search.items()})
        options = SweepOptions(rows=False, deadline=self.query.clock.over)
        return self.sweeper.sweep(self._lower[box], self._upper[box], options, known)

    def _exact_sweep(self, leaves: Leaves) -> Layers:
        """The same in the float64 engine."""
        box, anchor = self._box[leaves.clause], leaves.anchor
        known = leaves.literals.clip({v: (lo[anchor], hi[anchor]) for v, (lo, hi) in self.anchors.exact.items()})
        gate = Sweeper(self.engines.gate)
        return gate.sweep(self.query.lower[box], self.query.upper[box], SweepOptions(rows=False), known)

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
        exact = self._exact_sweep(chosen)
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

    def _tighten_clauses(self) -> None:
        """Once the search has cost about as much as it takes: layer bounds for whole clauses, while they gain."""
        if self._clauses_tightened or self.gauge.spent < self._patience():
            return
        self._clauses_tightened = True
        left = self.query.clock.left()
        for clause in torch.cat([p.clause for p in self.stack]).unique().tolist():
            if self._refuted(clause):
                self._drop(clause)
            if self.query.clock.left() < 0.75 * left:
                return

    def _patience(self) -> float:
        """Roughly the seconds that one round takes for all clauses: two rows per undecided neuron."""
        if self._undecided is None:
            known, gate = self.anchors.exact, Sweeper(self.engines.gate)
            self._undecided = sum(int(gate.undecided(v, known, pair).sum()) for v, pair in known.items())
        return LEAVES_PER_ROW * self._undecided * (self.gauge.leaf_seconds or 0.0) + 1e-3

    def _refuted(self, clause: int) -> bool:
        """Rounds for one clause, kept in its anchor, while each wins a good part of what is missing."""
        number = torch.tensor([clause], device=self._box.device)
        margin = -torch.inf
        while not self.query.clock.over():
            zero = self.query.lower.new_zeros(1)
            root = Leaves(number, zero - torch.inf, zero, number, zero, Literals.none(1, self.query.lower))
            if not bool(self._tightened(root, number)):
                return True
            after = float(self._bound(root)[3])
            if after > 0:
                return True
            if after - margin < WORTHWHILE * -after:
                return False
            margin = after
        return False

    def _drop(self, clause: int) -> None:
        """Every leaf of a clause that is refuted as a whole is closed."""
        for pile in (self.stack, self.stuck):
            before = sum(len(p) for p in pile)
            pile[:] = [q for q in (p.take(p.clause != clause) for p in pile) if len(q)]
            self.closed += before - sum(len(p) for p in pile)

    def _kept(self, best: Optimized, domains: Tensor) -> Multipliers:
        """Multipliers of some domains, for those that follow them on the stack."""
        rows = rows_of(domains, self.per)
        return {v: tuple(t[rows].float() for t in m) for v, m in best.multipliers.items()}

    def _tighten_leaves(self, leaves: Leaves, best: Optimized, keep: Tensor) -> Tensor:
        """Give leaves that look expensive layer bounds of their own and put them back; returns the others."""
        worth = self.gauge.worth(leaves.margin[keep], leaves.since[keep])
        if not bool(worth.any()):
            return keep
        room = max(1, int(TIGHTEN_SLICE / (self.gauge.round_seconds or TIGHTEN_SLICE)))
        order = leaves.margin[keep].masked_fill(~worth, torch.inf).argsort()[: min(room, int(worth.sum()))]
        chosen = keep[order]
        part = leaves.take(chosen)
        still = self._tightened(part)
        part.warm, part.parent = self._kept(best, chosen), torch.arange(len(part), device=chosen.device)
        if bool(still.any()):
            part.since = -part.since
            self.stack.append(part.take(still))
        self.closed += int((~still).sum())
        rest = torch.ones_like(keep, dtype=torch.bool)
        rest[order] = False
        return keep[rest]

    def _tightened(self, leaves: Leaves, anchors: Tensor | None = None) -> Tensor:
        """One round for all leaves, in anchors of their own or in those named; False where that refutes a leaf."""
        begin = time.monotonic()
        exact = self._exact_sweep(leaves)
        first = self._first[leaves.clause].unsqueeze(1) + torch.arange(self.per, device=leaves.clause.device)
        part = Part(self._box[leaves.clause], first, leaves.literals)
        known, refuted = self.tightener.round(part, exact.known)
        if anchors is None:
            leaves.anchor = self.anchors.add(known)
        else:
            self.anchors.replace(anchors, known)
        self.gauge.tightened(time.monotonic() - begin, len(leaves))
        return ~(refuted | exact.infeasible)

    def child_bounds(self, leaves: Leaves, warm: Multipliers) -> Tensor:
        """Margins (domains,) by one pass with inherited multipliers: used to re-score split candidates."""
        layers = self.sweep(leaves)
        problem, _, ids = self.problem(leaves, layers)
        leaves.warm = warm
        multipliers = self._warm(leaves, problem) or default_multipliers(problem, self.backward)
        state = evaluate(problem, self.backward, multipliers, {v: s.beta for v, s in problem.splits.items()})
        margin = self._clause_margin(state.bound.double() - self.query.table.bounds[ids])
        return torch.where(layers.infeasible, torch.inf, margin)
