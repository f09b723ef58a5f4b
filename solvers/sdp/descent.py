"""Limited-memory BFGS for functions that refuse points (None outside their domain).

Weak Wolfe conditions by bisection (Lewis and Overton 2013): it needs no smoothness near the boundary and treats a
refused point as an infinite value.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

MEMORY = 25
TRIALS = 30
DECREASE, CURVATURE = 1e-4, 0.9


@dataclass(frozen=True)
class Evaluation:
    """A function value with its gradient at `at`; `measured` is whatever else the function reports of the point."""

    at: Tensor
    value: float
    gradient: Tensor
    measured: float = math.nan


Function = Callable[["Tensor"], "Evaluation | None"]


@dataclass
class Memory:
    """Pairs of steps and gradient changes."""

    pairs: deque[tuple[Tensor, Tensor, float]] = field(default_factory=lambda: deque(maxlen=MEMORY))

    def add(self, step: Tensor, change: Tensor) -> None:
        curvature = float(step @ change)
        if curvature > 1e-14 * float(step.norm() * change.norm()):
            self.pairs.append((step, change, 1 / curvature))

    def direction(self, gradient: Tensor) -> Tensor:
        """Minus the approximate inverse Hessian times the gradient (two-loop recursion)."""
        result, weights = gradient.clone(), []
        for step, change, inverse in reversed(self.pairs):
            weight = inverse * float(step @ result)
            weights.append(weight)
            result -= weight * change
        if self.pairs:
            step, change, inverse = self.pairs[-1]
            result *= 1 / (inverse * float(change @ change))
        else:
            result *= 0.1 / max(float(gradient.abs().max()), 1e-300)
        for (step, change, inverse), weight in zip(self.pairs, reversed(weights), strict=True):
            result += (weight - inverse * float(change @ result)) * step
        return -result


def line_search(function: Function, here: Evaluation, direction: Tensor) -> Evaluation | None:
    """A point that satisfies the weak Wolfe conditions, or at least decreases; None when no trial does."""
    slope = float(here.gradient @ direction)
    low, high, length = 0.0, math.inf, 1.0
    best: Evaluation | None = None
    for _ in range(TRIALS):
        trial = function(here.at + length * direction)
        if trial is None or not trial.value <= here.value + DECREASE * length * slope:
            high = length
        elif float(trial.gradient @ direction) < CURVATURE * slope:
            low, best = length, trial
        else:
            return trial
        length = 0.5 * (low + high) if high < math.inf else 2 * length
        if high - low < 1e-12 * max(high, 1e-300):
            break
    return best


def step(function: Function, here: Evaluation, memory: Memory) -> Evaluation | None:
    """One iteration; None at a stationary point (as far as float64 can see)."""
    direction = memory.direction(here.gradient)
    if not float(here.gradient @ direction) < 0:
        memory.pairs.clear()
        direction = memory.direction(here.gradient)
    found = line_search(function, here, direction)
    if found is None and memory.pairs:
        memory.pairs.clear()
        found = line_search(function, here, memory.direction(here.gradient))
    if found is None:
        return None
    memory.add(found.at - here.at, found.gradient - here.gradient)
    return found
