"""From settled cells to pieces: where a function is convex or concave, turns, has corners, or is undefined."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from verinet.ops.expression.intervals import Array, Interval, Mask, hull, magnitude
from verinet.ops.expression.jets import Cells, last_jet
from verinet.ops.expression.noise import errors
from verinet.ops.expression.subdivide import BAD, CORNER, ROUGH, SMOOTH, Numbers, Problem, Settled

NEGLIGIBLE = 1e-250
"""A wrong part below this is underflow: the function is affine there."""

ROUGHEST = 32
"""Groups of rough cells in one channel."""

Row = tuple[float, ...]


@dataclass
class Chart:
    """Pieces and places of one channel, each list in order.

    convex, concave: (start, stop, slack), where slack bounds how far f' may move in the wrong direction;
    corners and extrema: (start, stop, value low, value high, slope low, slope high) with the ranges of f and f';
    turns: the same, for inflections; gaps: (start, stop) where the function is undefined or out of reach.
    """

    convex: list[Row] = field(default_factory=list)
    concave: list[Row] = field(default_factory=list)
    corners: list[Row] = field(default_factory=list)
    extrema: list[Row] = field(default_factory=list)
    turns: list[Row] = field(default_factory=list)
    gaps: list[Row] = field(default_factory=list)
    wobble: float = 0.0
    """How far f may move in the wrong direction between neighbouring extrema."""


def charts(problem: Problem, settled: Settled) -> list[Chart]:
    """One chart per channel."""
    ends = np.searchsorted(settled.channel, np.arange(problem.channels + 1))
    kinks = _kinks(problem, settled)
    found = [_Walker(settled, kinks, int(a), int(b)).walk() for a, b in zip(ends, ends[1:], strict=False)]
    for name in ("corners", "turns", "extrema"):
        _enclose(problem, found, name)
    return found


def _kinks(problem: Problem, settled: Settled) -> Mask:
    """Which cells end, on the right, in a kink that lies exactly on the edge to the next one.

    Both cells are smooth then, and only the smallest interval around the edge shows that f' jumps there, or may do so
    because it is not bounded.
    """
    found = np.zeros(settled.low.shape, dtype=bool)
    inner = (settled.state[:-1] == SMOOTH) & (settled.state[1:] == SMOOTH)
    picked = np.flatnonzero(inner & (settled.channel[:-1] == settled.channel[1:]))
    edge = settled.high[picked]
    around = problem.cells(_next(problem, edge, -np.inf), _next(problem, edge, np.inf), settled.channel[picked])
    jet = last_jet(problem.tape, around, problem.arithmetic)
    size = np.zeros_like(edge) if jet.first is None else magnitude(jet.first) + np.zeros_like(edge)
    jump = np.zeros_like(edge) if jet.jump is None else jet.jump
    found[picked] = ~(jump <= 64 * problem.arithmetic.eps * (1 + size)) | ~np.isfinite(size)
    return found


def _next(problem: Problem, point: Array, towards: float) -> Array:
    """The neighbouring number of the working precision."""
    if problem.arithmetic.eps < 1e-12:
        return np.nextafter(point, towards)
    return np.nextafter(point.astype(np.float32), np.float32(towards)).astype(np.float64)


@dataclass
class _Walker:
    """Joins the cells of one channel from left to right."""

    cells: Settled
    kinks: Mask
    begin: int
    end: int
    chart: Chart = field(default_factory=Chart)

    def walk(self) -> Chart:
        for state, first, last in self._groups():
            low, high = float(self.cells.low[first]), float(self.cells.high[last])
            if state == BAD:
                self.chart.gaps.append((low, high))
            elif state == SMOOTH:
                self._bends(first, last)
                self._directions(first, last)
                if self.kinks[last]:
                    self.chart.corners.append((high, high))
            else:
                self._special(state, first, last)
        return self.chart

    def _groups(self) -> Iterator[tuple[int, int, int]]:
        """Runs of cells of one state; of rough ones so many together that at most `ROUGHEST` groups remain."""
        states = self.cells.state
        most = 1 + int((states[self.begin : self.end] == ROUGH).sum()) // ROUGHEST
        start = self.begin
        for position in range(self.begin, self.end):
            following = states[position + 1] if position + 1 < self.end else -1
            full = states[position] == ROUGH and position - start + 1 >= most
            if following != states[position] or full or self.kinks[position]:
                yield int(states[position]), start, position
                start = position + 1

    def _hull(self, first: int, last: int) -> Row:
        part, c = slice(first, last + 1), self.cells
        return (
            float(c.low[first]),
            float(c.high[last]),
            float(c.value_low[part].min()),
            float(c.value_high[part].max()),
            float(c.slope_low[part].min()),
            float(c.slope_high[part].max()),
        )

    def _special(self, state: int, first: int, last: int) -> None:
        row = self._hull(first, last)
        width = row[5] - row[4]
        if state == CORNER or not np.isfinite(width):
            self.chart.corners.append(row)
            return
        for side in (self.chart.convex, self.chart.concave):
            side.append((row[0], row[1], width))
        self.chart.extrema.append(row)
        self.chart.turns.append(row)

    def _bends(self, first: int, last: int) -> None:
        """Longest runs of cells that are convex, or concave, up to a small slack."""
        wrong = {1: self.cells.convex, -1: self.cells.concave}
        start, allowed = first, {1, -1}
        for position in range(first, last + 2):
            here = allowed & self._allowed(position, wrong) if position <= last else set()
            if here:
                allowed = here
                continue
            self._piece(start, position - 1, allowed, wrong)
            if position <= last:
                edge = float(self.cells.low[position])
                self.chart.turns.append((edge, edge))
                start, allowed = position, self._allowed(position, wrong)

    def _allowed(self, position: int, wrong: dict[int, Array]) -> set[int]:
        # A settled cell has one good sign; the other one is as good where its wrong part is no larger than rounding.
        least = min(wrong[1][position], wrong[-1][position])
        return {sign for sign in (1, -1) if wrong[sign][position] <= max(4 * least, 1e-15)}

    def _piece(self, start: int, stop: int, allowed: set[int], wrong: dict[int, Array]) -> None:
        sums = {sign: float(wrong[sign][start : stop + 1].sum()) for sign in allowed}
        if len(sums) == 2 and max(sums.values()) < NEGLIGIBLE:
            return  # affine: its ends are corners or ends of the interval
        sign = min(sums, key=lambda s: sums[s])
        row = float(self.cells.low[start]), float(self.cells.high[stop]), sums[sign] * (1 + 1e-12)
        (self.chart.convex if sign > 0 else self.chart.concave).append(row)

    def _directions(self, first: int, last: int) -> None:
        wrong = {1: self.cells.rising, -1: self.cells.falling}
        allowed, sums = {1, -1}, {1: 0.0, -1: 0.0}
        for position in range(first, last + 1):
            mine = self._allowed(position, wrong)
            if not allowed & mine:
                edge = float(self.cells.low[position])
                self.chart.extrema.append((edge, edge))
                self._wobble(allowed, sums)
                allowed, sums = {1, -1}, {1: 0.0, -1: 0.0}
            allowed = allowed & mine
            for sign in sums:
                sums[sign] += float(wrong[sign][position])
        self._wobble(allowed, sums)

    def _wobble(self, allowed: set[int], sums: dict[int, float]) -> None:
        self.chart.wobble = max(self.chart.wobble, min(sums[s] for s in allowed) * (1 + 1e-12))


def _enclose(problem: Problem, found: list[Chart], name: str) -> None:
    """Ranges of f and f' at single points that were only placed so far."""
    places = [
        (c, i, row[0]) for c, chart in enumerate(found) for i, row in enumerate(getattr(chart, name)) if not row[2:]
    ]
    if not places:
        return
    point = np.array([p[2] for p in places])
    channel = np.array([p[0] for p in places])
    values, slopes = at_points(problem, point, channel)
    if name == "corners":
        slopes = hull(at_points(problem, point, channel, 1.0)[1], at_points(problem, point, channel, -1.0)[1])
    for k, (c, i, x) in enumerate(places):
        numbers = values[0][k], values[1][k], slopes[0][k], slopes[1][k]
        getattr(found[c], name)[i] = (x, x, *(float(n) for n in numbers))


def at_points(problem: Problem, point: Array, channel: Numbers, side: float = 0.0) -> tuple[Interval, Interval]:
    """Enclosures of f and f' at points, or from there to the neighbouring number on the given `side` (+1, -1)."""
    beside = _next(problem, point, side * np.inf) if side else point
    cells = problem.cells(np.minimum(point, beside), np.maximum(point, beside), channel)
    jet = last_jet(problem.tape, cells, problem.arithmetic)
    first = (np.zeros(()), np.zeros(())) if jet.first is None else jet.first
    shape = np.zeros_like(point)
    return (jet.value[0] + shape, jet.value[1] + shape), (first[0] + shape, first[1] + shape)


@dataclass(frozen=True)
class Noise:
    """Steps of one channel: up to `edges[i]`, the errors of computed f and f' are at most value[i] and slope[i]."""

    edges: Array
    value: Array
    slope: Array


def noises(problem: Problem, settled: Settled) -> list[Noise]:
    """Error bounds by place. Cells with bounds within a factor of four are joined."""
    cells: Cells = problem.cells(settled.low, settled.high, settled.channel)
    found = errors(problem.tape, cells, problem.arithmetic)
    bad = settled.state == BAD
    value, slope = np.where(bad, np.inf, found.value), np.where(bad, np.inf, found.slope)
    for position in np.flatnonzero(settled.state == CORNER)[::-1]:
        # What is computed inside a corner is not used, only at its right end, which is the start of the next cell.
        following = min(position + 1, value.size - 1)
        value[position], slope[position] = value[following], slope[following]
    ends = np.searchsorted(settled.channel, np.arange(problem.channels + 1))
    return [_joined(problem, settled.high[a:b], value[a:b], slope[a:b]) for a, b in zip(ends, ends[1:], strict=False)]


def _joined(problem: Problem, high: Array, value: Array, slope: Array) -> Noise:
    """Runs of cells whose rounded-up powers of four agree, at 2**-60 and above."""
    levels = [np.ceil(np.log2(np.maximum(part, 1e-40)) / 2) for part in (value, slope)]
    same = (levels[0][1:] == levels[0][:-1]) & (levels[1][1:] == levels[1][:-1])
    starts = np.concatenate([[0], np.flatnonzero(~same) + 1])
    stops = np.concatenate([starts[1:], [high.size]]) - 1
    found = np.maximum.reduceat(value, starts)
    # The right end of a gap belongs to what follows.
    edges = np.where(np.isinf(found), _next(problem, high[stops], -np.inf), high[stops])
    return Noise(edges, found, np.maximum.reduceat(slope, starts))
