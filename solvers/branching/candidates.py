"""All splits that a batch of domains could make, with a score each: inputs of any nonlinear operator."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from verinet.solvers.branching.gains import Reader
from verinet.solvers.branching.options import Inputs

from verinet.ir.graph import Graph
from verinet.ops.base import NonlinearOp
from verinet.ops.scalar import Elementwise
from verinet.propagation.ends import picked, seen
from verinet.propagation.interval import Interval
from verinet.propagation.optimize import Optimized


@dataclass(frozen=True, slots=True)
class View:
    """Some domains of a batch, each seen by the row of its clause that decides."""

    graph: Graph
    state: Optimized
    domains: Tensor  # (kept,) positions in the batch
    lead: Tensor  # (kept,) the rows that decide
    rows: int  # of the whole batch
    known: dict[int, Interval]

    def interval(self, node: int) -> Interval:
        """Bounds (kept, *shape) of a node."""
        return picked(self.known[node], self.domains)

    def reader(self, position: int) -> Reader | None:
        """A nonlinear operator with its coefficients; None where no row reaches it."""
        op, sources = self.graph.nodes[position].op, self.graph.nodes[position].inputs
        rows = self.state.trace.rows.get(position)
        if rows is None or self.state.relaxation is None or not isinstance(op, NonlinearOp):
            return None
        lows, highs = seen(op, [self.interval(i) for i in sources])
        values = [self._lead(self.state.values[i]) for i in sources]
        lines = self.state.relaxation.lines[position]
        multipliers = tuple(self._lead(m) for m in self.state.multipliers[position])
        return Reader(op, rows[self.lead], tuple(map(self._lead, lines)), lows, highs, values, multipliers)

    def _lead(self, values: Tensor) -> Tensor:
        return values[self.lead] if values.shape[0] == self.rows else values


@dataclass(frozen=True, slots=True)
class Place:
    """One input of one operator: what reads it, and which of the operator's inputs it is."""

    position: int
    slot: int
    reader: Reader


class Gain(Protocol):
    """Estimates what a child gains where an operator sees other ends of one input."""

    def __call__(self, view: View, place: Place, ends: Interval, upper: bool) -> Tensor: ...


class Pointer(Protocol):
    """Split points (kept, *shape, points) of a node."""

    def __call__(self, places: list[Place], interval: Interval) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class Table:
    """Candidates in columns: the same node and entry for all domains, score 0 where a split is no use."""

    node: Tensor  # (columns,)
    entry: Tensor  # (columns,)
    kind: Tensor  # (columns,) a number per kind of operator
    score: Tensor  # (kept, columns)
    point: Tensor  # (kept, columns)
    strict: Tensor  # (kept, columns) the side that loses the point; see `Choice`
    gains: Tensor  # (2, kept, columns) that the score is made of: of the upper and of the lower child

    def best(self, count: int, per_kind: int) -> Tensor:
        """Columns (kept, width) of the best few of all, and of every kind where there are several."""
        width = min(count, self.score.shape[1])
        chosen = self.score.topk(width, 1).indices
        kinds = self.kind.unique().tolist()
        if len(kinds) < 2 or count < 2:
            return chosen
        left = self.score.scatter(1, chosen, -1.0)
        for kind in kinds:
            mine = (self.kind == kind).nonzero().squeeze(1)
            found = left[:, mine].topk(min(per_kind, mine.numel()), 1)
            chosen = torch.cat([chosen, mine[found.indices]], 1)
        return chosen


def splittable(graph: Graph, order: tuple[int, ...], inputs: Inputs) -> list[int]:
    """Nonlinear nodes whose inputs may be split."""
    return [v for v in order if _allowed(graph.nodes[v].op, inputs)]


def _allowed(op: object, inputs: Inputs) -> bool:
    if not isinstance(op, NonlinearOp):
        return False
    if inputs is Inputs.ALL:
        return True
    return isinstance(op, Elementwise) and (inputs is Inputs.SCALAR or op.function.hinge is not None)


def table(view: View, positions: list[int], gain: Gain, pointer: Pointer) -> Table | None:
    """Scores of every split of every input of the operators named; None where there is none."""
    parts = [_scored(view, source, places, gain, pointer) for source, places in _sources(view, positions)]
    if not parts:
        return None
    joined = [torch.cat([p[k] for p in parts], 1) for k in range(3)]
    columns = [torch.cat([p[k] for p in parts]) for k in range(3, 6)]
    node, entry, kind = columns
    score, point, strict = joined
    return Table(node, entry, kind, score, point, strict, torch.cat([p[6] for p in parts], 2))


def _sources(view: View, positions: list[int]) -> Iterator[tuple[int, list[Place]]]:
    """Every node that some of the operators read, with all its readers."""
    found: dict[int, list[Place]] = {}
    for position in positions:
        reader = view.reader(position)
        if reader is None:
            continue
        for slot, source in enumerate(view.graph.nodes[position].inputs):
            found.setdefault(source, []).append(Place(position, slot, reader))
    yield from found.items()


def _scored(view: View, source: int, places: list[Place], gain: Gain, pointer: Pointer) -> tuple[Tensor, ...]:
    """Score, point, strict side (kept, entries), node, entry, kind (entries,) of one node's entries; then the gains."""
    low, high = interval = view.interval(source)
    open_entries = torch.zeros_like(low, dtype=torch.bool)
    for place in places:
        open_entries |= place.reader.op.undecided(place.reader.lowers, place.reader.uppers)[place.slot]
    best_score, best_point, best_side = torch.zeros_like(low), (low + high) * 0.5, torch.zeros_like(low)
    best_gains = torch.stack([best_score, best_score])
    points = pointer(places, interval)
    for k in range(points.shape[-1]):
        point = points[..., k]
        side, apart = _sides(places, point)
        gains = []
        for upper in (True, False):
            parts = [gain(view, place, _ends(place, point, side, upper), upper) for place in places]
            gains.append(torch.stack(torch.broadcast_tensors(*parts)).sum(0).expand_as(low))
        score = torch.minimum(*gains).clamp(min=0) + 1e-2 * torch.maximum(*gains).clamp(min=0)
        useful = open_entries & (((point > low) & (point < high)) | apart)
        score = torch.where(useful, score + 1e-12 * (high - low), torch.zeros_like(score))
        better = score > best_score
        best_score, best_point = torch.where(better, score, best_score), torch.where(better, point, best_point)
        best_side = torch.where(better, side, best_side)
        best_gains = torch.where(better, torch.stack(gains), best_gains)
    flat, count = best_score.reshape(low.shape[0], -1), best_score[0].numel()
    entry = torch.arange(count, device=low.device)
    kind = torch.full_like(entry, sum(map(ord, places[0].reader.op.kind)))
    wide = best_point.reshape(flat.shape), best_side.reshape(flat.shape)
    return flat, *wide, torch.full_like(entry, source), entry, kind, best_gains.reshape(2, *flat.shape)


def _sides(places: list[Place], point: Tensor) -> tuple[Tensor, Tensor]:
    """Which child loses `point` (1 the upper, -1 the lower, 0 none), and where it is an end that is set apart.

    At a jump the child that does not have the function's value there; where neither has it, the lower one, and the
    point is set apart from the upper one later.
    """
    side, first = torch.zeros_like(point), torch.zeros_like(point, dtype=torch.bool)
    last = first
    for place in places:
        op = place.reader.op
        if not isinstance(op, Elementwise) or not op.function.flat:
            continue
        low, high = place.reader.lowers[0], place.reader.uppers[0]
        left, right = op.breaks(point)
        at_low, at_high = right & (point == low) & (low < high), left & (point == high) & (low < high)
        side = torch.where(left, -1.0, torch.where(right, 1.0, side))
        first, last = first | at_low, last | at_high
    return torch.where(first, 1.0, torch.where(last, -1.0, side)), first | last


def _ends(place: Place, point: Tensor, side: Tensor, upper: bool) -> Interval:
    """The interval that one child leaves to a reader's input."""
    op, low, high = place.reader.op, place.reader.lowers[place.slot], place.reader.uppers[place.slot]
    closed = torch.zeros_like(side, dtype=torch.bool)
    bounds, marks = ((point, high), (side > 0, closed)) if upper else ((low, point), (closed, side < 0))
    return op.inside(bounds, marks)
