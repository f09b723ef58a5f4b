"""Where to split an interval: candidates that the score chooses from, or a table made in advance."""

from __future__ import annotations

import torch
from torch import Tensor
from verinet.solvers.branching.candidates import Place
from verinet.solvers.branching.options import Points

from verinet.ops.scalar import Elementwise
from verinet.ops.scalar_function import DomainError
from verinet.ops.scalar_slopes import middle
from verinet.propagation.interval import Interval

_REACH, _CELLS, _TRIES = 5.0, 40, 50
"""The table covers -5 <= l < u <= 5 in steps of a quarter; so many split points are tried for each pair."""


class Pointing:
    """Split points of nodes by one of the rules; keeps the tables it has made."""

    def __init__(self, rule: Points) -> None:
        self.rule = rule
        self._tables: dict[object, Tensor] = {}

    def __call__(self, places: list[Place], interval: Interval) -> Tensor:
        """Points (kept, *shape, count) strictly inside where possible."""
        low, high = interval
        centre = middle(low, high)
        scalar = [(p.reader, p.reader.op) for p in places if isinstance(p.reader.op, Elementwise)]
        if not scalar:
            return self._widened(centre.unsqueeze(-1), interval)
        columns = [op.branch_points(reader.lowers[0], reader.uppers[0]) for reader, op in scalar]
        if self.rule is Points.MIDDLE:
            return columns[0][..., :1]
        every = torch.cat(columns, -1)
        return (
            self._looked_up(scalar[0][1], interval, every)
            if self.rule is Points.TABLE
            else self._widened(every, interval)
        )

    def _widened(self, points: Tensor, interval: Interval) -> Tensor:
        if self.rule is not Points.WIDE:
            return points
        low, high = interval
        quarters = [low + (high - low) * 0.25, low + (high - low) * 0.75]
        return torch.cat([points, torch.stack(quarters, -1)], -1)

    def _looked_up(self, op: Elementwise, interval: Interval, usual: Tensor) -> Tensor:
        """From the table where the interval lies within its reach, else the first of `usual`; all of them for functions
        without a table."""
        if op.function.piecewise_linear or op.function.parameters:
            return usual
        key = op.function.name
        if key not in self._tables:
            self._tables[key] = _shares(op)
        low, high = interval
        first = ((low.double() + _REACH) * (_CELLS / (2 * _REACH))).ceil().clamp(0, _CELLS).long()
        last = ((high.double() + _REACH) * (_CELLS / (2 * _REACH))).floor().clamp(0, _CELLS).long()
        share = self._tables[key].to(low)[first.to("cpu"), last.to("cpu")].to(low)
        reach = (low >= -_REACH) & (high <= _REACH) & (first < last)
        return torch.where(reach, low + share * (high - low), usual[..., 0]).unsqueeze(-1)


def _shares(op: Elementwise) -> Tensor:
    """Where to split [l, u] for every pair of grid points, as a share of the interval, (cells + 1, cells + 1)."""
    grid = torch.linspace(-_REACH, _REACH, _CELLS + 1, dtype=torch.float64)
    low, high = (t.reshape(-1) for t in torch.meshgrid(grid, grid, indexing="ij"))
    high = torch.maximum(low + 1e-3, high)
    best, least = torch.full_like(low, 0.5), torch.full_like(low, torch.inf)
    for step in range(1, _TRIES):
        point = low + (high - low) * (step / _TRIES)
        try:
            area = _area(op, low, point) + _area(op, point, high)
        except DomainError:  # somewhere on the grid the function does not exist
            break
        better = area < least
        best, least = torch.where(better, step / _TRIES, best), torch.where(better, area, least)
    return best.reshape(_CELLS + 1, _CELLS + 1)


def _area(op: Elementwise, low: Tensor, high: Tensor) -> Tensor:
    """Between the default lines: their gap at the middle, times the width."""
    slope_low, offset_low, slope_high, offset_high = op.lines([low], [high])[:4]
    centre = (low + high) * 0.5
    return ((slope_high - slope_low) * centre + offset_high - offset_low) * (high - low)
