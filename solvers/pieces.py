"""Boxes that wait to be searched, and their division where bounds leave a function's domain.

On a wide box the bounds in front of 1/x, log x or sqrt x may leave the domain although no input does; on its halves
they may not. So such a box is halved until they stay inside, or until an input is found at which the network has no
value.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from verinet.solvers.query import ClauseTable, Query

from verinet.ir.graph import Graph
from verinet.ops.scalar import DomainError
from verinet.propagation.interval import Interval, interval_pass, node_interval

MOST_DIVISIONS = 4096  # of one search, so that a boundary along many axes ends
DEEPEST, DEEPEST_WIDE = 48, 6  # halvings of one box; of one that varies along too many inputs to be halved along all
MANY_AXES = 64
_CHUNK = 128
MAX_KINDS = 32  # more groups of boxes than this would make batches too small


@dataclass(frozen=True, slots=True)
class Piece:
    """Some boxes of a query, the share of the whole that they are, and how often a box was halved for them."""

    query: Query
    mass: float
    depth: int = 0


@dataclass(frozen=True, slots=True)
class Outside:
    """An input at which a node of the network has no finite value."""

    node: str
    point: tuple[float, ...]


class Waiting:
    """Pieces to be searched one after the other. Nothing leaves but by `close`: what is set aside stays open."""

    def __init__(self, pieces: Iterable[Piece], count: int) -> None:
        """`count` is the number of boxes in `pieces`, which are made only when they are needed."""
        self._rest: Iterator[Piece] = iter(pieces)
        self._next: list[Piece] = []
        self._boxes = count
        self._divisions = 0
        self.aside: list[float | None] = []  # worst margin of each piece that cannot be searched further
        self.closed_mass = 0.0
        self.outside: Outside | None = None

    def take(self) -> Piece | None:
        """The next piece; None when there is none left."""
        piece = self._next.pop() if self._next else next(self._rest, None)
        if piece is not None:
            self._boxes -= piece.query.boxes
        return piece

    def close(self, piece: Piece) -> None:
        """All of a piece was closed."""
        self.closed_mass += piece.mass

    def put_aside(self, bound: float | None) -> None:
        """A piece that was taken stays open for good; `bound` is its worst margin."""
        self.aside.append(bound)

    def divide(self, piece: Piece) -> None:
        """Put two halves of a piece in its place, where bounds left a function's domain; or set it aside."""
        parts: list[Piece] = []
        if self._divisions < MOST_DIVISIONS:
            self._divisions += 1
            missing = undefined_at_centre(piece.query) if piece.query.boxes == 1 else None
            self.outside = self.outside or missing
            parts = [] if missing is not None else halves(piece)
        if not parts:
            self.put_aside(None)
        self._next += parts
        self._boxes += sum(p.query.boxes for p in parts)

    @property
    def open(self) -> int:
        """Boxes that wait and pieces set aside."""
        return self._boxes + len(self.aside)

    @property
    def worst(self) -> float | None:
        """Least known margin of the pieces set aside."""
        return min((b for b in self.aside if b is not None), default=None)


def halves(piece: Piece) -> list[Piece]:
    """The same boxes in two pieces, or one box cut in two; nothing where that is impossible."""
    query = piece.query
    if query.boxes > 1:
        number = torch.arange(query.boxes, device=query.lower.device)
        parts = [select_boxes(query, part) for part in number.tensor_split(2)]
        return [Piece(part, piece.mass * part.boxes / query.boxes, piece.depth) for part in parts]
    axes = _varying(query)
    if not axes.numel() or piece.depth >= (DEEPEST if axes.numel() <= MANY_AXES else DEEPEST_WIDE):
        return []
    axis = _best_axis(query, axes)
    middle = query.lower[:, axis] + (query.upper[:, axis] - query.lower[:, axis]) * 0.5
    lower, upper = query.lower.clone(), query.upper.clone()
    lower[:, axis], upper[:, axis] = middle, middle
    made = (replace(query, upper=upper), replace(query, lower=lower))
    return [Piece(part, piece.mass * 0.5, piece.depth + 1) for part in made]


def undefined_at_centre(query: Query) -> Outside | None:
    """Whether the network itself, not only its bounds, has no finite value at the middle of the first box."""
    point = query.lower[:1] + (query.upper[:1] - query.lower[:1]) * 0.5
    for node, value in zip(query.graph.nodes, query.graph.forward_all(point), strict=True):
        if not bool(torch.isfinite(value).all()):
            return Outside(node.name, tuple(point[0].tolist()))
    return None


def _varying(query: Query) -> Tensor:
    """Inputs (axes,) along which the box can be halved."""
    low, high = query.lower[0], query.upper[0]
    middle = low + (high - low) * 0.5
    return ((middle > low) & (middle < high)).nonzero().squeeze(1)


def _best_axis(query: Query, axes: Tensor) -> Tensor:
    """The axis whose halving narrows most what feeds the first node that fails; the widest where none does."""
    width = (query.upper - query.lower)[0, axes]
    failing = _first_failing(query)
    if failing is None:
        return axes[width.argmax()]
    part, sources = Graph(query.graph.nodes[:failing]), query.graph.nodes[failing].inputs
    left = torch.cat([_widths(query, part, sources, chunk) for chunk in axes.split(_CHUNK)])
    best = left <= left.min() * (1 + 1e-9)
    return axes[torch.where(best, width, torch.zeros_like(width)).argmax()]


def _widths(query: Query, part: Graph, sources: tuple[int, ...], axes: Tensor) -> Tensor:
    """Per axis, total width of the nodes `sources` over the two halves of the box."""
    count = int(axes.numel())
    lower, upper = query.lower.repeat(2 * count, 1), query.upper.repeat(2 * count, 1)
    here = torch.arange(count, device=axes.device)
    middle = (query.lower + (query.upper - query.lower) * 0.5)[0, axes]
    upper[here, axes], lower[here + count, axes] = middle, middle
    values = interval_pass(part, lower, upper)
    width = sum(((values[i][1] - values[i][0]).flatten(1).sum(1) for i in sources), lower.new_zeros(2 * count))
    return torch.nan_to_num(width[:count] + width[count:], nan=torch.inf)


def _first_failing(query: Query) -> int | None:
    """The first node whose interval leaves a function's domain on the first box."""
    values: list[Interval | None] = [(query.lower[:1], query.upper[:1])]
    for position in range(1, len(query.graph.nodes)):
        try:
            values.append(node_interval(query.graph, position, values))
        except DomainError:
            return position
    return None


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
