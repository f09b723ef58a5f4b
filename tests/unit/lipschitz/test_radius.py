"""`verinet.radius`: no point within it changes the label; with and without a global bound."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import verinet
from tests.unit.frontends.onnx_models import ints, node, weights
from tests.unit.lipschitz.api_kit import (
    ACTIVATIONS,
    INF,
    SIZE,
    dense_net,
    implicit_file,
    loaded,
    points_in_ball,
    spec_of,
)
from verinet.errors import ModelError, UsageError


@pytest.mark.parametrize("name", ["relu", "tanh", "maxmin", "residual"])
@pytest.mark.parametrize("seed", [0, 1])
def test_no_point_within_the_radius_changes_the_label(name: str, seed: int) -> None:
    network = loaded(dense_net(ACTIVATIONS[name], outputs=4, seed=10 * seed))
    x = np.random.default_rng(seed).standard_normal(SIZE)
    found = verinet.radius(network, x, timeout=4)
    assert 0 < found.radius < math.inf and found.margin > 0
    graph = network.graph.to(torch.float64)
    points = torch.from_numpy(np.concatenate([points_in_ball(x, found.radius, 400), [x]])).requires_grad_()
    for _ in range(60):  # downhill on the margin, back into the ball
        values = graph.forward(points)
        others = values.clone()
        others[:, found.label] = -math.inf
        margin = values[:, found.label] - others.amax(1)
        assert float(margin.detach().min()) > 0
        (slope,) = torch.autograd.grad(margin.sum(), points)
        moved = points - 0.2 * found.radius * slope / slope.norm(dim=1, keepdim=True).clamp(min=1e-300) - points.new(x)
        length = moved.norm(dim=1, keepdim=True).clamp(min=1e-300)
        points = (points.new(x) + moved * (found.radius / length).clamp(max=1.0)).detach().requires_grad_()


def test_the_radius_of_a_linear_network_is_the_distance_to_the_boundary() -> None:
    matrix = weights(SIZE, 3)
    x = np.array([0.4, -0.3, 0.2, 0.9])
    scores = x @ matrix.astype(np.float64)
    best = int(scores.argmax())
    distances = [
        (scores[best] - scores[j]) / np.linalg.norm(matrix[:, best].astype(np.float64) - matrix[:, j])
        for j in range(3)
        if j != best
    ]
    found = verinet.radius(loaded(spec_of([node("MatMul", "x W", "y")], W=matrix)), x, timeout=3)
    assert found.label == best and found.radius <= min(distances)
    assert found.radius == pytest.approx(min(distances), rel=1e-6)


def test_a_wrong_label_has_radius_zero() -> None:
    network = loaded(dense_net(ACTIVATIONS["relu"]))
    x = np.zeros(SIZE)
    right = verinet.radius(network, x, timeout=2)
    wrong = verinet.radius(network, x, label=(right.label + 1) % 3, timeout=2)
    assert right.radius > 0 and wrong.radius == 0 and wrong.margin < 0
    twins = np.repeat(weights(SIZE, 1), 2, axis=1)  # a tie is no certain label
    assert verinet.radius(loaded(spec_of([node("MatMul", "x W", "y")], W=twins)), np.ones(SIZE)).radius == 0
    json.dumps(right.to_dict())


def test_a_label_that_nothing_changes_has_an_infinite_radius() -> None:
    nodes = [node("MatMul", "x Z", "h"), node("Add", "h b", "y")]
    constant = spec_of(nodes, Z=np.zeros((SIZE, 2), dtype=np.float32), b=np.array([1, 2], dtype=np.float32))
    assert verinet.radius(loaded(constant), np.ones(SIZE), timeout=2).radius == INF


@pytest.mark.parametrize(
    ("x", "options", "words"),
    [
        (np.zeros(3), {}, "3 numbers, the network takes 4"),
        (np.full(4, math.nan), {}, "finite input"),
        (np.zeros(4), {"label": 7}, "no output 7"),
        (np.zeros(4), {"timeout": 0.0}, "positive number"),
    ],
)
def test_wrong_use_of_radius(x: np.ndarray, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        verinet.radius(loaded(dense_net(ACTIVATIONS["relu"])), x, **options)


def test_radius_needs_outputs_to_compare(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at least two outputs"):
        verinet.radius(loaded(dense_net(ACTIVATIONS["relu"], outputs=1)), np.zeros(SIZE))
    with pytest.raises(UsageError, match="ONNX network"):
        verinet.radius(implicit_file(tmp_path), np.zeros(3))


SQUARES = [node("MatMul", "x W", "h"), node("Mul", "h h", "g"), node("MatMul", "g V", "y")]
EXPONENTIALS = [node("MatMul", "x W", "h"), node("Exp", "h", "g"), node("MatMul", "g V", "y")]
ATTENTION = [
    node("MatMul", "x W", "h"),
    node("Reshape", "h rows", "q"),
    node("Transpose", "q", "k", perm=[0, 2, 1]),
    node("MatMul", "q k", "e"),
    node("Softmax", "e", "p", axis=2),
    node("MatMul", "p q", "o"),
    node("Reshape", "o flat", "g"),
    node("MatMul", "g V", "y"),
]


@pytest.mark.parametrize("name", ["squares", "exponentials", "attention"])
def test_networks_without_a_global_bound_get_a_radius(name: str) -> None:
    nodes = {"squares": SQUARES, "exponentials": EXPONENTIALS, "attention": ATTENTION}[name]
    constants = {"W": weights(SIZE, 6), "V": weights(6, 3, seed=1)}
    if name == "attention":
        constants |= {"rows": ints(1, 2, 3), "flat": ints(1, 6)}
    network = loaded(spec_of(nodes, **constants))
    with pytest.raises(ModelError):
        verinet.lipschitz(network, timeout=1)
    x = np.array([0.5, -0.4, 0.8, 0.3])
    found = verinet.radius(network, x, timeout=6)
    assert found.local and 0 < found.radius < math.inf and found.margin > 0
    graph = network.graph.to(torch.float64)
    values = graph.forward(torch.from_numpy(points_in_ball(x, found.radius, 4000)))
    assert bool((values.argmax(1) == found.label).all())
    # Not needlessly small: a few times further out the label does change, or the first-order radius is near.
    slope = torch.autograd.functional.jacobian(lambda p: graph.forward(p[None])[0], torch.from_numpy(x))
    gaps = [float((slope[found.label] - slope[j]).norm()) for j in range(3) if j != found.label]
    assert found.radius > 0.1 * found.margin / max(gaps)


def test_a_function_of_small_domain_shrinks_the_ball() -> None:
    """log x over balls that must stay within x > 0: the first ball is far too large."""
    nodes = [node("Log", "x", "g"), node("MatMul", "g V", "y")]
    network = loaded(spec_of(nodes, V=np.array([[1, 1]] * SIZE, dtype=np.float32) * np.array([[1.0, 0.5]], np.float32)))
    found = verinet.radius(network, np.full(SIZE, 1.5), timeout=5)
    assert found.local and 0 < found.radius < 1.0
