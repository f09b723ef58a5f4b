"""Networks for the tests of forms, and the Jacobians that a form allows."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from onnx import TensorProto
from torch import Tensor
from verinet.solvers.lipschitz.form import Floats, Form

from tests.unit.frontends.onnx_models import Spec, ints, node, weights
from verinet.frontends.onnx import load_onnx
from verinet.ir.graph import Graph

SIGNS = (-1.0, 1.0)


def network(nodes: Sequence[Any], shape: Sequence[int], constants: dict[str, np.ndarray], opset: int = 13) -> Graph:
    spec = Spec("net", nodes, {"x": shape}, constants, opset)
    return load_onnx(spec.model()).graph.to(torch.float64)


def jacobian(graph: Graph, x: Tensor) -> Floats:
    found = torch.autograd.functional.jacobian(lambda t: graph.forward(t.unsqueeze(0))[0], x)
    return np.asarray(found.numpy())


def secants(form: Form) -> Floats:
    """dy + cy D (I - c D)^-1 d for all signs of scalar blocks: the Jacobians the form allows at its corners."""
    assert form.blocks <= 12 and len(form.v_block) == len(form.w_block) == form.blocks
    order = np.argsort(form.w_block)
    c, cy = form.c.value[np.argsort(form.v_block)][:, order], form.cy.value[:, order]
    d = form.d.value[np.argsort(form.v_block)]
    found = []
    for signs in itertools.product(SIGNS, repeat=form.blocks):
        scale = np.diag(signs)
        inner = np.linalg.solve(np.eye(form.blocks) - c @ scale, d) if form.blocks else d
        found.append(form.dy.value + cy @ scale @ inner)
    return np.stack(found)


def fgl(form: Form) -> float:
    return max(float(np.linalg.norm(j, 2)) for j in secants(form))


def check_jacobians(graph: Graph, form: Form, centre: Tensor, width: float, count: int = 40, seed: int = 0) -> None:
    """For piecewise linear networks: the Jacobian at random points is a corner of the form, to 1e-9."""
    allowed = secants(form)
    draw = torch.Generator().manual_seed(seed)
    seen = set()
    for _ in range(count):
        shift = (torch.rand(centre.shape, generator=draw, dtype=torch.float64) * 2 - 1) * width
        exact = jacobian(graph, centre + shift)
        gaps = np.abs(allowed - exact).max((1, 2))
        assert gaps.min() < 1e-9, gaps.min()
        seen.add(int(gaps.argmin()))
    assert len(seen) > 1 or form.blocks == 0


def check_structure(form: Form) -> None:
    q, m = form.c.value.shape
    outs, n = form.dy.value.shape
    assert form.d.value.shape == (q, n) and form.cy.value.shape == (outs, m)
    assert set(form.v_block.tolist()) == set(form.w_block.tolist()) == set(range(form.blocks))
    assert len(form.labels) == (form.layer.max() + 1 if form.blocks else 0)
    inner = form.layer[form.v_block][:, None] > form.layer[form.w_block][None, :]
    size = np.abs(form.c.value) + (0 if form.c.radius is None else form.c.radius)
    assert not size[~inner].any()
    for matrix in (form.c, form.d, form.cy, form.dy):
        if matrix.radius is not None:
            assert matrix.radius.shape == matrix.value.shape and (matrix.radius >= 0).all()
            assert matrix.radius.max() <= 1e-11 * (1 + np.abs(matrix.value).max())


def between_layers(hidden: Sequence[Any], width: int, constants: dict[str, np.ndarray] | None = None) -> Graph:
    """x (1, 4) -> Gemm to `width` -> nodes from h to g -> Gemm to 3 outputs; g must be (1, width)."""
    fixed = {"W": weights(4, width), "b": weights(width, seed=1), "V": weights(width, 3, seed=2), **(constants or {})}
    nodes = [node("Gemm", "x W b", "h"), *hidden, node("MatMul", "g V", "y")]
    return network(nodes, [1, 4], fixed)


def halves(first: str, second: str) -> list[Any]:
    """Max and Min of the two tensors, joined."""
    return [node("Max", f"{first} {second}", "hi"), node("Min", f"{first} {second}", "lo")]


SPLIT = {"half": ints(3, 3)}


ENCODINGS: dict[str, tuple[list[Any], dict[str, np.ndarray], int]] = {
    # name: nodes from h to g, constants, blocks
    "split": (
        [node("Split", "h half", "a b", axis=1), *halves("a", "b"), node("Concat", "hi lo", "g", axis=1)],
        SPLIT,
        3,
    ),
    "strided": (
        [
            node("Slice", "h s0 e ax st", "a"),
            node("Slice", "h s1 e ax st", "b"),
            *halves("a", "b"),
            node("Unsqueeze", "lo two", "l2"),
            node("Unsqueeze", "hi two", "h2"),
            node("Concat", "l2 h2", "c", axis=2),
            node("Flatten", "c", "g"),
        ],
        {"s0": ints(0), "s1": ints(1), "e": ints(6), "ax": ints(1), "st": ints(2), "two": ints(2)},
        3,
    ),
    "view": (
        [
            node("Reshape", "h pairs", "p"),
            node("ReduceMax", "p", "hi", axes=[2], keepdims=0),
            node("ReduceMin", "p", "lo", axes=[2], keepdims=0),
            node("Concat", "hi lo", "g", axis=1),
        ],
        {"pairs": ints(1, 3, 2)},
        3,
    ),
    "residual relu": (
        [
            node("Split", "h half", "a b", axis=1),
            node("Sub", "a b", "t"),
            node("Sub", "b a", "u"),
            node("Relu", "t", "rt"),
            node("Relu", "u", "ru"),
            node("Add", "b rt", "hi"),
            node("Sub", "b ru", "lo"),
            node("Concat", "hi lo", "g", axis=1),
        ],
        SPLIT,
        3,
    ),
    "abs": (
        [
            node("Split", "h half", "a b", axis=1),
            node("Add", "a b", "s"),
            node("Sub", "b a", "t"),
            node("Abs", "t", "m"),
            node("Sub", "s m", "l2"),
            node("Add", "s m", "h2"),
            node("Div", "l2 two", "lo"),
            node("Mul", "h2 one_half", "hi"),
            node("Concat", "hi lo", "g", axis=1),
        ],
        {**SPLIT, "two": np.float32([2.0]), "one_half": np.float32([0.5])},
        3,
    ),
    "sort": (
        [
            node("Reshape", "h pairs", "p"),
            node("TopK", "p k", "sorted at", axis=2, largest=0, sorted=1),
            node("Reshape", "sorted back", "g"),
        ],
        {"pairs": ints(1, 3, 2), "k": ints(2), "back": ints(1, 6)},
        3,
    ),
}


def dense_array(part: Any) -> Floats:
    return np.asarray(part.toarray() if hasattr(part, "toarray") else part)


def activation(name: str, **attributes: Any) -> Graph:
    return between_layers([node(name, "h", "g", **attributes)], 5)


def householder(form: str) -> tuple[list[Any], dict[str, np.ndarray]]:
    angle = np.random.default_rng(4).uniform(0, 6, size=3)
    v = np.stack([np.sin(angle), -np.cos(angle)], 1).astype(np.float32).reshape(1, 3, 2)
    common = [
        node("Reshape", "h pairs", "z"),
        node("Mul", "z v", "zv"),
        node("ReduceSum", "zv last", "t", keepdims=1),
    ]
    fixed = {
        "pairs": ints(1, 3, 2),
        "last": ints(2),
        "v": v,
        "v2": 2 * v,
        "zero": np.float32([0.0]),
        "back": ints(1, 6),
    }
    reflected = [node("Mul", "t v2", "tv"), node("Sub", "z tv", "m")]
    tail = [node("Reshape", "o back", "g")]
    if form == "abs":
        steps = [node("Abs", "t", "ta"), node("Mul", "ta v", "tav"), node("Mul", "t v", "tv1")]
        return [*common, *steps, node("Sub", "z tv1", "r"), node("Add", "r tav", "o"), *tail], fixed
    if form == "where":
        choice = [node("Greater", "t zero", "cond"), node("Where", "cond z m", "o")]
        return [*common, *reflected, *choice, *tail], fixed
    masks = [
        node("LessOrEqual", "t zero", "c0"),
        node("Cast", "c0", "f0", to=TensorProto.FLOAT),
        node("Mul", "m f0", "a0"),
        node("Greater", "t zero", "c1"),
        node("Cast", "c1", "f1", to=TensorProto.FLOAT),
        node("Mul", "z f1", "a1"),
        node("Add", "a0 a1", "o"),
    ]
    return [*common, *reflected, *masks, *tail], fixed
