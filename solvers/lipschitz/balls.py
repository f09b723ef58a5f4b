"""Bounds of inner nodes over an l2 ball: Lipschitz constants of the first layers tighten what intervals give.

A number w^T z(x) stays within reach * ||w|| of its value at the centre, where `reach` = radius * (Lipschitz constant up
to z). The enclosing box alone would allow sqrt(inputs) times as much. Rows over the inputs, a x + b, are at least
a c + b - radius * ||a|| (Cauchy and Schwarz).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from verinet.solvers.lipschitz.chain import Cuts
from verinet.solvers.lipschitz.form import Floats, Matrix
from verinet.solvers.lipschitz.product import lipschitz_between
from verinet.solvers.lipschitz.ranges import Pair, Ranges, check_box, node_ranges, swept
from verinet.solvers.lipschitz.sparse import linear_piece

from verinet.errors import ModelError, UsageError
from verinet.ir.graph import Graph
from verinet.numerics.rounding import gamma
from verinet.propagation.backward import Backward, InputRows
from verinet.propagation.interval import Interval, interval_pass
from verinet.propagation.rows import RowMap
from verinet.propagation.sweep import ranges as interval_ranges

_UP = 1 + 1e-14
_LEAST = 1e-250
"""Distances are not taken for smaller than this, so that no product of them loses bits by underflow."""


def ball_box(center: Floats, radius: float) -> tuple[Floats, Floats]:
    """The smallest float64 box around the ball, rounded outward. UsageError unless radius is finite and >= 0."""
    middle = np.asarray(center, dtype=np.float64).reshape(-1)
    if not (0 <= radius < math.inf and np.isfinite(middle).all()):
        raise UsageError(f"not a ball: radius {radius}", hint="a finite centre and a finite radius >= 0")
    return np.nextafter(middle - radius, -np.inf), np.nextafter(middle + radius, np.inf)


class BallBackward(Backward):
    """Backward rows over a ball in the 2-norm within the box that is asked about: the better of both bounds."""

    def __init__(self, graph: Graph, ranges: Sequence[Interval], ball: tuple[Tensor, float]) -> None:
        super().__init__(graph, ranges)
        self.center, self.radius = ball

    @classmethod
    def over(cls, graph: Graph, center: Floats, radius: float) -> BallBackward:
        """For the ball about `center` (inputs,); raises `DomainError` as `node_ranges` does."""
        low, high = (torch.from_numpy(end.copy()).unsqueeze(0) for end in ball_box(center, radius))
        middle = torch.from_numpy(np.array(center, dtype=np.float64).reshape(-1))
        return cls(graph, interval_ranges(graph, low, high), (middle, reach_of(radius)))

    def concretize(self, bound: InputRows, owners: RowMap, lower: Tensor, upper: Tensor) -> Tensor:
        box = super().concretize(bound, owners, lower, upper)
        rows, charge = bound.coefficients, gamma(self.graph.input_size + 8, self.dtype)
        at_center, spread = rows @ self.center, (rows.norm(dim=1) * (1 + charge) + 1e-150) * self.radius
        # The centre is no larger than the largest input of the box; three sums round.
        lost = (rows.abs() @ self.center.abs()) * (2 * charge) + (spread + bound.constant.abs()) * 1e-15
        ball = at_center + bound.constant - spread - lost - 1e-280
        return torch.fmax(box, ball)


def ball_ranges(graph: Graph, center: Floats, radius: float) -> Ranges:
    """Ranges of nodes over all x with ||x - center||_2 <= radius, rounding charged.

    Never wider than over the enclosing box. Raises `DomainError` where the box leaves a function's domain.
    """
    lower, upper = ball_box(center, radius)
    graph = graph.to(torch.float64)
    low, high = check_box(graph, lower, upper)
    ranges = swept(BallBackward.over(graph, center, radius), (low, high), node_ranges(graph, lower, upper))
    point = torch.from_numpy(np.array(center, dtype=np.float64).reshape(1, -1))
    middle = interval_pass(graph, point, point)
    reach = reach_of(radius)
    known = dict(ranges.known)
    for section in Cuts(graph).sections(0, graph.output):
        if section.linear and section.end in known:
            rows = row_norms(linear_piece(graph, section.order, section.start).matrix())
            known[section.end] = within(known[section.end], middle[section.end], torch.from_numpy(rows) * (reach * _UP))
        try:
            growth = lipschitz_between(graph, (section.start, section.end), replace(ranges, known=known))
        except ModelError:
            break  # what lies behind keeps the bounds of the box
        reach = max(reach * growth * _UP, _LEAST)
    return replace(ranges, known=known)


def reach_of(distance: float) -> float:
    """At least the distance, and not so small that products with it lose bits by underflow."""
    return distance * _UP + _LEAST


def within(bounds: Pair, centre: Interval, spread: Tensor) -> Pair:
    """Bounds of numbers that are within `spread` (flat) of their values at the centre, (1, *shape) bounds."""
    low, high = bounds
    spread = spread.reshape(low.shape)
    below, above = centre[0][0] - spread, centre[1][0] + spread
    slack = (below.abs() + above.abs() + spread) * 1e-15
    # A NaN gives way to the bound that was there.
    return torch.fmax(low, below - slack), torch.fmin(high, above + slack)


def row_norms(matrix: Matrix) -> Floats:
    """At least the 2-norm of every row of the true matrix, dense or sparse."""
    size = abs(matrix.value) if matrix.radius is None else abs(matrix.value) + matrix.radius
    squares = size.multiply(size) if hasattr(size, "multiply") else size * size
    sums: Floats = np.asarray(squares.sum(1), dtype=np.float64).reshape(-1)
    return np.asarray(np.sqrt(sums) * (1 + gamma(matrix.value.shape[1] + 8, torch.float64)) + 1e-150)
