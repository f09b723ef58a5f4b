"""Bound over time: a few points of what the progress callback tells."""

from __future__ import annotations

from collections.abc import Sequence

from verinet.results import Progress

POINTS = 100  # kept at most
_FIRST_STEP = 0.05  # seconds between points at first

Point = tuple[float, float | None, int, int]  # seconds, gap, open, closed


def last_gap(points: Sequence[Point]) -> float | None:
    """The last gap that was told; not every snapshot has one."""
    return next((gap for _, gap, _, _ in reversed(points) if gap is not None), None)


class Curve:
    """Keeps at most `POINTS` points, evenly spread over time, and always the last one.

    When full, every other point goes and the spacing doubles, so that a run of a second and one of an hour both give a
    usable curve.
    """

    def __init__(self) -> None:
        self.first: float | None = None  # seconds at which the search began
        self._points: list[Point] = []
        self._step = _FIRST_STEP
        self._latest: Point | None = None

    def add(self, progress: Progress) -> bool:
        """Take a snapshot; True if it became a point of the curve."""
        if self.first is None:
            self.first = progress.seconds
        self._latest = (round(progress.seconds, 4), progress.gap, progress.open, progress.closed)
        if self._points and progress.seconds < self._points[-1][0] + self._step:
            return False
        self._points.append(self._latest)
        if len(self._points) >= POINTS:
            self._points = self._points[::2]
            self._step *= 2
        return True

    def points(self) -> list[Point]:
        """The curve so far, with the latest snapshot as its last point."""
        if self._latest is None or self._points[-1] == self._latest:
            return list(self._points)
        return [*self._points, self._latest]
