"""Two ways a search is told to end: the time limit and Ctrl-C."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from verinet.cli.session import EXIT_INTERRUPTED


@dataclass(frozen=True, slots=True)
class Limits:
    """Moments on the clock of `time.monotonic()`.

    The search is asked to stop at `search`. If it has not, the watchdog answers for it at `hard`. Both lie before the
    user's limit, because the answer still has to be written.
    """

    search: float
    hard: float

    @classmethod
    def of(cls, started: float, timeout: float) -> Limits:
        """Keep back 0.3 s or 2 % (at most 1 s), but never more than 30 % of a very short limit."""
        kept = min(max(0.3, 0.02 * timeout), 1.0, 0.3 * timeout)
        return cls(started + timeout - kept, started + timeout - kept / 2)


@contextmanager
def watchdog(limits: Limits, speak: Callable[[], int | None]) -> Iterator[None]:
    """Run `speak` and end the process at the hard limit, unless the block is left before."""
    done = threading.Event()

    def watch() -> None:
        wait = min(max(0.0, limits.hard - time.monotonic()), threading.TIMEOUT_MAX)
        if done.wait(wait):
            return
        code = speak()
        if code is not None:
            _end(code)

    thread = threading.Thread(target=watch, name="verinet-watchdog", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()


@contextmanager
def interruptible() -> Iterator[threading.Event]:
    """Ctrl-C once sets the event; twice ends the process at once, without a verdict."""
    stopped = threading.Event()

    def handle(signum: int, frame: FrameType | None) -> None:
        # Written past Python's buffers, which the interrupted code may just be using.
        if stopped.is_set():
            os.write(2, b"\naborted\n")
            os._exit(EXIT_INTERRUPTED)
        stopped.set()
        os.write(2, b"\nstopping; press Ctrl-C again to abort\n")

    if threading.current_thread() is not threading.main_thread():
        yield stopped  # signals can only be handled in the main thread
        return
    before = signal.signal(signal.SIGINT, handle)
    try:
        yield stopped
    finally:
        signal.signal(signal.SIGINT, before)


def _end(code: int) -> None:
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)
