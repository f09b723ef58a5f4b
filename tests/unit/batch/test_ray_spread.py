"""One hard query spread over two Ray workers: the same verdict from the same tree, also when a worker is killed."""

from __future__ import annotations

import json
import time

import pytest
from verinet.solvers import spread as module
from verinet.solvers.arms import InputArm
from verinet.solvers.branching import input_split
from verinet.solvers.branching.outcome import End
from verinet.solvers.spread import SpreadArm

from tests.unit.solvers.queries import hard_row, query_files, silent
from verinet.cluster import RayOptions

pytest.importorskip("ray", reason="the extra [cluster] is not installed")
pytestmark = pytest.mark.timeout(100)

HIDDEN = (24, 24, 24)  # enough of a search for workers to join it


@pytest.fixture
def crew(nodes, monkeypatch):
    """Two workers that have joined. Slices are short, so that a small search takes many."""
    from verinet.solvers.spread_ray import RayCrew

    monkeypatch.setattr(module, "GROW", 0.0)
    monkeypatch.setattr(input_split, "FORWARD_BYTES", 1)  # small batches here, so that the others get most of it
    monkeypatch.setattr(module, "BUSY", 0.05)
    monkeypatch.setattr(module, "HUNGRY", 0.02)
    with RayCrew(RayOptions(nodes.address), "cpu") as found:
        joined(found)
        yield found


def joined(crew, count=2):
    end = time.monotonic() + 30
    while len(crew.members()) < count:
        free = crew._cluster.ray.available_resources()
        assert time.monotonic() < end, f"workers do not join: {crew.note}; {free}; {crew._trouble}; {crew._hired}"
        time.sleep(0.1)


def finish(query, crew):
    search = SpreadArm(InputArm(query, lambda points: False, silent), crew, (lambda points: False, silent), query.clock)
    return search, search.run(query.clock)


def test_two_workers_close_the_whole_tree(crew) -> None:
    senders: list[int] = []
    send = crew.send
    crew.send = lambda member, order: (senders.append(member), send(member, order))
    search, outcome = finish(hard_row(), crew)
    assert outcome.end is End.CLOSED and search.closed_mass == pytest.approx(1.0)
    assert outcome.domains == 2 * outcome.closed - 1, "every domain of the binary tree is halved or closed, once"
    assert outcome.closed > 100 and set(senders) == {0, 1}
    assert crew.note == "open subproblems were shared among 2 Ray workers"


def test_a_worker_killed_in_the_middle_loses_and_doubles_nothing(crew) -> None:
    send, killed = crew.send, []

    def send_and_kill(member, order):
        send(member, order)
        if len(killed) == 0 and order.fresh is not None and len(order.fresh) > 3:
            killed.append(member)
            actor = crew._members[member].actor
            crew._cluster.ray.kill(actor)  # the process is gone, with the order and all it held

    crew.send = send_and_kill
    search, outcome = finish(hard_row(), crew)
    assert killed and search.lost == 1 and "lost: 1," in crew.note
    assert outcome.end is End.CLOSED and outcome.domains == 2 * outcome.closed - 1
    assert len(crew._members) == 2, "another one was asked for in its place"


def test_the_public_functions_on_a_cluster(nodes, tmp_path, monkeypatch) -> None:
    from verinet.solvers import spread_ray

    import verinet

    enter = spread_ray.RayCrew.__enter__
    monkeypatch.setattr(spread_ray.RayCrew, "__enter__", lambda self: (joined(self), enter(self))[1])
    monkeypatch.setattr(module, "GROW", 0.0)
    path, prop = query_files(tmp_path, 0.3, HIDDEN)
    alone = verinet.verify(path, prop, timeout=60, device="cpu")
    verdict = verinet.verify(path, prop, timeout=60, device="cpu", ray=RayOptions(nodes.address))
    assert verdict.status is alone.status is verinet.Status.UNSAT
    assert "open subproblems were shared among 2 Ray workers" in verdict.notes
    assert verdict.stats.open == 0


def test_the_command_on_a_cluster(nodes, tmp_path, capsys) -> None:
    from verinet.cli.app import run

    path, prop = query_files(tmp_path, -0.5, HIDDEN)
    call = ["verify", str(path), str(prop), "--ray", nodes.address, "--timeout", "60", "--json", "--device", "cpu"]
    assert run(call, time.monotonic()) == 0
    assert json.loads(capsys.readouterr().out)["verdict"] == "sat"
