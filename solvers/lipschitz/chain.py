"""Feed-forward networks as a chain of weights and activation layers, for methods that go layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from verinet.solvers.lipschitz.extract import needed
from verinet.solvers.lipschitz.form import Activation, Chain, Floats, Ints, Matrix
from verinet.solvers.lipschitz.layers import LayerTrace, NotOneLayer
from verinet.solvers.lipschitz.ranges import Ranges, node_ranges
from verinet.solvers.lipschitz.sectors import Sector, hinge, hinge_slopes, sector
from verinet.solvers.lipschitz.sparse import Piece, linear_piece

from verinet.errors import UsageError
from verinet.ir.graph import Graph, total
from verinet.ops.base import LinearOp
from verinet.ops.pooling.maximum import MaxLast
from verinet.ops.scalar import Elementwise
from verinet.ops.sorting.sort import SortLast


@dataclass(frozen=True)
class Section:
    """The nodes after one cut up to and including the next: every path goes through both."""

    start: int
    order: tuple[int, ...]
    linear: bool

    @property
    def end(self) -> int:
        return self.order[-1]


@dataclass(frozen=True)
class Cuts:
    """Splits the part of a graph between two nodes at the nodes that no path avoids."""

    graph: Graph

    def sections(self, start: int, end: int) -> list[Section]:
        """Sections in order; neighbouring linear ones are joined."""
        order = needed(self.graph, start, end)
        jumped = self._jumped(order)
        found: list[Section] = []
        at, nodes = start, []
        for position in order:
            nodes.append(position)
            if position in jumped:
                continue
            found = _appended(found, Section(at, tuple(nodes), all(map(self.is_linear, nodes))))
            at, nodes = position, []
        return found

    def is_linear(self, position: int) -> bool:
        return isinstance(self.graph.nodes[position].op, LinearOp)

    def _jumped(self, order: Sequence[int]) -> set[int]:
        """Positions that some edge leads past: some path avoids them."""
        found: set[int] = set()
        reach = -1
        farthest: dict[int, int] = {}
        for position in order:
            for source in self.graph.nodes[position].inputs:
                farthest[source] = max(farthest.get(source, -1), position)
        for position in sorted({*order, *farthest}):
            if reach > position:
                found.add(position)
            reach = max(reach, farthest.get(position, -1))
        return found


def _appended(found: list[Section], section: Section) -> list[Section]:
    if found and found[-1].linear and section.linear:
        before = found[-1]
        return [*found[:-1], Section(before.start, (*before.order, *section.order), True)]
    return [*found, section]


def extract_chain(
    graph: Graph, lower: Floats | None = None, upper: Floats | None = None, ranges: Ranges | None = None
) -> Chain | None:
    """The network as y = W_L phi_L(... phi_1(W_0 x)), or None if it is not of that shape.

    None for residual branches, for activations that depend on each other within one layer, and for layers whose
    matrices floats cannot hold exactly (sorted groups of three, say): those have a form (`extract_form`). Weights carry
    a radius where composing them rounds; activations are exact. Large weights are in scipy's CSR form. Arguments and
    errors as for `extract_form`.
    """
    graph = graph.to(torch.float64)
    if (lower is None) != (upper is None):
        raise UsageError("a region needs both lower and upper bounds", hint="give both, or neither for a global bound")
    if ranges is None and lower is not None and upper is not None:
        ranges = node_ranges(graph, lower, upper)
    cuts = Cuts(graph)
    weights: list[Matrix] = []
    activations: list[Activation] = []
    for section in cuts.sections(0, graph.output):
        if section.linear:
            weights.append(linear_piece(graph, section.order, section.start).matrix())
            continue
        if len(weights) == len(activations):
            weights.append(_identity(total(graph.nodes[section.start].shape)))
        layer = activation(graph, cuts, section, ranges)
        if layer is None:
            return None
        activations.append(layer)
    if len(weights) == len(activations):
        weights.append(_identity(graph.output_size))
    return Chain(tuple(weights), tuple(activations))


def _identity(size: int) -> Matrix:
    from scipy import sparse

    return Piece(sparse.identity(size, dtype=np.float64, format="csr")).matrix()


def activation(graph: Graph, cuts: Cuts, section: Section, ranges: Ranges | None) -> Activation | None:
    """One nonlinear section as an activation layer, or None if it is more than that."""
    node = graph.nodes[section.end]
    if len(section.order) == 1 and isinstance(node.op, Elementwise):
        return _elementwise(graph, section.end, ranges)
    known = (Elementwise, MaxLast, SortLast)
    if not all(cuts.is_linear(p) or isinstance(graph.nodes[p].op, known) for p in section.order):
        return None
    try:
        return LayerTrace(graph, section.start, ranges).activation(section.order)
    except NotOneLayer:
        return None


def _elementwise(graph: Graph, position: int, ranges: Ranges | None) -> Activation:
    """A layer of scalar functions: diagonal matrices."""
    node = graph.nodes[position]
    slopes = elementwise_slopes(graph, position, ranges)
    centre, radius = (t.reshape(-1).numpy() for t in slopes.disc())
    active = np.flatnonzero(radius)
    return Activation(
        p=_diagonal(centre),
        r=_columns(radius, active),
        q=_columns(np.ones(radius.size), active).T.tocsr(),
        v_block=np.arange(active.size, dtype=np.int64),
        w_block=np.arange(active.size, dtype=np.int64),
        label=node.name,
        slopes=(slopes.low.reshape(-1).numpy(), slopes.high.reshape(-1).numpy()),
    )


def elementwise_slopes(graph: Graph, position: int, ranges: Ranges | None) -> Sector:
    """The sector of an elementwise node; exact numbers where the function has two slopes."""
    node = graph.nodes[position]
    op = node.op
    if not isinstance(op, Elementwise):
        raise TypeError(node.name)
    low, high = (None if ranges is None else ranges.of(node.inputs[0])) or (None, None)
    sides = hinge_slopes(op.function)
    if sides is None:
        return sector(op, low, high, node.shape, node.name)
    parts = hinge(sides, low, high, node.shape)
    below, above = (side.expand(node.shape) for side in sides)
    least, most = torch.minimum(below, above), torch.maximum(below, above)
    fixed = (parts.half == 0) & (parts.half_error == 0)
    return Sector(torch.where(fixed, parts.middle, least), torch.where(fixed, parts.middle, most))


def _diagonal(values: Floats) -> Any:
    from scipy import sparse

    return sparse.diags(values, format="csr")


def _columns(values: Floats, active: Ints) -> Any:
    """The chosen columns of a diagonal matrix."""
    from scipy import sparse

    place = (active, np.arange(active.size))
    return sparse.csr_matrix((values[active], place), shape=(values.size, active.size))
