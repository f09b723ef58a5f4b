"""One activation layer made of several nodes (MaxMin, GroupSort, CReLU, max-pool) as exact sparse matrices.

The layer is followed entry by entry: every entry is an exact combination of the layer's inputs and of block entries.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from verinet.solvers.lipschitz.form import Activation, Floats, Ints
from verinet.solvers.lipschitz.ranges import Ranges
from verinet.solvers.lipschitz.sectors import hinge, hinge_slopes
from verinet.solvers.lipschitz.sorting import complement
from verinet.solvers.lipschitz.tracing import Trace, Tracer

from verinet.ir.graph import Graph, total
from verinet.ops.pooling.maximum import MaxLast
from verinet.ops.scalar import Elementwise
from verinet.ops.sorting.sort import SortLast

_TERMS = 64


class NotOneLayer(Exception):
    """The nodes are no single layer of blocks with matrices that floats hold exactly."""


class LayerTrace:
    """Builds the activation layer that starts at node `start`."""

    def __init__(self, graph: Graph, start: int, ranges: Ranges | None) -> None:
        self.graph, self.start, self.ranges = graph, start, ranges
        self.values = Tracer(graph, frozenset([start]))  # tells equal numbers
        self.steps = Tracer(graph, frozenset([start]), increments=True, limit=_TERMS)  # increments
        self._absolute: dict[bytes, tuple[int, float]] = {}
        self._rows: list[Trace] = []
        self._v_block: list[int] = []
        self._w_block: list[int] = []

    def activation(self, order: Sequence[int]) -> Activation:
        """The layer from `start` to the last node of `order`; `NotOneLayer` where it is not one."""
        names = []
        for position in order:
            op = self.graph.nodes[position].op
            if isinstance(op, Elementwise):
                self.steps.assign(position, self._hinge(position, op))
            elif isinstance(op, MaxLast):
                self.steps.assign(position, self._maximum(position))
            elif isinstance(op, SortLast):
                self.steps.assign(position, self._sorted(position))
            else:
                continue
            names.append(self.graph.nodes[position].name)
        outputs = self.steps.of(order[-1])
        size = total(self.graph.nodes[self.start].shape)
        p, r = self._matrices(outputs, size)
        rows = Trace.joined(self._rows) if self._rows else None
        q, beyond = self._matrices(rows, size) if rows is not None else (r.T[:, :0] @ p[:0], None)
        if beyond is not None and beyond.nnz:
            raise NotOneLayer
        v_block, w_block = (np.asarray(b, dtype=np.int64) for b in (self._v_block, self._w_block))
        return Activation(p, r, q, v_block, w_block, ", ".join(dict.fromkeys(names)))

    def _matrices(self, trace: Trace, size: int) -> tuple[Any, Any]:
        """A trace as matrices over the layer's inputs and over the entries of w."""
        from scipy import sparse

        if trace.errors.any():
            raise NotOneLayer
        entry, term = np.nonzero(trace.factors)
        atom, value = trace.atoms[entry, term], trace.factors[entry, term]
        first, base = self.steps.first(self.start), self.steps.first(len(self.graph.nodes))
        inside, made = (atom >= first) & (atom < first + size), atom >= base
        if not bool((inside | made).all()):
            raise NotOneLayer
        count = trace.factors.shape[0]

        def pick(chosen: Any, offset: int, width: int) -> Any:
            cells = (entry[chosen], atom[chosen] - offset)
            return sparse.csr_matrix((value[chosen], cells), shape=(count, width))

        return pick(inside, first, size), pick(made, base, len(self._w_block))

    def _entries(self, count: int) -> Trace:
        """New entries of w."""
        start = self.steps.first(len(self.graph.nodes)) + len(self._w_block)
        return Trace.of_atoms(start, count)

    def _absolutes(self, numbers: Trace, steps: Trace) -> Trace:
        """|t| for every entry: `numbers` tells which t it is, `steps` its increment."""
        keys, scale = numbers.normal()
        constant = numbers.constant()
        base = self.steps.first(len(self.graph.nodes))
        columns, factors = np.zeros(len(keys), dtype=np.int64), np.zeros(len(keys))
        for entry, key in enumerate(keys):
            if constant[entry]:
                continue
            if key not in self._absolute:
                self._absolute[key] = (len(self._w_block), abs(float(scale[entry])))
                block = (self._v_block[-1] + 1) if self._v_block else 0
                self._rows.append(steps.pick(np.asarray([entry])))
                self._v_block.append(block)
                self._w_block.append(block)
            columns[entry], first = self._absolute[key]
            factors[entry] = abs(scale[entry]) / first
        return _column(columns + base, factors)

    def _hinge(self, position: int, op: Elementwise) -> Trace:
        node = self.graph.nodes[position]
        sides = hinge_slopes(op.function)
        if sides is None:
            raise NotOneLayer
        pair = None if self.ranges is None else self.ranges.of(node.inputs[0])
        low, high = pair or (None, None)
        parts = hinge(sides, low, high, node.shape)
        if bool(parts.middle_error.any()) or bool(parts.half_error.any()):
            raise NotOneLayer
        middle, half = (t.reshape(-1).numpy() for t in (parts.middle, parts.half))
        steps, numbers = self.steps.of(node.inputs[0]), self.values.of(node.inputs[0])
        return self._with_absolutes(steps.times(middle), numbers, steps, half)

    def _with_absolutes(self, line: Trace, numbers: Trace, steps: Trace, half: Floats) -> Trace:
        active = np.flatnonzero(half)
        found = self._absolutes(numbers.pick(active), steps.pick(active)).times(half[active])
        back = np.full(half.size, -1, dtype=np.int64)
        back[active] = np.arange(active.size)
        return line.plus(found.pick(back))

    def _ends(self, source: int) -> tuple[Floats, Floats] | None:
        pair = None if self.ranges is None else self.ranges.of(source)
        if pair is None:
            return None
        width = self.graph.nodes[source].shape[-1]
        low, high = (end.reshape(-1, width).numpy() for end in pair)
        return low, high

    def _maximum(self, position: int) -> Trace:
        source = self.graph.nodes[position].inputs[0]
        width = self.graph.nodes[source].shape[-1]
        if width == 2:
            return self._pair(source, 1.0)
        return self._window(source, width)

    def _pair(self, source: int, sign: float) -> Trace:
        """The larger (sign 1) or smaller (-1) of every pair: (a + b)/2 + sign |a - b|/2."""
        steps, numbers = self.steps.of(source), self.values.of(source)
        count = steps.atoms.shape[0] // 2
        first, second = 2 * np.arange(count), 2 * np.arange(count) + 1
        number = numbers.pick(first).plus(numbers.pick(second).times(-1.0))
        share = np.full(count, 0.5)
        known = number.constant()
        ends = self._ends(source)
        if ends is not None:
            low, high = ends
            ahead, behind = low[:, 0] >= high[:, 1], low[:, 1] >= high[:, 0]
            known = known | ahead | behind
            share = np.where(ahead, 0.5 + 0.5 * sign, np.where(behind, 0.5 - 0.5 * sign, share))
        line = steps.pick(first).times(share).plus(steps.pick(second).times(1 - share))
        difference = steps.pick(first).plus(steps.pick(second).times(-1.0))
        return self._with_absolutes(line, number, difference, np.where(known, 0.0, 0.5 * sign))

    def _window(self, source: int, width: int) -> Trace:
        """The largest of k > 2: a mean of the window plus (theta - 1/k) dv with theta in the simplex.

        |theta - 1/k| <= sqrt(1 - 1/k) in norm, and it is orthogonal to (1, ..., 1): one entry of w, k - 1 rows of v.
        """
        return self._grouped(source, width, 1, math.sqrt(1 - 1 / width) * (1 + 1e-15))

    def _sorted(self, position: int) -> Trace:
        source = self.graph.nodes[position].inputs[0]
        width = self.graph.nodes[source].shape[-1]
        if width == 1:
            return self.steps.of(source)
        if width == 2:
            low, high = self._pair(source, -1.0), self._pair(source, 1.0)
            count = low.atoms.shape[0]
            index = (np.arange(count)[:, None] + np.array([0, count])[None, :]).reshape(-1)
            return Trace.joined([low, high]).pick(index)
        return self._grouped(source, width, width - 1, 1.0)

    def _grouped(self, source: int, width: int, entries: int, size: float) -> Trace:
        """Groups of a power of two: the mean plus `entries` entries of w of one block, width - 1 rows of v."""
        basis, exact = complement(width)
        if not exact:
            raise NotOneLayer
        steps = self.steps.of(source)
        groups = steps.atoms.shape[0] // width
        parts = [steps.pick(np.arange(groups) * width + i) for i in range(width)]
        start = self._v_block[-1] + 1 if self._v_block else 0
        block = start + np.arange(groups)
        rows = [_weighted(parts, basis.q[:, j]) for j in range(width - 1)]
        self._rows.append(Trace.joined(rows).pick(_interleaved(groups, width - 1)))
        self._v_block.extend(np.repeat(block, width - 1).tolist())
        made = self._entries(groups * entries)
        self._w_block.extend(np.repeat(block, entries).tolist())
        mean = _weighted(parts, torch.full((width,), 1.0 / width, dtype=torch.float64))
        if entries == 1:
            # q is sqrt(k) times an orthonormal basis, so that much less of w is needed.
            return _exact_sum(mean, made, np.full(groups, size / math.sqrt(width) * (1 + 1e-15)))
        coefficients = basis.r
        places = [made.pick(np.arange(groups) * entries + j) for j in range(entries)]
        outputs = [mean.plus(_weighted(places, coefficients[i])) for i in range(width)]
        return Trace.joined(outputs).pick(_interleaved(groups, width))


def _interleaved(groups: int, width: int) -> Ints:
    """Positions that bring `width` parts of `groups` entries each into group order."""
    return (np.arange(groups)[:, None] + groups * np.arange(width)[None, :]).reshape(-1)


def _weighted(parts: Sequence[Trace], weights: torch.Tensor) -> Trace:
    result = parts[0].times(float(weights[0]))
    for part, weight in zip(parts[1:], weights[1:].tolist(), strict=True):
        result = result.plus(part.times(weight))
    return result


def _column(atoms: Ints, factors: Floats) -> Trace:
    return Trace(atoms[:, None], factors[:, None], np.zeros((atoms.size, 1))).tidied()


def _exact_sum(line: Trace, made: Trace, size: Floats) -> Trace:
    """line + size * made, where `made` holds single atoms: the factors are the sizes themselves."""
    return line.plus(Trace(made.atoms, made.factors * size[:, None], made.errors))
