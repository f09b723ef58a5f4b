"""What a warm batch costs per small instance, against cold starts of `verinet verify`, and whether memory stays flat.

Makes, from a seed, a network of safenlp's size (30 inputs, 128 ReLUs, 2 outputs) and small boxes around random points:
many instances, each trivial, as in safenlp. Prints counts, ratios and seconds; run it on a quiet machine:

    python benchmarks/bench_batch.py [--instances 1000] [--workers 1]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from verinet import batch

INPUTS, HIDDEN, OUTPUTS = 30, 128, 2


def make_set(folder: Path, count: int, seed: int = 0) -> Path:
    """A folder with one network, `count` properties and instances.csv; returns the csv file."""
    from onnx import TensorProto, helper, numpy_helper, save

    random = np.random.default_rng(seed)
    first = random.normal(0, INPUTS**-0.5, (INPUTS, HIDDEN)).astype(np.float32)
    second = random.normal(0, HIDDEN**-0.5, (HIDDEN, OUTPUTS)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MatMul", ["b", "w2"], ["y"]),
    ]
    shapes = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, n]) for name, n in (("x", INPUTS), ("y", OUTPUTS))
    ]
    weights = [numpy_helper.from_array(first, "w1"), numpy_helper.from_array(second, "w2")]
    graph = helper.make_graph(nodes, "small", shapes[:1], shapes[1:], weights)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), folder / "small.onnx")
    rows = []
    for number in range(count):
        centre = random.normal(0, 1, INPUTS).astype(np.float32)
        label = int(np.argmax(np.maximum(centre @ first, 0) @ second))
        (folder / f"{number}.vnnlib").write_text(_property(centre, float(random.choice([0.002, 0.01, 1.0])), label))
        rows.append(f"small.onnx,{number}.vnnlib,20\n")
    (folder / "instances.csv").write_text("".join(rows))
    return folder / "instances.csv"


def _property(centre: np.ndarray, radius: float, label: int) -> str:
    lines = [f"(declare-const X_{i} Real)" for i in range(INPUTS)] + [f"(declare-const Y_{i} Real)" for i in (0, 1)]
    for i, value in enumerate(centre.tolist()):
        lines += [f"(assert (>= X_{i} {value - radius:.6f}))", f"(assert (<= X_{i} {value + radius:.6f}))"]
    return "\n".join([*lines, f"(assert (>= Y_{1 - label} Y_{label}))", ""])


def cold_start(folder: Path, times: int = 3) -> float:
    """Median wall seconds of `verinet verify` in a process of its own."""
    call = [sys.executable, "-c", "from verinet.cli import main; main()", "verify", folder / "small.onnx"]
    found = []
    for number in range(times):
        begin = time.monotonic()
        subprocess.run([*map(str, call), str(folder / f"{number}.vnnlib"), "-q"], check=True, capture_output=True)
        found.append(time.monotonic() - begin)
    return statistics.median(found)


def kept_ratio(instances: Path, count: int = 40) -> tuple[float, float]:
    """Processor seconds per warm instance (median) that keeps ONNX Runtime's sessions, and that opens them anew.

    Every instance is solved both ways, one after the other, so that a busy machine changes little of their ratio.
    """
    from verinet.batch.instances import read_instances
    from verinet.batch.solve import Hooks, Networks, solve
    from verinet.batch.task import Task

    networks, hooks = Networks(), Hooks(lambda point: None, lambda: False)
    seconds: dict[bool, list[float]] = {True: [], False: []}
    tasks = [Task.of(instance, "cpu", 0) for instance in read_instances(instances)[:count]]
    for number, task in enumerate(tasks):
        for keep in (True, False) if number % 2 else (False, True):
            solve(task, networks, hooks)  # so that both ways find everything else as they left it
            for model in networks.kept.values() if not keep else ():
                model.kept.clear()
            begin = time.process_time()
            solve(task, networks, hooks)
            seconds[keep].append(time.process_time() - begin)
    return statistics.median(seconds[True]), statistics.median(seconds[False])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--instances", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        instances = make_set(folder, given.instances)
        cold = cold_start(folder)
        kept, anew = kept_ratio(instances)
        print(f"sessions kept: {kept:.4f} s of processor time an instance, opened anew: {anew:.4f} s", end="")
        print(f"; {kept / anew:.2f} of it")
        result = batch.run(instances, folder / "run", workers=given.workers)
        records = result.records
        print(f"{len(records)} instances, {result.counts}")
        print(f"cold start: {cold:.2f} s an instance")
        warm = result.seconds / len(records) * given.workers
        print(f"warm batch: {warm:.4f} s an instance with the workers' start-up; {cold / warm:.0f} times faster")
        inside = [record["seconds"] for record in records]
        print(f"inside the worker: median {statistics.median(inside):.4f} s, worst {max(inside):.3f} s")
        start_up = min(_seconds(r["started"]) for r in records)
        span = max(_seconds(r["finished"]) for r in records) - start_up
        overhead = (span * given.workers - sum(inside)) / len(records)
        print(f"around it (dispatch, tidying, storing): {overhead:.4f} s an instance")
        rss = [record["rss_mb"] for record in records]
        tenth = max(1, len(rss) // 10)
        print(f"worker's memory, MB: first tenth {statistics.median(rss[:tenth]):.1f}, ", end="")
        print(f"last tenth {statistics.median(rss[-tenth:]):.1f}, most {max(rss):.1f}")


def _seconds(text: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(text).timestamp()


if __name__ == "__main__":
    main()
