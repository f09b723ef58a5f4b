"""Results as a report sees them: runs, shards, peers, the competition's files."""

from __future__ import annotations

import json
import math

import pytest

from tests.unit.report.conftest import RECORDS
from verinet.errors import UsageError
from verinet.report.data import base_name, disagreements, family_row, family_rows, load_others, load_run, shown_name


def test_a_run_is_read_in_order(run):
    results = load_run(run)
    assert results.name == "night run" and [e.number for e in results.entries] == list(range(1, 10))
    assert results.counts() == {"unsat": 3, "sat": 3, "unknown": 1, "timed-out": 1, "error": 1}


def test_shards_are_joined(make_run, tmp_path):
    folder = make_run(RECORDS[:4])
    (folder / "results.jsonl").rename(folder / "results-0001-of-0002.jsonl")
    (folder / "results-0002-of-0002.jsonl").write_text("".join(json.dumps(r) + "\n" for r in RECORDS[4:]))
    assert [e.number for e in load_run(folder).entries] == list(range(1, 10))


def test_an_answer_after_the_limit_is_not_solved(run):
    late = load_run(run).entries[7]
    assert (late.status, late.late, late.solved) == ("unsat", True, False)


def test_gaps_without_a_bound_are_infinite(run):
    assert [e.gap for e in load_run(run).entries[4:6]] == [0.75, math.inf]


def test_families_are_summed_up(run):
    entries = load_run(run).entries
    digits, acasxu = family_rows(entries)
    assert (digits.family, digits.total, digits.solved, digits.slowest, digits.worst_gap) == ("digits", 5, 3, 0.9, 0.75)
    assert (acasxu.total, acasxu.solved, acasxu.median, acasxu.worst_gap) == (4, 2, (0.05 + 2.5) / 2, 0.0)
    everything = family_row("all", entries)
    assert everything.total == 9 and everything.seconds == pytest.approx(sum(r["seconds"] for r in RECORDS))
    assert family_row("none", []).median is None


def test_peers_are_told_apart(tmp_path):
    path = tmp_path / "peers.csv"
    path.write_text(
        "peer,benchmark,onnx,vnnlib,timeout,verdict,seconds\n"
        "one,acas,net.onnx,prop.vnnlib,60,unsat,5.1\n"
        "two,acas,net.onnx,prop.vnnlib,60,timeout,60\n"
        "one,acas,net.onnx,other.vnnlib,60,holds,61\n"
        "one,acas,net.onnx,third.vnnlib,60,run_instance_crashed,1\n"
    )
    one, two = load_others(path)
    assert [(e.status, e.solved) for e in one.entries] == [("unsat", True), ("unsat", False), ("error", False)]
    assert two.entries[0].status == "timed-out" and two.entries[0].key == ("net.onnx", "prop.vnnlib")


def test_a_result_file_of_the_competition(tmp_path):
    path = tmp_path / "tool.csv"
    path.write_text("acas,./onnx/net.onnx.gz,./vnnlib/p.vnnlib,0.02,unsat,1.5\nacas,b.onnx,p.vnnlib,0.0,violated,2\n")
    (tool,) = load_others(path)
    assert tool.name == "tool" and [e.status for e in tool.entries] == ["unsat", "sat"]
    assert tool.entries[0].key == ("net.onnx", "p.vnnlib")


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", "peer,onnx,vnnlib\nx,y,z\n"])
def test_other_files_are_refused(tmp_path, text):
    path = tmp_path / "peers.csv"
    path.write_text(text)
    with pytest.raises(UsageError, match="neither a list of peers"):
        load_others(path)


def test_a_folder_without_a_run(tmp_path):
    with pytest.raises(UsageError, match="holds no run"):
        load_run(tmp_path)
    with pytest.raises(UsageError, match="no such run or csv"):
        load_others(tmp_path / "missing")


def test_disagreements_are_found(run, other):
    (pair,) = disagreements(load_run(run), load_run(other))
    assert [(e.number, e.status) for e in pair] == [(2, "unsat"), (2, "sat")]


def test_names():
    pair = "[('f', 'nets/a.onnx'), ('g', 'nets/b.onnx.gz')]"
    assert base_name("./x/net.onnx.gz") == "net.onnx" and base_name(pair) == pair
    assert shown_name(pair) == "f=a.onnx, g=b.onnx" and shown_name("x/net.onnx") == "net.onnx"
