"""`verinet.batch.run`: a whole list of instances, resumable, on this machine."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from verinet.batch.executor import Executor, ExecutorFactory, WorkerPlan, local
from verinet.batch.index import build_index
from verinet.batch.instances import Instance, Shard, fingerprint, read_instances
from verinet.batch.scheduler import Scheduler, check_lists
from verinet.batch.settings import GIGABYTE, Machine, Settings
from verinet.batch.store import Paths, Record, Store

if TYPE_CHECKING:
    from verinet.cluster import RayOptions

SOLVED = ("sat", "unsat")


@dataclass(frozen=True, slots=True)
class Busy:
    """An instance that is running: seconds so far, and its last progress (gap, open subproblems)."""

    slot: int
    instance: Instance
    seconds: float
    gap: float | None
    open: int


@dataclass(slots=True)
class Snapshot:
    """How far a run is. Seconds are of this session; `done` includes results of earlier sessions."""

    total: int
    workers: int
    resumed: int = 0
    done: int = 0
    seconds: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)
    busy: tuple[Busy, ...] = ()
    worst: tuple[Record, ...] = ()  # open results with the largest gaps
    note: str = ""

    @property
    def solved(self) -> int:
        return sum(self.counts[word] for word in SOLVED)

    @property
    def rate(self) -> float:
        """Instances per second in this session."""
        return (self.done - self.resumed) / self.seconds if self.seconds > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        """At the rate so far; None before the first result."""
        return (self.total - self.done) / self.rate if self.rate > 0 else None


class Observer(Protocol):
    """Is told about a run as it goes; see `verinet.cli.batch` for the live table."""

    def update(self, snapshot: Snapshot, fresh: Sequence[Record]) -> None:
        """Called some ten times a second. `fresh` are the results stored since the last call."""


@dataclass(frozen=True, slots=True)
class BatchResult:
    """End of a run. `records` are those of this shard, by instance number."""

    folder: Path
    total: int
    counts: Mapping[str, int]
    records: tuple[Record, ...]
    seconds: float
    resumed: int
    interrupted: bool

    @property
    def complete(self) -> bool:
        """Whether every instance has a result."""
        return len(self.records) == self.total


def run(  # noqa: PLR0913 - the public entry point: a list, a folder, and options by keyword only
    instances: str | Path,
    out: str | Path,
    *,
    workers: int | None = None,
    timeout: float | None = None,
    memory: float | None = None,
    shard: str | Shard | None = None,
    device: str = "auto",
    seed: int = 0,
    fresh: bool = False,
    observer: Observer | None = None,
    stop: Callable[[], bool] | None = None,
    executor: ExecutorFactory = local,
    ray: RayOptions | None = None,
) -> BatchResult:
    """Answer every instance of a list, or those that an earlier call into the same folder has left open.

    Args:
        instances: csv file with `onnx,vnnlib,timeout` rows (`.gz` allowed), or a folder with one per family.
        out: folder of the run; results go to `results.jsonl` in it, one line each, as soon as they are known.
        workers: processes; by default one per GPU, or one per core as far as memory goes.
        timeout: seconds per instance, instead of the times in the list.
        memory: gigabytes that one worker may hold.
        shard: `i/n` takes every n-th instance; all shards may share `out`.
        device: auto, cpu or cuda.
        seed: of the random searches, the same for every instance.
        fresh: set earlier results in `out` aside and start again.
        observer: is told of progress and results.
        stop: polled; True ends the run early. What was running is run again when the run is resumed.
        executor: makes what tasks run on; by default worker processes on this machine.
        ray: an existing Ray cluster to run on, instead of this machine. `memory` is then reserved there as well.

    Raises:
        UsageError: a list that cannot be read, a folder in use or with a run of other settings, no such cluster.
        InternalError: workers cannot be started.
    """
    part = Shard.parse(shard) if isinstance(shard, str) else shard
    settings = Settings(timeout, memory, device, seed, part, workers)
    everything = read_instances(instances, timeout)
    chosen = part.take(everything) if part else everything
    check_lists(chosen)
    with Store(Paths.of(out, part)) as store:
        store.begin(settings.fixed() | {"instances": fingerprint(everything)}, fresh=fresh)
        left = [instance for instance in chosen if instance.number not in store.records]
        where = _here(settings, left, executor) if ray is None or not left else _there(settings, left, ray)
        session = _Session(store, chosen, (settings, where), observer)
        return session.run(stop or (lambda: False))


@dataclass(frozen=True, slots=True)
class _Where:
    """What tasks run on: number of workers, torch threads of each, names of the GPUs, and a maker of workers."""

    workers: int
    threads: int
    gpus: tuple[str, ...]
    factory: ExecutorFactory


def _here(settings: Settings, left: Sequence[Instance], factory: ExecutorFactory) -> _Where:
    machine = Machine.here()
    workers = machine.workers(settings, max(1, len(left)))
    return _Where(workers, machine.threads(workers), machine.gpus if settings.device != "cpu" else (), factory)


def _there(settings: Settings, left: Sequence[Instance], options: RayOptions) -> _Where:
    from verinet.batch.ray_executor import on_ray
    from verinet.cluster import Cluster

    cluster = Cluster(options)
    try:
        share = cluster.share(settings.device, int((settings.memory or 0.0) * GIGABYTE))
        wanted = settings.workers
        workers = min(wanted, len(left)) if wanted else cluster.workers(share, len(left))
    except BaseException:
        cluster.close()
        raise
    return _Where(workers, share.cpus, (), on_ray(cluster, share))


class _Session:
    """One call of `run` on an open store."""

    def __init__(
        self, store: Store, instances: Sequence[Instance], how: tuple[Settings, _Where], observer: Observer | None
    ) -> None:
        self.store, self.observer = store, observer
        self.settings, self.where = how
        self.left = [instance for instance in instances if instance.number not in store.records]
        self.begun = time.monotonic()
        self.snapshot = self._first_snapshot(len(instances))

    def _first_snapshot(self, total: int) -> Snapshot:
        done = list(self.store.records.values())
        counts = Counter(record["status"] for record in done)
        note = f"an incomplete last line ({self.store.repaired} bytes) was cut off" if self.store.repaired else ""
        worst = _worst(done)
        return Snapshot(total, self.where.workers, len(done), len(done), counts=counts, worst=worst, note=note)

    def run(self, stop: Callable[[], bool]) -> BatchResult:
        interrupted, where = False, self.where
        self._tell([], ())
        if self.left:
            memory = int((self.settings.memory or 0.0) * GIGABYTE)
            plan = WorkerPlan(where.threads, memory, where.gpus, self.store.paths.stderr)
            pool = where.factory(where.workers, plan)
            try:
                interrupted = self._drive(pool, stop)
            finally:
                pool.close()
        build_index(self.store.paths)
        snapshot, records = self.snapshot, self.store.records
        return BatchResult(
            self.store.paths.folder,
            snapshot.total,
            dict(snapshot.counts),
            tuple(records[number] for number in sorted(records)),
            time.monotonic() - self.begun,
            snapshot.resumed,
            interrupted,
        )

    def _drive(self, pool: Executor, stop: Callable[[], bool]) -> bool:
        scheduler = Scheduler(self.left, pool, self.settings, self.where.threads)
        for records in scheduler.records(stop):
            for record in records:
                self.store.append(record)
            self._tell(records, _busy(scheduler))
        return scheduler.interrupted

    def _tell(self, fresh: Sequence[Record], busy: tuple[Busy, ...]) -> None:
        snapshot = self.snapshot
        snapshot.done += len(fresh)
        snapshot.counts.update(record["status"] for record in fresh)
        if fresh:
            snapshot.worst = _worst((*snapshot.worst, *fresh))
        snapshot.seconds, snapshot.busy = time.monotonic() - self.begun, busy
        if self.observer is not None:
            self.observer.update(snapshot, fresh)


def _busy(scheduler: Scheduler) -> tuple[Busy, ...]:
    now = time.monotonic()
    found = []
    for slot, run in sorted(scheduler.running.items()):
        gap, still_open = (run.points[-1][1], run.points[-1][2]) if run.points else (None, 0)
        found.append(Busy(slot, run.instance, now - run.begun, gap, still_open))
    return tuple(found)


def _worst(records: Sequence[Record], count: int = 5) -> tuple[Record, ...]:
    still_open = [r for r in records if r["status"] not in SOLVED and isinstance(r["gap"], float)]
    return tuple(sorted(still_open, key=lambda record: -float(record["gap"]))[:count])
