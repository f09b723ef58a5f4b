"""Every public benchmark property is read, and its normal form makes sense."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from verinet.errors import PropertyError
from verinet.spec import read_property

LATER = ("vnnlib2_satisfactory", "isomorphic_acasxu_2026")  # VNN-LIB 2.0


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.vnnlib*") if path.is_file())


@pytest.mark.bench
def test_version_1_files(bench_folder: Path) -> None:
    folders = [f for f in sorted((bench_folder / "vnncomp").iterdir()) if (f / "vnnlib").is_dir()]
    assert folders
    for folder in folders:
        if folder.name in LATER:
            continue
        for path in files(folder / "vnnlib"):
            prop = read_property(path)
            assert prop.clauses, path
            assert prop.notes == (), path
            for box in prop.boxes:
                assert (box.lower <= box.upper).all(), path
                assert (box.lower <= box.inner_lower).all(), path
                assert np.nextafter(box.lower, np.inf).max() >= box.inner_lower.max(), path
            assert all(len(clause.rows) for clause in prop.clauses), path


@pytest.mark.bench
@pytest.mark.parametrize("name", LATER)
def test_version_2_files(bench_folder: Path, name: str) -> None:
    for path in files(bench_folder / "vnncomp" / name / "vnnlib"):
        if path.name == "maxpool03.vnnlib":
            with pytest.raises(PropertyError, match="has no lower bound"):
                read_property(path)
            continue
        prop = read_property(path)
        assert prop.v2 is not None and prop.clauses
        if name == "isomorphic_acasxu_2026":
            assert (prop.inputs, prop.outputs) == (5, 10)
            assert prop.layout is not None and len(prop.layout.ties) == 10
