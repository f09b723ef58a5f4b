"""When a search ends because of rounding alone, the verdict says so."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from verinet.solvers.precision import precision_floor

import verinet
from tests.soundness.networks import random_graph
from tests.unit.frontends.onnx_models import Spec, node
from tests.unit.solvers.queries import one_row
from verinet.results import Reason, Status

SLOPE = np.float32(0.1)


def tight(folder: Path, excess: Fraction) -> tuple[Path, Path]:
    """relu(x w) on [0.5, 1], and whether it reaches its greatest value plus `excess`."""
    nodes = [node("MatMul", "x w", "h"), node("Relu", "h", "y")]
    onnx.save(Spec("tight", nodes, {"x": (1, 1)}, {"w": np.array([[SLOPE]])}).model(), str(folder / "tight.onnx"))
    limit = Fraction(float(SLOPE)) + excess
    digits = str(limit.numerator * 10**60 // limit.denominator).rjust(61, "0")
    lines = ["(declare-const X_0 Real)", "(declare-const Y_0 Real)", "(assert (>= X_0 0.5))", "(assert (<= X_0 1))",
             f"(assert (>= Y_0 {digits[:-60]}.{digits[-60:]}))"]  # fmt: skip
    (folder / "p.vnnlib").write_text("\n".join(lines))
    return folder / "tight.onnx", folder / "p.vnnlib"


def test_a_margin_below_the_rounding_is_named(tmp_path):
    """The property holds by 1e-24, which no float64 bound can tell from a violation."""
    verdict = verinet.verify(*tight(tmp_path, Fraction(1, 10**24)), timeout=30)
    assert (verdict.status, verdict.reason) == (Status.UNKNOWN, Reason.PRECISION_FLOOR)
    assert verdict.gap is not None and verdict.gap < 1e-14


def test_a_margin_above_it_is_proved(tmp_path):
    assert verinet.verify(*tight(tmp_path, Fraction(1, 10**12)), timeout=30).status is Status.UNSAT


@pytest.mark.parametrize("kind", ("Relu", "Sigmoid", "Log"))
def test_the_floor_is_a_few_roundings(kind):
    """Far below any gap that a search could close; none where the root has no bounds."""
    graph = random_graph(1, "Relu" if kind == "Log" else kind, "chain", depth=2)
    if kind == "Log":
        from verinet.ir.graph import Graph, Node
        from verinet.ops.activations import find
        from verinet.ops.scalar import Elementwise

        log = find("Log", {})
        assert log is not None
        graph = Graph((*graph.nodes, Node(Elementwise(log, 1), (graph.output,), graph.nodes[-1].shape, "log")))
    low = torch.full((3,), -1.0, dtype=torch.float64)
    row = torch.zeros(graph.output_size, dtype=torch.float64)
    row[0] = 1.0
    floor = precision_floor(one_row(graph, (low, -low), row, -1.0))
    assert floor == 0.0 if kind == "Log" else 1e-17 < floor < 1e-10
