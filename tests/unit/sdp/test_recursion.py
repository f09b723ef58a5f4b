"""The layerwise recursion: valid, never worse than the norm product for slopes, and fast."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from verinet.solvers.lipschitz.cone import chain_cone, layered_problem
from verinet.solvers.sdp.interior import interior_point
from verinet.solvers.sdp.recursion import largest_eigenvalue, layerwise

from tests.unit.sdp.chains import KINDS, chain, jacobians, product, ratio
from tests.unit.sdp.test_interior import least_slack


@pytest.mark.parametrize("kind", KINDS)
def test_layerwise_bounds_hold(kind: str) -> None:
    net = chain(kind, (5, 12, 12, 12, 4), 1)
    problem, result = chain_cone(net), layerwise(layered_problem(net))
    assert least_slack(problem, result.point) > -1e-11
    assert result.bound >= max(ratio(problem, jacobian) for jacobian in jacobians(problem, 200)) * (1 - 1e-9)
    assert result.bound >= interior_point(problem).bound * (1 - 1e-7)


@pytest.mark.parametrize("seed", range(5))
def test_no_worse_than_the_norm_product(seed: int) -> None:
    net = chain("relu", (10, *[16] * 5, 4), seed)
    bound = layerwise(layered_problem(net)).bound
    assert bound <= product(net) * (1 + 1e-6)
    assert bound <= 0.8 * product(net)


def test_its_multipliers_start_the_interior_point() -> None:
    net = chain("relu", (10, 16, 16, 4), 3)
    problem = chain_cone(net)
    result = interior_point(problem, layerwise(layered_problem(net)).point)
    assert result.note == "optimal"
    assert result.bound == pytest.approx(interior_point(problem).bound, rel=1e-6)


def test_largest_eigenvalue() -> None:
    draw = np.random.default_rng(0)
    for size in (1, 2, 30, 200):
        root = draw.standard_normal((size, size))
        true = float(np.linalg.norm(root, 2)) ** 2
        assert true * (1 - 1e-9) <= largest_eigenvalue(torch.from_numpy(root @ root.T)) <= 1.05 * true
    assert largest_eigenvalue(torch.zeros(0, 0, dtype=torch.float64)) == 0
