"""Networks and properties with something wrong in them: bytes, fields of the file, words."""

from __future__ import annotations

import gzip
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx

from tests.unit.frontends.onnx_models import Spec, ints, node, weights

Random = np.random.Generator
Damage = Callable[[Any, Random], bytes]

VERSION_1 = """; a comment
(declare-const X_0 Real)
(declare-const X_1 Real)
(declare-const Y_0 Real)
(assert (>= X_0 -0.5))
(assert (<= X_0 0.5))
(assert (>= X_1 -1.0))
(assert (<= X_1 0.25))
(assert (or (and (<= Y_0 -3.5) (>= X_0 0.1)) (and (>= Y_0 9.5))))
"""
VERSION_2 = """(vnnlib-version <2.0>)
(declare-network f (declare-input X float32 [1, 2]) (declare-output Y float32 [1, 1]))
(assert (and (>= X[0,0] -0.5) (<= X[0,0] 0.5) (>= X[0,1] -1.0) (<= X[0,1] 0.25)))
(assert (or (<= Y[0,0] -3.5) (>= (+ (* 2.0 Y[0,0]) X[0,1]) 19.0)))
"""
ODD_NUMBERS = (
    "nan inf -inf 1e999 -1e-999 0x10 1,5 1e 1.2.3 999999999999999999999999999999 1e-400 +1 -0.0 .5 5. 1/3".split()
)
ODD_WORDS = (
    "( ) () ; ;; assert declare-const Real Int X_0 X_7 X_-1 Y_0 Y_99 X_99999999999 or and not <= >= < > = == != + - * "
    '/ let true false declare-fun forall | " \\ \x00 \u00e9 [0] X[0,0] X[9] <2.0> <9.9> vnnlib-version declare-network '
    "declare-hidden float16 string"
).split(" ")
OPERATORS = (
    "Relu Gemm MatMul Conv Softmax Log Sqrt Div Loop If Scan Foo LSTM Cast Where Reshape Gather TopK NonZero Resize "
    "Einsum Dropout Identity Split Concat ReduceMean Clip Pow ArgMax Slice Pad Tile Transpose Flatten Unsqueeze"
).split()


def dense() -> onnx.ModelProto:
    """2 inputs, 3 ReLUs, 1 output."""
    chain = [node("Gemm", "x W b", "h"), node("Relu", "h", "r"), node("MatMul", "r V", "y")]
    return Spec("dense", chain, {"x": (1, 2)}, {"W": weights(2, 3), "b": weights(3), "V": weights(3, 1)}).model()


def image() -> onnx.ModelProto:
    """A convolution, a pool and a shape computed from constants, on 2 inputs."""
    chain = [
        node("Reshape", "x S", "i"),
        node("Conv", "i K", "c", pads=[0, 1, 0, 1]),
        node("Sigmoid", "c", "s"),
        node("MaxPool", "s", "p", kernel_shape=[1, 2]),
        node("Flatten", "p", "f"),
        node("Gemm", "f W", "y"),
    ]
    constants = {"S": ints(1, 1, 1, 2), "K": weights(2, 1, 1, 3), "W": weights(2, 1)}
    return Spec("image", chain, {"x": (1, 2)}, constants).model()


def choosing() -> onnx.ModelProto:
    """Comparisons, integers and a table on 2 inputs."""
    chain = [
        node("ArgMax", "x", "a", axis=1, keepdims=0),
        node("Gather", "T a", "g"),
        node("Greater", "x c", "m"),
        node("Where", "m x c", "w"),
        node("ReduceSum", "w", "s", keepdims=0),
        node("Add", "g s", "z"),
        node("Reshape", "z S", "y"),
    ]
    constants = {"T": weights(2), "c": weights(1, 2), "S": ints(1, 1)}
    return Spec("choosing", chain, {"x": (1, 2)}, constants).model()


NETWORKS = (dense, image, choosing)


def draw(random: Random, choices: Any) -> Any:
    return choices[int(random.integers(len(choices)))]


def damaged_bytes(raw: bytes, random: Random) -> bytes:
    """Some bytes flipped, cut off, doubled, blanked or put in."""
    data = bytearray(raw)
    for _ in range(int(random.integers(1, 4))):
        size = len(data)
        at = int(random.integers(size + 1))
        length = int(random.integers(1, 1 + max(1, min(64, size))))
        how = int(random.integers(6))
        if how == 0 and size:
            data[at % size] ^= 1 << int(random.integers(8))
        elif how == 1:
            del data[at:]
        elif how == 2:
            data[at:at] = data[at : at + length]
        elif how == 3:
            data[at : at + length] = bytes(len(data[at : at + length]))
        elif how == 4:
            data[at:at] = random.bytes(length)
        else:
            del data[at : at + length]
    return bytes(data)


def _initializer(made: onnx.ModelProto, random: Random) -> None:
    tensor = draw(random, made.graph.initializer)
    how = int(random.integers(6))
    if how == 0:
        tensor.data_type = int(random.integers(0, 24))
    elif how == 1 and tensor.dims:
        tensor.dims[int(random.integers(len(tensor.dims)))] = draw(random, (0, -1, 1, 7, 2**31, 2**62))
    elif how == 2:
        tensor.raw_data = tensor.raw_data[: int(random.integers(len(tensor.raw_data) + 1))]
    elif how == 3 and tensor.data_type == onnx.TensorProto.FLOAT:
        values = np.frombuffer(tensor.raw_data, np.float32).copy()
        values[int(random.integers(values.size))] = draw(random, (math.nan, math.inf, -math.inf, 1e38, 1e-45, 0.0))
        tensor.raw_data = values.tobytes()
    elif how == 4:
        tensor.name = draw(random, ("", "x", "y", tensor.name + "'"))
    else:
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=draw(random, ("none.bin", "../up.bin", "/dev/null", "")))


def _node(made: onnx.ModelProto, random: Random) -> None:
    one = draw(random, made.graph.node)
    how = int(random.integers(9))
    if how == 0:
        one.op_type = draw(random, OPERATORS)
    elif how == 1 and one.input:
        one.input[int(random.integers(len(one.input)))] = draw(random, ("", "x", "y", "W", "S", "nowhere"))
    elif how == 2:
        one.output[0] = draw(random, ("", "x", "y", "h", "W"))
    elif how == 3:
        del one.input[:]
    elif how == 4:
        one.input.append(draw(random, ("x", "W", "", "S")))
    elif how == 5 and one.attribute:
        _attribute(draw(random, one.attribute), random)
    elif how == 6:
        name = draw(random, "axis axes kernel_shape pads strides alpha to transB group keepdims mode".split())
        one.attribute.append(onnx.helper.make_attribute(name, draw(random, (-1, 99, 0, 0.5, [1], [-5, 3], "text"))))
    elif how == 7:
        one.domain = draw(random, ("com.microsoft", "ai.onnx.ml", "elsewhere"))
    else:
        made.graph.node.append(one)


def _attribute(attribute: onnx.AttributeProto, random: Random) -> None:
    if attribute.ints:
        attribute.ints[int(random.integers(len(attribute.ints)))] = draw(random, (0, -1, 3, 10**6, -(2**40)))
    else:
        attribute.i = draw(random, (-7, 0, 5, 2**40))
        attribute.type = int(random.integers(0, 12))


def _ends(made: onnx.ModelProto, random: Random) -> None:
    value = draw(random, (made.graph.input[0], made.graph.output[0]))
    how = int(random.integers(6))
    if how == 0:
        value.type.tensor_type.elem_type = int(random.integers(0, 24))
    elif how == 1:
        value.name = draw(random, ("", "z", "h", "y", "W"))
    elif how == 2:
        value.ClearField("type")
    elif how == 3:
        del made.graph.input[:]
    elif how == 4:
        del made.graph.output[:]
    else:
        dims = made.graph.input[0].type.tensor_type.shape.dim
        dims[int(random.integers(len(dims)))].dim_value = draw(random, (0, -3, 5, 2**40))


def _head(made: onnx.ModelProto, random: Random) -> None:
    how = int(random.integers(4))
    if how == 0:
        made.opset_import[0].version = draw(random, (0, -1, 1, 5, 7, 25, 10**6))
    elif how == 1:
        del made.opset_import[:]
    elif how == 2:
        made.ir_version = draw(random, (0, 1, 99))
    else:
        nodes = [onnx.NodeProto.FromString(n.SerializeToString()) for n in made.graph.node]
        del made.graph.node[:]
        made.graph.node.extend([nodes[i] for i in random.permutation(len(nodes))])


def damaged_network(random: Random) -> bytes:
    """A small network with one to three things wrong in its fields, its bytes, or its packing."""
    made = draw(random, NETWORKS)()
    for _ in range(int(random.integers(1, 4))):
        draw(random, (_initializer, _node, _node, _ends, _head))(made, random)
        if not made.graph.initializer or not made.graph.node or not made.graph.input or not made.graph.output:
            break
        if not made.opset_import:
            break
    raw = made.SerializeToString()
    if random.random() < 0.3:
        raw = damaged_bytes(raw, random)
    if random.random() < 0.15:
        raw = damaged_bytes(gzip.compress(raw, mtime=0), random)
    return raw


def damaged_property(random: Random) -> bytes:
    """A property with words lost, doubled, swapped or replaced; sometimes with damaged bytes."""
    text = draw(random, (VERSION_1, VERSION_2))
    words = text.replace("(", " ( ").replace(")", " ) ").split(" ")
    for _ in range(int(random.integers(1, 4))):
        at, other = (int(random.integers(len(words))) for _ in range(2))
        how = int(random.integers(6))
        if how == 0:
            del words[at]
        elif how == 1:
            words[at:at] = words[at:other] if at < other else [words[at]]
        elif how == 2:
            words[at], words[other] = words[other], words[at]
        elif how == 3:
            numbers = [i for i, word in enumerate(words) if word[-1:].isdigit() and word[0] in "-0123456789"]
            words[draw(random, numbers or [at])] = draw(random, ODD_NUMBERS)
        elif how == 4:
            words[at] = draw(random, ODD_WORDS)
        else:
            words[at:at] = ["("] * draw(random, (1, 3, 5000))
    raw = " ".join(words).encode()
    if random.random() < 0.2:
        raw = damaged_bytes(raw, random)
    return gzip.compress(raw, mtime=0) if random.random() < 0.05 else raw
