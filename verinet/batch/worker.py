"""A worker process: reads tasks as lines of JSON, keeps torch and the last networks, writes outcomes.

Started by `LocalExecutor` as `python -m verinet.batch.worker RESULTS_FD THREADS MEMORY_BYTES`. Tasks come on stdin; its
end means that the parent has gone, and the worker goes too. Results have a pipe of their own, because libraries print.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import IO, Any

from verinet.batch.curve import Point
from verinet.batch.memory import limit_own
from verinet.batch.solve import Hooks, Networks, solve
from verinet.batch.store import finite
from verinet.batch.task import Outcome, Task
from verinet.numerics.machine import resident

Solver = Callable[[Task, Hooks], Outcome]
_DIES_WITH_PARENT = 1  # PR_SET_PDEATHSIG of prctl(2)
_MOVES_APART = 0.25  # seconds between two messages about progress


class Inbox:
    """Tasks from stdin, read in a thread, so that a stop request or the parent's end is noticed during a search."""

    def __init__(self, lines: IO[str]) -> None:
        self._tasks: queue.SimpleQueue[Task] = queue.SimpleQueue()
        self._stopped = threading.Event()
        threading.Thread(target=self._read, args=(lines,), name="verinet-inbox", daemon=True).start()

    def next(self) -> Task:
        """Wait for a task."""
        return self._tasks.get()

    def stopped(self) -> bool:
        """Whether the parent wants the search to end."""
        return self._stopped.is_set()

    def _read(self, lines: IO[str]) -> None:
        for line in lines:
            message = json.loads(line)
            if message.get("stop"):
                self._stopped.set()
            else:
                self._tasks.put(Task.from_dict(message["task"]))
        os._exit(0)


class Outbox:
    """Messages to the parent, one line of JSON each."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._next = 0.0

    def send(self, **message: Any) -> None:
        """Write one message at once."""
        self._stream.write(json.dumps(finite(message), separators=(",", ":"), allow_nan=False) + "\n")
        self._stream.flush()

    def moved(self, point: Point) -> None:
        """Tell of progress, a few times a second at most."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + _MOVES_APART
            self.send(moved=point)


def main(solver: Solver | None = None) -> None:
    """Serve until the parent goes away. `solver` replaces the engine in tests."""
    results, threads, memory = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    _follow_parent()
    limit_own(memory)
    outbox = Outbox(os.fdopen(results, "w", encoding="utf-8"))
    inbox = Inbox(sys.stdin)
    # Only this process is watched from outside, so with a limit on memory there are no others.
    processes = threads if memory <= 0 else 1
    facts = {} if solver is not None else _warm_up(threads)
    answer = solver or _engine()
    outbox.send(ready=facts)
    while True:
        task = inbox.next()
        outcome = answer(task, Hooks(outbox.moved, inbox.stopped, processes))
        outbox.send(done=outcome | {"rss_mb": round(resident() / 2**20, 1)})
        _tidy()


def _engine() -> Solver:
    networks = Networks()
    return lambda task, hooks: solve(task, networks, hooks)


def _follow_parent() -> None:
    # Ctrl-C in a terminal reaches the whole group; the parent then asks workers to stop in its own way.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        ctypes.CDLL(None).prctl(_DIES_WITH_PARENT, signal.SIGKILL)
    except (OSError, AttributeError):  # not Linux: the end of stdin tells
        return


def _warm_up(threads: int) -> dict[str, str]:
    """Import what every query needs, so that no query pays for it; returns the versions."""
    from importlib import import_module
    from importlib.metadata import version
    from platform import python_version

    import torch

    torch.set_num_threads(threads)
    for name in ("verinet.api", "verinet.solvers.strategy", "verinet.frontends.onnx", "verinet.spec", "onnxruntime"):
        import_module(name)
    gc.collect()
    gc.freeze()  # the modules themselves need never be looked through again
    found = {name: version(name) for name in ("verinet", "torch", "numpy", "onnx", "onnxruntime")}
    return found | {"python": python_version()}


def _tidy() -> None:
    """After an answer: free the search's cycles and give free pages back, so that memory stays flat."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):  # not glibc
        return


if __name__ == "__main__":
    main()
