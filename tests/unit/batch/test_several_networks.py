"""VNN-LIB 2.0 queries over several networks in a batch: warm workers, records, report, competition columns."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from verinet import batch
from verinet.report.data import load_run
from verinet.report.page import page
from verinet.report.tables import competition_csv
from verinet.spec import ExactProperty

pytestmark = pytest.mark.timeout(120)


HEAD = """(vnnlib-version <2.0>)
(declare-network f (declare-input X float32 [2]) (declare-output Y float32 [2]))
(declare-network g (isomorphic-to f) (declare-input U float32 [2]) (declare-output V float32 [2]))
(assert (and (>= X[0] -1.0) (<= X[0] 1.0) (>= X[1] -1.0) (<= X[1] 1.0)))
(assert (and (== X[0] U[0]) (== X[1] U[1])))
"""
EQUAL = HEAD.replace("(isomorphic-to f)", "(equal-to f)")
ROWS = [  # networks, query, verdict: f is 2 relu, g is 3 relu
    ("fg", HEAD + "(assert (> Y[0] (+ V[0] 0.25)))", "unsat"),
    ("fg", HEAD + "(assert (>= V[1] (+ Y[1] 0.5)))", "sat"),
    ("gf", HEAD + "(assert (>= V[1] (+ Y[1] 0.5)))", "unsat"),
    ("f", EQUAL + "(assert (>= Y[0] (+ V[0] 0.001)))", "unsat"),
    ("ff", EQUAL + "(assert (>= Y[0] (+ V[0] 0.001)))", "unsat"),
    ("g", EQUAL + "(assert (>= Y[0] (+ V[1] 2.5)))", "sat"),
]


def save(path: Path, factor: float) -> None:
    """y = factor * relu(x) for two float32 entries."""
    constant = numpy_helper.from_array(np.array(factor, dtype=np.float32), "k")
    nodes = [helper.make_node("Relu", ["x"], ["r"]), helper.make_node("Mul", ["r", "k"], ["y"])]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy"]
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], [constant])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)


def listed(networks: str) -> str:
    """The list text of the first column: the query's names f, g with files in this order."""
    return str([(name, f"onnx/{file}.onnx") for name, file in zip("fg", networks, strict=False)])


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> batch.BatchResult:
    folder = tmp_path_factory.mktemp("2026") / "isomorphic_relu"
    (folder / "onnx").mkdir(parents=True)
    (folder / "vnnlib").mkdir()
    save(folder / "onnx" / "f.onnx", 2.0)
    save(folder / "onnx" / "g.onnx", 3.0)
    with (folder / "instances.csv").open("w", newline="") as stream:
        for number, (networks, query, _) in enumerate(ROWS):
            (folder / "vnnlib" / f"{number}.vnnlib").write_text(query)
            csv.writer(stream).writerow((listed(networks), f"vnnlib/{number}.vnnlib", 20))
    return batch.run(folder.parent, folder.parent / "run", workers=1, device="cpu")


def test_every_query_gets_its_answer(result: batch.BatchResult) -> None:
    assert [r["status"] for r in result.records] == [verdict for *_, verdict in ROWS]
    assert {r["family"] for r in result.records} == {"isomorphic_relu"}
    assert [r["error"] for r in result.records] == [None] * len(ROWS)


def test_records_name_all_networks(result: batch.BatchResult) -> None:
    for record, (networks, *_) in zip(result.records, ROWS, strict=True):
        assert record["model"] == listed(networks)
        digests = record["model_sha256"]
        assert isinstance(digests, str) if len(networks) == 1 else len(digests) == 2
        assert isinstance(digests, str) or (digests[0] == digests[1]) == (networks == "ff")


def test_witnesses_hold_for_both_networks(result: batch.BatchResult) -> None:
    for record, (networks, query, verdict) in zip(result.records, ROWS, strict=True):
        if verdict != "sat":
            continue
        inputs, outputs = (np.array(record["witness"][name]) for name in ("inputs", "outputs"))
        factors = [{"f": 2.0, "g": 3.0}[n] for n in (networks * 2)[:2]]
        expected = np.concatenate([factors[k] * np.maximum(inputs[2 * k : 2 * k + 2], 0) for k in (0, 1)])
        assert np.array_equal(outputs, expected.astype(np.float32))
        assert ExactProperty.parse(query).holds(inputs, outputs)


def test_the_report_and_the_competitions_columns_take_them(result: batch.BatchResult, tmp_path: Path) -> None:
    run = load_run(result.folder)
    text = page(run)
    assert text.count('<tr id="i') == len(ROWS)
    rows = list(csv.reader(competition_csv(run).splitlines()))
    assert [row[4] for row in rows[-len(ROWS) :]] == [verdict for *_, verdict in ROWS]


@pytest.mark.bench
def test_the_public_two_network_family_is_read(tmp_path: Path, bench_folder: Path) -> None:
    """Three instances, five seconds each: an answer or an honest `timed-out`, never an error."""
    folder = bench_folder / "vnncomp" / "isomorphic_acasxu_2026"
    head = (folder / "instances.csv").read_text().splitlines()[:3]
    rows = [next(csv.reader([line])) for line in head]
    path = tmp_path / "instances.csv"
    with path.open("w", newline="") as stream:
        for networks, query, _ in rows:
            csv.writer(stream).writerow((networks.replace("'onnx/", f"'{folder}/onnx/"), folder / query, 5))
    result = batch.run(path, tmp_path / "run", workers=1, device="cpu")
    assert {r["status"] for r in result.records} <= {"sat", "unsat", "timed-out"}
    assert all(len(r["model_sha256"]) == 2 for r in result.records)
