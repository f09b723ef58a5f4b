"""Only what ONNX Runtime shows on the original file counts, and only with no tolerance."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from verinet.frontends.model import Model
from verinet.ir.graph import Graph, InputOp, Node
from verinet.spec.property import Box, Clause, Property, Rows
from verinet.witness.replay import Outcome, Replayer, margin, replay, slack


@pytest.fixture
def model() -> Model:
    """y = relu(x W) with W = [[1, -1], [-1, 1]]: the positive and the negative part of x0 - x1."""
    weights = numpy_helper.from_array(np.array([[1, -1], [-1, 1]], dtype=np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["z"]), helper.make_node("Relu", ["z"], ["y"])],
        "difference",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2])],
        [weights],
    )
    proto: onnx.ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return Model(
        graph=Graph((Node(InputOp(2), (), (2,), "input"),)),
        input_names=("x",),
        input_shapes=((1, 2),),
        input_dtypes=(np.dtype(np.float32),),
        output_names=("y",),
        output_shapes=((1, 2),),
        output_dtypes=(np.dtype(np.float32),),
        sha256="",
        raw=proto.SerializeToString(),
        path=None,
        opset=13,
    )


def rows(*entries: tuple[dict[int, float], float], strict: bool = False) -> Rows:
    """Each entry: ({output: weight}, bound)."""
    starts = np.cumsum([0, *(len(weights) for weights, _ in entries)])
    columns = np.array([k for weights, _ in entries for k in weights], dtype=np.int64)
    values = np.array([v for weights, _ in entries for v in weights.values()], dtype=np.float64)
    bounds = np.array([b for _, b in entries], dtype=np.float64)
    return Rows(starts, columns, values, bounds, np.full(len(entries), strict))


def at_least(threshold: float, lower: float = -1.0, upper: float = 1.0, *, strict: bool = False) -> Property:
    """Y_0 >= threshold for both inputs in [lower, upper]."""
    low, high = np.full(2, lower), np.full(2, upper)
    claim = rows(({0: -1.0}, -threshold), strict=strict)
    return Property((Box(low, high, low, high),), (Clause(0, claim),), 2, 2)


def test_a_violation_is_confirmed_with_its_outputs(model):
    result = replay(model, None, at_least(1.5), np.array([1.0, -0.75]))
    assert result.outcome is Outcome.CONFIRMED and result.confirmed
    assert result.witness.outputs.tolist() == [1.75, 0.0] and result.witness.margin == 0.25


def test_points_outside_are_pulled_into_the_box_first(model):
    result = replay(model, None, at_least(1.5), np.array([7.0, -7.0]))
    assert result.confirmed and result.witness.inputs.tolist() == [1.0, -1.0]


def test_no_violation_is_refuted(model):
    assert replay(model, None, at_least(1.5), np.array([0.0, 0.0])).outcome is Outcome.REFUTED


def test_equality_counts_unless_the_claim_is_strict(model):
    assert replay(model, None, at_least(2.0), np.array([1.0, -1.0])).confirmed
    assert replay(model, None, at_least(2.0, strict=True), np.array([1.0, -1.0])).outcome is not Outcome.CONFIRMED


def test_a_hair_below_the_threshold_is_not_confirmed(model):
    threshold = float(np.nextafter(2.0, 3.0))
    assert replay(model, None, at_least(threshold), np.array([1.0, -1.0])).outcome is Outcome.REFUTED


def test_a_box_without_a_float32_is_never_confirmed(model):
    result = replay(model, None, at_least(0.0, 0.1, 0.1), np.array([0.1, 0.1]))
    assert result.outcome is Outcome.ONLY_WITHIN_TOLERANCE and "no number" in result.detail


def test_the_clause_chooses_the_box(model):
    low, high = np.zeros(2), np.ones(2)
    boxes = (Box(low, high, low, high), Box(low + 5, high + 5, low + 5, high + 5))
    claim = rows(({0: -1.0}, -0.5))
    prop = Property(boxes, (Clause(0, claim), Clause(1, claim)), 2, 2)
    replayer = Replayer(model, None, prop)
    assert replayer(np.array([5.9, 5.1])).witness.inputs.min() > 5
    assert replayer(np.array([5.9, 5.1]), clause=0).witness.inputs.max() <= 1


def test_disagreeing_runs_are_not_a_violation(model, monkeypatch):
    outputs = iter([np.array([1.0, 0.0]), np.array([2.0, 0.0])])
    monkeypatch.setattr("verinet.frontends.crosscheck.run_session", lambda *_: next(outputs))
    result = replay(model, None, at_least(1.5), np.array([1.0, -1.0]))
    assert result.outcome is Outcome.ONLY_WITHIN_TOLERANCE and "optimisations on" in result.detail


def test_outputs_that_are_not_finite_are_never_confirmed(model, monkeypatch):
    monkeypatch.setattr("verinet.frontends.crosscheck.run_session", lambda *_: np.array([np.inf, np.nan]))
    assert not replay(model, None, at_least(1.5), np.array([1.0, -1.0])).confirmed


def test_the_original_formula_decides_when_there_is_a_file(model, tmp_path: Path):
    declared = "".join(f"(declare-const {name} Real)\n" for name in ("X_0", "X_1", "Y_0", "Y_1"))
    region = "".join(f"(assert (>= X_{i} -1.0))\n(assert (<= X_{i} 1.0))\n" for i in (0, 1))
    (tmp_path / "spec.vnnlib").write_text(f"{declared}{region}(assert (>= Y_0 1.9))\n")
    corner = np.array([1.0, -1.0])
    assert replay(model, tmp_path / "spec.vnnlib", at_least(1.9), corner).confirmed
    assert not replay(model, tmp_path / "spec.vnnlib", at_least(0.0), np.array([0.5, 0.0])).confirmed


def test_margin_is_the_best_clauses_worst_row():
    y = np.array([1.0, 3.0])
    worst = rows(({0: 1.0}, 2.0), ({0: 1.0, 1: -1.0}, 0.0), ({}, 5.0))
    assert slack(worst, y) == 1.0 and slack(rows(), y) == np.inf
    prop = at_least(0.5)
    assert margin(prop, np.zeros(2), y) == 0.5 and margin(prop, np.full(2, 9.0), y) == -np.inf
