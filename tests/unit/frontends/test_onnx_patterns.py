"""Activations written out in several nodes, in the orders that exporters use."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.unit.frontends.onnx_models import Spec, node, weights
from verinet.frontends.crosscheck import compare_with_onnxruntime
from verinet.frontends.onnx import load_onnx

F = np.float32
NUMBERS = {
    "half": F(0.5), "one": F(1), "two": F(2), "three": F(3), "six": F(6), "zero": F(0), "root2": F(math.sqrt(2)),
    "inv": F(1 / math.sqrt(2)), "cube": F(0.044715), "c": F(math.sqrt(2 / math.pi)), "twenty": F(20), "small": F(0.1),
    "quick": F(1.702), "ones": np.array([1], F),
}  # fmt: skip

GELU_ORDERS = {
    "torchscript": [
        ("Div", "x root2", "a"), ("Erf", "a", "b"), ("Add", "b one", "d"), ("Mul", "x d", "e"), ("Mul", "e half", "y"),
    ],
    "half first": [
        ("Mul", "x inv", "a"), ("Erf", "a", "b"), ("Add", "one b", "d"), ("Mul", "half x", "e"), ("Mul", "e d", "y"),
    ],
    "half on erf": [
        ("Div", "x root2", "a"), ("Erf", "a", "b"), ("Add", "b ones", "d"), ("Mul", "d half", "e"), ("Mul", "e x", "y"),
    ],
    "with casts": [
        ("Div", "x root2", "a"), ("Erf", "a", "b"), ("Add", "b one", "d"), ("Identity", "d", "i"), ("Mul", "i x", "e"),
        ("Mul", "half e", "y"),
    ],
}  # fmt: skip
TANH_ORDERS = {
    "pow": [
        ("Pow", "x three", "a"), ("Mul", "a cube", "b"), ("Add", "x b", "d"), ("Mul", "d c", "e"), ("Tanh", "e", "t"),
        ("Add", "t one", "u"), ("Mul", "x half", "v"), ("Mul", "v u", "y"),
    ],
    "products": [
        ("Mul", "x x", "q"), ("Mul", "q x", "a"), ("Mul", "cube a", "b"), ("Add", "b x", "d"), ("Mul", "c d", "e"),
        ("Tanh", "e", "t"), ("Add", "one t", "u"), ("Mul", "u x", "v"), ("Mul", "half v", "y"),
    ],
}  # fmt: skip
OTHERS = {
    "Swish": [("Sigmoid", "x", "s"), ("Mul", "x s", "y")],
    "Swish scaled": [("Mul", "x quick", "q"), ("Sigmoid", "q", "s"), ("Mul", "s x", "y")],
    "Swish by exp": [("Neg", "x", "n"), ("Exp", "n", "e"), ("Add", "e one", "d"), ("Div", "x d", "y")],
    "Sigmoid": [("Neg", "x", "n"), ("Exp", "n", "e"), ("Add", "e one", "d"), ("Div", "one d", "y")],
    "Mish": [("Softplus", "x", "s"), ("Tanh", "s", "t"), ("Mul", "x t", "y")],
    "Mish by exp": [
        ("Exp", "x", "e"), ("Add", "e one", "f"), ("Log", "f", "s"), ("Tanh", "s", "t"), ("Mul", "t x", "y"),
    ],
    "Softplus": [("Exp", "x", "e"), ("Add", "one e", "f"), ("Log", "f", "y")],
    "Softsign": [("Abs", "x", "a"), ("Add", "a one", "b"), ("Div", "x b", "y")],
    "HardSwish": [("HardSigmoid", "x", "s"), ("Mul", "x s", "y")],
    "HardSwish clip": [
        ("Add", "x three", "a"), ("Clip", "a zero six", "b"), ("Mul", "x b", "d"), ("Div", "d six", "y"),
    ],
    "Clip": [("Relu", "x", "r"), ("Min", "r six", "y")],
    "LeakyReLU": [("Mul", "x small", "m"), ("Max", "x m", "y")],
    "LeakyReLU where": [("Greater", "x zero", "g"), ("Mul", "x small", "m"), ("Where", "g x m", "y")],
    "Pow": [("Mul", "x x", "y")],
}  # fmt: skip


def _after_product(inputs: str) -> str:
    return " ".join("h" if name == "x" else name for name in inputs.split())


def spec(name: str, steps: list[tuple[str, str, str]]) -> Spec:
    """A matrix product, the pattern, and another product, so that the pattern has neighbours."""
    used = {k: np.asarray(v) for k, v in NUMBERS.items() if any(k in inputs.split() for _, inputs, _ in steps)}
    extra = {"HardSigmoid": {"alpha": 1 / 6, "beta": 0.5}}
    made = [node(op, _after_product(inputs), out, **extra.get(op, {})) for op, inputs, out in steps]
    chain = [node("MatMul", "x A", "h"), *made, node("MatMul", "y B", "z")]
    return Spec(name, chain, {"x": (1, 4)}, {**used, "A": weights(4, 6), "B": weights(6, 2)}, outputs=("z",))


def check(name: str, steps: list[tuple[str, str, str]], expected: str) -> None:
    model = load_onnx(spec(name, steps).model())
    functions = [n.op.function.name for n in model.graph.nodes if n.op.kind == "Elementwise"]
    assert functions == [expected]
    assert [n.op.kind for n in model.graph.nodes[2:]] == ["Dense", "Elementwise", "Dense", "Reshape"]
    samples = 3 * np.random.default_rng(0).normal(size=(5, 4))
    assert compare_with_onnxruntime(model, samples) < 2e-6


@pytest.mark.parametrize("name", GELU_ORDERS)
def test_gelu(name: str) -> None:
    check(name, GELU_ORDERS[name], "GELU")


@pytest.mark.parametrize("name", TANH_ORDERS)
def test_gelu_tanh(name: str) -> None:
    check(name, TANH_ORDERS[name], "GELU (tanh)")


@pytest.mark.parametrize("name", OTHERS)
def test_other_patterns(name: str) -> None:
    check(name, OTHERS[name], name.split(" ")[0])


def test_softplus_with_a_threshold_is_not_taken_for_softplus() -> None:
    """torch switches to x above 20, where softplus is 2e-9 more: that difference must not get lost."""
    nodes = [("Softplus", "x", "s"), ("Greater", "x twenty", "g"), ("Where", "g x s", "y")]
    check("Softplus threshold", nodes, "composed at y")


NOT_PATTERNS = {
    "wrong factor": [
        ("Div", "x two", "a"),
        ("Erf", "a", "b"),
        ("Add", "b one", "d"),
        ("Mul", "x d", "e"),
        ("Mul", "e half", "y"),
    ],
    "wrong threshold": [("Softplus", "x", "s"), ("Greater", "x three", "g"), ("Where", "g x s", "y")],
    "wrong gate": [("Mul", "x two", "m"), ("Sigmoid", "x", "s"), ("Mul", "m s", "y")],
}


@pytest.mark.parametrize("name", NOT_PATTERNS)
def test_near_misses_stay_as_they_are(name: str) -> None:
    model = load_onnx(spec(name, NOT_PATTERNS[name]).model())
    samples = 3 * np.random.default_rng(0).normal(size=(5, 4))
    assert compare_with_onnxruntime(model, samples) < 2e-6
    functions = [n.op.function.name for n in model.graph.nodes if n.op.kind == "Elementwise"]
    if name == "wrong gate":  # 2 x sigmoid(x): the part with a name is taken, the factor stays
        assert len(functions) == 1
    else:
        assert functions not in (["GELU"], ["Softplus"])


def test_gates_of_two_variables_are_no_pattern() -> None:
    chain = [node("Sigmoid", "b", "s"), node("Mul", "a s")]
    model = load_onnx(Spec("glu", chain, {"a": (1, 3), "b": (1, 3)}).model())
    assert "Mul" in [n.op.kind for n in model.graph.nodes]


def test_constants_that_change_the_shape_are_no_pattern() -> None:
    chain = [node("Mul", "x one", "m"), node("Sigmoid", "m", "s"), node("Mul", "x s")]
    model = load_onnx(Spec("wide", chain, {"x": (3,)}, {"one": np.ones((2, 1), F)}).model())
    assert model.output_shapes == ((2, 3),)
    assert compare_with_onnxruntime(model, np.random.default_rng(0).normal(size=(3, 3))) < 1e-6
