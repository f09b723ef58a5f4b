"""Norm products: never below a true secant, equal to the closed forms where there are any."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from verinet.solvers.lipschitz import product as module
from verinet.solvers.lipschitz.convolutions import symbol_bound
from verinet.solvers.lipschitz.form import Matrix
from verinet.solvers.lipschitz.norms import matrix_norm, operator_norms, row_sum_norm, spectral_bound
from verinet.solvers.lipschitz.product import norm_product

from tests.unit.frontends.onnx_models import Spec, ints, node, weights
from verinet.errors import ModelError, UnsupportedOperatorError, UsageError
from verinet.frontends.onnx import load_onnx
from verinet.ir.graph import Graph
from verinet.ops.linear.conv import Convolution
from verinet.ops.linear.windows import Windows


def _graph(nodes: Sequence[Any], shape: Sequence[int], constants: dict[str, np.ndarray]) -> Graph:
    return load_onnx(Spec("net", nodes, {"x": shape}, constants).model()).graph.to(torch.float64)


def _attained(graph: Graph, norm: str, width: float = 2.0, count: int = 60, seed: int = 0) -> float:
    """The largest Jacobian norm or difference quotient among samples in [-width, width]."""
    draw = torch.Generator().manual_seed(seed)
    kind = 2 if norm == "2" else math.inf
    best = 0.0
    for _ in range(count):
        x = (torch.rand(graph.input_size, generator=draw, dtype=torch.float64) * 2 - 1) * width
        jacobian = torch.autograd.functional.jacobian(lambda t: graph.forward(t.unsqueeze(0))[0], x).numpy()
        best = max(best, float(np.linalg.norm(jacobian, kind)))
        y = (torch.rand(graph.input_size, generator=draw, dtype=torch.float64) * 2 - 1) * width
        moved = (graph.forward(x.unsqueeze(0)) - graph.forward(y.unsqueeze(0)))[0].numpy()
        best = max(best, float(np.linalg.norm(moved, kind)) / float(np.linalg.norm((x - y).numpy(), kind)))
    return best


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (3, 7), (40, 40), (60, 5), (2, 300)])
def test_matrix_norms_are_above_and_close(rows: int, columns: int) -> None:
    draw = np.random.default_rng(rows)
    for scale in (1.0, 1e-120, 1e120, 1e-3):
        matrix = draw.normal(size=(rows, columns)) * scale
        true = float(np.linalg.norm(matrix, 2))
        assert true * (1 - 1e-13) <= spectral_bound(torch.from_numpy(matrix)) <= true * (1 + 1e-8)
        radius = np.abs(matrix) * 1e-3
        moved = matrix + radius * np.sign(draw.normal(size=matrix.shape))
        assert matrix_norm(Matrix(matrix, radius)) >= np.linalg.norm(moved, 2)
        assert row_sum_norm(Matrix(matrix, radius)) >= np.abs(moved).sum(1).max()


def test_matrix_norms_of_special_matrices() -> None:
    assert spectral_bound(torch.zeros(3, 4, dtype=torch.float64)) == 0
    assert spectral_bound(torch.zeros(0, 4, dtype=torch.float64)) == 0
    for size in (1, 2, 64):
        assert 1 <= spectral_bound(torch.eye(size, dtype=torch.float64)) <= 1 + 1e-8
    ones = torch.ones(16, 9, dtype=torch.float64)
    assert 12 <= spectral_bound(ones) <= 12 * (1 + 1e-8)
    assert spectral_bound(torch.tensor([[math.inf, 1.0]], dtype=torch.float64)) == math.inf


def test_two_by_two_norms_hold_exactly() -> None:
    """The bound b has b^2 I - A^T A positive semidefinite in rational arithmetic."""
    draw = np.random.default_rng(8)
    for _ in range(200):
        a = draw.normal(size=(2, 2))
        b = Fraction(spectral_bound(torch.from_numpy(a)))
        p, q, r, s = (Fraction(float(x)) for x in a.reshape(-1))
        first, last, cross = b * b - p * p - r * r, b * b - q * q - s * s, p * q + r * s
        assert first >= 0 and last >= 0 and first * last >= cross * cross


WINDOWS = [
    ((3, 3), (1, 1), (1, 1), (1, 1)),
    ((3, 3), (2, 2), (1, 1), (1, 1)),
    ((4, 2), (2, 3), (1, 1), (0, 2)),
    ((2, 3), (1, 1), (2, 1), (1, 0)),
    ((1, 1), (1, 1), (1, 1), (0, 0)),
]


@pytest.mark.parametrize(("kernel", "strides", "dilations", "pads"), WINDOWS)
@pytest.mark.parametrize("groups", [1, 2])
def test_symbols_bound_convolutions(kernel: Any, strides: Any, dilations: Any, pads: Any, groups: int) -> None:
    spatial, ins, outs = (9, 8), 2, 4
    out = tuple(
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, p, d, k, s in zip(spatial, pads, dilations, kernel, strides, strict=True)
    )
    windows = Windows(kernel, strides, dilations, pads, pads, out)
    draw = torch.Generator().manual_seed(sum(kernel))
    op = Convolution(torch.randn(outs, ins // groups, *kernel, generator=draw, dtype=torch.float64), windows, groups)
    units = torch.eye(ins * 72, dtype=torch.float64).reshape(-1, 1, ins, *spatial)
    matrix = op.linear(units).reshape(ins * 72, -1)
    true = float(torch.linalg.matrix_norm(matrix, 2))
    bound = symbol_bound(op)
    assert true <= bound
    assert operator_norms(op, [(1, ins, *spatial)], (1, outs, *out))[0] >= true
    if strides == (1, 1) and groups == 1:
        assert bound <= 1.3 * true  # a small image sees less than the infinite grid


def test_symbol_of_a_strided_convolution_is_tight() -> None:
    """Stride equal to the kernel: windows are disjoint, and the norm is that of the flattened kernel."""
    draw = torch.Generator().manual_seed(1)
    weight = torch.randn(3, 2, 2, 2, generator=draw, dtype=torch.float64)
    windows = Windows((2, 2), (2, 2), (1, 1), (0, 0), (0, 0), (4, 4))
    true = float(torch.linalg.matrix_norm(weight.reshape(3, 8), 2))
    assert true <= symbol_bound(Convolution(weight, windows)) <= true * 1.01


NETWORKS: dict[str, tuple[list[Any], list[int], dict[str, np.ndarray]]] = {
    "two layers": (
        [node("MatMul", "x W", "h"), node("Relu", "h", "a"), node("MatMul", "a V", "y")],
        [1, 4],
        {"W": weights(4, 6), "V": weights(6, 3)},
    ),
    "residual": (
        [
            node("MatMul", "x W", "h"),
            node("Tanh", "h", "a"),
            node("MatMul", "a U", "k"),
            node("Add", "x k", "s"),
            node("Abs", "s", "e"),
            node("Concat", "e s", "y", axis=1),
        ],
        [1, 4],
        {"W": weights(4, 6), "U": weights(6, 4, seed=1)},
    ),
    "maxmin": (
        [
            node("MatMul", "x W", "h"),
            node("Split", "h half", "a b", axis=1),
            node("Max", "a b", "hi"),
            node("Min", "a b", "lo"),
            node("Concat", "hi lo", "g", axis=1),
            node("MatMul", "g V", "y"),
        ],
        [1, 4],
        {"W": weights(4, 6), "V": weights(6, 3), "half": ints(3, 3)},
    ),
    "convolutions": (
        [
            node("Conv", "x K", "h", pads=[1, 1, 1, 1]),
            node("LeakyRelu", "h", "a", alpha=0.25),
            node("MaxPool", "a", "p", kernel_shape=[2, 2], strides=[2, 2]),
            node("Conv", "p L", "k", strides=[2, 2]),
            node("Flatten", "k", "y"),
        ],
        [1, 2, 8, 8],
        {"K": weights(3, 2, 3, 3), "L": weights(4, 3, 2, 2)},
    ),
    "sort": (
        [
            node("MatMul", "x W", "h"),
            node("Reshape", "h groups", "p"),
            node("TopK", "p k", "s at", axis=2, largest=0, sorted=1),
            node("Flatten", "s", "y"),
        ],
        [1, 4],
        {"W": weights(4, 6), "groups": ints(1, 2, 3), "k": ints(3)},
    ),
}


@pytest.mark.parametrize("norm", ["2", "inf"])
@pytest.mark.parametrize("name", NETWORKS)
def test_product_is_above_everything_attained(name: str, norm: str) -> None:
    graph = _graph(*NETWORKS[name])
    count = 5 if name == "convolutions" else 60
    bound = norm_product(graph, norm)
    assert _attained(graph, norm, count=count) <= bound < math.inf
    size = graph.input_size
    box = np.full(size, -0.3), np.full(size, 0.3)
    local = norm_product(graph, norm, *box)
    assert _attained(graph, norm, 0.3, count) <= local <= bound * (1 + 1e-12)


def test_closed_forms() -> None:
    graph = _graph(*NETWORKS["two layers"])
    w, v = weights(4, 6).astype(np.float64), weights(6, 3).astype(np.float64)
    assert norm_product(graph) == pytest.approx(np.linalg.norm(w, 2) * np.linalg.norm(v, 2), rel=1e-8)
    assert norm_product(graph, "inf") == pytest.approx(np.abs(w).sum(0).max() * np.abs(v).sum(0).max(), rel=1e-12)
    maxmin = _graph(*NETWORKS["maxmin"])
    assert norm_product(maxmin) == pytest.approx(norm_product(graph), rel=1e-9)
    sort = _graph(*NETWORKS["sort"])
    assert norm_product(sort) == pytest.approx(np.linalg.norm(w, 2), rel=1e-8)
    u = weights(6, 4, seed=1).astype(np.float64)
    inner = 1 + np.linalg.norm(w, 2) * np.linalg.norm(u, 2)
    # A slope in [a, b] counts as its middle plus half its width, so the two branches of the sum may cancel.
    assert norm_product(_graph(*NETWORKS["residual"])) <= inner * math.sqrt(2) * (1 + 1e-8)


def test_large_linear_pieces_go_operator_by_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = _graph(*NETWORKS["convolutions"])
    composed = norm_product(graph)
    monkeypatch.setattr(module, "_COMPOSE", 0)
    apart = norm_product(graph)
    assert composed * (1 - 1e-12) <= apart <= composed * 2
    assert _attained(graph, "2", count=5) <= apart


def test_products_of_variables_need_a_region() -> None:
    nodes = [node("MatMul", "x W", "h"), node("Split", "h half", "a b", axis=1), node("Mul", "a b", "y")]
    graph = _graph(nodes, [1, 3], {"W": weights(3, 4), "half": ints(2, 2)})
    with pytest.raises(UnsupportedOperatorError, match="region"):
        norm_product(graph)
    for norm in ("2", "inf"):
        bound = norm_product(graph, norm, np.full(3, -0.5), np.full(3, 0.5))
        assert _attained(graph, norm, 0.5) <= bound < math.inf


def test_wrong_calls() -> None:
    graph = _graph(*NETWORKS["two layers"])
    with pytest.raises(UsageError, match="norm"):
        norm_product(graph, "1")
    with pytest.raises(UsageError, match="both"):
        norm_product(graph, "2", np.zeros(4))
    steep = _graph([node("Exp", "x", "y")], [1, 3], {})
    with pytest.raises(ModelError, match="node 'y'"):
        norm_product(steep)


@pytest.mark.bench
def test_published_products(bench_folder: Path) -> None:
    with (bench_folder / "lipschitz" / "values.csv").open() as table:
        rows = [row for row in csv.DictReader(table) if row["file"].endswith(".onnx")]
    assert len(rows) >= 17
    for row in rows:
        graph = load_onnx(bench_folder / "lipschitz" / row["file"]).graph
        bound = norm_product(graph, "inf" if row["norm"] == "linf" else "2")
        # The table has three to nine digits.
        digits = 1e-6 if len(row["product"]) > 7 else 1e-4
        assert float(row["lower"] or row["sdp"]) * (1 - 1e-6) <= bound <= float(row["product"]) * (1 + digits), row[
            "file"
        ]
