"""`verinet jacobian` writes a file that the other commands read."""

from __future__ import annotations

from pathlib import Path

import pytest

from verinet.cli.jacobian import listed
from verinet.errors import UsageError

MODELS = Path(__file__).resolve().parents[3] / "models"


def test_the_file_is_a_network_and_its_outputs_are_named(command, tmp_path):
    out = tmp_path / "d.onnx"
    done = command("jacobian", MODELS / "opf_3bus.onnx", "--outputs", "2", "--inputs", "0,2", "--out", out)
    assert (done.exit_code, done.stdout) == (0, ""), done.stderr
    assert done.stderr == "Y_0 is d Y_2 / d X_0, Y_1 is d Y_2 / d X_2\n"
    assert out.read_bytes() == (MODELS / "opf_3bus_jacobian.onnx").read_bytes()
    assert command("inspect", out, "--json").exit_code == 0


def test_many_entries_values_and_notes(command, tmp_path):
    done = command("jacobian", MODELS / "digits_gelu.onnx", "--out", tmp_path / "d.onnx", "--values")
    lines = done.stderr.splitlines()
    assert lines[0] == "Y_0 is d Y_0 / d X_0, Y_1 is d Y_0 / d X_1, ... Y_639 is d Y_9 / d X_63"
    assert lines[1] == "then, from Y_640 on, the network's own outputs"
    assert len(lines) == 4 and all("rounded to float32" in line for line in lines[2:])


def test_what_cannot_be_differentiated_is_exit_code_3(command, tmp_path):
    done = command("jacobian", MODELS / "digits_sign.onnx", "--out", tmp_path / "d.onnx")
    assert done.exit_code == 3 and "cannot differentiate the ONNX operator 'Sign'" in done.stderr
    assert not (tmp_path / "d.onnx").exists()


def test_wrong_calls(command, tmp_path):
    model = MODELS / "double_integrator.onnx"
    assert command("jacobian", model, "--out", tmp_path / "no" / "d.onnx").exit_code == 2
    assert command("jacobian", tmp_path / "missing.onnx", "--out", tmp_path / "d.onnx").exit_code == 2
    assert command("jacobian", model, "--inputs", "2", "--out", tmp_path / "d.onnx").exit_code == 2
    assert command("jacobian", model, "--inputs", "a", "--out", tmp_path / "d.onnx").exit_code == 2


def test_lists():
    assert listed("", "--inputs") is None and listed("0,3-5", "--inputs") == [0, 3, 4, 5]
    for text in ("1,,2", "1-", "-1", "x"):
        with pytest.raises(UsageError, match="--inputs"):
            listed(text, "--inputs")
