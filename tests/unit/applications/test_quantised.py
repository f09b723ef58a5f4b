"""QuantizeLinear and DequantizeLinear mean what ONNX Runtime computes, and their bounds hold across jumps."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import verinet
from tests.unit.frontends.onnx_models import Spec, node, weights
from verinet.errors import ModelError, UnsupportedOperatorError
from verinet.frontends.crosscheck import open_session, run_session
from verinet.frontends.onnx import inspect_onnx, load_onnx

BACK = [node("QuantizeLinear", "x s z", "q", axis=1), node("DequantizeLinear", "q s z", "y", axis=1)]
STEP, STEPS = np.float32(0.25), np.float32([0.25, 0.5, 0.125])

SPECS = [
    Spec("unsigned", BACK, {"x": (2, 3)}, {"s": STEP, "z": np.uint8(3)}),
    Spec("signed", BACK, {"x": (2, 3)}, {"s": STEP, "z": np.int8(-120)}),
    Spec("by channel", BACK, {"x": (2, 3)}, {"s": STEPS, "z": np.array([0, 250, 9], np.uint8)}),
    Spec("no zero point", [node("QuantizeLinear", "x s", "q"), node("DequantizeLinear", "q s")], {"x": (4,)},
         {"s": STEP}),
    Spec("weights", [node("DequantizeLinear", "b s", "w", axis=0), node("MatMul", "x w")], {"x": (2, 3)},
         {"b": np.int8([[1, -2], [3, 4], [-128, 127]]), "s": STEPS}),
    Spec("a layer", [*BACK[:1], node("DequantizeLinear", "q s z", "d", axis=1), node("MatMul", "d w", "h"),
                     node("Relu", "h", "y")], {"x": (1, 3)}, {"s": STEP, "z": np.uint8(9), "w": weights(3, 2)}),
]  # fmt: skip


def runtime(model: onnx.ModelProto, points: np.ndarray) -> np.ndarray:
    loaded = load_onnx(model)
    session = open_session(loaded)
    return np.stack([run_session(session, loaded, x) for x in points])


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_values_are_those_of_onnx_runtime(spec):
    """Also at ties, which go to even, and beyond both ends of the range: steps are powers of two, so nothing rounds."""
    model = spec.model()
    graph = load_onnx(model).graph.to(torch.float64)
    rng = np.random.default_rng(2)
    coarse, fine = rng.integers(-900, 900, (60, graph.input_size)) / 16, rng.normal(size=(20, graph.input_size))
    points = np.concatenate([coarse, fine]).astype(np.float32).astype(np.float64)
    found = graph.forward(torch.from_numpy(points)).numpy()
    np.testing.assert_allclose(found, runtime(model, points), rtol=1e-6, atol=1e-6)


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.01, 0.3, 3.0]))
def test_bounds_hold_across_jumps(seed, reach):
    rng = np.random.default_rng(seed)
    spec = SPECS[seed % 3]
    graph = load_onnx(spec.model()).graph.to(torch.float64)
    center = rng.integers(-40, 40, graph.input_size) / 8 * (1 + 0.3 * rng.normal())
    bounds = verinet.bounds(load_onnx(spec.model()), verinet.box(center - reach, center + reach), method="interval")
    values = graph.forward(torch.from_numpy(center + reach * rng.uniform(-1, 1, (200, graph.input_size)))).numpy()
    assert (bounds.lower <= values + 1e-12).all() and (values <= bounds.upper + 1e-12).all()


def test_within_one_step_nothing_changes():
    """Between two ties the network is constant, and the bounds say so."""
    model = load_onnx(SPECS[0].model())
    found = verinet.bounds(model, verinet.box(np.full(6, 0.3), np.full(6, 0.37)))
    np.testing.assert_allclose(found.lower, 0.25, atol=1e-9)
    np.testing.assert_allclose(found.upper, 0.25, atol=1e-9)


def test_uses_that_are_refused():
    nodes = [node("QuantizeLinear", "x s", "q", output_dtype=17), node("DequantizeLinear", "q s")]
    floating = Spec("to float8", nodes, {"x": (3,)}, {"s": STEP}, opset=21)
    with pytest.raises(ModelError, match="float8"):
        load_onnx(floating.model())
    negative = Spec("negative scale", BACK, {"x": (2, 3)}, {"s": np.float32(-1), "z": np.uint8(0)})
    with pytest.raises(ModelError, match="positive"):
        load_onnx(negative.model())
    computed = Spec("dynamic", [node("ReduceMax", "x", "s", keepdims=0), node("QuantizeLinear", "x s", "q"),
                                node("DequantizeLinear", "q s")], {"x": (3,)})  # fmt: skip
    with pytest.raises(UnsupportedOperatorError, match="scale"):
        load_onnx(computed.model())
    assert [r.status for r in inspect_onnx(SPECS[0].model())] == ["bounded", "bounded"]
