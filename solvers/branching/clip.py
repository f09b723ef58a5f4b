"""Box clipping: a violation must satisfy every lower plane of its clause, which cuts the box.

Source: Clip-and-Verify (2025).
"""

from __future__ import annotations

import torch
from torch import Tensor
from verinet.solvers.query import ClauseTable

from verinet.propagation.backward import InputRows
from verinet.propagation.rows import RowMap


def clip_boxes(
    table: ClauseTable, ids: Tensor, owners: RowMap, rows: InputRows, box: tuple[Tensor, Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Boxes (lower, upper), (domains, inputs) each, that still hold every violation.

    `ids` (rows,) are positions in `table`, `rows` their lower planes (rows, inputs) on the boxes of their `owners`;
    `box` = (lower (domains, inputs), upper (domains, inputs), box numbers (domains,)).
    For g.x + h <= d on the box: x_i <= (d - h - min over the others) / g_i where g_i > 0, and mirrored. Rows of one
    clause intersect, clauses of one domain are united. All divisions are widened outward; where lower > upper the
    domain holds no violation at all. Planes that are not finite cut nothing, nor do inexact weights: their planes
    bound weights that are not quite the written ones.
    """
    lower, upper, number = box
    if table.weight_error:
        return lower, upper
    domain = owners.domain
    low, high = lower[domain], upper[domain]
    g = rows.coefficients
    ends = torch.minimum(g * low, g * high)
    size = (g.abs() * torch.maximum(low.abs(), high.abs())).sum(-1) + rows.constant.abs() + table.bounds[ids].abs()
    slack = size * (1e-14 * (g.shape[1] + 8))
    room = (table.bounds[ids] - rows.constant - ends.sum(-1) + slack).unsqueeze(1) + ends
    limit = room / torch.where(g == 0, torch.ones_like(g), g)
    pad = limit.abs() * 1e-14 + 1e-300
    sane = torch.isfinite(size)
    finite = torch.isfinite(limit) & sane.unsqueeze(1)
    new_high = torch.where((g > 0) & finite, torch.minimum(high, limit + pad), high)
    new_low = torch.where((g < 0) & finite, torch.maximum(low, limit - pad), low)
    # A row whose least value exceeds its bound leaves nothing.
    nothing = ((room - ends) < 0).any(1) & sane
    new_low = torch.where(nothing.unsqueeze(1), torch.full_like(low, torch.inf), new_low)
    return _combine(table, ids, owners, (new_low, new_high), (lower, upper, number))


def _combine(
    table: ClauseTable, ids: Tensor, owners: RowMap, cut: tuple[Tensor, Tensor], box: tuple[Tensor, Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Intersect the cut boxes (rows, inputs) within each clause, then unite the clauses of each domain."""
    lower, upper, number = box
    width = int(table.clauses.max())
    domains, axes = lower.shape
    key = (owners.domain * width + table.clause[ids]).unsqueeze(1).expand(-1, axes)
    lows = lower.new_full((domains * width, axes), -torch.inf).scatter_reduce(0, key, cut[0], "amax")
    highs = upper.new_full((domains * width, axes), torch.inf).scatter_reduce(0, key, cut[1], "amin")
    missing = (torch.arange(width, device=lower.device) >= table.clauses[number].unsqueeze(1)).reshape(-1)
    empty = (lows > highs).any(1) | missing
    lows = lows.masked_fill(empty.unsqueeze(1), torch.inf).reshape(domains, width, axes)
    highs = highs.masked_fill(empty.unsqueeze(1), -torch.inf).reshape(domains, width, axes)
    return torch.maximum(lower, lows.amin(1)), torch.minimum(upper, highs.amax(1))
