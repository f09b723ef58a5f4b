"""Networks, regions and attained values for the tests of `verinet.lipschitz` and `verinet.radius`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from tests.unit.frontends.onnx_models import Spec, ints, node, weights
from verinet.frontends.model import Model
from verinet.frontends.onnx import load_onnx
from verinet.results import LipschitzBound

INF = math.inf
SIZE = 4
NORMS: list[Any] = [2, "inf", (1, 2), (1, INF), (2, INF), (INF, 1), (3.0, 1.5)]


def spec_of(nodes: list[Any], shape: tuple[int, ...] = (1, SIZE), **constants: np.ndarray) -> onnx.ModelProto:
    return Spec("net", nodes, {"x": shape}, constants).model()


def dense_net(activation: list[Any], outputs: int = 3, scale: float = 1.0, seed: int = 0) -> onnx.ModelProto:
    """4 inputs, six units (h -> g by `activation`), again six (through a ReLU), outputs."""
    return spec_of(
        [
            node("Gemm", "x W b", "h"),
            *activation,
            node("Gemm", "g V c", "k"),
            node("Relu", "k", "r"),
            node("MatMul", "r U", "y"),
        ],
        W=weights(SIZE, 6, seed=seed) * np.float32(scale),
        b=weights(6, seed=seed + 1),
        V=weights(6, 6, seed=seed + 2) * np.float32(0.5),
        c=weights(6, seed=seed + 3),
        U=weights(6, outputs, seed=seed + 4),
        pairs=ints(1, 3, 2),
        flat=ints(1, 6),
    )


MAXMIN = [
    node("Reshape", "h pairs", "p"),
    node("ReduceMax", "p", "hi", axes=[2], keepdims=0),
    node("ReduceMin", "p", "lo", axes=[2], keepdims=0),
    node("Concat", "hi lo", "g", axis=1),
]
RESIDUAL = [node("Relu", "h", "a"), node("Add", "a h", "g")]
ACTIVATIONS: dict[str, list[Any]] = {
    **{op.lower(): [node(op, "h", "g")] for op in ("Relu", "Tanh", "Sigmoid", "LeakyRelu", "Softplus", "Abs", "Elu")},
    "maxmin": MAXMIN,
    "residual": RESIDUAL,
}


def conv_net() -> onnx.ModelProto:
    return spec_of(
        [
            node("Conv", "x K", "a", pads=[1, 1, 1, 1], strides=[2, 2]),
            node("Relu", "a", "r"),
            node("Flatten", "r", "f"),
            node("MatMul", "f U", "y"),
        ],
        (1, 1, 4, 4),
        K=weights(2, 1, 3, 3),
        U=weights(8, 3, seed=1),
    )


def loaded(proto: onnx.ModelProto) -> Model:
    return load_onnx(proto)


def operator_norm(jacobian: np.ndarray, p: float, q: float) -> float:
    """At most the norm from p to q: exact where vertices of the unit ball decide, else by random directions."""
    columns = jacobian.shape[1]
    if (p, q) == (2, 2):
        return float(np.linalg.norm(jacobian, 2))
    if p == 1:
        directions = np.eye(columns)
    elif math.isinf(p):
        directions = np.array(np.meshgrid(*[[-1.0, 1.0]] * min(columns, 10))).reshape(min(columns, 10), -1).T
        directions = np.pad(directions, ((0, 0), (0, columns - directions.shape[1])))
    else:
        directions = np.random.default_rng(0).standard_normal((60, columns))
        directions /= np.linalg.norm(directions, ord=p, axis=1, keepdims=True)
    return float(np.linalg.norm(directions @ jacobian.T, ord=q, axis=1).max())


def attained_at(network: Model, points: np.ndarray, norm: Any, rows: np.ndarray | None = None) -> float:
    """The largest Jacobian norm at the points, and difference quotient between neighbours among them."""
    p, q = norm if isinstance(norm, tuple) else (float(norm), float(norm))
    graph = network.graph.to(torch.float64)
    rows = np.eye(graph.output_size) if rows is None else rows
    inputs = torch.from_numpy(points)
    jacobian = torch.autograd.functional.jacobian(lambda x: graph.forward(x).flatten(1).sum(0), inputs)
    best = max(operator_norm(rows @ j, p, q) for j in jacobian.permute(1, 0, 2).numpy())
    values = graph.forward(inputs).flatten(1).numpy() @ rows.T
    moved, apart = np.diff(values, axis=0), np.diff(points, axis=0)
    far = np.linalg.norm(apart, ord=p, axis=1) > 1e-6
    quotients = np.linalg.norm(moved[far], ord=q, axis=1) / np.linalg.norm(apart[far], ord=p, axis=1)
    return max(best, float(quotients.max(initial=0.0)))


def points_everywhere(size: int, count: int = 150) -> np.ndarray:
    draw = np.random.default_rng(5)
    return draw.standard_normal((count, size)) * 10 ** np.linspace(-1, 1, count)[:, None]


def points_in_ball(center: np.ndarray, radius: float, count: int = 150) -> np.ndarray:
    draw = np.random.default_rng(6)
    ways = draw.standard_normal((count, center.size))
    ways /= np.linalg.norm(ways, axis=1, keepdims=True)
    return np.asarray(center + 0.999999 * radius * ways * draw.random((count, 1)) ** 0.25)


def check_holds(bound: LipschitzBound, attained: float) -> None:
    assert bound.upper >= attained * (1 - 1e-9), (bound.upper, attained, bound.method)
    assert bound.upper >= bound.lower >= 0
    uppers = [upper for _, upper, _ in bound.candidates]
    assert uppers == sorted(uppers) and uppers[0] <= bound.upper <= uppers[0] * (1 + 2e-8)


def implicit_file(tmp_path: Path, scale: float = 0.4, **changes: Any) -> Path:
    draw = np.random.default_rng(3)
    a = draw.standard_normal((6, 6))
    arrays = {
        "A": scale * a / np.linalg.norm(a, 2),
        "B": draw.standard_normal((6, 3)),
        "C": draw.standard_normal((2, 6)),
        "b": draw.standard_normal(6),
        "activation": np.array("tanh"),
    }
    arrays.update(changes)
    np.savez(tmp_path / "model.npz", **{k: v for k, v in arrays.items() if v is not None})
    return tmp_path / "model.npz"
