"""A batch on a real Ray cluster of two nodes on the loopback interface, with scripted answers and with the engine."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from verinet import batch
from verinet.batch.ray_executor import RayExecutor
from verinet.cluster import Cluster, RayOptions, Share

pytest.importorskip("ray", reason="the extra [cluster] is not installed")
pytestmark = pytest.mark.timeout(100)

HERE = Path(__file__).parent
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def run_on_ray(nodes, tmp_path):
    """Run a scripted list on the cluster, one worker per node."""

    def go(instances, share=Share(1, 0.0), **options):  # noqa: B008 - frozen
        def on_ray(slots, plan):
            entry = (sys.executable, str(HERE / "fake_worker.py"))
            return RayExecutor(slots, replace(plan, entry=entry), Cluster(RayOptions(nodes.address)), share)

        out = options.pop("out", tmp_path / "run")
        return batch.run(instances, out, **({"workers": 2, "executor": on_ray} | options))

    return go


def causes(result):
    return {r["number"]: (r["status"], r["reason"], r["attempts"]) for r in result.records}


def test_two_nodes_share_a_list_with_all_limits_and_tell_failures_apart(scripted, run_on_ray, tmp_path):
    once, family = tmp_path / "once", tmp_path / "family"
    quick = ["sleep 1", "sat", "signal 11", f"once {once}", f"fail no {family}"]
    rough = [("sleep 60", 0.3, "net.onnx"), "parent", "hog 400", "env CUDA_VISIBLE_DEVICES", "sleep 1"]
    result = run_on_ray(scripted(*quick, *rough), memory=0.2)
    found = causes(result)
    # Either the allocation failed inside, or the agent saw too much memory held.
    assert found.pop(8) in (("error", "out_of_memory", 2), ("error", "exit", 2))
    assert result.complete and found == {
        1: ("unsat", "scripted", 1),
        2: ("sat", "scripted", 1),
        3: ("error", "signal", 2),
        4: ("unsat", "scripted", 2),
        5: ("error", "ModelError", 1),
        6: ("timed-out", "killed_at_the_limit", 1),
        7: ("error", "node", 2),
        9: ("unsat", "", 1),  # no GPU was reserved, so none is seen
        10: ("unsat", "scripted", 1),
    }
    errors = {r["number"]: r["error"]["message"] for r in result.records if r["error"]}
    assert "11 (SIGSEGV)" in errors[3] and "on node" in errors[3] and "was lost" in errors[7]
    # Both nodes took part: every worker says where it ran.
    assert len({r["versions"]["node"] for r in result.records if r["versions"]}) == 2


def test_workers_share_a_gpu_and_see_no_other(scripted, run_on_ray, nodes):
    """Ray takes our word for the GPU; what counts is who is given it."""
    instances = scripted("env CUDA_VISIBLE_DEVICES", *["sleep 0.5"] * 3, "env CUDA_VISIBLE_DEVICES")
    node = nodes.add_node(num_cpus=2, num_gpus=1, object_store_memory=80_000_000)
    try:
        half = run_on_ray(instances, share=Share(1, 0.5))
    finally:
        nodes.remove_node(node)
    assert {half.records[0]["reason"], half.records[4]["reason"]} == {"0"}
    assert {r["worker"] for r in half.records} == {0, 1}, "both had their half at the same time"


class KillsANode:
    """Takes a node away, without a word, as soon as some results are there."""

    def __init__(self, nodes, after):
        self.nodes, self.after, self.killed = nodes, after, None

    def update(self, snapshot, fresh):
        if self.killed is None and snapshot.done >= self.after:
            self.killed = next(iter(self.nodes.worker_nodes))
            self.nodes.remove_node(self.killed, allow_graceful=False)


def test_a_node_killed_in_the_middle_loses_and_doubles_nothing(scripted, run_on_ray, nodes, tmp_path):
    count = 30
    killer = KillsANode(nodes, after=8)
    try:
        result = run_on_ray(scripted(*["sleep 0.2"] * count), observer=killer)
    finally:
        nodes.add_node(num_cpus=1, object_store_memory=80_000_000)
    assert killer.killed is not None and result.complete and result.counts == {"unsat": count}
    lines = (tmp_path / "run" / "results.jsonl").read_text().splitlines()
    assert Counter(json.loads(line)["number"] for line in lines) == Counter(range(1, count + 1))
    again = [r for r in result.records if r["attempts"] == 2]
    assert len(again) == 1  # the instance that was running there
    by_node = Counter(r["versions"]["node"] for r in result.records)
    assert len(by_node) == 2 and max(by_node.values()) > count / 2


def test_a_stop_request_cancels_and_the_run_goes_on_without_ray(scripted, run_on_ray, run_scripted):
    instances = scripted("unsat", ("nap 30", 40, "net.onnx"), ("nap 31", 40, "net.onnx"))
    begin = time.monotonic()
    result = run_on_ray(instances, stop=lambda: time.monotonic() - begin > 3)
    assert result.interrupted and [r["number"] for r in result.records] == [1]
    assert time.monotonic() - begin < 20
    for number in (2, 3):
        (instances.parent / f"{number}.vnnlib").write_text("unsat")
    resumed = run_scripted(instances)
    assert resumed.complete and resumed.resumed == 1


def launch(*arguments):
    call = [sys.executable, "-c", "from verinet.cli import main; main()", "batch", *map(str, arguments)]
    return subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_the_command_on_ray_with_the_engine(nodes, tmp_path):
    specs = ROOT / "vnnlib_specs"
    rows = [f"{ROOT}/models/digits_relu.onnx,{specs}/digits_relu_radius_{r}.vnnlib,60\n" for r in ("0.02", "0.2")]
    (tmp_path / "instances.csv").write_text("".join([*rows, "missing.onnx,missing.vnnlib,60\n"]))
    options = ("--ray", nodes.address, "--device", "cpu", "--workers", 1)
    process = launch(tmp_path / "instances.csv", "--out", tmp_path / "run", "--json", *options)
    stdout, stderr = process.communicate(timeout=90)
    assert process.returncode == 1, stderr
    assert json.loads(stdout)["counts"] == {"unsat": 1, "sat": 1, "error": 1}
    records = [json.loads(line) for line in (tmp_path / "run" / "results.jsonl").read_text().splitlines()]
    missing = next(r for r in records if r["status"] == "error")
    assert missing["reason"] == "UsageError" and str(tmp_path / "missing.onnx") in missing["error"]["message"]
    assert {r["device"] for r in records if r["status"] != "error"} == {"cpu"}


def wait_until(condition, seconds=30.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.2)


def test_ctrl_c_cancels_and_leaves_the_cluster_idle(nodes, tmp_path):
    hard = f"{ROOT}/models/digits_tanh.onnx,{ROOT}/vnnlib_specs/digits_tanh_radius_0.1.vnnlib,60\n"
    (tmp_path / "instances.csv").write_text(hard)
    connection = Cluster(RayOptions(nodes.address))
    try:
        free = lambda: connection.ray.available_resources().get("CPU", 0)  # noqa: E731
        wait_until(lambda: free() == 2)
        process = launch(tmp_path / "instances.csv", "--out", tmp_path / "run", "--ray", nodes.address)
        wait_until(lambda: free() == 1)
        time.sleep(4)  # until the search has begun
        begin = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=30)
        assert process.returncode == 130 and time.monotonic() - begin < 20, stderr
        assert "goes on where this one stopped" in stderr
        assert (tmp_path / "run" / "results.jsonl").read_text() == ""
        wait_until(lambda: free() == 2)
    finally:
        connection.close()
