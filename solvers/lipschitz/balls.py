"""Bounds of inner nodes over an l2 ball: Lipschitz constants of the first layers tighten what intervals give.

A number w^T z(x) stays within reach * ||w|| of its value at the centre, where `reach` = radius * (Lipschitz constant up
to z). The enclosing box alone would allow sqrt(inputs) times as much.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from verinet.solvers.lipschitz.chain import Cuts
from verinet.solvers.lipschitz.form import Floats, Matrix
from verinet.solvers.lipschitz.product import lipschitz_between
from verinet.solvers.lipschitz.ranges import Ranges, node_ranges
from verinet.solvers.lipschitz.sparse import linear_piece

from verinet.errors import UnsupportedOperatorError, UsageError
from verinet.ir.graph import Graph
from verinet.numerics.rounding import gamma
from verinet.propagation.interval import interval_pass

_UP = 1 + 1e-14
_LEAST = 1e-250
"""Distances are not taken for smaller than this, so that no product of them loses bits by underflow."""


def ball_box(center: Floats, radius: float) -> tuple[Floats, Floats]:
    """The smallest float64 box around the ball, rounded outward. UsageError unless radius is finite and >= 0."""
    middle = np.asarray(center, dtype=np.float64).reshape(-1)
    if not (0 <= radius < math.inf and np.isfinite(middle).all()):
        raise UsageError(f"not a ball: radius {radius}", hint="a finite centre and a finite radius >= 0")
    return np.nextafter(middle - radius, -np.inf), np.nextafter(middle + radius, np.inf)


def ball_ranges(graph: Graph, center: Floats, radius: float) -> Ranges:
    """Ranges of nodes over all x with ||x - center||_2 <= radius, rounding charged.

    Never wider than over the enclosing box. Raises `DomainError` where the box leaves a function's domain.
    """
    lower, upper = ball_box(center, radius)
    graph = graph.to(torch.float64)
    ranges = node_ranges(graph, lower, upper)
    point = torch.from_numpy(np.array(center, dtype=np.float64).reshape(1, -1))
    middle = interval_pass(graph, point, point)
    reach = radius * _UP + _LEAST
    known = dict(ranges.known)
    for section in Cuts(graph).sections(0, graph.output):
        if section.linear and section.end in known:
            low, high = known[section.end]
            rows = _row_norms(linear_piece(graph, section.order, section.start).matrix())
            spread = torch.from_numpy(rows).reshape(low.shape) * (reach * _UP)
            below, above = middle[section.end][0][0] - spread, middle[section.end][1][0] + spread
            slack = (below.abs() + above.abs() + spread) * 1e-15
            # fmax and fmin: a NaN gives way to the bound of the box.
            known[section.end] = (torch.fmax(low, below - slack), torch.fmin(high, above + slack))
        try:
            growth = lipschitz_between(graph, (section.start, section.end), replace(ranges, known=known))
        except UnsupportedOperatorError:
            break  # what lies behind keeps the bounds of the box
        reach = max(reach * growth * _UP, _LEAST)
    return replace(ranges, known=known)


def _row_norms(matrix: Matrix) -> Floats:
    """At least the 2-norm of every row of the true matrix, dense or sparse."""
    size = abs(matrix.value) if matrix.radius is None else abs(matrix.value) + matrix.radius
    squares = size.multiply(size) if hasattr(size, "multiply") else size * size
    sums: Floats = np.asarray(squares.sum(1), dtype=np.float64).reshape(-1)
    return np.asarray(np.sqrt(sums) * (1 + gamma(matrix.value.shape[1] + 8, torch.float64)) + 1e-150)
