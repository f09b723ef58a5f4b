"""Lists of scripted instances, and runs of them on real worker processes without torch."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from verinet import batch
from verinet.batch.executor import Executor, LocalExecutor, WorkerPlan

FAKE = Path(__file__).with_name("fake_worker.py")


def fake_local(slots: int, plan: WorkerPlan) -> Executor:
    """Worker processes that follow the script of `fake_worker.py`."""
    return LocalExecutor(slots, replace(plan, entry=(sys.executable, str(FAKE))))


@pytest.fixture
def scripted(tmp_path: Path) -> Callable[..., Path]:
    """A maker of a list: each argument is the script of one instance, or (script, timeout, network)."""

    def make(*scripts: str | tuple[str, float, str]) -> Path:
        folder = tmp_path / "family"
        folder.mkdir(exist_ok=True)
        rows = []
        for number, script in enumerate(scripts, start=1):
            text, timeout, network = script if isinstance(script, tuple) else (script, 5.0, "net.onnx")
            (folder / f"{number}.vnnlib").write_text(text)
            (folder / network).touch()
            rows.append(f"{network},{number}.vnnlib,{timeout}\n")
        path = folder / "instances.csv"
        path.write_text("".join(rows))
        return path

    return make


@pytest.fixture
def run_scripted(tmp_path: Path) -> Callable[..., batch.BatchResult]:
    """Run a scripted list into `tmp_path/run` with one worker, unless told otherwise."""

    def go(instances: Path, **options: Any) -> batch.BatchResult:
        out = options.pop("out", tmp_path / "run")
        return batch.run(instances, out, **({"workers": 1, "executor": fake_local} | options))

    return go


@pytest.fixture(scope="session")
def nodes() -> Iterator[Any]:
    """A Ray cluster of two nodes with one core each, on the loopback interface."""
    pytest.importorskip("ray", reason="the extra [cluster] is not installed")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": 80_000_000}
    found = Cluster(initialize_head=True, head_node_args=node | {"include_dashboard": False})
    found.add_node(**node)
    yield found
    found.shutdown()


@pytest.fixture
def fake_executor() -> Callable[[int, WorkerPlan], Executor]:
    """The factory of scripted workers, for tests that call `verinet batch` itself."""
    return fake_local
