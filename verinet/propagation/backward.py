"""Backward linear bound propagation of one-sided rows over any DAG, with the rounding charged.

A row is a linear functional of one node. Walking the ancestors in reverse topological order, linear operators are
replaced by their adjoints and nonlinear ones by the line that the sign of the coefficient selects, so that the value
stays a lower bound (Zhang et al. 2018, CROWN; Xu et al. 2020 for general graphs). At joins contributions add up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from verinet.ir.graph import Graph, total
from verinet.numerics.rounding import gamma, tiny, unit_roundoff
from verinet.ops.base import LinearOp, Lines, NonlinearOp
from verinet.propagation.interval import Interval
from verinet.propagation.rows import RowMap


@dataclass(frozen=True, slots=True)
class SplitRows:
    """Split constraints sign * (z - point) >= 0 on one node, one per entry; `row` and `index` say where."""

    row: Tensor  # (k,) int64
    index: Tensor  # (k,) int64, flat entry of the node
    sign: Tensor  # (k,)
    point: Tensor  # (k,)
    beta: Tensor  # (k,) >= 0, the multiplier (beta of Wang et al. 2021, any split point as in Shi et al. 2025)


@dataclass(frozen=True, slots=True)
class InputRows:
    """`coefficients @ x + constant` is a lower bound of each row on its domain; rounding is already in `constant`."""

    coefficients: Tensor  # (rows, inputs)
    constant: Tensor  # (rows,)


@dataclass(slots=True)
class Trace:
    """Coefficients met at the outputs of nonlinear nodes, for the relaxed forward pass."""

    rows: dict[int, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Relaxation:
    """Lines for every nonlinear node: per domain (domains, ...) or, where `per_row`, per row (rows, ...)."""

    lines: Mapping[int, Lines]
    per_row: bool = False


class Backward:
    """Backward passes over one graph whose node values are known to stay within `ranges`.

    `ranges` holds bounds of every node that are valid over every domain this object will be asked about; they only
    size the rounding charge (bound_propagation note 6.2): with a' = fl(a W) taken as the new coefficient, the error
    |(a W - a') x| <= gamma |a| (|W| |x|) is one dot product per row and node.

    Without `charged` nothing is subtracted for rounding: for an engine that only looks for multipliers and decides
    nothing. In float32 the charge may be larger than what is missing.
    """

    def __init__(self, graph: Graph, ranges: Sequence[Interval], *, charged: bool = True) -> None:
        self.graph, self.charged = graph, charged
        self._orders: dict[int, tuple[int, ...]] = {}
        self._magnitudes = [torch.maximum(lo.abs(), hi.abs()).amax(0) for lo, hi in ranges]
        nodes = range(len(graph.nodes))
        self._charges = [self._charge(v) if charged else None for v in nodes]
        self._joins = [self._join(v) if charged else None for v in nodes]
        self._underflows: dict[int, Tensor] = {}

    @property
    def dtype(self) -> torch.dtype:
        return self._magnitudes[0].dtype

    @property
    def device(self) -> torch.device:
        return self._magnitudes[0].device

    @property
    def magnitudes(self) -> Sequence[Tensor]:
        """Largest |value| of every node over all domains, (*shape) each."""
        return self._magnitudes

    def output_size(self) -> Tensor:
        """Largest |y| of every output over all domains, (outputs,)."""
        return self._magnitudes[-1]

    def _charge(self, position: int) -> Tensor | None:
        """Per entry, the error that one unit of |coefficient| at this node can cause, flattened."""
        graph, node, unit = self.graph, self.graph.nodes[position], unit_roundoff(self.dtype)
        size = self._magnitudes[position]
        readers = graph.consumers[position]
        # A single nonlinear reader hands over products with slopes: two roundings, one more for split multipliers.
        charge = size * (4 * unit) if any(_nonlinear(graph, r) for r in readers) else None
        if isinstance(node.op, LinearOp) and not node.op.moves_only:
            shapes = graph.input_shapes(position)
            spread = node.op.magnitude(*(self._magnitudes[i].unsqueeze(0) for i in node.inputs))[0]
            offset = node.op.bias()
            spread = spread if offset is None else spread + offset.abs()
            local = spread.expand(node.shape) * (
                2 * gamma(node.op.terms(shapes, node.shape) + total(node.shape), self.dtype)
            )
            charge = local if charge is None else charge + local
        elif isinstance(node.op, LinearOp):
            local = size * (2 * gamma(4 + _copies(graph, position), self.dtype))
            charge = local if charge is None else charge + local
        # What underflows here may meet a coefficient of any size.
        return None if charge is None else charge.reshape(-1) + torch.finfo(self.dtype).tiny

    def _underflow(self, start: int) -> Tensor:
        """What coefficients that underflow can cost a row of `start`: each meets the node's value, however large."""
        if start not in self._underflows:
            sizes = torch.stack([self._magnitudes[v].sum() for v in self.order(start)])
            self._underflows[start] = (1 + sizes.sum()) * tiny(self.dtype)
        return self._underflows[start]

    def _join(self, position: int) -> Tensor | None:
        """Error per unit of |coefficient| of each part that is added up at a node with several readers.

        Parts can cancel, so the charge is taken on every part and not on their sum.
        """
        readers = len(self.graph.consumers[position])
        if readers < 2:
            return None
        return (self._magnitudes[position] * (unit_roundoff(self.dtype) * (readers + 4))).reshape(-1)

    @property
    def _unit(self) -> float:
        return unit_roundoff(self.dtype) if self.charged else 0.0

    def _gamma(self, terms: int) -> float:
        return gamma(terms, self.dtype) if self.charged else 0.0

    def order(self, start: int) -> tuple[int, ...]:
        if start not in self._orders:
            self._orders[start] = self.graph.ancestors(start)
        return self._orders[start]

    def run(
        self,
        start: int,
        rows: Tensor,
        owners: RowMap,
        relaxation: Relaxation,
        splits: Mapping[int, SplitRows] | None = None,
        trace: Trace | None = None,
    ) -> InputRows:
        """Lower-bound `rows` (rows, *shape of start) by affine functions of the input."""
        count = rows.shape[0]
        constant = rows.new_zeros(count)
        error = rows.new_zeros(count)
        pending: dict[int, Tensor] = {start: rows}
        for position in self.order(start):
            current = pending.pop(position, None)
            if splits and position in splits:
                current = self._add_splits(position, current, constant, error, splits[position])
            if current is None:
                continue
            if position == 0:
                pending[0] = current
                break
            charge = self._charges[position]
            if charge is not None:
                error += current.reshape(count, -1).abs() @ charge
            node = self.graph.nodes[position]
            if isinstance(node.op, LinearOp):
                parts = self._linear(position, current, (constant, error))
            else:
                if trace is not None:
                    trace.rows[position] = current
                parts = self._relax(position, current, owners, relaxation, (constant, error))
            for source, part in zip(node.inputs, parts, strict=True):
                join = self._joins[source]
                if join is not None:
                    error += part.reshape(count, -1).abs() @ join
                pending[source] = pending[source] + part if source in pending else part
        final = pending.get(0)
        coefficients = rows.new_zeros(count, self.graph.input_size) if final is None else final
        loss = error * 1.001 + self._underflow(start) if self.charged else 0.0
        return InputRows(coefficients, constant - loss)

    def _linear(self, position: int, current: Tensor, sums: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        node = self.graph.nodes[position]
        op = node.op
        if not isinstance(op, LinearOp):
            raise TypeError(node.name)
        offset = op.bias()
        if offset is not None:
            constant, error = sums
            constant += current.reshape(current.shape[0], -1) @ offset.expand(node.shape).reshape(-1)
            error += constant.detach().abs() * (2 * self._unit)
        return op.pullback(current, self.graph.input_shapes(position))

    def _relax(
        self, position: int, current: Tensor, owners: RowMap, relaxation: Relaxation, sums: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, ...]:
        node = self.graph.nodes[position]
        op = node.op
        if not isinstance(op, NonlinearOp):
            raise TypeError(node.name)
        constant, error = sums
        lines = relaxation.lines[position]
        if relaxation.per_row:
            pulled = op.pull(current, lines)
            parts, offset, size = pulled.rows, pulled.offset, pulled.magnitude
        else:
            pulled = op.pull(owners.fold(current), tuple(owners.spread(t) for t in lines))
            parts = tuple(owners.flat(p) for p in pulled.rows)
            offset, size = pulled.offset.reshape(-1), pulled.magnitude.reshape(-1)
        constant += offset
        # The offsets' own sum and its addition to the running constant.
        error += size * self._gamma(total(node.shape) + 8) + constant.detach().abs() * (4 * self._unit)
        return parts

    def _add_splits(
        self, position: int, current: Tensor | None, constant: Tensor, error: Tensor, splits: SplitRows
    ) -> Tensor:
        node = self.graph.nodes[position]
        if current is None:
            current = constant.new_zeros(constant.shape[0], *node.shape)
        flat = current.reshape(current.shape[0], -1).clone()
        flat.index_put_((splits.row, splits.index), -splits.beta * splits.sign, accumulate=True)
        shift = splits.beta * splits.sign * splits.point
        constant.index_add_(0, splits.row, shift)
        error.index_add_(0, splits.row, shift.abs() * (16 * self._unit))
        # Joins of at most 64 multipliers on one entry; the node's own range sizes the rounding.
        size = self._magnitudes[position].reshape(-1)[splits.index]
        error.index_add_(0, splits.row, splits.beta * size * (64 * self._unit))
        return flat.reshape(current.shape)

    def concretize(self, bound: InputRows, owners: RowMap, lower: Tensor, upper: Tensor) -> Tensor:
        """Least value (rows,) of each row over its domain's box, rounding charged. Boxes are (domains, inputs).

        Minus infinity where the arithmetic overflows.
        """
        coefficients = owners.fold(bound.coefficients)
        low, high = owners.spread(lower), owners.spread(upper)
        value = torch.where(coefficients >= 0, coefficients * low, coefficients * high).sum(-1).reshape(-1)
        size = bound.coefficients.abs() @ self._magnitudes[0]
        least = (
            value
            + bound.constant
            - size * self._gamma(self.graph.input_size + 8)
            - value.abs() * 4 * self._unit
            - bound.constant.abs() * (4 * self._unit)
        )
        # An overflow ends here as a NaN, for which every comparison is false: it could pass for "not open".
        return torch.where(least.isnan(), torch.full_like(least, -torch.inf), least)

    def corner(self, bound: InputRows, owners: RowMap, lower: Tensor, upper: Tensor) -> Tensor:
        """The input at which `concretize` attains its value, (rows, inputs)."""
        coefficients = owners.fold(bound.coefficients)
        point = torch.where(coefficients >= 0, owners.spread(lower), owners.spread(upper))
        return owners.flat(point)

    def relaxed_forward(
        self, start: int, point: Tensor, relaxation: Relaxation, trace: Trace, owners: RowMap
    ) -> dict[int, Tensor]:
        """Values of all ancestors of `start` when nonlinear nodes follow their selected lines, (rows, ...)."""
        values: dict[int, Tensor] = {0: point}
        for position in reversed(self.order(start)):
            if position == 0:
                continue
            node = self.graph.nodes[position]
            inputs = [values[i] for i in node.inputs]
            if isinstance(node.op, NonlinearOp):
                lines = relaxation.lines[position]
                if not relaxation.per_row:
                    lines = tuple(owners.gather(t) for t in lines)
                rows = trace.rows.get(position)
                rows = inputs[0].new_zeros(()) if rows is None else rows
                values[position] = node.op.push(rows, lines, *inputs)
            else:
                values[position] = node.op.forward(*inputs)
        return values


def _nonlinear(graph: Graph, position: int) -> bool:
    return isinstance(graph.nodes[position].op, NonlinearOp)


def _copies(graph: Graph, position: int) -> int:
    """An input entry may be copied to at most all output entries."""
    return total(graph.nodes[position].shape)
