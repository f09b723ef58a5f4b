"""`verinet batch` without an engine: output, exit codes, the live table."""

from __future__ import annotations

import io
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from verinet.batch import runner
from verinet.batch.instances import Instance
from verinet.batch.runner import Busy, Snapshot
from verinet.cli.app import app
from verinet.cli.batch import clock, live_table
from verinet.cli.session import Session


@pytest.fixture
def command(monkeypatch, fake_executor):
    """Run `verinet batch` in this process on scripted workers."""
    monkeypatch.setattr(runner.run, "__kwdefaults__", runner.run.__kwdefaults__ | {"executor": fake_executor})
    return lambda *arguments: CliRunner().invoke(
        app, ["batch", *map(str, arguments)], obj=Session(time.monotonic(), owns_process=False)
    )


def test_the_summary_counts_by_family(command, scripted, tmp_path):
    done = command(scripted("unsat", "unsat", "sat", "unknown"), "--out", tmp_path / "run", "--workers", 1)
    assert done.exit_code == 0, done.stderr
    row = next(line for line in done.stdout.splitlines() if line.startswith("family") and "median" not in line)
    assert row.split()[:6] == ["family", "4", "75", "%", "2", "1"]
    assert "4 of 4 instances have a result" in done.stdout
    assert "4 instances; 1 worker(s)" in done.stderr


def test_errors_show_in_the_exit_code(command, scripted, tmp_path):
    done = command(scripted("unsat", "fail no such operator"), "--out", tmp_path / "run", "--json")
    assert done.exit_code == 1
    assert json.loads(done.stdout)["counts"] == {"unsat": 1, "error": 1}


def test_quiet_is_quiet(command, scripted, tmp_path):
    done = command(scripted("unsat"), "--out", tmp_path / "run", "-q")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--timeout", "0"), "above 0"),
        (("--shard", "3"), "a shard is i/n"),
        (("--device", "tpu"), "auto, cpu or cuda"),
        (("--workers", "0"), "must be a positive number"),
        (("--memory", "nan"), "must be a positive number"),
    ],
)
def test_wrong_calls(command, scripted, tmp_path, arguments, message):
    done = command(scripted("unsat"), "--out", tmp_path / "run", *arguments)
    assert done.exit_code == 2 and message in " ".join(done.stderr.split())


def test_the_live_table_shows_what_matters():
    one = Instance(7, "acasxu", "onnx/net.onnx", "vnnlib/prop_2.vnnlib", 116.0, Path("/"))
    worst: dict[str, Any] = {"family": "cifar", "model": "m.onnx", "property": "p.vnnlib", "gap": 12.5, "number": 3}
    snapshot = Snapshot(
        200, 2, resumed=40, done=100, seconds=60.0, counts=Counter(unsat=70, sat=20, unknown=10),
        busy=(Busy(0, one, 12.34, 0.5, 321),), worst=(worst,),
    )  # fmt: skip
    assert (snapshot.solved, snapshot.rate, snapshot.seconds_left) == (90, 1.0, 100.0)
    console = Console(file=io.StringIO(), width=140)
    console.print(live_table(snapshot))
    text = console.file.getvalue()
    for part in (
        "prop_2.vnnlib",
        "12.3",
        "116",
        "0.5",
        "321",
        "12.5",
        "p.vnnlib",
        "100 of 200 done, 90 solved",
        "1:40 left",
    ):
        assert part in text


def test_nothing_is_promised_before_the_first_result():
    snapshot = Snapshot(10, 1, resumed=4, done=4, seconds=3.0)
    assert snapshot.seconds_left is None
    console = Console(file=io.StringIO(), width=100)
    console.print(live_table(snapshot))
    assert "time left unknown" in console.file.getvalue()


@pytest.mark.parametrize(("seconds", "text"), [(8.4, "8 s"), (200, "3:20"), (7500, "2:05:00")])
def test_times_for_people(seconds, text):
    assert clock(seconds) == text
