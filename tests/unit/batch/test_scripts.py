"""The competition scripts with verinet behind them."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from verinet.batch.organiser import Harness

pytestmark = pytest.mark.timeout(120)

ROOT = Path(__file__).resolve().parents[3]
SCRIPTS, MODELS, SPECS = ROOT / "competition", ROOT / "models", ROOT / "vnnlib_specs"


@pytest.fixture
def scripts(tmp_path) -> Path:
    """A copy of the scripts beside a link to the interpreter that runs the tests."""
    folder = tmp_path / "entry" / "competition"
    folder.mkdir(parents=True)
    for script in SCRIPTS.glob("*.sh"):
        (folder / script.name).write_bytes(script.read_bytes())
    (tmp_path / "entry" / ".venv" / "bin").mkdir(parents=True)
    python = tmp_path / "entry" / ".venv" / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    return folder


def call(script: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", str(script), *map(str, arguments)], capture_output=True, text=True, check=False)


def run(scripts: Path, results: Path, model: object, spec: Path, limit: str = "60.0"):
    return call(scripts / "run_instance.sh", "v1", "digits", model, spec, results, limit)


def test_the_harness_with_verinet(scripts, tmp_path):
    rows = [
        f"{MODELS}/digits_relu.onnx,{SPECS}/digits_relu_radius_0.02.vnnlib,60.0\n",
        f"{MODELS}/digits_relu.onnx,{SPECS}/digits_relu_radius_0.2.vnnlib,60.0\n",
        f"{MODELS}/digits_relu.onnx,{SPECS}/version_2/digits_relu_radius_0.2.vnnlib,60\n",
    ]
    (tmp_path / "instances.csv").write_text("".join(rows))
    found = list(Harness(scripts, tmp_path / "out").run(tmp_path, expected=SPECS / "expected.csv"))
    log = (tmp_path / "out" / "tool.log").read_text()
    assert [(row.result, row.points) for row in found] == [("unsat", 10), ("sat", 10), ("sat", 10)], log
    third = (tmp_path / "out" / "3.result").read_text().splitlines()
    assert third[0] == "sat" and third[1].split()[1] == "float32"


def test_packed_files_and_a_name_without_the_suffix(scripts, tmp_path):
    model, spec = tmp_path / "net.onnx", tmp_path / "p.vnnlib"
    Path(f"{model}.gz").write_bytes(gzip.compress((MODELS / "digits_relu.onnx").read_bytes()))
    Path(f"{spec}.gz").write_bytes(gzip.compress((SPECS / "digits_relu_radius_0.02.vnnlib").read_bytes()))
    assert call(scripts / "prepare_instance.sh", "v1", "digits", model, spec).returncode == 0
    done = run(scripts, tmp_path / "result", model, spec)
    assert (done.returncode, (tmp_path / "result").read_text()) == (0, "unsat\n"), done.stderr


def test_an_error_is_said_in_the_file_and_the_exit_code_is_0(scripts, tmp_path):
    (tmp_path / "bad.onnx").write_bytes(b"nonsense")
    (tmp_path / "result").write_text("unsat\n")  # of an earlier run: it must not survive
    done = run(scripts, tmp_path / "result", tmp_path / "bad.onnx", SPECS / "digits_relu_radius_0.02.vnnlib")
    assert (done.returncode, (tmp_path / "result").read_text()) == (0, "error\n")
    assert "exit code 3" in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"bad.onnx", "result", "entry"}  # no part file left


def test_the_limit_covers_the_start(scripts, tmp_path):
    begin = time.monotonic()
    run(scripts, tmp_path / "result", MODELS / "digits_cnn.onnx", SPECS / "digits_cnn_radius_0.1.vnnlib", "0.5")
    assert (tmp_path / "result").read_text() == "timeout\n" and time.monotonic() - begin < 3


def test_several_networks_become_options(scripts, tmp_path):
    stub = tmp_path / "entry" / ".venv" / "bin" / "python"
    stub.write_text(f'#!/bin/bash\nprintf "%s\\n" "$@" > {tmp_path}/args\necho unknown > "${{@: -2:1}}"\n')
    text = f"[('f', '{tmp_path}/a b.onnx'), ('g', '{tmp_path}/g.onnx')]"
    done = run(scripts, tmp_path / "result", text, Path("q.vnnlib"), "116.5")
    assert done.returncode == 0, done.stderr
    given = (tmp_path / "args").read_text().splitlines()
    networks = ["--network", f"f={tmp_path}/a b.onnx", "--network", f"g={tmp_path}/g.onnx"]
    assert given[2:9] == ["verify", "q.vnnlib", *networks, "--timeout"] and given[9] == "116.5"
    assert (tmp_path / "result").read_text() == "unknown\n"


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        ("install_tool.sh", ["v2"]),
        ("prepare_instance.sh", ["v1", "digits", "net.onnx"]),
        ("prepare_instance.sh", ["v1", "digits", "missing.onnx", "missing.vnnlib"]),
        ("run_instance.sh", ["v1", "digits", "net.onnx", "p.vnnlib", "result"]),
        ("run_instance.sh", ["v2", "digits", "net.onnx", "p.vnnlib", "result", "10"]),
    ],
)
def test_wrong_calls_are_refused(scripts, tmp_path, script, arguments):
    done = call(scripts / script, *arguments)
    assert done.returncode == 1 and script in done.stderr
    assert not (tmp_path / "result").exists()


def test_the_scripts_can_be_executed():
    for name in ("install_tool.sh", "prepare_instance.sh", "run_instance.sh"):
        assert os.access(SCRIPTS / name, os.X_OK)
