"""Ranges over a ball: they hold inside it, and are never wider than over the box around it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from verinet.solvers.lipschitz.balls import ball_box, ball_ranges
from verinet.solvers.lipschitz.ranges import node_ranges

from tests.unit.frontends.onnx_models import Spec, node, weights
from verinet.errors import UsageError
from verinet.frontends.onnx import load_onnx
from verinet.ir.graph import Graph


def _graph(hidden: list[Any], inputs: int = 16, width: int = 8) -> Graph:
    nodes = [node("Gemm", "x W b", "h"), *hidden, node("Gemm", "g V c", "k"), node("Tanh", "k", "t")]
    constants = {
        "W": weights(inputs, width),
        "b": weights(width, seed=1),
        "V": weights(width, width, seed=2),
        "c": weights(width, seed=3),
        "U": weights(width, 3, seed=4),
    }
    return load_onnx(Spec("net", [*nodes, node("MatMul", "t U", "y")], {"x": (1, inputs)}, constants).model()).graph


NETWORKS = {
    "relu": [node("Relu", "h", "g")],
    "residual": [node("Sigmoid", "h", "s"), node("Add", "s h", "g")],
    "softmax": [node("Softmax", "h", "g")],
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("radius", [0.0, 1e-6, 0.3, 5.0, 1e-320])
def test_ranges_hold_and_are_within_those_of_the_box(name: str, radius: float) -> None:
    graph = _graph(NETWORKS[name]).to(torch.float64)
    center = np.random.default_rng(0).standard_normal(16)
    ranges, box = ball_ranges(graph, center, radius), node_ranges(graph, *ball_box(center, radius))
    ways = np.random.default_rng(1).standard_normal((300, 16))
    points = torch.from_numpy(center + radius * (1 - 1e-15) * ways / np.linalg.norm(ways, axis=1, keepdims=True))
    narrower = 0
    assert ranges.known.keys() == box.known.keys()
    for position, (low, high) in ranges.known.items():
        values = _value(graph, position, points)
        pad = 1e-12 * (1 + values.abs())  # the values themselves are rounded
        assert bool((values + pad >= low).all()) and bool((values - pad <= high).all())
        assert bool((low >= box.known[position][0]).all()) and bool((high <= box.known[position][1]).all())
        narrower += int((high - low < 0.9 * (box.known[position][1] - box.known[position][0])).sum())
    assert narrower > 0 or radius < 1e-3


def _value(graph: Graph, position: int, points: torch.Tensor) -> torch.Tensor:
    return Graph(graph.nodes[: position + 1]).forward(points) if position else points


def test_the_box_around_a_ball_is_rounded_outward() -> None:
    lower, upper = ball_box(np.array([0.1, 1e16, -3.0]), 0.3)
    assert lower[0] < 0.1 - 0.3 and upper[0] > 0.1 + 0.3 and lower[1] < 1e16 < upper[1]


@pytest.mark.parametrize(("center", "radius"), [([0.0], -1.0), ([0.0], np.nan), ([np.nan], 1.0), ([0.0], np.inf)])
def test_what_is_no_ball(center: list[float], radius: float) -> None:
    with pytest.raises(UsageError, match="not a ball"):
        ball_box(np.array(center), radius)
