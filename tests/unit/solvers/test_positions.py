"""Positions that a network computes from its input are decided case by case."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from verinet.solvers.branching.outcome import End
from verinet.solvers.opening import close_by_intervals
from verinet.solvers.positions import cases_of, close_cases
from verinet.solvers.query import Clock, Query, clause_table

import verinet
from tests.unit.frontends.test_selection import patch
from tests.unit.solvers.queries import property_of, rows
from tests.unit.solvers.queries import query_of as hand_made
from verinet.frontends.onnx import load_onnx
from verinet.ir.check import check_structure
from verinet.ir.graph import Graph, InputOp, Node
from verinet.ops.activations.registry import lookup
from verinet.ops.scalar import Elementwise
from verinet.ops.sorting.position import Position
from verinet.spec import read_property
from verinet.spec.property import Clause

TOP = 3.75  # both inputs lie in [0, TOP], so that each position is one of 0, 1, 2, 3


def least() -> float:
    """The smallest first output over all positions."""
    graph = load_onnx(patch(2).model()).graph.to(torch.float64)
    grid = torch.cartesian_prod(torch.arange(4.0), torch.arange(4.0)).double()
    return float(graph.forward(grid)[:, 0].min())


def write(folder: Path, limit: float) -> tuple[Path, Path]:
    onnx.save(patch(2).model(), folder / "patch.onnx")
    lines = [*(f"(declare-const X_{i} Real)" for i in range(2)), *(f"(declare-const Y_{i} Real)" for i in range(13))]
    lines += [f"(assert (>= X_{i} 0.0)) (assert (<= X_{i} {TOP}))" for i in range(2)]
    (folder / "patch.vnnlib").write_text("\n".join([*lines, f"(assert (<= Y_0 {limit:.6f}))"]))
    return folder / "patch.onnx", folder / "patch.vnnlib"


def query_of(folder: Path, limit: float) -> Query:
    network, statement = write(folder, limit)
    graph = load_onnx(network).graph.to(torch.float64)
    prop = read_property(statement)
    low, high = (torch.tensor([list(getattr(prop.boxes[0], end))], dtype=torch.float64) for end in ("lower", "upper"))
    return Query(graph, low, high, clause_table(prop, torch.device("cpu")), prop, Clock(lambda: 0.0, 1.0))


def test_the_cases_cover_the_box_and_compute_the_same(tmp_path: Path) -> None:
    query = query_of(tmp_path, 0.0)
    cases = cases_of(query)
    assert cases is not None and cases.owners == (0, 1) and cases.lower.shape == (16, 4)
    check_structure(cases.graph, "test")
    assert not any(isinstance(n.op, Position) for n in cases.graph.nodes)
    assert {tuple(case) for case in cases.lower[:, 2:].tolist()} == {
        (float(a), float(b)) for a in range(4) for b in range(4)
    }
    x = torch.rand(200, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * TOP
    opened = cases.graph.forward(torch.cat([x, x.floor()], 1))
    assert torch.allclose(opened, query.graph.forward(x), atol=1e-12)


def test_a_property_is_proved_case_by_case(tmp_path: Path) -> None:
    verdict = verinet.verify(*write(tmp_path, least() - 1e-4), timeout=20)
    assert verdict.status is verinet.Status.UNSAT and (verdict.stats.domains, verdict.stats.closed) == (16, 16)


def test_an_open_case_is_a_candidate(tmp_path: Path) -> None:
    offered: list[np.ndarray] = []
    query = query_of(tmp_path, least() + 1e-4)

    def offer(points: np.ndarray) -> bool:
        offered.extend(points)
        return True

    outcome = close_cases(query, offer, query.clock)
    assert outcome is not None and outcome.end.name == "CANDIDATE" and outcome.closed < 16
    assert float(query.graph.forward(torch.from_numpy(np.stack(offered)))[0, 0]) <= least() + 1e-4
    assert close_cases(query, lambda points: False, query.clock) is None
    assert close_cases(query, offer, Clock(lambda: 2.0, 1.0)) is None
    verdict = verinet.verify(*write(tmp_path, least() + 1e-4), timeout=20)
    assert verdict.status is verinet.Status.SAT


@pytest.mark.parametrize("low", [-3.0, 0.0])
def test_without_positions_or_with_negative_ones_there_are_no_cases(tmp_path: Path, low: float) -> None:
    query = query_of(tmp_path, 0.0)
    if low < 0:
        query.lower.fill_(low)
    else:
        plain = tuple(n for n in query.graph.nodes if not isinstance(n.op, Position))
        query = Query(type(query.graph)(plain[:1]), query.lower, query.upper, query.table, query.prop, query.clock)
    assert cases_of(query) is None


@pytest.mark.parametrize("boxes", [1, 3])
def test_intervals_alone_close_what_they_decide(boxes: int) -> None:
    """y = relu(x) on [-1, 2]: y <= -0.5 never holds and intervals show it; y <= 0.5 holds at 0."""
    relu = lookup("Relu", {})
    assert relu is not None
    graph = Graph(
        (
            Node(InputOp(1), (), (1,), "x"),
            Node(Elementwise(relu, 1), (0,), (1,), "relu"),
        )
    )
    box = (np.array([-1.0]), np.array([2.0]))
    for limit, closed in ((-0.5, True), (0.5, False), (0.0, False)):
        clauses = [Clause(i, rows([[1.0]], [limit if i == boxes - 1 else -0.5])) for i in range(boxes)]
        query = hand_made(graph, property_of([box] * boxes, clauses, 1))
        outcome = close_by_intervals(query, query.clock)
        assert (outcome is not None and outcome.end is End.CLOSED and outcome.closed == boxes) is closed
    late = Clock(lambda: 2.0, 1.0)
    assert close_by_intervals(query, late) is None
