"""The models in models/ and their properties, through the command line, against vnnlib_specs/expected.csv."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from verinet.witness.formats import parse_version_1

SPECS = Path(__file__).resolve().parents[2] / "vnnlib_specs"
ROWS = list(csv.DictReader((SPECS / "expected.csv").open()))
KNOWN = [row for row in ROWS if row["verdict"] in ("sat", "unsat")]
OPEN = [row for row in ROWS if row["verdict"] not in ("sat", "unsat")]

pytestmark = pytest.mark.timeout(180)


def name(row: dict[str, str]) -> str:
    return row["vnnlib"].removesuffix(".vnnlib")


def launch(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The real entry point in a process of its own, with its watchdog."""
    call = [sys.executable, "-c", "from verinet.cli import main; main()", *map(str, arguments)]
    return subprocess.run(call, capture_output=True, text=True, check=False)


def files(row: dict[str, str]) -> tuple[Path, Path]:
    return SPECS / row["onnx"], SPECS / row["vnnlib"]


@pytest.mark.parametrize("row", KNOWN, ids=name)
def test_known_verdict(command, row, tmp_path):
    done = command("verify", *files(row), "--timeout", row["timeout"], "--result", tmp_path / "result.txt")
    assert done.stdout == f"{row['verdict']}\n", done.stderr
    assert done.exit_code == 0
    if row["verdict"] == "sat":
        assert_violates(*files(row), (tmp_path / "result.txt").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("row", OPEN, ids=name)
def test_open_instances_end_in_time(row):
    begin = time.monotonic()
    done = launch("verify", *files(row), "--timeout", "10")
    assert done.returncode == 0 and done.stdout.strip() in ("sat", "unsat", "unknown", "timed-out")
    assert time.monotonic() - begin < 10


def test_instances_and_expectations_list_the_same_files():
    listed = [tuple(row) for row in csv.reader((SPECS / "instances.csv").open())]
    assert listed == [(row["onnx"], row["vnnlib"], row["timeout"]) for row in ROWS]
    assert all(path.is_file() for row in ROWS for path in files(row))
    assert {"sat", "unsat"} <= {row["verdict"] for row in ROWS}


def test_version_2_of_a_query_has_the_same_verdict(command):
    row = next(row for row in ROWS if row["vnnlib"] == "digits_relu_radius_0.02.vnnlib")
    query = SPECS / "version_2" / row["vnnlib"]
    done = command("verify", query, "--network", f"f={files(row)[0]}", "--timeout", row["timeout"])
    assert (done.stdout.strip(), done.exit_code) == (row["verdict"], 0), done.stderr


def test_the_installed_command_answers_within_its_limit():
    row = next(row for row in ROWS if row["vnnlib"] == "double_integrator_effort_0.9.vnnlib")
    begin = time.monotonic()
    done = launch("verify", *files(row), "--timeout", "30", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["verdict"] == "sat" and time.monotonic() - begin < 30


def test_a_limit_too_short_for_anything_is_kept():
    row = ROWS[0]
    begin = time.monotonic()
    done = launch("verify", *files(row), "--timeout", "0.5")
    assert (done.returncode, done.stdout) == (0, "timed-out\n")
    assert time.monotonic() - begin < 2.0  # the limit is 0.5 s; the rest is for a loaded machine


def test_bounds_hold_at_the_corners(command):
    row = next(row for row in ROWS if row["vnnlib"] == "double_integrator_brakes.vnnlib")
    found = json.loads(command("bounds", *files(row), "--json").stdout)
    for corner in ([0.5, 0.5], [2.0, 0.5], [0.5, 2.0], [2.0, 2.0]):
        value = run_network(files(row)[0], np.array(corner))
        assert found["lower"][0] <= value[0] <= found["upper"][0]


@pytest.mark.parametrize("model", sorted({row["onnx"] for row in ROWS}))
def test_every_operator_of_the_models_is_bounded(command, model):
    done = command("inspect", SPECS / model, "--json")
    assert done.exit_code == 0, done.stderr


def test_doctor_is_content(command):
    assert command("doctor").exit_code == 0


def assert_violates(model: Path, spec: Path, result: str) -> None:
    """Judge a counterexample without verinet: our property files need only a few patterns."""
    inputs, _ = parse_version_1(result)
    text = spec.read_text()
    for relation, index, value in re.findall(r"\(assert \((<=|>=) X_(\d+) (\S+)\)\)", text):
        x = inputs[int(index)]
        assert x <= float(value) if relation == "<=" else x >= float(value)
    outputs = run_network(model, inputs)
    holds = []
    for relation, index, value in re.findall(r"\((<=|>=) Y_(\d+) (Y_\d+|[-\d.]+)\)", text):
        left, right = outputs[int(index)], outputs[int(value[2:])] if value[0] == "Y" else float(value)
        holds.append(left <= right if relation == "<=" else left >= right)
    assert any(holds) if "(or" in text else all(holds)


def run_network(model: Path, inputs: np.ndarray) -> np.ndarray:
    """Flat outputs for a flat input, in float64."""
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    entry = session.get_inputs()[0]
    outputs = session.run(None, {entry.name: inputs.astype(np.float32).reshape(entry.shape)})
    return np.concatenate([np.asarray(o, dtype=np.float64).ravel() for o in outputs])
