"""Every operator of the reader, in the spellings of several opsets, against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import TensorProto

from tests.unit.frontends.onnx_models import Spec, ints, node, single, weights
from verinet.errors import UnsupportedOperatorError
from verinet.frontends.crosscheck import compare_with_onnxruntime
from verinet.frontends.onnx import inspect_onnx, load_onnx
from verinet.ir.check import check_graph
from verinet.ops.base import LinearOp

F = np.float32
IMAGE = (1, 4, 7, 6)


def linear_specs() -> list[Spec]:
    gemm = {"B": weights(5, 3), "C": weights(3)}
    return [
        Spec("Gemm", [node("Gemm", "x B C")], {"x": (1, 5)}, gemm),
        Spec("Gemm no bias", [node("Gemm", "x B")], {"x": (1, 5)}, {"B": weights(5, 3)}),
        Spec(
            "Gemm transB",
            [node("Gemm", "x B C", transB=1, alpha=0.3, beta=2.0)],
            {"x": (1, 3)},
            gemm | {"C": weights(5)},
        ),
        Spec("Gemm transA", [node("Gemm", "x B C", transA=1)], {"x": (5, 2)}, gemm),
        Spec("Gemm column bias", [node("Gemm", "x B C")], {"x": (2, 5)}, gemm | {"C": weights(2, 1)}),
        Spec("Gemm left", [node("Gemm", "A x C", alpha=0.5)], {"x": (5, 2)}, {"A": weights(4, 5), "C": weights(4, 1)}),
        Spec("Gemm left trans", [node("Gemm", "A x", transA=1, transB=1)], {"x": (2, 5)}, {"A": weights(5, 4)}),
        Spec("Gemm variable C", [node("Gemm", "x B z", beta=0.5)], {"x": (1, 5), "z": (1, 3)}, {"B": weights(5, 3)}),
        single("MatMul", (1, 5), B=weights(5, 3)),
        single("MatMul", (2, 3, 5), "batch", B=weights(5, 3)),
        single("MatMul", (5,), "vector", B=weights(5, 3)),
        single("MatMul", (2, 5), "vector right", B=weights(5)),
        single("MatMul", (5,), "vector, batch right", B=weights(2, 5, 3)),
        single("MatMul", (2, 4, 5), "batch right", B=weights(2, 5, 3)),
        Spec("MatMul left", [node("MatMul", "A x")], {"x": (5, 2)}, {"A": weights(4, 5)}),
        Spec("MatMul left batch", [node("MatMul", "A x")], {"x": (3, 5, 2)}, {"A": weights(4, 5)}),
        Spec("MatMul left vector", [node("MatMul", "A x")], {"x": (3, 5, 2)}, {"A": weights(5)}),
        Spec("MatMul left of vector", [node("MatMul", "A x")], {"x": (5,)}, {"A": weights(4, 5)}),
        Spec("MatMul left batch of vector", [node("MatMul", "A x")], {"x": (5,)}, {"A": weights(2, 4, 5)}),
    ]


def conv_specs() -> list[Spec]:
    w, b = weights(6, 4, 3, 2), weights(6)
    up, ub = weights(4, 3, 3, 2), weights(3)
    return [
        single("Conv", IMAGE, W=w, B=b),
        single("Conv", IMAGE, W=w, pads=[1, 0, 2, 1], strides=[2, 1]),
        single("Conv", IMAGE, W=w, B=b, dilations=[2, 3], pads=[1, 1, 1, 1]),
        single("Conv", IMAGE, W=weights(6, 2, 3, 3), group=2),
        single("Conv", IMAGE, W=weights(8, 1, 3, 3), group=4, strides=[2, 2]),
        single("Conv", IMAGE, W=w, auto_pad="SAME_UPPER", strides=[2, 2]),
        single("Conv", IMAGE, W=w, auto_pad="SAME_LOWER", strides=[2, 2]),
        single("Conv", IMAGE, W=w, auto_pad="VALID"),
        single("Conv", (1, 4, 9), "1-D", W=weights(5, 4, 4), B=weights(5), strides=[2], pads=[1, 2]),
        single("Conv", (1, 2, 4, 4, 3), "3-D", W=weights(3, 2, 2, 2, 2)),
        single("Conv", (2, 4, 7, 6), "batch of 2", W=w),
        single("ConvTranspose", IMAGE, W=up, B=ub),
        single("ConvTranspose", IMAGE, W=up, strides=[2, 3], pads=[1, 0, 0, 1], output_padding=[1, 2]),
        single("ConvTranspose", IMAGE, W=up, strides=[2, 2], dilations=[2, 1], pads=[1, 1, 1, 1]),
        single("ConvTranspose", IMAGE, W=weights(4, 2, 3, 3), group=2, strides=[2, 2]),
        single("ConvTranspose", IMAGE, W=up, strides=[3, 2], output_shape=[20, 12]),
        single("ConvTranspose", IMAGE, W=up, strides=[2, 2], auto_pad="SAME_UPPER"),
        single("ConvTranspose", IMAGE, W=up, strides=[2, 2], auto_pad="SAME_LOWER"),
        single("ConvTranspose", (1, 4, 5), "1-D", W=weights(4, 2, 3), strides=[2]),
        single(
            "BatchNormalization", IMAGE, S=weights(4), O=weights(4), M=weights(4), V=np.abs(weights(4)), epsilon=0.8
        ),
        single("BatchNormalization", (1, 4), S=weights(4), O=weights(4), M=weights(4), V=np.abs(weights(4)), opset=9),
        single("AveragePool", IMAGE, kernel_shape=[2, 2], strides=[2, 2]),
        single("AveragePool", IMAGE, kernel_shape=[3, 2], pads=[1, 1, 1, 0]),
        single("AveragePool", IMAGE, kernel_shape=[3, 2], pads=[1, 1, 1, 0], count_include_pad=1),
        single("AveragePool", IMAGE, kernel_shape=[2, 4], strides=[2, 4], ceil_mode=1),
        single("AveragePool", IMAGE, kernel_shape=[2, 4], strides=[2, 4], ceil_mode=1, count_include_pad=1, opset=19),
        single("AveragePool", IMAGE, kernel_shape=[2, 2], auto_pad="SAME_UPPER", strides=[2, 2]),
        single("AveragePool", (1, 2, 7), "1-D", kernel_shape=[3]),
        single("GlobalAveragePool", IMAGE),
    ]


def reduction_specs() -> list[Spec]:
    shape = (2, 3, 4)
    specs = []
    for op in ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSumExp"):
        specs += [
            single(op, shape, axes=[-1], keepdims=0),
            single(op, shape, axes=[0, 2]),
            single(op, shape, keepdims=0),
            single(op, shape, "axes as input", opset=18, Axes=ints(1)),
        ]
    return specs + [
        single("ReduceSum", shape, axes=[1], opset=11),
        single("ReduceSum", shape, "axes as input", Axes=ints(0, -1), keepdims=0),
        single("ReduceSum", shape, "all"),
        single("ReduceSum", shape, "nothing", noop_with_empty_axes=1),
        single("MaxPool", IMAGE, kernel_shape=[2, 2], strides=[2, 2]),
        single("MaxPool", IMAGE, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
        single("MaxPool", IMAGE, kernel_shape=[2, 4], strides=[2, 4], ceil_mode=1),
        single("MaxPool", IMAGE, kernel_shape=[2, 2], dilations=[2, 3]),
        single("MaxPool", (1, 2, 7), "1-D", kernel_shape=[3], strides=[2]),
        single("GlobalMaxPool", IMAGE),
    ]


def shape_specs() -> list[Spec]:
    cube = (2, 3, 4)
    return [
        single("Reshape", cube, "0 and -1", S=ints(0, -1)),
        single("Flatten", cube, axis=2),
        single("Flatten", cube, axis=0),
        single("Flatten", cube, axis=-1),
        single("Squeeze", (1, 3, 1), "all"),
        single("Squeeze", (1, 3, 1), opset=11, axes=[0]),
        single("Squeeze", (1, 3, 1), "input", A=ints(-1)),
        single("Unsqueeze", cube, opset=11, axes=[0, 2]),
        single("Unsqueeze", cube, "input", A=ints(-1, 0)),
        single("Expand", (3, 1), S=ints(2, 1, 4)),
        single("Transpose", cube),
        single("Transpose", cube, perm=[1, 0, 2]),
        single("Transpose", (1, 3, 4), perm=[1, 0, 2]),
        single("Slice", cube, opset=9, starts=[0, 1], ends=[1, 1000], axes=[0, 2]),
        single("Slice", cube, "steps", S=ints(-1, 0), E=ints(-100, 3), A=ints(2, 1), T=ints(-2, 2)),
        single("Slice", cube, "defaults", S=ints(0, -2), E=ints(1, -1)),
        single("Slice", cube, "whole", S=ints(0), E=ints(2**62), A=ints(1)),
        single("Gather", cube, I=ints(2, 0, -1), axis=1),
        single("Gather", cube, "scalar", I=np.array(1), axis=-1),
        single("Gather", cube, "matrix", I=np.array([[0, 1], [1, 1]])),
        single("GatherElements", cube, I=np.array([[[0, 1, 1, 0]]]), axis=0),
        single("GatherND", cube, I=np.array([[0, 1], [1, 2]])),
        single("Tile", cube, R=ints(1, 2, 3)),
        single("Pad", cube, opset=10, pads=[0, 1, 2, 0, 0, 3], value=1.5),
        single("Pad", cube, "input", P=ints(0, 1, 2, 0, 0, 3), V=np.array(F(-2.0))),
        single("Pad", cube, "no value", P=ints(0, 1, 2, 0, 0, 3)),
        single("Pad", cube, "negative", P=ints(0, -1, 0, 0, 1, -2)),
        single("Pad", cube, P=ints(0, 1, 2, 0, 1, 3), mode="reflect"),
        single("Pad", cube, P=ints(0, 1, 2, 0, 0, 3), mode="edge"),
        Spec("Pad axes", [node("Pad", "x P _ A")], {"x": cube}, {"P": ints(1, 2), "A": ints(-1)}, 18),
        single("DepthToSpace", (1, 8, 2, 3), blocksize=2),
        single("DepthToSpace", (1, 8, 2, 3), blocksize=2, mode="CRD"),
        single("SpaceToDepth", (1, 2, 4, 6), blocksize=2),
        single("Trilu", (4, 4), opset=14),
        single("Upsample", (1, 2, 2, 3), opset=9, S=np.array([1, 1, 2, 3], F), mode="nearest"),
        Spec(
            "Resize",
            [
                node(
                    "Resize", "x _ S", mode="nearest", nearest_mode="floor", coordinate_transformation_mode="asymmetric"
                )
            ],
            {"x": (1, 2, 3, 2)},
            {"S": np.array([1, 1, 2, 2.5], F)},
        ),
        Spec("Resize sizes", [node("Resize", "x _ _ S", mode="nearest")], {"x": (1, 2, 3, 4)}, {"S": ints(1, 2, 5, 3)}),
        Spec("Split attribute", [node("Split", "x", "y z", axis=1, split=[1, 2])], {"x": cube}, {}, 11, ("y", "z")),
        Spec("Split input", [node("Split", "x S", "y z", axis=2)], {"x": cube}, {"S": ints(3, 1)}, 13, ("z", "y")),
        Spec("Split even", [node("Split", "x", "y z w", axis=1)], {"x": cube}, {}, 13, ("y", "w", "z")),
        Spec("Split uneven", [node("Split", "x", "y z", axis=1, num_outputs=2)], {"x": cube}, {}, 18, ("y", "z")),
        Spec("Concat", [node("Concat", "x z", axis=-1)], {"x": cube, "z": (2, 3, 1)}),
        Spec("Concat constant", [node("Concat", "C x", axis=1)], {"x": cube}, {"C": weights(2, 1, 4)}),
        Spec("Concat mixed", [node("Concat", "x C z", axis=1)], {"x": cube, "z": (2, 1, 4)}, {"C": weights(2, 1, 4)}),
        Spec("Concat same", [node("Concat", "x x", axis=0)], {"x": cube}),
        Spec("Where constant", [node("Where", "M x C")], {"x": cube}, {"M": weights(3, 4) > 0, "C": weights(2, 3, 4)}),
        Spec("Where variables", [node("Where", "M x z")], {"x": cube, "z": (4,)}, {"M": weights(2, 3, 1) > 0}),
        Spec("ScatterND", [node("ScatterND", "C I x")], {"x": (2, 4)}, {"C": weights(3, 4), "I": np.array([[2], [0]])}),
        Spec("ScatterND both", [node("ScatterND", "z I x")], {"x": (2, 4), "z": (3, 4)}, {"I": np.array([[2], [0]])}),
        Spec(
            "ScatterElements",
            [node("ScatterElements", "x I C", axis=1)],
            {"x": (2, 4)},
            {"I": np.array([[1], [0]]), "C": weights(2, 1)},
        ),
        Spec("Identity", [node("Identity")], {"x": cube}),
        Spec("Dropout", [node("Dropout")], {"x": cube}),
        Spec("Dropout mask ignored", [node("Dropout", "x", "y mask")], {"x": cube}, {}, 9),
        Spec(
            "Cast to double", [node("Cast", "x", "y", to=TensorProto.DOUBLE)], {"x": cube}, out_type=TensorProto.DOUBLE
        ),
    ]


def arithmetic_specs() -> list[Spec]:
    cube = (2, 3, 4)
    both = {"x": cube, "z": (3, 1)}
    specs = [
        Spec(f"{op} variables", [node(op, "x z")], both)
        for op in ("Add", "Sub", "Mul", "Div", "Max", "Min", "Mean", "Sum")
    ]
    for op in ("Add", "Sub", "Mul", "Div", "Max", "Min"):
        specs += [
            single(op, cube, "constant right", C=np.abs(weights(4)) + F(0.5)),
            Spec(f"{op} constant left", [node(op, "C x")], {"x": cube}, {"C": weights(3, 1)}),
            Spec(f"{op} widening", [node(op, "x C")], {"x": (3, 1)}, {"C": np.abs(weights(2, 3, 4)) + F(0.5)}),
            single(op, cube, "scalar", C=np.array(F(0.75))),
        ]
    return specs + [
        Spec("Max three", [node("Max", "x z C")], both, {"C": weights(4)}),
        Spec("Max same", [node("Max", "x x")], {"x": cube}),
        Spec("Max of infinity", [node("Max", "x C")], {"x": cube}, {"C": np.array(-np.inf, F)}),
        Spec("Sum of five", [node("Sum", "x C z C x")], both, {"C": weights(4)}),
        Spec("Mul same", [node("Mul", "x x")], {"x": cube}),
        single("Neg", cube),
        single("Pow", cube, "square", E=np.array(F(2))),
        single("Pow", cube, "one", E=np.array(F(1))),
        single("Pow", cube, "several", E=np.array([1, 2, 3, 2], F)),
        single("Pow", (2, 1), "integers, widening", E=np.array([[1, 2, 3]])),
        Spec("Pow base", [node("Pow", "B x")], {"x": cube}, {"B": np.array([2, 0.5, 3, 1], F)}),
    ]


def logic_specs() -> list[Spec]:
    cube = (2, 3, 4)
    specs = []
    for op in ("Greater", "Less", "GreaterOrEqual", "LessOrEqual", "Equal"):
        chain = [node(op, "x z", "t"), node("Cast", "t", "y", to=1)]
        specs.append(Spec(f"{op} variables", chain, {"x": cube, "z": (4,)}, opset=16))
        specs.append(
            Spec(
                f"{op} constant",
                [node(op, "x C", "t"), node("Cast", "t", "y", to=1)],
                {"x": cube},
                {"C": weights(4)},
                16,
            )
        )
        specs.append(
            Spec(f"{op} left", [node(op, "C x", "t"), node("Cast", "t", "y", to=1)], {"x": cube}, {"C": weights(4)}, 16)
        )
    zero = {"O": np.array(F(0))}
    masks = [node("Greater", "x O", "a"), node("Less", "z O", "b")]
    for op in ("And", "Or", "Xor"):
        chain = [*masks, node(op, "a b", "t"), node("Cast", "t", "y", to=1)]
        specs.append(Spec(op, chain, {"x": cube, "z": (4,)}, zero))
        fixed = [masks[0], node(op, "a M", "t"), node("Cast", "t", "y", to=1)]
        specs.append(Spec(f"{op} constant", fixed, {"x": cube}, zero | {"M": weights(4) > 0}))
    return specs + [
        Spec("Not", [masks[0], node("Not", "a", "t"), node("Cast", "t", "y", to=1)], {"x": cube}, zero),
        Spec("Where variable", [masks[0], node("Where", "a x z")], {"x": cube, "z": (4,)}, zero),
        Spec(
            "Where two constants",
            [masks[0], node("Where", "a C D")],
            {"x": cube},
            zero | {"C": weights(4), "D": weights(3, 1)},
        ),
        Spec(
            "Where one constant", [masks[0], node("Where", "a z C")], {"x": cube, "z": (4,)}, zero | {"C": weights(4)}
        ),
        Spec(
            "Cast to int",
            [node("Mul", "x C", "s"), node("Cast", "s", "t", to=7), node("Cast", "t", "y", to=1)],
            {"x": cube},
            {"C": np.array(F(5))},
        ),
        Spec("Cast to bool", [node("Cast", "x", "t", to=9), node("Cast", "t", "y", to=1)], {"x": cube}),
    ]


def activation_specs() -> list[Spec]:
    cube = (2, 3, 4)
    smooth = "Sigmoid Tanh Softplus Softsign Erf Exp Sin Cos Elu Selu Celu Atan"
    kinked = "Relu Abs Sign Floor Ceil LeakyRelu HardSigmoid"
    specs = [single(op, cube) for op in f"{smooth} {kinked}".split()]
    return specs + [
        single("LeakyRelu", cube, alpha=0.3),
        single("Elu", cube, alpha=0.5),
        single("HardSwish", cube, opset=14),
        single("Mish", cube, opset=18),
        single("Gelu", cube, opset=20),
        single("Gelu", cube, opset=20, approximate="tanh"),
        single("Clip", cube, opset=9, min=-0.5, max=0.75),
        single("Clip", cube, "inputs", A=np.array(F(-0.5)), B=np.array(F(0.5))),
        Spec("Clip upper only", [node("Clip", "x _ B")], {"x": cube}, {"B": np.array(F(0.5))}),
        single("PRelu", cube, "per channel", S=weights(3, 1)),
        single("PRelu", cube, "one", S=np.array([0.25], F)),
    ]


SPECS = [
    *linear_specs(),
    *conv_specs(),
    *reduction_specs(),
    *shape_specs(),
    *arithmetic_specs(),
    *logic_specs(),
    *activation_specs(),
]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_operator_agrees_with_onnxruntime(spec: Spec) -> None:
    model = load_onnx(spec.model())
    check_graph(model.graph, "test")
    samples = np.random.default_rng(1).normal(size=(4, model.graph.input_size))
    assert compare_with_onnxruntime(model, samples) < 2e-6


LINEAR = [*linear_specs(), *conv_specs(), *shape_specs()]


@pytest.mark.parametrize("spec", LINEAR, ids=lambda spec: spec.name)
def test_linear_operators_stay_linear(spec: Spec) -> None:
    """Nothing of these becomes a relaxed operator, and the pullback of the whole graph is its derivative."""
    graph = load_onnx(spec.model()).graph.to(torch.float64)
    assert all(isinstance(n.op, LinearOp) for n in graph.nodes[1:])
    rows: list[torch.Tensor | None] = [None] * len(graph.nodes)
    rows[-1] = torch.randn(1, graph.output_size, dtype=torch.float64)
    for position in range(graph.output, 0, -1):
        n, current = graph.nodes[position], rows[position]
        if current is None or not isinstance(n.op, LinearOp):
            continue
        for source, part in zip(n.inputs, n.op.pullback(current, graph.input_shapes(position)), strict=True):
            before = rows[source]
            rows[source] = part if before is None else before + part
    x = torch.randn(1, graph.input_size, dtype=torch.float64, requires_grad=True)
    (graph.forward(x) * rows[-1]).sum().backward()
    gradient = torch.zeros_like(x) if x.grad is None else x.grad
    found = torch.zeros_like(x) if rows[0] is None else rows[0]
    torch.testing.assert_close(found, gradient, rtol=1e-10, atol=1e-10)


UNSUPPORTED = [
    Spec("NonZero", [node("NonZero", "x", "t"), node("Cast", "t", "y", to=1)], {"x": (3,)}),
    Spec(
        "Resize linear", [node("Resize", "x _ S", mode="linear")], {"x": (1, 1, 3, 3)}, {"S": np.array([1, 1, 2, 2], F)}
    ),
    Spec("MaxPool positions", [node("MaxPool", "x", "y i", kernel_shape=[2])], {"x": (1, 1, 4)}, outputs=("y", "i")),
    Spec("Reshape by data", [node("Cast", "x", "s", to=7), node("Reshape", "C s")], {"x": (1,)}, {"C": weights(1)}),
]


@pytest.mark.parametrize("spec", UNSUPPORTED, ids=lambda spec: spec.name)
def test_unsupported_uses_are_named(spec: Spec) -> None:
    with pytest.raises(UnsupportedOperatorError) as caught:
        load_onnx(spec.model())
    assert "fed by" in str(caught.value)
    assert any(record.status == "unsupported" for record in inspect_onnx(spec.model()))
