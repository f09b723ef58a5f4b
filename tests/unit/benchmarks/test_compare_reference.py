"""Comparing with another verifier: files are found, rows are joined, every outcome is counted where it belongs."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

HEADER = "peer,benchmark,onnx,vnnlib,timeout,verdict,seconds\n"
ROWS = """other,acasxu,a.onnx,p.vnnlib,60,unsat,5
other,acasxu,a.onnx,q.vnnlib,60,timeout,68
other,acasxu,b.onnx,p.vnnlib,60,sat,5
other,nets_one,c.onnx,p.vnnlib,30,WRONG,5
other,nets_one,c.onnx,q.vnnlib,30,unsat,5
another,nets_one,c.onnx,q.vnnlib,30,unsat,5
other,elsewhere,d.onnx,p.vnnlib,30,unsat,5
"""


@pytest.fixture(scope="module")
def script(root: Path) -> ModuleType:
    """The script, which is in no package."""
    sys.path.insert(0, str(root / "benchmarks"))
    try:
        import compare_reference
    finally:
        sys.path.remove(str(root / "benchmarks"))
    return compare_reference


@pytest.fixture
def reference(tmp_path: Path) -> Path:
    path = tmp_path / "reference.csv"
    path.write_text(HEADER + ROWS)
    return path


@pytest.fixture
def files(tmp_path: Path) -> Path:
    top = tmp_path / "bench"
    for name in (
        "acasxu_2023/onnx/a.onnx.gz",
        "acasxu_2023/onnx/b.onnx",
        "acasxu_2023/vnnlib/p.vnnlib.gz",
        "acasxu_2023/vnnlib/q.vnnlib",
        "iso_acasxu_2026/onnx/a.onnx",
        "iso_acasxu_2026/vnnlib/p.vnnlib",
        "nets/onnx/first/c.onnx",
        "nets/onnx/second/c.onnx",
        "nets/vnnlib/second/p.vnnlib",
    ):
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).touch()
    return top


def record(number: int, model: str, prop: str, status: str, seconds: float = 1.0) -> str:
    fields = {"format": 1, "number": number, "family": "run", "model": model, "property": prop}
    return json.dumps({**fields, "status": status, "seconds": seconds}) + "\n"


def test_files_are_found_in_the_family_of_that_name(script: ModuleType, reference: Path, files: Path) -> None:
    out = files / "list.csv"
    missing = script.write_list(script.read_reference(reference, "other"), files, out)
    rows = [(Path(n).relative_to(files), Path(p).relative_to(files), t) for n, p, t in csv.reader(out.open())]
    acasxu = Path("acasxu_2023")
    assert [(str(n), str(p), t) for n, p, t in rows] == [
        (str(acasxu / "onnx/a.onnx.gz"), str(acasxu / "vnnlib/p.vnnlib.gz"), "60"),
        (str(acasxu / "onnx/a.onnx.gz"), str(acasxu / "vnnlib/q.vnnlib"), "60"),
        (str(acasxu / "onnx/b.onnx"), str(acasxu / "vnnlib/p.vnnlib.gz"), "60"),
        ("nets/onnx/second/c.onnx", "nets/vnnlib/second/p.vnnlib", "30"),
    ]
    assert [(r.onnx, r.vnnlib) for r in missing] == [("c.onnx", "q.vnnlib"), ("d.onnx", "p.vnnlib")]


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("acasxu", "acasxu_2023", True),
        ("eran_sigmoid_genbab", "eran", True),
        ("cifar10_resnet_2021", "cifar10_resnet", True),
        ("cifar10_resnet", "sri_resnet_a", False),
        ("acasxu", "isomorphic_acasxu_2026", False),
        ("test", "tllverifybench", False),
    ],
)
def test_names_of_families(script: ModuleType, first: str, second: str, same: bool) -> None:
    assert script.same_family(first, second) is same
    assert script.same_family(second, first) is same


def test_every_outcome_is_counted(script: ModuleType, reference: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "results.jsonl").write_text(
        record(1, "onnx/a.onnx.gz", "vnnlib/p.vnnlib.gz", "unsat")
        + record(2, "a.onnx", "q.vnnlib", "sat", 2.0)
        + record(3, "b.onnx", "p.vnnlib", "unsat")
        + record(4, "c.onnx", "p.vnnlib", "unsat", 31.0)
        + record(5, "c.onnx", "q.vnnlib", "timed-out", 30.0)
    )
    lines = script.table(script.read_reference(reference, "other"), script.read_run(run))
    cells = {line.split()[0]: line.split()[1:] for line in lines[1:4]}
    assert lines[0].split() == "family instances peer ours both only peer only ours disagree peer wrong".split()
    assert cells == {
        "acasxu": ["3", "2", "3", "2", "0", "1", "1", "0"],
        "nets_one": ["2", "1", "0", "0", "1", "0", "0", "1"],
        "all": ["5", "3", "3", "2", "1", "1", "1", "1"],
    }
    assert lines[4:] == [
        "disagree: acasxu b.onnx p.vnnlib: peer sat in 5 s, ours unsat in 1 s",
        "only peer: nets_one c.onnx q.vnnlib: peer unsat in 5 s, ours timed-out in 30 s",
        "1 rows of the reference have no record in the run",
    ]


def test_names_that_occur_in_two_families(script: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "results.jsonl").write_text(
        record(1, "top/iso_2026/onnx/a.onnx", "p.vnnlib", "sat")
        + record(2, "top/acasxu_2023/a.onnx", "p.vnnlib", "unsat")
    )
    reference = script.Reference("acasxu", "a.onnx", "p.vnnlib", 60.0, "unsat", 1.0)
    found = script.matching(reference, script.read_run(tmp_path))
    assert found is not None and found.status == "unsat"
    stranger = script.Reference("other", "a.onnx", "p.vnnlib", 60.0, "unsat", 1.0)
    assert script.matching(stranger, script.read_run(tmp_path)) is None


def test_bad_references_say_where(script: ModuleType, reference: Path) -> None:
    with pytest.raises(ValueError, match="no row of the peer 'nobody'"):
        script.read_reference(reference, "nobody")
    reference.write_text(HEADER + "other,a,b.onnx,c.vnnlib,soon,unsat,5\n")
    with pytest.raises(ValueError, match=r"reference\.csv, line 2"):
        script.read_reference(reference, "other")
