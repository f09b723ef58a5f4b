"""Where tasks run: the interface, and worker processes on this machine.

The scheduler knows nothing but slots, tasks and events, so another executor (a cluster's) fits in its place.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol

from verinet.batch.task import Event, Finished, Lost, Moved, Started, Task
from verinet.numerics.machine import resident

_LAST_LINES, _LAST_BYTES = 8, 4096
_ENTRY = (sys.executable, "-P", "-m", "verinet.batch.worker")


class Executor(Protocol):
    """Runs one task at a time in each of `slots` slots.

    A slot announces itself by `Started`; then it takes a task by `submit` and ends it by `Finished` or `Lost`. After
    `Lost` the slot is empty until `start` is called again.
    """

    slots: int

    def start(self, slot: int) -> None:
        """Bring up the slot's worker."""

    def submit(self, slot: int, task: Task) -> None:
        """Give a task to an idle slot."""

    def events(self, wait: float) -> list[Event]:
        """What has happened, waiting at most `wait` seconds for something to happen."""

    def kill(self, slot: int) -> None:
        """End the slot's worker by force; its `Lost` follows."""

    def stop(self) -> None:
        """Ask running tasks to end early."""

    def close(self) -> None:
        """End all workers."""


@dataclass(frozen=True, slots=True)
class WorkerPlan:
    """How workers are made: torch threads, memory limit in bytes (0: none), GPUs to share, folder for stderr."""

    threads: int
    memory: int
    gpus: tuple[str, ...]
    stderr: Path
    entry: tuple[str, ...] = _ENTRY


@dataclass(slots=True)
class _Worker:
    process: subprocess.Popen[bytes]
    results: IO[bytes]
    stderr: Path
    rest: bytes = b""
    offset: int = 0  # where the stderr of the present task begins
    over: bool = False  # killed for its memory


@dataclass(slots=True)
class LocalExecutor:
    """One process per slot, watched from outside: a worker above its memory limit is killed."""

    slots: int
    plan: WorkerPlan
    _workers: dict[int, _Worker] = field(default_factory=dict)
    _selector: selectors.DefaultSelector = field(default_factory=selectors.DefaultSelector)

    def start(self, slot: int) -> None:
        """Start the slot's process; its `Started` follows when torch is loaded."""
        self.plan.stderr.mkdir(parents=True, exist_ok=True)
        errors = self.plan.stderr / f"worker-{slot}.stderr"
        reader, writer = os.pipe()
        # With a GPU the limit is kept from outside only: a driver's own mappings would count against the inner one.
        inner = 0 if self.plan.gpus else self.plan.memory
        arguments = [*self.plan.entry, str(writer), str(self.plan.threads), str(inner)]
        try:
            with errors.open("wb") as sink:
                process = subprocess.Popen(
                    arguments,
                    stdin=subprocess.PIPE,
                    stdout=sink,
                    stderr=sink,
                    pass_fds=(writer,),
                    env=self._environment(slot),
                )
        except BaseException:
            os.close(reader)
            raise
        finally:
            os.close(writer)
        os.set_blocking(reader, False)
        self._workers[slot] = _Worker(process, os.fdopen(reader, "rb", buffering=0), errors)
        self._selector.register(reader, selectors.EVENT_READ, slot)

    def submit(self, slot: int, task: Task) -> None:
        """Send a task. A worker that has just died is noticed by the end of its results."""
        worker = self._workers[slot]
        worker.offset = worker.stderr.stat().st_size
        self._send(worker, {"task": task.to_dict()})

    def events(self, wait: float) -> list[Event]:
        """Messages of all workers, and the deaths of those that have ended."""
        self._watch_memory()
        found: list[Event] = []
        if not self._workers:
            return found
        for key, _ in self._selector.select(wait):
            found += self._read(key.data)
        return found

    def kill(self, slot: int) -> None:
        """SIGKILL: a worker deep in native code hears nothing else."""
        self._workers[slot].process.kill()

    def stop(self) -> None:
        """Ask all workers to answer early."""
        for worker in self._workers.values():
            self._send(worker, {"stop": True})

    def close(self) -> None:
        """Kill and reap all workers."""
        for slot in list(self._workers):
            self._workers[slot].process.kill()
            self._remove(slot)
        self._selector.close()

    def _environment(self, slot: int) -> dict[str, str]:
        threads = str(self.plan.threads)
        extra = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "GOMP_SPINCOUNT": "1000"}
        if self.plan.gpus:
            extra["CUDA_VISIBLE_DEVICES"] = self.plan.gpus[slot % len(self.plan.gpus)]
        return os.environ | extra

    @staticmethod
    def _send(worker: _Worker, message: dict[str, Any]) -> None:
        line = json.dumps(message).encode() + b"\n"
        stream = worker.process.stdin
        try:
            if stream is not None:
                stream.write(line)
                stream.flush()
        except OSError:  # it has died; the end of its results says so
            return

    def _watch_memory(self) -> None:
        if self.plan.memory <= 0:
            return
        for worker in self._workers.values():
            if resident(worker.process.pid) > self.plan.memory:
                worker.over = True
                worker.process.kill()

    def _read(self, slot: int) -> list[Event]:
        worker = self._workers[slot]
        chunks, ended = _available(worker.results.fileno())
        *lines, worker.rest = (worker.rest + chunks).split(b"\n")
        found = [_event(slot, json.loads(line)) for line in lines]
        if ended:
            found.append(self._lost(slot))
        return found

    def _lost(self, slot: int) -> Lost:
        worker = self._workers[slot]
        self._remove(slot)
        code = worker.process.returncode
        if worker.over:
            kind, detail = "out_of_memory", f"the worker held more than {self.plan.memory / 2**30:.3g} GB"
        elif code < 0:
            kind, detail = "signal", _signal_text(-code)
        else:
            kind, detail = "exit", f"the worker ended with exit code {code}"
        return Lost(slot, kind, detail, _tail(worker.stderr, worker.offset))

    def _remove(self, slot: int) -> None:
        worker = self._workers.pop(slot)
        self._selector.unregister(worker.results)
        worker.results.close()
        if worker.process.stdin is not None:
            try:
                worker.process.stdin.close()
            except OSError:  # unsent bytes for a dead worker
                pass
        try:
            worker.process.wait(timeout=1.0)
        except subprocess.TimeoutExpired:  # it closed its results but lives on
            worker.process.kill()
            worker.process.wait()


def _available(pipe: int) -> tuple[bytes, bool]:
    """All that can be read now, and whether the other end is closed."""
    chunks = []
    while True:
        try:
            chunks.append(os.read(pipe, 1 << 16))
        except BlockingIOError:
            return b"".join(chunks), False
        if not chunks[-1]:
            return b"".join(chunks), True


def _event(slot: int, message: dict[str, Any]) -> Event:
    if "ready" in message:
        return Started(slot, message["ready"])
    if "moved" in message:
        seconds, gap, still_open, closed = message["moved"]
        return Moved(slot, (seconds, gap, still_open, closed))
    return Finished(slot, message["done"])


def _signal_text(number: int) -> str:
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = "unknown"
    more = "; the kernel does this when the machine runs out of memory" if number == signal.SIGKILL else ""
    return f"the worker was ended by signal {number} ({name}){more}"


def _tail(path: Path, offset: int) -> tuple[str, ...]:
    try:
        with path.open("rb") as stream:
            end = stream.seek(0, os.SEEK_END)
            stream.seek(max(offset, end - _LAST_BYTES))
            text = stream.read().decode("utf-8", errors="replace")
    except OSError:
        return ()
    return tuple(text.rstrip().splitlines()[-_LAST_LINES:])


ExecutorFactory = Callable[[int, WorkerPlan], Executor]


def local(slots: int, plan: WorkerPlan) -> Executor:
    """The default executor: processes on this machine."""
    return LocalExecutor(slots, plan)
