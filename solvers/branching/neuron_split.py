"""Branch-and-bound over the inputs of nonlinear neurons, with split multipliers.

A domain is one clause on one box plus split literals sign * (z_j - p) >= 0. Its literals clip the neuron's interval
(and what follows from it forward) and enter the final rows as multipliers beta (Wang et al. 2021; for any point p, Shi
et al. 2025). Slopes and betas are inherited from the parent.
"""

from __future__ import annotations

import math
import time

import torch
from torch import Tensor
from verinet.solvers.branching.bbps import Shortcuts
from verinet.solvers.branching.clip import LeafClipper
from verinet.solvers.branching.cuts import Cuts
from verinet.solvers.branching.cuts_tried import Tried
from verinet.solvers.branching.deepen import Deepener
from verinet.solvers.branching.endgame import Endgame
from verinet.solvers.branching.gauge import Gauge
from verinet.solvers.branching.history import History
from verinet.solvers.branching.influence import Weights, influence
from verinet.solvers.branching.inherit import FIRST_RATE, inherited, restarted
from verinet.solvers.branching.leaves import (
    Anchors,
    ClauseRows,
    Engines,
    Leaves,
    children,
    join_leaves,
    meet,
    outward,
    placed,
)
from verinet.solvers.branching.options import Branching
from verinet.solvers.branching.outcome import End, Offer, Outcome, Report
from verinet.solvers.branching.points import Pointing
from verinet.solvers.branching.raising import Goal, raised
from verinet.solvers.branching.scores import choose
from verinet.solvers.branching.splits import MOST_AT_ONCE, Literals
from verinet.solvers.branching.stack import pop_batch
from verinet.solvers.branching.tighten import Part, Tightener
from verinet.solvers.query import Clock, Query

from verinet.propagation.interval import Interval
from verinet.propagation.optimize import (
    Climb,
    Multipliers,
    Optimized,
    RowProblem,
    Step,
    default_multipliers,
    evaluate,
    optimize,
)
from verinet.propagation.rows import RowMap, rows_of
from verinet.propagation.sweep import Layers, Sweeper, SweepOptions

RATES = (0.02, 0.2)
LAG_KEPT = 0.8  # weight of the past in a running mean


class NeuronSplit:
    """The search for one group of clauses with the same number of rows. `run` may be called again to go on."""

    def __init__(
        self,
        query: Query,
        engines: Engines,
        layers: Layers,
        clauses: list[ClauseRows],
        *,
        batch: int | None = None,
        warm: Multipliers | None = None,
    ) -> None:
        """`warm` are multipliers (rows of all clauses, ...) to start from."""
        self.query, self.engines = query, engines
        self.root_bounds = layers.known  # of all boxes: what a worker elsewhere starts from
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
        self.clipper = LeafClipper(query, engines.gate, self.anchors.exact)
        self.endgame = Endgame(query, engines.gate, self.root_bounds, clauses[0].count)
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
        nothing = Literals.none(len(clauses), query.lower)
        self.stack.append(
            Leaves(start, margin, mass, start.clone(), rate, nothing, warm, None if warm is None else start.clone())
        )
        self.closed = self.made = 0
        self.lag = 0.0  # leaves that miss no more than this in float32 are bounded in float64 as well
        self.worst: float | None = None
        self.rule = Climb()
        self.first_step = Step(iterations=40, rate=0.25, beta_rate=0.1, decay=0.97)
        self.branching = Branching()
        self.pointing = Pointing(self.branching.points)
        self.history = History()
        self._shortcuts: Shortcuts | None = None
        self.cuts = Cuts(self)
        self.tried = Tried(self.certified, self.per, query.graph)

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
            if not len(leaves):
                continue
            layers, best, owners, margin = self._bound(leaves)
            keep = (~(margin > 0)).nonzero().squeeze(1)  # a NaN margin closes nothing
            self.closed += len(leaves) - int(keep.numel())
            if self.branching.cuts:
                self.cuts.learn(leaves, best, margin)
            if keep.numel():
                leaves.margin = margin
                self.worst = float(margin[keep].min())
                if self._attack(best, leaves, owners, offer):
                    return self._outcome(End.CANDIDATE)
                if self.query.clock.over():
                    self.stack.append(leaves.take(keep))
                    return self._outcome(End.TIME)
                keep = self._clip(leaves, best, keep)
                before, count = len(self.stuck), int(keep.numel())
                keep, found = self.endgame.few(self, leaves, layers, keep, offer)
                self.closed += count - int(keep.numel())
                if keep.numel() and not found:
                    self._branch(leaves, layers, best, keep)
                if found or self._settle(before, offer):
                    return self._outcome(End.CANDIDATE)
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
        leaves = join_leaves(parts, self.per)
        self.made += len(leaves)
        if not self.branching.cuts:
            return leaves
        still = self.cuts.apply(leaves)
        self.closed += len(leaves) - len(still)
        return still

    def _box_of(self, leaves: Leaves) -> Interval:
        box = self._box[leaves.clause] if self.query.boxes > 1 else slice(0, 1)
        return self.query.lower[box], self.query.upper[box]

    def _clip(self, leaves: Leaves, best: Optimized, keep: Tensor) -> Tensor:
        """Sharpen the open leaves `keep` by their literals and final rows; returns those that are not refuted."""
        if not self.clipper.useful:
            self.clipper.skip()
            return keep
        chosen = leaves.take(keep)
        anchored = {v: (lo[chosen.anchor], hi[chosen.anchor]) for v, (lo, hi) in self.anchors.exact.items()}
        rows = rows_of(keep, self.per)
        found = {v: tuple(t[rows] for t in m) for v, m in best.multipliers.items()}
        exact, state, ids = self._exactly(chosen, found)
        cuts = self.clipper.cuts(meet(anchored, chosen.inner, torch.float64), exact.known)
        inner, refuted = self.clipper.sharpen(exact.known, cuts, state.inputs, ids, self._box_of(chosen))
        leaves.inner = placed(inner, keep, len(leaves))
        if self.clipper.pays:
            # One pass with the multipliers at hand: most children would close without their own literal.
            refuted |= self._exact_margin(leaves, keep, best) > 0
        self.closed += int(refuted.sum())
        return keep[~refuted]

    def _settle(self, before: int, offer: Offer) -> bool:
        """Linear programs for what has just been put aside: closed, split again, or stuck; True on a witness."""
        fresh, self.stuck = self.stuck[before:], self.stuck[:before]
        count = sum(map(len, fresh))
        left, again, found = self.endgame.stuck(self, fresh, offer)
        self.stuck += left
        self.stack += again
        self.closed += 0 if found else count - sum(map(len, left)) - sum(map(len, again)) // 2
        return found

    def row_of(self, leaf: Leaves) -> int:
        """The table row of a leaf whose clause has one."""
        return int(self._first[leaf.clause][0])

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
        known = meet(known, leaves.inner, self.engines.search.dtype)
        options = SweepOptions(rows=False, deadline=self.query.clock.over)
        return self.sweeper.sweep(self._lower[box], self._upper[box], options, known)

    def exact_sweep(self, leaves: Leaves) -> Layers:
        """The same in the float64 engine."""
        box, anchor = self._box[leaves.clause], leaves.anchor
        known = leaves.literals.clip({v: (lo[anchor], hi[anchor]) for v, (lo, hi) in self.anchors.exact.items()})
        known = meet(known, leaves.inner, torch.float64)
        gate = Sweeper(self.engines.gate)
        return gate.sweep(self.query.lower[box], self.query.upper[box], SweepOptions(rows=False), known)

    def part(self, leaves: Leaves) -> Part:
        """The same domains as tightening sees them."""
        first = self._first[leaves.clause].unsqueeze(1) + torch.arange(self.per, device=leaves.clause.device)
        return Part(self._box[leaves.clause], first, leaves.literals)

    def margin(self, leaves: Leaves) -> Tensor:
        """Certified margins (domains,) of leaves after a fresh optimisation; positive ones close them."""
        return self._bound(leaves)[3]

    def weighed(self, leaves: Leaves) -> tuple[Tensor, Weights]:
        """The same, and how much sharper layer bounds would do for each entry (`influence`)."""
        layers, best, _, margin = self._bound(leaves)
        return margin, influence(self.problem(leaves, layers)[0], self.backward, (best.multipliers, best.betas))

    def _bound(self, leaves: Leaves) -> tuple[Layers, Optimized, RowMap, Tensor]:
        layers = self.sweep(leaves)
        problem, places, ids = self.problem(leaves, layers)
        warm = inherited(leaves, problem, self.backward, self.per)
        # The search aims a little above the threshold so that the float64 gate rarely disagrees.
        bounds = self.query.table.bounds[ids]
        bounds = bounds + (1e-6 if problem.rows.dtype == torch.float32 else 0.0) * (1 + bounds.abs()) - 0.9 * self.lag
        goal = Goal(bounds.to(problem.rows.dtype), self.per, self.query.clock.over, self._patient)
        if warm is None or not leaves.literals.depth:
            best = optimize(problem, self.backward, step=self.first_step, warm=warm, finished=goal.reached)
        else:
            rates = restarted(leaves, self.query.graph)
            best, rates = raised(problem, self.backward, self.rule, (warm, rates), goal)
            leaves.rate = rates.clamp(*RATES)
        for node, (domain, slot) in places.items():
            leaves.literals.beta[domain, slot] = best.betas[node].double()
        margin = self._clause_margin((best.bound - self.query.table.bounds[ids].to(best.bound.dtype)).double())
        return layers, best, problem.owners, self._gate(leaves, layers, best, margin)

    def _gate(self, leaves: Leaves, layers: Layers, best: Optimized, margin: Tensor) -> Tensor:
        """Margins that may close domains: positive ones come from the float64 engine with rounding charged."""
        hopeful = ((margin > -self.lag) | layers.infeasible).nonzero().squeeze(1)
        if hopeful.numel() == 0:
            return margin.clamp(max=0)
        closed = self._exact_margin(leaves, hopeful, best)
        self._learn_lag(closed - margin[hopeful])
        return margin.clamp(max=0).index_copy(0, hopeful, closed)

    def _learn_lag(self, ahead: Tensor) -> None:
        """Float64 is ahead by so much (leaves,): float32 rounds lines outward, which may cost all that is missing."""
        ahead = ahead[torch.isfinite(ahead)]
        if ahead.numel():
            self.lag = max(0.0, LAG_KEPT * self.lag + (1 - LAG_KEPT) * float(ahead.median()))

    def _exact_margin(self, leaves: Leaves, domains: Tensor, best: Optimized) -> Tensor:
        """Certified margins of the leaves `domains` with the multipliers that were found."""
        rows = rows_of(domains, self.per)
        return self.certified(leaves.take(domains), {v: tuple(t[rows] for t in m) for v, m in best.multipliers.items()})

    def certified(self, leaves: Leaves, multipliers: Multipliers) -> Tensor:
        """Certified margins (domains,) of leaves with given multipliers (domains * per, ...)."""
        exact, state, ids = self._exactly(leaves, multipliers)
        margins = self.query.table.margins(ids, state.bound, self.engines.gate.output_size())
        return torch.where(exact.infeasible, torch.inf, self._clause_margin(margins))

    def _exactly(self, leaves: Leaves, multipliers: Multipliers) -> tuple[Layers, Optimized, Tensor]:
        """Layers and final rows of leaves in the float64 engine, with given multipliers."""
        exact = self.exact_sweep(leaves)
        problem, _, ids = self.problem(leaves, exact)
        double = {v: tuple(t.double() for t in m) for v, m in multipliers.items()}
        betas = {v: s.beta for v, s in problem.splits.items()}
        return exact, evaluate(problem, self.engines.gate, double, betas), ids

    def _clause_margin(self, rows: Tensor) -> Tensor:
        """Any one row above its bound refutes the clause."""
        return rows.reshape(-1, self.per).amax(1)

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
        self.tried.begin()
        choices = choose(self, leaves, layers, best, keep, self._together(int(keep.numel())))
        possible = choices[0].possible if choices else torch.zeros_like(keep, dtype=torch.bool)
        if not bool(possible.all()):
            self.stuck.append(leaves.take(keep[~possible]))
        if not bool(possible.any()):
            return
        chosen, made = keep[possible], [c.take(possible) for c in choices]
        made = [c for c in made if bool(c.possible.all())]  # the first is
        parents = leaves.take(chosen)
        follows = self.tried.implications(parents, possible.nonzero().squeeze(1), made)
        fresh = children(parents, made, self._kept(best, chosen))
        for literal in follows:
            fresh.literals = fresh.literals.extended(*(t.repeat(2 ** len(made)) for t in literal))
        self.stack.append(fresh)

    def _together(self, fresh: int) -> int:
        """How many splits each of `fresh` leaves gets at once: more only where the children do not fill a batch."""
        room = self.batch / max(1, 2 * (fresh + self.open))
        return max(1, min(self.branching.together, MOST_AT_ONCE, 1 + int(math.log2(max(1.0, room)))))

    @property
    def shortcuts(self) -> Shortcuts:
        """Planes over the root's box, which hold in all domains."""
        if self._shortcuts is None:
            known = {v: outward((lo[:1], hi[:1]), self.backward.dtype) for v, (lo, hi) in self.root_bounds.items()}
            root = self.sweeper.sweep(self._lower[:1], self._upper[:1], SweepOptions(rows=False), known)
            self._shortcuts = Shortcuts(self.backward, root)
        return self._shortcuts

    def _kept(self, best: Optimized, domains: Tensor) -> Multipliers:
        """Multipliers of some domains, for those that follow them on the stack."""
        rows = rows_of(domains, self.per)
        return {v: tuple(t[rows].float() for t in m) for v, m in best.multipliers.items()}

    def child_bounds(self, leaves: Leaves, warm: Multipliers) -> Tensor:
        """Margins (domains,) by one pass with inherited multipliers: used to re-score split candidates."""
        layers = self.sweep(leaves)
        problem, _, ids = self.problem(leaves, layers)
        leaves.warm = warm
        multipliers = inherited(leaves, problem, self.backward, self.per) or default_multipliers(problem, self.backward)
        state = evaluate(problem, self.backward, multipliers, {v: s.beta for v, s in problem.splits.items()})
        margin = self._clause_margin(state.bound.double() - self.query.table.bounds[ids])
        margin = torch.where(layers.infeasible, torch.inf, margin)
        if self.branching.tries:
            self.tried.note(leaves, state, margin)
        return margin
