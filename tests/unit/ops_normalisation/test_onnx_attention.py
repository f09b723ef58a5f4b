"""Softmax, products of variables, quotients and normalisations as ONNX spells them, against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.unit.frontends.onnx_models import Spec, ints, node, single, weights
from verinet.errors import ModelError, UnsupportedOperatorError
from verinet.frontends.crosscheck import compare_with_onnxruntime
from verinet.frontends.onnx import load_onnx
from verinet.ir.graph import Graph
from verinet.ops.base import NonlinearOp
from verinet.ops.bilinear.gate import Gate
from verinet.ops.bilinear.matmul import MatMulTwo
from verinet.ops.bilinear.product import Product
from verinet.ops.normalisation.softmax import Softmax

IMAGE = (1, 4, 3, 2)


def norm_parts(shape: tuple[int, ...], root: str) -> Spec:
    """LayerNormalization as older exporters spell it; `root` says how the division is written."""
    nodes = [
        node("ReduceMean", "x", "m", axes=[-1]),
        node("Sub", "x m", "d"),
        node("Pow", "d two", "q"),
        node("ReduceMean", "q", "v", axes=[-1]),
        node("Add", "v eps", "s"),
    ]
    if root == "div":
        nodes += [node("Sqrt", "s", "r"), node("Div", "d r")]
    elif root == "mul":
        nodes += [node("Sqrt", "s", "r"), node("Reciprocal", "r", "i"), node("Mul", "d i")]
    constants = {"two": np.float32(2), "eps": np.float32(1e-5)}
    return Spec(f"norm parts {root}", nodes, {"x": shape}, constants)


def softmax_parts(shifted: bool) -> Spec:
    nodes = [
        node("ReduceMax", "x", "m", axes=[-1]),
        node("Sub", "x m", "h"),
        node("Exp", "h" if shifted else "x", "e"),
        node("ReduceSum", "e axes", "s"),
        node("Div", "e s"),
    ]
    return Spec(f"softmax parts {shifted}", nodes, {"x": (2, 5)}, {"axes": ints(-1)})


def two(op: str, left: tuple[int, ...], right: tuple[int, ...], **attributes: object) -> Spec:
    return Spec(f"{op} {left} {right} {attributes}", [node(op, "x z", **attributes)], {"x": left, "z": right})


def specs() -> list[Spec]:
    scale = {"G": weights(4), "B": weights(4, seed=1)}
    return [
        single("Softmax", (2, 3, 4)),
        single("Softmax", (2, 3, 4), axis=1),
        single("Softmax", (2, 3, 4), opset=11),
        single("Softmax", (2, 3, 4), opset=11, axis=2),
        single("Softmax", (2, 1), axis=1),
        single("LogSoftmax", (2, 3, 4), axis=0),
        single("LogSoftmax", (2, 3, 4), opset=11),
        softmax_parts(True),
        softmax_parts(False),
        two("MatMul", (2, 3, 4), (4, 5)),
        two("MatMul", (4,), (2, 4, 5)),
        two("MatMul", (3, 4), (4,)),
        two("MatMul", (4,), (4,)),
        two("MatMul", (2, 1, 3, 4), (5, 4, 2)),
        two("Gemm", (4, 3), (5, 4), transA=1, transB=1, alpha=0.5),
        Spec("Gemm three", [node("Gemm", "x z w", beta=2.0)], {"x": (2, 3), "z": (3, 4), "w": (4,)}),
        Spec("Div", [node("Softplus", "z", "p"), node("Div", "x p")], {"x": (2, 3), "z": (2, 3)}),
        Spec("Div rows", [node("Softplus", "z", "p"), node("Div", "x p")], {"x": (2, 3), "z": (2, 1)}),
        Spec(
            "Div root",
            [node("Softplus", "z", "p"), node("Sqrt", "p", "r"), node("Div", "x r")],
            {"x": (3,), "z": (3,)},
        ),
        single("LayerNormalization", (2, 3, 4), opset=17, **scale),
        single("LayerNormalization", (2, 3, 4), opset=17, axis=1, epsilon=0.1, G=weights(3, 4)),
        single("InstanceNormalization", IMAGE, **scale),
        single("GroupNormalization", IMAGE, opset=21, num_groups=2, **scale),
        norm_parts((2, 6), "div"),
        norm_parts((2, 6), "mul"),
    ]


def values_of(graph: Graph) -> list[str]:
    return [n.op.kind for n in graph.nodes if isinstance(n.op, NonlinearOp)]


@pytest.mark.parametrize("spec", specs(), ids=lambda s: s.name)
def test_values_agree_with_onnx_runtime(spec: Spec) -> None:
    model = load_onnx(spec.model())
    samples = np.random.default_rng(1).normal(size=(3, model.graph.input_size))
    assert compare_with_onnxruntime(model, samples) < 1e-4


def test_rms_normalization_is_the_quotient_by_the_root_mean_square() -> None:
    """The operator is younger than the checker and the runtime know, so the value is compared with its definition."""
    spec = Spec("RMS", [node("RMSNormalization", "x G", epsilon=0.1)], {"x": (2, 4)}, {"G": weights(4)}, opset=23)
    model = load_onnx(spec.model())
    x = torch.randn(5, 8, dtype=torch.float64)
    shaped = x.reshape(5, 2, 4)
    expected = shaped / (shaped.square().mean(-1, keepdim=True) + np.float32(0.1)).sqrt() * torch.tensor(weights(4))
    assert torch.allclose(model.graph.forward(x), expected.reshape(5, -1), atol=1e-6)


@pytest.mark.parametrize("shifted", [True, False])
def test_a_spelled_softmax_is_one_operator(shifted: bool) -> None:
    assert values_of(load_onnx(softmax_parts(shifted).model()).graph) == ["Softmax"]


def test_a_spelled_normalisation_is_a_product_within_its_limit() -> None:
    graph = load_onnx(norm_parts((2, 6), "div").model()).graph
    found = [n.op for n in graph.nodes if isinstance(n.op, Product)]
    assert len(found) == 1
    assert found[0].limit == pytest.approx(6**0.5, rel=1e-6)
    assert found[0].limit >= 6**0.5


def test_the_limit_of_a_normalisation_holds() -> None:
    """One entry far from the rest: sqrt(n - 1) is nearly reached, and not crossed."""
    spec = single("LayerNormalization", (1, 5), opset=17, G=np.ones(5, np.float32), epsilon=1e-12)
    graph = load_onnx(spec.model()).graph
    limit = next(n.op.limit for n in graph.nodes if isinstance(n.op, Product))
    value = graph.forward(torch.tensor([[1e3, 0, 0, 0, 0]], dtype=torch.float64)).abs().max()
    assert float(value) <= limit
    assert float(value) == pytest.approx(limit, rel=1e-5)


def test_operators_that_are_made() -> None:
    graph = load_onnx(two("MatMul", (2, 3), (3, 4)).model()).graph
    assert any(isinstance(n.op, MatMulTwo) for n in graph.nodes)
    division = Spec("Div", [node("Softplus", "z", "p"), node("Div", "x p")], {"x": (3,), "z": (3,)})
    assert any(isinstance(n.op, Gate) for n in load_onnx(division.model()).graph.nodes)
    assert any(isinstance(n.op, Softmax) for n in load_onnx(single("Softmax", (2, 3)).model()).graph.nodes)


def test_refusals() -> None:
    statistics = Spec(
        "stats", [node("LayerNormalization", "x G", "y mean")], {"x": (2, 4)}, {"G": weights(4)}, 17, ("y", "mean")
    )
    with pytest.raises(UnsupportedOperatorError, match="statistics"):
        load_onnx(statistics.model())
    with pytest.raises(ModelError, match="cannot multiply"):
        load_onnx(two("MatMul", (2, 3), (4, 5)).model())
