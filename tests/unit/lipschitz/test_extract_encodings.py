"""However an activation is spelled, it becomes one block per number: MaxMin, sorting, max-pools, Householder."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from verinet.solvers.lipschitz.chain import extract_chain
from verinet.solvers.lipschitz.extract import extract_form
from verinet.solvers.lipschitz.form import Activation, Chain, Floats, Form

from tests.unit.frontends.onnx_models import ints, node, weights
from tests.unit.lipschitz.extract_cases import (
    ENCODINGS,
    SPLIT,
    between_layers,
    check_jacobians,
    check_structure,
    dense_array,
    fgl,
    householder,
    network,
)
from verinet.errors import ModelError
from verinet.frontends.builder import GraphBuilder, Variable
from verinet.ir.graph import Graph
from verinet.ops.pooling.maximum import MaxLast
from verinet.ops.sorting.sort import SortLast


@pytest.mark.parametrize("name", ENCODINGS)
def test_every_encoding_of_maxmin_has_one_block_per_pair(name: str) -> None:
    hidden, constants, blocks = ENCODINGS[name]
    graph = between_layers(hidden, 6, constants)
    form = extract_form(graph)
    assert form.blocks == blocks
    check_structure(form)
    check_jacobians(graph, form, torch.zeros(4, dtype=torch.float64), 2.0)
    # On its own the layer keeps distances.
    alone = network([node("Identity", "x", "h"), *hidden, node("Identity", "g", "y")], [1, 6], constants)
    own = extract_form(alone)
    assert own.blocks == blocks and fgl(own) == pytest.approx(1.0, abs=1e-12)
    assert all(m.radius is None for m in (own.c, own.d, own.cy, own.dy))
    _check_chain(graph, blocks)


def _check_chain(graph: Graph, blocks: int) -> None:
    chain = extract_chain(graph)
    assert chain is not None and len(chain.weights) == 2
    layer = chain.activations[0]
    assert layer.r.shape[1] == layer.q.shape[0] == blocks
    form, composed = extract_form(graph), _composed(chain)
    assert np.abs(composed.dy.value - form.dy.value).max() < 1e-9
    assert fgl(composed) == pytest.approx(fgl(form), rel=1e-9)


def _composed(chain: Chain) -> Form:
    """The form of a chain with one activation layer."""
    first, last = (dense_array(w.value) for w in chain.weights)
    layer = chain.activations[0]
    p, r, q = (dense_array(part) for part in (layer.p, layer.r, layer.q))
    from verinet.solvers.lipschitz.form import Matrix

    zero = Matrix(np.zeros((q.shape[0], r.shape[1])))
    parts = (Matrix(q @ first), Matrix(last @ r), Matrix(last @ p @ first))
    layers = np.zeros(int(layer.v_block.max()) + 1, dtype=np.int64)
    return Form(zero, *parts, layer.v_block, layer.w_block, layers, (layer.label,))


def test_a_shift_makes_another_number() -> None:
    hidden = [
        node("Split", "h half", "a b", axis=1),
        node("Sub", "a b", "t"),
        node("Add", "t one", "t1"),
        node("Relu", "t", "r0"),
        node("Relu", "t1", "r1"),
        node("Concat", "r0 r1", "g", axis=1),
    ]
    graph = between_layers(hidden, 6, {**SPLIT, "one": np.float32([1.0])})
    form = extract_form(graph)
    assert form.blocks == 6
    check_jacobians(graph, form, torch.zeros(4, dtype=torch.float64), 2.0)


def test_crelu_and_powers_of_two_share_a_block() -> None:
    hidden = [
        node("Relu", "h", "r"),
        node("Mul", "h minus", "n"),
        node("Relu", "n", "q"),
        node("Concat", "r q", "g", axis=1),
    ]
    fixed = {"minus": np.float32([-4.0]), "V": weights(6, 3, seed=2), "W": weights(4, 3), "b": weights(3)}
    nodes = [node("Gemm", "x W b", "h"), *hidden, node("MatMul", "g V", "y")]
    graph = network(nodes, [1, 4], fixed)
    form = extract_form(graph)
    assert form.blocks == 3
    check_jacobians(graph, form, torch.zeros(4, dtype=torch.float64), 2.0)


@pytest.mark.parametrize("padding", [0, 1])
def test_convolution_and_overlapping_max_pool(padding: int) -> None:
    fixed = {"K": weights(1, 1, 2, 2) if padding == 0 else weights(1, 1, 3, 3)}
    nodes = [
        node("Conv", "x K", "h", pads=[padding] * 4),
        node("MaxPool", "h", "p", kernel_shape=[1, 2], strides=[1, 1]),
        node("Flatten", "p", "y"),
    ]
    graph = network(nodes, [1, 1, 3, 4], fixed)
    form = extract_form(graph)
    size = graph.nodes[2].shape
    assert form.blocks == size[2] * (size[3] - 1)
    check_structure(form)
    check_jacobians(graph, form, torch.zeros(12, dtype=torch.float64), 2.0)
    chain = extract_chain(graph)
    assert chain is not None and chain.activations[0].r.shape[1] == form.blocks


def test_max_of_three_and_four_as_tournaments() -> None:
    for width, blocks in ((3, 2), (4, 3)):
        fixed = {"W": weights(2, 2 * width), "pairs": ints(1, 2, width)}
        nodes = [
            node("MatMul", "x W", "h"),
            node("Reshape", "h pairs", "p"),
            node("ReduceMax", "p", "y", axes=[2], keepdims=0),
        ]
        graph = network(nodes, [1, 2], fixed)
        form = extract_form(graph)
        assert form.blocks == 2 * blocks
        check_jacobians(graph, form, torch.zeros(2, dtype=torch.float64), 2.0)
        chain = extract_chain(graph)
        assert (chain is not None) == (width == 4)
        if chain is not None:
            _check_contracts(graph, chain.activations[0], 2)


def _check_contracts(graph: Graph, layer: Activation, inputs: int) -> None:
    """Increments of a layer lie in p dv + r w with ||w_g|| <= ||(q dv)_g||, for the least w that explains them."""
    places = [i for i, n in enumerate(graph.nodes) if n.name in layer.label.split(", ")]
    draw = torch.Generator().manual_seed(2)
    p, r, q = (dense_array(part) for part in (layer.p, layer.r, layer.q))
    for _ in range(50):
        values = graph.forward_all(torch.randn(2, inputs, generator=draw, dtype=torch.float64))
        dv, dphi = (
            (t[0] - t[1]).reshape(-1).numpy() for t in (values[graph.nodes[places[0]].inputs[0]], values[places[-1]])
        )
        w = np.linalg.lstsq(r, dphi - p @ dv, rcond=None)[0]
        assert np.abs(r @ w + p @ dv - dphi).max() < 1e-9
        for block in range(int(layer.v_block.max()) + 1):
            size = np.linalg.norm(q[layer.v_block == block] @ dv)
            assert np.linalg.norm(w[layer.w_block == block]) <= size * (1 + 1e-9) + 1e-12


@pytest.mark.parametrize("width", [2, 3, 4, 5])
def test_group_sort_blocks(width: int) -> None:
    fixed = {"W": weights(3, 2 * width), "g": ints(1, 2, width), "k": ints(width), "V": weights(width, 2, seed=3)}
    nodes = [
        node("MatMul", "x W", "h"),
        node("Reshape", "h g", "p"),
        node("TopK", "p k", "s at", axis=2, largest=0, sorted=1),
        node("MatMul", "s V", "y"),
    ]
    graph = network(nodes, [1, 3], fixed)
    form = extract_form(graph)
    assert form.blocks == 2 and form.c.value.shape == (2 * (width - 1),) * 2
    check_structure(form)
    chain = extract_chain(graph)
    assert (chain is not None) == (width in (2, 4))
    if width == 2:
        return  # the reader writes pairs with |a - b|; see `test_sorted_pairs_share_their_difference`
    place = next(i for i, n in enumerate(graph.nodes) if n.op.kind == "Sort")
    draw = torch.Generator().manual_seed(width)
    for _ in range(30):
        pair = torch.randn(2, 3, generator=draw, dtype=torch.float64)
        values = graph.forward_all(pair)
        dy = (values[-1][0] - values[-1][1]).numpy()
        dx = (pair[0] - pair[1]).numpy()
        dphi = (values[place][0] - values[place][1]).reshape(2, width).numpy()
        rest = (dphi - dphi.mean(1, keepdims=True)).reshape(-1)
        # cy w is what the parts orthogonal to the mean contribute: w solves it within the norm bound.
        own = extract_form(network(nodes[:3] + [node("Identity", "s", "y")], [1, 3], fixed))
        w = np.linalg.lstsq(own.cy.value, rest, rcond=None)[0]
        assert np.abs(own.cy.value @ w - rest).max() < 1e-9
        assert np.abs(form.cy.value @ w + form.dy.value @ dx - dy).max() < 1e-9
        v = form.d.value @ dx
        for block in range(2):
            assert np.linalg.norm(w[form.w_block == block]) <= np.linalg.norm(v[form.v_block == block]) * (1 + 1e-9)


def test_sorted_pairs_share_their_difference() -> None:
    build = GraphBuilder(6)
    x = build.reshape(Variable(0, (6,), np.dtype(np.float64)), (3, 2))
    both = build.emit(SortLast(2), [x], (3, 2))
    top = build.emit(MaxLast(1), [x], (3,))
    build.concat([build.reshape(both, (6,)), top], 0)
    graph = Graph(tuple(build.nodes))
    form = extract_form(graph)
    assert form.blocks == 3
    check_jacobians(graph, form, torch.zeros(6, dtype=torch.float64), 2.0)
    chain = extract_chain(graph)
    assert chain is not None and chain.activations[0].r.shape == (9, 3)


@pytest.mark.parametrize("form", ["abs", "where", "masks"])
def test_householder_is_one_block_per_pair(form: str) -> None:
    hidden, fixed = householder(form)
    graph = between_layers(hidden, 6, fixed)
    found = extract_form(graph)
    assert found.blocks == 3
    check_structure(found)
    check_jacobians(graph, found, torch.zeros(4, dtype=torch.float64), 2.0)
    # In float32 the vectors have length one to 1e-7.
    alone = extract_form(network([node("Identity", "x", "h"), *hidden, node("Identity", "g", "y")], [1, 6], fixed))
    assert fgl(alone) == pytest.approx(1.0, abs=1e-6)


def test_a_choice_that_jumps_is_refused() -> None:
    """The two branches must agree where t = 0, in the network's own numbers: rounded sines and cosines do not."""
    hidden, fixed = householder("where")
    angle = np.random.default_rng(4).uniform(0, 6, size=3)
    cosine, sine = (f(2 * angle).astype(np.float32).reshape(1, 3, 1) for f in (np.cos, np.sin))
    rotated = [
        node("Split", "z one_one", "za zb", axis=2),
        node("Mul", "za cosine", "ac"),
        node("Mul", "zb sine", "bs"),
        node("Mul", "za sine", "as"),
        node("Mul", "zb cosine", "bc"),
        node("Add", "ac bs", "ma"),
        node("Sub", "as bc", "mb"),
        node("Concat", "ma mb", "m", axis=2),
    ]
    fixed = {**fixed, "one_one": ints(1, 1), "cosine": cosine, "sine": sine}
    kept = [n for n in hidden if n.output[0] not in ("m", "tv")]
    graph = between_layers([*kept[:3], *rotated, *kept[3:]], 6, fixed)
    with pytest.raises(ModelError, match="jump"):
        extract_form(graph)


def test_dropping_the_sharing_loosens_maxmin(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rule matters: with separate blocks the residual encoding of the identity-like layer reaches sqrt(2)."""
    from verinet.solvers.lipschitz.tracing import Trace

    plain: Callable[[Trace], tuple[list[bytes], Floats]] = Trace.normal
    count = itertools.count()

    def apart(self: Trace) -> tuple[list[bytes], Floats]:
        keys, scale = plain(self)
        return [key + str(next(count)).encode() for key in keys], scale

    hidden, constants, _ = ENCODINGS["residual relu"]
    graph = network([node("Identity", "x", "h"), *hidden, node("Identity", "g", "y")], [1, 6], constants)
    assert fgl(extract_form(graph)) == pytest.approx(1.0)
    monkeypatch.setattr(Trace, "normal", apart)
    assert fgl(extract_form(graph)) == pytest.approx(np.sqrt(2))
