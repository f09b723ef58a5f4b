"""The measurement of `kill -9` and resume: it runs on a small set, and it notices what it is there to notice."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from types import ModuleType

import pytest

from verinet.batch.instances import read_instances

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def scripts(root: Path) -> tuple[ModuleType, ModuleType]:
    """The measuring scripts, which are no package."""
    sys.path.insert(0, str(root / "benchmarks"))
    try:
        import bench_batch
        import bench_resume
    finally:
        sys.path.remove(str(root / "benchmarks"))
    return bench_batch, bench_resume


@pytest.fixture(scope="module")
def tree(scripts: tuple[ModuleType, ModuleType], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two families of small instances, one in a version folder."""
    top = tmp_path_factory.mktemp("families")
    for seed, (name, count) in enumerate((("first", 9), ("second/2.0", 6))):
        (top / name).mkdir(parents=True)
        scripts[0].make_set(top / name, count, seed)
    (top / "second" / "2.0" / "instances.csv").rename(top / "second" / "instances.csv")
    rows = (top / "second" / "instances.csv").read_text().splitlines()
    (top / "second" / "instances.csv").write_text("".join(f"2.0/{r.replace(',', ',2.0/', 1)}\n" for r in rows))
    return top


def test_a_killed_run_loses_and_doubles_nothing(scripts, tree, tmp_path):
    _, bench = scripts
    given = bench.parser().parse_args([str(tree), "--out", str(tmp_path / "run"), "--timeout", "20", "--workers", "1"])
    found = bench.measure(given.folder, given.out, given)
    assert found["instances"] == found["results"] == 15
    assert [found[what] for what in ("lost", "doubled", "strange", "changed")] == [[], [], [], []]
    assert len(found["kills"]) == 3 and {"parent", "worker"} == set(found["kills"])
    assert found["starts"] == 1 + found["kills"].count("parent")
    assert set(found["statuses"]) <= {"sat", "unsat"}


def test_the_list_names_every_instance_by_full_paths(scripts, tree, tmp_path):
    instances = scripts[1].make_list(tree, tmp_path / "lists", 3.0)
    assert len(instances) == 15 and {i.timeout for i in instances} == {3.0}
    assert {i.family for i in instances} == {i.family for i in read_instances(tree)} == {"first", "second"}
    assert all(path.is_absolute() and path.exists() for i in instances for _, path in i.network_files())
    assert all(i.property_file().exists() for i in instances)


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (lambda rows: rows[:-1], "lost"),
        (lambda rows: [*rows, rows[0]], "doubled"),
        (lambda rows: [rows[0] | {"property": "another"}, *rows[1:]], "strange"),
    ],
)
def test_damage_is_noticed(scripts, tree, tmp_path, damage, what):
    _, bench = scripts
    instances = bench.make_list(tree, tmp_path / "lists", 3.0)
    rows = [
        {"number": i.number, "model": i.network, "property": i.prop, "status": "unsat", "attempts": 1}
        for i in instances
    ]
    (tmp_path / "run").mkdir()
    trial = bench.Trial(tmp_path / "lists", tmp_path / "run", [], [], random.Random(0))
    for lines, expected in ((rows, False), (damage(rows), True)):
        (tmp_path / "run" / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        found = bench.judged(read_instances(tmp_path / "lists"), tmp_path / "run", trial)
        assert bool(found[what]) is expected
        assert not any(found[other] for other in {"lost", "doubled", "strange", "changed"} - {what})


def test_a_result_that_changes_is_noticed(scripts, tmp_path, monkeypatch):
    trial = scripts[1].Trial(tmp_path / "lists", tmp_path, [], [], random.Random(0))
    (tmp_path / "results.jsonl").touch()
    now = [{"number": 1, "status": "sat"}, {"number": 3, "status": "unsat"}]
    monkeypatch.setattr(scripts[1], "read_log", lambda path: now)
    before = {1: {"number": 1, "status": "unsat"}, 2: {"number": 2, "status": "sat"}, 3: now[1]}
    assert trial._compare(before) == {1: now[0], 3: now[1]}
    assert trial.changed == [1, 2]
