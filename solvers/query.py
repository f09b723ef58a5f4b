"""A query in tensors: the boxes, and the rows of all clauses grouped by box."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from verinet.errors import PropertyError
from verinet.ir.graph import Graph
from verinet.numerics.rounding import gamma, tiny
from verinet.propagation.rows import RowMap
from verinet.spec.property import Property

MAX_DENSE_ROWS = 200_000_000  # entries of the dense row matrix


@dataclass(frozen=True)
class ClauseTable:
    """All rows `weights @ y <= bounds`, sorted by box and clause.

    A clause is refuted on a domain when one of its rows is bounded from below by more than its bound; a domain is
    closed when all clauses of its box are refuted.
    """

    weights: Tensor  # (rows, outputs)
    bounds: Tensor  # (rows,)
    strict: Tensor  # (rows,) bool
    weight_error: float
    clause: Tensor  # (rows,) clause number within its box
    starts: Tensor  # (boxes + 1,) first row of each box
    clauses: Tensor  # (boxes,) number of clauses of each box

    def rows_of(self, box: Tensor) -> tuple[Tensor, RowMap]:
        """Row numbers (rows,) and owners for domains that lie in the boxes named, (domains,)."""
        counts = self.starts[box + 1] - self.starts[box]
        domains = int(box.numel())
        if self.starts.numel() == 2:
            per = int(self.starts[1])
            return torch.arange(per, device=box.device).repeat(domains), RowMap.regular(domains, per, box.device)
        owner = torch.arange(domains, device=box.device).repeat_interleave(counts)
        first = (counts.cumsum(0) - counts).repeat_interleave(counts)
        within = torch.arange(owner.numel(), device=box.device) - first
        ids = self.starts[box].repeat_interleave(counts) + within
        if bool((counts == counts[:1]).all()):
            return ids, RowMap(owner, domains, int(counts[0]))
        return ids, RowMap.ragged(owner, domains)

    def margins(self, ids: Tensor, lower: Tensor, output_size: Tensor) -> Tensor:
        """How far each row is above its bound, rounded down; > 0 refutes its clause.

        `ids` (rows,) are positions in the table; `lower` (rows,) bounds weights @ y from below; `output_size`
        (outputs,) is max |y|, for inexact weights. Returns (rows,), minus infinity where `lower` is not a number.
        """
        eps = torch.finfo(lower.dtype).eps
        bound = self.bounds[ids]
        margin = lower - bound
        margin = margin - (lower.abs() + bound.abs()) * (2 * eps)
        if self.weight_error:
            margin = margin - (self.weights[ids].abs() @ output_size) * (self.weight_error * 1.01)
        else:
            # A strict row `w y < d` is already impossible at w y = d: make equality count as positive.
            margin = torch.where(self.strict[ids] & (lower == bound), torch.full_like(margin, 1e-300), margin)
        # An overflow proves nothing: it must neither refute nor, as a NaN, slip through a comparison.
        return torch.where(margin.isnan(), torch.full_like(margin, -torch.inf), margin)

    def interval_rows(self, ids: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """Lower bounds (rows,) of weights @ y from bounds (rows or 1, outputs) of y alone, rounding charged."""
        weights = self.weights[ids]
        value = torch.where(weights >= 0, weights * low, weights * high).sum(-1)
        size = (weights.abs() * torch.maximum(low.abs(), high.abs())).sum(-1)
        charge = size * gamma(weights.shape[1] + 8, weights.dtype) + tiny(weights.dtype)
        # A row that only picks an output, or its negative, rounds nothing: `softmax >= 0` holds with no room to spare.
        picks = ((weights == 0) | (weights.abs() == 1)).all(-1) & ((weights != 0).sum(-1) <= 1)
        return value - torch.where(picks, torch.zeros_like(charge), charge)

    def domain_margins(self, box: Tensor, ids: Tensor, owners: RowMap, margins: Tensor) -> tuple[Tensor, Tensor]:
        """(domains,) min over clauses of max over rows, and the table (domains, clauses) of clause margins.

        `box` is (domains,), `ids` and `margins` are (rows,). A clause without rows has margin minus infinity.
        """
        width = int(self.clauses.max())
        table = margins.new_full((box.numel() * width,), -torch.inf)
        key = owners.domain * width + self.clause[ids]
        table = table.scatter_reduce(0, key, margins, "amax").reshape(box.numel(), width)
        missing = torch.arange(width, device=box.device) >= self.clauses[box].unsqueeze(1)
        table = table.masked_fill(missing, torch.inf)
        return table.amin(1), table


@dataclass(frozen=True)
class Query:
    """Everything the searches share. Tensors are float64 on the search device."""

    graph: Graph
    lower: Tensor  # (boxes, inputs)
    upper: Tensor
    table: ClauseTable
    prop: Property
    clock: Clock

    @property
    def boxes(self) -> int:
        return int(self.lower.shape[0])


@dataclass(frozen=True)
class Clock:
    """One clock for all searches: seconds left, and a flag from outside."""

    now: Callable[[], float]
    deadline: float
    stop: Callable[[], bool] | None = None

    def left(self) -> float:
        return self.deadline - self.now()

    def over(self) -> bool:
        return self.left() <= 0 or (self.stop is not None and self.stop())

    def until(self, seconds: float) -> Clock:
        """A clock for one phase: at most `seconds` from now."""
        return Clock(self.now, min(self.deadline, self.now() + seconds), self.stop)


def clause_table(prop: Property, device: torch.device) -> ClauseTable:
    """Dense float64 rows of a property, sorted by box. Raises `PropertyError` for too many rows or for NaN."""
    order = sorted(range(len(prop.clauses)), key=lambda i: prop.clauses[i].box)
    total = sum(len(prop.clauses[i].rows) for i in order)
    if total * prop.outputs > MAX_DENSE_ROWS:
        raise PropertyError(
            f"the property has {total} rows over {prop.outputs} outputs, more than fit in memory",
            where=prop.name,
            hint="split the property into several files",
        )
    weights = np.zeros((total, prop.outputs))
    bounds, strict, clause = np.zeros(total), np.zeros(total, dtype=bool), np.zeros(total, dtype=np.int64)
    per_box = np.zeros(len(prop.boxes), dtype=np.int64)
    rows_per_box = np.zeros(len(prop.boxes), dtype=np.int64)
    cursor = 0
    for position in order:
        item = prop.clauses[position]
        rows, count = item.rows, len(item.rows)
        if not np.isfinite(rows.values).all() or np.isnan(rows.bounds).any():
            raise PropertyError("a row of the property has a weight or a bound that is not a number", where=prop.name)
        part = slice(cursor, cursor + count)
        lengths = np.diff(rows.starts)
        np.add.at(weights, (np.repeat(np.arange(cursor, cursor + count), lengths), rows.columns), rows.values)
        bounds[part], strict[part], clause[part] = rows.bounds, rows.strict, per_box[item.box]
        per_box[item.box] += 1
        rows_per_box[item.box] += count
        cursor += count
    error = max((c.rows.weight_error for c in prop.clauses), default=0.0)
    starts = np.concatenate([[0], np.cumsum(rows_per_box)])
    return ClauseTable(
        torch.from_numpy(weights).to(device),
        torch.from_numpy(bounds).to(device),
        torch.from_numpy(strict).to(device),
        error,
        torch.from_numpy(clause).to(device),
        torch.from_numpy(starts).to(device),
        torch.from_numpy(per_box).to(device),
    )
