"""Regions between two numbers, and what may count as a violation there."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import verinet
from verinet.spec.reader import parse_property

EMPTY = [
    "(assert (> X_0 0.5))(assert (<= X_0 0.5))",
    "(assert (>= X_0 0.5))(assert (< X_0 0.5))",
    "(assert (> X_0 0.1))(assert (< X_0 0.1))",
    "(assert (>= X_0 0.1))(assert (<= X_0 0.09999999999999999999999))",
    "(assert (>= X_0 0.1))(assert (<= X_0 1))(assert (<= X_0 0.09999999999999999999999))",
    "(assert (or (and (> X_0 1) (<= X_0 1)) (and (>= X_0 2) (< X_0 2))))",
]
TINY = [
    "(assert (>= X_0 0.1))(assert (<= X_0 0.1))",
    "(assert (>= X_0 0.1))(assert (<= X_0 0.1000000000000000000001))",
    "(assert (> X_0 0.1))(assert (< X_0 0.1000000000000000000001))",
    "(assert (> X_0 0.1))(assert (<= X_0 0.1000000000000000000001))",
    "(assert (or (and (> X_0 1) (<= X_0 1)) (and (>= X_0 0.1) (<= X_0 0.1))))",
]


def saved(path: Path, factor: float) -> Path:
    """y = factor * x in float32."""
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 1]) for n in "XY")
    weight = numpy_helper.from_array(np.array([[factor]], np.float32), "A")
    graph = helper.make_graph([helper.make_node("Mul", ["X", "A"], ["Y"])], "g", [x], [y], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.save(model, str(path))
    return path


def asked(folder: Path, region: str, violation: str, factor: float = 1.0) -> verinet.Verdict:
    spec = folder / "p.vnnlib"
    spec.write_text(f"(declare-const X_0 Real)(declare-const Y_0 Real){region}(assert {violation})")
    return verinet.verify(saved(folder / "m.onnx", factor), spec, timeout=2.0)


@pytest.mark.parametrize("region", EMPTY)
def test_a_region_without_a_real_number_holds_no_violation(tmp_path: Path, region: str) -> None:
    assert asked(tmp_path, region, "(>= Y_0 -5)").status is verinet.Status.UNSAT


@pytest.mark.parametrize("region", TINY)
def test_a_region_between_two_floats_holds_real_numbers(tmp_path: Path, region: str) -> None:
    text = f"(declare-const X_0 Real)(declare-const Y_0 Real){region}(assert (>= Y_0 -5))"
    assert len(parse_property(text).boxes) == 1
    assert asked(tmp_path, region, "(>= Y_0 -5)").status is verinet.Status.SAT
    assert asked(tmp_path, region, "(>= Y_0 5)").status is verinet.Status.UNSAT


def test_what_onnxruntime_rounds_onto_a_strict_threshold_is_no_witness(tmp_path: Path) -> None:
    """x (1 - 2^-23) at x = (1 + 2^-23) / 2 is below 1/2 in real numbers, and 1/2 in float32."""
    x = float(np.float32(0.5) * (np.float32(1) + np.float32(2**-23)))
    number = format(Decimal(x), "f")
    for upper in (number, "0.7"):
        region = f"(assert (>= X_0 {number}))(assert (<= X_0 {upper}))"
        found = asked(tmp_path, region, "(< Y_0 0.5)", 1 - 2.0**-23)
        assert found.status is not verinet.Status.UNSAT  # real arithmetic has a violation
        if found.status is verinet.Status.SAT:  # then the witness has to show it
            assert found.witness is not None and found.witness.outputs[0] < 0.5


@pytest.mark.parametrize("violation", ["(<= Y_0 0.05)", "(>= Y_0 0.2)", "(< Y_0 0.1)", "(> Y_0 0.1)"])
def test_at_a_point_between_two_floats_nothing_false_is_said(tmp_path: Path, violation: str) -> None:
    """At exactly one tenth, y is one tenth: none of these hold."""
    region = "(assert (>= X_0 0.1))(assert (<= X_0 0.1))"
    assert asked(tmp_path, region, violation).status is not verinet.Status.SAT
