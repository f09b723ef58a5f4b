"""`verinet.lipschitz`: never below what is attained, in every norm, region and method; the clock, and records."""

from __future__ import annotations

import json
import math
import time
from typing import Any

import numpy as np
import pytest

import verinet
from tests.unit.frontends.onnx_models import node, weights
from tests.unit.lipschitz.api_kit import (
    ACTIVATIONS,
    INF,
    NORMS,
    SIZE,
    attained_at,
    check_holds,
    conv_net,
    dense_net,
    loaded,
    operator_norm,
    points_everywhere,
    points_in_ball,
    spec_of,
)


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("norm", [2, "inf"])
def test_bounds_are_above_what_samples_attain(name: str, norm: Any) -> None:
    network = loaded(dense_net(ACTIVATIONS[name]))
    bound = verinet.lipschitz(network, norm=norm, timeout=3)
    check_holds(bound, attained_at(network, points_everywhere(SIZE), norm))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ["maxmin", "tanh"])
def test_other_norms(name: str, norm: Any) -> None:
    network = loaded(dense_net(ACTIVATIONS[name]))
    bound = verinet.lipschitz(network, norm=norm, timeout=2)
    check_holds(bound, attained_at(network, points_everywhere(SIZE), norm))


@pytest.mark.parametrize("norm", [2, "inf", (1, INF), (INF, 1)])
def test_convolutions(norm: Any) -> None:
    network = loaded(conv_net())
    check_holds(verinet.lipschitz(network, norm=norm, timeout=2), attained_at(network, points_everywhere(16), norm))


@pytest.mark.parametrize("name", ["relu", "sigmoid", "maxmin", "residual"])
@pytest.mark.parametrize("radius", [0.05, 0.5, 3.0])
def test_boxes_and_balls(name: str, radius: float) -> None:
    """Regions hold what happens inside, a ball is never looser than its box, nor a box looser than the whole space."""
    network = loaded(dense_net(ACTIVATIONS[name]))
    center = np.array([0.3, -0.2, 0.5, 0.1])
    box = verinet.lipschitz(network, region=verinet.linf_ball(center, radius), method="neuron", timeout=3)
    ball = verinet.lipschitz(network, region=verinet.Ball(center, radius), method="neuron", timeout=3)
    whole = verinet.lipschitz(network, method="neuron", timeout=3)
    draw = np.random.default_rng(7)
    check_holds(box, attained_at(network, center + radius * draw.uniform(-1, 1, (200, SIZE)), 2))
    check_holds(ball, attained_at(network, points_in_ball(center, radius), 2))
    assert ball.upper <= box.upper * (1 + 1e-5) and box.upper <= whole.upper * (1 + 1e-5)
    assert (ball.region, box.region, whole.region) == ("ball", "box", "everywhere")


@pytest.mark.parametrize("norm", [(1, 2), (1, INF), "inf"])
def test_other_norms_over_a_ball(norm: Any) -> None:
    """From the 1-norm input by input: the path along the axes leaves the ball, the bound must hold all the same."""
    network, center = loaded(dense_net(ACTIVATIONS["relu"])), np.array([0.3, -0.2, 0.5, 0.1])
    bound = verinet.lipschitz(network, norm=norm, region=verinet.Ball(center, 0.4), timeout=2)
    check_holds(bound, attained_at(network, points_in_ball(center, 0.4), norm))


@pytest.mark.parametrize("method", ["auto", "product", "recursion", "layer", "first-order", "neuron", "exact"])
def test_every_method(method: str) -> None:
    network = loaded(dense_net(ACTIVATIONS["relu"]))
    bound = verinet.lipschitz(network, method=method, timeout=4)
    check_holds(bound, attained_at(network, points_everywhere(SIZE), 2))
    assert method == "auto" or bound.method == method
    for region in (verinet.linf_ball(np.zeros(SIZE), 0.3), verinet.Ball(np.zeros(SIZE), 0.3)):
        local = verinet.lipschitz(network, method=method, region=region, timeout=4)
        check_holds(local, attained_at(network, points_in_ball(np.zeros(SIZE), 0.3), 2))


@pytest.mark.parametrize("solver", ["verinet", "clarabel", "scs"])
def test_every_solver_proves_about_the_same(solver: str) -> None:
    network = loaded(dense_net(ACTIVATIONS["tanh"]))
    ours = verinet.lipschitz(network, method="neuron", timeout=5)
    theirs = verinet.lipschitz(network, method="neuron", solver=solver, timeout=20)
    assert theirs.upper == pytest.approx(ours.upper, rel=1e-3)
    assert theirs.method == ("neuron" if solver == "verinet" else f"neuron ({solver})")


def test_outputs_are_picked_and_combined() -> None:
    network = loaded(dense_net(ACTIVATIONS["relu"]))
    rows = np.array([[1.0, -1.0, 0.0], [0.5, 0.0, 2.0]])
    for output, matrix in ((1, np.eye(3)[[1]]), ([2, 0], np.eye(3)[[2, 0]]), (rows, rows)):
        bound = verinet.lipschitz(network, output=output, timeout=2)
        check_holds(bound, attained_at(network, points_everywhere(SIZE), 2, matrix))
    flat = loaded(spec_of([node("Conv", "x K", "a"), node("Relu", "a", "y")], (1, 1, 4, 4), K=weights(2, 1, 3, 3)))
    single = verinet.lipschitz(flat, output=5, timeout=2)
    check_holds(single, attained_at(flat, points_everywhere(16), 2, np.eye(8)[[5]]))


def test_the_order_and_scale_of_neurons_do_not_matter() -> None:
    first, second, third = weights(SIZE, 8), weights(8, 8, seed=1), weights(8, 3, seed=2)
    nodes = [
        node("MatMul", "x W", "a"),
        node("Relu", "a", "h"),
        node("MatMul", "h V", "b"),
        node("Relu", "b", "k"),
        node("MatMul", "k U", "y"),
    ]
    order = np.random.default_rng(0).permutation(8)
    size = np.float32(2.0) ** np.random.default_rng(1).integers(-6, 7, 8).astype(np.float32)
    variants = [
        (first, second, third),
        (first[:, order], second[order][:, order], third[order]),
        (first * size, (second / size[:, None]), third),
        (first * np.float32(1024), second / np.float32(32), third / np.float32(32)),
    ]
    found = [
        verinet.lipschitz(loaded(spec_of(nodes, W=w, V=v, U=u)), method="neuron", timeout=5).upper
        for w, v, u in variants
    ]
    assert found == pytest.approx([found[0]] * 4, rel=1e-5)


@pytest.mark.parametrize("norm", [2, "inf", (1, INF), (INF, 1)])
def test_networks_without_anything_nonlinear(norm: Any) -> None:
    matrix = weights(SIZE, 3)
    linear = verinet.lipschitz(loaded(spec_of([node("MatMul", "x W", "y")], W=matrix)), norm=norm, timeout=2)
    p, q = norm if isinstance(norm, tuple) else (float(norm), float(norm))
    assert linear.upper >= operator_norm(matrix.T.astype(np.float64), p, q)
    assert linear.gap < 1e-6 or norm == (INF, 1)  # that program is a relaxation even of a matrix norm
    nodes = [node("MatMul", "x Z", "a"), node("Relu", "a", "h"), node("MatMul", "h W", "y")]
    zero = np.zeros((SIZE, SIZE), dtype=np.float32)
    for constant in (spec_of(nodes, Z=zero, W=matrix), spec_of(nodes, Z=weights(SIZE, SIZE), W=np.zeros_like(matrix))):
        bound = verinet.lipschitz(loaded(constant), norm=norm, timeout=2)
        assert bound.upper == 0 == bound.lower and bound.gap == 0


def test_slopes_that_a_region_fixes_leave_a_linear_network() -> None:
    network = loaded(spec_of([node("MatMul", "x W", "h"), node("Relu", "h", "y")], W=np.eye(SIZE, dtype=np.float32)))
    for region in (verinet.box(np.ones(SIZE), 2 * np.ones(SIZE)), verinet.Ball(2 * np.ones(SIZE), 0.5)):
        for method in ("auto", "neuron", "recursion", "layer", "first-order", "exact"):
            assert verinet.lipschitz(network, region=region, method=method, timeout=2).upper == pytest.approx(1.0)
    below = verinet.lipschitz(network, region=verinet.box(-2 * np.ones(SIZE), -np.ones(SIZE)), timeout=2)
    assert below.upper == 0


@pytest.mark.parametrize("method", ["auto", "first-order", "neuron", "recursion"])
def test_the_clock_ends_it_with_a_bound(method: str) -> None:
    draw = np.random.default_rng(0)
    widths = (20, 90, 90, 90, 5)
    nodes, constants, last = [], {}, "x"
    for i, (a, b) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
        constants[f"W{i}"] = (draw.standard_normal((a, b)) / math.sqrt(a)).astype(np.float32)
        nodes += [node("MatMul", f"{last} W{i}", f"a{i}")]
        last = f"a{i}"
        if i < 3:
            nodes += [node("Relu", last, f"h{i}")]
            last = f"h{i}"
    nodes[-1].output[0] = "y"
    network = loaded(spec_of(nodes, (1, 20), **constants))
    begin = time.perf_counter()
    bound = verinet.lipschitz(network, method=method, timeout=0.5)
    assert time.perf_counter() - begin < 15  # the machine may be busy; alone it takes well below two seconds
    check_holds(bound, attained_at(network, points_everywhere(20, 40), 2))
    assert math.isfinite(bound.upper)


@pytest.mark.parametrize("norm", [2, (1, INF), (INF, 1), "inf"])
def test_hardly_any_time_is_enough_for_a_bound(norm: Any) -> None:
    """With many parts left when the clock ends, one looser program covers them all."""
    network = loaded(conv_net())
    check_holds(verinet.lipschitz(network, norm=norm, timeout=1e-9), attained_at(network, points_everywhere(16), norm))


def test_the_record_is_plain() -> None:
    bound = verinet.lipschitz(loaded(dense_net(ACTIVATIONS["relu"])), method="neuron", timeout=3)
    record = json.loads(json.dumps(bound.to_dict(), allow_nan=False))
    assert set(record) >= {"upper", "lower", "method", "norm", "region", "gap", "seconds", "multipliers"}
    assert record["upper"] == bound.upper and len(record["multipliers"]) == 12 == sum(s.blocks for s in bound.layers)
    assert record["gap"] == pytest.approx(bound.upper / bound.lower - 1)
    assert [entry["method"] for entry in record["candidates"]] == ["neuron"]
    assert all(value > 0 for value in record["multipliers"])
