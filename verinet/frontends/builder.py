"""Grows a graph node by node while an ONNX file is walked."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from verinet.frontends.tensors import Array
from verinet.ir.graph import InputOp, Node, Op, Shape, total
from verinet.ops.linear.arithmetic import Negate, Scale, Shift
from verinet.ops.shape.concat import Concat
from verinet.ops.shape.index import index_op
from verinet.ops.shape.reshape import Broadcast, Reshape


@dataclass(frozen=True, slots=True, eq=False)
class Constant:
    """A value known before any input is; `name` is the ONNX tensor it came from."""

    array: Array
    name: str = ""

    @property
    def shape(self) -> Shape:
        return tuple(self.array.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.array.dtype


@dataclass(frozen=True, slots=True)
class Variable:
    """The output of a graph node: depends on the network's input."""

    node: int
    shape: Shape
    dtype: np.dtype[Any]


Value = Constant | Variable


class GraphBuilder:
    """Nodes so far; node 0 is the flat input."""

    def __init__(self, input_size: int) -> None:
        self.nodes: list[Node] = [Node(InputOp(input_size), (), (input_size,), "input")]
        self.scope = "input"  # ONNX tensor that is being built; names of the nodes start with it

    def emit(self, op: Op, inputs: Sequence[Variable], shape: Shape, dtype: np.dtype[Any] | None = None) -> Variable:
        """Append a node that reads `inputs`. `dtype` is the ONNX type of its value, by default the first input's."""
        self.nodes.append(Node(op, tuple(v.node for v in inputs), tuple(int(n) for n in shape), self.scope))
        kind = inputs[0].dtype if dtype is None else dtype
        return Variable(len(self.nodes) - 1, self.nodes[-1].shape, kind)

    def reshape(self, x: Variable, shape: Shape) -> Variable:
        return x if tuple(shape) == x.shape else self.emit(Reshape(tuple(shape)), [x], shape)

    def broadcast(self, x: Variable, shape: Shape) -> Variable:
        """x repeated to `shape` by numpy's rules."""
        if total(shape) == total(x.shape):
            return self.reshape(x, shape)
        return self.emit(Broadcast(tuple(shape)), [x], shape)

    def index(self, x: Variable, index: Array) -> Variable:
        """Entries of x picked by flat positions; -1 gives 0."""
        count = total(x.shape)
        if index.size == count and np.array_equal(index.reshape(-1), np.arange(count)):
            return self.reshape(x, tuple(index.shape))
        own = np.array(index, dtype=np.int64, order="C")  # a copy: a reversed view of one entry counts as contiguous
        op = index_op(torch.from_numpy(own), count)
        return self.emit(op, [x], tuple(index.shape))

    def positions(self, x: Variable) -> Array:
        """Flat positions of the entries of x, in the shape of x: the material of `index`."""
        return np.arange(total(x.shape), dtype=np.int64).reshape(x.shape)

    def concat(self, parts: Sequence[Variable], axis: int) -> Variable:
        if len(parts) == 1:
            return parts[0]
        shape = list(parts[0].shape)
        shape[axis] = sum(part.shape[axis] for part in parts)
        return self.emit(Concat(axis), parts, tuple(shape))

    def shift(self, x: Variable, offset: Array) -> Variable:
        """x + offset, with broadcasting both ways."""
        if not np.any(offset):
            return self.broadcast(x, np.broadcast_shapes(x.shape, offset.shape))
        x = self.broadcast(x, np.broadcast_shapes(x.shape, offset.shape))
        return self.emit(Shift(parameter(offset)), [x], x.shape)

    def scale(self, x: Variable, factor: Array) -> Variable:
        """x * factor, with broadcasting both ways."""
        x = self.broadcast(x, np.broadcast_shapes(x.shape, factor.shape))
        if bool((factor == 1).all()):
            return x
        if bool((factor == -1).all()):
            return self.negate(x)
        return self.emit(Scale(parameter(factor)), [x], x.shape)

    def negate(self, x: Variable) -> Variable:
        return self.emit(Negate(), [x], x.shape)

    def constant(self, value: Array) -> Variable:
        """A node that does not depend on the input: zeros plus a shift."""
        everywhere = Variable(0, self.nodes[0].shape, np.dtype(np.float64))
        zeros = self.index(everywhere, np.full(value.shape, -1, dtype=np.int64))
        shifted = self.shift(zeros, value.astype(np.float64))
        return dataclasses.replace(shifted, dtype=value.dtype)

    def moved(self, identifiers: Array, sources: Sequence[Variable], constants: Array) -> Variable:
        """Any arrangement of entries of several variables and constants.

        `identifiers` numbers the entries of all sources in order, flat, and then those of `constants` (flat).
        """
        if not sources:
            return self.constant(constants.reshape(-1)[identifiers])
        first = sum(total(v.shape) for v in sources)
        joined = self.concat([self.reshape(v, (total(v.shape),)) for v in sources], 0)
        fixed = identifiers >= first
        result = self.index(joined, np.where(fixed, -1, identifiers))
        if not fixed.any():
            return result
        values = constants.reshape(-1)[np.where(fixed, identifiers - first, 0)]
        return self.shift(result, np.where(fixed, values, values.dtype.type(0)))

    def rename(self, start: int, name: str) -> None:
        """Name the nodes from `start` on after the ONNX tensor they make; only the last gets the bare name."""
        count = len(self.nodes) - start
        for step in range(count):
            label = name if step == count - 1 else f"{name}/{step + 1}"
            self.nodes[start + step] = dataclasses.replace(self.nodes[start + step], name=label)

    def rename_one(self, position: int, name: str) -> None:
        """Name one node."""
        self.nodes[position] = dataclasses.replace(self.nodes[position], name=name)


def parameter(array: Array) -> Tensor:
    """A tensor with its own memory; integers and booleans become float64, since graph values are real numbers."""
    if array.dtype.kind != "f":
        array = array.astype(np.float64)
    return torch.tensor(np.ascontiguousarray(array)).reshape(array.shape)  # numpy makes a scalar a vector of one
