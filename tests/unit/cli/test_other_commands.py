"""bounds, inspect, doctor, and the options without a command."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from types import ModuleType

import pytest


@dataclass(frozen=True)
class Record:
    name: str
    op: str
    status: str
    detail: str


def fake_inspection(monkeypatch: pytest.MonkeyPatch, *records: Record) -> None:
    fake = ModuleType("verinet.frontends.onnx")
    fake.inspect_onnx = lambda path: records  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "verinet.frontends.onnx", fake)


def test_bounds_prints_one_entry_a_line(command, engine, files):
    done = command("bounds", *files, "--layer", "relu")
    assert (done.exit_code, done.stdout) == (0, "0 -1.0 0.0\n1 0.1 2.5\n")
    assert "layer relu" in done.stderr


def test_bounds_as_json(command, engine, files):
    record = json.loads(command("bounds", *files, "--json").stdout)
    assert record["lower"] == [-1.0, 0.1] and record["layer"] == "output"


def test_inspect_lists_operators(command, files, monkeypatch):
    fake_inspection(monkeypatch, Record("a", "Relu", "bounded", ""), Record("b", "Shape", "folded", "constant"))
    done = command("inspect", files[0])
    assert done.exit_code == 0 and "Relu" in done.stdout and "1 folded" in done.stdout


def test_inspect_says_what_is_missing(command, files, monkeypatch):
    fake_inspection(monkeypatch, Record("[odd]", "NonZero", "unsupported", "no bounds"))
    done = command("inspect", files[0], "--json")
    assert done.exit_code == 3 and "NonZero" in done.stderr
    assert json.loads(done.stdout)["operators"][0]["name"] == "[odd]"


def test_inspect_without_a_file(command):
    assert command("inspect", "missing.onnx").exit_code == 2


def test_doctor_reports_a_broken_engine(command, engine):
    done = command("doctor", "--json")
    record = json.loads(done.stdout)
    assert done.exit_code == 1 and record["self_test"]["answers"] == {"unsat": "unsat", "sat": "unsat"}
    assert record["versions"]["torch"]


def test_name_and_version(command):
    assert command("--name").stdout == "verinet\n"
    assert command("--version").stdout.count(".") == 2


@pytest.mark.parametrize("argument", ["--version", "--help", "verify --help"])
def test_help_and_version_do_not_load_torch(argument):
    script = f"import sys; sys.argv = ['verinet', *{argument.split()!r}]; from verinet.cli.app import run\n"
    script += "code = run(sys.argv[1:], 0.0)\n"
    script += "sys.exit(code or any(m in sys.modules for m in ('torch', 'onnx', 'onnxruntime', 'numpy')))"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, check=False).returncode == 0


def test_no_command_shows_the_help(command):
    assert "verify" in command().output
