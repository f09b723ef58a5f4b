"""No bound may pass through float32 on its way: torch makes Python's numbers float32 unless told otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

import verinet
import verinet.api_lipschitz
from tests.unit.frontends.onnx_models import node, weights
from tests.unit.lipschitz.api_kit import ACTIVATIONS, SIZE, dense_net, loaded, spec_of


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The default type may be changed; nobody looks for lower bounds, which are not what is compared."""
    monkeypatch.setattr(verinet.api_lipschitz, "_lower", lambda *_: 0.0)
    before = torch.get_default_dtype()
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def product(op: str) -> Any:
    """x times a function of x, as matrices (2, 2)."""
    nodes = [node(op, "x", "h"), node("MatMul", "h x", "p"), node("MatMul", "p V", "y")]
    return spec_of(nodes, (1, 2, 2), V=weights(2, 3))


MODELS = {
    **{name: dense_net(nodes) for name, nodes in ACTIVATIONS.items()},
    "softmax": dense_net([node("Softmax", "h", "g", axis=1)]),
    "logarithm": dense_net([node("LogSoftmax", "h", "g", axis=1)]),
    "product": product("Tanh"),
    "attention": product("Softmax"),
    "gate": dense_net([node("Sigmoid", "h", "s"), node("Mul", "h s", "g")]),
    "sort": dense_net([node("Reshape", "h pairs", "p"), node("ReduceMax", "p", "m", axes=[2]), node("Sub", "p m", "q"),
                       node("Reshape", "q flat", "g")]),
}  # fmt: skip


@pytest.mark.parametrize("radius", [None, 0.3])
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("method", ["product", "first-order"])
def test_bounds_do_not_depend_on_the_default_type(wide: None, name: str, radius: float | None, method: str) -> None:
    if radius is None and name in ("product", "attention"):
        pytest.skip("has a bound over a region only")
    model = loaded(MODELS[name])
    size = model.graph.input_size
    region = None if radius is None else verinet.linf_ball(np.linspace(-0.5, 0.5, size), radius)
    found = []
    for dtype in (torch.float32, torch.float64):
        torch.set_default_dtype(dtype)
        try:
            found.append(verinet.lipschitz(model, region=region, method=method, timeout=8).candidates[0][1])
        except verinet.VerinetError as error:
            found.append(str(error))
    assert found[0] == found[1]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("method", ["first-order", "neuron"])
def test_the_logarithm_of_softmax_has_its_whole_constant(seed: int, method: str) -> None:
    """J = I - 1 p^T is largest at a corner p of the simplex, which logits come as close to as one likes.

    With two logits of opposite sign the relaxation is exact, so nothing but rounding lies between bound and constant.
    """
    half, last = weights(SIZE, 1, seed=seed), weights(2, 1, seed=seed + 1)
    nodes = [node("MatMul", "x W", "h"), node("LogSoftmax", "h", "g", axis=1), node("MatMul", "g V", "y")]
    first = np.concatenate([half, -half], 1)
    model = loaded(spec_of(nodes, W=first, V=last))
    inner, outer = first.astype(np.float64), last.astype(np.float64)
    corners = [inner @ (np.eye(2) - np.outer(p, np.ones(2))) @ outer for p in np.eye(2)]
    constant = max(float(np.linalg.norm(c)) for c in corners)
    bound = verinet.lipschitz(model, method=method, timeout=5)
    assert constant * (1 - 1e-14) <= bound.candidates[0][1] <= constant * (1 + 1e-5)
