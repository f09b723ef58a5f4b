"""What runs on Ray, looked at without it: files on their way, resources, errors; and nobody pays who did not ask."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from importlib.metadata import version

import numpy as np
import onnx
import pytest

from verinet.batch.instances import Instance
from verinet.batch.ray_agent import _with_paths
from verinet.batch.ray_files import Packed, Shelf, Shipper, own_folder
from verinet.batch.scheduler import Scheduler
from verinet.batch.settings import Settings
from verinet.batch.task import Finished, Lost, Started, Taken
from verinet.cluster import Cluster, RayOptions, Share
from verinet.errors import UsageError


class Store:
    """An object store in memory that counts what is fetched."""

    def __init__(self):
        self.kept, self.fetched = [], 0

    def put(self, contents):
        self.kept.append(contents)
        return len(self.kept) - 1

    def get(self, reference):
        self.fetched += 1
        return self.kept[reference]


def test_a_network_travels_once_and_keeps_its_place(tmp_path):
    store = Store()
    shipper, shelf = Shipper(store.put), Shelf(tmp_path / "shelf", store.get)
    network, places = tmp_path / "net.onnx.gz", []
    network.write_bytes(b"\x1f\x8bdamaged")
    for number in range(8):
        prop = tmp_path / f"{number}.vnnlib"
        prop.write_text(f"{number}")
        found = shelf.place([shipper.pack(str(network), keep=True), shipper.pack(str(prop), keep=False)])
        assert open(found[str(prop)]).read() == f"{number}"
        places.append(found[str(network)])
    assert len(set(places)) == 1 and places[0].endswith("/net.onnx.gz")
    assert len(store.kept) == store.fetched == 9
    left = [path for path in (tmp_path / "shelf").rglob("*") if path.is_file()]
    assert len(left) == 4, "old properties are removed"


def test_a_changed_network_is_sent_again(tmp_path):
    store = Store()
    shipper, shelf = Shipper(store.put), Shelf(tmp_path / "shelf", store.get)
    network = tmp_path / "net.onnx"
    network.write_bytes(b"first")
    first = shelf.place([shipper.pack(str(network), keep=True)])
    network.write_bytes(b"the second")
    second = shelf.place([shipper.pack(str(network), keep=True)])
    assert first != second and open(second[str(network)], "rb").read() == b"the second"


def test_weights_beside_a_network_come_along(tmp_path):
    from onnx import TensorProto, helper, numpy_helper

    weight = numpy_helper.from_array(np.arange(600.0, dtype=np.float32).reshape(2, 300), "w")
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, s]) for n, s in (("x", 2), ("y", 300))]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", ends[:1], ends[1:], [weight])
    path = tmp_path / "net.onnx"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=100)
    store = Store()
    packed = Shipper(store.put).pack(str(path), keep=True)
    here = Shelf(tmp_path / "elsewhere", store.get).place([packed])[str(path)]
    (tmp_path / "weights.bin").unlink()
    kept = numpy_helper.to_array(onnx.load(here).graph.initializer[0])
    assert kept[1, 299] == 599.0


def test_a_missing_file_is_missed_by_its_own_name(tmp_path):
    packed = Shipper(Store().put).pack(str(tmp_path / "gone.onnx"), keep=True)
    assert packed == Packed(str(tmp_path / "gone.onnx"))
    here = Shelf(tmp_path / "shelf", Store().get).place([packed])[packed.path]
    outcome = {"status": "error", "error": {"kind": "UsageError", "message": f"no file {here}", "stderr": [here]}}
    told = _with_paths(outcome, {here: packed.path})["error"]
    assert told == {"kind": "UsageError", "message": f"no file {packed.path}", "stderr": [packed.path]}
    assert _with_paths({"status": "unsat", "error": None}, {}) == {"status": "unsat", "error": None}


def test_folders_of_agents_that_were_killed_are_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    live, lock = own_folder()
    killed, other = own_folder()
    (killed / "net.onnx").touch()
    other.close()  # as the kernel does for a process that has gone
    (tmp_path / "verinet-ray-foreign").mkdir()
    third, _ = own_folder()
    assert killed.exists(), "it may be about to be locked"
    for folder in (live, killed, tmp_path / "verinet-ray-foreign"):
        os.utime(folder, (1.0, 1.0))
    fourth, _ = own_folder()
    assert not killed.exists() and live.exists() and third.exists() and fourth.exists()
    assert (tmp_path / "verinet-ray-foreign").exists() and not lock.closed


@pytest.mark.parametrize(
    ("share", "node", "count"),
    [
        (Share(1, 0.0), {"CPU": 4.0}, 4),
        (Share(2, 0.25), {"CPU": 16.0, "GPU": 1.0}, 4),
        (Share(1, 0.3), {"CPU": 16.0, "GPU": 2.0}, 6),
        (Share(1, 1.0), {"CPU": 4.0}, 0),
        (Share(1, 0.0, 3 << 30), {"CPU": 8.0, "memory": float(7 << 30)}, 2),
    ],
)
def test_how_many_workers_fit(share, node, count):
    assert share.fits(node) == count


class FakeRay:
    """As much of Ray as a connection asks for before it starts anything."""

    def __init__(self, *nodes):
        self._nodes = [{"Alive": True, "Resources": node} for node in nodes]

    def is_initialized(self):
        return True

    def nodes(self):
        return [*self._nodes, {"Alive": False, "Resources": {"CPU": 1000.0}}]


class FakeCalls(FakeRay):
    """Calls that have ended are known in advance; says what was waited for."""

    def __init__(self, *ended):
        super().__init__({"CPU": 1.0})
        self.ended, self.waits = set(ended), []

    def wait(self, calls, num_returns, timeout):
        self.waits.append((len(calls), num_returns, timeout))
        ready = [call for call in calls if call in self.ended][:num_returns]
        return ready, [call for call in calls if call not in ready]


def test_all_calls_that_have_ended_are_collected_after_one_wait(monkeypatch):
    fake = FakeCalls("b", "d")
    monkeypatch.setitem(sys.modules, "ray", fake)
    cluster = Cluster(RayOptions("auto"))
    assert cluster.ended(["a", "b", "c", "d"], 0.5) == ["b", "d"]
    assert fake.waits == [(4, 1, 0.5), (3, 3, 0)]
    assert cluster.ended(["a", "c"], 0.25) == [] and fake.waits[2:] == [(2, 1, 0.25)]
    assert cluster.ended(["b"], 0.25) == ["b"]


def test_shares_of_a_cluster(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", FakeRay({"CPU": 8.0, "GPU": 2.0}, {"CPU": 3.0}))
    cluster = Cluster(RayOptions("auto"))
    assert cluster.share("auto") == Share(1, 1.0) and cluster.share("cpu") == Share(1, 0.0)
    assert cluster.workers(Share(1, 0.0), 100) == 11 and cluster.workers(Share(1, 0.0), 5) == 5
    assert Cluster(RayOptions("auto", gpus=0.25)).share("cuda", 7) == Share(1, 0.25, 7)
    with pytest.raises(UsageError, match="no node of the Ray cluster can hold a worker"):
        cluster.workers(Share(9, 0.0), 5)


@pytest.mark.parametrize("wrong", [{"cpus": 0}, {"gpus": -1.0}, {"gpus": 1.5}, {"gpus": float("nan")}, {"workers": 0}])
def test_impossible_options(wrong):
    with pytest.raises(UsageError):
        RayOptions("auto", **wrong)


def test_without_ray_the_error_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"pip install 'verinet\[cluster\]'"):
        Cluster(RayOptions("auto"))


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1"])
def test_without_a_cluster_the_error_comes_soon(address):
    pytest.importorskip("ray")
    begin = time.monotonic()
    with pytest.raises(UsageError, match="no Ray cluster answers"):
        Cluster(RayOptions(address))
    assert time.monotonic() - begin < 8


@pytest.mark.parametrize("address", ["nowhere", "host:port", ":6379", ""])
def test_an_address_that_is_none(address):
    pytest.importorskip("ray")
    with pytest.raises(UsageError, match="the address of a Ray cluster is"):
        Cluster(RayOptions(address))


def test_the_address_of_the_environment_is_tried_as_well(monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(UsageError, match="no Ray cluster answers"):
        Cluster(RayOptions("auto"))


def test_nothing_imports_ray_unless_asked(tmp_path):
    text = (
        "import sys, verinet, verinet.batch, verinet.cli.app, verinet.cli.batch, verinet.solvers.strategy, verinet.api"
    )
    done = subprocess.run([sys.executable, "-c", f"{text}; sys.exit('ray' in sys.modules)"], timeout=60)
    assert done.returncode == 0


class Scripted:
    """An executor whose events are written down beforehand, by the number of the call."""

    def __init__(self, *script):
        self.slots, self.script, self.submitted = 1, list(script), 0

    def start(self, slot):
        return None

    def submit(self, slot, task):
        self.submitted += 1

    def events(self, wait):
        return self.script.pop(0)() if self.script else []

    def kill(self, slot):
        raise AssertionError("nothing is late")

    def close(self):
        return None


def records(executor, tmp_path, timeout=10.0):
    todo = [Instance(1, "f", "net.onnx", "1.vnnlib", timeout, tmp_path)]
    scheduler = Scheduler(todo, executor, Settings(), threads=1)
    return [record for group in scheduler.records(lambda: False) for record in group]


def test_another_version_on_a_node_is_refused():
    from verinet.batch.ray_executor import _check_version

    _check_version({})
    _check_version({"verinet": version("verinet"), "node": "here"})
    with pytest.raises(UsageError, match="node there has verinet 0.0.0"):
        _check_version({"verinet": "0.0.0", "node": "there"})


@pytest.mark.parametrize("wanted", (True, False))
def test_notices_of_ray_stay_away_from_the_answer(wanted, capsys):
    from verinet.cli.apart import ray_apart

    def say(name, text):
        thread = threading.Thread(target=print, args=(text,), name=name)
        thread.start()
        thread.join()

    with ray_apart(wanted):
        say("ray_listen_error_messages", "a node has died")
        say("verinet-watchdog", "timed-out")
        say("anybody", "unsat")
    say("ray_listen_error_messages", "afterwards")
    out, err = capsys.readouterr()
    notice = "a node has died\n"
    assert out == ("" if wanted else notice) + "timed-out\nunsat\nafterwards\n" and err == (notice if wanted else "")


def test_the_clock_of_a_task_starts_when_its_files_are_there(tmp_path, monkeypatch):
    from verinet.batch import scheduler

    now = [100.0]
    monkeypatch.setattr(scheduler.time, "monotonic", lambda: now[0])

    def later(seconds, event):
        def happen():
            now[0] += seconds
            return [event]

        return happen

    answer = Finished(0, {"status": "unsat", "seconds": 0.5})
    script = [later(0, Started(0, {})), later(11.0, Taken(0)), later(11.5, answer)]
    (record,) = records(Scripted(*script), tmp_path)
    assert record["status"] == "unsat" and record["attempts"] == 1


def test_nodes_that_go_down_do_not_count_as_workers_that_cannot_start(tmp_path):
    gone = [lambda: [Lost(0, "node", "the node has died")]] * 5
    answer = [lambda: [Started(0, {})], lambda: [Finished(0, {"status": "unsat", "seconds": 0.5})]]
    (record,) = records(Scripted(*gone, *answer), tmp_path)
    assert record["status"] == "unsat"
