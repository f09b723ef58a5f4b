"""What rows of one node see of its ancestors: kinds of positions, and one small network for each kind."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from verinet.errors import InternalError
from verinet.ir.graph import Graph, Shape, total
from verinet.ops.base import LinearOp
from verinet.ops.linear.arithmetic import Add, Negate, Subtract
from verinet.ops.linear.conv import Convolution, TransposedConvolution
from verinet.ops.linear.dense import Dense
from verinet.propagation.backward import Backward
from verinet.propagation.windows_axes import Link, Piece, boxes
from verinet.propagation.windows_grid import Cutter, Grid

MOST_HEAD = 1 << 13  # entries of a node that may be followed one by one to a grid
BLOCK = 256  # of these at a time
ENTRY = 8.0  # multiplications that an entry is worth that is only read and written, measured


@dataclass(frozen=True, slots=True)
class Head:
    """Entries of a node as exact sums of channels at one position of a grid node."""

    grid: int
    position: Tensor  # (entries,) flat position in the grid
    rows: Tensor | None  # (entries, channels); None where the node is the grid itself

    def take(self, index: Tensor, channels: int, places: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Flat positions (k,) and rows (k, channels) of some entries."""
        if self.rows is not None:
            return self.position[index], self.rows[index].to(like)
        rows = like.new_zeros(index.numel(), channels)
        rows[torch.arange(index.numel(), device=index.device), index // places] = 1.0
        return index % places, rows


@dataclass(slots=True)
class Pane:
    """The small network that all positions of one kind share."""

    graph: Graph
    sizes: dict[int, Shape]  # windows of the nodes of the whole graph
    firsts: tuple[int, ...]  # nodes whose windows are its input, in order
    places: dict[int, int]  # node of the whole graph: node of this one
    members: list[Tensor]  # per axis the positions of this kind
    work: float
    backward: Backward | None = None


@dataclass(slots=True)
class Plan:
    """Windows of one node: which pane every position belongs to, and where its windows begin."""

    head: Head
    order: tuple[int, ...]  # the grid of the head and its ancestors, latest first
    kinds: list[Tensor] = field(default_factory=list)  # per axis (extent,) int64
    begins: list[dict[int, Tensor]] = field(default_factory=list)  # per axis and node (extent,) int64
    axis_kinds: list[list[AxisKind]] = field(default_factory=list)  # per axis
    panes: dict[tuple[int, ...], Pane] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AxisKind:
    """Extents of the windows, and what operators become, along one axis."""

    sizes: dict[int, int]
    pieces: dict[tuple[int, int], Piece]


def make_plan(graph: Graph, grids: Sequence[Grid | None], start: int, device: torch.device) -> Plan | None:
    """The windows of a node, or None where some ancestor is not made of windows."""
    head = _head(graph, grids, start, device)
    if head is None:
        return None
    order = _order(graph, grids, head.grid)
    if order is None:
        return None
    plan = Plan(head, order)
    spatial = {v: g.spatial for v in order if (g := grids[v]) is not None}
    for axis in range(len(spatial[head.grid])):
        extents = {v: s[axis] for v, s in spatial.items()}
        if not _add_axis(plan, (graph, grids, axis), extents, device):
            return None
    return plan


def _order(graph: Graph, grids: Sequence[Grid | None], start: int) -> tuple[int, ...] | None:
    """`start` and the grids it depends on, latest first; None if it depends on other things too."""
    seen = {start}
    for position in range(start, -1, -1):
        if position in seen:
            grid = grids[position]
            if grid is None:
                return None
            if grid.source is None:
                seen.update(graph.nodes[position].inputs)
    return tuple(sorted(seen, reverse=True))


def _add_axis(
    plan: Plan, where: tuple[Graph, Sequence[Grid | None], int], extents: dict[int, int], device: torch.device
) -> bool:
    """Sort the positions along one axis by what they see; False if some position sees what is not supported."""
    graph, grids, axis = where
    inputs = {v: () if _grid(grids, v).source is not None else graph.nodes[v].inputs for v in plan.order}
    links: dict[tuple[int, int], Link] = {
        (v, k): _grid(grids, v).links[k][axis] for v, sources in inputs.items() for k in range(len(sources))
    }
    numbers: dict[tuple[object, ...], int] = {}
    kinds, begins, found = [], {v: [] for v in plan.order}, []  # type: tuple[list[int], dict[int, list[int]], list[AxisKind]]
    for position in range(extents[plan.order[0]]):
        seen = boxes(position, plan.order, inputs, links, extents)
        if seen is None:
            return False
        sizes = {v: last - first + 1 for v, (first, last) in seen.items()}
        pieces = {key: link.piece(seen[key[0]], seen[inputs[key[0]][key[1]]]) for key, link in links.items()}
        mark = (tuple(sizes.values()), tuple(pieces.values()))
        if mark not in numbers:
            numbers[mark] = len(numbers)
            found.append(AxisKind(sizes, pieces))
        kinds.append(numbers[mark])
        for v, box in seen.items():
            begins[v].append(box[0])
    plan.kinds.append(torch.tensor(kinds, device=device))
    plan.begins.append({v: torch.tensor(b, device=device) for v, b in begins.items()})
    plan.axis_kinds.append(found)
    return True


def make_pane(graph: Graph, grids: Sequence[Grid | None], plan: Plan, kind: tuple[int, ...], like: Backward) -> Pane:
    """The small network of one kind of positions (a number per axis)."""
    parts = [kinds[k] for kinds, k in zip(plan.axis_kinds, kind, strict=True)]
    sizes = {v: tuple(p.sizes[v] for p in parts) for v in plan.order}
    pieces = {key: [p.pieces[key] for p in parts] for key in parts[0].pieces}
    cutter = Cutter(graph, grids)
    small = cutter.cut(plan.order, sizes, pieces).to(like.dtype, like.device)
    firsts = tuple(v for v in reversed(plan.order) if _grid(grids, v).source is not None)
    members = [(kinds == k).nonzero().reshape(-1) for kinds, k in zip(plan.kinds, kind, strict=True)]
    return Pane(small, sizes, firsts, dict(cutter.places), members, work(small, range(len(small.nodes))))


def work(graph: Graph, positions: Iterable[int]) -> float:
    """About how many multiplications a row takes through these nodes."""
    amount = 0.0
    for position in positions:
        node = graph.nodes[position]
        size = float(total(node.shape))
        amount += size * ENTRY
        if isinstance(node.op, Convolution):
            amount += size * node.op.weight[0].numel()
        elif isinstance(node.op, TransposedConvolution):
            amount += float(total(graph.nodes[node.inputs[0]].shape)) * node.op.weight[0].numel()
        elif isinstance(node.op, Dense):
            amount += size * node.op.weight.shape[0]
    return amount


def coordinates_of(positions: Tensor, spatial: Shape) -> list[Tensor]:
    """Flat positions as one tensor of positions per axis."""
    result, rest = [], positions
    for extent in reversed(spatial):
        result.append(rest % extent)
        rest = rest // extent
    return result[::-1]


def _grid(grids: Sequence[Grid | None], position: int) -> Grid:
    grid = grids[position]
    if grid is None:
        raise InternalError(f"node {position} is no grid")
    return grid


def _head(graph: Graph, grids: Sequence[Grid | None], start: int, device: torch.device) -> Head | None:
    """How entries of a node come from one position of a grid each, without rounding."""
    grid = grids[start]
    if grid is not None:
        return None if grid.source is not None else Head(start, torch.zeros(0, dtype=torch.int64), None)
    entries = total(graph.nodes[start].shape)
    below = _exact_way(graph, grids, start)
    if below is None or entries > MOST_HEAD:
        return None
    positions, rows = [], []
    for block in torch.arange(entries).split(BLOCK):
        pulled = _pulled(graph, start, below, block, device)
        spread = (pulled != 0).any(1)  # (block, places)
        if not bool((spread.sum(1) == 1).all()):
            return None
        place = spread.to(torch.int8).argmax(1)
        positions.append(place)
        rows.append(pulled.gather(2, place.reshape(-1, 1, 1).expand(-1, pulled.shape[1], 1))[..., 0])
    return Head(below[-1], torch.cat(positions), torch.cat(rows))


def _exact_way(graph: Graph, grids: Sequence[Grid | None], start: int) -> list[int] | None:
    """The nodes from `start` to the grid that it is a sum of, the grid last; None if there is not just one."""
    way, open_nodes = [], {start}
    while True:
        position = max(open_nodes)
        open_nodes.remove(position)
        way.append(position)
        grid = grids[position]
        if grid is not None:
            return way if not open_nodes and grid.source is None else None
        op = graph.nodes[position].op
        if not isinstance(op, LinearOp) or not (op.moves_only or isinstance(op, (Add, Subtract, Negate))):
            return None
        open_nodes.update(graph.nodes[position].inputs)


def _pulled(graph: Graph, start: int, way: Sequence[int], block: Tensor, device: torch.device) -> Tensor:
    """Entries of `start` as rows of the grid at the end of the way, (block, channels, places): whole numbers."""
    rows = torch.zeros(block.numel(), total(graph.nodes[start].shape), dtype=torch.float64, device=device)
    rows[torch.arange(block.numel()), block] = 1.0
    pending = {start: rows.reshape(-1, *graph.nodes[start].shape)}
    for position in way[:-1]:
        op, current = graph.nodes[position].op, pending.pop(position)
        if not isinstance(op, LinearOp):
            raise InternalError(f"node '{graph.nodes[position].name}' is not linear")
        parts = op.pullback(current, graph.input_shapes(position))
        for source, part in zip(graph.nodes[position].inputs, parts, strict=True):
            pending[source] = pending[source] + part if source in pending else part
    shape = graph.nodes[way[-1]].shape
    return pending[way[-1]].reshape(block.numel(), shape[1], -1)
