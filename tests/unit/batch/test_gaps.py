"""A result without an answer keeps the last gap that was told, whatever came after it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from verinet.batch.curve import Curve, last_gap
from verinet.batch.solve import Hooks, Networks, solve
from verinet.batch.task import Task
from verinet.results import Progress, Reason, Status, Verdict

CASES = pytest.mark.parametrize(
    ("points", "gap"),
    [
        ([], None),
        ([(0.1, None, 1, 0)], None),
        ([(0.1, 2.0, 1, 0), (0.2, 0.5, 1, 0)], 0.5),
        ([(0.1, 2.0, 1, 0), (0.2, 0.5, 1, 0), (0.3, None, 2, 4)], 0.5),
        ([(0.1, 0.0, 1, 0), (0.3, None, 2, 4)], 0.0),
    ],
)


@CASES
def test_the_last_gap_is_found(points, gap):
    assert last_gap(points) == gap


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (Verdict(Status.UNKNOWN, Reason.STALLED), "stalled"),
        (Verdict(Status.TIMED_OUT, Reason.OUT_OF_TIME), "out_of_time"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 8e12 bytes"), "out_of_memory"),
    ],
)
def test_the_record_has_it(root: Path, monkeypatch: pytest.MonkeyPatch, end: Verdict | Exception, reason: str) -> None:
    """The engine told of a gap of 0.5, then of a snapshot without one, then ended without an answer."""

    def fake(*subjects: Any, progress: Any, **rest: Any) -> Verdict:
        for seconds, gap in ((0.1, 2.0), (0.2, 0.5), (0.3, None)):
            progress(Progress(seconds, "branching", 1, 0, None, gap))
        if isinstance(end, Exception):
            raise end
        return end

    monkeypatch.setattr("verinet.api.verify", fake)
    spec = root / "vnnlib_specs" / "digits_relu_score.vnnlib"
    task = Task(1, (("", str(root / "models" / "digits_relu.onnx")),), str(spec), 5.0, "cpu", 0)
    outcome = solve(task, Networks(), Hooks(lambda point: None, lambda: False))
    assert (outcome["reason"], outcome["gap"]) == (reason, 0.5)
    assert outcome["status"] in ("unknown", "timed-out")


def test_the_curve_ends_with_the_latest_snapshot():
    curve = Curve()
    for seconds, gap in ((0.0, 2.0), (1.0, 0.5), (1.001, None)):
        curve.add(Progress(seconds, "branching", 1, 0, None, gap))
    assert curve.points()[-1][1] is None and last_gap(curve.points()) == 0.5
