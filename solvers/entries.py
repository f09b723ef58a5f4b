"""Jumps over a grid, decided one entry at a time: every pixel of a segmentation is a small query of its own.

Where the output counts or compares classes of many positions, each of which sees a window of the input only, a search
over the whole network would split neurons of all windows together. One entry alone is a small network (see
`propagation/windows.py`), so branch-and-bound on it is cheap, and what it proves is a bound of the whole network.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from verinet.solvers.branching.leaves import ClauseRows
from verinet.solvers.branching.neuron_split import NeuronSplit
from verinet.solvers.branching.outcome import End, Report
from verinet.solvers.engines import paired
from verinet.solvers.query import ClauseTable, Clock, Query

from verinet.ir.graph import Graph
from verinet.ops.scalar import Elementwise
from verinet.ops.sorting.steps import STEP
from verinet.propagation.backward import Backward
from verinet.propagation.interval import Interval, node_interval
from verinet.propagation.optimize import Step
from verinet.propagation.rows import RowMap
from verinet.propagation.sweep import Layers, Sweeper, SweepOptions, ranges
from verinet.propagation.windows import Alone, Given

ROUNDS = (1.0, 4.0, 16.0)  # seconds for one entry
SHARE = 0.6  # of the time left, for all entries
SHORT = Step(iterations=5)  # of rows of entries that stay open; 20 decide hardly more
SEARCH, PART = 2.5e9, 0.2  # multiplications that searching an entry is worth, and the part of it spent on better rows
CLEAR = 1e-9  # an entry is decided when it is proved to be further than this from the jump


class Entries:
    """Decides entries of nodes that are only read by jumps, until the output's intervals refute all clauses."""

    def __init__(self, query: Query, backward: Backward, layers: Layers, clock: Clock) -> None:
        self._query, self._sweeper, self._layers = query, Sweeper(backward), layers
        self._clock = clock.until(max(0.0, SHARE * clock.left()))
        self._values: list[Interval] = []
        self.decided = 0

    def decide(self, report: Report) -> bool:
        """Tighten `layers.known`, nearest entries first; True when some entry has been decided."""
        query = self._query
        if query.boxes != 1 or not (nodes := _under_steps(query.graph, self._layers)):
            return False
        self._values = ranges(query.graph, query.lower, query.upper, self._layers.known, self._clock.over)
        centre = query.graph.forward_all((query.lower + query.upper) * 0.5)
        for node in nodes:
            positive = centre[node] > 0
            if not self._may_refute(node, positive):
                continue
            if self._sharpened(node):
                return True
            for bounds in self._rounds(node, positive.reshape(-1)):
                self._layers.known[node] = self._values[node] = bounds
                self.decided += 1
                report("bounds", int(_open(bounds).sum()), self.decided, None)
                if self._refuted(self._after(node, self._values)):
                    return True
        return self.decided > 0

    def _sharpened(self, node: int) -> bool:
        """Better rows of the open entries, and of what they see where that is cheap; True if the clauses are refuted.

        What is cheap is measured against searching every open entry.
        """
        self._rows(node, _open(self._layers.known[node]), SHORT)
        entries = _open(self._layers.known[node])
        budget = PART * SEARCH * float(entries.sum())
        masks = self._sweeper.panorama.seen(node, entries.reshape(-1).nonzero().reshape(-1))
        for inner in sorted(v for v in masks if v in self._layers.known and v not in self._sweeper.exact):
            known = self._layers.known[inner]
            here = self._sweeper.undecided(inner, self._layers.known, known) & masks[inner]
            cost = 2 * float(here.sum()) * self._sweeper.panorama.work(inner)
            if cost <= budget:
                self._rows(inner, here, SHORT if cost * (2.5 * SHORT.iterations) <= budget else None)
        self._rows(node, _open(self._layers.known[node]), Step(iterations=2 * SHORT.iterations))
        self._values[node] = self._layers.known[node]
        return self._refuted(self._after(node, self._values))

    def _rows(self, node: int, which: Tensor, step: Step | None) -> None:
        """Tighten the entries (1, *shape) of a node that are named."""
        low, high = self._layers.known[node]
        flat_low, flat_high = low.reshape(-1).clone(), high.reshape(-1).clone()
        index = which.reshape(-1).nonzero().reshape(-1)
        given = replace(self._given(), step=step)
        for part, (lows, highs) in self._sweeper.panorama.bounds(node, (torch.zeros_like(index), index), given):
            here = index[part]
            flat_low[here], flat_high[here] = torch.fmax(flat_low[here], lows), torch.fmin(flat_high[here], highs)
            if self._clock.over():
                break
        self._layers.known[node] = flat_low.reshape(low.shape), flat_high.reshape(high.shape)

    def _rounds(self, node: int, positive: Tensor) -> Iterator[Interval]:
        """The node's bounds after every entry that is decided, nearest first; then again with more time for each."""
        shape = self._layers.known[node][0].shape
        low, high = (side.clone().reshape(-1) for side in self._layers.known[node])
        for seconds in ROUNDS:
            entries = _open((low, high)).nonzero().reshape(-1)
            margin = torch.where(positive, low, -high)[entries]
            for entry in entries[margin.argsort(descending=True)].tolist():
                alone = None if self._clock.over() else self._sweeper.panorama.alone(node, entry, self._given())
                if alone is None:
                    return
                above = bool(positive[entry])
                if _closed(alone, 1.0 if above else -1.0, self._query, self._clock.until(seconds)):
                    if above:
                        low[entry] = low[entry].clamp(min=CLEAR)
                    else:
                        high[entry] = high[entry].clamp(max=-CLEAR)
                    yield low.reshape(shape).clone(), high.reshape(shape).clone()

    def _given(self) -> Given:
        query = self._query
        finished = lambda _bound: self._clock.over()  # noqa: E731
        return Given(query.lower, query.upper, self._layers.known, None, SweepOptions().memory, finished)

    def _may_refute(self, node: int, positive: Tensor) -> bool:
        """Whether the clauses would be refuted if every entry were decided as it is at the centre."""
        low, high = self._layers.known[node]
        values = list(self._values)
        values[node] = (
            torch.where(positive, low.clamp(min=CLEAR), low),
            torch.where(positive, high, high.clamp(max=-CLEAR)),
        )
        return self._refuted(self._after(node, values))

    def _after(self, node: int, values: list[Interval]) -> Interval:
        """Bounds of the output when only one inner node has changed."""
        graph, touched, values = self._query.graph, {node}, list(values)
        for position in range(node + 1, len(graph.nodes)):
            if touched.intersection(graph.nodes[position].inputs):
                low, high = node_interval(graph, position, values)
                touched.add(position)
                values[position] = torch.fmax(low, values[position][0]), torch.fmin(high, values[position][1])
        return values[-1]

    def _refuted(self, output: Interval) -> bool:
        table, device = self._query.table, self._query.lower.device
        ids = torch.arange(table.weights.shape[0], device=device)
        if not ids.numel():
            return False
        low, high = output
        size = torch.maximum(low.abs(), high.abs())[0]
        margins = table.margins(ids, table.interval_rows(ids, low, high), size)
        owners = RowMap.regular(1, ids.numel(), device)
        least = table.domain_margins(torch.zeros(1, dtype=torch.int64, device=device), ids, owners, margins)[0]
        return bool((least > 0).all())


def _under_steps(graph: Graph, layers: Layers) -> list[int]:
    """Nodes that only steps at 0 read, and that are not decided everywhere."""
    found = []
    for position, bounds in layers.known.items():
        ops = [graph.nodes[r].op for r in graph.consumers[position]]
        if ops and all(isinstance(op, Elementwise) and op.function is STEP for op in ops) and bool(_open(bounds).any()):
            found.append(position)
    return found


def _open(bounds: Interval) -> Tensor:
    return (bounds[0] <= 0) & (bounds[1] > 0)


def _closed(alone: Alone, side: float, query: Query, clock: Clock) -> bool:
    """True if side * entry > CLEAR on the whole box, by branch and bound through the float64 gate."""
    device = query.lower.device
    none, zero = torch.zeros(1, dtype=torch.bool, device=device), torch.zeros(1, dtype=torch.int64, device=device)
    one = torch.ones(1, 1, dtype=query.lower.dtype, device=device)
    starts = torch.tensor([0, 1], device=device)
    table = ClauseTable(one * side, one[0] * CLEAR, none, 0.0, zero, starts, starts[1:])
    small = Query(alone.graph, alone.lower, alone.upper, table, query.prop, clock)

    def offer(points: npt.NDArray[np.float64]) -> bool:
        """An input on the other side: the entry cannot be decided."""
        values = alone.graph.forward(torch.from_numpy(points).to(alone.lower))
        return bool((side * values <= 0).any())

    sizes = ranges(alone.graph, alone.lower, alone.upper, alone.known)
    engines = paired(Backward(alone.graph, sizes), sizes, alone.known)
    search = NeuronSplit(small, engines, Layers(alone.lower, alone.upper, alone.known), [ClauseRows(0, 0, 1)])
    return search.run(clock, offer, lambda *_: None).end is End.CLOSED
