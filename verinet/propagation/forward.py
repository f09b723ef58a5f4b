"""Forward linear bounds: planes over a few input axes, carried from the input to the output.

Costs a few forward passes per domain, whatever the number of neurons, so it is the cheap way to bound the inside of a
network whose input varies along few axes; backward rows are tighter (bound_propagation note, section 1.5).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from verinet.ir.graph import Graph
from verinet.numerics.rounding import gamma, tiny
from verinet.ops.base import LinearOp, NonlinearOp
from verinet.propagation.interval import Interval, unbounded
from verinet.propagation.planes import NodePlanes, Planes


@dataclass(frozen=True, slots=True)
class Pair:
    """Lower and upper planes of a node, (domains, axes + 1, *shape) each; the last column is the constant."""

    lower: Tensor
    upper: Tensor


class ForwardPass:
    """Planes of every node over boxes that vary along `axes`; `values` are their bounds, rounding charged."""

    def __init__(
        self, graph: Graph, axes: Tensor, box: tuple[Tensor, Tensor], known: Mapping[int, Interval] | None = None
    ) -> None:
        self.graph, self.axes, self.known = graph, axes, known or {}
        self.lower, self.upper = box
        low, high = self.lower[:, axes], self.upper[:, axes]
        one = self.lower.new_ones(self.lower.shape[0], 1)  # also where no axis varies
        self._ends = torch.cat([low, one], 1), torch.cat([high, one], 1)
        self._size = torch.maximum(self._ends[0].abs(), self._ends[1].abs())
        self._eps = torch.finfo(low.dtype).eps
        self._tiny = tiny(low.dtype) * (1 + float(self._size.sum(1).max()))  # coefficients that underflow meet inputs
        self.planes: list[Pair] = [self._input()]
        self.values: list[Interval] = [box]
        for position in range(1, len(graph.nodes)):
            pair = self._step(position)
            self.planes.append(pair)
            self.values.append(self._bounds(position, pair))

    def _input(self) -> Pair:
        domains, size = self.lower.shape
        columns = self.lower.new_zeros(domains, self.axes.numel() + 1, size)
        here = torch.arange(self.axes.numel(), device=self.axes.device)
        columns[:, here, self.axes] = 1.0
        pair = Pair(columns, columns.clone())
        fixed = torch.ones(size, dtype=torch.bool, device=self.axes.device)
        fixed[self.axes] = False
        pair.lower[:, -1, fixed], pair.upper[:, -1, fixed] = self.lower[:, fixed], self.upper[:, fixed]
        return pair

    def _step(self, position: int) -> Pair:
        node = self.graph.nodes[position]
        if isinstance(node.op, LinearOp):
            return self._linear(position, node.op)
        if not isinstance(node.op, NonlinearOp):
            raise TypeError(node.name)
        return self._nonlinear(position, node.op)

    def _bounds(self, position: int, pair: Pair) -> Interval:
        rate = gamma(self.axes.numel() + 8, pair.lower.dtype)
        low, high = (self._column(e, pair.lower.dim()) for e in self._ends)
        least = torch.where(pair.lower >= 0, pair.lower * low, pair.lower * high).sum(1)
        most = torch.where(pair.upper >= 0, pair.upper * high, pair.upper * low).sum(1)
        least = least - self._weight(pair.lower) * rate - self._tiny
        most = most + self._weight(pair.upper) * rate + self._tiny
        if position in self.known:
            least, most = torch.fmax(least, self.known[position][0]), torch.fmin(most, self.known[position][1])
        return unbounded((least, most))

    @staticmethod
    def _column(values: Tensor, rank: int) -> Tensor:
        """(domains, axes + 1) shaped to multiply planes of the given rank."""
        return values.reshape(*values.shape, *(1,) * (rank - 2))

    def _weight(self, columns: Tensor) -> Tensor:
        """Largest absolute sum of a plane's terms over the box, (domains, *shape)."""
        return (columns.abs() * self._column(self._size, columns.dim())).sum(1)

    def _linear(self, position: int, op: LinearOp) -> Pair:
        """W+ L + W- U = W (L + U) / 2 - |W| (U - L) / 2, and mirrored; rounding of coefficients goes to constants."""
        node = self.graph.nodes[position]
        inputs = [self.planes[i] for i in node.inputs]
        if op.moves_only:
            return Pair(self._apply(op, [p.lower for p in inputs]), self._apply(op, [p.upper for p in inputs]))
        middle = [(p.lower + p.upper) * 0.5 for p in inputs]
        half = [(p.upper - p.lower) * 0.5 for p in inputs]
        rate = 2 * gamma(op.terms(self.graph.input_shapes(position), node.shape) + 8, self.lower.dtype)
        slack = op.magnitude(*(self._weight(m) + self._weight(h) for m, h in zip(middle, half, strict=True))) * rate
        centre = self._apply(op, middle)
        domains, columns = half[0].shape[:2]
        spread = op.magnitude(*(h.flatten(0, 1) for h in half)).unflatten(0, (domains, columns))
        lower, upper = centre - spread, centre + spread
        offset = op.bias()
        if offset is not None:
            lower[:, -1] += offset
            upper[:, -1] += offset
            slack = slack + offset.abs() * (2 * self._eps)
        slack = slack + (self._weight(lower) + self._weight(upper)) * (2 * self._eps) + self._tiny
        lower[:, -1] -= slack
        upper[:, -1] += slack
        return Pair(lower, upper)

    @staticmethod
    def _apply(op: LinearOp, inputs: Sequence[Tensor]) -> Tensor:
        domains, columns = inputs[0].shape[:2]
        value: Tensor = op.linear(*(t.flatten(0, 1) for t in inputs))
        return value.reshape(domains, columns, *value.shape[1:])

    def _nonlinear(self, position: int, op: NonlinearOp) -> Pair:
        node = self.graph.nodes[position]
        lowers = [self.values[i][0] for i in node.inputs]
        uppers = [self.values[i][1] for i in node.inputs]
        low, high = op.interval(lowers, uppers)
        slopes = op.slopes(op.lines(lowers, uppers))
        if slopes is None:
            return self._constant(low, high)
        aligned = [
            op.aligned([p.lower for p in self._inputs(node.inputs)]),
            op.aligned([p.upper for p in self._inputs(node.inputs)]),
        ]
        below = self._combine(slopes[0], slopes[1], (aligned[0], aligned[1]), -1)
        above = self._combine(slopes[2], slopes[3], (aligned[1], aligned[0]), 1)
        return Pair(below, above)

    def _inputs(self, positions: Sequence[int]) -> list[Pair]:
        return [self.planes[i] for i in positions]

    def _combine(
        self, slopes: Sequence[Tensor], offset: Tensor, planes: tuple[Sequence[Tensor], Sequence[Tensor]], side: int
    ) -> Tensor:
        """sum_i k_i plane_i + offset: `planes[0]` where k_i >= 0 and `planes[1]` elsewhere; `side` -1 rounds down."""
        total: Tensor | None = None
        slack = offset.abs() * (2 * self._eps)
        for slope, same, other in zip(slopes, planes[0], planes[1], strict=True):
            k = slope.unsqueeze(1)
            term = torch.where(k >= 0, k * same, k * other)
            slack = slack + self._weight(term) * (8 * self._eps)
            total = term if total is None else total + term
        if total is None:
            raise ValueError("a nonlinear operator without inputs")
        total = total.expand(total.shape[0], total.shape[1], *offset.shape[1:]).clone()
        total[:, -1] += offset + side * (slack + self._tiny)
        return total

    def _constant(self, low: Tensor, high: Tensor) -> Pair:
        columns = low.new_zeros(low.shape[0], self.axes.numel() + 1, *low.shape[1:])
        pair = Pair(columns, columns.clone())
        pair.lower[:, -1], pair.upper[:, -1] = low, high
        return pair

    def stale(self, positions: Sequence[int]) -> Planes:
        """The planes of some nodes in the form that children reuse."""
        nodes: dict[int, NodePlanes] = {}
        for position in positions:
            pair = self.planes[position]
            both = torch.stack([pair.lower, -pair.upper])
            both = both.reshape(*both.shape[:3], -1)  # a number by itself has no axis to flatten
            nodes[position] = NodePlanes(both[:, :, :-1].transpose(2, 3).contiguous(), both[:, :, -1].contiguous())
        return Planes(self.axes, nodes)
