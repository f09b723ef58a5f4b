"""Which instance runs where: networks kept together, deadlines, one retry, and a record for every instance."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from verinet.batch.curve import POINTS, Point, last_gap
from verinet.batch.executor import Executor
from verinet.batch.instances import Instance
from verinet.batch.settings import Settings
from verinet.batch.solve import failure
from verinet.batch.store import FORMAT, Record
from verinet.batch.task import NODE, Event, Finished, Lost, Moved, Outcome, Started, Taken, Task
from verinet.errors import InternalError, UsageError

ATTEMPTS = 2  # an instance whose worker died is tried this often
START_FAILURES = 3  # workers in a row that die before they are ready
STOP_WAIT = 5.0  # seconds that running tasks get to end after a stop request
_POLL = 0.1  # seconds


@dataclass(slots=True)
class Running:
    """A task in a slot. `begun` is on the clock of the scheduler."""

    instance: Instance
    task: Task
    begun: float
    started: str  # UTC
    points: list[Point] = field(default_factory=list)
    killed: bool = False  # by us, at the hard limit


class Groups:
    """Open instances by network. A slot stays with its network; else it takes the one with the most time to spend.

    Networks that no other slot works on come first, so that each is loaded by as few workers as possible.
    """

    def __init__(self, instances: Sequence[Instance]) -> None:
        self._queues: dict[str, deque[Instance]] = {}
        for instance in instances:
            self._queues.setdefault(self.key(instance), deque()).append(instance)
        self._last: dict[int, str] = {}

    @staticmethod
    def key(instance: Instance) -> str:
        """What instances have in common when a warm worker can go on with them."""
        return f"{instance.folder}\n{instance.network}"

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def take(self, slot: int) -> Instance | None:
        """The next instance for a slot."""
        if not self._queues:
            return None
        chosen = self._last.get(slot, "")
        if chosen not in self._queues:
            held = {key for other, key in self._last.items() if other != slot}
            chosen = max(self._queues, key=lambda key: (key not in held, sum(i.timeout for i in self._queues[key])))
            self._last[slot] = chosen
        instance = self._queues[chosen].popleft()
        if not self._queues[chosen]:
            del self._queues[chosen]
        return instance

    def put_back(self, instance: Instance) -> None:
        """An instance to be tried again, before the others of its network."""
        self._queues.setdefault(self.key(instance), deque()).appendleft(instance)


class Scheduler:
    """Drives an executor until every instance has a record, or until asked to stop."""

    def __init__(self, instances: Sequence[Instance], executor: Executor, settings: Settings, threads: int) -> None:
        self.groups = Groups(instances)
        self.running: dict[int, Running] = {}
        self.interrupted = False
        self._executor, self._settings, self._threads = executor, settings, threads
        self._idle: set[int] = set()
        self._starting: set[int] = set()
        self._facts: dict[int, dict[str, str]] = {}
        self._attempts: dict[int, int] = {}
        self._failed_starts = 0

    def records(self, stop: Callable[[], bool]) -> Iterator[list[Record]]:
        """Records as they come, at least every tenth of a second (then perhaps none), until all is done.

        Raises:
            InternalError: workers cannot be started.
        """
        self._assign()
        while self.running or len(self.groups):  # a worker that still starts up is not waited for
            if stop():
                yield from self._wind_down()
                return
            ended = [self._handle(event) for event in self._executor.events(_POLL)]
            self._kill_overdue()
            self._assign()  # before the records are written, so that no worker waits for the disk
            yield [record for record in ended if record is not None]

    def _wind_down(self) -> Iterator[list[Record]]:
        self.interrupted = True
        self._executor.stop()
        until = time.monotonic() + STOP_WAIT
        while self.running and time.monotonic() < until:
            ended = [self._handle(event) for event in self._executor.events(_POLL)]
            # What was cut short is no result: it runs again when the batch is resumed.
            yield [r for r in ended if r is not None and r["status"] in ("sat", "unsat")]

    def _handle(self, event: Event) -> Record | None:
        if isinstance(event, Started):
            self._starting.discard(event.slot)
            self._idle.add(event.slot)
            self._facts[event.slot] = event.facts
            self._failed_starts = 0
            return None
        if isinstance(event, Moved):
            self._moved(event)
            return None
        if isinstance(event, Taken):
            if event.slot in self.running:
                self.running[event.slot].begun = time.monotonic()
            return None
        if isinstance(event, Finished):
            return self._finished(event)
        return self._lost(event)

    def _moved(self, event: Moved) -> None:
        run = self.running.get(event.slot)
        if run is not None:
            run.points.append(event.point)
            if len(run.points) > 2 * POINTS:
                run.points = run.points[::2]

    def _finished(self, event: Finished) -> Record | None:
        run = self.running.pop(event.slot, None)
        self._idle.add(event.slot)
        return None if run is None else self._record(run, event.slot, event.outcome)

    def _lost(self, event: Lost) -> Record | None:
        run = self.running.pop(event.slot, None)
        self._idle.discard(event.slot)
        if event.slot in self._starting:
            self._starting.discard(event.slot)
            if event.kind != NODE:  # a node that goes down says nothing about the workers
                self._count_failed_start(event)
        if run is None:
            return None
        seconds = time.monotonic() - run.begun
        if run.killed:
            return self._record(run, event.slot, _killed(run, seconds))
        if self._attempts[run.instance.number] < ATTEMPTS:
            self.groups.put_back(run.instance)
            return None
        outcome = failure(event.kind, event.detail, event.stderr) | _unfinished(run, seconds)
        return self._record(run, event.slot, outcome)

    def _count_failed_start(self, event: Lost) -> None:
        self._failed_starts += 1
        if self._failed_starts >= START_FAILURES:
            raise InternalError(
                f"workers cannot be started: {event.detail}",
                where="\n          ".join(event.stderr),
                hint="`verinet doctor` tests the installation; a memory limit below 1 GB is too small for torch",
            )

    def _kill_overdue(self) -> None:
        now = time.monotonic()
        for slot, run in self.running.items():
            if not run.killed and now - run.begun > run.task.killed_after:
                run.killed = True
                self._executor.kill(slot)

    def _assign(self) -> None:
        for slot in range(self._executor.slots):
            if slot in self._idle:
                self._give(slot)
            elif slot not in self.running and slot not in self._starting and len(self.groups) > len(self._starting):
                self._starting.add(slot)
                self._executor.start(slot)

    def _give(self, slot: int) -> None:
        instance = self.groups.take(slot)
        if instance is None:
            return
        task = Task.of(instance, self._settings.device, self._settings.seed)
        self._idle.discard(slot)
        self._attempts[instance.number] = self._attempts.get(instance.number, 0) + 1
        self.running[slot] = Running(instance, task, time.monotonic(), utc_now())
        self._executor.submit(slot, task)

    def _record(self, run: Running, slot: int, outcome: Outcome) -> Record:
        instance = run.instance
        head = {
            "format": FORMAT,
            "number": instance.number,
            "family": instance.family,
            "model": instance.network,
            "property": instance.prop,
            "timeout": instance.timeout,
        }
        tail = {
            "worker": slot,
            "attempts": self._attempts[instance.number],
            "threads": self._threads,
            "seed": self._settings.seed,
            "versions": self._facts.get(slot, {}),
            "started": run.started,
            "finished": utc_now(),
        }
        return head | EMPTY | outcome | tail


# Every record has these keys, whatever happened.
EMPTY: Record = {
    "status": "error",
    "reason": "",
    "gap": None,
    "seconds": 0.0,
    "load_seconds": None,
    "search_seconds": None,
    "domains": 0,
    "closed": 0,
    "open": 0,
    "strategy": [],
    "notes": [],
    "witness": None,
    "error": None,
    "curve": [],
    "device": None,
    "rss_mb": None,
    "model_sha256": None,
    "property_sha256": None,
}


def check_lists(instances: Sequence[Instance]) -> None:
    """Raise UsageError for a malformed list of networks before anything is started."""
    for instance in instances:
        if instance.several_networks and not instance.network_files():
            raise UsageError("the list of networks is empty", where=f"instance {instance.number}")


def utc_now() -> str:
    """Now in ISO 8601, UTC, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _killed(run: Running, seconds: float) -> Outcome:
    note = f"the worker had not answered {run.task.killed_after - run.task.timeout:.3g} s after the limit and was ended"
    return {"status": "timed-out", "reason": "killed_at_the_limit", "notes": [note]} | _unfinished(run, seconds)


def _unfinished(run: Running, seconds: float) -> Outcome:
    """What is known of a task whose worker is gone: its last progress."""
    known: Outcome = {"seconds": round(seconds, 4), "curve": run.points}
    if run.points:
        *_, still_open, closed = run.points[-1]
        known |= {"gap": last_gap(run.points), "open": still_open, "closed": closed, "domains": still_open + closed}
    return known
