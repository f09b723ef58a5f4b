"""Root bounds beside CROWN's standard relaxations, on the same boxes with the same intermediate bounds.

`python -m benchmarks.bench_bounds` compares with our own independent CROWN (`tests/kits/crown.py`) on the shipped
models and on seeded random networks. `python -m benchmarks.bench_bounds CSV FOLDER [SECONDS]` compares with the bounds
that another tool printed at its root: CSV has columns benchmark, onnx, vnnlib, kind, bounds_first10; FOLDER holds the
benchmark sets.

Columns: our default lines alone; the solver's own first pass, with rows from the better of two starts; the same after
optimisation. Gap = least sampled value of a row minus its bound; ratio = our gap over CROWN's, the mean over the rows
where CROWN has a gap, and over the median. A row is looser when its bound is below CROWN's by more than 1e-7 of its
size. For sigmoid and tanh a row is held against the better of two releases of CROWN.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.bounds_networks import BUILT
from tests.kits.crown import SMOOTH, crown
from tests.soundness.networks import random_graph
from verinet.frontends.onnx import load_onnx
from verinet.ir.graph import Graph
from verinet.propagation.optimize import RowProblem, Step, default_multipliers, evaluate, optimize
from verinet.propagation.rows import RowMap
from verinet.propagation.sweep import Sweeper, SweepOptions, build_backward

ITERATIONS, SEEDS = 20, 6
MODELS = ("relu", "cnn", "residual", "sigmoid", "tanh", "gelu")
COLUMNS = ("default", "plain", "optimised")
RADII = (0.1, 0.5)


@dataclass(frozen=True)
class Task:
    """One network with a box and the rows to bound."""

    group: str
    graph: Graph
    lower: Tensor
    upper: Tensor
    rows: Tensor


def _drawn(group: str, graph: Graph, radius: float, seed: int) -> Task:
    """A box around a random input in the unit cube; outputs, their negatives, and random rows."""
    draw = torch.Generator().manual_seed(seed)
    centre = torch.rand(graph.input_size, generator=draw, dtype=torch.float64)
    one = torch.eye(graph.output_size, dtype=torch.float64)
    rows = torch.cat([one, -one, torch.randn(20, graph.output_size, generator=draw, dtype=torch.float64)])
    return Task(group, graph, centre - radius, centre + radius, rows)


def tasks(models: Path | None, seeds: int = SEEDS) -> Iterator[Task]:
    """Shipped digit models (where a folder is given), then random networks of every kind."""
    for name in MODELS if models else ():
        graph = load_onnx(models / f"digits_{name}.onnx").graph.to(torch.float64)  # type: ignore[operator]
        for radius in (0.01, 0.03, 0.1):
            yield _drawn(f"digits_{name}", graph, radius, 1)
    for activation in ("Relu", "Sigmoid", "Tanh", "Gelu", "Sin"):
        for structure in ("chain", "product"):
            for seed in range(seeds):
                graph = random_graph(seed, activation, structure)
                for radius in RADII:
                    yield _drawn(f"{activation} {structure}", graph, radius, seed)
    for group, build in BUILT.items():
        for seed in range(seeds):
            for radius in RADII:
                yield _drawn(group, build(seed), radius, seed)


def least_sampled(task: Task) -> Tensor:
    """Least value of each row over random points and corners."""
    draw = torch.Generator().manual_seed(0)
    share = torch.rand(4000, task.lower.numel(), generator=draw, dtype=torch.float64)
    share[:2000] = share[:2000].round()
    points = task.lower + share * (task.upper - task.lower)
    return (task.graph.forward(points) @ task.rows.T).amin(0)


def our_bounds(task: Task) -> tuple[dict[str, Tensor], Tensor]:
    """Our bounds by column, and CROWN's, (rows,) each, from the same intermediate bounds."""
    backward = build_backward(task.graph, task.lower, task.upper)
    low, high = task.lower[None], task.upper[None]
    known = Sweeper(backward).sweep(low, high, SweepOptions()).known
    owners = RowMap.regular(1, task.rows.shape[0], task.rows.device)
    problem = RowProblem(task.graph.output, task.rows, owners, low, high, known)
    found = {
        "default": evaluate(problem, backward, default_multipliers(problem, backward), {}).bound,
        "plain": optimize(problem, backward, step=Step(iterations=0)).bound,
        "optimised": optimize(problem, backward, step=Step(iterations=ITERATIONS)).bound,
    }
    box = task.lower, task.upper
    first, second = crown(task.graph, task.rows, known, box), crown(task.graph, task.rows, known, box, SMOOTH)
    return found, torch.maximum(first, second)


@dataclass
class Tally:
    """Ratios of gaps, and numbers of rows where CROWN's bound is above ours, by column."""

    ratios: dict[str, list[Tensor]]
    looser: dict[str, int]
    rows: int = 0

    @classmethod
    def empty(cls) -> Tally:
        return cls({c: [] for c in COLUMNS}, dict.fromkeys(COLUMNS, 0))

    def add(self, ours: dict[str, Tensor], theirs: Tensor, truth: Tensor) -> None:
        self.rows += theirs.numel()
        gap = truth - theirs
        wide = gap > 1e-6 * (1 + truth.abs())
        for column in COLUMNS:
            self.ratios[column].append(((truth - ours[column]) / gap)[wide])
            self.looser[column] += int((ours[column] < theirs - 1e-7 * (1 + theirs.abs())).sum())

    def mean(self, column: str) -> float:
        return float(torch.cat(self.ratios[column]).mean())

    def median(self, column: str) -> float:
        return float(torch.cat(self.ratios[column]).median())

    def line(self, column: str) -> str:
        return f"{self.looser[column]:6d} {self.mean(column):6.3f} {self.median(column):6.3f}"


def compared(models: Path | None, seeds: int = SEEDS) -> dict[str, Tally]:
    """One tally per group of tasks."""
    found: dict[str, Tally] = {}
    for task in tasks(models, seeds):
        ours, theirs = our_bounds(task)
        found.setdefault(task.group, Tally.empty()).add(ours, theirs, least_sampled(task))
    return found


def show(found: dict[str, Tally], out: Callable[[str], object] = print) -> None:
    """A line per group: for every column the number of rows where ours is looser, and mean and median ratio."""
    out(f"{'':18s} {'rows':>5s} " + " ".join(f"| {column:>20s}" for column in COLUMNS))
    out(f"{'':24s} " + " ".join("| looser   mean median" for _ in COLUMNS))
    for group, tally in found.items():
        out(f"{group:18s} {tally.rows:5d} " + " ".join(f"| {tally.line(c):>20s}" for c in COLUMNS))


def main(arguments: list[str]) -> None:
    torch.set_num_threads(1)
    if arguments:
        from benchmarks.root_reference import compare_with_file

        compare_with_file(Path(arguments[0]), Path(arguments[1]), float(arguments[2]) if arguments[2:] else 20.0)
        return
    show(compared(Path(__file__).resolve().parents[1] / "models"))


if __name__ == "__main__":
    main(sys.argv[1:])
