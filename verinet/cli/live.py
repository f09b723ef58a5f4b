"""Progress on stderr: one live line on a terminal, else a line every ten seconds with -v, else nothing."""

from __future__ import annotations

import os
import shutil
import sys
import time

from verinet.cli.session import say
from verinet.results import Progress

_PLAIN_PERIOD = 10.0  # seconds between lines where the line cannot be overwritten
_LIVE_PERIOD = 0.1
_CLEAR = "\r\x1b[2K"


def describe(progress: Progress) -> str:
    """One line: time, phase, subproblems, bound, gap, rate."""
    parts = [f"{progress.seconds:7.1f} s", progress.phase]
    if progress.open or progress.closed:
        parts.append(f"open {progress.open}, closed {progress.closed}")
    if progress.bound is not None:
        parts.append(f"bound {progress.bound:.4g}")
    if progress.gap is not None:
        parts.append(f"gap {progress.gap:.4g}")
    if progress.rate:
        parts.append(f"{progress.rate:.0f}/s")
    return "  ".join(parts)


class Display:
    """The progress callback of a query. It remembers the last snapshot and gap, for whoever has to answer in a hurry.

    Nothing runs in the background and the cursor stays as it is, so the process may end at any moment.
    """

    def __init__(self, verbose: int = 0, quiet: bool = False) -> None:
        self.latest: Progress | None = None
        self.gap: float | None = None  # not every snapshot has one
        self._live = not quiet and _is_terminal()
        self._plain = not quiet and not self._live and verbose > 0
        self._next = time.monotonic() + (0.0 if self._live else _PLAIN_PERIOD)
        self._dirty = False

    def __call__(self, progress: Progress) -> None:
        self.latest = progress
        self.gap = self.gap if progress.gap is None else progress.gap
        now = time.monotonic()
        if not (self._live or self._plain) or now < self._next:
            return
        if self._plain:
            self._next = now + _PLAIN_PERIOD
            say(describe(progress))
            return
        self._next = now + _LIVE_PERIOD
        width = shutil.get_terminal_size().columns - 1
        self._write(_CLEAR + describe(progress)[:width])
        self._dirty = True

    def clear(self) -> None:
        """Remove the live line; to be called before anything else is printed."""
        if self._dirty:
            self._write(_CLEAR)
            self._dirty = False

    @staticmethod
    def _write(text: str) -> None:
        sys.stderr.write(text)
        sys.stderr.flush()


def _is_terminal() -> bool:
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb" and not os.environ.get("CI")
