"""Input that cannot be verified: a message that names the place, the right exit code, and nothing on stdout."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest

SPEC = """(declare-const X_0 Real)
(declare-const X_1 Real)
(declare-const Y_0 Real)
(declare-const Y_1 Real)
(assert (>= X_0 -1.0))
(assert (<= X_0 1.0))
(assert (>= X_1 -1.0))
(assert (<= X_1 1.0))
(assert (>= Y_0 100.0))
"""


@pytest.fixture
def attempt(command, tmp_path):
    """Verify the given bytes and text; returns (exit code, stderr) after checking that stdout stayed empty."""

    def run(data: bytes, text: str = SPEC, *options: str) -> tuple[int, str]:
        (tmp_path / "net.onnx").write_bytes(data)
        (tmp_path / "spec.vnnlib").write_text(text)
        done = command("verify", tmp_path / "net.onnx", tmp_path / "spec.vnnlib", "--timeout", "30", *options)
        if done.exit_code:
            assert done.stdout == "" and "Traceback" not in done.stderr
        return done.exit_code, done.stderr

    return run


def test_the_unbroken_case_works(attempt, network):
    assert attempt(network())[0] == 0


def test_not_onnx(attempt):
    code, message = attempt(b"this is no network")
    assert code == 3 and "net.onnx" in message


def test_empty_file(attempt):
    assert attempt(b"")[0] == 3


def test_truncated(attempt, network):
    code, message = attempt(network()[:-20])
    assert code == 3 and "net.onnx" in message


def test_broken_gzip(command, network, tmp_path):
    (tmp_path / "net.onnx.gz").write_bytes(gzip.compress(network())[:-9])
    (tmp_path / "spec.vnnlib").write_text(SPEC)
    done = command("verify", tmp_path / "net.onnx.gz", tmp_path / "spec.vnnlib")
    assert (done.exit_code, done.stdout) == (3, "") and "net.onnx.gz" in done.stderr


def test_unsupported_operator(attempt, network):
    code, message = attempt(network("Hardmax"))
    assert code == 3 and "Hardmax" in message and "last" in message


def test_nan_weights(attempt, network):
    code, message = attempt(network(weight=float("nan")))
    assert code == 3 and "nan" in message.lower()


def test_float16(attempt, network):
    code, message = attempt(network(dtype=np.float16))
    assert code == 3 and "float16" in message.lower()


def test_wrong_number_of_inputs(attempt, network):
    text = "(declare-const X_2 Real)\n" + SPEC + "(assert (>= X_2 0.0))\n(assert (<= X_2 1.0))\n"
    code, message = attempt(network(), text)
    assert code == 3 and "2" in message and "3" in message


def test_syntax_error(attempt, network):
    code, message = attempt(network(), SPEC + "(assert (>= Y_0 1.0)\n")
    assert code == 3 and "spec.vnnlib" in message and "line" in message


def test_words_that_are_no_vnnlib(attempt, network):
    code, message = attempt(network(), SPEC + "(maximise Y_0)\n")
    assert code == 3 and "line 10" in message


def test_output_out_of_range(attempt, network):
    code, message = attempt(network(), SPEC + "(assert (<= Y_7 1.0))\n")
    assert code == 3 and "Y_7" in message


def test_missing_bound_of_an_input(attempt, network):
    code, message = attempt(network(), SPEC.replace("(assert (<= X_1 1.0))\n", ""))
    assert code == 3 and "X_1" in message


def test_time_limit_zero(attempt, network):
    assert attempt(network(), SPEC, "--timeout", "0")[0] == 2


def test_a_folder_for_the_result_file(command, network, tmp_path):
    (tmp_path / "net.onnx").write_bytes(network())
    (tmp_path / "spec.vnnlib").write_text(SPEC)
    done = command("verify", tmp_path / "net.onnx", tmp_path / "spec.vnnlib", "--result", tmp_path)
    assert (done.exit_code, done.stdout) == (1, "unsat\n")
    assert "cannot write the result file" in done.stderr


def test_an_empty_input_box_is_unsat_with_a_reason(command, network, tmp_path):
    (tmp_path / "net.onnx").write_bytes(network())
    (tmp_path / "spec.vnnlib").write_text(SPEC + "(assert (>= X_0 2.0))\n")
    done = command("verify", tmp_path / "net.onnx", tmp_path / "spec.vnnlib", "--json")
    assert done.exit_code == 0 and json.loads(done.stdout)["reason"] == "empty_region"


def test_inspect_names_what_is_missing(command, network, tmp_path):
    (tmp_path / "net.onnx").write_bytes(network("Hardmax"))
    done = command("inspect", tmp_path / "net.onnx")
    assert done.exit_code == 3 and "Hardmax" in done.stdout + done.stderr
