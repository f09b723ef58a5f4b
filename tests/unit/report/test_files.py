"""csv, Parquet, terminal tables, and the command."""

from __future__ import annotations

import csv
import io
import time

import pytest
from typer.testing import CliRunner

from verinet.cli.app import app
from verinet.cli.session import Session
from verinet.report.data import load_run
from verinet.report.tables import competition_csv, write_parquet


@pytest.fixture
def command():
    return lambda *arguments: CliRunner().invoke(
        app, ["report", *map(str, arguments)], obj=Session(time.monotonic(), owns_process=False)
    )


def test_csv_has_the_competition_columns(run):
    rows = list(csv.reader(io.StringIO(competition_csv(load_run(run)))))
    assert rows[0] == ["digits", "onnx/net_1.onnx", "vnnlib/prop_1.vnnlib.gz", "0.0", "unsat", "0.9000"]
    assert [row[4] for row in rows[4:7]] == ["timeout", "unknown", "error"] and len(rows) == 9


def test_csv_on_stdout_is_nothing_but_csv(command, run):
    done = command(run, "--csv", "-")
    assert done.exit_code == 0 and done.stdout == competition_csv(load_run(run))


def test_parquet_holds_every_instance(run, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    write_parquet(load_run(run), tmp_path / "run.parquet")
    rows = parquet.read_table(tmp_path / "run.parquet").to_pylist()
    assert [row["number"] for row in rows] == list(range(1, 10))
    assert rows[5]["gap"] == float("inf") and rows[6]["error"].startswith("the worker was ended")
    assert rows[0]["torch"] == "2.13.0" and rows[0]["strategy"] == "input-split"


def test_the_terminal_table(command, run):
    done = command(run)
    lines = [line.split() for line in done.stdout.splitlines() if line.strip()]
    assert lines[0][:4] == ["family", "all", "solved", "unsat"]
    assert lines[-1][:10] == ["all", "9", "56", "%", "3", "3", "1", "1", "1", "0.3"]


def test_a_comparison_on_the_terminal(command, run, other):
    done = command(run, other)
    assert "night run against other: 8 instances in common" in done.stdout
    assert "disagreement: onnx/net_2.onnx vnnlib/prop_2.vnnlib.gz: unsat here, sat for other" in done.stderr


def test_files_are_written(command, run, tmp_path):
    done = command(run, "--html", tmp_path / "a.html", "--csv", tmp_path / "a.csv", "--parquet", tmp_path / "a.parquet")
    assert done.exit_code == 0, done.stderr
    assert {path.suffix for path in tmp_path.glob("a.*")} == {".html", ".csv", ".parquet"}
    assert (tmp_path / "a.html").read_text().startswith("<!doctype html>")


def test_a_place_that_cannot_be_written(command, run, tmp_path):
    done = command(run, "--html", tmp_path / "no" / "a.html")
    assert done.exit_code == 2 and "cannot be written" in done.stderr


def test_an_empty_run(command, make_run, tmp_path):
    done = command(make_run([]), "--html", tmp_path / "a.html")
    assert done.exit_code == 0 and "no results yet" in done.stdout
    assert "The run has no results yet" in (tmp_path / "a.html").read_text()


def test_no_run(command, tmp_path):
    done = command(tmp_path)
    assert done.exit_code == 2 and "holds no run" in done.stderr
