"""Blocks of softmax, products of two matrices and gates: above every Jacobian, and close to it on small regions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from verinet.solvers.lipschitz.extract import extract_form
from verinet.solvers.lipschitz.product import norm_product

import verinet
from tests.unit.frontends.onnx_models import Spec, ints, node, weights
from verinet.errors import ModelError
from verinet.frontends.model import Model
from verinet.frontends.onnx import load_onnx

SIZE = 8


def _loaded(nodes: list[Any], outputs: int = 4, **constants: np.ndarray) -> Model:
    given = {
        "A": weights(SIZE, 8),
        "B": weights(SIZE, 8, seed=1),
        "V": weights(outputs, 3, seed=2),
        "rows": ints(1, 2, 4),
        "columns": ints(1, 4, 2),
        "flat": ints(1, -1),
        **constants,
    }
    steps = [node("MatMul", "x A", "a"), node("MatMul", "x B", "b"), *nodes, node("MatMul", "z V", "y")]
    used = {name for step in steps for name in step.input}
    kept = {name: value for name, value in given.items() if name in used}
    return load_onnx(Spec("net", steps, {"x": (1, SIZE)}, kept).model())


NETWORKS: dict[str, list[Any]] = {
    "softmax": [node("Reshape", "a rows", "r"), node("Softmax", "r", "s", axis=2), node("Reshape", "s flat", "z")],
    "three": [
        node("Slice", "a zero six one", "c"),
        node("Reshape", "c threes", "r"),
        node("Softmax", "r", "s", axis=2),
        node("Reshape", "s flat", "z"),
    ],
    "log": [node("Reshape", "a rows", "r"), node("LogSoftmax", "r", "s", axis=2), node("Reshape", "s flat", "z")],
    "matmul": [
        node("Reshape", "a rows", "r"),
        node("Reshape", "b columns", "c"),
        node("MatMul", "r c", "p"),
        node("Reshape", "p flat", "z"),
    ],
    "attention": [
        node("Reshape", "a rows", "q"),
        node("Reshape", "b columns", "k"),
        node("MatMul", "q k", "e"),
        node("Softmax", "e", "p", axis=2),
        node("Reshape", "a rows", "v"),
        node("MatMul", "p v", "o"),
        node("Reshape", "o flat", "z"),
    ],
    "gate": [node("Exp", "b", "e"), node("Div", "a e", "z")],
    "normalised": [node("Softplus", "b", "e"), node("Div", "a e", "z")],
}
OUTPUTS = {"softmax": 8, "three": 6, "log": 8, "matmul": 4, "attention": 8, "gate": 8, "normalised": 8}
MORE = {"zero": ints(0, 0), "six": ints(1, 6), "one": ints(1, 1), "threes": ints(1, 2, 3)}


def _network(name: str) -> Model:
    extra = MORE if name == "three" else {}
    return _loaded(NETWORKS[name], OUTPUTS[name], **extra)


def _jacobians(network: Model, points: np.ndarray) -> list[np.ndarray]:
    graph = network.graph.to(torch.float64)

    def run(x: torch.Tensor) -> torch.Tensor:
        return graph.forward(x.reshape(1, -1))[0]

    found = [torch.autograd.functional.jacobian(run, torch.from_numpy(p)) for p in points]
    return [j.numpy() for j in found]


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("size", [1e-3, 0.2, 1.0])
def test_bounds_over_boxes_are_above_all_jacobians(name: str, size: float) -> None:
    network, draw = _network(name), np.random.default_rng(0)
    center = draw.standard_normal(SIZE) * 0.5
    box = verinet.linf_ball(center, size)
    points = np.vstack(
        [center, draw.uniform(box.lower, box.upper, (40, SIZE)), draw.choice([-size, size], (40, SIZE)) + center]
    )
    jacobians = _jacobians(network, points)
    for norm, order in ((2, 2), ("inf", np.inf)):
        attained = max(float(np.linalg.norm(j, order)) for j in jacobians)
        bound = verinet.lipschitz(network, norm=norm, region=box, timeout=4)
        product = norm_product(network.graph, str(norm), box.lower, box.upper)
        assert bound.upper >= attained * (1 - 1e-9) and product >= attained * (1 - 1e-9)
        assert bound.lower <= bound.upper
        if size == 1e-3:
            at_center = float(np.linalg.norm(jacobians[0], order))
            assert bound.upper <= at_center * 1.1


@pytest.mark.parametrize("name", ["softmax", "three", "log"])
def test_softmax_needs_no_region(name: str) -> None:
    network = _network(name)
    points = np.random.default_rng(0).standard_normal((200, SIZE)) * np.geomspace(0.01, 10, 200)[:, None]
    attained = max(float(np.linalg.norm(j, 2)) for j in _jacobians(network, points))
    bound = verinet.lipschitz(network, timeout=4)
    assert attained <= bound.upper <= bound.candidates[-1][1] < math.inf


def test_the_slope_of_softmax_is_one_half() -> None:
    """Attained at (1/2, 1/2, 0, ..), in the limit."""
    network = load_onnx(Spec("net", [node("Softmax", "x", "y", axis=1)], {"x": (1, 5)}, {}).model())
    for norm in (2, "inf"):
        assert 0.5 <= verinet.lipschitz(network, norm=norm, timeout=3).upper <= 0.5 * (1 + 1e-6)


def test_far_from_equal_logits_softmax_is_flat() -> None:
    network = load_onnx(Spec("net", [node("Softmax", "x", "y", axis=1)], {"x": (1, 3)}, {}).model())
    bound = verinet.lipschitz(network, region=verinet.linf_ball(np.array([8.0, 0.0, 0.0]), 0.5), timeout=3)
    assert 1e-4 < bound.lower <= bound.upper < 4e-3


def test_blocks_of_products_have_few_columns() -> None:
    network = _network("matmul")
    form = extract_form(network.graph, -np.ones(SIZE), np.ones(SIZE))
    # 2 x 4 times 4 x 2: two columns of y with two entries of w each, two rows of x with two.
    assert form.blocks == 4 and len(form.w_block) == 8 and len(form.v_block) == 16


@pytest.mark.parametrize("name", ["matmul", "attention", "gate"])
def test_products_need_a_region(name: str) -> None:
    with pytest.raises(ModelError, match="give a region"):
        verinet.lipschitz(_network(name), timeout=2)
