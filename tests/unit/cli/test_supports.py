"""`verinet supports` answers as the standard's chapter 5 wants it."""

from __future__ import annotations

import re

import pytest

MANDATORY = {
    "--hidden-node-theories": {"NH", "H"},
    "--multiple-input-output-theories": {"SIO", "MIO"},
    "--multiple-network-theories": {"SNET", "MENET", "MINET", "MNET"},
    "--multiple-node-comparison-theories": {"SNC", "MNC"},
    "--arithmetic-complexity-theories": {"BND", "OUTC", "LIN", "POLY"},
    "--optimised-disjunctive-reasoning": {"true"},
    "--serialise-assignments": {"true"},
}


@pytest.mark.parametrize("capability", MANDATORY)
def test_theories_and_options(command, capability):
    done = command("supports", capability)
    assert done.exit_code == 0 and done.stderr == ""
    assert set(done.stdout.split()) == MANDATORY[capability]


def test_versions_are_a_range(command):
    assert command("supports", "--vnnlib-versions").stdout == "1.0\n2.0\n"
    least, most = command("supports", "--onnx-opset-versions").stdout.splitlines()
    assert re.fullmatch(r"[0-9]+", least) and int(least) < int(most)


def test_types_say_what_a_proof_is_about(command):
    lines = command("supports", "--onnx-element-types").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["real", "float32", "float64"]
    assert all("real numbers" in line for line in lines[1:])


def test_operators_are_the_ones_that_are_read(command):
    names = command("supports", "--onnx-operators").stdout.split()
    assert names == sorted(set(names)) and {"Relu", "Conv", "Gemm", "Sigmoid", "Constant", "Shape"} <= set(names)
    from verinet.frontends.call import HANDLERS

    assert set(HANDLERS) <= set(names)


def test_several_at_once_and_other_spellings(command):
    done = command("supports", "--hidden-nodes", "--multiple-inputs-outputs-theories", "--assignments")
    assert done.stdout.split() == ["NH", "H", "SIO", "MIO", "true"]


@pytest.mark.parametrize("arguments", [[], ["--onnx-everything"], ["onnx-operators"]])
def test_unknown_capabilities_are_usage_errors(command, arguments):
    done = command("supports", *arguments)
    assert (done.exit_code, done.stdout) == (2, "") and "--onnx-operators" in done.stderr
