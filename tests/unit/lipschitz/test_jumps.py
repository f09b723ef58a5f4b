"""Networks that jump by rounding of their weights: refused everywhere, slope and height over a region."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from verinet.solvers.lipschitz.extract import jumps_of
from verinet.solvers.lipschitz.jumps import columns_of
from verinet.solvers.lipschitz.regions import place_of

import verinet
from tests.unit.frontends.onnx_models import Spec, ints, node, weights
from verinet.errors import ModelError, UsageError
from verinet.frontends.model import Model
from verinet.frontends.onnx import load_onnx

INPUTS = 4


def householder_proto(error: float = 0.0) -> onnx.ModelProto:
    """A dense layer, a reflection written with rounded sines and cosines of angles, a dense layer."""
    angle = np.random.default_rng(4).uniform(0, 3, size=3)
    double = 2 * angle + error
    constants = {
        "W": weights(INPUTS, 6),
        "U": weights(6, 3, seed=1),
        "s": np.sin(angle).astype(np.float32),
        "c": np.cos(angle).astype(np.float32),
        "s2": np.sin(double).astype(np.float32),
        "c2": np.cos(double).astype(np.float32),
        "zero": np.float32([0.0]),
        "halves": ints(3, 3),
    }
    steps = [
        node("MatMul", "x W", "h"),
        node("Split", "h halves", "za zb", axis=1),
        *(node("Mul", f"{z} {k}", f"{z}_{k}") for z in ("za", "zb") for k in ("s", "c", "s2", "c2")),
        node("Sub", "za_s zb_c", "t"),
        node("Add", "za_c2 zb_s2", "ra"),
        node("Sub", "za_s2 zb_c2", "rb"),
        node("LessOrEqual", "t zero", "cond"),
        node("Where", "cond za ra", "oa"),
        node("Where", "cond zb rb", "ob"),
        node("Concat", "oa ob", "g", axis=1),
        node("MatMul", "g U", "y"),
    ]
    return Spec("net", steps, {"x": (1, INPUTS)}, constants).model()


def _householder(error: float = 0.0) -> Model:
    return load_onnx(householder_proto(error))


REGIONS: dict[str, Any] = {
    "box": verinet.linf_ball(np.full(INPUTS, 0.1), 0.5),
    "ball": verinet.Ball(np.full(INPUTS, 0.1), 0.5),
}


def test_everywhere_the_error_says_how_much_and_what_to_do() -> None:
    with pytest.raises(ModelError, match=r"(?s)jumps.*up to [0-9.e-]+ times.*give a region.*v \|v\^T x\|"):
        verinet.lipschitz(_householder(), timeout=2)


def _pairs(network: Model, region: Any, count: int = 3000) -> tuple[np.ndarray, np.ndarray]:
    """Inputs of the region, half of them just beside a switch, and partners near and far."""
    draw = np.random.default_rng(0)
    place = place_of(region, network.graph)
    points = place.sampled(INPUTS).sample(2 * count, torch.Generator().manual_seed(0)).numpy()
    first, second = points[:count], points[count:].copy()
    second[::2] = first[::2] + 1e-9 * draw.standard_normal((len(first[::2]), INPUTS))
    return first, second


@pytest.mark.parametrize("kind", REGIONS)
@pytest.mark.parametrize("error", [0.0, 1e-4])
@pytest.mark.parametrize("norm", [2, "inf"])
def test_slope_and_height_hold(kind: str, error: float, norm: Any) -> None:
    network = _householder(error)
    assert jumps_of(network.graph)
    bound = verinet.lipschitz(network, norm=norm, region=REGIONS[kind], timeout=4)
    assert bound.upper == np.inf and bound.jump is not None and bound.jump.where
    graph = network.graph.to(torch.float64)
    first, second = _pairs(network, REGIONS[kind])
    values = [graph.forward(torch.from_numpy(p)).numpy() for p in (first, second)]
    order = 2 if norm == 2 else np.inf
    moved = np.linalg.norm(values[0] - values[1], ord=order, axis=1)
    apart = np.linalg.norm(first - second, ord=order, axis=1)
    assert (moved <= bound.jump.slope * apart + bound.jump.height + 1e-12).all()
    assert bound.jump.height < 1e-5 + 100 * error


def test_the_slope_is_that_of_the_continuous_part() -> None:
    """Every reflection keeps distances, so the bound is not far from that of the dense layers."""
    network = _householder()
    bound = verinet.lipschitz(network, region=REGIONS["box"], timeout=4)
    product = np.linalg.norm(weights(INPUTS, 6), 2) * np.linalg.norm(weights(6, 3, seed=1), 2)
    assert bound.jump is not None and bound.lower * 0.9 < bound.jump.slope <= product * (1 + 1e-6)


def test_larger_mistakes_make_higher_jumps() -> None:
    heights = []
    for error in (1e-5, 1e-4):
        jump = verinet.lipschitz(_householder(error), region=REGIONS["box"], timeout=3).jump
        assert jump is not None
        heights.append(jump.height)
    assert 5 < heights[1] / heights[0] < 20


def test_the_record_has_no_upper_bound() -> None:
    bound = verinet.lipschitz(_householder(), region=REGIONS["box"], timeout=3)
    record = json.loads(json.dumps(bound.to_dict(), allow_nan=False))
    assert record["upper"] is None and record["gap"] is None
    assert record["jump"]["slope"] > record["jump"]["height"] > 0 and record["jump"]["where"]


def test_a_radius_counts_the_height() -> None:
    network, x = _householder(), np.array([0.4, -0.2, 0.7, 0.1])
    found = verinet.radius(network, x, timeout=6)
    assert found.local and found.radius > 0
    graph = network.graph.to(torch.float64)
    ways = np.random.default_rng(1).standard_normal((3000, INPUTS))
    points = x + found.radius * ways / np.linalg.norm(ways, axis=1, keepdims=True)
    assert bool((graph.forward(torch.from_numpy(points)).argmax(1) == found.label).all())


def test_methods_that_need_continuity() -> None:
    with pytest.raises(UsageError, match="without jumps"):
        verinet.lipschitz(_householder(), region=REGIONS["box"], method="product", timeout=2)


def test_columns_are_those_of_the_chosen_inputs() -> None:
    from verinet.solvers.lipschitz.extract import extract_form

    steps = [node("MatMul", "x W", "h"), node("Relu", "h", "g"), node("MatMul", "g U", "y")]
    constants = {"W": weights(INPUTS, 6), "U": weights(6, 3, seed=1)}
    form = extract_form(load_onnx(Spec("net", steps, {"x": (1, INPUTS)}, constants).model()).graph)
    part = columns_of(form, np.array([2, 0]))
    assert part.d.value.shape == (6, 2) and np.array_equal(part.d.value[:, 1], form.d.value[:, 0])
    assert np.array_equal(part.dy.value, form.dy.value[:, [2, 0]]) and part.c is form.c
