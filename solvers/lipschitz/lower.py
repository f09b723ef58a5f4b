"""Lower bounds of Lipschitz constants: pairs of inputs that a network moves apart, searched and then evaluated.

Search: norms of Jacobians at many points, then a climb from the best ones by gradient (smooth activations), along the
worst direction and by random steps. The value returned is a difference quotient ||f(a) - f(b)|| / ||a - b|| that was
attained: for a `Graph`, f(a) and f(b) are enclosed by interval arithmetic, so the quotient is proved up to nothing; for
any other function it is rounded down by an estimate of the evaluation error.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from verinet.solvers.lipschitz.attained import Jacobian, unit, vector_norm, worst_directions
from verinet.solvers.lipschitz.exponents import Norm
from verinet.solvers.lipschitz.form import Floats

from verinet.errors import UsageError
from verinet.ir.graph import Graph
from verinet.numerics.rounding import gamma
from verinet.propagation.interval import interval_pass

Function = Callable[[Tensor], Tensor]
_STEPS = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7)
_KEEP = 64
_JUDGED = 16
_OTHERS = 192
_PAIRS = 100
_RATE = 0.05
_INSIDE = 1 - 1e-12
_SCALES = (-1.5, 1.5)
"""Decades of the sizes of points when the region is the whole space."""


@dataclass(frozen=True)
class Region:
    """Where both points have to lie: the whole space, a box, or an l2 ball. Make one with the functions below.

    `lower`, `upper`, `center`: (inputs,) float64.
    """

    inputs: int
    lower: Tensor | None = None
    upper: Tensor | None = None
    center: Tensor | None = None
    radius: float = math.inf

    def sample(self, count: int, draw: torch.Generator) -> Tensor:
        """(count, inputs) points spread over the region."""
        noise = torch.randn(count, self.inputs, generator=draw, dtype=torch.float64)
        if self.lower is not None and self.upper is not None:
            share = torch.rand(count, self.inputs, generator=draw, dtype=torch.float64)
            return self.project(self.lower + share * (self.upper - self.lower))
        if self.center is not None:
            reach = torch.rand(count, 1, generator=draw, dtype=torch.float64) ** (1 / max(self.inputs, 1))
            return self.project(self.center + self.radius * reach * noise / noise.norm(dim=1, keepdim=True))
        return noise * 10 ** torch.linspace(*_SCALES, count, dtype=torch.float64)[:, None]

    def project(self, points: Tensor) -> Tensor:
        """The nearest points of the region."""
        if self.lower is not None and self.upper is not None:
            return torch.minimum(torch.maximum(points, self.lower), self.upper)
        if self.center is not None:
            offset = points - self.center
            length = offset.norm(dim=1, keepdim=True)
            inside = length <= self.radius * _INSIDE
            scaled = self.center + offset * (self.radius * _INSIDE / length.clamp(min=1e-300))
            return torch.where(inside, points, scaled)
        return points

    def free(self) -> Tensor:
        """(inputs,) 1 where an input can move at all, else 0."""
        ones = torch.ones(self.inputs, dtype=torch.float64)
        if self.lower is not None and self.upper is not None:
            return (self.upper > self.lower).to(torch.float64)
        return ones if self.radius > 0 else 0 * ones

    @property
    def unbounded(self) -> bool:
        """The whole space."""
        return self.lower is None and self.center is None

    def reach(self) -> float:
        """A typical distance within the region."""
        if self.lower is not None and self.upper is not None:
            return max(float((self.upper - self.lower).max()), 1e-300)
        return 1.0 if math.isinf(self.radius) else max(self.radius, 1e-300)


def everywhere(inputs: int) -> Region:
    """The whole space."""
    return Region(inputs)


def box(lower: Floats, upper: Floats) -> Region:
    """All x with lower <= x <= upper, both (inputs,). Raises UsageError when empty or not finite."""
    low, high = (torch.from_numpy(np.array(end, dtype=np.float64)).reshape(-1) for end in (lower, upper))
    if low.shape != high.shape or not bool((low <= high).all()) or not bool((high - low).isfinite().all()):
        raise UsageError("not a box: lower and upper need the same size, finite numbers, and lower <= upper")
    return Region(len(low), low, high)


def ball(center: Floats, radius: float) -> Region:
    """All x within an l2 distance of a centre (inputs,). Raises UsageError for a negative radius."""
    middle = torch.from_numpy(np.array(center, dtype=np.float64)).reshape(-1)
    if not 0 <= radius < math.inf or not bool(middle.isfinite().all()):
        raise UsageError("not a ball: the radius must be >= 0, and all numbers finite")
    return Region(len(middle), center=middle, radius=radius)


@dataclass(frozen=True)
class Effort:
    """How long to search: `samples` points, then `rounds` of climbing; `deadline` on time.perf_counter."""

    samples: int = 2000
    rounds: int = 150
    seed: int = 0
    deadline: float | None = None

    def expired(self) -> bool:
        return self.deadline is not None and time.perf_counter() >= self.deadline


@dataclass(frozen=True)
class LowerBound:
    """`value` <= L: the quotient that `points` (two of shape (inputs,)) attain, rounded down.

    `proved` when both values were enclosed (a Graph), else up to an estimate of rounding. `jacobian` is the largest
    Jacobian norm seen, computed.
    """

    value: float
    points: tuple[Floats, Floats]
    jacobian: float
    proved: bool
    seconds: float


_EFFORT = Effort()


def lower_bound(
    target: Graph | Function,
    region: Region,
    *,
    norm: Norm = 2.0,
    outputs: Floats | None = None,
    effort: Effort = _EFFORT,
) -> LowerBound:
    """A lower bound of the Lipschitz constant of `target` over a convex region.

    `target` maps (batch, inputs) to (batch, outputs) in float64. `norm` is 2, infinity, or any pair (p, q) >= 1.
    `outputs` (rows, outputs) combines outputs first. Raises UsageError where the region does not fit the network.
    """
    begin = time.perf_counter()
    graph = target.to(torch.float64) if isinstance(target, Graph) else None
    if graph is not None and graph.input_size != region.inputs:
        raise UsageError(f"the region has {region.inputs} inputs, the network {graph.input_size}")
    plain: Function = graph.forward if graph is not None else target  # type: ignore[assignment]
    rows = None if outputs is None else torch.from_numpy(np.array(outputs, dtype=np.float64))
    function: Function = plain if rows is None else lambda x: plain(x) @ rows.T
    p, q = norm if isinstance(norm, tuple) else (float(norm), float(norm))
    climber = _Climber(Jacobian(function, region.free()), region, (p, q))
    points, norms, directions = climber.run(effort)
    judge = _Judge(function, graph, rows, (p, q))
    value, pair = judge.best(points, directions, region)
    ends = (pair[0].numpy(), pair[1].numpy())
    top = float(norms.max()) if len(norms) else 0.0
    return LowerBound(value, ends, top, graph is not None, time.perf_counter() - begin)


class _Climber:
    """Points with large Jacobian norms."""

    def __init__(self, jacobian: Jacobian, region: Region, exponents: tuple[float, float]) -> None:
        self.jacobian, self.region, self.exponents = jacobian, region, exponents

    def run(self, effort: Effort) -> tuple[Tensor, Tensor, Tensor]:
        """(points, norms, worst directions) of the best ones, best first."""
        draw = torch.Generator().manual_seed(effort.seed)
        points, norms, directions = self._sampled(effort, draw)
        points, norms, directions = self._spread(points, directions, norms, effort)
        steps = 0.3 * self._size(points)
        for turn in range(effort.rounds):
            if effort.expired() or not len(points):
                break
            trial = self.region.project(points + steps[:, None] * self._moves(points, directions, turn, draw))
            now, ways = self._evaluate(trial)
            better = now > norms
            points = torch.where(better[:, None], trial, points)
            directions = torch.where(better[:, None], ways, directions)
            norms = torch.where(better, now, norms)
            steps = torch.where(better, steps * 1.6, steps * 0.8)
        order = norms.argsort(descending=True)
        return points[order], norms[order], directions[order]

    def _size(self, points: Tensor) -> Tensor:
        """(batch,): a distance that matters at each point."""
        reach = torch.full((len(points),), self.region.reach(), dtype=torch.float64)
        return torch.maximum(points.abs().amax(1), reach) if self.region.unbounded else reach

    def _spread(
        self, points: Tensor, directions: Tensor, norms: Tensor, effort: Effort
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Pull pairs of points to where the network moves them apart most, and go on from their middles as well.

        Quotients over a distance have slopes even where the network is piecewise linear, unlike its Jacobian.
        """
        if not len(points):
            return points, norms, directions
        draw = torch.Generator().manual_seed(effort.seed + 1)
        others = self.region.sample(_OTHERS, draw)
        starts = torch.cat([points, others])
        noise = torch.randn(others.shape, generator=draw, dtype=torch.float64) * self.region.free()
        ways = torch.cat([directions, unit(noise)])
        decades = torch.rand(len(starts), 1, generator=draw, dtype=torch.float64) * 2 - 2
        length = self._size(starts)[:, None] * 10**decades
        pair = torch.stack([starts + 0.5 * length * ways, starts - 0.5 * length * ways])
        mean, square = torch.zeros_like(pair), torch.zeros_like(pair)
        for turn in range(1, _PAIRS + 1):
            if effort.expired():
                break
            slope = self.jacobian.quotient_slope(pair, self.exponents)
            mean, square = 0.9 * mean + 0.1 * slope, 0.99 * square + 0.01 * slope**2
            move = (mean / (1 - 0.9**turn)) / ((square / (1 - 0.99**turn)).sqrt() + 1e-30)
            step = _RATE * length * (1 - turn / (_PAIRS + 1))
            pair = torch.stack([self.region.project(end) for end in pair + step * move])
        middle = self.region.project(pair.mean(0))
        parts = [self._evaluate(part) for part in middle.split(self.jacobian.batch)]
        now, ways = (torch.cat(both) for both in zip(*parts, strict=True))
        joined = (torch.cat([points, middle]), torch.cat([norms, now]), torch.cat([directions, ways]))
        order = joined[1].argsort(descending=True)[:_KEEP]
        return joined[0][order], joined[1][order], joined[2][order]

    def _sampled(self, effort: Effort, draw: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        points = self.region.sample(effort.samples, draw)
        kept: list[tuple[Tensor, Tensor, Tensor]] = []
        for part in points.split(self.jacobian.batch):
            norms, directions = self._evaluate(part)
            kept.append((part, norms, directions))
            if effort.expired():
                break
        joined = [torch.cat(parts) for parts in zip(*kept, strict=True)]
        order = joined[1].argsort(descending=True)[:_KEEP]
        return joined[0][order], joined[1][order], joined[2][order]

    def _evaluate(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Norms (batch,) and unit directions (batch, inputs); points without a finite Jacobian count as zero."""
        directions, norms = worst_directions(self.jacobian(points), self.exponents)
        fine = norms.isfinite()
        return torch.where(fine, norms, 0.0), torch.where(fine[:, None], directions, 0.0)

    def _moves(self, points: Tensor, directions: Tensor, turn: int, draw: torch.Generator) -> Tensor:
        """Unit steps, in turns: uphill, along the worst direction, in a few coordinates, in all."""
        noise = torch.randn(points.shape, generator=draw, dtype=torch.float64)
        if turn % 4 == 0:
            uphill = self.jacobian.uphill(points, directions)
            noise = torch.where(uphill.norm(dim=1, keepdim=True) > 0, uphill, noise)
        elif turn % 4 == 1:
            noise = noise.sum(1, keepdim=True).sign() * directions + 0.1 * noise / points.shape[1] ** 0.5
        elif turn % 4 == 2:
            # A few coordinates only: piecewise linear networks change one kink at a time.
            noise = noise * (torch.rand(points.shape, generator=draw, dtype=torch.float64) < 0.3)
        return unit(noise)


class _Judge:
    """Difference quotients of pairs around a point, rounded down."""

    def __init__(
        self, function: Function, graph: Graph | None, rows: Tensor | None, exponents: tuple[float, float]
    ) -> None:
        self.function, self.graph, self.rows, self.exponents = function, graph, rows, exponents

    def best(self, points: Tensor, directions: Tensor, region: Region) -> tuple[float, tuple[Tensor, Tensor]]:
        """The largest quotient over the first points, their directions and several distances."""
        points, directions = points[:_JUDGED], directions[:_JUDGED]
        firsts, seconds = [], []
        for step in _STEPS:
            length = 0.5 * step * region.reach() * points.abs().amax(1, keepdim=True).clamp(min=1e-3, max=1.0)
            firsts.append(region.project(points + length * directions))
            seconds.append(region.project(points - length * directions))
        a, b = torch.cat(firsts), torch.cat(seconds)
        if not len(a):
            origin = torch.zeros(region.inputs, dtype=torch.float64)
            return 0.0, (origin, origin)
        quotients = torch.cat([self._quotients(x, y) for x, y in zip(a.split(32), b.split(32), strict=True)])
        top = int(quotients.argmax())
        return max(float(quotients[top]), 0.0), (a[top], b[top])

    def _quotients(self, a: Tensor, b: Tensor) -> Tensor:
        """(batch,): at most ||f(a) - f(b)||_q / ||a - b||_p."""
        p, q = self.exponents
        low_a, high_a = self._enclosed(a)
        low_b, high_b = self._enclosed(b)
        apart = torch.maximum(low_a - high_b, low_b - high_a).clamp(min=0)
        # Both norms are sums over at most so many terms; powers of general exponents lose a few units more.
        rate = 4 * gamma(max(a.shape[1], apart.shape[1]) + 64, torch.float64)
        distance = vector_norm(a - b, p) * (1 + rate)
        quotient = vector_norm(apart, q) * (1 - rate) / distance
        return torch.where((distance > 1e-200) & quotient.isfinite(), quotient, 0.0)

    def _enclosed(self, points: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            if self.graph is None:
                value = self.function(points)
                # No enclosure: an estimate of the rounding of a network with moderate depth.
                spread = 1e-13 * value.abs().amax(1, keepdim=True).clamp(min=1.0)
                return value - spread, value + spread
            low, high = interval_pass(self.graph, points, points)[-1]
            if self.rows is None:
                return low, high
            middle, reach = 0.5 * (low + high), 0.5 * (high - low) * (1 + 1e-12)
            rate = gamma(middle.shape[1] + 8, torch.float64)
            size = self.rows.abs().T
            spread = reach @ size * (1 + rate) + rate * ((middle.abs() + reach) @ size) + 1e-290
            value = middle @ self.rows.T
            return value - spread, value + spread
