"""Time limits and Ctrl-C, in real processes."""

from __future__ import annotations

import json
import signal
import time

import pytest

from verinet.cli.clock import process_start
from verinet.cli.watchdog import Limits

SLEEPS = "progress(Progress(0.2, 'branching', 3, 4, -0.5, 0.5)); time.sleep(30)"
POLLS = """
while not stop():
    time.sleep(0.01)
return Verdict(Status.UNKNOWN, Reason.INTERRUPTED, gap=0.5)
"""


@pytest.mark.parametrize("timeout", [0.01, 0.5, 1.0, 20.0, 300.0, 1e9])
def test_the_answer_is_due_before_the_limit(timeout):
    limits = Limits.of(100.0, timeout)
    assert 100.0 < limits.search < limits.hard < 100.0 + timeout
    assert limits.search >= 100.0 + 0.69 * timeout


def test_a_search_that_does_not_stop_is_answered_for(launch, files, tmp_path):
    begin = time.monotonic()
    process = launch(SLEEPS, "verify", *files, "--timeout", "2", "--result", str(tmp_path / "out.txt"))
    out, err = process.communicate(timeout=20)
    assert time.monotonic() - begin < 2.0
    assert (process.returncode, out) == (0, "timed-out\n")
    assert (tmp_path / "out.txt").read_text() == "timeout\n"
    assert "gap: 0.5" in err


def test_the_watchdog_speaks_json_too(launch, files):
    out, _ = launch(SLEEPS, "verify", *files, "--timeout", "1.5", "--json").communicate(timeout=20)
    assert json.loads(out)["verdict"] == "timed-out"


def test_a_normal_answer_ends_the_process_with_its_code(launch, files):
    process = launch("return Verdict(Status.UNSAT, Reason.PROVED)", "verify", *files)
    out, _ = process.communicate(timeout=20)
    assert (process.returncode, out) == (0, "unsat\n")


def test_ctrl_c_once_prints_the_best_bound(launch, files):
    process = launch(POLLS, "verify", *files)
    time.sleep(1.0)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (130, "unknown\n")
    assert "gap: 0.5" in err


def test_ctrl_c_twice_aborts(launch, files):
    process = launch("time.sleep(30)", "verify", *files)
    for _ in range(2):
        time.sleep(1.0)
        process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=20)
    assert (process.returncode, out) == (130, "")


def test_the_process_began_in_the_past():
    assert process_start() <= time.monotonic()
