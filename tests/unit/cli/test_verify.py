"""The command's contract: words, files, streams, exit codes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from verinet.errors import ModelError, UnsupportedOperatorError, VnnlibSyntaxError
from verinet.results import Reason, Stats, Status, Verdict
from verinet.witness.formats import parse_version_1


def test_the_first_line_is_the_verdict_and_the_rest_goes_to_stderr(command, engine, files):
    done = command("verify", *files)
    assert (done.exit_code, done.stdout) == (0, "unsat\n")
    assert "proved" in done.stderr


def test_the_two_files_may_come_in_either_order(command, engine, files):
    command("verify", *files)
    command("verify", *reversed(files))
    assert [call[:2] for call in engine.calls] == [files, files]


def test_the_standards_form_names_the_network(command, engine, files):
    model, spec = files
    assert command("verify", spec, "--network", f"f={model}").exit_code == 0
    assert engine.calls[0][:2] == files


def test_files_without_suffix_are_told_apart_by_their_content(command, engine, tmp_path):
    (tmp_path / "a").write_text("  ; comment\n(assert true)")
    (tmp_path / "b").write_bytes(b"\x08\x07\x12")
    command("verify", tmp_path / "a", tmp_path / "b")
    assert engine.calls[0][:2] == (str(tmp_path / "b"), str(tmp_path / "a"))


@pytest.mark.parametrize("status", list(Status))
def test_every_verdict_has_exit_code_0(command, engine, files, status):
    engine.verdict = Verdict(status, Reason.STALLED)
    done = command("verify", *files)
    assert (done.exit_code, done.stdout) == (0, f"{status.value}\n")


def test_an_interrupted_search_exits_130_with_its_bound(command, engine, files):
    engine.verdict = Verdict(Status.UNKNOWN, Reason.INTERRUPTED, gap=0.125, stats=Stats(1.0, 8, 5, 3))
    done = command("verify", *files)
    assert (done.exit_code, done.stdout) == (130, "unknown\n")
    assert "gap: 0.125" in done.stderr and "closed 5, open 3" in done.stderr


def test_json_is_one_object_on_stdout(command, engine, files, sat):
    engine.verdict = Verdict(Status.SAT, Reason.REPLAYED, sat.witness, gap=float("inf"))
    record = json.loads(command("verify", *files, "--json").stdout)
    assert record["verdict"] == "sat" and record["gap"] == "inf"
    assert record["witness"]["inputs"] == sat.witness.inputs.tolist()


def test_the_result_file_holds_the_witness_exactly(command, engine, files, sat, tmp_path):
    engine.verdict = sat
    command("verify", *files, "--result", tmp_path / "out.txt")
    word, _, pairs = (tmp_path / "out.txt").read_text().partition("\n")
    inputs, outputs = parse_version_1(pairs)
    assert word == "sat" and pairs.startswith("((X_0 ")
    assert inputs.tobytes() == sat.witness.inputs.tobytes() and outputs.tobytes() == sat.witness.outputs.tobytes()


@pytest.mark.parametrize(("status", "word"), [(Status.TIMED_OUT, "timeout"), (Status.UNKNOWN, "unknown")])
def test_the_result_file_uses_the_competitions_words(command, engine, files, tmp_path, status, word):
    engine.verdict = Verdict(status, Reason.OUT_OF_TIME)
    command("verify", *files, "--result", tmp_path / "out.txt")
    assert (tmp_path / "out.txt").read_text() == f"{word}\n"


def test_a_result_file_that_cannot_be_written_costs_the_exit_code_only(command, engine, files, tmp_path):
    for target in (tmp_path, tmp_path / "missing" / "out.txt"):
        done = command("verify", *files, "--result", target)
        assert (done.exit_code, done.stdout) == (1, "unsat\n")
        assert "cannot write the result file" in done.stderr


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="permissions do not bind this user")
def test_no_permission_for_the_result_file(command, engine, files, tmp_path):
    tmp_path.chmod(0o500)
    assert command("verify", *files, "--result", tmp_path / "out.txt").exit_code == 1


@pytest.mark.parametrize("limit", ["0", "-3", "nan", "inf", "soon"])
def test_an_impossible_time_limit_is_a_usage_error(command, engine, files, limit):
    done = command("verify", *files, f"--timeout={limit}")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "time limit" in done.stderr


def test_quiet_says_nothing_but_the_verdict(command, engine, files):
    done = command("verify", *files, "-q")
    assert (done.stdout, done.stderr) == ("unsat\n", "")


def test_options_reach_the_engine(command, engine, files):
    command("verify", *files, "--timeout", "116.0", "--device", "cpu", "--seed", "5")
    options = engine.calls[0][2]
    assert (options["device"], options["seed"], options["stop"]()) == ("cpu", 5, False)
    assert 114 <= options["timeout"] < 116


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (ModelError("the file is truncated", where="net.onnx"), 3, "truncated"),
        (UnsupportedOperatorError("NonZero", "mask", "net.onnx"), 3, "verinet inspect"),
        (VnnlibSyntaxError("expected )", file="s.vnnlib", line=3, column=9), 3, "line 3, column 9"),
        (RuntimeError("boom"), 1, "RuntimeError: boom"),
    ],
)
def test_errors_are_one_message_on_stderr(command, engine, files, error, code, words):
    engine.error = error
    done = command("verify", *files)
    assert (done.exit_code, done.stdout) == (code, "")
    assert words in done.stderr and "Traceback" not in done.stderr
    assert "Traceback" in command("verify", *files, "-v").stderr


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8e12 bytes")],
)
def test_running_out_of_memory_is_an_unknown(command, engine, files, error):
    engine.error = error
    done = command("verify", *files)
    assert (done.exit_code, done.stdout) == (0, "unknown\n") and "out_of_memory" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["{model}"],
        ["{model}", "{model}"],
        ["{model}", "missing.vnnlib"],
        ["{spec}", "--network", "{model}"],
        ["{model}", "{spec}", "--device", "tpu"],
        ["{model}", "{spec}", "--network", "f={model}"],
        ["{model}", "."],
    ],
)
def test_wrong_calls_exit_2(command, engine, files, arguments):
    filled = [a.format(model=files[0], spec=files[1]) for a in arguments]
    done = command("verify", *filled)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr and not engine.calls


def test_networks_are_handed_over_by_name(command, engine, files, tmp_path):
    other = tmp_path / "other.onnx"
    other.write_bytes(b"\x08")
    done = command("verify", files[1], "--network", f"f={files[0]}", "--network", f"g={other}")
    assert done.exit_code == 0 and engine.calls[0][:2] == ({"f": files[0], "g": str(other)}, files[1])


def test_version_2_queries_get_version_2_assignments(command, engine, files, sat, tmp_path):
    Path(files[1]).write_text(
        "(vnnlib-version <2.0>)\n(declare-network f\n (declare-input X float32 [1,3])\n"
        " (declare-output Y float32 [2]))\n(assert (>= X[0,0] 0.0))\n"
    )
    engine.verdict = sat
    command("verify", *files, "--result", tmp_path / "out.txt")
    lines = (tmp_path / "out.txt").read_text().splitlines()
    assert lines[:2] == ["sat", "X float32 [1,3]"] and lines[5] == "Y float32 [2]" and len(lines) == 8
    assert "e" not in "".join(lines[2:5] + lines[6:])
