"""Forms and chains describe the network: every Jacobian is one of theirs, and radii cover the rounding."""

from __future__ import annotations

import itertools
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import TensorProto
from verinet.solvers.lipschitz.chain import extract_chain
from verinet.solvers.lipschitz.compress import compress_input
from verinet.solvers.lipschitz.extract import extract_form, select_outputs
from verinet.solvers.lipschitz.ranges import Ranges, node_ranges

from tests.unit.frontends.onnx_models import Spec, ints, node, weights
from tests.unit.lipschitz.extract_cases import (
    ENCODINGS,
    activation,
    between_layers,
    check_jacobians,
    check_structure,
    fgl,
    jacobian,
    network,
    secants,
)
from verinet.errors import ModelError, UnsupportedOperatorError, UsageError
from verinet.frontends.onnx import load_onnx


@pytest.mark.parametrize("name", ["Relu", "Abs", "LeakyRelu"])
def test_piecewise_linear_layers(name: str) -> None:
    graph = activation(name)
    form = extract_form(graph)
    assert form.blocks == 5
    check_structure(form)
    check_jacobians(graph, form, torch.zeros(4, dtype=torch.float64), 2.0)


@pytest.mark.parametrize(
    ("name", "attributes"), [("Tanh", {}), ("Sigmoid", {}), ("Elu", {}), ("Softplus", {}), ("HardSwish", {})]
)
def test_two_smooth_layers_follow_the_true_activations(name: str, attributes: dict[str, Any]) -> None:
    """v = c w + d x with w from the true activations, |w| <= |v|, and y = cy w + dy x."""
    fixed = {"W": weights(4, 6), "b": weights(6, seed=1), "U": weights(6, 5), "V": weights(5, 3, seed=2)}
    nodes = [
        node("Gemm", "x W b", "h"),
        node(name, "h", "a", **attributes),
        node("MatMul", "a U", "k"),
        node(name, "k", "e", **attributes),
        node("MatMul", "e V", "y"),
    ]
    graph = network(nodes, [1, 4], fixed, opset=14)
    form = extract_form(graph)
    check_structure(form)
    assert form.blocks == 11
    chain = extract_chain(graph)
    assert chain is not None
    draw = torch.Generator().manual_seed(1)
    for _ in range(20):
        pair = torch.randn(2, 4, generator=draw, dtype=torch.float64) * 2
        values = graph.forward_all(pair)
        places = [i for i, n in enumerate(graph.nodes) if n.op.kind == "Elementwise"]
        w = []
        for place, layer in zip(places, chain.activations, strict=True):
            before, after = values[graph.nodes[place].inputs[0]], values[place]
            dv, dphi = ((t[0] - t[1]).reshape(-1).numpy() for t in (before, after))
            w.append((dphi - layer.p @ dv) / layer.r.diagonal())
            assert layer.slopes is not None and (np.abs(w[-1]) <= np.abs(dv) * (1 + 1e-12)).all()
        dx, dy = (pair[0] - pair[1]).numpy(), (values[-1][0] - values[-1][1]).numpy()
        v = form.c.value @ np.concatenate(w) + form.d.value @ dx
        true = np.concatenate(
            [
                (values[graph.nodes[p].inputs[0]][0] - values[graph.nodes[p].inputs[0]][1]).reshape(-1).numpy()
                for p in places
            ]
        )
        assert np.abs(v - true).max() < 1e-9
        assert np.abs(form.cy.value @ np.concatenate(w) + form.dy.value @ dx - dy).max() < 1e-9


def test_residual_branches_and_two_layers() -> None:
    fixed = {"W": weights(3, 3), "U": weights(3, 3, seed=5), "V": weights(3, 2, seed=2), "half": ints(2, 1)}
    nodes = [
        node("MatMul", "x W", "h"),
        node("Relu", "h", "a"),
        node("MatMul", "a U", "k"),
        node("Add", "x k", "s"),
        node("Abs", "s", "e"),
        node("Sub", "e a", "z"),
        node("MatMul", "z V", "y"),
    ]
    graph = network(nodes, [1, 3], fixed)
    form = extract_form(graph)
    assert form.blocks == 6 and form.layer.tolist() == [0, 0, 0, 1, 1, 1]
    check_structure(form)
    check_jacobians(graph, form, torch.zeros(3, dtype=torch.float64), 2.0)
    assert extract_chain(graph) is None


def test_products_need_a_region() -> None:
    fixed = {"W": weights(3, 4), "half": ints(2, 2)}
    nodes = [node("MatMul", "x W", "h"), node("Split", "h half", "a b", axis=1), node("Mul", "a b", "y")]
    graph = network(nodes, [1, 3], fixed)
    with pytest.raises(UnsupportedOperatorError, match="region"):
        extract_form(graph)
    lower, upper = np.full(3, -0.5), np.array([0.5, 1.0, 0.25])
    form = extract_form(graph, lower, upper)
    check_structure(form)
    assert form.blocks == 4
    allowed = secants(form)
    draw = np.random.default_rng(0)
    for _ in range(30):
        x = torch.from_numpy(draw.uniform(lower, upper))
        j = jacobian(graph, x)
        # Inside the hull of the corners, entry by entry.
        assert (j <= allowed.max(0) + 1e-9).all() and (j >= allowed.min(0) - 1e-9).all()


def test_local_forms_drop_what_is_fixed() -> None:
    hidden, constants, _ = ENCODINGS["split"]
    for graph in (
        between_layers(hidden, 6, constants),
        activation("Relu"),
        activation("LeakyRelu"),
        activation("HardSwish"),
    ):
        centre = torch.tensor([0.3, -0.2, 0.5, 0.1], dtype=torch.float64)
        whole = extract_form(graph)
        previous = whole.blocks
        for width in (1.0, 0.1, 1e-4):
            form = extract_form(graph, centre.numpy() - width, centre.numpy() + width)
            check_structure(form)
            assert form.blocks <= previous
            previous = form.blocks
        corners = secants(form)
        for _ in range(5):
            gap = np.abs(corners - jacobian(graph, centre)).max((1, 2)).min()
            assert gap < (1e-3 if form.blocks else 1e-9)
    graph = between_layers(hidden, 6, constants)
    form = extract_form(graph, centre.numpy() - 0.4, centre.numpy() + 0.4)
    assert 0 < form.blocks <= 3
    check_jacobians(graph, form, centre, 0.4, count=80)


def test_given_ranges_replace_computed_ones() -> None:
    graph = activation("Relu")
    lower, upper = np.full(4, -1.0), np.full(4, 1.0)
    found = node_ranges(graph, lower, upper)
    values = graph.forward_all(torch.rand(200, 4, dtype=torch.float64) * 2 - 1)
    for position, (low, high) in found.known.items():
        assert bool((values[position] >= low).all()) and bool((values[position] <= high).all())
    tight = Ranges({p: (lo + (hi - lo), hi) for p, (lo, hi) in found.known.items()})
    assert extract_form(graph, ranges=tight).blocks == 0
    assert extract_form(graph, ranges=found).blocks == extract_form(graph, lower, upper).blocks > 0


def _exact(rows: Any) -> list[list[Fraction]]:
    return [[Fraction(float(x)) for x in row] for row in rows]


def _times(a: list[list[Fraction]], b: list[list[Fraction]]) -> list[list[Fraction]]:
    return [
        [sum((x * y for x, y in zip(row, column, strict=True)), Fraction(0)) for column in zip(*b, strict=True)]
        for row in a
    ]


def test_radii_cover_the_exact_composition() -> None:
    """Against rational arithmetic, for float64 weights in three layers; and they are not much larger than needed."""
    draw = np.random.default_rng(7)
    sizes = [3, 6, 5, 4, 2]
    matrices = [draw.normal(size=pair) for pair in itertools.pairwise(sizes)]
    nodes, last = [], "x"
    for i in range(len(matrices)):
        nodes.append(node("MatMul", f"{last} W{i}", f"h{i}"))
        last = f"a{i}"
        nodes.append(node("Relu", f"h{i}", last) if i < len(matrices) - 1 else node("Identity", f"h{i}", "y"))
    spec = Spec("net", nodes, {"x": [1, 3]}, {f"W{i}": m for i, m in enumerate(matrices)}, dtype=TensorProto.DOUBLE)
    form = extract_form(load_onnx(spec.model()).graph)
    half = Fraction(1, 2)
    layers = [_exact(m.T) for m in matrices]
    state: list[list[Fraction]] = [[Fraction(int(i == j)) for j in range(3)] for i in range(3)]
    rows = []
    for number, layer in enumerate(layers):
        state = _times(layer, state)
        if number == len(layers) - 1:
            break
        rows += [row + [Fraction(0)] * (sum(sizes[1:4]) + 3 - len(row)) for row in state]
        size = len(state)
        state = [[half * x for x in row] + [half * int(i == j) for j in range(size)] for i, row in enumerate(state)]
    worst = Fraction(0)
    for matrix, exact, columns in (
        (form.d, rows, slice(0, 3)),
        (form.c, rows, slice(3, None)),
        (form.dy, state, slice(0, 3)),
        (form.cy, state, slice(3, None)),
    ):
        value, radius = matrix.value, np.zeros_like(matrix.value) if matrix.radius is None else matrix.radius
        for got, slack, row in zip(value.tolist(), radius.tolist(), exact, strict=True):
            for x, r, true in zip(got, slack, row[columns], strict=True):
                assert abs(Fraction(x) - true) <= Fraction(r)
                worst = max(worst, abs(Fraction(x) - true))
        assert radius.max() < 1e-13
    assert worst > 0  # something did round


def test_outputs_are_picked_or_combined() -> None:
    graph = activation("Relu")
    form = extract_form(graph)
    one = extract_form(graph, outputs=[2])
    assert np.array_equal(one.cy.value, form.cy.value[2:]) and one.cy.value.shape[0] == 1
    margin = select_outputs(form, np.array([[1.0, -1.0, 0.0]]))
    assert np.allclose(margin.dy.value[0], form.dy.value[0] - form.dy.value[1])
    assert margin.dy.radius is not None and form.dy.radius is not None
    assert (margin.dy.radius >= form.dy.radius[0] + form.dy.radius[1]).all()
    for wrong in ([3], [-1], [0.5], np.ones((1, 2)), []):
        with pytest.raises(UsageError):
            extract_form(graph, outputs=wrong)


def test_boxes_that_do_not_fit() -> None:
    graph = activation("Relu")
    for lower, upper in (
        (np.zeros(3), np.ones(4)),
        (np.ones(4), np.zeros(4)),
        (np.zeros(4), np.full(4, np.inf)),
        (np.zeros(4), None),
    ):
        with pytest.raises(UsageError):
            extract_form(graph, lower, upper)
        with pytest.raises(UsageError):
            extract_chain(graph, lower, upper)


def test_nodes_without_finite_slope_are_named() -> None:
    with pytest.raises(ModelError, match="node 'g'"):
        extract_form(activation("Exp"))
    with pytest.raises(ModelError, match="node 'g'"):
        extract_form(activation("Sign"))
    with pytest.raises(ModelError, match="node 'g'"):
        extract_chain(activation("Exp"))


def test_compressed_inputs_keep_the_constant() -> None:
    fixed = {"W": weights(40, 4), "V": weights(4, 3, seed=2)}
    graph = network([node("MatMul", "x W", "h"), node("Relu", "h", "g"), node("MatMul", "g V", "y")], [1, 40], fixed)
    form = extract_form(graph)
    small = compress_input(form)
    assert small.d.value.shape[1] <= 5 and small.c is form.c
    assert fgl(small) == pytest.approx(fgl(form), rel=1e-12)
    for matrix in (small.d, small.dy):
        assert matrix.radius is not None and matrix.radius.max() < 1e-10
    assert compress_input(extract_form(activation("Relu"))).d.value.shape[1] == 4  # nothing to gain


def test_compressed_inputs_see_every_input() -> None:
    """For every x some x' no longer than x has the same rows, up to the radii."""
    fixed = {"W": weights(30, 3), "V": weights(3, 2, seed=2)}
    graph = network([node("MatMul", "x W", "h"), node("Abs", "h", "g"), node("MatMul", "g V", "y")], [1, 30], fixed)
    form = extract_form(graph)
    small = compress_input(form)
    whole, rows = np.concatenate([form.d.value, form.dy.value]), np.concatenate([small.d.value, small.dy.value])
    radius = np.concatenate([m.radius for m in (small.d, small.dy) if m.radius is not None])
    draw = np.random.default_rng(1)
    for _ in range(50):
        x = draw.normal(size=30)
        short = np.linalg.lstsq(rows, whole @ x, rcond=None)[0]
        assert np.linalg.norm(short) <= np.linalg.norm(x) * (1 + 1e-9)
        assert (np.abs(rows @ short - whole @ x) <= radius @ np.abs(short) + 1e-9).all()


BLOCKS = {
    "conv_relu_1x4x4_3c3p1_fc3": 48,
    "groupsort4_6_12_12_3": 6,
    "householder2_6_12_12_3": 12,
    "iclr24_maxmin_18fc_32": 272,
    "iclr24_maxmin_2fc_128": 64,
    "iclr24_maxmin_2fc_16": 8,
    "iclr24_maxmin_5fc_32": 64,
    "iclr24_maxmin_8fc_32": 112,
    "iclr24_residual_maxmin_5_32": 48,
    "leaky_4_6_6_2": 12,
    "linf_relu_6_10_10_1": 20,
    "local_relu_4_10_10_3_r0.1": 20,
    "maxmin_6_12_4": 6,
    "maxmin_identity_4": 2,
    "relu_5_10_4": 10,
    "residual_maxmin_5_8x3": 12,
    "tanh_5_10_10_3": 20,
}


@pytest.mark.bench
@pytest.mark.parametrize("name", BLOCKS)
def test_published_networks_have_the_expected_blocks(name: str, bench_folder: Path) -> None:
    graph = load_onnx(bench_folder / "lipschitz" / f"{name}.onnx").graph
    form = extract_form(graph)
    assert form.blocks == BLOCKS[name]
    chain = extract_chain(graph)
    assert (chain is None) == ("residual" in name or "householder" in name)
    if chain is not None:
        assert sum(int(layer.v_block.max()) + 1 for layer in chain.activations) == form.blocks
    # The Jacobian at a point is among those of a form, so it is no larger than the sum of the absolute parts.
    point = torch.zeros(graph.input_size, dtype=torch.float64) + 0.1
    exact = jacobian(graph.to(torch.float64), point)
    assert np.isfinite(exact).all() and exact.shape == form.dy.value.shape


@pytest.mark.bench
def test_published_local_network_is_linear_on_its_box(bench_folder: Path) -> None:
    graph = load_onnx(bench_folder / "lipschitz" / "local_relu_4_10_10_3_r0.1.onnx").graph.to(torch.float64)
    with np.load(bench_folder / "lipschitz" / "local_relu_4_10_10_3_r0.1_box.npz") as box:
        form = extract_form(graph, box["lower"], box["upper"])
        middle = torch.from_numpy(0.5 * (box["lower"] + box["upper"]))
    assert form.blocks == 0
    assert np.abs(form.dy.value - jacobian(graph, middle)).max() < 1e-12
    assert np.linalg.norm(form.dy.value, 2) == pytest.approx(0.630228494, rel=1e-7)
