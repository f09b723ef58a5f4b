"""The published values of ../shared/bench/lipschitz, reached and certified."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

import verinet


def _cases() -> list[dict[str, str]]:
    path = Path(__file__).resolve().parents[4] / "shared" / "bench" / "lipschitz" / "values.csv"
    return list(csv.DictReader(path.open())) if path.is_file() else [{"file": "missing"}]


@pytest.mark.bench
@pytest.mark.slow
@pytest.mark.parametrize("case", _cases(), ids=lambda case: case["file"])
def test_the_benchmark_values(case: dict[str, str], bench_folder: Path) -> None:
    """Certified, at least what is attained or exact, at most the value of the program."""
    path = bench_folder / "lipschitz" / case["file"]
    region = None
    if "box" in case["note"]:
        with np.load(path.with_name(path.stem + "_box.npz")) as stored:
            region = verinet.box(stored["lower"], stored["upper"])
    norm = "inf" if case["norm"] == "linf" else 2
    bound = verinet.lipschitz(path, norm=norm, region=region, timeout=20)
    least = max(float(case["lower"] or 0), float(case["fgl"] or 0) * (1 - 1e-7))
    assert bound.upper <= float(case["sdp"]) * (1 + 1e-4)
    assert bound.upper >= bound.lower and bound.upper >= float(case["lower"] or 0) * (1 - 1e-8)
    if bound.method != "exact":
        assert bound.upper >= least * (1 - 1e-7)
