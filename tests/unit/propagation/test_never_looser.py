"""What `verinet.bounds` and the search's root answer is never looser than CROWN with the same intermediate bounds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from verinet.solvers.layer_bounds import layer_bounds
from verinet.solvers.root import Root

import verinet
from benchmarks.bench_bounds import Task, tasks
from tests.kits.crown import SCALAR, SMOOTH, crown
from tests.unit.propagation.test_against_crown import intervals
from tests.unit.solvers.queries import one_row
from verinet.frontends.onnx import load_onnx
from verinet.ops.activations import find
from verinet.ops.base import Frame, NonlinearOp
from verinet.ops.scalar import Elementwise
from verinet.ops.scalar_ends import end_slopes
from verinet.propagation import optimize as optimization
from verinet.propagation.interval import Interval
from verinet.propagation.optimize import RowProblem, Step, better_start, default_multipliers, evaluate, optimize
from verinet.propagation.rows import RowMap
from verinet.propagation.starts import published
from verinet.propagation.sweep import Sweeper, SweepOptions, build_backward
from verinet.spec.property import Box

MODELS = Path(__file__).resolve().parents[3] / "models"
KINDS = {
    "ReLU": ("Relu chain",),
    "sigmoid": ("Sigmoid chain",),
    "tanh": ("Tanh chain",),
    "product": ("product", "MatMul", "Tanh product"),
}


def sample(kind: str) -> list[Task]:
    return [task for task in tasks(None, seeds=1) if task.group in KINDS[kind]]


def intermediate(task: Task, optimised: bool) -> dict[int, Interval]:
    """The bounds behind the last answer of `verinet.bounds`."""
    sweeper = Sweeper(build_backward(task.graph, task.lower, task.upper), targets=(task.graph.output,))
    low, high = task.lower[None], task.upper[None]
    known = sweeper.sweep(low, high, SweepOptions()).known
    return sweeper.sweep(low, high, SweepOptions(step=Step(iterations=20)), known).known if optimised else known


def standard(task: Task, rows: Tensor, known: dict[int, Interval]) -> Tensor:
    box = task.lower, task.upper
    return torch.maximum(crown(task.graph, rows, known, box), crown(task.graph, rows, known, box, SMOOTH))


def looser(ours: Tensor, theirs: Tensor) -> int:
    return int((ours < theirs - 1e-7 * (1 + theirs.abs())).sum())


def looser_bounds(task: Task, method: str) -> int:
    """In how many lower and upper bounds of outputs CROWN is ahead."""
    low, high = layer_bounds(task.graph, task.lower.numpy(), task.upper.numpy(), None, method)
    one = torch.eye(task.graph.output_size, dtype=torch.float64)
    theirs = standard(task, torch.cat([one, -one]), intermediate(task, method == "auto"))
    return looser(torch.from_numpy(np.concatenate([low, -high])), theirs)


@pytest.mark.parametrize("method", ["linear", "auto"])
@pytest.mark.parametrize("kind", KINDS)
def test_bounds_are_never_looser(kind: str, method: str) -> None:
    assert sum(looser_bounds(task, method) for task in sample(kind)) == 0


def _no_second_start(op: NonlinearOp, frame: object, default: object) -> None:
    return None


@pytest.mark.parametrize("kind", ["sigmoid", "tanh", "product"])
def test_the_second_start_is_what_it_takes(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it the same comparison finds rows where CROWN is ahead: the sample can tell."""
    monkeypatch.setattr(optimization, "published", _no_second_start)
    assert sum(looser_bounds(task, "linear") for task in sample(kind)) > 0


@pytest.mark.parametrize("name", ["relu", "sigmoid", "tanh"])
def test_bounds_of_shipped_models_are_never_looser(name: str) -> None:
    """The public function on a file, around a random input."""
    model = load_onnx(MODELS / f"digits_{name}.onnx")
    graph = model.graph.to(torch.float64)
    draw = torch.Generator().manual_seed(5)
    centre = torch.rand(graph.input_size, generator=draw, dtype=torch.float64)
    task = Task(name, graph, centre - 0.05, centre + 0.05, torch.eye(graph.output_size, dtype=torch.float64))
    low, high = task.lower.numpy(), task.upper.numpy()
    found = verinet.bounds(model, Box(low, high, low, high), device="cpu")
    rows = torch.cat([task.rows, -task.rows])
    theirs = standard(task, rows, intermediate(task, True))
    assert looser(torch.from_numpy(np.concatenate([found.lower, -found.upper])), theirs) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_the_root_is_never_looser(kind: str) -> None:
    """The least margin that the root reports, against CROWN with the root's own layer bounds."""
    for task in sample(kind)[:2]:
        row, box = task.rows[-1], (task.lower, task.upper)
        query = one_row(task.graph, box, row, 1e3)  # far from what can be proved, so that no stage ends early
        root = Root(query, query.clock)
        root.bound(lambda *_: None)
        theirs = float(standard(task, row[None], root.layers.known) - query.table.bounds)
        assert root.worst is not None
        assert root.worst >= theirs - 1e-7 * (1 + abs(theirs))


@pytest.mark.parametrize(("name", "ours"), [("Sigmoid", "Sigmoid"), ("Tanh", "Tanh"), ("GELU", "Gelu")])
def test_lines_through_ends_are_the_published_ones(name: str, ours: str) -> None:
    """Also where the touching point is next to the inflection, which takes the most steps."""
    function = find(ours, {})
    assert function is not None
    low, high = intervals(7, 2000)
    found = end_slopes(function, low, high, Elementwise(function, 1).multipliers([low], [high])[:2])
    assert found is not None
    wanted = SCALAR[name](low, high)
    for slope, line in zip(found, wanted, strict=True):
        assert bool(((slope - line.slope).abs() <= 2e-6).all())


def test_hinges_and_convex_functions_need_no_second_start() -> None:
    low, high = intervals(8)
    for name in ("Relu", "Exp", "Softplus"):
        function = find(name, {})
        assert function is not None
        op = Elementwise(function, 1)
        assert published(op, Frame([low], [high]), op.multipliers([low], [high])) is None


@pytest.mark.parametrize("kind", ["tanh", "product"])
def test_every_row_starts_from_its_best_place(kind: str) -> None:
    """Of the default lines, and of what an optimisation has found before: a further stage never loses a row."""
    task = sample(kind)[0]
    low, high = task.lower[None], task.upper[None]
    backward = build_backward(task.graph, task.lower, task.upper)
    owners = RowMap.regular(1, task.rows.shape[0], task.rows.device)
    problem = RowProblem(task.graph.output, task.rows, owners, low, high, intermediate(task, False))
    plain = evaluate(problem, backward, default_multipliers(problem, backward), {}).bound
    assert bool((better_start(problem, backward).bound >= plain).all())
    first = optimize(problem, backward, step=Step(iterations=5))
    again = better_start(problem, backward, first.multipliers)
    assert bool((again.bound >= first.bound - 1e-9 * (1 + first.bound.abs())).all())
    assert bool((again.bound > better_start(problem, backward).bound + 1e-6).any())


def test_rows_of_a_sweep_may_share_what_is_derived_from_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    task = sample("tanh")[0]
    shared = intermediate(task, True)
    monkeypatch.setattr(Sweeper, "_frames", lambda self, layers: {})
    for position, (low, high) in intermediate(task, True).items():
        assert torch.equal(low, shared[position][0])
        assert torch.equal(high, shared[position][1])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_lines_through_ends_survive_extreme_intervals(dtype: torch.dtype) -> None:
    """Points, slivers, and ends far out: slopes stay finite, also in the precision of the search."""
    ends = torch.tensor([-1e25, -1e4, -30.0, -1.5, -1e-3, -1e-30, 0.0, 1e-30, 1e-3, 1.5, 30.0, 1e4, 1e25], dtype=dtype)
    pairs = torch.combinations(ends, 2, with_replacement=True)
    low, high = pairs[:, 0][None], pairs[:, 1][None]
    for name in ("Sigmoid", "Tanh", "Gelu", "Erf", "Sin", "Atan"):
        function = find(name, {})
        assert function is not None
        op = Elementwise(function, 1)
        found = end_slopes(function, low, high, op.multipliers([low], [high])[:2])
        assert found is not None
        assert all(bool(torch.isfinite(slope).all()) for slope in found)
        lines = op.lines([low], [high], found)
        assert bool((lines[0] * low + lines[1] <= function.at(low) + 1e-6).all())
