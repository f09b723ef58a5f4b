"""The far side of `RayExecutor`: an actor that keeps one worker process on its node, as a run on one machine does.

The worker is a process of its own, so that time and memory limits are kept from outside here too, and its death is told
apart from that of the node. The actor itself never imports torch.
"""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from verinet.batch.executor import LocalExecutor, WorkerPlan
from verinet.batch.ray_files import Packed, Shelf, own_folder
from verinet.batch.solve import failure
from verinet.batch.task import Event, Finished, Lost, Outcome, Started, Taken, Task

_STEP = 0.1  # seconds between two looks at the worker's memory


class Agent:
    """One slot of the run. Methods are called one at a time; `events` returns as soon as there is one."""

    def __init__(self, slot: int, plan: WorkerPlan) -> None:
        import ray

        self._slot = slot
        self._folder, self._lock = own_folder()
        gpus = tuple(str(number) for number in ray.get_gpu_ids())
        if not gpus:  # what was not reserved must not be used
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        here = replace(plan, gpus=(",".join(gpus),) if gpus else (), stderr=self._folder / "stderr")
        self._executor = LocalExecutor(1, here)
        self._shelf = Shelf(self._folder / "files", ray.get)
        self._names: dict[str, str] = {}  # of the present task: path here -> path where the list is
        self._waiting: list[Event] = []
        self._alive = False
        node = f"{socket.gethostname()}/{ray.get_runtime_context().get_node_id()[:8]}"
        self._facts = {"node": node, "ray": str(ray.__version__)}

    def start(self) -> None:
        """Start the worker process; `Started` follows."""
        if not self._alive:
            self._executor.start(0)
            self._alive = True

    def submit(self, task: Task, files: Sequence[Packed]) -> None:
        """Put the files in place and hand the task to the worker."""
        try:
            places = self._shelf.place(files)
        except OSError as error:
            message = f"the files cannot be stored on node {self._facts['node']}: {error.strerror}"
            self._waiting.append(Finished(self._slot, failure("storage", message) | {"seconds": 0.0}))
            return
        self._names = {here: there for there, here in places.items()}
        networks = tuple((name, places[path]) for name, path in task.networks)
        if self._alive:
            self._executor.submit(0, replace(task, networks=networks, prop=places[task.prop]))
        self._waiting.append(Taken(self._slot))

    def events(self, wait: float) -> list[Event]:
        """What has happened, waiting at most `wait` seconds for something to happen."""
        found, self._waiting = self._waiting, []
        steps = 1 if found else max(1, round(wait / _STEP))
        for _ in range(steps):
            if not self._alive:
                break
            found += [self._named(event) for event in self._executor.events(0.0 if found else _STEP)]
            if found:
                break
        return found

    def kill(self) -> None:
        """End the worker by force; its `Lost` follows."""
        if self._alive:
            self._executor.kill(0)

    def stop(self) -> None:
        """Ask the running task to end early."""
        self._executor.stop()

    def close(self) -> None:
        """End the worker and remove all files."""
        self._alive = False
        self._executor.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _named(self, event: Event) -> Event:
        """The event as the run knows it: its slot, the list's paths, and where it happened."""
        if isinstance(event, Started):
            return Started(self._slot, event.facts | self._facts)
        if isinstance(event, Finished):
            return Finished(self._slot, _with_paths(event.outcome, self._names))
        if isinstance(event, Lost):
            self._alive = False
            return replace(event, slot=self._slot, detail=f"{event.detail}, on node {self._facts['node']}")
        return replace(event, slot=self._slot)


def _with_paths(outcome: Outcome, names: dict[str, str]) -> Outcome:
    """An error message names the file as the list does, not the copy that is gone tomorrow."""
    error = outcome.get("error")
    if not error:
        return outcome

    def original(text: Any) -> str:
        changed = str(text)
        for here, there in names.items():
            changed = changed.replace(here, there)
        return changed

    told = {"message": original(error["message"]), "stderr": [original(line) for line in error["stderr"]]}
    return outcome | {"error": error | told}
