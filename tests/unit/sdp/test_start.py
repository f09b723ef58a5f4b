"""Starts are strictly feasible, whatever the scale; the closed-form rho is the least."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace

import numpy as np
import pytest
from verinet.solvers.lipschitz.cone import chain_cone
from verinet.solvers.lipschitz.form import Chain, Matrix
from verinet.solvers.sdp.cone import ConeProblem
from verinet.solvers.sdp.interior import interior_point
from verinet.solvers.sdp.start import complete, feasible_start, inner_point, least_rho

from tests.unit.sdp.chains import KINDS, chain
from tests.unit.sdp.test_interior import least_slack
from verinet.errors import UsageError


@pytest.mark.parametrize("norm", [2.0, (math.inf, 1.0), (3.0, 1.5)])
@pytest.mark.parametrize("kind", KINDS)
def test_chains(kind: str, norm: float | tuple[float, float]) -> None:
    problem = chain_cone(chain(kind, (4, 6, 6, 6, 3)), norm)
    assert least_slack(problem, feasible_start(problem)) > 1e-3


@pytest.mark.parametrize("factor", [1e-8, 1.0, 1e8])
def test_any_scale(factor: float) -> None:
    net = chain("relu", (4, 6, 6, 6, 3))
    scaled = chain_cone(Chain((Matrix(net.weights[0].value * factor), *net.weights[1:]), net.activations))
    assert least_slack(scaled, feasible_start(scaled)) > 1e-3


def test_residual_connections() -> None:
    """Blocks of depth l see the input and all earlier blocks, and so do the outputs."""
    draw = np.random.default_rng(0)
    m, depth = draw.standard_normal((12, 16)), np.repeat(np.arange(4), 3)
    for row in range(12):
        m[row, np.flatnonzero(depth >= depth[row])] = 0
    problem = ConeProblem(m, draw.standard_normal((3, 16)), np.arange(12), np.arange(12), depth)
    assert least_slack(problem, feasible_start(problem)) > 1e-4


def test_least_rho_is_least() -> None:
    problem = chain_cone(chain("leaky", (7, 6, 6, 3), 2))
    multipliers = feasible_start(problem).multipliers
    rho = least_rho(problem, multipliers)
    assert rho is not None
    point = complete(problem, multipliers, slack=1e-6)
    assert point.rho == pytest.approx(rho * (1 + 1e-6), rel=1e-12)
    assert least_slack(problem, point) > 0
    assert least_slack(problem, replace(point, tau=point.tau * (1 - 2e-6))) < 0


def test_compression_of_many_inputs_keeps_rho() -> None:
    net = chain("relu", (50, 4, 4, 2))
    problem = chain_cone(net)
    multipliers = feasible_start(problem).multipliers
    weights = multipliers[problem.v_block]
    gram = problem.m.T @ (weights[:, None] * problem.m) + problem.my.T @ problem.my
    cut = problem.channels
    inner = np.diag(multipliers) - gram[:cut, :cut]
    full = gram[cut:, cut:] + gram[cut:, :cut] @ np.linalg.solve(inner, gram[:cut, cut:])
    assert least_rho(problem, multipliers) == pytest.approx(float(np.linalg.eigvalsh(full)[-1]), rel=1e-10)


def test_infeasible_multipliers_are_refused() -> None:
    problem = chain_cone(chain("relu", (4, 6, 3)))
    for bad in (np.full(6, 1e-12), np.full(6, -1.0), np.full(6, math.nan), np.zeros(6)):
        assert least_rho(problem, bad) is None
        with pytest.raises(UsageError, match="prove no bound"):
            complete(problem, bad)
    start = feasible_start(problem)
    assert inner_point(problem, start) is start
    repaired = inner_point(problem, replace(start, tau=0 * start.tau))
    assert least_slack(problem, repaired) > 1e-3


@pytest.mark.parametrize("norms", [(math.inf, 2.0), (4.0, 1.5), (math.inf, 1.0), (2.0, 2.0)])
def test_a_network_that_is_zero_warns_of_nothing(norms: tuple[float, float]) -> None:
    problem = ConeProblem(
        np.zeros((3, 5)), np.zeros((2, 5)), np.arange(3), np.arange(3), np.zeros(3, dtype=np.int64), *norms
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert 0 <= interior_point(problem).bound < 1e-90


def test_blocks_that_hardly_matter_start_with_small_losses() -> None:
    """y = x + r w with r tiny, many times over: the start is about 1, and no product of the depths' own bounds."""
    depth, size = 12, 1e-6
    m, my = np.zeros((depth, depth + 1)), np.zeros((1, depth + 1))
    for row in range(depth):
        m[row, :row], m[row, -1] = size, 1.0
    my[0, :depth], my[0, -1] = size, 1.0
    problem = ConeProblem(m, my, np.arange(depth), np.arange(depth), np.arange(depth))
    start = feasible_start(problem)
    assert math.sqrt(float(start.tau[0])) < 1.6  # SLACK alone is a factor of sqrt(2)
