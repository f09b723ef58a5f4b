"""Nodes that are grids, (1, channels, *spatial), and their operators cut down to windows of the grid."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from verinet.errors import InternalError
from verinet.ir.graph import Graph, InputOp, Node, Op, Shape, total
from verinet.ops.base import LinearOp
from verinet.ops.linear.arithmetic import Add, Negate, Scale, Shift, Subtract
from verinet.ops.linear.conv import Convolution, TransposedConvolution
from verinet.ops.linear.reduce import WindowSum
from verinet.ops.linear.windows import Windows
from verinet.ops.scalar import Elementwise
from verinet.ops.shape.concat import Concat
from verinet.ops.shape.index import Index, index_op
from verinet.propagation.windows_axes import Gathered, Link, Piece, Same, Sliding, Spreading


@dataclass(frozen=True, slots=True)
class Grid:
    """One node that is a grid. `links` has one tuple per input, with one link per axis.

    `source`, for a node that only moves entries of the network's input: (1, channels, *spatial) int64 positions in it,
    -1 for a zero. Such a node ends the walk towards the input and has no links.
    """

    channels: int
    spatial: Shape
    links: tuple[tuple[Link, ...], ...] = ()
    source: Tensor | None = None
    chosen: tuple[int, ...] = field(default=())
    """For an operator that moves entries: the input's channel behind every channel, -1 for zeros."""


def find_grids(graph: Graph) -> list[Grid | None]:
    """For every node the grid that it is, or None."""
    found: list[Grid | None] = []
    moved: dict[int, Tensor] = {0: torch.arange(graph.input_size, dtype=torch.int64)}
    for position, node in enumerate(graph.nodes):
        source = _moved(node, moved)
        if source is not None:
            moved[position] = source
            found.append(_first_grid(node, source))
        else:
            found.append(None if position == 0 else _inner_grid(graph, node, found))
    return found


def _moved(node: Node, moved: dict[int, Tensor]) -> Tensor | None:
    """Positions in the network's input, if the node only moves entries of it (and no entry twice)."""
    op = node.op
    if len(node.inputs) != 1 or node.inputs[0] not in moved or not isinstance(op, LinearOp) or not op.moves_only:
        return None
    numbers = moved[node.inputs[0]].to(torch.float64).unsqueeze(0) + 1  # zeros stay zeros
    source = op.to(torch.float64, torch.device("cpu")).forward(numbers)[0].to(torch.int64) - 1
    used = source[source >= 0]
    return source if used.numel() == used.unique().numel() else None


def _is_grid(shape: Shape) -> bool:
    return len(shape) >= 3 and shape[0] == 1


def _first_grid(node: Node, source: Tensor) -> Grid | None:
    return Grid(node.shape[1], node.shape[2:], source=source) if _is_grid(node.shape) else None


def _inner_grid(graph: Graph, node: Node, found: Sequence[Grid | None]) -> Grid | None:
    """The node as a grid, if its inputs are grids and its operator acts on windows of them."""
    inputs = [g for i in node.inputs if (g := found[i]) is not None]
    if len(inputs) != len(node.inputs) or not inputs or not _is_grid(node.shape):
        return None
    axes = len(node.shape) - 2
    if any(len(g.spatial) != axes for g in inputs):
        return None
    grid = Grid(node.shape[1], node.shape[2:])
    if isinstance(node.op, (Convolution, WindowSum, TransposedConvolution)):
        if node.op.windows.axes != axes:
            return None
        return replace(grid, links=(_window_links(node.op.windows, isinstance(node.op, TransposedConvolution)),))
    if isinstance(node.op, Index):
        return _moving(grid, node.op, inputs[0])
    if _acts_by_position(node, [graph.nodes[i].shape for i in node.inputs]):
        return replace(grid, links=((Same(),) * axes,) * len(inputs))
    return None


def _window_links(windows: Windows, transposed: bool) -> tuple[Link, ...]:
    kind = Spreading if transposed else Sliding
    rows = zip(windows.kernel, windows.strides, windows.dilations, windows.begin, strict=True)
    return tuple(kind(*row) for row in rows)


def _acts_by_position(node: Node, shapes: Sequence[Shape]) -> bool:
    """Every output entry depends on entries at its own position only, in the same way at all positions."""
    op, axes = node.op, len(node.shape) - 2
    if isinstance(op, Elementwise):
        return not op.function.parameters and op.function.chart is None
    if isinstance(op, (Add, Subtract)):
        return all(shape == node.shape for shape in shapes)
    if isinstance(op, Negate):
        return True
    if isinstance(op, (Scale, Shift)):
        value = op.factor if isinstance(op, Scale) else op.offset
        return all(extent == 1 for extent in value.shape[-axes:])
    return isinstance(op, Concat) and op.axis == 1


def _moving(grid: Grid, op: Index, source: Grid) -> Grid | None:
    """An index that is a product of a choice of channels and one of positions per axis: a pad, a slice, an upsample."""
    index = op.index.cpu().reshape(grid.channels, *grid.spatial)
    here = (index >= 0).nonzero()
    if here.shape[0] == 0:
        return None
    extents = (source.channels, *source.spatial)
    rest, parts = index, []
    for extent in reversed(extents):
        parts.append(rest % extent)
        rest = rest // extent
    parts.reverse()
    chosen = [_along(axis, part, index, here[0]) for axis, part in enumerate(parts)]
    if not torch.equal(_product(chosen, extents), index):
        return None
    links = tuple(Gathered(tuple(c.tolist())) for c in chosen[1:])
    return replace(grid, links=(links,), chosen=tuple(chosen[0].tolist()))


def _along(axis: int, part: Tensor, index: Tensor, origin: Tensor) -> Tensor:
    """Positions along one axis, read off the line through a position that is no zero."""
    place = tuple(slice(None) if a == axis else int(o) for a, o in enumerate(origin))
    return torch.where(index[place] >= 0, part[place], -1)


def _product(chosen: Sequence[Tensor], extents: Sequence[int]) -> Tensor:
    """The index (channels, *spatial) that picks chosen[a] along axis a; -1 where one of them is."""
    rank = len(chosen)
    result, valid = torch.zeros((), dtype=torch.int64), torch.ones((), dtype=torch.bool)
    for axis, (places, extent) in enumerate(zip(chosen, extents, strict=True)):
        shaped = places.reshape(-1, *(1,) * (rank - axis - 1))
        result, valid = result * extent + shaped, valid & (shaped >= 0)
    return torch.where(valid, result, -1)


class Cutter:
    """Builds the graph of one window: the nodes that it needs, on the boxes that it needs."""

    def __init__(self, graph: Graph, grids: Sequence[Grid | None]) -> None:
        self._graph, self._grids = graph, grids
        self.nodes: list[Node] = []
        self.places: dict[int, int] = {}  # node of the whole graph: node of the window's

    def cut(self, order: Sequence[int], sizes: dict[int, Shape], pieces: dict[tuple[int, int], list[Piece]]) -> Graph:
        """`order` goes from the start to the inputs; `pieces` (node, place among its inputs) hold one piece per axis.

        The input of the result are the windows of all first grids, flat, in the order in which `order` reversed has
        them.
        """
        firsts = [v for v in reversed(order) if self._grid(v).source is not None]
        lengths = [self._grid(v).channels * total(sizes[v]) for v in firsts]
        self.nodes = [Node(InputOp(sum(lengths)), (), (sum(lengths),), "window")]
        begin = 0
        for position, length in zip(firsts, lengths, strict=True):
            shape = (1, self._grid(position).channels, *sizes[position])
            index = torch.arange(begin, begin + length).reshape(shape)
            name = self._graph.nodes[position].name
            self.places[position] = self._emit(index_op(index, sum(lengths)), (0,), shape, name)
            begin += length
        for position in reversed(order):
            if position not in self.places:
                inputs = range(len(self._graph.nodes[position].inputs))
                self._node(position, sizes[position], [pieces[position, k] for k in inputs])
        return Graph(tuple(self.nodes))

    def _grid(self, position: int) -> Grid:
        grid = self._grids[position]
        if grid is None:
            raise InternalError(f"node '{self._graph.nodes[position].name}' is no grid")
        return grid

    def _emit(self, op: Op, inputs: tuple[int, ...], shape: Shape, name: str) -> int:
        self.nodes.append(Node(op, inputs, shape, name))
        return len(self.nodes) - 1

    def _node(self, position: int, size: Shape, pieces: Sequence[Sequence[Piece]]) -> None:
        node, grid = self._graph.nodes[position], self._grid(position)
        op, sources = node.op, [self.places[i] for i in node.inputs]
        if isinstance(op, (Convolution, WindowSum)):
            op = replace(op, windows=_resized(op.windows, pieces[0]))
        elif isinstance(op, TransposedConvolution):
            op = replace(op, windows=_resized(op.windows, pieces[0]), spatial=tuple(p[3] for p in pieces[0]))
        elif isinstance(op, Index):
            extents = (self.nodes[sources[0]].shape[1], *(p[-1] for p in pieces[0]))
            chosen = [torch.tensor(grid.chosen), *(torch.tensor(p[:-1]) for p in pieces[0])]
            op = index_op(_product(chosen, extents).unsqueeze(0), total(extents))
        else:
            sources = [self._narrowed(s, p) for s, p in zip(sources, pieces, strict=True)]
        self.places[position] = self._emit(op, tuple(sources), (1, grid.channels, *size), node.name)

    def _narrowed(self, source: int, pieces: Sequence[Piece]) -> int:
        """The part of a window that an operator of equal positions needs, where another reader needs more."""
        if all(begin == 0 and size == whole for begin, size, whole in pieces):
            return source
        shape = self.nodes[source].shape
        chosen = [torch.arange(shape[1]), *(torch.arange(begin, begin + size) for begin, size, _ in pieces)]
        index = _product(chosen, shape[1:]).unsqueeze(0)
        name = f"part of {self.nodes[source].name}"
        return self._emit(index_op(index, total(shape)), (source,), tuple(index.shape), name)


def _resized(windows: Windows, pieces: Sequence[Piece]) -> Windows:
    columns = list(itertools.zip_longest(*(p[:3] for p in pieces)))
    return replace(windows, begin=tuple(columns[0]), end=tuple(columns[1]), out=tuple(columns[2]))
