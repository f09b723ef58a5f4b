"""A batch with the real engine: warm workers, the command line, and `kill -9` in the middle."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from verinet import batch
from verinet.batch.solve import Networks, search_limit
from verinet.batch.store import read_log

pytestmark = pytest.mark.timeout(120)

ROOT = Path(__file__).resolve().parents[3]
SPECS = ROOT / "vnnlib_specs"
EXPECTED = {(row["onnx"], row["vnnlib"]): row["verdict"] for row in csv.DictReader((SPECS / "expected.csv").open())}
QUICK = [
    ("digits_relu", "digits_relu_radius_0.02"),
    ("digits_relu", "digits_relu_radius_0.2"),
    ("digits_tanh", "digits_tanh_radius_0.02"),
    ("digits_relu", "digits_relu_radius_0.05"),
    ("double_integrator", "double_integrator_effort_0.9"),
]


@pytest.fixture(scope="module")
def instances(tmp_path_factory) -> Path:
    """Five quick instances of shipped models, a missing network, and a broken property."""
    folder = tmp_path_factory.mktemp("shipped")
    rows = [f"{ROOT}/models/{model}.onnx,{SPECS}/{spec}.vnnlib,60\n" for model, spec in QUICK]
    (folder / "broken.vnnlib").write_text("(declare-const X_0 Real")
    rows += ["missing.onnx,broken.vnnlib,60\n", f"{ROOT}/models/digits_relu.onnx,broken.vnnlib,60\n"]
    rows += [f"\"[('f', '{ROOT}/models/digits_relu.onnx')]\",{SPECS}/{QUICK[0][1]}.vnnlib,60\n"]
    path = folder / "instances.csv"
    path.write_text("".join(rows))
    return path


@pytest.fixture(scope="module")
def result(instances, tmp_path_factory) -> batch.BatchResult:
    """One run of all of them with one worker."""
    return batch.run(instances, tmp_path_factory.mktemp("run"), workers=1, seed=3, device="cpu")


def test_verdicts_are_those_of_single_runs(result):
    for record, (model, spec) in zip(result.records, QUICK, strict=False):
        assert record["status"] == EXPECTED[f"../models/{model}.onnx", f"{spec}.vnnlib"]


def test_records_say_how_they_came_about(result):
    for record in result.records[:5]:
        assert record["error"] is None and record["device"] == "cpu" and record["seed"] == 3
        assert len(record["model_sha256"]) == len(record["property_sha256"]) == 64
        assert {"verinet", "torch", "onnxruntime", "python"} <= set(record["versions"])
        assert 0 < record["load_seconds"] + record["search_seconds"] <= record["seconds"] + 1e-3
        assert record["started"] < record["finished"]
    proved = result.records[0]
    assert (proved["reason"], proved["gap"], proved["curve"][-1][1]) == ("proved", 0.0, 0.0)


def test_bad_instances_become_errors_of_their_kind_and_the_worker_lives_on(result):
    missing, broken, listed = result.records[5:]
    assert (missing["status"], missing["reason"]) == ("error", "UsageError")
    assert "missing.onnx" in missing["error"]["message"]
    assert (broken["status"], broken["reason"]) == ("error", "VnnlibSyntaxError")
    assert listed["status"] in ("error", "unsat") and listed["model"].startswith("[('f'")
    assert {r["attempts"] for r in result.records} == {1}


def test_the_witness_is_kept_exactly(result):
    record = result.records[1]
    witness = record["witness"]
    from verinet.spec.exact import holds_exactly

    assert holds_exactly(SPECS / f"{QUICK[1][1]}.vnnlib", witness["inputs"], witness["outputs"])
    assert [float(np.float32(v)) for v in witness["inputs"]] == witness["inputs"]
    assert np.abs(np.subtract(witness["inputs"], witness["centre"])).max() <= 0.2 + 1e-9
    assert witness["shapes"] == [[1, 64]]


def test_a_network_is_loaded_once_for_all_its_instances():
    networks = Networks()
    first = networks.get(ROOT / "models" / "digits_relu.onnx")
    assert networks.get(ROOT / "models" / "digits_relu.onnx") is first
    networks.get(ROOT / "models" / "digits_tanh.onnx")
    networks.get(ROOT / "models" / "digits_gelu.onnx")
    assert len(networks.kept) == 2 and networks.get(ROOT / "models" / "digits_relu.onnx") is not first


def test_a_network_that_changes_is_loaded_anew(tmp_path):
    networks, path = Networks(), tmp_path / "net.onnx"
    path.write_bytes((ROOT / "models" / "digits_relu.onnx").read_bytes())
    first = networks.get(path)
    path.write_bytes((ROOT / "models" / "digits_tanh.onnx").read_bytes())
    assert networks.get(path).sha256 != first.sha256


@pytest.mark.parametrize("limit", [0.2, 1.0, 20.0, 300.0])
def test_the_search_ends_before_the_limit(limit):
    assert 0.85 * limit <= search_limit(limit) < limit


def launch(*arguments: object) -> subprocess.Popen[str]:
    call = [sys.executable, "-c", "from verinet.cli import main; main()", "batch", *map(str, arguments)]
    return subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_the_command_killed_and_resumed(instances, result, tmp_path):
    out, log = tmp_path / "run", tmp_path / "run" / "results.jsonl"
    process = launch(instances, "--out", out, "--workers", 1, "--seed", 3, "--device", "cpu")
    end = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < end and not (log.exists() and log.read_bytes()):
        time.sleep(0.01)
    process.kill()
    process.communicate()
    kept = read_log(log)
    assert 0 < len(kept) < len(result.records)
    process = launch(instances, "--out", out, "--workers", 1, "--seed", 3, "--device", "cpu", "--json")
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 1, stderr  # some instances are errors
    summary = json.loads(stdout)
    assert summary["resumed"] >= len(kept) and summary["done"] == summary["total"] == len(result.records)
    assert f"{len(kept)} done before" in stderr
    found = [json.loads(line) for line in log.read_text().splitlines()]
    assert Counter(r["number"] for r in found) == Counter(range(1, 9))
    assert {r["number"]: r["status"] for r in found} == {r["number"]: r["status"] for r in result.records}
