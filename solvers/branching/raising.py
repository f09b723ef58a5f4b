"""Raises the final rows of a batch of leaves from their parents' multipliers: steps only for what is still open."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor
from verinet.solvers.branching.stalled import Stalled

from verinet.propagation.backward import Backward
from verinet.propagation.narrow import Narrow
from verinet.propagation.optimize import Climb, Multipliers, Optimized, RowProblem, climb, evaluate
from verinet.propagation.rows import rows_of


@dataclass(frozen=True, slots=True)
class Goal:
    """Where every row has to get: any one row of a domain above its bound closes the domain."""

    bounds: Tensor  # (rows,)
    per: int  # rows of a domain
    over: Callable[[], bool]  # whether time is up
    patient: bool = False  # go on where hardly anything is won

    def margins(self, bound: Tensor) -> Tensor:
        """By how much the best row of every domain (domains,) is above its bound."""
        return (bound - self.bounds).reshape(-1, self.per).amax(1)

    def reached(self, bound: Tensor) -> bool:
        """Whether all domains are closed, or time is up."""
        return bool((self.margins(bound) > 0).all()) or self.over()

    def some(self, domains: Tensor) -> Goal:
        """The goal of some domains alone."""
        return replace(self, bounds=self.bounds[rows_of(domains, self.per)])


def raised(
    problem: RowProblem, backward: Backward, rule: Climb, warm: tuple[Multipliers, Tensor], goal: Goal
) -> tuple[Optimized, Tensor]:
    """The best bounds found from inherited multipliers and first step sizes (domains,), `warm`; the last step sizes.

    About half of all leaves are closed by what they inherit: one pass shows which, the others go on without them.
    """
    multipliers, rates = warm
    state = evaluate(problem, backward, multipliers, {v: s.beta for v, s in problem.splits.items()})
    still = (~(goal.margins(state.bound) > 0)).nonzero().squeeze(1)
    if still.numel() == 0:
        best = state
    elif still.numel() == rates.numel():
        best, rates = _climbed(problem, backward, rule, (state, rates), goal)
    else:
        narrow = Narrow.of(problem, still)
        start = narrow.part(state), rates[still]
        found, last = _climbed(narrow.problem, backward, rule, start, goal.some(still))
        best, rates = narrow.put(state, found), rates.index_copy(0, still, last)
    best.corner = backward.corner(best.inputs, problem.owners, problem.lower, problem.upper)
    return best, rates


def _climbed(
    problem: RowProblem, backward: Backward, rule: Climb, start: tuple[Optimized, Tensor], goal: Goal
) -> tuple[Optimized, Tensor]:
    state, rates = start
    stalled = Stalled()

    def finished(bound: Tensor) -> bool:
        return goal.reached(bound) or (stalled(goal.margins(bound)) and not goal.patient)

    rows = rates.to(goal.bounds).repeat_interleave(goal.per)
    best, last = climb(problem, backward, rule, rows, start=state, finished=finished)
    return best, last.reshape(-1, goal.per).amax(1).to(rates)
