"""The structured interior point: every iterate a bound, the optimum, both array libraries, wrong use."""

from __future__ import annotations

import csv
import math
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from verinet.solvers.lipschitz.chain import extract_chain
from verinet.solvers.lipschitz.cone import chain_cone, cone_problem
from verinet.solvers.lipschitz.extract import extract_form
from verinet.solvers.lipschitz.form import Chain, Matrix
from verinet.solvers.lipschitz.implicit import implicit_form, load_implicit
from verinet.solvers.sdp.arrays import NumpyArrays, arrays
from verinet.solvers.sdp.cone import ConeProblem, Floats, Iterate, Point, bound_of, slack_matrix
from verinet.solvers.sdp.first_order import first_order
from verinet.solvers.sdp.interior import interior_point, least_eigenvalue
from verinet.solvers.sdp.start import feasible_start

from tests.unit.sdp.chains import KINDS, chain, jacobians, product, ratio
from verinet.errors import UsageError
from verinet.frontends.onnx import load_onnx

NORMS = [2.0, (math.inf, 1.0), (3.0, 1.5), (2.0, 1.0), (math.inf, 2.0)]


def least_slack(problem: ConeProblem, point: Point) -> float:
    """Least eigenvalue of the matrix inequality with unit diagonal parts."""
    diagonal = np.concatenate([point.multipliers[problem.w_block], point.tau])
    diagonal = diagonal if problem.euclidean else np.concatenate([point.mu, diagonal])
    matrix = slack_matrix(problem, point)
    return float(np.linalg.eigvalsh(matrix / np.sqrt(np.outer(diagonal, diagonal)))[0])


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_iterate_is_feasible_and_an_upper_bound(kind: str, norm: float | tuple[float, float]) -> None:
    problem = chain_cone(chain(kind, (4, 6, 6, 3)), norm)
    seen: list[Iterate] = []
    result = interior_point(problem, on_iterate=seen.append)
    below = max(ratio(problem, jacobian) for jacobian in jacobians(problem, 100))
    assert len(seen) > 3
    for iterate in seen:
        assert least_slack(problem, iterate.point) > -1e-12
        assert iterate.bound >= below * (1 - 1e-9)
        assert iterate.bound == pytest.approx(bound_of(problem, iterate.point), rel=1e-12)
    assert result.note == "optimal" and result.gap <= 1e-7
    assert result.bound == pytest.approx(min(iterate.bound for iterate in seen), rel=1e-12)
    assert result.rho == pytest.approx(result.bound**2)


@pytest.mark.parametrize("kind", KINDS)
def test_the_optimum_is_not_beaten_by_another_method(kind: str) -> None:
    problem = chain_cone(chain(kind, (5, 6, 12, 4), 3))
    best = interior_point(problem, tolerance=1e-9)
    other = first_order(problem, tolerance=1e-7)
    assert best.bound * (1 - 1e-8) <= other.bound <= best.bound * (1 + 1e-3)


def test_a_bound_lowered_on_purpose_is_infeasible() -> None:
    problem = chain_cone(chain("relu", (4, 8, 8, 3)))
    point = interior_point(problem, tolerance=1e-9).point
    assert least_slack(problem, point) > -1e-12
    assert least_slack(problem, replace(point, tau=point.tau * (1 - 1e-3))) < -1e-6


@pytest.mark.parametrize("norm", [2.0, (math.inf, 1.0)])
@pytest.mark.parametrize("kind", ["relu", "groupsort3"])
def test_torch_and_numpy_agree(kind: str, norm: float | tuple[float, float]) -> None:
    problem = chain_cone(chain(kind, (5, 12, 12, 4), 1), norm)
    start = feasible_start(problem)
    first, second = interior_point(problem, start), interior_point(problem, start, device="numpy")
    assert first.iterations == second.iterations
    assert second.bound == pytest.approx(first.bound, rel=1e-9)
    np.testing.assert_allclose(second.multipliers, first.multipliers, rtol=1e-5)


def test_best_bound_and_gap_only_improve() -> None:
    problem = chain_cone(chain("tanh", (6, 10, 10, 10, 4), 2))
    result = interior_point(problem)
    gaps = [gap for _, gap, _ in result.history]
    assert gaps == sorted(gaps, reverse=True)
    true = interior_point(problem, tolerance=1e-10).bound
    for bound, gap, _ in result.history:
        assert true <= bound * (1 + 1e-9)
        assert gap >= 1 - (true / min(b for b, g, _ in result.history if g >= gap)) ** 2 - 1e-9


def test_known_values() -> None:
    eye = Matrix(np.eye(4))
    identity = Chain((eye, eye), (chain("maxmin", (4, 4, 4)).activations[0],))
    assert interior_point(chain_cone(identity)).bound == pytest.approx(1, rel=1e-6)
    weight = np.random.default_rng(0).standard_normal((3, 7))
    linear = chain_cone(Chain((Matrix(weight),), ()))
    assert interior_point(linear).bound == pytest.approx(float(np.linalg.norm(weight, 2)), rel=1e-6)
    nothing = chain_cone(Chain((Matrix(np.eye(3)), Matrix(np.zeros((2, 3)))), chain("relu", (3, 3, 2)).activations))
    assert interior_point(nothing).bound < 1e-50


@pytest.mark.parametrize("kind", ["relu", "maxmin"])
def test_permuting_and_scaling_layers_changes_nothing(kind: str) -> None:
    net = chain(kind, (5, 8, 8, 3), 4)
    plain = interior_point(chain_cone(net), tolerance=1e-9).bound
    factors = (1e4, 1e-3, 0.1)
    scaled = Chain(tuple(Matrix(w.value * f) for w, f in zip(net.weights, factors, strict=True)), net.activations)
    assert interior_point(chain_cone(scaled), tolerance=1e-9).bound == pytest.approx(plain, rel=1e-7)
    problem = chain_cone(net)
    draw = np.random.default_rng(0)
    rows, blocks = draw.permutation(len(problem.m)), draw.permutation(problem.blocks)
    columns = np.r_[draw.permutation(problem.channels), problem.channels + draw.permutation(problem.inputs)]
    mixed = replace(
        problem,
        m=problem.m[rows][:, columns],
        my=problem.my[:, columns],
        v_block=blocks[problem.v_block[rows]],
        w_block=blocks[problem.w_block[columns[: problem.channels]]],
        depth=problem.depth[np.argsort(blocks)],
    )
    assert interior_point(mixed, tolerance=1e-9).bound == pytest.approx(plain, rel=1e-7)


def test_deadline_leaves_a_valid_bound() -> None:
    problem = chain_cone(chain("relu", (8, 30, 30, 5)))
    late = interior_point(problem, deadline=time.perf_counter() - 1)
    assert late.note == "deadline" and late.iterations == 0
    assert least_slack(problem, late.point) > 0
    assert interior_point(problem).bound < late.bound < 100


def test_deep_and_wide_networks_converge() -> None:
    deep = chain("relu", (6, *[8] * 30, 3), 5)
    result = interior_point(chain_cone(deep))
    assert result.note == "optimal" and result.iterations < 60
    assert result.bound < 1e-3 * product(deep)
    wide = chain_cone(chain("maxmin", (200, 12, 12, 150), 6))
    assert interior_point(wide).note == "optimal"


def test_blocks_of_different_sizes() -> None:
    """max of three inputs as one rectangular block: one channel bounded by a vector of two."""
    draw = np.random.default_rng(0)
    d, cy, dy = draw.standard_normal((4, 5)), draw.standard_normal((3, 2)), draw.standard_normal((3, 5))
    m, my = np.hstack([np.zeros((4, 2)), d]), np.hstack([cy, dy])
    problem = ConeProblem(m, my, np.array([0, 0, 1, 1]), np.arange(2), np.zeros(2, dtype=np.int64))
    result = interior_point(problem)
    assert result.note == "optimal"
    assert result.bound >= max(ratio(problem, jacobian) for jacobian in jacobians(problem, 500)) * (1 - 1e-9)


def test_implicit_networks_find_their_own_start() -> None:
    draw = np.random.default_rng(1)
    loop = draw.standard_normal((9, 9))
    scale = np.exp(draw.uniform(-3, 3, 9))
    loop = scale[:, None] * (0.8 * loop / np.linalg.norm(loop, 2)) / scale
    m, my = np.hstack([loop, draw.standard_normal((9, 4))]), np.hstack([draw.standard_normal((2, 9)), np.zeros((2, 4))])
    depth = np.zeros(9, dtype=np.int64)
    problem = ConeProblem(m, my, np.arange(9), np.arange(9), depth, implicit=True)
    assert np.linalg.norm(loop, 2) > 1
    result = interior_point(problem)
    assert result.note == "optimal" and least_slack(problem, result.point) > -1e-12
    assert result.bound >= max(ratio(problem, jacobian) for jacobian in jacobians(problem, 300)) * (1 - 1e-9)
    with pytest.raises(UsageError, match="implicit"):
        interior_point(replace(problem, m=np.hstack([2 * np.eye(9), m[:, 9:]])))


def test_wrong_use_is_answered() -> None:
    problem = chain_cone(chain("relu", (3, 4, 2)))
    with pytest.raises(UsageError, match="norm"):
        replace(problem, norm_in=1.0)
    with pytest.raises(UsageError, match="do not fit"):
        replace(problem, my=problem.my[:, 1:])
    with pytest.raises(UsageError, match="NaN"):
        replace(problem, m=problem.m * np.nan)
    with pytest.raises(UsageError, match="one multiplier for each"):
        interior_point(problem, Point(np.zeros(1), np.ones(2), np.ones(3)))
    with pytest.raises(UsageError, match="prove no bound"):
        interior_point(problem, Point(np.full(4, 1e-9), np.ones(2), np.ones(3)))


def test_lanczos_does_not_overestimate() -> None:
    draw = np.random.default_rng(2)
    root = draw.standard_normal((40, 40))
    factor, change = np.linalg.cholesky(root @ root.T + np.eye(40)), root + root.T
    inverse = np.linalg.inv(factor)
    true = float(np.linalg.eigvalsh(inverse @ change @ inverse.T)[0])
    for device in ("numpy", "cpu"):
        library = arrays(device)
        given = library.root_inverse(library.cholesky(library.take(factor @ factor.T)))
        assert least_eigenvalue(library, library.take(change), given) == pytest.approx(true, rel=1e-3)


def test_products_do_not_care_how_matrices_are_stored() -> None:
    draw = np.random.default_rng(3)
    left, right = draw.standard_normal((5, 7)), draw.standard_normal((7, 4))
    for first in (left, np.asfortranarray(left), np.repeat(left, 2, axis=1)[:, ::2]):
        for second in (right, np.asfortranarray(right), np.repeat(right, 2, axis=0)[::2]):
            np.testing.assert_allclose(NumpyArrays().product(first, second), left @ right, rtol=1e-13)


@pytest.mark.bench
def test_reference_values(bench_folder: Path) -> None:
    folder = bench_folder / "lipschitz"
    with (folder / "values.csv").open() as lines:
        for row in csv.DictReader(lines):
            name = row["file"]
            if name in ("iclr24_maxmin_18fc_32.onnx", "iclr24_maxmin_2fc_128.onnx"):
                continue  # slower; the first is below
            box: tuple[Floats, Floats] | tuple[()] = ()
            if "local" in name:
                stored = np.load(folder / name.replace(".onnx", "_box.npz"))
                box = tuple(stored[key].ravel() for key in stored.files[:2])
            form = (
                implicit_form(load_implicit(folder / name))
                if name.endswith("npz")
                else extract_form(load_onnx(folder / name).graph, *box)
            )
            result = interior_point(cone_problem(form, math.inf if row["norm"] == "linf" else 2.0))
            assert result.note == "optimal", name
            assert result.bound == pytest.approx(float(row["sdp"]), rel=2e-5), name


@pytest.mark.bench
def test_the_published_deep_network(bench_folder: Path) -> None:
    net = extract_chain(load_onnx(bench_folder / "lipschitz" / "iclr24_maxmin_18fc_32.onnx").graph)
    assert net is not None
    result = interior_point(chain_cone(net))
    assert result.note == "optimal" and result.bound == pytest.approx(11063.5505, rel=1e-6)
