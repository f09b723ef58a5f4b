"""The command line of the VNN-LIB standard, chapter 5, on real queries."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from verinet.spec import ExactProperty


def save(path: Path, factor: float) -> str:
    """y = factor * relu(x) for two float32 entries; the inner tensor is called r."""
    constant = numpy_helper.from_array(np.array(factor, dtype=np.float32), "k")
    nodes = [helper.make_node("Relu", ["x"], ["r"]), helper.make_node("Mul", ["r", "k"], ["y"])]
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "net", value[:1], value[1:], [constant])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return str(path)


HEAD = """(vnnlib-version <2.0>)
(declare-network f (declare-input X float32 [2]) (declare-hidden R float32 [2] "r") (declare-output Y float32 [2]))
(declare-network g (isomorphic-to f) (declare-input U float32 [2]) (declare-output V float32 [2]))
(assert (and (>= X[0] -1.0) (<= X[0] 1.0) (>= X[1] -1.0) (<= X[1] 1.0)))
(assert (and (== X[0] U[0]) (== X[1] U[1])))
"""


@pytest.fixture
def nets(tmp_path: Path) -> tuple[str, str]:
    return save(tmp_path / "f.onnx", 2.0), save(tmp_path / "g.onnx", 3.0)


@pytest.fixture
def query(tmp_path: Path) -> Path:
    return tmp_path / "q.vnnlib"


def test_sat_prints_the_assignment_after_the_word(command, nets, query):
    query.write_text(HEAD + "(assert (<= Y[0] (- V[0] 0.5)))(assert (> R[1] R[0]))")
    done = command("verify", query, "--network", f"f={nets[0]}", "--network", f"g={nets[1]}", "--timeout", "20")
    lines = done.stdout.splitlines()
    assert done.exit_code == 0 and lines[0] == "sat"
    heads = [line for line in lines if re.match("[A-Z] ", line)]
    assert heads == [f"{name} float32 [2]" for name in "XRYUV"]
    values = [float(line) for line in lines[1:] if line not in heads]
    x, r, y, u, v = (values[k : k + 2] for k in range(0, 10, 2))
    assert x == u and ExactProperty.read(query).holds(x + u, r + y + v)


def test_the_competitions_list_text_names_the_networks(command, nets, query):
    query.write_text(HEAD + "(assert (> Y[0] (+ V[0] 0.25)))")  # 2 relu(x) never exceeds 3 relu(x)
    listed = str([("f", nets[0]), ("g", nets[1])])
    for arguments in ((listed, query), (query, listed)):
        done = command("verify", *arguments, "--timeout", "20")
        assert (done.exit_code, done.stdout) == (0, "unsat\n")


def test_assignments_go_to_a_folder_when_asked(command, nets, query, tmp_path):
    query.write_text(HEAD + "(assert (>= Y[0] 1.5))")
    networks = ("--network", f"f={nets[0]}", "--network", f"g={nets[1]}")
    for option in ("--serialise-assignments", "--assignments"):
        done = command("verify", query, *networks, option, tmp_path / option)
        assert done.stdout == "sat\n"
        tensors = {p.stem: numpy_helper.to_array(onnx.load_tensor(str(p))) for p in (tmp_path / option).iterdir()}
        assert set(tensors) == set("XRYUV") and tensors["Y"][0] >= 1.5 and tensors["Y"].dtype == np.float32
    (tmp_path / "file").write_text("")
    done = command("verify", query, *networks, "--assignments", tmp_path / "file" / "x")
    assert done.exit_code == 1 and "cannot write" in done.stderr


def test_result_files_and_json_tell_of_all_networks(command, nets, query, tmp_path):
    query.write_text(HEAD + "(assert (>= Y[0] 1.5))")
    networks = ("--network", f"f={nets[0]}", "--network", f"g={nets[1]}")
    record = json.loads(command("verify", query, *networks, "--json", "--result", tmp_path / "out.txt").stdout)
    assert record["model"] == {"f": nets[0], "g": nets[1]} and len(record["witness"]["inputs"]) == 4
    assert len(record["provenance"]["model_sha256"].split(", ")) == 2
    assert (tmp_path / "out.txt").read_text().startswith("sat\nX float32 [2]\n")


def test_a_version_1_property_in_the_standards_form(command, nets, query):
    query.write_text(
        "".join(f"(declare-const {n}_{i} Real)\n" for n in "XY" for i in (0, 1))
        + "".join(f"(assert (>= X_{i} 0.5))\n(assert (<= X_{i} 1.0))\n" for i in (0, 1))
        + "(assert (>= Y_0 1.0))\n"
    )
    assert command("verify", query, "--network", f"f={nets[0]}").stdout.startswith("sat\n((X_0 ")
    assert command("verify", query, nets[0]).stdout == "sat\n"
    assert command("verify", query, "--network", f"f={nets[0]}", "-q").stdout == "sat\n"


CALLS = [
    (["q", "--network", "f={f}"], 3, "the query needs 2: f, g"),
    (["q", "--network", "f={f}", "--network", "h={g}"], 3, "declares no network h"),
    (["q", "--network", "f={f}", "--network", "f={g}"], 2, "f is given twice"),
    (["q", "--network", "f={f}", "--network", "g=missing.onnx"], 2, "no such file"),
    (["q", "[('f', 'missing.onnx'), ('g', '{g}')]"], 2, "no such file"),
    (["q", "[('f', '{f}'), ('g')]"], 2, "list of networks is malformed"),
    (["q", "[('f', open('{f}'))]"], 2, "list of networks is malformed"),
    (["q", "[]"], 2, "list of networks is malformed"),
]


@pytest.mark.parametrize(("arguments", "code", "words"), CALLS)
def test_networks_that_do_not_match_the_query(command, nets, query, arguments, code, words):
    query.write_text(HEAD + "(assert (>= Y[0] 1.5))")
    filled = [a.format(f=nets[0], g=nets[1]) if a != "q" else str(query) for a in arguments]
    done = command("verify", *filled)
    assert (done.exit_code, done.stdout) == (code, "") and words in done.stderr


def test_a_nonlinear_first_node_has_bounds(nets):
    import verinet

    assert verinet.bounds(nets[0], verinet.box([-1.0, 0.5], [1.0, 1.0])).upper.tolist() == pytest.approx([2.0, 2.0])


def test_bounds_of_several_networks_need_python(nets, query):
    import verinet

    query.write_text(HEAD + "(assert (>= Y[0] 1.5))")
    found = verinet.bounds({"f": nets[0], "g": nets[1]}, query)
    assert found.lower.shape == (6,)  # R, Y and V
    assert np.all(found.lower <= 0) and np.allclose(found.upper, [1, 1, 2, 2, 3, 3])


@pytest.mark.bench
def test_isomorphic_networks_of_the_competition(command, bench_folder, query, tmp_path):
    folder = bench_folder / "vnncomp" / "isomorphic_acasxu_2026"
    nets = [folder / "onnx/nets/ACASXU_run2a_2_2_batch_2000.onnx"]
    nets.append(folder / "onnx/nets_pruned/ACASXU_run2a_2_2_batch_2000_pruned30.onnx")
    done = command(
        "verify", folder / "vnnlib/instance_2.vnnlib", *(f"--network={n}={p}" for n, p in zip("fg", nets, strict=True))
    )
    lines = done.stdout.splitlines()
    assert lines[0] == "sat" and len(lines) == 1 + 4 * 6
    assert [line for line in lines if line[0] in "XY"] == [f"{v}_{n} real [5]" for n in "fg" for v in "XY"]


@pytest.mark.bench
@pytest.mark.slow
def test_the_conformance_suite_has_its_verdicts(bench_folder):
    """178 queries: never the opposite verdict, and nearly all answered."""
    import ast
    import csv

    import verinet

    answered, wrong = 0, []
    folder = bench_folder / "vnncomp" / "vnnlib2_satisfactory"
    with (bench_folder / "vnncomp" / "expected.csv").open() as table:
        cases = [row for row in csv.DictReader(table) if row["family"] == "vnnlib2_satisfactory"]
    for case in cases:
        listed = case["onnx"].startswith("[")
        pairs = ast.literal_eval(case["onnx"]) if listed else [("", case["onnx"])]
        nets = {name: folder / file for name, file in pairs}
        verdict = verinet.verify(nets if listed else nets[""], folder / case["vnnlib"], timeout=5.0)
        answered += verdict.status.value == case["verdict"]
        if verdict.status.value in ("sat", "unsat") and verdict.status.value != case["verdict"]:
            wrong.append(case["vnnlib"])
    assert wrong == [] and len(cases) == 178 and answered >= 170
