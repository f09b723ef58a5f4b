"""Chooses and schedules searches for one query by measured progress, on one clock."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from verinet.solvers.arms import Arm, InputArm, Meter, NeuronArm
from verinet.solvers.attack.pgd import Attack, AttackPlan
from verinet.solvers.attack.surrogate import before_softmax, sloped
from verinet.solvers.branching.outcome import End, Offer, Outcome, Report
from verinet.solvers.opening import close_by_intervals
from verinet.solvers.pieces import Outside
from verinet.solvers.positions import close_cases
from verinet.solvers.precision import precision_floor
from verinet.solvers.query import Clock, Query

from verinet.errors import PropertyError
from verinet.ir.graph import Graph
from verinet.ops.base import NonlinearOp
from verinet.ops.scalar import Elementwise

if TYPE_CHECKING:
    from verinet.solvers.spread import Crew

INPUT_SPLIT_AXES = 64  # above this many perturbed inputs halving boxes cannot work
MANY_BOXES = 64  # with more boxes neurons are split only when splitting inputs has ended without an answer
FIRST_SLICE = 1.0  # seconds
UNDEFINED_SECONDS = 10.0  # for finding a violation where the network has no value on parts of the region
LARGE = 20_000  # entries of the widest layer
EVERY = 4  # the runner-up gets one slice in so many
FEW_AXES = 10
EVERY_MANY = 2  # the same with more axes: there, how fast boxes close at first says little about the rest
HOPELESS = 8  # the same for boxes of more axes none of which has closed


@dataclass(slots=True)
class Solution:
    """End of the whole search, and what was tried."""

    end: End
    gap: float | None = None
    floor: float = 0.0  # gaps up to here may be due to rounding alone; computed for searches that ended by themselves
    domains: int = 0
    closed: int = 0
    open: int = 0
    trail: list[str] = field(default_factory=list)


def effective_axes(query: Query) -> int:
    """Number of inputs that really vary in some box."""
    width = (query.upper - query.lower).amax(0)
    size = torch.maximum(query.lower.abs(), query.upper.abs()).amax(0)
    return int((width > 1e-9 * size.clamp(min=1e-6)).sum())


class Strategy:
    """Solves one query. `attack_graph` is the network in its own dtype, for gradients."""

    def __init__(self, query: Query, attack_graph: Graph, offer: Offer, report: Report, seed: int) -> None:
        self.query, self.offer, self.report, self._tell = query, offer, self._report, report
        self.attack = Attack(query, before_softmax(sloped(attack_graph), query), seed)
        self.solution = Solution(End.TIME)
        self._begin = 0.0
        self._meters: list[Meter] = []
        self._retired: list[Meter] = []
        self._reported: float | None = None
        self._last_moment: float | None = None
        self.crew: Crew | None = None  # workers elsewhere that share the open domains

    def solve(self, clock: Clock) -> Solution:
        """Attack, then give slices of time to the searches; ends with everything closed, a witness, or the clock.

        Raises `PropertyError` when the region holds inputs at which the network has no value, and nothing was found.
        """
        self._begin = clock.now()
        opening = self._opening(clock)
        if opening is not None:
            return opening
        self._meters = [Meter(self._spread(arm)) for arm in self._arms()]
        self.solution.trail += [m.arm.name for m in self._meters]
        length, turn = FIRST_SLICE, 0
        while self._meters:
            clock = self._shortened(clock)
            if clock.over():
                return self._unsolved(End.TIME, clock)
            chosen = self._choose(turn)
            outcome = chosen.run(clock.until(length))
            if outcome.end in (End.CLOSED, End.CANDIDATE):
                return self._finish(outcome, outcome.end)
            if outcome.end is not End.TIME:
                self._retire(chosen)
            turn += 1
            length = min(length * 1.3, 30.0)
            if self._attack_again(turn, clock):
                return self._end(End.CANDIDATE)
        return self._unsolved(End.STALLED, clock)

    def _choose(self, turn: int) -> Meter:
        """The search that should end first; each is tried, and the others get a slice now and then."""
        meters = self._meters
        tried = [m for m in meters if m.seconds > 0] or meters
        best = min(tried, key=lambda m: (m.time_to_close, m.seconds))
        others = [m for m in tried if m is not best]
        fresh = [m for m in meters if m.seconds < self._trial(m, meters)]
        # A trial may cost more than what the first search still needs, but its estimate is not trusted for long.
        nearly = best.time_to_close < 2 * FIRST_SLICE and best.seconds < 2 * self._head_start()
        if fresh and not (nearly and best is meters[0]):
            return min(fresh, key=lambda m: m.seconds)
        if len(tried) == 2 and self._hopeless(best):
            best, others = others[0], [best]
        every = self._every(others)
        return min(others, key=lambda m: m.seconds) if others and turn % every == every - 1 else best

    def _every(self, others: list[Meter]) -> int:
        if effective_axes(self.query) <= FEW_AXES:
            return EVERY
        return HOPELESS if others and all(map(self._hopeless, others)) else EVERY_MANY

    def _hopeless(self, meter: Meter) -> bool:
        """A slice has closed no box of many axes: every level of the tree halves one axis alone."""
        many = effective_axes(self.query) > FEW_AXES and self.query.boxes == 1
        return many and meter.seconds > 0 and meter.arm.name == InputArm.name and meter.arm.closed_mass == 0

    def _retire(self, meter: Meter) -> None:
        """A search that can go no further. After the last one, neurons are split where only boxes were so far."""
        self._meters.remove(meter)
        self._retired.append(meter)
        if not self._meters and meter.arm.name == InputArm.name and self._nonlinear and len(self._retired) == 1:
            self._meters.append(Meter(self._spread(NeuronArm(self.query, self.offer, self.report))))

    def _outside(self) -> Outside | None:
        return next((m.arm.outside for m in (*self._meters, *self._retired) if m.arm.outside), None)

    def _shortened(self, clock: Clock) -> Clock:
        """Once an input without a value is known, nothing can be proved: a violation is looked for a little longer."""
        if self._last_moment is None and self._outside() is not None:
            self._last_moment = clock.now() + UNDEFINED_SECONDS
        return clock if self._last_moment is None else clock.until(max(0.0, self._last_moment - clock.now()))

    def _opening(self, clock: Clock) -> Solution | None:
        """What needs no search tree: a quick attack, intervals, and cases of positions that depend on the input."""
        if self._quick_attack(clock):
            return self._end(End.CANDIDATE)
        decided = close_by_intervals(self.query, clock) or close_cases(self.query, self.offer, clock)
        return None if decided is None else self._finish(decided, decided.end)

    def _trial(self, meter: Meter, meters: list[Meter]) -> float:
        """Seconds an arm gets before arms are compared; with few axes or many boxes input splitting goes first."""
        if self._hopeless(meter):
            return 0.0
        if meter is meters[0] or meter.arm.name == InputArm.name:
            return 2 * FIRST_SLICE
        return 2 * FIRST_SLICE if meters[0].seconds >= self._head_start() or self._hopeless(meters[0]) else 0.0

    def _head_start(self) -> float:
        if any(isinstance(n.op, Elementwise) and n.op.function.flat for n in self.query.graph.nodes):
            return FIRST_SLICE  # no box around a jump shows one side of it alone, however small the box
        return 8 * FIRST_SLICE if effective_axes(self.query) <= FEW_AXES or self.query.boxes > 8 else 2 * FIRST_SLICE

    @property
    def _nonlinear(self) -> bool:
        return any(isinstance(n.op, NonlinearOp) for n in self.query.graph.nodes)

    def _spread(self, arm: InputArm | NeuronArm) -> Arm:
        """The same search, done by the crew where there is one."""
        if self.crew is None:
            return arm
        from verinet.solvers.spread import SpreadArm

        return SpreadArm(arm, self.crew, (self.offer, self.report), self.query.clock)

    def _arms(self) -> list[InputArm | NeuronArm]:
        axes = effective_axes(self.query)
        arms: list[InputArm | NeuronArm] = []
        if axes <= INPUT_SPLIT_AXES or not self._nonlinear:
            arms.append(InputArm(self.query, self.offer, self.report))
        if self._nonlinear and (not arms or self.query.boxes <= MANY_BOXES):
            arms.append(NeuronArm(self.query, self.offer, self.report))
        return arms

    def _quick_attack(self, clock: Clock) -> bool:
        self.report("attack", 0, 0, None)
        if self.attack.sample(self.offer, 128):
            return True
        short = clock.until(max(0.1, min(1.0, 0.05 * clock.left())))
        if self.attack.descend(AttackPlan(restarts=8, steps=15), self.offer, short):
            return True
        if self.attack.widest < LARGE:
            return False
        # Bounds of such a network take long, and nothing else is tried meanwhile.
        longer = clock.until(min(10.0, 0.1 * clock.left()))
        return self.attack.descend(AttackPlan(restarts=8, steps=40), self.offer, longer)

    def _attack_again(self, turn: int, clock: Clock) -> bool:
        """A longer attack after the 1st, 2nd, 4th, 8th, ... slice, with more restarts every time."""
        if turn & (turn - 1):
            return False
        spent = clock.now() - self._begin
        share = clock.until(max(0.2, min(20.0, 0.05 * clock.left(), 0.1 * spent)))
        return self.attack.descend(AttackPlan(restarts=16 * min(turn, 16), steps=50), self.offer, share)

    def _unsolved(self, end: End, clock: Clock) -> Solution:
        """No answer: the gap is the least that a search has left, or else the last one that was reported."""
        interrupted = clock.stop is not None and clock.stop()
        outside = self._outside()
        if outside is not None and not interrupted:
            raise _undefined(outside, self.query.prop.name)
        meters = [*self._meters, *self._retired]
        nearest = min(meters, key=_distance)
        if end is End.STALLED and any(m.outcome.end is End.MEMORY for m in meters):
            end = End.MEMORY
        if end is End.STALLED:
            self.solution.floor = precision_floor(self.query)
        return self._finish(nearest.outcome, end)

    def _finish(self, outcome: Outcome, end: End) -> Solution:
        solution = self.solution
        bound = self._reported if outcome.bound is None else outcome.bound
        solution.gap = None if bound is None or not math.isfinite(bound) else max(0.0, -bound)
        solution.domains += outcome.domains
        solution.closed += outcome.closed
        solution.open = outcome.open
        return self._end(end)

    def _end(self, end: End) -> Solution:
        self.solution.end = end
        return self.solution

    def _report(self, phase: str, still_open: int, closed: int, bound: float | None) -> None:
        if bound is not None:
            self._reported = bound
        self._tell(phase, still_open, closed, bound)


def _distance(meter: Meter) -> float:
    """Gap of the worst open domain of a search, infinite when unknown."""
    return float("inf") if meter.outcome.bound is None else -meter.outcome.bound


def _undefined(outside: Outside, where: str) -> PropertyError:
    shown = ", ".join(f"X_{i} = {value:.6g}" for i, value in enumerate(outside.point[:5]))
    more = ", ..." if len(outside.point) > 5 else ""
    return PropertyError(
        f"the network has no finite value on the whole input region: node '{outside.node}' has none at {shown}{more}",
        where=where,
        hint="shrink the input region so that it holds no such input (a division by 0, the logarithm of a number <= 0, "
        "a power of one with a variable exponent, an integer that leaves its type)",
    )
