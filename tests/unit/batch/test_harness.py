"""The harness with scripted tools: it must score as the organisers do, above all what is wrong."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from verinet.batch.judge import Ruling, judge
from verinet.batch.organiser import Harness, percent
from verinet.errors import UsageError

pytestmark = pytest.mark.timeout(60)

# y = relu(x) with one input in [0.1, 1]; the property is violated where y >= 0.5.
SPEC = """(declare-const X_0 Real)
(declare-const Y_0 Real)
(assert (>= X_0 0.1))
(assert (<= X_0 1.0))
(assert (>= Y_0 0.5))
"""
SPEC_2 = """(vnnlib-version <2.0>)
(declare-network f (declare-input X float32 [1,1]) (declare-output Y float32 [1,1]))
(assert (and (>= X[0,0] 0.1) (<= X[0,0] 1.0)))
(assert (>= Y[0,0] 0.5))
"""


@pytest.fixture
def bench(tmp_path) -> Path:
    """A benchmark of one instance, limit 1.5 s."""
    from onnx import TensorProto, helper, save

    folder = tmp_path / "relu"
    folder.mkdir()
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 1]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "relu", ports[:1], ports[1:])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), folder / "net.onnx")
    (folder / "p.vnnlib").write_text(SPEC)
    (folder / "q.vnnlib").write_text(SPEC_2)
    (folder / "instances.csv").write_text("net.onnx,p.vnnlib,1.5\n")
    return folder


@pytest.fixture
def tool(tmp_path):
    """A maker of a tool: the body of its run_instance.sh, where $5 is the results file."""

    def make(body: str, prepare: str = "exit 0") -> Path:
        folder = tmp_path / "tool"
        folder.mkdir(exist_ok=True)
        (folder / "run_instance.sh").write_text(f"#!/bin/bash\n{body}\n")
        (folder / "prepare_instance.sh").write_text(f"#!/bin/bash\n{prepare}\n")
        return folder

    return make


def score(bench: Path, scripts: Path, tmp_path: Path, **options):
    (row,) = Harness(scripts, tmp_path / "out", kill_after=0.5).run(bench, **options)
    return row


@pytest.mark.parametrize(
    ("body", "result", "points"),
    [
        ("echo unsat > $5", "unsat", 10),
        ("echo holds > $5", "unsat", 10),
        ("echo timed-out > $5", "timeout", 0),
        ("echo unknown > $5", "unknown", 0),
        ("echo error > $5", "error", 0),
        ("echo nonsense > $5", "unknown", 0),
        (": > $5", "unknown", 0),
        ("true", "no_result_in_file", 0),
        ("echo unsat > $5; exit 3", "error_exit_code_3", 0),
        ("kill -SEGV $$", "error_exit_code_-11", 0),
        ("printf 'sat\\n((X_0 0.75)\\n (Y_0 0.75))\\n' > $5", "sat", 10),
        ("printf 'sat\\n((X_0 0.75)\\n (Y_0 99.0))\\n' > $5", "sat", 10),
        ("printf 'violated\\n((X_0 0.5) (Y_0 0.5))' > $5", "sat", 10),
        ("printf 'sat\\n((X_0 0.25) (Y_0 0.75))\\n' > $5", "sat", -150),
        ("printf 'sat\\n((X_0 1.5) (Y_0 1.5))\\n' > $5", "sat", -150),
        ("printf 'sat\\n((X_0 1.00005) (Y_0 1.0))\\n' > $5", "sat", 10),
        ("printf 'sat\\n' > $5", "sat", -150),
        ("printf 'sat\\n((X_0 0.75) (Y_0 0.75)\\n' > $5", "sat", -150),
        ("printf 'sat\\nX_0 0.75\\n' > $5", "sat", -150),
        ("printf 'sat\\n((X_1 0.75) (Y_0 0.75))\\n' > $5", "sat", -150),
        ("printf 'sat\\n((X_0 nan) (Y_0 0.75))\\n' > $5", "sat", -150),
        ("printf 'sat\\n((X_0 0.75))\\n' > $5", "sat", -150),
    ],
)
def test_points(bench, tool, tmp_path, body, result, points):
    row = score(bench, tool(body), tmp_path)
    assert (row.result, row.points) == (result, points), row.note


def test_unsat_where_a_counterexample_is_known(bench, tool, tmp_path):
    (bench / "expected.csv").write_text("onnx,vnnlib,verdict\nonnx/net.onnx,p.vnnlib,sat\n")
    row = score(bench, tool("echo unsat > $5"), tmp_path)
    assert (row.points, row.note) == (-150, "a counterexample is known")


def test_a_hanging_tool_is_killed_with_its_children(bench, tool, tmp_path):
    mark = tmp_path / "alive"
    begin = time.monotonic()
    row = score(bench, tool(f"(sleep 3; touch {mark}) & sleep 30"), tmp_path)
    assert (row.result, row.points) == ("run_instance_timeout", 0)
    assert 1.9 < row.run_time < 3 and time.monotonic() - begin < 5
    time.sleep(max(0.0, begin + 3.5 - time.monotonic()))
    assert not mark.exists()


def test_a_late_answer_counts_as_a_timeout_without_a_penalty(bench, tool, tmp_path):
    row = score(bench, tool("sleep 0.4; printf 'sat\\n' > $5"), tmp_path, timeout=0.2)
    assert (row.result, row.points, row.note) == ("timeout", 0, "sat, but too late")


def test_what_the_scripts_are_given(bench, tool, tmp_path):
    scripts = tool('printf "%s\\n" "$@" > $5.args; echo unknown > $5', 'printf "%s\\n" "$@" > ' + str(tmp_path / "p"))
    score(bench, scripts, tmp_path)
    given = (tmp_path / "out" / "1.result.args").read_text().split()
    assert given[:4] == ["v1", "relu", f"{bench}/net.onnx", f"{bench}/p.vnnlib"] and given[5] == "1.5"
    assert (tmp_path / "p").read_text().split() == given[:4]


def test_a_skipped_instance(bench, tool, tmp_path):
    row = score(bench, tool("echo unsat > $5", "exit 1"), tmp_path)
    assert (row.result, row.points) == ("prepare_failed", 0)


def test_several_networks_are_passed_as_the_list_text(bench, tool, tmp_path):
    (bench / "instances.csv").write_text("\"[('f', 'net.onnx'), ('g', 'net.onnx')]\",q.vnnlib,2\n")
    row = score(bench, tool('echo "$3" > $5.args; printf "sat\\nX float32 [1]\\n1\\n" > $5'), tmp_path)
    assert row.points == 0 and "not replayed" in row.note
    text = (tmp_path / "out" / "1.result.args").read_text().strip()
    assert text == f"[('f', '{bench}/net.onnx'), ('g', '{bench}/net.onnx')]"


def test_the_results_file_has_the_competition_columns(bench, tool, tmp_path):
    score(bench, tool("echo unsat > $5"), tmp_path)
    cells = (tmp_path / "out" / "results.csv").read_text().strip().split(",")
    assert cells[:3] == ["relu", "net.onnx", "p.vnnlib"] and cells[4] == "unsat"
    assert float(cells[3]) >= 0 and float(cells[5]) > 0


def test_percent(bench, tool, tmp_path):
    (bench / "instances.csv").write_text("net.onnx,p.vnnlib,1.5\n" * 4)
    rows = list(Harness(tool("echo unsat > $5"), tmp_path / "out").run(bench))
    assert percent(rows) == 100.0 and percent([]) == 0.0
    assert percent([replace(row, points=-150) if row is rows[0] else row for row in rows]) == 0.0


def test_a_folder_without_scripts(tmp_path):
    with pytest.raises(UsageError, match="has no prepare_instance"):
        Harness(tmp_path, tmp_path / "out")


def version_2(x: str, head: str = "X float32 [1,1]", tail: str = "Y float32 [1,1]\n0.0\n") -> str:
    return f"{head}\n{x}\n{tail}"


@pytest.mark.parametrize(
    ("text", "ruling"),
    [
        (version_2("0.75"), Ruling.CORRECT),
        (version_2("0.75", "X real [1,1]"), Ruling.CORRECT),
        (version_2("0.25"), Ruling.WRONG),
        (version_2("0.75", "X float64 [1,1]"), Ruling.MALFORMED),
        (version_2("0.75", "X float32 [1]"), Ruling.MALFORMED),
        (version_2("0.75", "Z float32 [1,1]"), Ruling.MALFORMED),
        (version_2("0.75", tail=""), Ruling.MALFORMED),
        (version_2("0.75\n0.75"), Ruling.MALFORMED),
        (version_2("0.75") + "more\n", Ruling.MALFORMED),
        ("((X_0 0.75) (Y_0 0.75))", Ruling.MALFORMED),
    ],
)
def test_counterexamples_of_version_2(bench, text, ruling):
    assert judge(bench / "net.onnx", bench / "q.vnnlib", text).ruling is ruling


def test_a_float64_corner_is_judged_as_the_float32_that_runs(bench):
    # 0.1 lies below its nearest float32; 0.99999999 becomes 1.0. Both are inside the box of the property.
    assert float(np.float32(0.1)) >= 0.1
    low = SPEC.replace(">= Y_0 0.5", "<= Y_0 0.5")
    (bench / "low.vnnlib").write_text(low)
    assert judge(bench / "net.onnx", bench / "low.vnnlib", "((X_0 0.1) (Y_0 0.1))").ruling is Ruling.CORRECT
    # The float32 nearest to 0.7 is below it, so it leaves a box that begins there: only within tolerance.
    (bench / "edge.vnnlib").write_text(SPEC.replace(">= X_0 0.1", ">= X_0 0.7"))
    assert float(np.float32(0.7)) < 0.7
    found = judge(bench / "net.onnx", bench / "edge.vnnlib", "((X_0 0.7) (Y_0 0.7))")
    assert found.ruling is Ruling.WITHIN_TOLERANCE


def test_a_missing_network_is_nobody_s_fault(bench):
    assert judge(bench / "no.onnx", bench / "p.vnnlib", "((X_0 0.7) (Y_0 0.7))").ruling is Ruling.UNSUPPORTED
