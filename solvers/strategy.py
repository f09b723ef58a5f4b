"""Chooses and schedules searches for one query by measured progress, on one clock."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from verinet.solvers.arms import InputArm, Meter, NeuronArm
from verinet.solvers.attack.pgd import Attack, AttackPlan
from verinet.solvers.branching.outcome import End, Offer, Outcome, Report
from verinet.solvers.positions import close_cases
from verinet.solvers.query import Clock, Query

from verinet.ir.graph import Graph
from verinet.ops.base import NonlinearOp

INPUT_SPLIT_AXES = 64  # above this many perturbed inputs halving boxes cannot work
MANY_BOXES = 64  # with more boxes neurons are split only when splitting inputs has ended without an answer
FIRST_SLICE = 1.0  # seconds
EVERY = 4  # the runner-up gets one slice in so many


@dataclass(slots=True)
class Solution:
    """End of the whole search, and what was tried."""

    end: End
    gap: float | None = None
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
        self.query, self.offer, self.report = query, offer, report
        self.attack = Attack(query, attack_graph, seed)
        self.solution = Solution(End.TIME)
        self._begin = 0.0

    def solve(self, clock: Clock) -> Solution:
        """Attack, then give slices of time to the searches; ends with everything closed, a witness, or the clock."""
        self._begin = clock.now()
        opening = self._opening(clock)
        if opening is not None:
            return opening
        meters = [Meter(arm) for arm in self._arms()]
        self.solution.trail += [m.arm.name for m in meters]
        length, turn = FIRST_SLICE, 0
        while meters:
            if clock.over():
                return self._finish(min(meters, key=_distance).outcome, End.TIME)
            tried = [m for m in meters if m.seconds > 0] or meters
            best = min(tried, key=lambda m: (m.time_to_close, m.seconds))
            others = [m for m in tried if m is not best]
            fresh = [m for m in meters if m.seconds < self._trial(m, meters)]
            chosen = min(fresh, key=lambda m: m.seconds) if fresh else best
            if not fresh and others and turn % EVERY == EVERY - 1:
                chosen = min(others, key=lambda m: m.seconds)
            outcome = chosen.run(clock.until(length))
            if outcome.end in (End.CLOSED, End.CANDIDATE):
                return self._finish(outcome, outcome.end)
            if outcome.end is not End.TIME:
                meters.remove(chosen)
                if not meters and chosen.arm.name == InputArm.name and self._nonlinear:
                    meters.append(Meter(NeuronArm(self.query, self.offer, self.report)))
                if not meters:
                    return self._finish(outcome, outcome.end)
            turn += 1
            length = min(length * 1.3, 30.0)
            if self._attack_again(turn, clock):
                return self._end(End.CANDIDATE)
        return self._end(End.STALLED)

    def _opening(self, clock: Clock) -> Solution | None:
        """What needs no search tree: a quick attack, and cases of positions that depend on the input."""
        if self._quick_attack(clock):
            return self._end(End.CANDIDATE)
        decided = close_cases(self.query, self.offer, clock)
        return None if decided is None else self._finish(decided, decided.end)

    def _trial(self, meter: Meter, meters: list[Meter]) -> float:
        """Seconds an arm gets before arms are compared; with few axes or many boxes input splitting goes first."""
        if meter is meters[0] or meter.arm.name == InputArm.name:
            return 2 * FIRST_SLICE
        return 2 * FIRST_SLICE if meters[0].seconds >= self._head_start() else 0.0

    def _head_start(self) -> float:
        return 8 * FIRST_SLICE if effective_axes(self.query) <= 10 or self.query.boxes > 8 else 2 * FIRST_SLICE

    @property
    def _nonlinear(self) -> bool:
        return any(isinstance(n.op, NonlinearOp) for n in self.query.graph.nodes)

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
        return self.attack.descend(AttackPlan(restarts=8, steps=15), self.offer, short)

    def _attack_again(self, turn: int, clock: Clock) -> bool:
        """A longer attack after the 1st, 2nd, 4th, 8th, ... slice, with more restarts every time."""
        if turn & (turn - 1):
            return False
        spent = clock.now() - self._begin
        share = clock.until(max(0.2, min(20.0, 0.05 * clock.left(), 0.1 * spent)))
        return self.attack.descend(AttackPlan(restarts=16 * min(turn, 16), steps=50), self.offer, share)

    def _finish(self, outcome: Outcome, end: End) -> Solution:
        solution = self.solution
        solution.gap = None if outcome.bound is None else max(0.0, -outcome.bound)
        solution.domains += outcome.domains
        solution.closed += outcome.closed
        solution.open = outcome.open
        return self._end(end)

    def _end(self, end: End) -> Solution:
        self.solution.end = end
        return self.solution


def _distance(meter: Meter) -> float:
    """Gap of the worst open domain of a search, infinite when unknown."""
    return float("inf") if meter.outcome.bound is None else -meter.outcome.bound
