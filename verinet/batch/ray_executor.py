"""Tasks on an existing Ray cluster: one actor per slot, which keeps a worker process as the local executor does."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from typing import Any

from verinet.batch.executor import ExecutorFactory, WorkerPlan
from verinet.batch.ray_agent import Agent
from verinet.batch.ray_files import Shipper
from verinet.batch.task import NODE, Event, Lost, Started, Task
from verinet.cluster import Cluster, Share, first_words
from verinet.errors import UsageError

_POLL = 0.5  # seconds that an actor waits for news of its worker
_KILL_WAIT = 15.0  # seconds after which a worker that was to be killed is lost with its actor
_PLACE_WAIT = 30.0  # seconds without any actor, after which a cluster that has become too small is an error
_CLOSE_WAIT = 3.0  # seconds for actors to remove their files


@dataclass(slots=True)
class _Slot:
    """An actor; `news` is its outstanding call of `events`. Times are of `time.monotonic()`."""

    agent: Any
    since: float  # asked for, or asked to kill
    news: Any = None
    alive: bool = True  # the worker process, as far as known
    up: bool = False  # the worker has announced itself
    killing: bool = False


@dataclass(slots=True)
class RayExecutor:
    """One actor per slot. What a task needs is read here and travels through Ray's object store."""

    slots: int
    plan: WorkerPlan
    cluster: Cluster
    share: Share
    _shipper: Shipper = field(init=False)
    _held: dict[int, _Slot] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._shipper = Shipper(self.cluster.ray.put)

    def start(self, slot: int) -> None:
        """Ask for an actor, or for another worker where the actor lives on; `Started` follows when there is room."""
        held = self._held.get(slot)
        if held is None:
            remote = self.cluster.ray.remote(Agent).options(**self.share.options())
            held = self._held[slot] = _Slot(remote.remote(slot, self.plan), 0.0)
        held.alive, held.up, held.killing, held.since = True, False, False, time.monotonic()
        held.agent.start.remote()

    def submit(self, slot: int, task: Task) -> None:
        """Send a task with its files. An actor that has just died is noticed by its news."""
        networks = [self._shipper.pack(path, keep=True) for _, path in task.networks]
        files = [*networks, self._shipper.pack(task.prop, keep=False)]
        self._held[slot].agent.submit.remote(task, files)

    def events(self, wait: float) -> list[Event]:
        """News of all actors, and the deaths of those that have gone."""
        self._give_up()
        for held in self._held.values():
            if held.news is None and held.alive:
                held.news = held.agent.events.remote(_POLL)
        asked = {held.news: slot for slot, held in self._held.items() if held.news is not None}
        if not asked:
            time.sleep(wait)
            return []
        ready = self.cluster.ended(list(asked), wait)
        return [event for news in ready for event in self._take(asked[news])]

    def kill(self, slot: int) -> None:
        """End the slot's worker; an actor that does not manage to is ended itself."""
        held = self._held[slot]
        held.killing, held.since = True, time.monotonic()
        held.agent.kill.remote()

    def stop(self) -> None:
        """Ask running tasks to end early."""
        for held in self._held.values():
            held.agent.stop.remote()

    def close(self) -> None:
        """Cancel everything and leave the cluster."""
        ray = self.cluster.ray
        up = [held.agent.close.remote() for held in self._held.values() if held.up]
        if up:
            ray.wait(up, num_returns=len(up), timeout=_CLOSE_WAIT)
        for held in self._held.values():
            ray.kill(held.agent)
        self._held.clear()
        self.cluster.close()

    def _take(self, slot: int) -> list[Event]:
        held = self._held[slot]
        news, held.news = held.news, None
        try:
            found: list[Event] = self.cluster.ray.get(news)
        except self.cluster.ray.exceptions.RayError as error:
            return [self._gone(slot, error)]
        for event in found:
            held.alive &= not isinstance(event, Lost)
            if isinstance(event, Started):
                held.up = True
                _check_version(event.facts)
        return found

    def _gone(self, slot: int, error: BaseException) -> Lost:
        """The actor or its node has died. `start` will ask for another one, wherever there is room."""
        self.cluster.ray.kill(self._held.pop(slot).agent)
        if "creation task" in str(error):  # most often: verinet, or the right version of it, is not installed there
            return Lost(slot, "start", f"the actor could not be made on its node: {first_words(error)}")
        return Lost(slot, NODE, f"the node or the actor that ran the worker was lost: {first_words(error)}")

    def _give_up(self) -> None:
        now = time.monotonic()
        for held in self._held.values():
            if held.killing and held.alive and now - held.since > _KILL_WAIT:
                self.cluster.ray.kill(held.agent)  # its outstanding call then fails, which is the `Lost`
                held.killing = False
        waiting = [held.since for held in self._held.values() if not held.up]
        if waiting and len(waiting) == len(self._held) and now - min(waiting) > _PLACE_WAIT:
            if self.cluster.places(self.share) < 1:
                raise self.cluster.no_room(self.share)
            for held in self._held.values():  # busy with other work: ask again after as long a time
                held.since = now


def _check_version(facts: dict[str, str]) -> None:
    """Results of different versions do not belong into one log."""
    here = version("verinet")
    if facts.get("verinet", here) != here:
        raise UsageError(
            f"node {facts.get('node')} has verinet {facts['verinet']}, not {here}",
            hint="install the same version there",
        )


def on_ray(cluster: Cluster, share: Share) -> ExecutorFactory:
    """A factory of executors for `verinet.batch.run`."""
    return partial(_make, cluster, share)


def _make(cluster: Cluster, share: Share, slots: int, plan: WorkerPlan) -> RayExecutor:
    return RayExecutor(slots, plan, cluster, share)
