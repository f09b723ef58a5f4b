"""Branch-and-bound over the input box, for few perturbed inputs.

Each batch of children goes through: stale planes of the parent -> final rows -> (only the survivors) backward rows of
undecided neurons -> final rows -> clip -> split. All bounds are float64 with rounding charged, so a closed domain is
closed for good.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor
from verinet.solvers.branching.clip import clip_boxes
from verinet.solvers.branching.input_scores import blamed_on_inputs
from verinet.solvers.branching.outcome import End, Offer, Outcome, Report
from verinet.solvers.branching.stack import join_parents, pop_batch
from verinet.solvers.query import Clock, Query

from verinet.errors import InternalError
from verinet.ir.graph import total
from verinet.propagation.backward import Backward, InputRows, Relaxation, Trace
from verinet.propagation.forward import ForwardPass
from verinet.propagation.interval import Interval
from verinet.propagation.planes import Planes, fresh_planes, scatter
from verinet.propagation.rows import RowMap
from verinet.propagation.sweep import Layers, Sweeper, SweepOptions

FORWARD_AXES = 16  # with more axes, planes carried forward cost as much as backward rows


@dataclass(slots=True)
class Chunk:
    """Open domains that were made together."""

    lower: Tensor
    upper: Tensor
    box: Tensor  # (domains,) index of the property's box
    margin: Tensor  # (domains,) margin of the parent
    mass: Tensor  # (domains,) 2**-depth over the number of boxes: sums to 1 over all leaves
    planes: Planes | None = None
    parent: Tensor | None = None  # (domains,) position in `planes`

    def __len__(self) -> int:
        return int(self.box.numel())

    def take(self, index: Tensor | slice) -> Chunk:
        parent = None if self.parent is None else self.parent[index]
        parts = (self.lower[index], self.upper[index], self.box[index], self.margin[index], self.mass[index])
        return Chunk(*parts, self.planes, parent)


@dataclass(slots=True)
class Bounded:
    """Final rows of a batch: margins per domain, the rows and who owns them."""

    margin: Tensor  # (domains,)
    ids: Tensor
    owners: RowMap
    rows: InputRows
    row_margin: Tensor
    trace: Trace  # of all rows of the batch, closed domains included
    layers: Layers
    keep: Tensor  # positions in the batch of the domains that stay open
    batch_owners: RowMap


FORWARD_BYTES = 3 << 20
LONG_BATCH = 3.0  # seconds that a batch may take beyond the end of a slice
MANY_BOXES = 8  # of a property with more, many close by loose bounds: rows go on being tested, slices cut batches
SMALL_GAIN = (
    2.0  # rows have to narrow intervals by more than this factor: seen are 1.3 where they are no use, 4 where they are
)


class RowChoice:
    """Whether backward rows inside the network pay where boxes are already bounded by forward planes.

    Measured on the last layer with the first boxes: rows that hardly narrow its intervals are left out, and tried again
    after 2, 4, 8, ... batches. On small boxes rows win little for each, and decide all the same, so what has paid at
    first is not put to the test again. The margins themselves say nothing as long as boxes are wide.
    """

    def __init__(self) -> None:
        self.rows = True
        self._turn = 0
        self._testing = False

    def copy(self) -> RowChoice:
        """What has been found so far, for a search of the same network elsewhere."""
        other = RowChoice()
        other.rows, other._turn = self.rows, self._turn
        return other

    def forward(self, again: bool = False) -> None:
        """A batch was bounded by forward planes; `again` where it says as much about rows as the first one."""
        self._turn += 1
        self._testing = again or not self.rows or self._turn == 1

    def wants_rows(self) -> bool:
        """Use rows, or try them again."""
        return self.rows or self._turn & (self._turn - 1) == 0

    def about_to_test(self) -> bool:
        """True if the next batch may only serve to compare both ways."""
        return self._turn == 0 or (not self.rows and (self._turn + 1) & self._turn == 0)

    def by_rows(self, before: Interval, after: Interval) -> None:
        """The last layer's intervals before (forward planes) and after rows."""
        if not self._testing:
            return
        wide, narrow = float((before[1] - before[0]).mean()), float((after[1] - after[0]).mean())
        self.rows = wide > SMALL_GAIN * max(narrow, 1e-300)
        self._testing = False


class InputSplit:
    """The search. Call `run`; it may be called again with a later clock to go on."""

    def __init__(self, query: Query, backward: Backward, batch: int = 512, choice: RowChoice | None = None) -> None:
        self.query, self.backward, self.batch = query, backward, batch
        self.sweeper = Sweeper(backward)
        self._many = query.boxes > MANY_BOXES
        self.table = query.table
        width = (query.upper - query.lower).amax(0)
        size = torch.maximum(query.lower.abs(), query.upper.abs()).amax(0)
        self.axes = (width > 1e-9 * size.clamp(min=1e-6)).nonzero().squeeze(1)
        self._root_width = width.clamp(min=1e-300)
        self._shapes = {v: query.graph.nodes[v].shape for v in self.sweeper.bounded - self.sweeper.exact}
        self._entries = sum(int(torch.tensor(s).prod()) for s in self._shapes.values())
        self._output_size = backward.output_size()
        self.first_layer = {v: self._exact_planes(v) for v in self.sweeper.bounded & self.sweeper.exact}
        number = torch.arange(query.boxes, device=query.lower.device)
        margin = torch.full((query.boxes,), -torch.inf, dtype=query.lower.dtype, device=query.lower.device)
        mass = torch.full_like(margin, 1.0 / query.boxes)
        self.stack: list[Chunk] = [Chunk(query.lower, query.upper, number, margin, mass)]
        self.closed = self.made = 0
        self.worst: float | None = None
        self.choice = RowChoice() if choice is None else choice
        self.use_planes = self._entries * max(1, self.axes.numel()) * 16 * min(batch, 64) < (1 << 30)
        per_domain = self._entries * max(1, self.axes.numel()) * 16
        if self.use_planes and per_domain:
            self.batch = max(16, min(batch, (256 << 20) // per_domain))
        if self.axes.numel() <= FORWARD_AXES:
            widest = max(total(n.shape) for n in query.graph.nodes) * (self.axes.numel() + 1) * 16
            self.batch = max(16, min(self.batch, FORWARD_BYTES // widest))  # planes of one layer stay in the cache

    def _exact_planes(self, position: int) -> Tensor:
        """|coefficients| (entries, axes) of a node that is affine in the input."""
        entries = total(self.query.graph.nodes[position].shape)
        device = self.query.lower.device
        rows = torch.eye(entries, dtype=self.query.lower.dtype, device=device)
        rows = rows.reshape(entries, *self.query.graph.nodes[position].shape)
        bound = self.backward.run(position, rows, RowMap.regular(1, entries, device), Relaxation({}))
        return bound.coefficients[:, self.axes].abs()

    @property
    def open(self) -> int:
        return sum(len(c) for c in self.stack)

    @property
    def closed_mass(self) -> float:
        """Share of the search tree that is closed, a leaf at depth k counting 2**-k (Knuth 1975)."""
        return max(0.0, 1.0 - sum(float(c.mass.sum()) for c in self.stack))

    def run(self, clock: Clock, offer: Offer, report: Report) -> Outcome:
        """Split until everything is closed, a witness is confirmed, or the clock runs out."""
        while self.stack:
            if clock.over():
                return self._outcome(End.TIME)
            chunk = self._next()
            survivors, bounded, planes = self._bound(chunk, self._batch_clock(clock))
            if len(survivors):
                self.worst = float(survivors.margin.min())
                if self._attack(survivors, bounded, offer):
                    return self._outcome(End.CANDIDATE)
                if not self._branch(survivors, bounded, planes):
                    self.stack.append(survivors)
                    return self._outcome(End.STALLED)
            report("branching", self.open, self.closed, self.worst)
        return self._outcome(End.CLOSED)

    def _batch_clock(self, clock: Clock) -> Clock:
        """Time for a batch. The end of a slice cuts only long ones short: their boxes are split with loose bounds."""
        if self._many:
            return clock
        final, latest = self.query.clock, time.monotonic() + LONG_BATCH

        def stop() -> bool:
            return final.over() or (time.monotonic() > latest and clock.over())

        return Clock(clock.now, math.inf, stop)

    def _outcome(self, end: End) -> Outcome:
        worst = None if end is End.CLOSED else self.worst
        return Outcome(end, worst, self.made, self.closed, self.open)

    def _next(self) -> Chunk:
        """Domains from the top of the stack, up to one batch."""
        parts = pop_batch(self.stack, min(self.batch, 64) if self.choice.about_to_test() else self.batch)
        self.made += sum(len(p) for p in parts)
        return join_chunks(parts)

    def _bound(self, chunk: Chunk, clock: Clock) -> tuple[Chunk, Bounded, Planes | None]:
        """Bound a batch; returns the domains that stay open, their final rows and planes."""
        known, stale = None, None
        if chunk.planes is not None and chunk.parent is not None:
            stale = chunk.planes.take(chunk.parent)
            known = stale.concretize(chunk.lower, chunk.upper, self._shapes)
            layers = self.sweeper.sweep(chunk.lower, chunk.upper, SweepOptions(rows=False), known)
            keep, chunk, bounded = self._close(chunk, layers)
            if not len(chunk):
                return chunk, bounded, None
            stale, known = stale.take(keep), self._kept(layers, keep)
        if self.axes.numel() <= FORWARD_AXES and (stale is None or not self.choice.rows):
            forward = ForwardPass(self.query.graph, self.axes, (chunk.lower, chunk.upper), known)
            inside = {v: forward.values[v] for v in self._shapes}
            layers = self.sweeper.sweep(chunk.lower, chunk.upper, SweepOptions(rows=False), inside)
            keep, chunk, bounded = self._close(chunk, layers)
            stale = forward.stale(tuple(self._shapes)).take(keep) if self.use_planes else None
            self.choice.forward(again=self._many)
            if not len(chunk) or not self.choice.wants_rows():
                return chunk, bounded, stale
            known = self._kept(layers, keep)
        return self._row_bound(chunk, known, stale, clock)

    def _kept(self, layers: Layers, keep: Tensor) -> dict[int, Interval]:
        return {v: (layers.known[v][0][keep], layers.known[v][1][keep]) for v in self._shapes}

    def _row_bound(
        self, chunk: Chunk, known: dict[int, Interval] | None, stale: Planes | None, clock: Clock
    ) -> tuple[Chunk, Bounded, Planes | None]:
        """Backward rows of undecided neurons, then the final rows."""
        found: list[tuple[int, Tensor, Tensor, InputRows]] = []

        def keep_rows(position: int, domain: Tensor, index: Tensor, rows: InputRows) -> None:
            found.append((position, domain, index, rows))

        options = SweepOptions(deadline=clock.over)
        layers = self.sweeper.sweep(chunk.lower, chunk.upper, options, known, keep_rows if self.use_planes else None)
        planes = None
        if self.use_planes:
            at = {v: layers.known[v] for v in self._shapes}
            planes = fresh_planes(self.axes, at, len(chunk)) if stale is None else stale
            for position, domain, index, rows in found:
                scatter(planes, position, (domain, index), rows, (chunk.lower, chunk.upper))
        last = max(self._shapes, default=None)
        if known is not None and last is not None:
            self.choice.by_rows(known[last], layers.known[last])
        keep, chunk, bounded = self._close(chunk, layers)
        return chunk, bounded, planes.take(keep) if planes is not None else None

    def _close(self, chunk: Chunk, layers: Layers) -> tuple[Tensor, Chunk, Bounded]:
        """Final rows; drops closed domains and clips the others."""
        ids, owners = self.table.rows_of(chunk.box)
        start = self.query.graph.output
        trace = Trace()
        rows = self.backward.run(start, self.table.weights[ids], owners, layers.relaxation, trace=trace)
        lower = self.backward.concretize(rows, owners, chunk.lower, chunk.upper)
        margins = self.table.margins(ids, lower, self._output_size)
        domain_margin, _ = self.table.domain_margins(chunk.box, ids, owners, margins)
        _no_crossing(layers)
        low, high = clip_boxes(self.table, ids, owners, rows, (chunk.lower, chunk.upper, chunk.box))
        domain_margin = torch.where((low > high).any(1), torch.inf, domain_margin)
        keep = (~(domain_margin > 0)).nonzero().squeeze(1)  # a NaN margin closes nothing
        self.closed += len(chunk) - int(keep.numel())
        kept = Chunk(low[keep], high[keep], chunk.box[keep], domain_margin[keep], chunk.mass[keep])
        per = ids.numel() // max(1, len(chunk)) if owners.per_domain is not None else None
        if per is not None:
            pick = (keep.unsqueeze(1) * per + torch.arange(per, device=keep.device)).reshape(-1)
            new_owners = RowMap.regular(int(keep.numel()), per, keep.device)
        else:
            position = torch.full((len(chunk),), -1, device=keep.device).scatter(
                0, keep, torch.arange(keep.numel(), device=keep.device)
            )
            pick = (position[owners.domain] >= 0).nonzero().squeeze(1)
            new_owners = RowMap.ragged(position[owners.domain[pick]], int(keep.numel()))
        kept_rows = InputRows(rows.coefficients[pick], rows.constant[pick])
        bounded = Bounded(kept.margin, ids[pick], new_owners, kept_rows, margins[pick], trace, layers, keep, owners)
        return keep, kept, bounded

    def _attack(self, chunk: Chunk, bounded: Bounded, offer: Offer) -> bool:
        """Minimising corners of the rows and centres of the boxes, evaluated together."""
        corners = self.backward.corner(bounded.rows, bounded.owners, chunk.lower, chunk.upper)
        points = torch.cat([corners, (chunk.lower + chunk.upper) * 0.5])
        boxes = torch.cat([chunk.box[bounded.owners.domain], chunk.box])
        outputs = self.query.graph.forward(points)
        bad = violating(self.query, outputs, boxes)
        if not bool(bad.any()):
            return False
        return offer(points[bad][:32].cpu().numpy())

    def _branch(self, chunk: Chunk, bounded: Bounded, planes: Planes | None) -> bool:
        """Split every domain in two along the axis with the largest score; False when boxes are down to points."""
        if not self.axes.numel():
            return False
        score = self.scores(chunk, bounded, planes)
        axis = self.axes[score.argmax(1)]
        here = torch.arange(len(chunk), device=axis.device)
        low, high = chunk.lower[here, axis], chunk.upper[here, axis]
        middle = low + (high - low) * 0.5
        stuck = (middle <= low) | (middle >= high)
        if bool(stuck.all()):
            return False
        lower, upper = chunk.lower.repeat(2, 1), chunk.upper.repeat(2, 1)
        upper[here, axis] = middle
        lower[here + len(chunk), axis] = middle
        parent = torch.cat([here, here]) if planes is not None else None
        mass = chunk.mass.repeat(2) * 0.5
        made = Chunk(lower, upper, chunk.box.repeat(2), chunk.margin.repeat(2), mass, planes, parent)
        self.stack.append(made)
        return True

    def scores(self, chunk: Chunk, bounded: Bounded, planes: Planes | None) -> Tensor:
        """Per axis (domains, axes), how much certified looseness should go when it is halved."""
        width = (chunk.upper - chunk.lower)[:, self.axes]
        tie = 1e-6 * width / self._root_width[self.axes]
        slack = blamed_on_inputs(self, bounded, planes, width) if planes is not None or not self._shapes else None
        if slack is None or not bool((slack > 0).any()):
            reach = bounded.rows.coefficients[:, self.axes].abs()
            owner = bounded.owners.domain.unsqueeze(1).expand_as(reach)
            slack = torch.zeros_like(width).scatter_reduce(0, owner, reach, "amax") * width
        return slack + tie * slack.amax(1, keepdim=True) + 1e-30 * tie


def _no_crossing(layers: Layers) -> None:
    """Every box holds real inputs, so bounds that cross mean that one of them is wrong: nothing may be concluded."""
    if bool(layers.infeasible.any()):
        raise InternalError("lower bounds above upper bounds inside the network; please report this model and property")


def violating(query: Query, outputs: Tensor, boxes: Tensor) -> Tensor:
    """Which outputs (points, outputs) satisfy every row of some clause of their box."""
    ids, owners = query.table.rows_of(boxes)
    value = (outputs[owners.domain] * query.table.weights[ids]).sum(-1)
    # Margin of the unsafe side: bound - value, negative when the row fails.
    slack = value - query.table.bounds[ids]
    worst, table = query.table.domain_margins(boxes, ids, owners, slack)
    del worst
    return (table <= 0).any(1)


def join_chunks(parts: list[Chunk]) -> Chunk:
    """Several chunks as one, their parents' planes side by side."""
    if len(parts) == 1:
        return parts[0]
    found = join_parents([(p.planes, p.parent) for p in parts], Planes.take)
    planes, parent = (None, None) if found is None else (Planes.join(found[0]), found[1])
    return Chunk(
        torch.cat([p.lower for p in parts]),
        torch.cat([p.upper for p in parts]),
        torch.cat([p.box for p in parts]),
        torch.cat([p.margin for p in parts]),
        torch.cat([p.mass for p in parts]),
        planes,
        parent,
    )
