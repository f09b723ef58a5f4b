"""The derivative network is the derivative: against difference quotients, ONNX Runtime, and exact fractions."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import onnx
import pytest
import torch

import verinet
from tests.unit.frontends.onnx_models import Spec, ints, node, single, weights
from verinet.errors import InternalError, ModelError, UsageError
from verinet.frontends import derivative_scalar
from verinet.frontends.crosscheck import open_session, run_session
from verinet.frontends.derivative import Derivative, jacobian
from verinet.frontends.derivative_tape import RULES
from verinet.frontends.onnx import load_onnx

W43, W34 = weights(4, 3), weights(3, 4, seed=1)
HALF = np.float32(0.5)

SPECS = [
    *(single(op, (2, 3)) for op in ("Abs", "Atan", "Cos", "Cosh", "Elu", "Erf", "Exp", "Neg", "Relu", "Sigmoid")),
    *(single(op, (2, 3)) for op in ("Sin", "Sinh", "Softplus", "Softsign", "Tanh", "HardSigmoid", "Identity")),
    *(single(op, (2, 3), "positive") for op in ("Log", "Reciprocal", "Sqrt")),
    single("Tan", (2, 3), "narrow"),
    single("Elu", (2, 3), alpha=0.3),
    single("HardSigmoid", (2, 3), alpha=0.7, beta=0.1),
    single("LeakyRelu", (2, 3), alpha=0.1),
    single("PRelu", (2, 3), Slope=weights(3)),
    single("Gelu", (2, 3), opset=20),
    single("Clip", (2, 3), Low=np.float32(-0.5), High=HALF),
    single("Clip", (2, 3), Low=np.float32(-0.5)),
    single("Clip", (2, 3), opset=10, min=-0.25, max=0.75),
    single("Pow", (2, 3), Exponent=np.float32(3)),
    single("Pow", (2, 3), "positive", Exponent=np.float32(2.5)),
    single("Pow", (3,), "wider", Exponent=np.full((2, 1), 2, np.float32)[:1]),
    single("Max", (2, 3), Other=HALF),
    single("Min", (1, 3), "wider", Other=weights(2, 3)),
    Spec("Max of variables", [node("Sin", "x", "s"), node("Max", "x s")], {"x": (2, 3)}),
    Spec("Min of variables", [node("Sin", "x", "s"), node("Min", "s x")], {"x": (2, 3)}),
    single("Gemm", (2, 3), B=W34, C=weights(4)),
    single("Gemm", (2, 3), B=W43, C=weights(4), transB=1, alpha=0.3, beta=0.7),
    Spec("Gemm with variable C", [node("Gemm", "x w x", beta=0.5)], {"x": (3, 3)}, {"w": weights(3, 3)}),
    single("MatMul", (2, 3), B=W34),
    single("MatMul", (3, 4), "from a higher rank", B=weights(2, 4, 3)),
    Spec("MatMul from the left", [node("MatMul", "w x")], {"x": (3, 2)}, {"w": W43}),
    Spec("MatMul of variables", [node("Transpose", "x", "t"), node("MatMul", "x t")], {"x": (2, 3)}),
    Spec("linear chain", [node("MatMul", "x a", "h"), node("MatMul", "h b")], {"x": (2, 3)}, {"a": W34, "b": W43}),
    single("Add", (3,), Other=weights(2, 3)),
    Spec("Sum", [node("Exp", "x", "e"), node("Sum", "x e x c")], {"x": (3,)}, {"c": weights(2, 3)}),
    Spec("Mean", [node("Exp", "x", "e"), node("Mean", "x e c")], {"x": (3,)}, {"c": weights(2, 3)}),
    Spec("Sub", [node("Sin", "x", "s"), node("Sub", "s x")], {"x": (2, 3)}),
    Spec("Sub from a constant", [node("Sub", "c x")], {"x": (3,)}, {"c": weights(2, 3)}),
    Spec("square", [node("Mul", "x x")], {"x": (2, 3)}),
    Spec("Mul", [node("Sin", "x", "s"), node("Mul", "s x")], {"x": (2, 3)}),
    single("Mul", (3,), Other=weights(2, 3)),
    single("Mul", (3,), opset=9, Other=weights(2, 3)),
    Spec("Div positive", [node("Sin", "x", "s"), node("Div", "s x")], {"x": (2, 3)}),
    single("Div", (3,), Other=weights(2, 3)),
    Spec("Div of a constant, positive", [node("Div", "c x")], {"x": (3,)}, {"c": weights(2, 3)}),
    single("Softmax", (2, 3), axis=0),
    single("Softmax", (2, 3), opset=11, axis=1),
    single("ReduceSum", (2, 3), Axes=ints(-1), keepdims=0),
    single("ReduceSum", (2, 3), opset=11, axes=[0]),
    single("ReduceMean", (2, 3), axes=[1]),
    single("ReduceMean", (2, 3), keepdims=0),
    single("ReduceMean", (2, 3), opset=18, Axes=ints(0), keepdims=0),
    single("Reshape", (2, 3), Shape=ints(3, -1)),
    single("Flatten", (2, 3, 1)),
    single("Squeeze", (2, 1, 3), Axes=ints(1)),
    single("Unsqueeze", (2, 3), Axes=ints(0)),
    single("Transpose", (2, 3, 1), perm=[2, 0, 1]),
    single("Dropout", (2, 3)),
    single("Gather", (2, 3), Index=ints(2, 0, 2), axis=1),
    single("Slice", (4, 3), Starts=ints(-1), Ends=ints(-5), Axes=ints(0), Steps=ints(-2)),
    single("Slice", (4, 3), opset=9, starts=[1], ends=[3], axes=[0]),
    single("Tile", (2, 3), Repeats=ints(2, 1)),
    single("DepthToSpace", (1, 4, 1, 2), blocksize=2),
    single("SpaceToDepth", (1, 1, 2, 2), blocksize=2),
    Spec("Split", [node("Split", "x", "a b", axis=1), node("Mul", "a b")], {"x": (2, 4)}),
    single("Expand", (3,), Shape=ints(2, 3)),
    single("Pad", (2, 3), Pads=ints(0, 1, 1, 0)),
    single("Pad", (2, 3), opset=10, pads=[0, 1, 1, 0]),
    Spec("Concat", [node("Sin", "x", "s"), node("Concat", "x c s x", axis=1)], {"x": (2, 3)}, {"c": weights(2, 1)}),
    Spec("Concat before a layer", [node("Concat", "x x", "h", axis=1), node("MatMul", "h w")], {"x": (2, 2)},
         {"w": weights(4, 2)}),
    Spec("Where", [node("Where", "c x k")], {"x": (3,)},
         {"c": np.array([[True, False, True], [False, False, True]]), "k": HALF}),
    single("Conv", (1, 2, 4, 4), Weight=weights(3, 2, 2, 2), Bias=weights(3), strides=[2, 2]),
    single("ConvTranspose", (1, 2, 2, 2), Weight=weights(2, 3, 2, 2), Bias=weights(3)),
    single("AveragePool", (1, 2, 4, 4), kernel_shape=[2, 2]),
    single("GlobalAveragePool", (1, 2, 2, 2)),
    single("BatchNormalization", (1, 2, 2), Scale=weights(2), Offset=weights(2), Mean=weights(2),
           Variance=np.abs(weights(2))),
    Spec("shapes", [node("Shape", "x", "n"), node("Sin", "x", "s"), node("Reshape", "s n")], {"x": (2, 3)}),
]  # fmt: skip


def points_for(spec: Spec, size: int) -> np.ndarray:
    found = np.random.default_rng(3).normal(size=(4, size))
    if "positive" in spec.name:
        return np.abs(found) + 0.3
    return found * (0.3 if "narrow" in spec.name else 1.0)


def quotients(model: onnx.ModelProto, x: np.ndarray, width: float = 1e-6) -> np.ndarray:
    """(outputs, inputs) by central differences in float64."""
    graph = load_onnx(model).graph.to(torch.float64)
    shift = width * torch.eye(len(x), dtype=torch.float64)
    start = torch.from_numpy(x)
    return ((graph.forward(start + shift) - graph.forward(start - shift)) / (2 * width)).T.numpy()


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_every_rule_gives_the_derivative(spec):
    model = spec.model()
    found = jacobian(model.SerializeToString())
    loaded = found.load()
    graph, session = loaded.graph.to(torch.float64), open_session(loaded)
    largest = 0.0
    for x in points_for(spec, len(found.inputs)):
        x = x.astype(np.float32).astype(np.float64)
        wanted = quotients(model, x)
        assert wanted.shape == (len(found.outputs), len(found.inputs))
        largest = max(largest, np.abs(wanted).max())
        np.testing.assert_allclose(graph.forward(torch.from_numpy(x)[None])[0].numpy(), wanted.ravel(), atol=2e-6)
        np.testing.assert_allclose(run_session(session, loaded, x), wanted.ravel(), atol=2e-4, rtol=1e-4)
    assert largest > 0


def test_every_rule_has_a_case():
    seen = {n.op_type for spec in SPECS for n in spec.nodes}
    assert set(RULES) - seen == {"Cast"}  # which is always refused


JUMPS = [
    single("Sign", (3,)),
    single("Floor", (3,)),
    single("MaxPool", (1, 1, 2, 2), kernel_shape=[2, 2]),
    Spec("Where", [node("Greater", "x c", "b"), node("Where", "b x c")], {"x": (3,)}, {"c": HALF}),
    Spec("QuantizeLinear", [node("QuantizeLinear", "x s", "q"), node("DequantizeLinear", "q s")], {"x": (3,)},
         {"s": HALF}),
]  # fmt: skip


@pytest.mark.parametrize("spec", JUMPS, ids=lambda spec: spec.name)
def test_operators_without_a_rule_are_refused(spec):
    with pytest.raises(ModelError, match="cannot differentiate the ONNX operator"):
        jacobian(spec.model().SerializeToString())


def test_a_wrong_rule_is_noticed(monkeypatch):
    monkeypatch.setitem(derivative_scalar.SLOPES, "Tanh", lambda step: step.node.outputs[0])
    with pytest.raises(InternalError, match="difference quotients"):
        jacobian(single("Tanh", (3,)).model().SerializeToString())


def normalised() -> onnx.ModelProto:
    """y = w2 relu(w1 ((x / 3) * 0.1 - 5) / 7)), whose derivative below the kink's other side is a product of six."""
    constants = {
        "three": np.float32(3), "tenth": np.float32(0.1), "five": np.float32(-5), "seven": np.float32(7),
        "w1": np.float32([[0.3]]), "w2": np.float32([[0.7]]),
    }  # fmt: skip
    nodes = [
        node("Div", "x three", "a"), node("Mul", "a tenth", "b"), node("Sub", "b five", "c"),
        node("MatMul", "c w1", "d"), node("Div", "d seven", "e"), node("Relu", "e", "f"), node("MatMul", "f w2", "y"),
    ]  # fmt: skip
    return Spec("normalised", nodes, {"x": (1, 1)}, constants).model()


def test_constants_are_not_rounded_to_the_type_of_the_file():
    """The exact product lies within bounds far narrower than float32; folding in float32 would miss it."""
    found = verinet.bounds(jacobian(normalised().SerializeToString()).load(), verinet.box([0.0], [1.0]))
    w1, w2, tenth = (Fraction(float(np.float32(v))) for v in (0.3, 0.7, 0.1))
    exact = w2 * w1 * tenth / 3 / 7
    assert Fraction(found.lower[0]) <= exact <= Fraction(found.upper[0])
    assert found.upper[0] - found.lower[0] < 1e-12
    folded = np.float32(0.7) * (np.float32(0.3) * (np.float32(0.1) * np.float32(1 / 3)) / np.float32(7))
    assert not found.lower[0] <= float(folded) <= found.upper[0]


def network(activation: str) -> onnx.ModelProto:
    nodes = [node("Gemm", "x a b", "h"), node(activation, "h", "g"), node("Gemm", "g c d", "k"),
             node(activation, "k", "l"), node("Gemm", "l e f", "y")]  # fmt: skip
    constants = {"a": weights(3, 6), "b": weights(6), "c": weights(6, 5), "d": weights(5), "e": weights(5, 2)}
    return Spec(activation, nodes, {"x": (1, 3)}, {**constants, "f": weights(2)}).model()


@pytest.mark.parametrize("activation", ["Relu", "Tanh", "Sigmoid", "Softplus"])
@pytest.mark.parametrize("reach", [0.02, 0.3])
def test_bounds_hold_the_derivative_over_a_box(activation, reach):
    model = network(activation)
    found = jacobian(model.SerializeToString()).load()
    center = np.array([0.2, -0.1, 0.4])
    bounds = verinet.bounds(found, verinet.box(center - reach, center + reach))
    for x in center + reach * np.random.default_rng(1).uniform(-1, 1, (300, 3)):
        exact = quotients(model, x).ravel()  # a quotient across a kink is between the slopes on its sides
        assert (bounds.lower - 1e-6 <= exact).all() and (exact <= bounds.upper + 1e-6).all()


def test_monotone_and_not_monotone():
    """relu(x) - 0.5 relu(x - 1) rises everywhere; with a factor of 1.5 it falls beyond 1."""
    for factor, status in ((0.5, verinet.Status.UNSAT), (1.5, verinet.Status.SAT)):
        constants = {"one": np.float32(1), "k": np.float32(factor)}
        nodes = [node("Relu", "x", "a"), node("Sub", "x one", "s"), node("Relu", "s", "r"), node("Mul", "r k", "b"),
                 node("Sub", "a b", "y")]  # fmt: skip
        model = jacobian(Spec("kinks", nodes, {"x": (1, 1)}, constants).model().SerializeToString()).load()
        from verinet.spec import outputs, show

        rises = show(outputs(1)[0] >= 0.0).on(verinet.box([0.25], [3.0]))
        assert verinet.verify(model, rises, timeout=20).status is status


def test_some_entries_and_values():
    raw = network("Tanh").SerializeToString()
    whole = jacobian(raw).load().graph.to(torch.float64)
    found = jacobian(raw, inputs=[2, 0], outputs=[1], values=True)
    assert isinstance(found, Derivative) and (found.inputs, found.outputs, found.values) == ((2, 0), (1,), True)
    x = torch.tensor([[0.3, -0.2, 0.7]], dtype=torch.float64)
    every, some = whole.forward(x)[0], found.load().graph.to(torch.float64).forward(x)[0]
    torch.testing.assert_close(some[:2], every[[5, 3]])
    torch.testing.assert_close(some[2:], load_onnx(raw).graph.to(torch.float64).forward(x)[0])


def test_files_that_are_too_old():
    with pytest.raises(ModelError, match="opset 8"):
        jacobian(single("Tanh", (3,), opset=8).model().SerializeToString())


@pytest.mark.parametrize("wanted", [{"inputs": [3]}, {"outputs": [-1]}, {"inputs": []}])
def test_entries_that_do_not_exist(wanted):
    with pytest.raises(UsageError):
        jacobian(network("Relu").SerializeToString(), **wanted)


def test_rounded_constants_are_named():
    notes = jacobian(single("Erf", (3,)).model().SerializeToString()).notes
    assert notes == (f"the constant {2 / np.sqrt(np.pi):.17g} is rounded to float32",)
    assert jacobian(network("Tanh").SerializeToString()).notes == ()
