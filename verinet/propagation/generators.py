"""Zonotopes around the values of one node over a box: what its entries have in common.

Every nonlinear node is put between parallel planes (`parallel`), and rows for the entries of one node are pulled back
to the input. What they collect on the way is the same error for all of them, so they share its symbol: the node's
values are middle + G xi with |xi_s| <= 1, one symbol per input and per entry of every nonlinear node before it (Singh
et al. 2018, "Fast and Effective Robustness Certification", there propagated forward).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from verinet.errors import InternalError
from verinet.ir.graph import Graph, total
from verinet.numerics.rounding import gamma, tiny
from verinet.ops.base import NonlinearOp
from verinet.propagation.backward import Backward, Relaxation, Trace
from verinet.propagation.ends import seen
from verinet.propagation.interval import Interval
from verinet.propagation.parallel import Parallel, parallel
from verinet.propagation.rows import RowMap


class Generators(Backward):
    """Backward passes through parallel planes, over one box, where `known` bounds the inputs of all nonlinear nodes."""

    def __init__(self, graph: Graph, ranges: Sequence[Interval], known: Mapping[int, Interval]) -> None:
        super().__init__(graph, ranges)
        self._box = ranges[0]
        self._known = known
        self._planes: dict[int, Parallel] = {}
        self._sums: tuple[Tensor, Tensor]  # of the last pass: constants, and the charge that holds on both sides

    def around(self, node: int) -> tuple[Tensor, Tensor]:
        """Middle (entries,) and generators (entries, symbols) of the values of a node; rounding has symbols, too."""
        middle, parts, error = self._collected(node)
        whole = torch.cat([*parts.values(), torch.diag(error)], 1)
        return middle, whole[:, (whole != 0).any(0)]

    def pair(self, first: int, second: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """The same for two nodes with symbols in common."""
        (one, mine, lost), (two, its, missed) = self._collected(first), self._collected(second)
        for key in {**mine, **its}:
            mine.setdefault(key, lost.new_zeros(lost.numel(), its[key].shape[1] if key in its else 0))
            its.setdefault(key, missed.new_zeros(missed.numel(), mine[key].shape[1]))
        keys = sorted(mine)
        a = torch.cat([*(mine[k] for k in keys), torch.diag(lost), lost.new_zeros(lost.numel(), missed.numel())], 1)
        b = torch.cat([*(its[k] for k in keys), lost.new_zeros(missed.numel(), lost.numel()), torch.diag(missed)], 1)
        used = (a != 0).any(0) | (b != 0).any(0)
        return (one, a[:, used]), (two, b[:, used])

    def _collected(self, node: int) -> tuple[Tensor, dict[int, Tensor], Tensor]:
        """Middle (entries,), generators (entries, symbols) by the node their symbols belong to, and the rounding."""
        shape, dtype = self.graph.nodes[node].shape, self.dtype
        count, trace = total(shape), Trace()
        rows = torch.eye(count, dtype=dtype, device=self.device).reshape(count, *shape)
        owners = RowMap.regular(1, count, rows.device)
        self._sums = rows.new_zeros(count), rows.new_zeros(count)  # what the input itself has
        slopes = self.run(node, rows, owners, Relaxation({}), trace=trace).coefficients
        constant, charge = self._sums
        low, high = (t[0] for t in self._box)
        centre = (low + high) * 0.5
        radius = torch.maximum(high - centre, centre - low) * (1 + 4 * torch.finfo(dtype).eps)
        middle = constant + slopes @ centre
        size = slopes.abs() @ (radius + centre.abs()) + constant.abs()
        error = charge * 1.001 + size * (4 * gamma(slopes.shape[1] + 16, dtype)) + tiny(dtype)
        parts = {0: slopes * radius}
        for position, coefficients in trace.rows.items():
            parts[position] = coefficients.reshape(count, -1) * self._plane(position).radius.reshape(1, -1)
        # Products with radii were rounded, each entry of a generator by itself.
        lost = sum((g.abs().sum(1) for g in parts.values()), torch.zeros_like(error))
        return middle, parts, error + lost * (8 * torch.finfo(self.dtype).eps)

    def _linear(self, position: int, current: Tensor, sums: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        self._sums = sums
        return super()._linear(position, current, sums)

    def _relax(
        self, position: int, current: Tensor, owners: RowMap, relaxation: Relaxation, sums: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, ...]:
        planes, count = self._plane(position), current.shape[0]
        self._sums = constant, error = sums
        flat, charge = current.reshape(count, -1), gamma(4 * total(planes.size.shape) + 64, self.dtype)
        constant += flat @ planes.middle.reshape(-1)
        error += flat.abs() @ (planes.size.reshape(-1) * charge) + constant.abs() * (4 * torch.finfo(self.dtype).eps)
        return planes.pull(current)

    def _plane(self, position: int) -> Parallel:
        if position not in self._planes:
            node = self.graph.nodes[position]
            if not isinstance(node.op, NonlinearOp):
                raise InternalError(f"node '{node.name}' is not nonlinear")
            lowers, uppers = seen(node.op, [self._known[i] for i in node.inputs])
            shape = (1, *node.shape)
            found = parallel(node.op, list(zip(lowers, uppers, strict=True)))
            self._planes[position] = Parallel(found.pull, *(t.expand(shape) for t in found[1:]))
        return self._planes[position]
