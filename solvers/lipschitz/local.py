"""Local bounds in rounds: ranges give slopes, slopes give certified bounds of the first layers, those give ranges.

Every input of the region is within `radius` of its centre, which belongs to the region, so a node with the certified
Lipschitz bound L over the region stays within L * radius of its value at the centre. These balls are intersected with
the ranges of bound propagation, which is then repeated with the better ranges (as ECLipsE-Gen-Local does layer by
layer: Xu et al. 2025, arXiv 2510.05261). Each step only intersects what holds: rounds may end at any time.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor
from verinet.solvers.lipschitz.balls import BallBackward, ball_box, ball_ranges, reach_of, row_norms, within
from verinet.solvers.lipschitz.chain import Cuts
from verinet.solvers.lipschitz.form import Floats
from verinet.solvers.lipschitz.menu import Ask, Candidate, bounds_by_menu
from verinet.solvers.lipschitz.ranges import Ranges, check_box, node_ranges, swept
from verinet.solvers.lipschitz.sparse import linear_piece
from verinet.solvers.lipschitz.subjects import LAYERED, network_subject, size_of

from verinet.errors import InternalError, VerinetError
from verinet.ir.graph import Graph, Node, total
from verinet.ops.shape.reshape import Reshape
from verinet.propagation.backward import Backward
from verinet.propagation.interval import Interval, interval_pass
from verinet.propagation.sweep import build_backward

ROUNDS = 6
ENOUGH = 0.99  # a bound that shrinks by less than this factor ends the rounds
SHARE = 0.5  # of the time that is left, for all rounds
INTERIOR = 700  # channels and inputs up to which a part of the network gets one multiplier per neuron


@dataclass(frozen=True)
class Zone:
    """A convex region: the box [lower, upper], or the ball within it. `center` is in it, `radius` reaches all of it."""

    lower: Floats
    upper: Floats
    center: Floats
    radius: float
    ball: bool


def box_zone(lower: Floats, upper: Floats) -> Zone:
    """A box (inputs,), with the smallest ball around it."""
    lower, upper = (np.asarray(end, dtype=np.float64).reshape(-1) for end in (lower, upper))
    center = np.clip(0.5 * lower + 0.5 * upper, lower, upper)
    half = np.maximum(upper - center, center - lower)
    radius = math.sqrt(float(half @ half)) * (1 + 2.0**-50 * (half.size + 4)) + 1e-150
    return Zone(lower, upper, center, radius, False)


def ball_zone(center: Floats, radius: float) -> Zone:
    """All x with ||x - center||_2 <= radius."""
    middle = np.asarray(center, dtype=np.float64).reshape(-1)
    return Zone(*ball_box(middle, radius), middle, radius, True)


def zone_ranges(graph: Graph, zone: Zone) -> Ranges:
    """Ranges over the zone by one pass of bound propagation. Raises `DomainError` or `UsageError`."""
    if zone.ball:
        return ball_ranges(graph, zone.center, zone.radius)
    return node_ranges(graph, zone.lower, zone.upper)


@dataclass(frozen=True)
class Rounds:
    """What the rounds found: the last ranges, and the certified 2-norm bound of every round, first to last."""

    ranges: Ranges
    bounds: tuple[Candidate, ...]


def local_rounds(graph: Graph, zone: Zone, method: str, deadline: float) -> Rounds:
    """Ranges of a float64 graph over the zone, improved while its certified bound shrinks and time is left.

    `deadline` is on the clock of time.perf_counter. Raises what `zone_ranges` does.
    """
    work = _Local(graph, zone, method, time.perf_counter() + SHARE * (deadline - time.perf_counter()))
    ranges = zone_ranges(graph, zone)
    begin = time.perf_counter()
    found = [b for b in [work.bound(graph.output, ranges)] if b is not None]
    # A round bounds every layer; where that does not fit into the time, none is begun.
    fits = (time.perf_counter() - begin) * len(ranges.known) < work.deadline - time.perf_counter()
    while fits and found and len(found) < ROUNDS and ranges.known and not work.late() and found[-1].upper > 0:
        ranges = work.tightened(ranges)
        again = work.bound(graph.output, ranges)
        if again is None:
            break
        found.append(again)
        if again.upper > ENOUGH * found[-2].upper:
            break
    return Rounds(ranges, tuple(found))


@dataclass
class _Local:
    graph: Graph
    zone: Zone
    method: str
    deadline: float
    _spreads: dict[int, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.cuts = Cuts(self.graph)
        self.box = check_box(self.graph, self.zone.lower, self.zone.upper)

    def late(self) -> bool:
        return time.perf_counter() >= self.deadline

    def tightened(self, ranges: Ranges) -> Ranges:
        """Ranges within the given ones: balls of the first layers, then bound propagation again."""
        known = dict(ranges.known)
        middle = self._middle()
        reaches: dict[int, float] = {}
        for position in sorted(known):
            if position == 0 or self.late():
                continue
            start, spread = self._spread(position)
            if start not in reaches:
                reaches[start] = self._reach(start, replace(ranges, known=known))
            if math.isfinite(reaches[start]):
                known[position] = within(known[position], middle[position], spread * (reaches[start] * (1 + 1e-14)))
        better = replace(ranges, known=known)
        return better if self.late() else swept(self._backward(), self.box, better, self.late)

    def _middle(self) -> list[Interval]:
        point = torch.from_numpy(self.zone.center.reshape(1, -1).copy())
        return interval_pass(self.graph, point, point)

    def _backward(self) -> Backward:
        if self.zone.ball:
            return BallBackward.over(self.graph, self.zone.center, self.zone.radius)
        return build_backward(self.graph, *self.box)

    def _spread(self, position: int) -> tuple[int, Tensor]:
        """A node before it, and how far the entries of `position` can move (flat) per unit that this one moves."""
        last = self.cuts.sections(0, position)[-1]
        start = last.start if last.linear else position
        if position not in self._spreads:
            if last.linear:
                rows = row_norms(linear_piece(self.graph, last.order, start).matrix())
                self._spreads[position] = torch.from_numpy(rows)
            else:
                self._spreads[position] = torch.ones(total(self.graph.nodes[position].shape), dtype=torch.float64)
        return start, self._spreads[position]

    def _reach(self, position: int, ranges: Ranges) -> float:
        """How far, in the 2-norm, a node can be from its value at the centre."""
        if position == 0:
            return reach_of(self.zone.radius)
        bound = self.bound(position, ranges)
        return math.inf if bound is None else reach_of(bound.upper * (1 + 1e-14) * reach_of(self.zone.radius))

    def bound(self, position: int, ranges: Ranges) -> Candidate | None:
        """The best certified 2-norm bound of the network up to a node, or None where no method has one."""
        graph = self.graph
        if position != graph.output:
            flat = (total(graph.nodes[position].shape),)
            graph = Graph((*graph.nodes[: position + 1], Node(Reshape(flat), (position,), flat, "flat")))
        found: list[Candidate] = []
        for method in self._methods(graph):
            ask = Ask(2.0, method, "auto", self.deadline, lambda: 0.0)
            try:
                found += bounds_by_menu(network_subject(graph, ranges, 2.0, method), ask)
            except InternalError:
                raise
            except VerinetError:
                continue  # no bound of this kind: unbounded slopes, no chain, or not certified
        return min(found, key=lambda c: c.upper, default=None)

    def _methods(self, graph: Graph) -> tuple[str, ...]:
        if self.method == "product":
            return ("product",)
        if self.method in LAYERED or size_of(graph) > INTERIOR or self.late():
            return ("product", "recursion")
        return ("product", "recursion", "neuron")
