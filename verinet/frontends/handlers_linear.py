"""Gemm, MatMul, convolutions, normalisation with fixed statistics, and sums over axes and windows."""

from __future__ import annotations

import numpy as np
import torch

from verinet.errors import ModelError
from verinet.frontends.builder import Variable, parameter
from verinet.frontends.call import Call, axis_of, handles
from verinet.frontends.geometry import conv_windows, pool_windows, transposed_windows
from verinet.frontends.tensors import Array
from verinet.ir.graph import Shape
from verinet.ops.linear.conv import Convolution, TransposedConvolution
from verinet.ops.linear.dense import Dense, MatMulConst
from verinet.ops.linear.reduce import Sum, WindowSum, window_counts


@handles("Gemm")
def gemm(call: Call) -> Variable:
    if not call.is_constant(1):
        return _gemm_left(call)
    x = call.variable(0)
    weight = call.finite(1, "weight")
    if call.attribute("transA", 0):
        x = _transposed(call, x)
    weight = weight.T if call.attribute("transB", 0) else weight
    weight = _times(weight, call.attribute("alpha", 1.0))
    shape = _matmul_shape(call, x.shape, tuple(weight.shape))
    if call.is_constant(2):
        offset = _times(call.finite(2, "offset"), call.attribute("beta", 1.0))
        offset = offset.reshape(-1) if offset.size == shape[1] and shape[0] == 1 else offset
        return call.builder.emit(Dense(parameter(weight), parameter(offset)), [x], shape)
    product = call.builder.emit(Dense(parameter(weight)), [x], shape)
    return _plus_variable(call, product)


def _gemm_left(call: Call) -> Variable:
    """alpha A' B' + beta C with a constant A and a variable B."""
    if not call.is_constant(0):
        return _gemm_two(call)
    matrix = call.finite(0, "left factor")
    matrix = matrix.T if call.attribute("transA", 0) else matrix
    right = call.variable(1)
    if call.attribute("transB", 0):
        right = _transposed(call, right)
    op = MatMulConst(parameter(_times(matrix, call.attribute("alpha", 1.0))), left=True)
    product = call.builder.emit(op, [right], _matmul_shape(call, tuple(matrix.shape), right.shape))
    return _plus_variable(call, product)


def _gemm_two(call: Call) -> Variable:
    """alpha A' B' + beta C with variables A and B."""
    from verinet.frontends.handlers_attention import matmul_two

    left, right = call.variable(0), call.variable(1)
    left = _transposed(call, left) if call.attribute("transA", 0) else left
    right = _transposed(call, right) if call.attribute("transB", 0) else right
    scaled = call.builder.scale(matmul_two(call, left, right), np.asarray(call.attribute("alpha", 1.0)))
    return _plus_variable(call, scaled)


def _plus_variable(call: Call, product: Variable) -> Variable:
    from verinet.frontends.handlers_arithmetic import add

    beta = call.attribute("beta", 1.0)
    if call.given(2) is None or beta == 0:
        return product
    if call.is_constant(2):
        return call.builder.shift(product, _times(call.finite(2, "offset"), beta))
    return add(call, product, call.builder.scale(call.variable(2), np.asarray(beta)))


def _times(array: Array, factor: float) -> Array:
    # Exact for float32 weights: the product of two 24-bit numbers fits into float64.
    return array if factor == 1.0 else array.astype(np.float64) * factor


def _transposed(call: Call, x: Variable) -> Variable:
    return call.builder.index(x, call.builder.positions(x).T)


@handles("MatMul")
def matmul(call: Call) -> Variable:
    if call.is_constant(1):
        return _times_right(call, call.variable(0), call.finite(1, "right factor"))
    if call.is_constant(0):
        return _times_left(call, call.finite(0, "left factor"), call.variable(1))
    from verinet.frontends.handlers_attention import matmul_two

    return matmul_two(call, call.variable(0), call.variable(1))


def _times_right(call: Call, x: Variable, matrix: Array) -> Variable:
    if matrix.ndim <= 2:
        columns = matrix.reshape(-1, 1) if matrix.ndim == 1 else matrix
        shape = (*_matmul_shape(call, (1, *x.shape), tuple(columns.shape))[1:-1], columns.shape[1])
        result = call.builder.emit(Dense(parameter(columns)), [x], shape)
        return call.builder.reshape(result, x.shape[:-1]) if matrix.ndim == 1 else result
    wide = call.builder.reshape(x, (1, *x.shape)) if len(x.shape) == 1 else x
    shape = _matmul_shape(call, wide.shape, tuple(matrix.shape))
    result = call.builder.emit(MatMulConst(parameter(matrix)), [wide], shape)
    return call.builder.reshape(result, (*shape[:-2], shape[-1])) if len(x.shape) == 1 else result


def _times_left(call: Call, matrix: Array, x: Variable) -> Variable:
    if len(x.shape) == 1 and matrix.ndim <= 2:
        return _times_right(call, x, matrix.T)
    tall = call.builder.reshape(x, (*x.shape, 1)) if len(x.shape) == 1 else x
    rows = matrix.reshape(1, -1) if matrix.ndim == 1 else matrix
    shape = _matmul_shape(call, tuple(rows.shape), tall.shape)
    result = call.builder.emit(MatMulConst(parameter(rows), left=True), [tall], shape)
    kept = shape[:-2] + (() if matrix.ndim == 1 else shape[-2:-1]) + (() if len(x.shape) == 1 else shape[-1:])
    return call.builder.reshape(result, kept)


def _matmul_shape(call: Call, left: Shape, right: Shape) -> Shape:
    if left[-1] != right[-2]:
        raise ModelError(f"cannot multiply {left} by {right}", where=call.where)
    return (*np.broadcast_shapes(left[:-2], right[:-2]), left[-2], right[-1])


@handles("Conv")
def convolution(call: Call) -> Variable:
    x, weight = call.variable(0), call.finite(1, "weight")
    offset = call.finite(2, "offset") if call.given(2) is not None else None
    groups = int(call.attribute("group", 1))
    if weight.shape[1] * groups != x.shape[1]:
        raise ModelError(f"a Conv weight of shape {weight.shape} does not fit an input {x.shape}", where=call.where)
    windows = conv_windows(call, tuple(weight.shape[2:]), x.shape[2:])
    op = Convolution(parameter(weight), windows, groups, None if offset is None else parameter(offset))
    return call.builder.emit(op, [x], (x.shape[0], weight.shape[0], *windows.out))


@handles("ConvTranspose")
def transposed_convolution(call: Call) -> Variable:
    x, weight = call.variable(0), call.finite(1, "weight")
    offset = call.finite(2, "offset") if call.given(2) is not None else None
    groups = int(call.attribute("group", 1))
    if weight.shape[0] != x.shape[1]:
        raise ModelError(f"a weight of shape {weight.shape} does not fit an input {x.shape}", where=call.where)
    windows, spatial = transposed_windows(call, tuple(weight.shape[2:]), x.shape[2:])
    bias = None if offset is None else parameter(offset)
    op = TransposedConvolution(parameter(weight), windows, spatial, groups, bias)
    return call.builder.emit(op, [x], (x.shape[0], weight.shape[1] * groups, *spatial))


@handles("BatchNormalization")
def batch_normalization(call: Call) -> Variable:
    """(x - mean) * (gamma / sqrt(var + eps)) + beta, kept as three operators: folding them would cancel."""
    if call.attribute("training_mode", 0):
        raise call.unsupported("in training mode")
    x = call.variable(0)
    names = ("scale", "offset", "mean", "variance")
    gamma, beta, mean, variance = (call.finite(i + 1, what).astype(np.float64) for i, what in enumerate(names))
    spread = variance + float(call.attribute("epsilon", 1e-5))
    if len(x.shape) > 1 and gamma.size != x.shape[1]:
        raise ModelError(f"{gamma.size} scales do not fit an input {x.shape}", where=call.where)
    if bool((spread <= 0).any()):
        raise ModelError("a BatchNormalization has a variance that is not positive", where=call.where)
    column = (-1, *(1,) * max(len(x.shape) - 2, 0))
    centred = call.builder.shift(x, -mean.reshape(column))
    scaled = call.builder.scale(centred, (gamma / np.sqrt(spread)).reshape(column))
    return call.builder.shift(scaled, beta.reshape(column))


def reduction_axes(call: Call, rank: int) -> tuple[int, ...]:
    """Axes of a Reduce* operator, sorted; all of them if none are given (unless the node says to do nothing)."""
    axes = call.integers("axes", 1)
    if not axes:
        return () if call.attribute("noop_with_empty_axes", 0) else tuple(range(rank))
    return tuple(sorted({axis_of(axis, rank, call) for axis in axes}))


def reduced(shape: Shape, axes: tuple[int, ...], keepdims: bool) -> Shape:
    """Shape after a reduction."""
    if keepdims:
        return tuple(1 if axis in axes else extent for axis, extent in enumerate(shape))
    return tuple(extent for axis, extent in enumerate(shape) if axis not in axes)


def sum_over(call: Call, x: Variable, axes: tuple[int, ...], keepdims: bool) -> Variable:
    """Sum of x over `axes`."""
    shape = reduced(x.shape, axes, keepdims)
    if all(x.shape[axis] == 1 for axis in axes):
        return call.builder.reshape(x, shape)
    return call.builder.emit(Sum(axes, keepdims), [x], shape)


@handles("ReduceSum")
def reduce_sum(call: Call) -> Variable:
    x = call.variable(0)
    return sum_over(call, x, reduction_axes(call, len(x.shape)), bool(call.attribute("keepdims", 1)))


@handles("ReduceMean")
def reduce_mean(call: Call) -> Variable:
    """The mean; of integers ONNX Runtime cuts off its fraction."""
    x = call.variable(0)
    axes, keepdims = reduction_axes(call, len(x.shape)), bool(call.attribute("keepdims", 1))
    if x.dtype.kind == "f":
        return mean_over(call, x, axes, keepdims)
    from verinet.frontends.handlers_logic import integer_quotient

    count = int(np.prod([x.shape[axis] for axis in axes], dtype=np.int64))
    return integer_quotient(call, sum_over(call, x, axes, keepdims), max(count, 1))


@handles("GlobalAveragePool")
def global_average_pool(call: Call) -> Variable:
    x = call.variable(0)
    return mean_over(call, x, tuple(range(2, len(x.shape))), True)


def mean_over(call: Call, x: Variable, axes: tuple[int, ...], keepdims: bool) -> Variable:
    """Mean of x over `axes`: a sum, then the factor 1/n rounded to float64."""
    count = int(np.prod([x.shape[axis] for axis in axes], dtype=np.int64))
    return call.builder.scale(sum_over(call, x, axes, keepdims), np.asarray(1.0 / max(count, 1)))


@handles("AveragePool")
def average_pool(call: Call) -> Variable:
    x = call.variable(0)
    windows, padded = pool_windows(call, x.shape[2:])
    summed = call.builder.emit(WindowSum(windows), [x], (*x.shape[:2], *windows.out))
    spatial = tuple(x.shape[2:])
    if call.attribute("count_include_pad", 0):
        # Padding that is written in the node counts; what ceil_mode looks at beyond it does not.
        counts = window_counts(
            padded, tuple(n + b + e for n, b, e in zip(spatial, windows.begin, windows.end, strict=True))
        )
    else:
        counts = window_counts(windows, spatial)
    return call.builder.scale(summed, torch.reciprocal(counts).numpy())
