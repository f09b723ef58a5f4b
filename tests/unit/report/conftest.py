"""A run with every kind of result, as its log would hold it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from verinet.batch.scheduler import EMPTY
from verinet.batch.store import FORMAT, Record

VERSIONS = {"verinet": "0.1.0", "torch": "2.13.0", "onnxruntime": "1.31.1"}


def record(number: int, status: str, seconds: float, **more: Any) -> Record:
    """One record; family and names follow from the number unless given."""
    family = "digits" if number % 2 else "acasxu"
    head = {
        "format": FORMAT,
        "number": number,
        "family": family,
        "model": f"onnx/net_{number % 3}.onnx",
        "property": f"vnnlib/prop_{number}.vnnlib.gz",
        "timeout": 10.0,
        "status": status,
        "reason": {"unsat": "proved", "sat": "replayed", "timed-out": "out_of_time"}.get(status, "stalled"),
        "seconds": seconds,
        "load_seconds": 0.01,
        "search_seconds": seconds - 0.01,
        "versions": VERSIONS,
        "device": "cpu",
        "seed": 11,
        "threads": 2,
        "worker": number % 2,
        "attempts": 1,
        "rss_mb": 300.0 + number,
        "model_sha256": f"{number % 3}" * 64,
        "property_sha256": f"{number:064x}",
        "started": f"2026-11-20T10:00:{number:02}.000Z",
        "finished": f"2026-11-20T10:01:{number:02}.000Z",
    }
    return EMPTY | head | more


def witness(side: int, channels: int = 1) -> dict[str, Any]:
    """A picture and what was found near it."""
    size = side * side * channels
    centre = [(i % side) / side for i in range(size)]
    found = [value + (0.1 if i % 7 == 0 else -0.05) for i, value in enumerate(centre)]
    shape = [1, channels, side, side] if channels > 1 else [1, size]
    return {"inputs": found, "outputs": [0.5, -0.5], "margin": 0.25, "shapes": [shape], "centre": centre}


CURVE = [[0.1, None, 1, 0], [0.2, 8.0, 1, 0], [1.0, 2.5, 4, 3], [4.0, 0.75, 9, 8]]
FALLING = [[0.1, None, 1, 0], [0.3, 1.5, 2, 0], [0.9, 0.0, 0, 5]]
ERROR = {
    "kind": "signal",
    "message": "the worker was ended by signal 11 (SIGSEGV)",
    "stderr": ["<script>bad()</script>"],
}

RECORDS = [
    record(1, "unsat", 0.9, gap=0.0, domains=5, curve=FALLING, strategy=["input-split"]),
    record(2, "unsat", 0.05, gap=0.0, domains=1),
    record(3, "sat", 0.2, witness=witness(8)),
    record(4, "sat", 2.5, witness=witness(8, 3)),
    record(5, "timed-out", 9.9, gap=0.75, domains=17, curve=CURVE),
    record(6, "unknown", 3.0, gap="inf"),
    record(7, "error", 0.1, error=ERROR, attempts=2, reason="signal"),
    record(8, "unsat", 12.0, gap=0.0),
    record(9, "sat", 0.3, witness={"inputs": [1.5, -2.0], "outputs": [3.0], "margin": 0.0, "shapes": [[1, 2]]}),
]


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """A maker of a run's folder from records."""

    def make(records: list[Record], name: str = "night run") -> Path:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "results.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
        (folder / "run.json").write_text(json.dumps({"timeout": 10.0, "seed": 11, "shard": None}))
        return folder

    return make


@pytest.fixture
def run(make_run: Callable[..., Path]) -> Path:
    """The folder of a run with every kind of result."""
    return make_run(RECORDS)


@pytest.fixture
def other(make_run: Callable[..., Path]) -> Path:
    """Another run of most of the instances, which contradicts the first one once."""
    changed = [one | {"seconds": one["seconds"] * 1.7} for one in RECORDS[:-1]]
    changed[1] = changed[1] | {"status": "sat"}
    return make_run(changed, "other")
