"""Numbers at the ends of float64: overflow and underflow must make bounds loose, never wrong.

Each network has a bump that no sampling finds, so a wrong bound would end as a wrong `unsat`.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from verinet.solvers.branching.concretise import HalfSpaces, _charged

import verinet
from verinet.ir.graph import Graph, InputOp, Node
from verinet.ops.activations import find
from verinet.ops.linear.dense import Dense
from verinet.ops.scalar import DomainError, Elementwise
from verinet.ops.sorting.steps import HAT, STEP, WHOLE
from verinet.propagation.backward import InputRows
from verinet.propagation.forward import ForwardPass
from verinet.propagation.interval import interval_pass
from verinet.propagation.rows import RowMap
from verinet.propagation.sweep import Sweeper, SweepOptions, build_backward

NAN, INF = float("nan"), float("inf")
WIDTH = 1e-6  # of a bump
TOPS = (0.123456, 0.654321)
Arrays = dict[str, npt.NDArray[Any]]


def bumps(dtype: type) -> tuple[list[onnx.NodeProto], Arrays]:
    """Two entries max(0, WIDTH - |x_i - top_i|)."""
    first = np.array([[1, -1, 0, 0], [0, 0, 1, -1]], dtype)
    offset = np.array([-TOPS[0], TOPS[0], -TOPS[1], TOPS[1]], dtype)
    second = np.array([[-1, 0], [-1, 0], [0, -1], [0, -1]], dtype)
    arrays = {"W1": first, "B1": offset, "W2": second, "B2": np.full(2, WIDTH, dtype)}
    steps = (("X", "W1", "B1", "a"), ("b", "W2", "B2", "c"))
    nodes = []
    for (source, weight, bias, out), after in zip(steps, ("b", "r0"), strict=True):
        nodes += [helper.make_node("Gemm", [source, weight, bias], [out]), helper.make_node("Relu", [out], [after])]
    return nodes, arrays


def saved(path: Path, nodes: list[onnx.NodeProto], arrays: Arrays, dtype: type) -> Path:
    kind = TensorProto.DOUBLE if dtype is np.float64 else TensorProto.FLOAT
    inits = [numpy_helper.from_array(a, n) for n, a in arrays.items()]
    x, y = (helper.make_tensor_value_info(n, kind, [1, s]) for n, s in (("X", 2), ("Y", 1)))
    model = helper.make_model(
        helper.make_graph(nodes, "g", [x], [y], inits), opset_imports=[helper.make_opsetid("", 17)]
    )
    model.ir_version = 8
    onnx.save(model, str(path))
    return path


def scaled(matrices: list[npt.NDArray[Any]], dtype: type) -> tuple[list[onnx.NodeProto], Arrays, str]:
    """The bumps behind a chain of matrices with a ReLU before each but the first; the last tensor's name."""
    nodes, arrays = bumps(dtype)
    last = "r0"
    for k, matrix in enumerate(matrices):
        arrays[f"A{k}"] = matrix.astype(dtype)
        if k:
            nodes.append(helper.make_node("Relu", [last], [f"r{k}"]))
            last = f"r{k}"
        nodes.append(helper.make_node("Gemm", [last, f"A{k}"], [f"m{k}"]))
        last = f"m{k}"
    return nodes, arrays, last


def asked(model: Path, violation: str) -> verinet.Verdict:
    declared = "".join(f"(declare-const {v} Real)" for v in ("X_0", "X_1", "Y_0"))
    box = "".join(f"(assert (>= X_{i} -1.0))(assert (<= X_{i} 2.0))" for i in range(2))
    spec = model.with_suffix(".vnnlib")
    spec.write_text(f"{declared}{box}(assert {violation})")
    return verinet.verify(model, spec, timeout=1.5)


def run_at_tops(model: Path, dtype: type) -> float:
    point = np.array([[TOPS[0], -1.0]], dtype)
    return float(onnxruntime.InferenceSession(str(model)).run(None, {"X": point})[0][0, 0])


@pytest.mark.parametrize("comparison", ["Greater", "Sign", "Equal"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_step_behind_an_overflow_is_not_decided(tmp_path: Path, comparison: str, dtype: type) -> None:
    """Before the step stands inf - inf in floats; in real numbers it is positive at the first top, 0 elsewhere."""
    large = np.eye(2) * (1e200 if dtype is np.float64 else 1e38)
    chain = [large] * (1 if dtype is np.float64 else 8) + [large[:1].T - large[1:].T]
    nodes, arrays, last = scaled(chain, dtype)
    kind = TensorProto.DOUBLE if dtype is np.float64 else TensorProto.FLOAT
    arrays["zero"] = np.zeros((1, 1), dtype)
    if comparison == "Sign":
        nodes.append(helper.make_node("Sign", [last], ["Y"]))
    elif comparison == "Greater":
        nodes.append(helper.make_node("Greater", [last, "zero"], ["g"]))
        nodes.append(helper.make_node("Cast", ["g"], ["Y"], to=kind))
    else:
        nodes.append(helper.make_node("Equal", [last, "zero"], ["e"]))
        nodes.append(helper.make_node("Not", ["e"], ["g"]))
        nodes.append(helper.make_node("Cast", ["g"], ["Y"], to=kind))
    model = saved(tmp_path / "m.onnx", nodes, arrays, dtype)
    assert asked(model, "(>= Y_0 0.5)").status is not verinet.Status.UNSAT


SIZES = [
    ([1e300, 1e-200, 1e-200], "1e-107"),
    ([1e150, 1e150, 1e-200, 1e-200], "1e-107"),
    ([1e300, 1e-250, 1e-250], "1e-220"),
    ([1e-150, 1e-160, 1e200, 1e100], "1e-17"),
]


@pytest.mark.parametrize(("scales", "threshold"), SIZES)
def test_rows_that_underflow_prove_nothing(tmp_path: Path, scales: list[float], threshold: str) -> None:
    mix = np.array([[1.0, 0.5], [0.25, 1.0]])
    nodes, arrays, last = scaled([mix * s for s in scales] + [np.ones((2, 1))], np.float64)
    nodes.append(helper.make_node("Identity", [last], ["Y"]))
    model = saved(tmp_path / "m.onnx", nodes, arrays, np.float64)
    assert run_at_tops(model, np.float64) >= float(threshold)  # so it is violated
    assert asked(model, f"(>= Y_0 {threshold})").status is not verinet.Status.UNSAT


@pytest.mark.parametrize("function", [STEP, WHOLE, HAT, find("Sign", {}), find("Relu", {}), find("Floor", {})])
@pytest.mark.parametrize("weights", [(1e200, -1e200), (1e200, 1e200), (-1e200, -1e200)])
def test_intervals_behind_an_overflow_hold_all_values(function: Any, weights: tuple[float, float]) -> None:
    """Inputs up to 1e200 times weights of that size: sums beyond every float."""
    op = Dense(torch.tensor([[weights[0]], [weights[1]]], dtype=torch.float64))
    nodes = (
        Node(InputOp(2), (), (2,), "x"),
        Node(op, (0,), (1,), "sum"),
        Node(Elementwise(function, 1), (1,), (1,), "y"),
    )
    low, high = torch.tensor([[0.0, 0.0]]).double(), torch.tensor([[1e200, 1e200]]).double()
    graph = Graph(nodes)
    for bounds in (
        lambda: interval_pass(graph, low, high),
        lambda: ForwardPass(graph, torch.arange(2), (low, high)).values,
    ):
        try:
            least, most = (float(side) for side in bounds()[-1])
        except DomainError:
            continue
        for point in ((0.0, 0.0), (1e200, 0.0), (0.0, 1e200), (1e-200, 0.0), (0.0, 0.75e-200)):
            exact = sum(Fraction(x) * Fraction(w) for x, w in zip(point, weights, strict=True))
            value = float(function.at(torch.tensor(_clipped(exact), dtype=torch.float64)))
            assert least <= value <= most or abs(value) == 1e308


def _clipped(value: Fraction) -> float:
    return float(max(Fraction(-(10**308)), min(Fraction(10**308), value)))


def exact_value(matrices: list[npt.NDArray[Any]], point: list[Fraction]) -> Fraction:
    """A chain of matrices with ReLUs between them, in rationals."""
    values = point
    for k, matrix in enumerate(matrices):
        if k:
            values = [max(v, Fraction(0)) for v in values]
        values = [
            sum((x * Fraction(float(w)) for x, w in zip(values, column, strict=True)), Fraction(0))
            for column in matrix.T
        ]
    return values[0]


def chain_of(matrices: list[npt.NDArray[Any]]) -> Graph:
    relu = find("Relu", {})
    assert relu is not None
    nodes = [Node(InputOp(len(matrices[0])), (), (len(matrices[0]),), "x")]
    for k, matrix in enumerate(matrices):
        if k:
            nodes.append(Node(Elementwise(relu, 1), (len(nodes) - 1,), nodes[-1].shape, f"relu{k}"))
        op = Dense(torch.from_numpy(np.ascontiguousarray(matrix)))
        nodes.append(Node(op, (len(nodes) - 1,), (matrix.shape[1],), f"m{k}"))
    return Graph(tuple(nodes))


@pytest.mark.parametrize("seed", range(40))
def test_bounds_of_wild_chains_hold_in_rationals(seed: int) -> None:
    """Weights and boxes anywhere between 1e-300 and 1e300: every kind of bound against exact values."""
    random = np.random.default_rng(seed)
    span = random.choice([20, 100, 250])
    sizes = [2, *random.integers(1, 4, random.integers(1, 5)).tolist(), 1]
    matrices = []
    for rows, columns in zip(sizes, sizes[1:], strict=False):
        powers = random.integers(-span, span, (1, 1)) + random.integers(-8, 9, (rows, columns))
        matrices.append(random.choice([-1.0, 1.0, 1.0], (rows, columns)) * 10.0 ** np.clip(powers, -300, 300))
    centre = random.normal(size=2) * 10.0 ** random.integers(-span, span)
    half = np.abs(centre) * random.choice([0.0, 1e-12, 0.1, 3.0], 2)
    low, high = torch.from_numpy(centre - half).unsqueeze(0), torch.from_numpy(centre + half).unsqueeze(0)
    found = all_bounds(chain_of(matrices), low, high)
    for share in random.random((30, 2)).round(1).tolist() + [[0, 0], [0, 1], [1, 0], [1, 1]]:
        point = [
            Fraction(float(a)) + Fraction(s) * (Fraction(float(b)) - Fraction(float(a)))
            for a, b, s in zip(low[0], high[0], share, strict=True)
        ]
        value = exact_value(matrices, point)
        for name, (least, most) in found.items():
            assert least == -INF or Fraction(least) <= value, name
            assert most == INF or value <= Fraction(most), name


def all_bounds(graph: Graph, low: torch.Tensor, high: torch.Tensor) -> dict[str, tuple[float, float]]:
    """Bounds of the only output by intervals, forward planes, and rows with several multipliers."""
    found = {"interval": interval_pass(graph, low, high)[-1]}
    found["forward"] = ForwardPass(graph, torch.arange(low.shape[1]), (low, high)).values[-1]
    engine = build_backward(graph, low[0], high[0])
    layers = Sweeper(engine).sweep(low, high, SweepOptions())
    rows = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    owners = RowMap.regular(1, 2, low.device)
    bound = engine.concretize(engine.run(graph.output, rows, owners, layers.relaxation), owners, low, high)
    found["rows"] = bound[:1], -bound[1:]
    return {name: (float(least), float(most)) for name, (least, most) in found.items()}


@pytest.mark.parametrize("seed", range(4))
def test_half_spaces_with_coefficients_that_underflow(seed: int) -> None:
    """Boxes up to 1e300 and coefficients down to 1e-322: the dual bound of clipping stays below the exact one."""
    random = np.random.default_rng(seed)
    for _ in range(200):
        far = -(10.0 ** random.uniform(-3, 0, 2)) * 1e300
        ends = far, -far * random.random(2)
        scale = 10.0 ** -int(random.integers(300, 323))
        slope, normal = random.normal(size=2) * scale, random.normal(size=2) * random.choice([scale, 1.0])
        beta, offset = abs(random.normal()) * 10.0 ** -int(random.integers(0, 300)), random.normal() * scale * 1e300
        row = InputRows(torch.from_numpy(slope).unsqueeze(0), torch.zeros(1, dtype=torch.float64))
        spaces = HalfSpaces(torch.from_numpy(normal).reshape(1, 1, 2), torch.tensor([[offset]], dtype=torch.float64))
        betas = torch.tensor([[beta]], dtype=torch.float64)
        box = tuple(torch.from_numpy(end).unsqueeze(0) for end in ends)
        found = float(_charged(row, spaces, betas, row.coefficients + betas * spaces.normal[:, 0], (box[0], box[1]))[0])
        exact = [
            Fraction(float(a)) + Fraction(float(beta)) * Fraction(float(g)) for a, g in zip(slope, normal, strict=True)
        ]
        least = sum(min(c * Fraction(float(x)) for x in pair) for c, *pair in zip(exact, *ends, strict=True))
        assert found == -INF or Fraction(found) <= least + Fraction(float(beta)) * Fraction(float(offset))
