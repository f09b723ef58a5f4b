"""Rows of a node behind convolutions, bounded on the window of every ancestor that they can see.

A position of a grid node depends on a window of each ancestor. The ancestors cut down to these windows are a small
network of their own, whose value at that position is, in real arithmetic, the one of the whole network; so bounds that
hold for the small network, over the part of the box that it reads and with bounds of its nodes copied from those of the
whole network, hold for the whole one. Positions with equal windows (all that are far from the border, unless there
are strides) share one small network, in which every position is a domain of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from verinet.ir.graph import Graph, Node, total
from verinet.ops.base import Lines, NonlinearOp
from verinet.ops.linear.conv import Convolution, TransposedConvolution
from verinet.ops.linear.dense import Dense
from verinet.ops.shape.reshape import Reshape
from verinet.propagation.backward import Backward, Relaxation
from verinet.propagation.interval import Interval
from verinet.propagation.optimize import RowProblem, Step, optimize
from verinet.propagation.rows import RowMap
from verinet.propagation.windows_grid import Grid, find_grids
from verinet.propagation.windows_plan import Pane, Plan, coordinates_of, make_pane, make_plan, work

PAYS = 0.5  # windows are used where they take less than this share of the work of dense rows
CALL = 1e7  # multiplications that building and calling one operator of a small network is worth


@dataclass(frozen=True, slots=True)
class Given:
    """What a batch of rows is bounded with: boxes (domains, inputs), bounds of nodes, and how hard to try."""

    lower: Tensor
    upper: Tensor
    known: Mapping[int, Interval]
    step: Step | None
    memory: int  # bytes of the largest coefficient tensor
    finished: Callable[[Tensor], bool] | None


@dataclass(frozen=True, slots=True)
class Alone:
    """One entry of a node as a network of its own: output (1,), boxes (1, inputs), bounds of its nodes."""

    graph: Graph
    lower: Tensor
    upper: Tensor
    known: dict[int, Interval]


class Panorama:
    """Bounds rows through windows, for one backward engine."""

    def __init__(self, backward: Backward) -> None:
        self.backward, self.graph = backward, backward.graph
        self._plans: dict[int, Plan | None] = {}

    @cached_property
    def _grids(self) -> list[Grid | None]:
        return find_grids(self.graph)

    @cached_property
    def _any(self) -> bool:
        """Whether the graph has windows at all."""
        return any(isinstance(n.op, (Convolution, TransposedConvolution)) for n in self.graph.nodes)

    def worth(self, start: int, index: Tensor) -> bool:
        """True if windows make rows of these entries (flat, of one node) much cheaper."""
        plan = self._plan(start)
        if plan is None:
            return False
        positions = plan.head.position[index] if plan.head.rows is not None else index % self._places(plan)
        kinds, counts = self._kinds(plan, positions).unique(dim=0, return_counts=True)
        calls = CALL * len(plan.order) * kinds.shape[0]
        most = PAYS * float(index.numel()) * work(self.graph, self.backward.order(start))
        if calls >= most:
            return False
        common = tuple(kinds[counts.argmax()].tolist())  # near the border windows are smaller
        return bool(calls + self._pane(plan, common).work * index.numel() < most)

    def bounds(self, start: int, entries: tuple[Tensor, Tensor], given: Given) -> Iterator[tuple[Tensor, Interval]]:
        """(which of the entries, their lower and upper bounds), batch by batch. `entries`: (domain, flat index)."""
        plan = self._plan(start)
        if plan is None:
            return
        domain, index = entries
        grid = self._grid(plan.head.grid)
        positions, rows = plan.head.take(index, grid.channels, total(grid.spatial), given.lower)
        kinds = self._kinds(plan, positions)
        for kind in kinds.unique(dim=0):
            mine = (kinds == kind).all(1).nonzero().reshape(-1)
            mine = mine[(domain[mine] * positions.numel() + positions[mine]).argsort()]  # few domains per batch
            pane = self._pane(plan, tuple(kind.tolist()))
            widest = max(total(n.shape) for n in pane.graph.nodes)
            size = max(1, given.memory // (2 * widest * given.lower.element_size()))
            for part in mine.split(size):
                yield part, self._batch(plan, pane, (domain[part], positions[part], rows[part]), given)

    def alone(self, start: int, entry: int, given: Given) -> Alone | None:
        """The network that one entry (flat) of a node is on its window, for a single domain; None without windows."""
        plan = self._plan(start)
        if plan is None:
            return None
        grid = self._grid(plan.head.grid)
        index = torch.tensor([entry], device=given.lower.device)
        position, row = plan.head.take(index, grid.channels, total(grid.spatial), given.lower)
        pane = self._pane(plan, tuple(self._kinds(plan, position)[0].tolist()))
        where = (torch.zeros_like(position), coordinates_of(position, grid.spatial))
        lower, upper = self._box(plan, pane, where, given)
        size, last = grid.channels, pane.graph.output
        nodes = (
            *pane.graph.nodes,
            Node(Reshape((size,)), (last,), (size,), "channels"),
            Node(Dense(row.reshape(-1, 1)), (last + 1,), (1,), "entry"),
        )
        return Alone(Graph(nodes), lower, upper, self._known(plan, pane, where, given))

    def _known(self, plan: Plan, pane: Pane, where: tuple[Tensor, list[Tensor]], given: Given) -> dict[int, Interval]:
        """Bounds of the pane's nodes, cut out of those of the whole network."""
        found = {
            pane.places[v]: (self._cut(plan, pane, v, low, where), self._cut(plan, pane, v, high, where))
            for v, (low, high) in given.known.items()
            if v in pane.places
        }
        whole = set(pane.places.values())
        for place, node in enumerate(pane.graph.nodes):
            if place and place not in whole and node.inputs[0] in found:  # a part of another node
                low, high = found[node.inputs[0]]
                found[place] = node.op.forward(low), node.op.forward(high)
        return found

    def _batch(self, plan: Plan, pane: Pane, rows: tuple[Tensor, Tensor, Tensor], given: Given) -> Interval:
        """Lower and upper bounds of rows (domain, position, coefficients of channels) that share one pane."""
        domain, position, coefficients = rows
        spatial = self._grid(plan.head.grid).spatial
        pairs, owner = (domain * total(spatial) + position).unique(return_inverse=True)
        owners = RowMap.ragged(torch.cat([owner, owner]), pairs.numel())
        where = (pairs // total(spatial), coordinates_of(pairs % total(spatial), spatial))
        lower, upper = self._box(plan, pane, where, given)
        known = self._known(plan, pane, where, given)
        start = pane.places[plan.head.grid]
        signed = torch.cat([coefficients, -coefficients]).reshape(-1, *pane.graph.nodes[start].shape)
        backward = self._engine(plan, pane)
        if given.step is not None:
            problem = RowProblem(start, signed, owners, lower, upper, known)
            value = optimize(problem, backward, step=given.step, finished=given.finished).bound
        else:
            inputs = backward.run(start, signed, owners, _relaxation(pane.graph, known))
            value = backward.concretize(inputs, owners, lower, upper)
        count = domain.numel()
        return value[:count], -value[count:]

    def _box(self, plan: Plan, pane: Pane, where: tuple[Tensor, list[Tensor]], given: Given) -> Interval:
        """The inputs of the pane: (rows' domains, its inputs)."""
        number = self._inputs(plan, pane, where[1])
        zero = number < 0
        return tuple(  # type: ignore[return-value]
            side[where[0].unsqueeze(1), number.clamp(min=0)].masked_fill(zero, 0.0)
            for side in (given.lower, given.upper)
        )

    def _inputs(self, plan: Plan, pane: Pane, coordinates: list[Tensor]) -> Tensor:
        """Positions in the network's input, (places, inputs of the pane); -1 for zeros."""
        zeros = torch.zeros_like(coordinates[0])
        parts = []
        for v in pane.firsts:
            source = self._grid(v).source
            if source is not None:
                here = self._cut(plan, pane, v, source.to(zeros.device).unsqueeze(0), (zeros, coordinates))
                parts.append(here.reshape(zeros.numel(), -1))
        return torch.cat(parts, 1)

    def _cut(self, plan: Plan, pane: Pane, node: int, values: Tensor, where: tuple[Tensor, list[Tensor]]) -> Tensor:
        """Windows of a node's values (domains, *shape) at some (domains, positions per axis): (k, *window)."""
        grid = self._grid(node)
        domain, coordinates = where
        sizes, flat = pane.sizes[node], self._window(plan, pane, node, coordinates)
        channels = values.reshape(values.shape[0], grid.channels, -1)
        if values.shape[0] == 1:
            cut = channels[0][:, flat].transpose(0, 1)
        else:
            cut = channels.transpose(1, 2)[domain.unsqueeze(1), flat].transpose(1, 2)
        return cut.reshape(domain.numel(), 1, grid.channels, *sizes)

    def _window(self, plan: Plan, pane: Pane, node: int, coordinates: list[Tensor]) -> Tensor:
        """Flat positions of a node's grid that some positions (one tensor (k,) per axis) see: (k, window)."""
        spatial, sizes = self._grid(node).spatial, pane.sizes[node]
        device, rank = coordinates[0].device, len(spatial)
        flat = torch.zeros((), dtype=torch.int64, device=device)
        for axis, (extent, size) in enumerate(zip(spatial, sizes, strict=True)):
            along = plan.begins[axis][node][coordinates[axis]].unsqueeze(1) + torch.arange(size, device=device)
            flat = flat * extent + along.reshape(-1, *(1,) * axis, size, *(1,) * (rank - axis - 1))
        return flat.reshape(coordinates[0].numel(), -1)

    def seen(self, start: int, index: Tensor) -> dict[int, Tensor]:
        """For every ancestor that is a grid, which of its entries some entries (flat) of a node see: (*shape) bool."""
        plan = self._plan(start)
        if plan is None:
            return {}
        positions = plan.head.position[index] if plan.head.rows is not None else index % self._places(plan)
        kinds = self._kinds(plan, positions)
        masks = {
            v: torch.zeros(total(self._grid(v).spatial), dtype=torch.bool, device=index.device) for v in plan.order
        }
        for kind in kinds.unique(dim=0):
            pane = self._pane(plan, tuple(kind.tolist()))
            mine = positions[(kinds == kind).all(1)]
            coordinates = coordinates_of(mine, self._grid(plan.head.grid).spatial)
            for v, mask in masks.items():
                mask[self._window(plan, pane, v, coordinates).reshape(-1)] = True
        shapes = {v: self.graph.nodes[v].shape for v in masks}
        return {v: mask.reshape(1, 1, *shapes[v][2:]).expand(shapes[v]) for v, mask in masks.items()}

    def work(self, start: int) -> float:
        """About how many multiplications one row of a node takes through windows; infinite without them."""
        plan = self._plan(start)
        if plan is None:
            return float("inf")
        kind = tuple(kinds.mode().values.item() for kinds in plan.kinds)
        return self._pane(plan, tuple(int(k) for k in kind)).work

    def _engine(self, plan: Plan, pane: Pane) -> Backward:
        """Its rounding charge: the largest magnitudes of the whole network's nodes over all positions of the kind."""
        if pane.backward is None:
            coordinates = [c.reshape(-1) for c in torch.meshgrid(*pane.members, indexing="ij")]
            where = (torch.zeros_like(coordinates[0]), coordinates)
            sizes: list[Tensor] = [torch.empty(0)] * len(pane.graph.nodes)
            whole = self.backward.magnitudes
            number = self._inputs(plan, pane, coordinates)
            sizes[0] = whole[0][number.clamp(min=0)].masked_fill(number < 0, 0.0).amax(0)
            for v, place in pane.places.items():
                sizes[place] = self._cut(plan, pane, v, whole[v].unsqueeze(0), where).amax(0)
            for place, node in enumerate(pane.graph.nodes):
                if place and not sizes[place].numel():  # a part of another node
                    sizes[place] = node.op.forward(sizes[node.inputs[0]].unsqueeze(0))[0]
            pane.backward = Backward(pane.graph, [(-s.unsqueeze(0), s.unsqueeze(0)) for s in sizes])
        return pane.backward

    def _grid(self, node: int) -> Grid:
        grid = self._grids[node]
        if grid is None:
            raise ValueError(self.graph.nodes[node].name)
        return grid

    def _places(self, plan: Plan) -> int:
        return total(self._grid(plan.head.grid).spatial)

    def _kinds(self, plan: Plan, positions: Tensor) -> Tensor:
        """The kind of each flat position, (k, axes)."""
        coordinates = coordinates_of(positions, self._grid(plan.head.grid).spatial)
        return torch.stack([kinds[c] for kinds, c in zip(plan.kinds, coordinates, strict=True)], 1)

    def _plan(self, start: int) -> Plan | None:
        if start not in self._plans:
            self._plans[start] = make_plan(self.graph, self._grids, start, self.backward.device) if self._any else None
        return self._plans[start]

    def _pane(self, plan: Plan, kind: tuple[int, ...]) -> Pane:
        if kind not in plan.panes:
            plan.panes[kind] = make_pane(self.graph, self._grids, plan, kind, self.backward)
        return plan.panes[kind]


def _relaxation(graph: Graph, known: Mapping[int, Interval]) -> Relaxation:
    """Default lines of all nonlinear nodes."""
    lines: dict[int, Lines] = {}
    for position, node in enumerate(graph.nodes):
        if isinstance(node.op, NonlinearOp):
            pairs = [known[i] for i in node.inputs]
            lines[position] = node.op.lines([low for low, _ in pairs], [high for _, high in pairs])
    return Relaxation(lines)
