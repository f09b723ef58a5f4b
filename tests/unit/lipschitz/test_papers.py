"""The papers' programs: published values, relations between them, and certificates from their multipliers."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest
from verinet.solvers.lipschitz.certify import certify
from verinet.solvers.lipschitz.certify_chain import certify_chain
from verinet.solvers.lipschitz.cone import cone_problem
from verinet.solvers.lipschitz.form import Activation, Chain, Floats, Form, Matrix
from verinet.solvers.lipschitz.papers import PaperBound, group_bound, group_chain, lipsdp, solve_form
from verinet.solvers.lipschitz.systems import (
    ResidualBlock,
    dense,
    feed_forward,
    groups_of,
    implicit,
    maxmin_as_relu,
    residual,
)
from verinet.solvers.sdp.cvxpy_backend import MatrixInequality, Program, solve
from verinet.solvers.sdp.start import feasible_start

from tests.conftest import BENCH
from tests.kits.lipschitz_networks import form_of, householder, maxmin, network, network_of, sampled, scalar, sorting
from verinet.errors import CertificationError, UsageError

pytest.importorskip("cvxpy")
FOLDER = BENCH / "lipschitz"
SMALL = {
    "relu_5_10_4": None,
    "tanh_5_10_10_3": None,
    "leaky_4_6_6_2": None,
    "maxmin_6_12_4": 1.83859,
    "groupsort4_6_12_12_3": 4.17748,
    "householder2_6_12_12_3": 2.43877,
    "maxmin_identity_4": 1.0,
}
"""Small networks of the benchmark set and their values with S = P = 0, where that applies."""


def relu(count: int) -> Activation:
    return scalar(count, 0.0, 1.0, "relu")


def published(name: str) -> Chain:
    """The weights of a published MaxMin network, as the file stores them."""
    onnx = pytest.importorskip("onnx")
    stored = onnx.load(str(FOLDER / f"{name}.onnx")).graph.initializer
    weights = [onnx.numpy_helper.to_array(t).astype(np.float64) for t in stored if len(t.dims) == 2]
    if weights[0].shape[1] == weights[1].shape[0]:
        weights = [w.T for w in weights]
    return Chain(tuple(map(Matrix, weights)), tuple(maxmin(len(w)) for w in weights[:-1]))


def value_of(name: str, column: str) -> float:
    with (FOLDER / "values.csv").open() as lines:
        return next(float(row[column]) for row in csv.DictReader(lines) if row["file"].split(".")[0] == name)


def form_from_file(path: Path) -> Form:
    from verinet.solvers.lipschitz.extract import extract_form

    from verinet.frontends.onnx import load_onnx

    return extract_form(load_onnx(path).graph)


@pytest.mark.parametrize("kind", ["relu", "tanh", "leaky", "abs"])
@pytest.mark.parametrize("solver", ["clarabel", "scs"])
def test_lipsdp_neuron_is_the_unified_program(kind: str, solver: str) -> None:
    net = network((4, 6, 5, 2), kind, 1)
    form, found = form_of(net.chain), lipsdp(feed_forward(net.chain), solver=solver)
    accuracy = 1e-6 if solver == "clarabel" else 1e-4
    assert found.value == pytest.approx(solve_form(form).bound, rel=accuracy)
    start = feasible_start(cone_problem(form))
    certified = certify(form, 1.0001 * found.multipliers, start=start).upper
    assert certified == pytest.approx(found.value, rel=1e-3 if solver == "clarabel" else 2e-2)
    assert found.value >= sampled(net) * (1 - accuracy)


def test_lipsdp_layer_is_looser_and_its_multipliers_are_equal_in_a_layer() -> None:
    net = network((4, 8, 8, 2), "relu", 2)
    system = feed_forward(net.chain)
    neuron, layer = lipsdp(system), lipsdp(system, variant="layer")
    assert layer.value > neuron.value * 1.01
    for part in np.split(layer.multipliers, 2):
        assert part == pytest.approx(np.full(8, part[0]))
    assert certify_chain(net.chain, 1.0001 * layer.multipliers).upper <= layer.value * 1.001


def test_lipsdp_for_the_largest_entry_norm() -> None:
    net = network((4, 6, 6, 1), "relu", 2)
    form, found = form_of(net.chain), lipsdp(feed_forward(net.chain), norm=math.inf)
    assert found.value == pytest.approx(solve_form(form, norm=math.inf).bound, rel=1e-6)
    assert found.value >= sampled(net, order=math.inf)
    with pytest.raises(UsageError, match="one output"):
        lipsdp(feed_forward(network((4, 6, 2), "relu").chain), norm=math.inf)


@pytest.mark.parametrize("kind", ["maxmin", "sort3", "householder"])
def test_group_programs_are_ordered_and_the_full_one_is_the_unified_one(kind: str) -> None:
    """More multipliers never hurt; with S or P the program tends to the one where preserved parts are eliminated."""
    net = network((4, 6, 6, 2), kind, 3)
    system, form = feed_forward(net.chain), form_of(net.chain)
    unified, plain = solve_form(form).bound, group_bound(system, families="T")
    assert group_chain(net.chain).value == pytest.approx(plain.value, rel=1e-6), "S = P = 0 falls apart by layers"
    for families in ("TS", "TP", "TSP"):
        found = group_bound(system, families=families)
        assert unified * (1 - 1e-6) <= found.value <= plain.value * (1 + 1e-6)
        assert found.value == pytest.approx(unified, rel=1e-3)
    if kind != "sort3":
        assert plain.value > unified * 1.01


@pytest.mark.parametrize("kind", ["maxmin", "sort3", "householder"])
def test_multipliers_of_the_papers_prove_at_least_their_own_value(kind: str) -> None:
    net = network((4, 6, 6, 2), kind, 5)
    found = group_chain(net.chain)
    certified = certify_chain(net.chain, found.multipliers)
    assert sampled(net) <= certified.upper <= found.value * (1 + 1e-6)
    assert certify(form_of(net.chain), found.multipliers).upper <= found.value * (1 + 1e-6)


def test_group_programs_for_the_largest_entry_norm() -> None:
    net = network((4, 6, 6, 1), "maxmin", 3)
    system, unified = feed_forward(net.chain), solve_form(form_of(net.chain), norm=math.inf).bound
    chain, plain = group_chain(net.chain, norm=math.inf), group_bound(system, families="T", norm=math.inf)
    assert chain.value == pytest.approx(plain.value, rel=1e-6)
    full = group_bound(system, families="TS", norm=math.inf)
    assert unified * (1 - 1e-6) <= full.value <= plain.value
    assert full.value == pytest.approx(unified, rel=1e-3)
    certified = certify_chain(net.chain, chain.point, norm=math.inf)
    assert sampled(net, order=math.inf) <= certified.upper <= chain.value * (1 + 1e-6)


def test_maxmin_written_with_rectifiers_loses_the_square_root_of_two() -> None:
    eye = np.eye(4)
    chain = network_of([eye, eye], [(maxmin(4), lambda x: x)]).chain
    assert lipsdp(maxmin_as_relu(chain, relu)).value == pytest.approx(math.sqrt(2), rel=1e-6)
    assert group_chain(chain).value == pytest.approx(1.0, rel=1e-6)
    with pytest.raises(UsageError, match="only MaxMin"):
        maxmin_as_relu(network((4, 6, 2), "sort3").chain, relu)


def test_rewriting_computes_the_same_function() -> None:
    net = network((3, 4, 2), "maxmin", 1)
    system = maxmin_as_relu(net.chain, relu)
    layer, weight = system.layers[0], net.chain.weights[0].value
    draw = np.random.default_rng(0)
    for x in draw.standard_normal((20, 3)):
        z = np.concatenate([x, np.zeros(layer.phi.shape[0])])
        z[3:] = np.maximum(layer.v @ z, 0.0)
        v = weight @ x
        expected = net.chain.weights[1].value @ np.concatenate([np.sort(v[:2]), np.sort(v[2:])])
        assert system.output @ z == pytest.approx(expected)


def test_residual_and_implicit_programs() -> None:
    """One residual ReLU block and one implicit layer against the closed forms of their Jacobians."""
    draw = np.random.default_rng(4)
    inner, outer = draw.standard_normal((4, 3)), 0.3 * draw.standard_normal((3, 4))
    found = lipsdp(residual([ResidualBlock(inner, relu(4), outer)]))
    best = max(np.linalg.norm(np.eye(3) + outer @ np.diag(bits) @ inner, 2) for bits in _patterns(4))
    assert best * (1 - 1e-7) <= found.value <= 1.1 * best
    loop = 0.5 * draw.standard_normal((4, 4)) / 2
    into, out = draw.standard_normal((4, 3)), draw.standard_normal((2, 4))
    found = lipsdp(implicit(loop, into, out, relu(4)))
    jacobians = [out @ np.linalg.inv(np.eye(4) - np.diag(b) @ loop) @ np.diag(b) @ into for b in _patterns(4)]
    best = max(np.linalg.norm(j, 2) for j in jacobians)
    assert best * (1 - 1e-7) <= found.value <= 1.1 * best


def _patterns(count: int) -> list[Floats]:
    return [np.array([(n >> i) & 1 for i in range(count)], dtype=np.float64) for n in range(2**count)]


def test_residual_maxmin_with_one_of_s_and_p() -> None:
    draw = np.random.default_rng(2)
    blocks = [ResidualBlock(0.5 * draw.standard_normal((4, 4)), maxmin(4), np.eye(4)) for _ in range(2)]
    system = residual(blocks, before=draw.standard_normal((4, 3)), after=draw.standard_normal((2, 4)))
    plain, single, both = (group_bound(system, families=f).value for f in ("T", "TS", "TSP"))
    assert both == pytest.approx(single, rel=1e-3)
    assert single < plain * (1 - 1e-3), "for residual networks S = P = 0 is bad"


def test_groups_are_read_from_the_matrices() -> None:
    vectors = np.array([[0.6, 0.8], [1.0, 0.0]])
    assert [len(g.before) for g in groups_of(sorting(6, 3))] == [3, 3]
    assert groups_of(maxmin(4))[1].scale == pytest.approx(2.0)
    with pytest.raises(UsageError, match="no GroupSort"):
        groups_of(householder(4, vectors))  # the second reflection leaves a neuron in no group
    with pytest.raises(UsageError, match="no GroupSort"):
        group_chain(network((3, 4, 2), "relu").chain)
    with pytest.raises(UsageError, match="elementwise"):
        lipsdp(feed_forward(network((3, 4, 2), "maxmin").chain))
    assert dense(Matrix(np.eye(2))).shape == (2, 2)


def test_wrong_use_is_answered() -> None:
    system = feed_forward(network((3, 4, 2), "relu").chain)
    with pytest.raises(UsageError, match="'network' is not valid"):
        lipsdp(system, variant="network")
    with pytest.raises(UsageError, match="no solver called"):
        lipsdp(system, solver="sedumi")
    with pytest.raises(UsageError, match="families"):
        group_bound(system, families="Q")


def test_a_missing_solver_names_the_way_to_get_it() -> None:
    import cvxpy

    if "MOSEK" in cvxpy.installed_solvers():
        pytest.skip("MOSEK is installed here")
    with pytest.raises(UsageError, match="pip install") as caught:
        lipsdp(feed_forward(network((3, 4, 2), "relu").chain), solver="mosek")
    assert "MOSEK" in str(caught.value) and caught.value.exit_code == 2


def test_an_infeasible_program_is_an_error_and_no_number() -> None:
    inequality = MatrixInequality(2)
    inequality.constant = -np.eye(2)
    inequality.add(0, np.diag([1.0, 0.0]))
    with pytest.raises(CertificationError, match="no multipliers"):
        solve(Program(np.ones(1), np.array([0]), [inequality]))


@pytest.mark.bench
@pytest.mark.parametrize("name", list(SMALL))
def test_values_of_the_small_benchmarks(name: str) -> None:
    """LipSDP and the full group program, by the unified form: to 1e-5; the published relaxation where it is known."""
    form = form_from_file(FOLDER / f"{name}.onnx")
    assert solve_form(form).bound == pytest.approx(value_of(name, "sdp"), rel=1e-5)


@pytest.mark.bench
@pytest.mark.parametrize("name", ["relu_5_10_4", "tanh_5_10_10_3", "leaky_4_6_6_2"])
def test_lipsdp_of_the_small_benchmarks(name: str) -> None:
    found = lipsdp(feed_forward(_chain(name)))
    assert found.value == pytest.approx(value_of(name, "sdp"), rel=1e-5)
    layer = {"relu_5_10_4": 2.65719, "tanh_5_10_10_3": 2.5264, "leaky_4_6_6_2": 3.16345}[name]
    assert lipsdp(feed_forward(_chain(name)), variant="layer").value == pytest.approx(layer, rel=1e-5)


@pytest.mark.bench
@pytest.mark.parametrize("name", ["maxmin_6_12_4", "groupsort4_6_12_12_3", "maxmin_identity_4"])
def test_published_relaxation_of_the_small_benchmarks(name: str) -> None:
    assert group_chain(_chain(name)).value == pytest.approx(SMALL[name], rel=1e-5)


def _chain(name: str) -> Chain:
    from verinet.solvers.lipschitz.chain import extract_chain

    from verinet.frontends.onnx import load_onnx

    chain = extract_chain(load_onnx(FOLDER / f"{name}.onnx").graph)
    assert chain is not None
    return chain


@pytest.mark.bench
@pytest.mark.parametrize(("name", "value"), [("2fc_16", 22.594), ("5fc_32", 224.53)])
def test_published_networks(name: str, value: float) -> None:
    """Pauli et al. 2024, table of feed-forward networks."""
    _check_published(f"iclr24_maxmin_{name}", value)


@pytest.mark.bench
@pytest.mark.slow
def test_published_network_with_18_layers() -> None:
    _check_published("iclr24_maxmin_18fc_32", 17432)


def _check_published(name: str, value: float) -> PaperBound:
    chain = published(name)
    found = group_chain(chain)
    assert found.value == pytest.approx(value, rel=5e-5)
    certified = certify_chain(chain, found.multipliers)
    assert value_of(name, "sdp") * (1 - 1e-5) <= certified.upper <= found.value
    return found


@pytest.mark.bench
def test_implicit_benchmark() -> None:
    arrays = np.load(FOLDER / "implicit_relu_4_12_2.npz")
    found = lipsdp(implicit(arrays["A"], arrays["B"], arrays["C"], relu(len(arrays["A"]))))
    assert found.value == pytest.approx(value_of("implicit_relu_4_12_2", "sdp"), rel=1e-5)
