"""Lower bounds: never above certified upper bounds, close to exact values where these are attained."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from verinet.solvers.lipschitz.attained import dual_vector, vector_norm, worst_directions
from verinet.solvers.lipschitz.exact import exact_fgl
from verinet.solvers.lipschitz.lower import Effort, ball, box, everywhere, lower_bound

from tests.kits.lipschitz_networks import form_of, network
from tests.soundness.networks import random_graph
from verinet.errors import UsageError

QUICK = Effort(samples=300, rounds=40)


@pytest.mark.parametrize("kind", ["relu", "tanh", "leaky", "abs", "maxmin", "householder"])
def test_below_the_exact_value_and_not_far(kind: str) -> None:
    net = network((3, 6, 6, 2), kind, 1)
    found, exact = lower_bound(net.function, everywhere(3), effort=QUICK), exact_fgl(form_of(net.chain))
    assert 0.6 * exact.value <= found.value <= exact.upper
    assert not found.proved


def test_linear_maps_are_measured_exactly() -> None:
    matrix = torch.tensor([[3.0, 1.0, 0.0], [0.0, -2.0, 1.0]], dtype=torch.float64)

    def function(x: torch.Tensor) -> torch.Tensor:
        return x @ matrix.T + 1

    spectral = float(np.linalg.norm(matrix, 2))
    for norm, expected in ((2.0, spectral), (math.inf, 4.0), ((1.0, 1.0), 3.0), ((1.0, 2.0), 3.0)):
        found = lower_bound(function, everywhere(3), norm=norm, effort=QUICK).value
        assert found == pytest.approx(expected, rel=1e-9) and found <= expected
    row = lower_bound(function, everywhere(3), outputs=np.array([[1.0, 1.0]]), effort=QUICK)
    assert row.value == pytest.approx(math.sqrt(9 + 1 + 1), rel=1e-9)


def test_points_attain_the_value_and_lie_in_the_region() -> None:
    net = network((3, 8, 2), "tanh", 2)
    low, high = np.array([-0.1, 0.2, 0.5]), np.array([0.1, 0.2, 0.9])
    found = lower_bound(net.function, box(low, high), effort=QUICK)
    a, b = found.points
    assert all(((low <= p) & (p <= high)).all() for p in (a, b)), "the fixed input may not move"
    apart = net.function(torch.from_numpy(a)[None]) - net.function(torch.from_numpy(b)[None])
    assert float(apart.norm()) / np.linalg.norm(a - b) == pytest.approx(found.value, rel=1e-6)
    center = np.array([0.3, -0.2, 0.1])
    inside = lower_bound(net.function, ball(center, 0.05), effort=QUICK)
    assert all(np.linalg.norm(p - center) <= 0.05 for p in inside.points)
    assert 0 < inside.value <= lower_bound(net.function, everywhere(3), effort=Effort()).value * 1.001


def test_local_values_follow_the_region() -> None:
    """|x| - |x - 1|: slope 0 outside [0, 1], 2 inside."""

    def function(x: torch.Tensor) -> torch.Tensor:
        return x.abs() - (x - 1).abs()

    outside = lower_bound(function, box(np.array([2.0]), np.array([3.0])), effort=QUICK)
    inside = lower_bound(function, box(np.array([-1.0]), np.array([3.0])), effort=QUICK)
    assert outside.value < 1e-9
    assert inside.value == pytest.approx(2.0, rel=1e-9) and inside.value <= 2.0


@given(seed=st.integers(0, 40))
def test_values_of_graphs_are_proved_quotients(seed: int) -> None:
    graph = random_graph(seed)
    found = lower_bound(graph, everywhere(graph.input_size), effort=Effort(60, 6))
    assert found.proved
    if found.value == 0:
        return
    a, b = (torch.from_numpy(p)[None] for p in found.points)
    apart = graph.to(torch.float64).forward(a) - graph.to(torch.float64).forward(b)
    assert found.value <= float(apart.norm()) / float((a - b).norm()) * (1 + 1e-12)


def test_constant_and_broken_functions() -> None:
    assert lower_bound(lambda x: torch.ones(len(x), 2, dtype=torch.float64), everywhere(2), effort=QUICK).value == 0
    found = lower_bound(lambda x: x.sqrt(), box(np.array([-1.0]), np.array([1.0])), effort=QUICK)
    assert math.isfinite(found.value) and found.value > 1


def test_regions_are_checked() -> None:
    graph = random_graph(1)
    with pytest.raises(UsageError, match="inputs"):
        lower_bound(graph, everywhere(graph.input_size + 1))
    with pytest.raises(UsageError, match="not a box"):
        box(np.array([1.0]), np.array([0.0]))
    with pytest.raises(UsageError, match="not a ball"):
        ball(np.zeros(2), -1.0)


def test_the_deadline_ends_the_search_with_a_value() -> None:
    net = network((20, 60, 60, 10), "relu", 1)
    begin = time.perf_counter()
    found = lower_bound(net.function, everywhere(20), effort=Effort(10**4, 10**6, deadline=begin + 0.2))
    assert found.value > 0 and time.perf_counter() - begin < 5


@pytest.mark.parametrize("exponent", [1.0, 1.5, 2.0, 3.0, math.inf])
def test_dual_vectors_attain_the_dual_norm(exponent: float) -> None:
    values = torch.randn(5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ways = dual_vector(values, exponent)
    dual = {1.0: math.inf, math.inf: 1.0}.get(exponent, exponent / (exponent - 1) if exponent > 1 else 0.0)
    assert torch.allclose(vector_norm(ways, exponent), torch.ones(5, dtype=torch.float64))
    assert torch.allclose((ways * values).sum(1), vector_norm(values, dual))


def test_worst_directions_of_large_and_broken_jacobians() -> None:
    draw = torch.Generator().manual_seed(1)
    tall = torch.randn(2, 70, 80, generator=draw, dtype=torch.float64)
    norms = worst_directions(tall, (2.0, 2.0))[1]
    exact = torch.linalg.matrix_norm(tall, 2)
    assert bool((norms <= exact * (1 + 1e-12)).all()) and bool((norms >= 0.95 * exact).all())
    tall[0, 0, 0] = math.nan
    assert worst_directions(tall, (2.0, 2.0))[1].isnan().tolist() == [True, False]


@pytest.mark.parametrize("outputs", [60, 3])
def test_many_outputs(outputs: int) -> None:
    net = network((4, 8, outputs), "relu", 3)
    found = lower_bound(net.function, everywhere(4), effort=QUICK)
    assert 0.7 * exact_fgl(form_of(net.chain)).value <= found.value <= exact_fgl(form_of(net.chain)).upper
