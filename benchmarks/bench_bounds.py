"""Root bounds beside CROWN's standard relaxations, on the same boxes with the same intermediate bounds.

`python -m benchmarks.bench_bounds` compares with our own independent CROWN (`tests/kits/crown.py`) on the shipped
models and on seeded random networks. `python -m benchmarks.bench_bounds CSV FOLDER [SECONDS]` compares with the bounds
that another tool printed at its root: CSV has columns benchmark, onnx, vnnlib, kind, bounds_first10; FOLDER holds the
benchmark sets.

Gap = least sampled value of a row minus its bound; ratio = our gap over CROWN's. A row is looser when its bound is
below CROWN's by more than 1e-7 of its size.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tests.kits.crown import crown, standard
from tests.soundness.networks import random_graph
from verinet.frontends.onnx import load_onnx
from verinet.ir.graph import Graph, InputOp, Node
from verinet.ops.bilinear.matmul import MatMulTwo
from verinet.ops.linear.dense import Dense
from verinet.ops.normalisation.softmax import Softmax
from verinet.ops.shape.reshape import Reshape
from verinet.propagation.optimize import RowProblem, Step, default_multipliers, evaluate, optimize
from verinet.propagation.rows import RowMap
from verinet.propagation.sweep import Sweeper, SweepOptions, build_backward

ITERATIONS, SEEDS = 20, 6
MODELS = ("relu", "cnn", "residual", "sigmoid", "tanh", "gelu")
COLUMNS = ("plain", "optimised", "from both", "same lines")


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


def _nodes(size: int, seed: int) -> tuple[list[Node], torch.Generator]:
    return [Node(InputOp(size), (), (size,), "x")], torch.Generator().manual_seed(seed)


def softmax_graph(seed: int) -> Graph:
    """4 inputs, a dense layer, softmax over 6, three outputs."""
    nodes, draw = _nodes(4, seed)
    for size in (6, 3):
        before = nodes[-1].shape[0]
        weight = torch.randn(before, size, generator=draw, dtype=torch.float64)
        nodes.append(Node(Dense(weight), (len(nodes) - 1,), (size,), f"dense {size}"))
        if size == 6:
            nodes.append(Node(Softmax(1), (len(nodes) - 1,), (size,), "softmax"))
    return Graph(tuple(nodes))


def attention_graph(seed: int) -> Graph:
    """softmax(q k') v of three tokens of width 4."""
    nodes, draw = _nodes(12, seed)

    def add(op: object, inputs: tuple[int, ...], shape: tuple[int, ...]) -> int:
        nodes.append(Node(op, inputs, shape, f"n{len(nodes)}"))  # type: ignore[arg-type]
        return len(nodes) - 1

    x = add(Reshape((3, 4)), (0,), (3, 4))
    drawn = (torch.randn(4, 4, generator=draw, dtype=torch.float64) * 0.5 for _ in range(3))
    query, key, value = (add(Dense(weight), (x,), (3, 4)) for weight in drawn)
    scores = add(MatMulTwo((3, 4), (4, 3)), (query, add(Reshape((4, 3)), (key,), (4, 3))), (3, 3))
    shares = add(Softmax(2), (scores,), (3, 3))
    mixed = add(MatMulTwo((3, 3), (3, 4)), (shares, value), (3, 4))
    add(Reshape((12,)), (mixed,), (12,))
    return Graph(tuple(nodes))


def tasks(models: Path | None, seeds: int = SEEDS) -> Iterator[Task]:
    """Shipped digit models (where a folder is given), then random networks of every kind."""
    for name in MODELS if models else ():
        graph = load_onnx(models / f"digits_{name}.onnx").graph.to(torch.float64)  # type: ignore[operator]
        for radius in (0.01, 0.03, 0.1):
            yield _drawn(f"digits_{name}", graph, radius, 1)
    for activation in ("Relu", "Sigmoid", "Tanh", "Gelu"):
        for structure in ("chain", "product"):
            for seed in range(seeds):
                graph = random_graph(seed, activation, structure)
                for radius in (0.1, 0.5):
                    yield _drawn(f"{activation} {structure}", graph, radius, seed)
    for group, build in (("softmax", softmax_graph), ("attention", attention_graph)):
        for seed in range(seeds):
            for radius in (0.1, 0.5):
                yield _drawn(group, build(seed), radius, seed)


def least_sampled(task: Task) -> Tensor:
    """Least value of each row over random points and corners."""
    draw = torch.Generator().manual_seed(0)
    share = torch.rand(4000, task.lower.numel(), generator=draw, dtype=torch.float64)
    share[:2000] = share[:2000].round()
    points = task.lower + share * (task.upper - task.lower)
    return (task.graph.forward(points) @ task.rows.T).amin(0)


def our_bounds(task: Task) -> tuple[dict[str, Tensor], Tensor]:
    """Our bounds by column, and CROWN's, (rows,) each, from the same intermediate bounds.

    "plain" takes the default lines, "optimised" improves them, "same lines" takes CROWN's wherever ours can be those,
    and "from both" is the better of optimising from either start.
    """
    backward = build_backward(task.graph, task.lower, task.upper)
    low, high = task.lower[None], task.upper[None]
    known = Sweeper(backward).sweep(low, high, SweepOptions()).known
    owners = RowMap.regular(1, task.rows.shape[0], task.rows.device)
    problem = RowProblem(task.graph.output, task.rows, owners, low, high, known)
    same = default_multipliers(problem, backward)
    for position, default in same.items():
        node = task.graph.nodes[position]
        given = standard(node.op, [known[i][0] for i in node.inputs], [known[i][1] for i in node.inputs])
        if given is not None:
            same[position] = tuple(g.expand(d.shape).contiguous() for g, d in zip(given, default, strict=True))
    step = Step(iterations=ITERATIONS)
    best = optimize(problem, backward, step=step).bound
    found = {
        "plain": optimize(problem, backward, step=Step(iterations=0)).bound,
        "optimised": best,
        "from both": torch.maximum(best, optimize(problem, backward, step=step, multipliers=same).bound),
        "same lines": evaluate(problem, backward, same, {}).bound,
    }
    return found, crown(task.graph, task.rows, known, task.lower, task.upper)


@dataclass
class Tally:
    """Ratios of gaps and excesses of CROWN's bound over ours, relative to its gap, by column."""

    ratios: dict[str, list[Tensor]]
    looser: dict[str, int]
    rows: int = 0

    @classmethod
    def empty(cls) -> Tally:
        return cls({c: [] for c in COLUMNS}, dict.fromkeys(COLUMNS, 0))

    def add(self, ours: dict[str, Tensor], theirs: Tensor, truth: Tensor) -> None:
        self.rows += theirs.numel()
        gap = (truth - theirs).clamp(min=1e-9)
        for column in COLUMNS:
            self.ratios[column].append((truth - ours[column]) / gap)
            self.looser[column] += int((ours[column] < theirs - 1e-7 * (1 + theirs.abs())).sum())

    def line(self, column: str) -> str:
        ratio = torch.cat(self.ratios[column])
        return f"{float(ratio.amin()):6.3f} {float(ratio.median()):6.3f} {self.looser[column]:5d}"


def compared(models: Path | None, seeds: int = SEEDS) -> dict[str, Tally]:
    """One tally per group of tasks."""
    found: dict[str, Tally] = {}
    for task in tasks(models, seeds):
        ours, theirs = our_bounds(task)
        found.setdefault(task.group, Tally.empty()).add(ours, theirs, least_sampled(task))
    return found


def show(found: dict[str, Tally], out: Callable[[str], object] = print) -> None:
    """A line per group: for every column least and median ratio and the number of rows where ours is looser."""
    out(f"{'':18s} {'rows':>5s} " + " ".join(f"| {column:>18s}" for column in COLUMNS))
    out(f"{'':24s} " + " ".join("|    min median loose" for _ in COLUMNS))
    for group, tally in found.items():
        out(f"{group:18s} {tally.rows:5d} " + " ".join(f"| {tally.line(c):>18s}" for c in COLUMNS))


def main(arguments: list[str]) -> None:
    torch.set_num_threads(1)
    if arguments:
        from benchmarks.root_reference import compare_with_file

        compare_with_file(Path(arguments[0]), Path(arguments[1]), float(arguments[2]) if arguments[2:] else 20.0)
        return
    show(compared(Path(__file__).resolve().parents[1] / "models"))


if __name__ == "__main__":
    main(sys.argv[1:])
