"""Root bounds beside those that another tool printed for the same instances; see `bench_bounds`."""

from __future__ import annotations

import csv
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from verinet.solvers.query import clause_table
from verinet.solvers.root import LONG

from verinet.errors import VerinetError
from verinet.frontends.onnx import load_onnx
from verinet.ir.graph import Graph
from verinet.ops.scalar import Elementwise
from verinet.propagation.optimize import RowProblem, Step, optimize
from verinet.propagation.rows import RowMap
from verinet.propagation.sweep import Sweeper, SweepOptions, build_backward
from verinet.spec import read_property

INNER = 20
"""Iterations for rows of inner layers: those of the search's own root."""


@dataclass(frozen=True)
class Recorded:
    """What the other tool printed: `bounds` of at most ten rows."""

    benchmark: str
    network: str
    prop: str
    optimised: bool
    bounds: Tensor


def recorded(path: Path) -> Iterator[Recorded]:
    with path.open(newline="") as lines:
        for row in csv.DictReader(lines):
            numbers = [float(x) for x in re.findall(r"[-+.\deE]+", row["bounds_first10"])]
            if numbers:
                bounds = torch.tensor(numbers, dtype=torch.float64)
                optimised = row["kind"].lower().startswith("alpha")
                yield Recorded(row["benchmark"], row["onnx"], row["vnnlib"], optimised, bounds)


def found_file(folder: Path, benchmark: str, name: str) -> Path | None:
    """The file of that name (or compressed) in the set whose name starts alike."""
    stem = benchmark.split("_")[0]
    for pattern in (name, f"{name}.gz"):
        for path in sorted(folder.rglob(pattern)):
            if path.relative_to(folder).parts[0].startswith(stem):
                return path
    return None


def root_rows(network: Path, prop: Path, optimised: bool, seconds: float) -> Tensor | None:
    """Bounds of weights @ y - bound for all rows, plain or optimised in all layers; None with several boxes."""
    statement = read_property(prop)
    if len(statement.boxes) != 1:
        return None
    graph = load_onnx(network).graph.to(torch.float64)
    table = clause_table(statement, torch.device("cpu"))
    low, high = (torch.from_numpy(t) for t in (statement.boxes[0].lower, statement.boxes[0].upper))
    end = time.monotonic() + seconds
    backward, known = build_backward(graph, low, high), None
    steps = (None, Step(iterations=INNER), *((LONG,) if _smooth(graph) else ())) if optimised else (None,)
    for step in steps:
        options = SweepOptions(step=step, deadline=lambda: time.monotonic() > end)
        known = Sweeper(backward).sweep(low[None], high[None], options, known).known
    owners = RowMap.regular(1, table.weights.shape[0], table.weights.device)
    problem = RowProblem(graph.output, table.weights, owners, low[None], high[None], known or {})
    last = LONG if optimised else Step(iterations=0)
    return optimize(problem, backward, step=last).bound - table.bounds


def _smooth(graph: Graph) -> bool:
    """Whether the search's root would optimise longer."""
    return any(isinstance(n.op, Elementwise) and n.op.function.hinge is None for n in graph.nodes)


def compare_with_file(path: Path, folder: Path, seconds: float, out: Callable[[str], object] = print) -> None:
    """One line per instance: rows compared, rows where ours is looser, and both sides' least bound."""
    looser = total = 0
    for record in recorded(path):
        title = f"{record.benchmark[:16]:16s} {record.prop[-28:]:28s} {'optimised' if record.optimised else 'plain':9s}"
        network = found_file(folder, record.benchmark, record.network)
        prop = found_file(folder, record.benchmark, record.prop)
        if network is None or prop is None:
            continue
        try:
            ours = root_rows(network, prop, record.optimised, seconds)
        except VerinetError as error:
            out(f"{title} {error.fact[:60]}")
            continue
        if ours is None or ours.numel() < record.bounds.numel() or record.bounds.numel() < min(ours.numel(), 10):
            out(f"{title} rows differ: ours {None if ours is None else ours.numel()}, theirs {record.bounds.numel()}")
            continue
        ours = ours[: record.bounds.numel()]
        below = ours < record.bounds - 1e-4 * (1 + record.bounds.abs())
        looser, total = looser + int(below.sum()), total + int(below.numel())
        least = f"{float(ours.min()):12.4f} {float(record.bounds.min()):12.4f}"
        out(f"{title} {int(below.sum()):2d} of {below.numel():2d} looser; least {least}")
    out(f"looser in {looser} of {total} rows")
