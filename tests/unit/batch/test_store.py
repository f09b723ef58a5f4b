"""The log: nothing lost, nothing doubled, whatever the end of the file looks like."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys

import pytest

from verinet.batch.index import open_index
from verinet.batch.instances import Shard
from verinet.batch.store import FORMAT, Paths, Store, finite, logs_of, read_log, write_whole
from verinet.errors import UsageError

FIXED = {"timeout": 3.0, "seed": 0}


def record(number: int, **more):
    return {"format": FORMAT, "number": number, "status": "unsat", "family": "f", "seconds": 0.5} | more


@pytest.fixture
def paths(tmp_path):
    return Paths.of(tmp_path / "run")


def fill(paths, *numbers):
    with Store(paths) as store:
        store.begin(FIXED)
        for number in numbers:
            store.append(record(number))


def test_a_resumed_run_knows_what_is_done(paths):
    fill(paths, 1, 3)
    with Store(paths) as store:
        store.begin(FIXED)
        assert sorted(store.records) == [1, 3] and store.repaired == 0
        store.append(record(2))
    assert [r["number"] for r in read_log(paths.log)] == [1, 3, 2]


@pytest.mark.parametrize("cut", range(1, 30, 4))
def test_an_incomplete_last_line_is_cut_off(paths, cut):
    fill(paths, 1, 2)
    whole = paths.log.read_bytes()
    paths.log.write_bytes(whole[:-cut])
    assert [r["number"] for r in read_log(paths.log)] == [1]  # readers do not need the repair
    with Store(paths) as store:
        store.begin(FIXED)
        assert sorted(store.records) == [1] and store.repaired == len(whole) // 2 - cut
        store.append(record(2))
    assert paths.log.read_bytes() == whole


def test_zeros_after_a_power_cut_are_an_incomplete_line(paths):
    fill(paths, 1)
    with paths.log.open("ab") as log:
        log.write(b"\0" * 100)
    with Store(paths) as store:
        store.begin(FIXED)
        assert (sorted(store.records), store.repaired) == ([1], 100)


def test_a_damaged_line_inside_is_reported_and_nothing_is_cut(paths):
    fill(paths, 1, 2)
    first, second = paths.log.read_text().splitlines()
    paths.log.write_text(f"{first[:20]}\n{second}\n")
    with Store(paths) as store, pytest.raises(UsageError, match=r"is no record(.|\n)*line 1"):
        store.begin(FIXED)
    assert len(paths.log.read_text().splitlines()) == 2


def test_a_log_of_another_format_is_not_touched(paths):
    fill(paths, 1)
    paths.log.write_text(json.dumps(record(1, format=FORMAT + 1)) + "\n")
    with Store(paths) as store, pytest.raises(UsageError, match="the log is of format"):
        store.begin(FIXED)
    assert paths.log.read_text()


def test_no_result_twice(paths):
    with Store(paths) as store:
        store.begin(FIXED)
        store.append(record(1))
        with pytest.raises(UsageError, match="twice"):
            store.append(record(1, status="sat"))
    with paths.log.open("a") as log:  # even if somebody else did it
        log.write(json.dumps(record(1, status="sat")) + "\n")
    assert [r["status"] for r in read_log(paths.log)] == ["unsat"]


def test_changed_settings_are_refused_and_named(paths):
    fill(paths, 1)
    with Store(paths) as store, pytest.raises(UsageError, match=r"seed was 0, now 1") as caught:
        store.begin(FIXED | {"seed": 1})
    assert "--fresh" in str(caught.value)
    assert len(read_log(paths.log)) == 1


def test_fresh_sets_the_old_results_aside(paths):
    fill(paths, 1, 2)
    for seed in (1, 2):
        with Store(paths) as store:
            store.begin(FIXED | {"seed": seed}, fresh=True)
            assert not store.records
            store.append(record(7))
    aside = sorted(paths.folder.glob("old-*/results.jsonl"))
    assert sorted(len(read_log(path)) for path in aside) == [1, 2]


def test_results_without_settings_are_not_guessed_at(paths):
    fill(paths, 1)
    paths.settings.unlink()
    with Store(paths) as store, pytest.raises(UsageError, match="no settings"):
        store.begin(FIXED)


def test_only_one_process_has_a_run_open(paths):
    with Store(paths):
        with pytest.raises(UsageError, match=f"process {os.getpid()} on .* is already running"), Store(paths):
            pass
    with Store(paths):  # and the lock is free again
        pass


def test_the_lock_goes_with_the_process(paths):
    code = (
        "import sys, os; from verinet.batch.store import Store, Paths; "
        "Store(Paths.of(sys.argv[1])).__enter__(); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(paths.folder)], check=False).returncode == -9
    with Store(paths) as store:
        store.begin(FIXED)


def test_shards_share_a_folder(tmp_path):
    shards = [Shard(i, 3) for i in (1, 2, 3)]
    for shard in shards:
        fill(Paths.of(tmp_path, shard), shard.index)
    found = [r["number"] for log in logs_of(tmp_path) for r in read_log(log)]
    assert found == [1, 2, 3]


def test_infinities_survive_as_words():
    assert finite({"a": [math.inf, -math.inf, 1.0], "b": (math.nan,)}) == {"a": ["inf", "-inf", 1.0], "b": ["nan"]}


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "file.txt"
    write_whole(path, "one")
    with pytest.raises(TypeError):
        write_whole(path, 5)
    assert path.read_text() == "one" and list(tmp_path.iterdir()) == [path]


def test_the_index_answers_and_follows_the_log(paths):
    fill(paths, 1, 2)
    with Store(paths) as store:
        store.begin(FIXED)
        store.append(record(5, status="error", gap=math.inf, error={"kind": "signal", "message": "x"}))
    connection = open_index(paths)
    rows = connection.execute("SELECT number, status, error FROM results ORDER BY number").fetchall()
    connection.close()
    assert [tuple(row)[:2] for row in rows] == [(1, "unsat"), (2, "unsat"), (5, "error")]
    assert json.loads(rows[2]["error"])["kind"] == "signal"
    fill(paths, 9)
    connection = open_index(paths)
    assert connection.execute("SELECT count(*) FROM results").fetchone()[0] == 4
    connection.close()
    paths.index.write_bytes(b"broken")
    connection = open_index(paths)
    assert connection.execute("SELECT count(*) FROM results WHERE status = 'unsat'").fetchone()[0] == 3
    connection.close()
