"""Local bounds in rounds: never looser than one round, sometimes tighter, and above every Jacobian of the region."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
import torch
from verinet.solvers.lipschitz.balls import BallBackward, ball_box
from verinet.solvers.lipschitz.local import Zone, ball_zone, box_zone, local_rounds, zone_ranges
from verinet.solvers.lipschitz.menu import Ask, bounds_by_menu
from verinet.solvers.lipschitz.ranges import node_ranges, swept
from verinet.solvers.lipschitz.subjects import network_subject

import verinet
from tests.unit.frontends.onnx_models import Spec, node, weights
from verinet.frontends.onnx import load_onnx
from verinet.ir.graph import Graph
from verinet.propagation.backward import InputRows
from verinet.propagation.rows import RowMap

INPUTS, WIDTH = 6, 8


def _deep(activation: str, depth: int, seed: int, scale: float = 1.6, residual: bool = False) -> Graph:
    steps, constants, at = [], {}, "x"
    sizes = [INPUTS, *[WIDTH] * depth, 3]
    for layer, (rows, columns) in enumerate(zip(sizes, sizes[1:], strict=False)):
        matrix = weights(rows, columns, seed=seed * 100 + layer) * np.float32(scale / math.sqrt(rows))
        constants |= {f"W{layer}": matrix, f"b{layer}": weights(columns, seed=seed * 100 + 50 + layer)}
        last = layer == depth
        steps.append(node("Gemm", f"{at} W{layer} b{layer}", "y" if last else f"h{layer}"))
        if not last:
            steps.append(node(activation, f"h{layer}", f"a{layer}"))
            if residual and layer:
                steps.append(node("Add", f"a{layer} {at}", f"r{layer}"))
            at = f"r{layer}" if residual and layer else f"a{layer}"
    return load_onnx(Spec("net", steps, {"x": (1, INPUTS)}, constants).model()).graph.to(torch.float64)


def _zones(seed: int) -> dict[str, Zone]:
    center = np.random.default_rng(seed).standard_normal(INPUTS)
    return {"ball": ball_zone(center, 0.4), "box": box_zone(center - 0.2, center + 0.2)}


def _points(zone: Zone, count: int = 60) -> torch.Tensor:
    draw = np.random.default_rng(5)
    if zone.ball:
        ways = draw.standard_normal((count, INPUTS))
        lengths = zone.radius * draw.uniform(0, 1 - 1e-12, (count, 1)) ** 0.2
        points = zone.center + lengths * ways / np.linalg.norm(ways, axis=1, keepdims=True)
    else:
        points = draw.uniform(zone.lower, zone.upper, (count, INPUTS))
        points[: count // 2] = np.where(draw.random((count // 2, INPUTS)) < 0.5, zone.lower, zone.upper)
    return torch.from_numpy(points)


def _largest_jacobian(graph: Graph, points: torch.Tensor) -> float:
    def run(x: torch.Tensor) -> torch.Tensor:
        return graph.forward(x.reshape(1, -1))[0]

    return max(float(torch.linalg.matrix_norm(torch.autograd.functional.jacobian(run, p), 2)) for p in points)


def _one_round(graph: Graph, zone: Zone) -> float:
    ask = Ask(2.0, "neuron", "auto", time.perf_counter() + 20, lambda: 0.0)
    return bounds_by_menu(network_subject(graph, zone_ranges(graph, zone), 2.0, "neuron"), ask)[0].upper


@pytest.mark.parametrize("kind", ["ball", "box"])
@pytest.mark.parametrize(("activation", "residual"), [("Relu", False), ("Tanh", False), ("Relu", True)])
def test_rounds_tighten_and_hold(activation: str, residual: bool, kind: str) -> None:
    graph = _deep(activation, 5, 3, residual=residual)
    zone = _zones(3)[kind]
    points = _points(zone)
    first = _one_round(graph, zone)
    rounds = local_rounds(graph, zone, "neuron", time.perf_counter() + 60)
    uppers = [bound.upper for bound in rounds.bounds]
    assert len(uppers) > 1 and min(uppers) <= first * (1 + 1e-6)
    assert min(uppers) >= _largest_jacobian(graph, points) * (1 - 1e-9)
    values = graph.forward_all(points)
    for position, (low, high) in rounds.ranges.known.items():
        pad = 1e-12 * (1 + values[position].abs())
        assert bool((values[position] + pad >= low).all()) and bool((values[position] - pad <= high).all())


def test_rounds_make_some_bounds_strictly_tighter() -> None:
    gains = []
    for kind in ("ball", "box"):
        graph, zone = _deep("Tanh", 5, 3), _zones(3)[kind]
        rounds = local_rounds(graph, zone, "neuron", time.perf_counter() + 60)
        gains.append(rounds.bounds[0].upper / min(b.upper for b in rounds.bounds))
    assert max(gains) > 1.02


def test_ranges_never_grow_from_round_to_round() -> None:
    graph, zone = _deep("Relu", 4, 1), _zones(1)["ball"]
    before = zone_ranges(graph, zone)
    after = local_rounds(graph, zone, "neuron", time.perf_counter() + 60).ranges
    for position, (low, high) in after.known.items():
        assert bool((low >= before.known[position][0]).all()) and bool((high <= before.known[position][1]).all())


def test_no_time_leaves_the_ranges_of_one_pass() -> None:
    graph, zone = _deep("Relu", 4, 1), _zones(1)["box"]
    rounds = local_rounds(graph, zone, "auto", time.perf_counter() - 1)
    assert len(rounds.bounds) == 1
    assert rounds.bounds[0].upper >= _largest_jacobian(graph, _points(zone)) * (1 - 1e-9)


def test_a_box_zone_reaches_its_corners() -> None:
    zone = box_zone(np.array([0.1, -3.0, 2.0]), np.array([0.3, 7.7, 2.0]))
    for corner in (zone.lower, zone.upper):
        assert np.linalg.norm(corner - zone.center) <= zone.radius <= 5.36
    assert ((zone.lower <= zone.center) & (zone.center <= zone.upper)).all()


def test_rows_over_a_ball_are_tighter_than_over_its_box() -> None:
    graph = _deep("Relu", 1, 0)
    center = np.zeros(INPUTS)
    lower, upper = ball_box(center, 1.0)
    box = node_ranges(graph, lower, upper)
    low, high = (torch.from_numpy(end.copy()) for end in (lower, upper))
    ball = swept(BallBackward.over(graph, center, 1.0), (low, high))
    backward = BallBackward.over(graph, center, 1.0)
    bound = InputRows(torch.ones(1, INPUTS, dtype=torch.float64), torch.zeros(1, dtype=torch.float64))
    owner = RowMap.ragged(torch.zeros(1, dtype=torch.int64), 1)
    least = float(backward.concretize(bound, owner, low.unsqueeze(0), high.unsqueeze(0)))
    assert -math.sqrt(INPUTS) * (1 + 1e-9) <= least <= -math.sqrt(INPUTS)
    assert ball.known.keys() == box.known.keys()


def test_the_answer_tells_of_the_rounds() -> None:
    steps = [node("Gemm", "x W b", "h"), node("Tanh", "h", "a"), node("MatMul", "a V", "y")]
    constants = {"W": weights(4, 6), "b": weights(6, seed=1), "V": weights(6, 2, seed=2)}
    network = load_onnx(Spec("net", steps, {"x": (1, 4)}, constants).model())
    bound = verinet.lipschitz(network, region=verinet.Ball(np.zeros(4), 0.5), timeout=5)
    assert any("rounds of local bounds" in note for note in bound.notes)
    assert bound.candidates[0][1] == min(upper for _, upper, _ in bound.candidates)
