"""Counterexample texts read back as the numbers that went in."""

from __future__ import annotations

import gzip

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import numpy_helper

from verinet.errors import PropertyError
from verinet.results import Witness
from verinet.witness.formats import (
    assignment,
    declared_variables,
    is_version_2,
    parse_version_1,
    serialise,
    version_1,
    version_2,
)

FINITE = st.floats(allow_nan=False, allow_infinity=False)
VECTORS = hnp.arrays(np.float64, st.integers(1, 12), elements=FINITE)
QUERY = """(vnnlib-version <2.0>)  ; a comment (declare-input Z float32 [9])
(declare-network f
    (declare-input X float32 [1, 2])
    (declare-input S float64 [])
    (declare-output Y float32 [2]))
"""


@given(VECTORS, VECTORS)
def test_version_1_round_trip_is_exact(inputs, outputs):
    again = parse_version_1("sat\n" + version_1(Witness(inputs, outputs, 0.0)))
    assert again[0].tobytes() == inputs.tobytes() and again[1].tobytes() == outputs.tobytes()


@given(hnp.arrays(np.float64, 3, elements=FINITE), hnp.arrays(np.float64, 2, elements=FINITE))
def test_version_2_values_are_exact_and_without_exponent(inputs, outputs):
    lines = version_2(Witness(inputs, outputs, 0.0), declared_variables(QUERY)).splitlines()
    assert [lines[i] for i in (0, 3, 5)] == ["X float32 [1,2]", "S float64 []", "Y float32 [2]"]
    numbers = [lines[i] for i in (1, 2, 4, 6, 7)]
    assert not any("e" in number for number in numbers)
    assert np.array([float(n) for n in numbers]).tobytes() == np.concatenate([inputs, outputs]).tobytes()


@pytest.mark.parametrize(("inputs", "outputs"), [(2, 2), (4, 2), (3, 1), (3, 3)])
def test_version_2_refuses_a_witness_of_another_size(inputs, outputs):
    with pytest.raises(PropertyError):
        version_2(Witness(np.zeros(inputs), np.zeros(outputs), 0.0), declared_variables(QUERY))


TWO = """(vnnlib-version <2.0>)
(declare-network f (declare-input A float32 [1]) (declare-hidden H real [2] "h") (declare-output Y float32 []))
(declare-network g (equal-to f) (declare-input B int64 [1]) (declare-output Z float32 [1]))
"""


def test_several_networks_are_written_in_order_of_declaration(tmp_path):
    witness = Witness(np.array([0.5, 3.0]), np.array([1.0, -2.0, 0.25, 1e-9]), 0.0)
    text = version_2(witness, declared_variables(TWO))
    assert text.split("\n") == [
        *("A float32 [1]", "0.5", "H real [2]", "1.0", "-2.0", "Y float32 []", "0.25"),
        *("B int64 [1]", "3", "Z float32 [1]", "0.000000001", ""),
    ]


def test_assignments_are_stored_as_tensors(tmp_path):
    (tmp_path / "q.vnnlib").write_text(TWO)
    witness = Witness(np.array([0.5, 3.0]), np.array([1.0, -2.0, 0.25, 1e-9]), 0.0)
    written = serialise(witness, tmp_path / "q.vnnlib", tmp_path / "new" / "folder")
    tensors = [onnx.load_tensor(str(path)) for path in written]
    assert [t.name for t in tensors] == ["A", "H", "Y", "B", "Z"]
    arrays = [numpy_helper.to_array(t) for t in tensors]
    assert [(str(a.dtype), a.shape) for a in arrays] == [
        *(("float32", (1,)), ("float64", (2,)), ("float32", ()), ("int64", (1,)), ("float32", (1,)))
    ]
    assert np.concatenate([a.ravel() for a in arrays]).tolist() == [0.5, 1.0, -2.0, 0.25, 3.0, float(np.float32(1e-9))]
    (tmp_path / "p.vnnlib").write_text("(declare-const X_0 Real)\n")
    assert [path.name for path in serialise(witness, tmp_path / "p.vnnlib", tmp_path)] == ["X.pb", "Y.pb"]


@pytest.mark.parametrize("text", ["((X_0 1.0) (X_2 1.0))", "((X_0 1.0) (X_0 2.0))", "((X_0 one))"])
def test_broken_assignments(text):
    with pytest.raises(PropertyError):
        parse_version_1(text)


def test_the_version_is_told_by_the_text():
    assert is_version_2(QUERY) and is_version_2("(vnnlib-version 2.0)")
    assert not is_version_2("; (vnnlib-version <2.0>)\n(declare-const X_0 Real)")


def test_the_form_follows_the_property_file(tmp_path):
    witness = Witness(np.zeros(3), np.zeros(2), 0.0)
    with gzip.open(tmp_path / "q.vnnlib.gz", "wt") as handle:
        handle.write(QUERY)
    (tmp_path / "p.vnnlib").write_text("(declare-const X_0 Real)\n")
    assert assignment(witness, tmp_path / "q.vnnlib.gz").startswith("X float32 [1,2]\n0.0\n")
    assert assignment(witness, tmp_path / "p.vnnlib").startswith("((X_0 0.0)\n")
