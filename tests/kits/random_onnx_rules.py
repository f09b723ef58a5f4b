"""What a random model may consist of: one rule a kind of node. Registered in `random_onnx.RULES`."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from tests.kits.random_onnx import Draft, need, rule

PLAIN = (
    "Relu Sigmoid Tanh Softplus Softsign Exp Erf Abs Neg Sin Cos Atan Elu Selu LeakyRelu HardSigmoid Celu "
    "ThresholdedRelu Sign Floor Ceil Round Identity HardSwish Mish Gelu Sqrt Log Reciprocal Tan Asin Acos Sinh Cosh "
    "Asinh Acosh Atanh Shrink Swish"
).split()
REDUCE = (
    "ReduceSum ReduceMean ReduceMax ReduceMin ReduceL1 ReduceL2 ReduceSumSquare ReduceLogSumExp ReduceLogSum ReduceProd"
).split()


def _plain(op: str) -> None:
    @rule(op)
    def made(d: Draft) -> str:
        x = d.value
        if op in ("Sqrt", "Log") and d.random.random() < 0.9:
            x = d.node("Add", d.node("Abs", x), d.constant(d.pick(0.0, 0.01, 1.0) if op == "Sqrt" else 0.05))
        elif op == "Reciprocal":
            x = d.node("Add", d.node("Exp", d.node("Clip", x, d.constant(-3.0), d.constant(3.0))), d.constant(0.1))
        elif op in ("Asin", "Acos", "Atanh"):
            x = d.node("Mul", d.node("Tanh", x), d.constant(0.99))
        elif op == "Acosh":
            x = d.node("Add", d.node("Abs", x), d.constant(1.0))
        elif op in ("Exp", "Sinh", "Cosh"):
            x = d.node("Mul", x, d.constant(d.pick(0.1, 0.3)))
        elif op == "Tan":
            x = d.node("Mul", d.node("Tanh", x), d.constant(1.4))
        attributes = {"alpha": float(d.pick(0.1, 0.5, 1.0, 1.5))} if op in ("Elu", "LeakyRelu", "Celu") else {}
        return d.node(op, x, **attributes)


for _op in PLAIN:
    _plain(_op)


def _reduce(op: str) -> None:
    @rule(op)
    def made(d: Draft) -> str:
        need(len(d.shape) > 0)
        axis, keep = d.axis(), d.pick(0, 1)
        x = d.node("Exp", d.node("Mul", d.value, d.constant(0.1))) if op == "ReduceLogSum" else d.value
        if d.opset >= (13 if op == "ReduceSum" else 18):
            return d.node(op, x, d.ints(axis), keepdims=keep)
        return d.node(op, x, axes=[axis], keepdims=keep)


for _op in REDUCE:
    _reduce(_op)


@rule("Gemm")
def _gemm(d: Draft) -> str:
    need(len(d.shape) == 2)
    out, flip = d.pick(2, 3, 4), d.pick(0, 1)
    size = (out, d.shape[1]) if flip else (d.shape[1], out)
    return d.node(
        "Gemm", d.value, d.weights(*size), d.weights(out), transB=flip, alpha=d.pick(1.0, 0.5), beta=d.pick(1.0, 2.0)
    )


@rule("MatMul")
def _matmul(d: Draft) -> str:
    need(len(d.shape) > 0)
    y = d.node("MatMul", d.value, d.weights(d.shape[-1], d.pick(2, 3, 4)))
    return d.node("Add", y, d.weights(1)) if d.random.random() < 0.7 else y


@rule("MatMul of two")
def _matmul_two(d: Draft) -> str:
    need(len(d.shape) >= 2)
    order = [*range(len(d.shape) - 2), len(d.shape) - 1, len(d.shape) - 2]
    return d.node("MatMul", d.value, d.node("Transpose", d.other(), perm=order))


@rule("Conv")
def _conv(d: Draft) -> str:
    need(len(d.shape) in (3, 4))
    axes, group = len(d.shape) - 2, d.pick(1, d.shape[1])
    out = group * d.pick(1, 2)
    kernel = [d.pick(1, 2, 3) for _ in range(axes)]
    w = d.weights(out, d.shape[1] // group, *kernel, gain=0.7)
    how = {"auto_pad": d.pick("SAME_UPPER", "SAME_LOWER", "VALID")} if d.random.random() < 0.3 else {}
    if not how:
        how = {"pads": [d.pick(0, 1) for _ in range(2 * axes)], "dilations": [d.pick(1, 2) for _ in range(axes)]}
    return d.node("Conv", d.value, w, d.weights(out), group=group, strides=[d.pick(1, 2) for _ in range(axes)], **how)


@rule("ConvTranspose")
def _transposed(d: Draft) -> str:
    need(len(d.shape) in (3, 4))
    axes, out = len(d.shape) - 2, d.pick(1, 2)
    kernel = [d.pick(1, 2, 3) for _ in range(axes)]
    w, stride = d.weights(d.shape[1], out, *kernel, gain=0.7), d.pick(1, 2)
    extra = [d.pick(0, stride - 1) for _ in range(axes)]
    pads = [d.pick(0, 0, 1) for _ in range(2 * axes)]
    return d.node("ConvTranspose", d.value, w, strides=[stride] * axes, output_padding=extra, pads=pads)


@rule("BatchNormalization")
def _batch_norm(d: Draft) -> str:
    need(len(d.shape) >= 2)
    n = d.shape[1]
    variance = d.constant(d.random.uniform(0.01, 2.0, n))
    return d.node("BatchNormalization", d.value, d.weights(n), d.weights(n), d.weights(n), variance)


@rule("Pool")
def _pool(d: Draft) -> str:
    need(len(d.shape) in (3, 4))
    axes, op = len(d.shape) - 2, d.pick("MaxPool", "AveragePool", "GlobalMaxPool", "GlobalAveragePool")
    if op.startswith("Global"):
        return d.node(op, d.value)
    pads = [d.pick(0, 1) for _ in range(2 * axes)]
    how = {"count_include_pad": d.pick(0, 1)} if op == "AveragePool" else {}
    mode = d.pick(0, 1) if op == "MaxPool" or d.opset >= 19 else 0
    return d.node(op, d.value, kernel_shape=[2] * axes, pads=pads, strides=[d.pick(1, 2)] * axes, ceil_mode=mode, **how)


@rule("Resize")
def _resize(d: Draft) -> str:
    need(len(d.shape) == 4)
    scale = d.constant([1, 1, d.pick(2, 1.5), 2], np.float32)
    return d.node("Resize", d.value, "", scale, mode="nearest", coordinate_transformation_mode="asymmetric")


@rule("Pad")
def _pad(d: Draft) -> str:
    need(len(d.shape) > 0)
    pads = [int(d.random.integers(-1 if n > 1 else 0, 2)) for n in d.shape * 2]
    mode = d.pick("constant", "reflect", "edge")
    if mode != "constant":
        pads = [max(0, p) if n > 1 else 0 for p, n in zip(pads, d.shape * 2, strict=True)]
    return d.node("Pad", d.value, d.ints(*pads), d.constant(d.pick(0.0, 0.5)), mode=mode)


@rule("Slice")
def _slice(d: Draft) -> str:
    need(len(d.shape) > 0)
    axis = d.axis()
    step = d.pick(1, 1, 2, -1)
    first, last = (d.pick(0, 1, -1), d.pick(9, -1, 2)) if step > 0 else (d.pick(-1, 9), d.pick(-9, 0, -99))
    return d.node("Slice", d.value, d.ints(first), d.ints(last), d.ints(axis), d.ints(step))


@rule("Gather")
def _gather(d: Draft) -> str:
    need(len(d.shape) > 0)
    axis = d.axis()
    n = d.shape[axis]
    return d.node("Gather", d.value, d.ints(*d.random.integers(-n, n, size=d.pick(1, 2, 3)).tolist()), axis=axis)


@rule("Concat")
def _concat(d: Draft) -> str:
    need(len(d.shape) > 0)
    parts = [d.value, d.other()]
    if d.random.random() < 0.3:
        parts.append(d.weights(*d.shape))
    return d.node("Concat", *parts, axis=d.axis())


@rule("Split")
def _split(d: Draft) -> str:
    axis = d.axis() if d.shape else 0
    need(bool(d.shape) and d.shape[axis] >= 2)
    n = d.shape[axis]
    if d.opset >= 13:
        first = d.node("Split", d.value, d.ints(1, n - 1), count=2, axis=axis)
    else:
        first = d.node("Split", d.value, count=2, axis=axis, split=[1, n - 1])
    return d.node(d.pick("Mul", "Add", "Sub", "Max"), d.node("Tanh", first), f"{first}_1")


@rule("Transpose")
def _transpose(d: Draft) -> str:
    need(len(d.shape) >= 2)
    return d.node("Transpose", d.value, perm=d.random.permutation(len(d.shape)).tolist())


@rule("Reshape")
def _reshape(d: Draft) -> str:
    size = int(np.prod(d.shape))
    half = [n for n in (2, 3) if size % n == 0]
    shape = d.pick((1, -1), (-1,), (1, d.pick(*half), -1), (1, 1, d.pick(*half), -1)) if half else (1, -1)
    return d.node("Reshape", d.value, d.ints(*shape))


@rule("Flatten")
def _flatten(d: Draft) -> str:
    return d.node("Flatten", d.value, axis=d.axis() if d.shape else 0)


@rule("Tile or expand")
def _tile(d: Draft) -> str:
    need(len(d.shape) > 0)
    if d.random.random() < 0.5:
        return d.node("Tile", d.value, d.ints(*(d.pick(1, 2) for _ in d.shape)))
    return d.node("Expand", d.value, d.ints(*(d.pick(2, 3) if n == 1 else n for n in d.shape)))


@rule("Constant arithmetic")
def _arithmetic(d: Draft) -> str:
    op = d.pick("Add", "Sub", "Mul", "Div", "Max", "Min")
    c = d.weights(*d.pick(d.shape, (), (1,)))
    if op == "Div":
        c = d.constant(np.where(np.abs(d.constants[c]) < 0.3, 0.3, d.constants[c]))
    pair = (d.value, c) if op == "Div" or d.random.random() < 0.6 else (c, d.value)
    return d.node(op, *pair)


@rule("Arithmetic")
def _two(d: Draft) -> str:
    op = d.pick("Add", "Sub", "Mul", "Max", "Min", "Mean", "Sum")
    return d.node(op, *d.pick((d.value, d.other()), (d.other(), d.value), (d.value, d.value)))


@rule("Quotient")
def _quotient(d: Draft) -> str:
    positive = d.node("Add", d.node(d.pick("Abs", "Sigmoid", "Softplus"), d.other()), d.constant(d.pick(0.05, 0.5)))
    return d.node("Div", d.pick(d.value, d.constant(1.5)), positive)


@rule("Pow")
def _pow(d: Draft) -> str:
    p = d.pick(2.0, 3.0, 4.0, 5.0, 0.5, -1.0, -2.0, 1.5, 0.0, 1.0)
    if p in (2.0, 3.0, 4.0, 5.0, 0.0, 1.0):
        return d.node("Pow", d.value, d.constant(p))
    return d.node("Pow", d.node("Add", d.node("Abs", d.value), d.constant(0.1)), d.constant(p))


@rule("Power of constant")
def _exponent(d: Draft) -> str:
    return d.node("Pow", d.constant(d.pick(0.5, 2.0, 1.1)), d.node("Mul", d.value, d.constant(0.3)))


@rule("Clip")
def _clip(d: Draft) -> str:
    low, high = sorted(d.random.normal(size=2))
    ends = d.pick((d.constant(low), d.constant(high)), (d.constant(low), ""), ("", d.constant(high)))
    return d.node("Clip", d.value, *ends)


@rule("PRelu")
def _prelu(d: Draft) -> str:
    return d.node("PRelu", d.value, d.constant(d.random.uniform(-0.5, 1.5, d.pick(d.shape, (1,)))))


@rule("Softmax")
def _softmax(d: Draft) -> str:
    need(len(d.shape) > 0)
    x = d.node("Mul", d.value, d.constant(d.pick(0.3, 1.0, 3.0)))
    return d.node(d.pick("Softmax", "Softmax", "LogSoftmax"), x, axis=d.axis())


@rule("Hardmax-like")
def _arg(d: Draft) -> str:
    need(len(d.shape) > 0)
    how = {"select_last_index": d.pick(0, 1)} if d.opset >= 12 else {}
    found = d.node(d.pick("ArgMax", "ArgMin"), d.value, axis=d.axis(), keepdims=d.pick(0, 1), **how)
    if d.random.random() < 0.5:
        values = d.constant([0.0, d.random.normal()])
        found = d.node("OneHot", found, d.ints(d.pick(3, 4)), values, axis=d.pick(-1, 0))
        return found
    if d.random.random() < 0.5:
        return d.node("Gather", d.weights(9), found, axis=0)
    return _cast(d, found)


def _cast(d: Draft, name: str) -> str:
    return d.node("Cast", name, to=TensorProto.DOUBLE if d.dtype == np.float64 else TensorProto.FLOAT)


@rule("TopK")
def _topk(d: Draft) -> str:
    need(len(d.shape) > 0)
    axis = d.axis()
    k = d.pick(1, min(2, d.shape[axis]), d.shape[axis])
    first = d.node("TopK", d.value, d.ints(k), count=2, axis=axis, largest=d.pick(0, 1), sorted=1)
    return first if d.random.random() < 0.7 else _cast(d, f"{first}_1")


@rule("Where")
def _where(d: Draft) -> str:
    op = d.pick(
        "Greater", "Less", "GreaterOrEqual" if d.opset >= 12 else "Less", "LessOrEqual" if d.opset >= 12 else "Less"
    )
    condition = d.node(op, d.value, d.pick(d.constant(0.0), d.weights(1), d.other()))
    if d.random.random() < 0.3:
        second = d.node("Less", d.other(), d.weights(1))
        condition = d.node(d.pick("And", "Or", "Xor"), condition, second)
    if d.random.random() < 0.2:
        condition = d.node("Not", condition)
    a, b = d.pick(
        (d.value, d.other()), (d.other(), d.constant(0.5)), (d.constant(-1.0), d.value), (d.weights(1), d.weights(1))
    )
    return d.node("Where", condition, a, b)


@rule("Comparison")
def _comparison(d: Draft) -> str:
    return _cast(d, d.node(d.pick("Greater", "Less"), d.value, d.pick(d.constant(0.0), d.other())))


@rule("Integers")
def _integers(d: Draft) -> str:
    whole = d.node("Cast", d.node("Mul", d.value, d.constant(2.0)), to=d.pick(TensorProto.INT32, TensorProto.INT64))
    return _cast(d, whole)


@rule("Mod")
def _mod(d: Draft) -> str:
    return d.node("Mod", d.value, d.constant(d.pick(1.0, 0.7, 2.5, -1.5)), fmod=1)


@rule("Quantised")
def _quantised(d: Draft) -> str:
    need(d.dtype == np.float32)
    kind = d.pick(np.uint8, np.int8)
    scale, zero = d.constant(d.pick(0.05, 0.25, 1.0), np.float32), d.constant(d.pick(0, 3, 100), kind)
    return d.node("DequantizeLinear", d.node("QuantizeLinear", d.value, scale, zero), scale, zero)


@rule("LayerNormalization")
def _layer_norm(d: Draft) -> str:
    need(len(d.shape) > 0)
    n, epsilon = d.shape[-1], d.pick(1e-5, 1e-2)
    if d.opset >= 17:
        return d.node("LayerNormalization", d.value, d.weights(n), d.weights(n), epsilon=epsilon)
    need(d.opset < 18)
    centred = d.node("Sub", d.value, d.node("ReduceMean", d.value, axes=[-1]))
    square = d.node("ReduceMean", d.node("Mul", centred, centred), axes=[-1])
    return d.node("Div", centred, d.node("Sqrt", d.node("Add", square, d.constant(epsilon))))


@rule("InstanceNormalization")
def _instance(d: Draft) -> str:
    need(len(d.shape) in (3, 4))
    return d.node("InstanceNormalization", d.value, d.weights(d.shape[1]), d.weights(d.shape[1]), epsilon=1e-2)


@rule("Recurrent")
def _recurrent(d: Draft) -> str:
    need(len(d.shape) == 3 and d.shape[1] == 1)
    op, hidden = d.pick("LSTM", "GRU", "RNN"), d.pick(1, 2)
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[op]
    way = d.pick("forward", "reverse", "bidirectional")
    n = 2 if way == "bidirectional" else 1
    w, r = d.weights(n, gates * hidden, d.shape[2]), d.weights(n, gates * hidden, hidden)
    how = {"linear_before_reset": d.pick(0, 1)} if op == "GRU" else {}
    return d.node(op, d.value, w, r, d.weights(n, 2 * gates * hidden), hidden_size=hidden, direction=way, **how)


@rule("Sequence shape")
def _sequence(d: Draft) -> str:
    size = int(np.prod(d.shape))
    need(size % 2 == 0)
    return d.node("Reshape", d.value, d.ints(-1, 1, 2))


@rule("Depth to space")
def _depth(d: Draft) -> str:
    need(len(d.shape) == 4)
    return d.node(d.pick("DepthToSpace", "SpaceToDepth"), d.value, blocksize=2)


@rule("Scatter")
def _scatter(d: Draft) -> str:
    need(len(d.shape) >= 1)
    place = d.constant([[0] * len(d.shape)], np.int64)
    return d.node("ScatterND", d.value, place, d.weights(1))


@rule("Residual")
def _residual(d: Draft) -> str:
    need(len(d.shape) == 2)
    inner = d.node("Gemm", d.value, d.weights(d.shape[1], 3), d.weights(3))
    inner = d.node("Gemm", d.node("Relu", inner), d.weights(3, d.shape[1]))
    return d.node("Add", d.value, inner)


@rule("Dense relu")
def _dense_relu(d: Draft) -> str:
    flat = d.node("Reshape", d.value, d.ints(1, -1))
    size = int(np.prod(d.shape))
    out = d.node("Gemm", flat, d.weights(size, 4, gain=1.5 / size**0.5), d.weights(4, gain=0.3))
    return d.node(d.pick("Relu", "Relu", "LeakyRelu", "Sigmoid", "Sign"), out)
