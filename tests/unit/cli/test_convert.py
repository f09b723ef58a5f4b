"""`verinet convert`: files in, files out, and what it says about them."""

from __future__ import annotations

import gzip

import pytest

from verinet.spec import parse_property, read_property

ONE = """(declare-const X_0 Real)
(declare-const X_1 Real)
(declare-const Y_0 Real)
(assert (<= X_0 1e-1))(assert (>= X_0 0))(assert (<= X_1 1))(assert (>= X_1 0))
(assert (>= Y_0 .5))
"""


@pytest.fixture
def one(tmp_path):
    (tmp_path / "one.vnnlib").write_text(ONE)
    return tmp_path / "one.vnnlib"


def test_there_and_back(command, one, tmp_path):
    assert command("convert", one, tmp_path / "two.vnnlib").exit_code == 0
    text = (tmp_path / "two.vnnlib").read_text()
    assert (
        "(declare-input X real [2])" in text and "(assert (<= X[0] 0.1))" in text and "(assert (>= Y[0] 0.5))" in text
    )
    assert command("convert", tmp_path / "two.vnnlib", tmp_path / "back.vnnlib").exit_code == 0
    first, last = read_property(one), read_property(tmp_path / "back.vnnlib")
    assert last.v2 is None and last.boxes[0].upper.tolist() == first.boxes[0].upper.tolist()
    assert last.clauses[0].rows.bounds.tolist() == first.clauses[0].rows.bounds.tolist()


def test_gzip_in_and_out_is_the_same_each_time(command, one, tmp_path):
    packed = tmp_path / "one.vnnlib.gz"
    packed.write_bytes(gzip.compress(ONE.encode()))
    for name in ("a.gz", "b.gz"):
        assert command("convert", packed, tmp_path / name, "--to", "1").exit_code == 0
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()
    assert read_property(tmp_path / "a.gz").boxes[0].upper.tolist() == [0.1, 1.0]


def test_stdout(command, one):
    done = command("convert", one, "-")
    assert done.stdout.startswith("(vnnlib-version <2.0>)\n") and parse_property(done.stdout).v2 is not None


def test_a_network_gives_shapes_and_types(command, root, tmp_path):
    spec = root / "vnnlib_specs" / "digits_relu_radius_0.02.vnnlib"
    done = command("convert", spec, tmp_path / "out.vnnlib", "--network", root / "models" / "digits_relu.onnx")
    assert done.exit_code == 0
    declared = read_property(tmp_path / "out.vnnlib").v2
    assert declared is not None and {v.dtype for v in declared.variables} == {"float32"}
    assert [v.role for v in declared.variables] == ["input", "output"] and len(declared.variables[0].shape) > 1


def test_what_other_tools_may_not_read_is_said(command, one, tmp_path):
    one.write_text(ONE + "(assert (< (* X_0 Y_0) X_1))")
    done = command("convert", one, tmp_path / "out.vnnlib", "--to", "1")
    assert done.exit_code == 0 and "products" in done.stderr and "strict" in done.stderr


@pytest.mark.parametrize(
    ("text", "options", "code_and_words"),
    [
        (ONE, ["--to", "3"], (2, "no VNN-LIB version 3")),
        (ONE + "(assert (<= Y_7 1))", [], (3, "line 6, column 13")),
        (
            '(vnnlib-version <2.0>)(declare-network f (declare-input X real [1]) (declare-hidden H real [1] "h")'
            "(declare-output Y real [1]))(assert (<= X[0] 1.0))",
            [],
            (3, "one network only"),
        ),
    ],
)
def test_what_cannot_be_converted(command, one, tmp_path, text, options, code_and_words):
    code, words = code_and_words
    one.write_text(text)
    done = command("convert", one, tmp_path / "out.vnnlib", *options)
    assert done.exit_code == code and words in done.stderr and not (tmp_path / "out.vnnlib").exists()
    assert command("convert", tmp_path / "none.vnnlib", "-").exit_code == 2
