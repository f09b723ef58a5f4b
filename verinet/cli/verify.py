"""`verinet verify`: one query, one word."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer

from verinet.cli.apart import ray_apart
from verinet.cli.finish import Finish, Report, named
from verinet.cli.live import Display
from verinet.cli.session import Session, guarded, say
from verinet.cli.watchdog import Limits, interruptible, watchdog
from verinet.results import Reason, Stats, Status, Verdict

if TYPE_CHECKING:
    from verinet.cluster import RayOptions

_LAST_WORDS = 10.0  # seconds


@dataclass(frozen=True, slots=True)
class Settings:
    """Options of the command that do not name files."""

    timeout: float = 300.0  # seconds
    device: str = "auto"
    seed: int = 0
    verbose: int = 0
    ray: RayOptions | None = None
    processes: int | None = None  # one per core


def seconds(text: str) -> float:
    """A time limit from the command line: a positive, finite number of seconds."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value <= 0:
        raise typer.BadParameter(f"a time limit is a number of seconds above 0, not '{text}'")
    return value


def run_verify(report: Report, settings: Settings, session: Session) -> int:
    """Answer the query and give its output; returns the exit code."""
    limits = Limits.of(session.started, settings.timeout)
    finish, display = Finish(report), Display(settings.verbose, report.quiet)

    def give(verdict: Verdict) -> int | None:
        display.clear()
        return finish.give(verdict)

    guard = watchdog(limits, lambda: give(_too_late(display, settings.timeout)))
    with guard if session.owns_process else nullcontext(), interruptible() as stopped:
        with guarded(settings.verbose), ray_apart(settings.ray is not None):
            verdict = _search(report, settings, (session.started, limits.search), display, stopped.is_set)
        code = give(verdict)
        if code is None:
            threading.Event().wait(_LAST_WORDS)  # the watchdog is speaking, and ends the process when it has
    return 0 if code is None else code


def _search(
    report: Report, settings: Settings, clock: tuple[float, float], display: Display, stop: Callable[[], bool]
) -> Verdict:
    started, deadline = clock
    from verinet import api

    if settings.verbose:
        say(f"network {named(report.model)}, property {report.spec}, limit {settings.timeout:g} s")
    try:
        return api.verify(
            named(report.model),
            str(report.spec),
            timeout=deadline - started,
            device=settings.device,
            seed=settings.seed,
            progress=display,
            started=started,
            stop=stop,
            ray=settings.ray,
            processes=settings.processes,
        )
    except (MemoryError, RuntimeError) as error:
        from verinet.numerics.memory import out_of_memory

        if not out_of_memory(error):
            raise
        return Verdict(Status.UNKNOWN, Reason.OUT_OF_MEMORY, gap=display.gap, stats=_stats(display))


def _too_late(display: Display, timeout: float) -> Verdict:
    latest = display.latest
    if latest is None:
        note = f"the limit of {timeout:g} s passed before the search had begun"
        return Verdict(Status.TIMED_OUT, Reason.OUT_OF_TIME, notes=(note,))
    return Verdict(Status.TIMED_OUT, Reason.OUT_OF_TIME, gap=display.gap, stats=_stats(display))


def _stats(display: Display) -> Stats:
    latest = display.latest
    return Stats() if latest is None else Stats(latest.seconds, latest.open + latest.closed, latest.closed, latest.open)
