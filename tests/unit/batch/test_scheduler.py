"""The scheduler on an executor without processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from verinet.batch import scheduler as module
from verinet.batch.instances import Instance
from verinet.batch.scheduler import EMPTY, Groups, Scheduler
from verinet.batch.settings import GIGABYTE, Machine, Settings
from verinet.batch.task import Finished, Lost, Moved, Started
from verinet.errors import InternalError, UsageError

ANSWER = {"status": "unsat", "reason": "proved", "seconds": 0.1}


def instances(*networks: str, timeout: float = 10.0) -> list[Instance]:
    folder = Path("/nowhere")
    return [Instance(n, "f", name, f"{n}.vnnlib", timeout, folder) for n, name in enumerate(networks, start=1)]


class Scripted:
    """Answers every task at once by what `answer(slot, task)` returns."""

    def __init__(self, slots, answer=lambda slot, task: [Finished(slot, dict(ANSWER))]):
        self.slots, self.answer = slots, answer
        self.queue, self.order, self.killed, self.starts = [], [], [], 0

    def start(self, slot):
        self.starts += 1
        self.queue.append(Started(slot, {"verinet": "9"}))

    def submit(self, slot, task):
        self.order.append((slot, task.number))
        self.queue += self.answer(slot, task)

    def events(self, wait):
        found, self.queue = self.queue, []
        return found

    def kill(self, slot):
        self.killed.append(slot)
        self.queue.append(Lost(slot, "signal", "killed"))

    def stop(self):
        self.queue.append(Finished(0, {"status": "unknown", "reason": "interrupted", "seconds": 0.0}))

    def close(self):
        pass


def drive(executor, todo, stop=lambda: False):
    scheduler = Scheduler(todo, executor, Settings(seed=5), threads=2)
    records = [record for group in scheduler.records(stop) for record in group]
    return scheduler, records


def test_every_instance_gets_one_complete_record():
    _, records = drive(Scripted(2), instances("a", "b", "a", "b", "c"))
    assert sorted(r["number"] for r in records) == [1, 2, 3, 4, 5]
    for record in records:
        assert set(EMPTY) < set(record)
        assert (record["status"], record["seed"], record["threads"], record["attempts"]) == ("unsat", 5, 2, 1)
        assert record["versions"] == {"verinet": "9"} and record["started"].endswith("Z")


def test_a_worker_stays_with_its_network():
    executor = Scripted(1)
    drive(executor, instances("a", "b", "a", "b", "a"))
    assert [number for _, number in executor.order] == [1, 3, 5, 2, 4]


def test_two_workers_take_different_networks_while_there_are_any():
    groups = Groups(instances("a", "a", "b", "b"))
    assert [groups.take(0).network, groups.take(1).network] == ["a", "b"]
    assert [groups.take(0).network, groups.take(1).network, groups.take(0)] == ["a", "b", None]


def test_the_network_with_most_time_to_spend_goes_first():
    groups = Groups([*instances("a", "a", timeout=1.0), Instance(3, "f", "b", "p", 100.0, Path("/"))])
    assert groups.take(0).network == "b"


def test_a_lost_worker_is_replaced_and_its_instance_tried_once_more():
    losses = {2: 1}

    def answer(slot, task):
        if losses.get(task.number, 0):
            losses[task.number] -= 1
            return [Lost(slot, "signal", "died")]
        return [Finished(slot, dict(ANSWER))]

    executor = Scripted(1, answer)
    _, records = drive(executor, instances("a", "a", "a"))
    assert {r["number"]: (r["status"], r["attempts"]) for r in records} == {
        1: ("unsat", 1),
        2: ("unsat", 2),
        3: ("unsat", 1),
    }
    assert executor.starts == 2


def test_the_second_loss_is_an_error_with_its_cause():
    executor = Scripted(
        1, lambda slot, task: [Moved(slot, (0.5, 1.5, 2, 3)), Lost(slot, "signal", "it died", ("last words",))]
    )
    _, (record,) = drive(executor, instances("a"))
    assert (record["status"], record["reason"], record["attempts"], record["gap"]) == ("error", "signal", 2, 1.5)
    assert record["error"] == {"kind": "signal", "message": "it died", "stderr": ["last words"]}
    assert record["curve"] == [(0.5, 1.5, 2, 3)]


def test_a_task_past_its_limit_is_killed_and_not_tried_again(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now.__setitem__(0, now[0] + 0.5) or now[0])
    executor = Scripted(1, lambda slot, task: [Moved(slot, (1.0, 0.25, 7, 1))] if task.number == 1 else [])
    executor.answer = lambda slot, task: (
        [Moved(slot, (1.0, 0.25, 7, 1))] if task.number == 1 else [Finished(slot, dict(ANSWER))]
    )
    _, records = drive(executor, instances("a", "a"))
    first, second = records
    assert (first["number"], first["status"], first["reason"]) == (1, "timed-out", "killed_at_the_limit")
    assert (first["gap"], first["open"], first["attempts"], executor.killed) == (0.25, 7, 1, [0])
    assert first["seconds"] >= 12.0  # limit, grace
    assert second["status"] == "unsat"


def test_a_stop_request_leaves_running_instances_for_the_next_time():
    asked = iter([False, True, True])
    executor = Scripted(1, lambda slot, task: [])
    scheduler, records = drive(executor, instances("a", "a"), lambda: next(asked))
    assert scheduler.interrupted and records == []


def test_a_proof_that_comes_with_the_stop_request_is_kept():
    asked = iter([False, True, True])
    executor = Scripted(1, lambda slot, task: [])
    executor.stop = lambda: executor.queue.append(Finished(0, dict(ANSWER)))
    _, records = drive(executor, instances("a", "a"), lambda: next(asked))
    assert [(r["number"], r["status"]) for r in records] == [(1, "unsat")]


def test_workers_that_never_come_up_end_the_run():
    executor = Scripted(2)
    executor.start = lambda slot: executor.queue.append(Lost(slot, "exit", "exit code 1", ("ImportError: torch",)))
    with pytest.raises(InternalError, match=r"workers cannot be started(.|\n)*ImportError: torch"):
        drive(executor, instances("a", "a"))


def test_no_more_workers_than_instances_are_started():
    executor = Scripted(8)
    drive(executor, instances("a", "a", "a"))
    assert executor.starts <= 3


def test_threads_and_workers_fit_the_machine():
    machine = Machine(cores=16, free=64 * GIGABYTE)
    assert machine.workers(Settings(), 1000) == 16
    assert machine.workers(Settings(memory=8.0), 1000) == 8
    assert machine.workers(Settings(workers=3), 1000) == 3
    assert machine.workers(Settings(), 2) == 2
    for workers in (1, 3, 16, 40):
        assert workers * machine.threads(workers) <= max(16, workers)
    assert Machine(16, 64 * GIGABYTE, ("0", "1")).workers(Settings(), 1000) == 2
    assert Machine(16, 64 * GIGABYTE, ("0", "1")).workers(Settings(device="cpu"), 1000) == 16
    assert Machine(2, 0).workers(Settings(), 10) == 1


@pytest.mark.parametrize("bad", [{"timeout": 0.0}, {"memory": -1.0}, {"workers": 0}, {"device": "tpu"}])
def test_impossible_settings(bad):
    with pytest.raises(UsageError):
        Settings(**bad)
