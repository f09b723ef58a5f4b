"""How a search without an answer ends: the right word, and the gap that is left."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from verinet.solvers.arms import Meter
from verinet.solvers.branching.outcome import End, Outcome
from verinet.solvers.pieces import Outside
from verinet.solvers.query import Clock
from verinet.solvers.strategy import Solution, Strategy

import verinet
from tests.soundness.networks import random_graph
from tests.unit.solvers.queries import one_row, onnx_chain, property_of, random_chain, rows
from verinet.results import Reason, Status
from verinet.spec.property import Clause


class Script:
    """An arm that ends as told, slice by slice; the last end repeats."""

    closed_mass = 0.5
    outside: Outside | None = None

    def __init__(self, name: str, *ends: Outcome | Exception) -> None:
        self.name, self.ends, self.runs = name, list(ends), 0

    def run(self, clock: Clock) -> Outcome:
        end = self.ends[min(self.runs, len(self.ends) - 1)]
        self.runs += 1
        time.sleep(0.01)
        if isinstance(end, Exception):
            raise end
        return end


def _end(end: End, bound: float | None) -> Outcome:
    return Outcome(end, bound, 8, 5, 3)


def _solve(
    monkeypatch: pytest.MonkeyPatch, arms: Sequence[Script], seconds: float = 20.0, reported: float | None = None
) -> tuple[Solution, float]:
    """The solution with these arms and no attack, and how long it took."""
    graph = random_graph(1, "Relu", "chain", depth=1)
    low = torch.full((3,), -1.0, dtype=torch.float64)
    query = one_row(graph, (low, -low), torch.tensor([1.0, -1.0], dtype=torch.float64), -1e6, seconds)
    monkeypatch.setattr(Strategy, "_arms", lambda self: list(arms))
    monkeypatch.setattr(Strategy, "_opening", lambda self, clock: self.report("bounds", 1, 0, reported))
    monkeypatch.setattr(Strategy, "_attack_again", lambda self, turn, clock: False)
    begin = time.monotonic()
    strategy = Strategy(query, graph, lambda points: False, lambda *progress: None, 0)
    return strategy.solve(query.clock), time.monotonic() - begin


def test_when_every_arm_stalls_the_search_has_stalled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Long before the limit, with the least gap that an arm has left."""
    arms = [
        Script("a", _end(End.TIME, -2.0), _end(End.STALLED, -0.25)),
        Script("b", _end(End.TIME, -9.0), _end(End.STALLED, -0.5)),
    ]
    solution, seconds = _solve(monkeypatch, arms)
    assert (solution.end, solution.gap) == (End.STALLED, 0.25)
    assert (solution.domains, solution.closed, solution.open) == (8, 5, 3)
    assert seconds < 10


@pytest.mark.parametrize("last", (None, float("-inf"), float("nan")))
def test_an_arm_that_knows_no_gap_does_not_hide_the_others(monkeypatch: pytest.MonkeyPatch, last: float | None) -> None:
    arms = [Script("a", _end(End.STALLED, -0.25)), Script("b", _end(End.TIME, last), _end(End.STALLED, last))]
    assert _solve(monkeypatch, arms)[0].gap == 0.25


def test_the_gap_that_progress_showed_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    solution, _ = _solve(monkeypatch, [Script("a", _end(End.STALLED, None))], reported=-0.75)
    assert (solution.end, solution.gap) == (End.STALLED, 0.75)
    solution, _ = _solve(monkeypatch, [Script("a", _end(End.TIME, None))], 0.3, -0.75)
    assert (solution.end, solution.gap) == (End.TIME, 0.75)


def test_the_time_limit_is_named_only_when_it_was_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    """One arm has stalled, the other one would go on."""
    arms = [Script("a", _end(End.STALLED, -0.25)), Script("b", _end(End.TIME, -0.5))]
    solution, seconds = _solve(monkeypatch, arms, seconds=0.5)
    assert (solution.end, solution.gap) == (End.TIME, 0.25) and seconds >= 0.45


@pytest.mark.parametrize("error", (MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 8e12")))
def test_an_arm_without_memory_leaves_the_others_at_work(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    first = Script("a", _end(End.TIME, -0.5), error)
    assert _solve(monkeypatch, [first, Script("b", _end(End.TIME, -1.0), _end(End.CLOSED, None))])[0].end is End.CLOSED
    again = Script("a", _end(End.TIME, -0.5), error)
    solution, _ = _solve(monkeypatch, [again, Script("b", _end(End.STALLED, -1.0))])
    assert (solution.end, solution.gap) == (End.MEMORY, 0.5)
    assert first.runs == again.runs == 2, "an arm that lost domains in the middle must not go on"


def test_other_errors_of_an_arm_are_not_swallowed() -> None:
    with pytest.raises(RuntimeError, match="boom"):
        Meter(Script("a", RuntimeError("boom"))).run(Clock(time.monotonic, time.monotonic() + 1))


@pytest.mark.parametrize(
    ("end", "status", "reason"),
    [
        (End.STALLED, Status.UNKNOWN, Reason.STALLED),
        (End.MEMORY, Status.UNKNOWN, Reason.OUT_OF_MEMORY),
        (End.TIME, Status.TIMED_OUT, Reason.OUT_OF_TIME),
    ],
)
def test_the_verdict_says_how_the_search_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: End, status: Status, reason: Reason
) -> None:
    arms = [Script("a", _end(End.TIME, -0.5), _end(end, -0.25))]
    monkeypatch.setattr(Strategy, "_arms", lambda self: arms)
    # Nothing but the scripted arms may answer: intervals alone would prove this claim.
    monkeypatch.setattr("verinet.solvers.strategy.close_by_intervals", lambda query, clock: None)
    path = onnx_chain(random_chain((3, 5, 2), 0), tmp_path)
    claim = property_of([(-np.ones(3), np.ones(3))], [Clause(0, rows([1.0, -0.5], [-1e6]))], 2)
    verdict = verinet.verify(path, claim, timeout=1.5 if end is End.TIME else 60, device="cpu")
    assert (verdict.status, verdict.reason, verdict.gap) == (status, reason, 0.25)
    assert verdict.to_dict()["gap"] == 0.25 and verdict.to_dict()["reason"] == reason.name.lower()
