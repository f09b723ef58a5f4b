"""Real worker processes with scripted answers: limits from outside, deaths, and `kill -9` in the middle."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from verinet.batch.store import read_log
from verinet.errors import UsageError

pytestmark = pytest.mark.timeout(60)

HERE = Path(__file__).parent
DRIVER = """
import sys
sys.path.insert(0, sys.argv[3])
from conftest import fake_local
from verinet import batch
batch.run(sys.argv[1], sys.argv[2], workers=2, executor=fake_local)
"""


def test_answers_come_back_with_everything_a_record_needs(scripted, run_scripted, tmp_path):
    result = run_scripted(scripted("unsat", "sat", "unknown", "fail no such operator"), workers=2)
    assert result.counts == {"unsat": 1, "sat": 1, "unknown": 1, "error": 1} and result.complete
    assert [r["number"] for r in result.records] == [1, 2, 3, 4]
    stored = {r["number"]: r for r in read_log(tmp_path / "run" / "results.jsonl")}
    assert stored[4]["error"]["message"] == "no such operator" and stored[4]["attempts"] == 1
    assert all(r["rss_mb"] > 1 and r["finished"] >= r["started"] for r in stored.values())


def test_deaths_are_told_apart(scripted, run_scripted, tmp_path):
    once = tmp_path / "once"
    result = run_scripted(scripted("signal 11", "exit 3", f"once {once}", "stderr something broke", "unsat"), workers=2)
    by_number = {r["number"]: r for r in result.records}
    causes = {n: (r["status"], r["reason"], r["attempts"]) for n, r in by_number.items()}
    assert causes == {
        1: ("error", "signal", 2),
        2: ("error", "exit", 2),
        3: ("unsat", "scripted", 2),
        4: ("error", "signal", 2),
        5: ("unsat", "scripted", 1),
    }
    assert "11 (SIGSEGV)" in by_number[1]["error"]["message"]
    assert "exit code 3" in by_number[2]["error"]["message"]
    assert by_number[4]["error"]["stderr"] == ["something broke"]
    assert by_number[1]["gap"] == 2.5  # the last that was heard of it


def test_a_worker_deaf_to_its_limit_is_killed(scripted, run_scripted):
    begin = time.monotonic()
    result = run_scripted(scripted(("sleep 60", 0.3, "net.onnx"), "unsat"))
    assert time.monotonic() - begin < 15
    first, second = result.records
    assert (first["status"], first["reason"], first["attempts"]) == ("timed-out", "killed_at_the_limit", 1)
    assert 2.0 < first["seconds"] < 10 and second["status"] == "unsat"


def test_a_worker_above_its_memory_is_killed_and_the_cause_recorded(scripted, run_scripted):
    result = run_scripted(scripted("hog 400", "unsat"), memory=0.2)
    first, second = result.records
    # Either the allocation failed inside, or the parent saw too much memory held.
    assert first["status"] == "error" and first["attempts"] == 2
    assert first["reason"] == "out_of_memory" or "MemoryError" in " ".join(first["error"]["stderr"])
    assert second["status"] == "unsat"


def test_memory_is_also_watched_from_outside(scripted, run_scripted, monkeypatch):
    from verinet.batch import executor

    sizes: list[int] = []  # what is held since a task was given
    submit = executor.LocalExecutor.submit

    def submit_and_grow(self, slot, task):
        submit(self, slot, task)
        sizes.append(2**40)

    monkeypatch.setattr(executor.LocalExecutor, "submit", submit_and_grow)
    monkeypatch.setattr(executor, "resident", lambda pid: sizes.pop() if sizes else 0)
    result = run_scripted(scripted("nap 30"), memory=1.0)
    (record,) = result.records
    assert (record["status"], record["reason"]) == ("error", "out_of_memory")
    assert "more than 1 GB" in record["error"]["message"]


def test_resuming_runs_only_what_is_missing(scripted, run_scripted, tmp_path):
    instances = scripted(*["unsat"] * 6)
    run_scripted(instances)
    log = tmp_path / "run" / "results.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join(lines[:3]) + lines[3][:40])
    result = run_scripted(instances)
    assert (result.resumed, len(result.records), result.complete) == (3, 6, True)
    assert log.read_text().splitlines(keepends=True)[:3] == lines[:3]


def test_a_finished_run_starts_no_worker(scripted, run_scripted):
    instances = scripted("unsat")
    run_scripted(instances)
    result = run_scripted(instances, executor=lambda *_: pytest.fail("nothing is left to do"))
    assert result.complete and result.resumed == 1


def test_a_changed_list_or_setting_is_refused(scripted, run_scripted):
    run_scripted(scripted("unsat", "unsat"))
    with pytest.raises(UsageError, match="instances was"):
        run_scripted(scripted("unsat"))
    with pytest.raises(UsageError, match="seed was 0, now 4"):
        run_scripted(scripted("unsat", "unsat"), seed=4)
    assert run_scripted(scripted("unsat", "unsat"), seed=4, fresh=True).resumed == 0


def test_shards_together_are_the_whole(scripted, run_scripted, tmp_path):
    instances = scripted(*["unsat"] * 5)
    parts = [run_scripted(instances, shard=f"{i}/2") for i in (1, 2)]
    assert [[r["number"] for r in part.records] for part in parts] == [[1, 3, 5], [2, 4]]


def test_a_stop_request_ends_the_run_soon_and_loses_nothing(scripted, run_scripted):
    instances = scripted("unsat", ("nap 30", 40, "net.onnx"))
    begin = time.monotonic()
    result = run_scripted(instances, stop=lambda: time.monotonic() - begin > 1.5)
    assert result.interrupted and not result.complete and time.monotonic() - begin < 8
    assert [r["number"] for r in result.records] == [1]


def start(instances: Path, out: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", DRIVER, str(instances), str(out), str(HERE)], stderr=subprocess.PIPE)


def lines_in(log: Path) -> int:
    return log.read_bytes().count(b"\n") if log.exists() else 0


def wait_for(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def children(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(word) for word in path.read_text().split()] if path.exists() else []


def kill_in_the_middle(process: subprocess.Popen[bytes], log: Path, *, worker_too: bool) -> None:
    """`kill -9` after some more results; with `worker_too`, a worker first, which the parent has to replace."""

    def more(count: int) -> None:
        wait_for(lambda: lines_in(log) >= before + count or process.poll() is not None)

    before = lines_in(log)
    more(8)
    if worker_too:
        os.kill(children(process.pid)[0], signal.SIGKILL)
        more(14)
    workers = children(process.pid)
    process.kill()
    process.communicate()
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))


def test_kill_9_of_parent_and_workers_loses_and_doubles_nothing(scripted, run_scripted, tmp_path):
    count = 60
    instances = scripted(*[f"sleep {0.02 + 0.01 * (n % 3)}" for n in range(count)])
    out, log = tmp_path / "run", tmp_path / "run" / "results.jsonl"
    for round_number in range(3):
        kill_in_the_middle(start(instances, out), log, worker_too=round_number == 1)
    kept = log.read_bytes()
    assert 0 < lines_in(log) < count, "the kills came too late to show anything"
    result = run_scripted(instances, workers=2)
    assert result.complete and log.read_bytes().startswith(kept[: kept.rindex(b"\n") + 1])
    numbers = Counter(json.loads(line)["number"] for line in log.read_text().splitlines())
    assert numbers == Counter(range(1, count + 1))
    undisturbed = run_scripted(instances, workers=2, out=tmp_path / "undisturbed")
    table = [{(r["number"], r["model"], r["property"], r["status"]) for r in x.records} for x in (result, undisturbed)]
    assert table[0] == table[1]


def test_a_second_run_in_the_same_folder_is_refused(scripted, run_scripted, tmp_path):
    instances = scripted("nap 20")
    process = start(instances, tmp_path / "run")
    try:
        wait_for(lambda: children(process.pid))
        with pytest.raises(UsageError, match="already running"):
            run_scripted(instances)
    finally:
        process.kill()
        process.communicate()
