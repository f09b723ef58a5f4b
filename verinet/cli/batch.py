"""`verinet batch`: many instances, with a live table on a terminal and a line now and then elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verinet.cli.apart import ray_apart
from verinet.cli.session import EXIT_INTERRUPTED, EXIT_TOOL, emit, emit_json, say
from verinet.cli.watchdog import interruptible

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

    from verinet.batch import BatchResult, Snapshot
    from verinet.batch.organiser import Row
    from verinet.cluster import RayOptions

STYLES = {"unsat": "green", "sat": "magenta", "unknown": "yellow", "timed-out": "yellow", "error": "bold red"}
_LIVE_PERIOD, _PLAIN_PERIOD = 0.2, 10.0  # seconds


@dataclass(frozen=True, slots=True)
class BatchOptions:
    """Options of the command as given; see `verinet.batch.run`."""

    workers: int | None = None
    timeout: float | None = None
    memory: float | None = None
    shard: str | None = None
    device: str = "auto"
    seed: int = 0
    fresh: bool = False
    ray: RayOptions | None = None


def run_batch(instances: Path, out: Path, options: BatchOptions, show: tuple[bool, bool]) -> int:
    """Run and summarise. `show` is (quiet, as_json). Returns 0, 1 if instances ended in an error, or 130."""
    from verinet import batch

    quiet, as_json = show
    chosen = {field.name: getattr(options, field.name) for field in fields(options)}
    with ExitStack() as stack:
        stopped = stack.enter_context(interruptible())
        stack.enter_context(ray_apart(options.ray is not None))
        observer = _observer(quiet, stack)
        result = batch.run(instances, out, **chosen, observer=observer, stop=stopped.is_set)
    if as_json:
        emit_json(_summary(result))
    elif not quiet:
        _print_summary(result)
    if result.interrupted:
        say("interrupted; the same command goes on where this one stopped")
        return EXIT_INTERRUPTED
    return EXIT_TOOL if result.counts.get("error") else 0


def run_competition(source: Path, out: Path, scripts: Path, timeout: float | None) -> int:
    """Run a tool's competition scripts over a benchmark and print its score. Returns 1 if an answer was wrong."""
    from verinet.batch.organiser import Harness

    families: dict[str, list[Row]] = {}
    for row in Harness(scripts, out).run(source, timeout):
        families.setdefault(row.instance.family, []).append(row)
        name = f"{_short(row.instance.network)} {_short(row.instance.prop)}"
        note = f"  {row.note}" if row.note else ""
        say(f"{row.instance.number:5} {row.result:10} {row.run_time:8.2f} s {row.points:+5}  {name}{note}")
    wide_console().print(_score_table(families))
    say(f"results: {out / 'results.csv'}")
    return EXIT_TOOL if any(row.points < 0 for rows in families.values() for row in rows) else 0


def _score_table(families: dict[str, list[Row]]) -> Table:
    from rich.table import Table

    from verinet.batch.organiser import percent

    table = Table(box=None, header_style="dim", pad_edge=False)
    table.add_column("benchmark")
    for name in ("instances", "correct", "wrong", "other", "points", "score", "seconds"):
        table.add_column(name, justify="right")
    for family, rows in families.items():
        correct, wrong = sum(row.points > 0 for row in rows), sum(row.points < 0 for row in rows)
        counts = map(str, (len(rows), correct, wrong, len(rows) - correct - wrong, sum(row.points for row in rows)))
        table.add_row(family, *counts, f"{percent(rows):.1f}", f"{sum(row.run_time for row in rows):.1f}")
    return table


class Plain:
    """A line every ten seconds, for logs."""

    def __init__(self) -> None:
        self._next = 0.0

    def update(self, snapshot: Snapshot, fresh: Sequence[dict[str, Any]]) -> None:
        """Say how far the run is, when it is time to."""
        now = time.monotonic()
        if now < self._next:
            return
        if not self._next:
            _announce(snapshot)
        self._next = now + _PLAIN_PERIOD
        say(_line(snapshot))


class Silent:
    """Nothing but what the summary says at the end."""

    def update(self, snapshot: Snapshot, fresh: Sequence[dict[str, Any]]) -> None:
        """Say nothing."""


class Live:
    """A table that is drawn anew a few times a second."""

    def __init__(self, stack: ExitStack) -> None:
        from rich.console import Console
        from rich.live import Live as Screen

        self._screen = Screen(console=Console(stderr=True), refresh_per_second=5, transient=True)
        self._next = 0.0
        self._stack: ExitStack | None = stack

    def update(self, snapshot: Snapshot, fresh: Sequence[dict[str, Any]]) -> None:
        """Draw, when it is time to."""
        if self._stack is not None:
            _announce(snapshot)
            self._stack.enter_context(self._screen)
            self._stack = None
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _LIVE_PERIOD
            self._screen.update(live_table(snapshot))


def live_table(snapshot: Snapshot) -> RenderableType:
    """What runs now, the worst gaps so far, and one line for the whole run."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    running = Table(box=None, pad_edge=False, header_style="dim")
    for name, side in (("worker", "right"), ("instance", "right"), ("family", "left"), ("property", "left")):
        running.add_column(name, justify=side, no_wrap=True, overflow="ellipsis")  # type: ignore[arg-type]
    for name in ("seconds", "limit", "gap", "open"):
        running.add_column(name, justify="right", no_wrap=True)
    for busy in snapshot.busy:
        one = busy.instance
        query = Text(f"{_short(one.network)} {_short(one.prop)}")
        times = f"{busy.seconds:.1f}", f"{one.timeout:g}"
        running.add_row(
            str(busy.slot), str(one.number), Text(one.family), query, *times, _gap(busy.gap), str(busy.open or "")
        )
    bar = ProgressBar(total=max(1, snapshot.total), completed=snapshot.done, width=48)
    return Group(running, *_worst_lines(snapshot), Group(bar, Text(_line(snapshot))))


def _worst_lines(snapshot: Snapshot) -> list[RenderableType]:
    from rich.text import Text

    if not snapshot.worst:
        return []
    lines: list[RenderableType] = [Text("largest gaps of open results", "dim")]
    for record in snapshot.worst:
        name = f"{record['family']} {_short(record['model'])} {_short(record['property'])}"
        lines.append(Text.assemble((f"{_gap(record['gap']):>10}  ", "yellow"), f"{record['number']:>5}  {name}"))
    return lines


def _line(snapshot: Snapshot) -> str:
    left = snapshot.seconds_left
    words = [f"{snapshot.counts[word]} {word}" for word in STYLES if snapshot.counts[word]]
    return (
        f"{snapshot.done} of {snapshot.total} done, {snapshot.solved} solved ({', '.join(words) or 'none yet'}), "
        f"{snapshot.rate:.2f}/s, {'time left unknown' if left is None else f'about {clock(left)} left'}"
    )


def clock(seconds: float) -> str:
    """Seconds for people: 8 s, 3:20, 2:05:00."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    hours, rest = divmod(whole, 3600)
    minutes = f"{rest // 60:02}" if hours else str(rest // 60)
    return f"{f'{hours}:' if hours else ''}{minutes}:{rest % 60:02}"


def _announce(snapshot: Snapshot) -> None:
    if snapshot.note:
        say(f"note: {snapshot.note}")
    again = f", {snapshot.resumed} done before" if snapshot.resumed else ""
    say(f"{snapshot.total} instances{again}; {snapshot.workers} worker(s)")


def wide_console() -> Console:
    """A console on stdout; where no terminal tells its width, wide enough for the tables."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 120)


def _print_summary(result: BatchResult) -> None:
    from verinet.report.data import entry_of, family_rows
    from verinet.report.tables import family_table

    entries = [entry_of(record) for record in result.records]
    wide_console().print(family_table(family_rows(entries), entries))
    emit(f"{len(result.records)} of {result.total} instances have a result; {clock(result.seconds)} in this session")
    say(f"results: {result.folder / 'results.jsonl'}; see `verinet report {result.folder} --html report.html`")


def _summary(result: BatchResult) -> dict[str, Any]:
    return {
        "folder": str(result.folder),
        "total": result.total,
        "done": len(result.records),
        "counts": dict(result.counts),
        "seconds": result.seconds,
        "resumed": result.resumed,
        "interrupted": result.interrupted,
    }


def _observer(quiet: bool, stack: ExitStack) -> Plain | Silent | Live:
    if quiet:
        return Silent()
    terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb" and not os.environ.get("CI")
    return Live(stack) if terminal else Plain()


def _short(path: str) -> str:
    return path if path.startswith("[") else path.rsplit("/", 1)[-1]


def _gap(gap: float | str | None) -> str:
    return "" if gap is None else f"{gap:.3g}" if isinstance(gap, float) else str(gap)
