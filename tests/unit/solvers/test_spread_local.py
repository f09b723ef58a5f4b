"""One search shared among processes on this machine: the same verdict from the same tree, and nothing stays behind."""

from __future__ import annotations

import json
import os
import signal
import threading
import time

import pytest
from verinet.solvers import spread as module
from verinet.solvers import spread_local
from verinet.solvers.arms import InputArm, NeuronArm
from verinet.solvers.branching import input_split
from verinet.solvers.branching.outcome import End
from verinet.solvers.spread import SpreadArm
from verinet.solvers.spread_local import LocalCrew
from verinet.solvers.spread_work import Order, context_of, held_by

import verinet
from tests.unit.solvers.queries import hard_row, query_files, silent
from verinet.cli.app import run
from verinet.errors import UsageError

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def short(monkeypatch):
    """Slices are short, so that a small search takes many."""
    monkeypatch.setattr(module, "GROW", 0.0)
    monkeypatch.setattr(module, "SHARES", 1)
    monkeypatch.setattr(module, "BUSY", 0.05)
    monkeypatch.setattr(module, "HUNGRY", 0.02)
    monkeypatch.setattr(input_split, "FORWARD_BYTES", 1)  # small batches here, so that the others get most of it


@pytest.fixture(scope="module")
def lasting():
    with LocalCrew(2, patience=0.0) as found:
        joined(found)
        yield found


@pytest.fixture
def crew(short, lasting):
    """For tests that leave it as it was."""
    send = lasting.send
    yield lasting
    lasting.send = send


@pytest.fixture
def own_crew(short):
    """For tests that break it."""
    with LocalCrew(2, patience=0.0) as found:
        joined(found)
        yield found


def joined(crew, count=2):
    end = time.monotonic() + 60
    while len(crew.members()) < count:
        assert time.monotonic() < end, "processes do not come up"
        time.sleep(0.1)


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def finish(query, crew, kind=InputArm):
    search = SpreadArm(kind(query, lambda points: False, silent), crew, (lambda points: False, silent), query.clock)
    return search, search.run(query.clock)


def test_two_processes_close_the_whole_tree(crew) -> None:
    senders: list[int] = []
    send = crew.send
    crew.send = lambda member, order: (senders.append(member), send(member, order))
    search, outcome = finish(hard_row(), crew)
    assert outcome.end is End.CLOSED and search.closed_mass == pytest.approx(1.0)
    assert outcome.domains == 2 * outcome.closed - 1, "every domain of the binary tree is halved or closed, once"
    assert outcome.closed > 100 and set(senders) == {0, 1}
    assert crew.note == "open subproblems were shared among 2 processes"


def test_neurons_are_split_by_processes_too(crew) -> None:
    _, outcome = finish(hard_row(3, 8, 0.1), crew, NeuronArm)
    assert outcome.end is End.CLOSED and outcome.open == 0 and crew.note


def test_a_process_killed_in_the_middle_loses_and_doubles_nothing(own_crew) -> None:
    crew, killed = own_crew, []
    send = crew.send

    def send_and_kill(member, order):
        send(member, order)
        if not killed and order.held > 3:
            killed.append(member)
            os.kill(crew._members[member].process.pid, signal.SIGKILL)

    crew.send = send_and_kill
    search, outcome = finish(hard_row(), crew)
    assert killed and search.lost == 1 and "lost: 1," in crew.note
    assert outcome.end is End.CLOSED and outcome.domains == 2 * outcome.closed - 1


def test_processes_end_with_their_line_and_with_the_crew(own_crew) -> None:
    members = dict(own_crew._members)
    assert len(members) == 2 and all(alive(m.process.pid) for m in members.values())
    members[0].line.close()  # as when the parent is gone
    members[0].process.wait(timeout=10)
    del own_crew._members[0]
    own_crew.__exit__(None, None, None)
    assert not any(alive(m.process.pid) for m in members.values()) and own_crew.members() == ()


def test_what_cannot_be_sent_is_searched_here(own_crew) -> None:
    crew = own_crew
    share, sent = crew.share, []
    crew.share = lambda context: share(threading.Lock())  # as part of a user's operator, say
    crew.send = lambda member, order: sent.append(member)
    _, outcome = finish(hard_row(4, 8), crew)
    assert outcome.end is End.CLOSED and not sent and crew.members() == () and not crew.note


def test_two_contexts_do_not_mix(crew) -> None:
    """Orders of one search that are late are not taken for those of another."""
    first, second = hard_row(), hard_row(5, 16)
    arms = [
        SpreadArm(InputArm(q, lambda points: False, silent), crew, (lambda points: False, silent), q.clock)
        for q in (first, second)
    ]
    ends = [End.TIME, End.TIME]
    for turn in range(4000):
        if ends[turn % 2] is End.TIME:
            query = (first, second)[turn % 2]
            outcome = arms[turn % 2].run(query.clock.until(0.02))
            ends[turn % 2] = outcome.end
            if outcome.end is End.CLOSED:
                assert outcome.domains == 2 * outcome.closed - 1
    assert ends == [End.CLOSED, End.CLOSED]


def test_late_orders_of_a_context_that_is_done_free_their_members(crew) -> None:
    query = hard_row()
    search = InputArm(query, lambda points: False, silent)
    while search.active is None or search.active.open < 8:
        search.run(query.clock.until(0.01))
    key = crew.share(context_of(search.active))
    crew.send(0, Order(key, 0.2, held_by(search.active)))
    assert crew.free() == (1,)
    crew.forget(key)
    end = time.monotonic() + 60
    while crew.free() != (0, 1):
        assert time.monotonic() < end, "a member is lost for good"
        time.sleep(0.05)


def test_nothing_is_started_early_or_without_memory(monkeypatch) -> None:
    with LocalCrew(2, patience=1000.0) as crew:
        assert crew.members() == () and crew.members() == () and crew._hired == 0
    monkeypatch.setattr(spread_local, "available", lambda: 2**30)
    with LocalCrew(2, patience=0.0) as crew:
        assert crew.members() == () and crew.members() == () and crew._hired == 0 and crew.note == ""


def test_a_number_that_is_none() -> None:
    with pytest.raises(UsageError, match="positive"):
        LocalCrew(0)
    with pytest.raises(UsageError, match="positive"):
        verinet.verify("a.onnx", "b.vnnlib", processes=0)
    assert run(["verify", "a.onnx", "b.vnnlib", "--processes", "0"], time.monotonic()) == 2


@pytest.fixture
def eager(short, monkeypatch):
    """Processes join before the search begins."""
    enter = LocalCrew.__enter__
    monkeypatch.setattr(LocalCrew, "__enter__", lambda self: (started(self), enter(self))[1])


def started(crew):
    crew._patience = 0.0
    joined(crew)


def test_the_public_function_with_processes(eager, tmp_path) -> None:
    path, prop = query_files(tmp_path, 0.3)
    verdict = verinet.verify(path, prop, timeout=60, device="cpu", processes=2)
    assert verdict.status is verinet.Status.UNSAT and verdict.stats.open == 0
    assert "open subproblems were shared among 2 processes" in verdict.notes


def test_the_command_with_processes(eager, tmp_path, capsys) -> None:
    path, prop = query_files(tmp_path, 0.3)
    call = ["verify", str(path), str(prop), "--processes", "2", "--timeout", "60", "--json", "--device", "cpu"]
    assert run(call, time.monotonic()) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["verdict"] == "unsat" and any("2 processes" in note for note in answer["notes"])
