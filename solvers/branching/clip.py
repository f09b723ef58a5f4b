"""Clipping: a violation must satisfy every lower plane of its clause, which cuts the box and inner bounds.

Source: Clip-and-Verify (2025), relaxed clipping of boxes and complete clipping of the bounds of inner neurons.
"""

from __future__ import annotations

import torch
from torch import Tensor
from verinet.solvers.branching.concretise import AffineNodes, HalfSpaces, below
from verinet.solvers.query import ClauseTable, Query

from verinet.propagation.backward import Backward, InputRows
from verinet.propagation.interval import Interval
from verinet.propagation.rows import RowMap
from verinet.propagation.sweep import Sweeper

MOST_ROWS = 3  # final rows per leaf that are used as half-spaces
WORTHWHILE = 0.05  # part of the width of undecided intervals: 0.01 is seen where clipping is no use, 0.3 where it is


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


class LeafClipper:
    """Keeps, for every leaf of neuron splitting, sharper bounds of the nodes that are affine in the input.

    A leaf inherits its parent's bounds. Once it is bounded and stays open they are sharpened by two kinds of
    half-spaces: its newest split literals, and its certified final rows, which must not exceed the clause's bounds.
    Both hold at every violation in the leaf, so the new bounds do, here and below. Crossing bounds refute the leaf.
    """

    def __init__(self, query: Query, gate: Backward, known: dict[int, Interval]) -> None:
        self._table = query.table
        self._sweeper = Sweeper(gate)
        exact = self._sweeper.exact
        # Rows whose weights are not quite the written ones say nothing about the written ones.
        usable = tuple(v for v in sorted(known) if v in exact) if query.table.weight_error == 0.0 else ()
        self.affine = AffineNodes(gate, usable)
        self._turn, self._pays = 0, True

    @property
    def useful(self) -> bool:
        """Whether the next batch should be clipped: while that pays, and now and then to see whether it does."""
        return bool(self.affine.planes) and (self._pays or self._turn & (self._turn - 1) == 0)

    @property
    def pays(self) -> bool:
        """Whether the last batch that was clipped won enough."""
        return self._pays

    def skip(self) -> None:
        """A batch was not clipped."""
        self._turn += 1

    def cuts(self, before: dict[int, Interval], after: dict[int, Interval]) -> HalfSpaces | None:
        """What the literals of leaves say that their inherited bounds do not: `after` is `before` cut by literals."""
        return self.affine.cuts(before, after)

    def sharpen(
        self, known: dict[int, Interval], cuts: HalfSpaces | None, rows: InputRows, ids: Tensor, box: Interval
    ) -> tuple[dict[int, Interval], Tensor]:
        """Bounds (domains, *shape) of open leaves, and which leaves (domains,) are refuted.

        `known` are bounds that hold now, `rows` certified lower planes (domains * per, inputs) of the table's rows
        `ids`, and `box` is (domains or 1, inputs).
        """
        inside = {v: known[v] for v in self.affine.planes}
        domains = next(iter(inside.values()))[0].shape[0]
        offset = below(rows.constant, self._table.bounds[ids]).reshape(domains, -1)[:, :MOST_ROWS]
        normal = rows.coefficients.reshape(domains, -1, rows.coefficients.shape[1])[:, :MOST_ROWS]
        final = HalfSpaces(normal, offset)
        spaces = final if cuts is None else HalfSpaces.join([cuts, final])
        mask = {v: self._sweeper.undecided(v, inside, inside[v]) for v in inside}
        kept = self.affine.tighten(inside, mask, spaces, box)
        refuted = torch.stack([(lo > hi).reshape(domains, -1).any(1) for lo, hi in kept.values()]).any(0)
        self._judge(inside, kept, mask, refuted)
        return kept, refuted

    def _judge(
        self, old: dict[int, Interval], new: dict[int, Interval], mask: dict[int, Tensor], refuted: Tensor
    ) -> None:
        """It pays while undecided intervals lose a good part of their width, a refuted leaf counting in full."""
        before = sum((_width(old[v], mask[v]) for v in old), torch.zeros_like(refuted, dtype=torch.float64))
        after = sum((_width(new[v], mask[v]) for v in old), torch.zeros_like(before))
        lost = torch.where(refuted | (before <= 0), refuted.double(), 1 - after / before.clamp(min=1e-300))
        self._pays = float(lost.mean()) >= WORTHWHILE
        self._turn += 1


def _width(pair: Interval, mask: Tensor) -> Tensor:
    """Sum (domains,) of the widths of marked entries."""
    width = (pair[1] - pair[0]).clamp(min=0)
    return torch.where(mask, width, torch.zeros_like(width)).reshape(width.shape[0], -1).sum(1).double()
